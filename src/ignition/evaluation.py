"""Evaluating and predicting without a Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ignition import distributed, loop
from ignition.arguments import check_batch_axis, check_count, check_hyper, check_loader, check_model
from ignition.data import rekeyed
from ignition.device import as_device, device_of
from ignition.errors import ProcessError
from ignition.parting import check_alike, raised_alike, together
from ignition.progress import Progress
from ignition.reading import extent_of
from ignition.said import weights_of
from ignition.signature import Signature
from ignition.types import EvalFn, PredictFn

__all__ = ["evaluate", "predict"]

_EVALUATE = "evaluate(model, eval_fn, loader)"
_PREDICT = "predict(model, pred_fn, loader)"


def evaluate(
    model: Any,
    eval_fn: EvalFn,
    loader: Iterable[Any],
    *,
    batch_axis: int = 0,
    max_steps: int | None = None,
    hyper: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """The weighted means of what an eval function returns over a loader.

    Gradients are off (``torch.enable_grad()`` inside the function works), the model is in evaluation mode, and
    each submodule gets its mode back afterwards.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them.
        eval_fn: ``eval_fn(model, *batch)``, returning metrics as a train function does.
        loader: Any iterable of batches. A tuple or list is unpacked, anything else passed whole.
        batch_axis: The axis of a batch's first tensor along which its samples lie: its size is the batch's weight.
        max_steps: Stop after that many batches, 1 or more; None for all.
        hyper: Hyperparameters; the function receives those that it names, all of them where it has ``**kwargs``.
        device: Where the batches are moved; by default to where the model is.
        progress: Whether to show a bar, in a terminal or a notebook.

    Returns:
        The weighted mean of each metric, over those batches that returned it.

    Raises:
        ArgumentError: If an argument has the wrong type, value or place.
        BatchError: If the loader gives no batch, or a batch has not the batch axis.
        FunctionError: If the function cannot take a batch of this loader.
        HyperparameterError: If a hyperparameter that the function receives has a name that is taken, or that of a
            parameter that the batch fills.
        MetricError: If the function returns what is no metric.
        ProcessError: If other processes do something else, have other weights or data, have failed, or are gone.

    Example:
        >>> def eval_fn(model, x):
        ...     return {"sum": model(x).sum()}
        >>> evaluate(torch.nn.Identity(), eval_fn, [torch.ones(2), torch.ones(4)], progress=False)
        {'sum': 3.3333333333333335}
    """
    check_model(model, f"check the order: {_EVALUATE}")
    signature = Signature(eval_fn, "eval_fn", _EVALUATE)
    check_loader(loader, "loader", f"check the order: {_EVALUATE}")
    check_batch_axis(batch_axis)
    check_count(max_steps, "max_steps")
    hyper = {} if hyper is None else hyper
    check_hyper(hyper, "hyper")
    signature.check_hyper(signature.select(hyper))
    distributed.start()
    with together(raised_alike):
        check_alike("evaluate", max_steps=max_steps, **extent_of(loader, batch_axis))
        _check_weights(model)
        return loop.evaluate(
            model,
            signature,
            _as_it_is_read(loader, "eval"),
            batch_axis=batch_axis,
            device=device_of(model) if device is None else as_device(device),
            hyper=hyper,
            progress=Progress(progress and distributed.is_main()),
            max_steps=max_steps,
        )


def predict(
    model: Any,
    pred_fn: PredictFn,
    loader: Iterable[Any],
    *,
    batch_axis: int = 0,
    max_steps: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Any:
    """What a model predicts for the data of a loader, in the order in which the loader gives them.

    So pass a loader that does not shuffle.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them. It is in evaluation mode meanwhile.
        pred_fn: ``pred_fn(model, *items)``: receives as many of a batch's items as it has positional parameters without
            a default (all for ``*items``), so that `predict_on_batch` takes a loader with labels. It returns a tensor
            ``(batch, ...)``, or any nesting of such tensors in tuples, lists and dicts. It may change an earlier
            output, or write into its memory, if it does so within its first 16 batches.
        loader: Any iterable of batches.
        batch_axis: The axis along which the outputs are joined.
        max_steps: Stop after that many batches, 1 or more; None for all.
        device: Where the batches are moved; by default to where the model is.
        progress: Whether to show a bar, in a terminal or a notebook.

    Returns:
        The outputs for all samples, nested as the function returned them: detached tensors ``(samples, ...)`` on the
        CPU, where `batch_axis` is 0.

    Raises:
        ArgumentError: If an argument has the wrong type, value or place.
        BatchError: If the loader gives no batch, a batch has not the batch axis, many processes read a
            stream, or the loader is a DataLoader with ``in_order=False`` and workers.
        FunctionError: If the function cannot take a batch of this loader, or returns what cannot be joined.
        ProcessError: If other processes do something else, have other weights or data, have failed, or are gone.

    Example:
        >>> from ignition import predict_on_batch
        >>> predict(torch.nn.Identity(), predict_on_batch, [torch.zeros(2, 1), torch.ones(1, 1)]).shape
        torch.Size([3, 1])
    """
    check_model(model, f"check the order: {_PREDICT}")
    signature = Signature(pred_fn, "pred_fn", _PREDICT)
    check_loader(loader, "loader", f"check the order: {_PREDICT}")
    check_batch_axis(batch_axis)
    check_count(max_steps, "max_steps")
    distributed.start()
    with together(raised_alike):
        check_alike("predict", max_steps=max_steps, **extent_of(loader, batch_axis))
        _check_weights(model)
        return loop.predict(
            model,
            signature,
            _as_it_is_read(loader, "predict"),
            batch_axis=batch_axis,
            device=device_of(model) if device is None else as_device(device),
            progress=Progress(progress and distributed.is_main()),
            max_steps=max_steps,
        )


def _check_weights(model: Any) -> None:
    """Raises ProcessError if the model differs between processes, each of which sees its part of the data alone."""
    if distributed.world_size() == 1:
        return
    every = distributed.gather_texts(json.dumps(weights_of(model)))
    other = next((number for number, text in enumerate(every) if text != every[0]), None)
    if other is not None:
        raise ProcessError(
            f"the model has other weights in process {other} than in process 0",
            expected="one model, of which each process measures its part of the data",
            fix="call seed_everything(0) before the model is made, or load the same weights in every process; a "
            "Trainer's evaluate gives all of them those of the first one",
        )


def _as_it_is_read(loader: Any, purpose: str) -> Any:
    """The loader itself; of several processes each takes its part of one order, so it is drawn from one seed."""
    if distributed.world_size() == 1:
        return loader
    return rekeyed(loader, int(distributed.text_of_main(str(torch.initial_seed() % 2**63))), purpose)
