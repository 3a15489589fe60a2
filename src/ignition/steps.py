"""Ready-made functions for one batch of a plain model: train, evaluate, predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from ignition.errors import ArgumentError
from ignition.metrics import accuracy, check_tensors, topk_accuracy
from ignition.optimize import update

__all__ = ["crossentropy_loss", "evaluate_on_batch", "fit_on_batch", "predict_on_batch"]

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
MetricFn: TypeAlias = Callable[[Any, Any], Any]

_METRICS: dict[str, MetricFn] = {
    "acc": accuracy,
    "top5": lambda outputs, targets: topk_accuracy(outputs, targets, ks=(5,))["top5"],
    "mse": lambda outputs, targets: _same_shape(functional.mse_loss, outputs, targets),
    "mae": lambda outputs, targets: _same_shape(functional.l1_loss, outputs, targets),
}


def crossentropy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy between logits and targets (`torch.nn.functional.cross_entropy`).

    Args:
        outputs: Logits ``(batch, classes, ...)``.
        targets: Class numbers ``(batch, ...)``, or class probabilities of the shape of `outputs`.

    Returns:
        A 0-d tensor, in nats.
    """
    return functional.cross_entropy(outputs, targets)


def fit_on_batch(
    model: nn.Module,
    x: Any,
    y: Any,
    loss_fn: LossFn,
    optimizer: Optimizer,
    metrics: Iterable[str] | Mapping[str, MetricFn] = ("loss", "acc"),
) -> dict[str, Any]:
    """Trains a model on one batch: forward, loss, `optimize`.

    Args:
        model: Called as ``model(x)``.
        x: Inputs ``(batch, ...)``.
        y: Targets, as `loss_fn` takes them.
        loss_fn: ``loss_fn(outputs, y)``, a scalar: the mean over the batch.
        optimizer: The optimizer of the model's parameters.
        metrics: Names among "loss", "acc", "top5", "mse", "mae"; or a mapping from names to
            ``function(outputs, y)``, besides which the loss is returned too.

    Returns:
        The metrics by name, as 0-d tensors without a graph, of the outputs before the step.

    Raises:
        ArgumentError: For an unknown metric; for "acc" with floating-point targets; as `optimize` does. The
            parameters are as they were then.
    """
    measures = _measures(loss_fn, metrics)
    outputs = model(x)
    loss = loss_fn(outputs, y)
    # Measured first: the step may change in place what the outputs share memory with.
    measured = _measure(measures, loss, outputs, y)
    update(loss, optimizer)
    return measured


def evaluate_on_batch(
    model: nn.Module,
    x: Any,
    y: Any,
    loss_fn: LossFn = crossentropy_loss,
    metrics: Iterable[str] | Mapping[str, MetricFn] = ("loss", "acc"),
) -> dict[str, Any]:
    """Measures a model on one batch. Gradients are off while `evaluate` or a Trainer calls it.

    Args:
        model: Called as ``model(x)``.
        x: Inputs ``(batch, ...)``.
        y: Targets, as `loss_fn` takes them.
        loss_fn: ``loss_fn(outputs, y)``, a scalar: the mean over the batch.
        metrics: As in `fit_on_batch`.

    Returns:
        The metrics by name, as 0-d tensors without a graph.

    Raises:
        ArgumentError: For an unknown metric; for "acc" with floating-point targets.
    """
    measures = _measures(loss_fn, metrics)
    outputs = model(x)
    return _measure(measures, loss_fn(outputs, y), outputs, y)


def predict_on_batch(model: nn.Module, x: Any) -> Any:
    """The model's outputs for one batch of inputs ``(batch, ...)``: ``model(x)``."""
    return model(x)


def _measures(loss_fn: Any, metrics: Iterable[str] | Mapping[str, MetricFn]) -> Mapping[str, MetricFn | None]:
    """The function of each metric by name; None stands for the loss."""
    if not callable(loss_fn):
        raise ArgumentError(
            f"loss_fn is {type(loss_fn).__name__}",
            expected="a function loss_fn(outputs, targets)",
            fix="see whether the arguments are in their places; crossentropy_loss is one for classifiers",
        )
    if isinstance(metrics, Mapping):
        wrong = [name for name, function in metrics.items() if not callable(function)]
        if wrong:
            raise ArgumentError(
                f"metrics has no function for {wrong}",
                expected="{name: function(outputs, targets)}",
                fix="pass the function itself, such as {'acc': accuracy}; names alone go into a list",
            )
        return {"loss": None, **metrics}
    if not isinstance(metrics, Iterable):
        raise ArgumentError(
            f"metrics is {metrics!r:.60}",
            expected='names such as ["loss", "acc"], or a mapping',
            fix='leave it out for "loss" and "acc", or pass ["loss"]',
        )
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in names if name != "loss" and name not in _METRICS]
    if unknown:
        raise ArgumentError(
            f"metrics has the unknown name {unknown[0]!r}",
            expected=f"names among {', '.join(['loss', *_METRICS])}",
            fix="pass a mapping from a name to a function(outputs, targets) for a metric of your own",
        )
    return {name: _METRICS.get(name) for name in names}


def _measure(measures: Mapping[str, MetricFn | None], loss: Any, outputs: Any, y: Any) -> dict[str, Any]:
    if isinstance(loss, Tensor):
        loss = loss.detach().reshape(()) if loss.numel() == 1 else loss.detach()
    with torch.no_grad():
        return {name: loss if function is None else function(outputs, y) for name, function in measures.items()}


def _same_shape(function: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    check_tensors('the metric "mse" or "mae"', outputs, targets)
    if outputs.shape != targets.shape:
        # Broadcast, (batch, 1) against (batch,) would compare every output with every target.
        raise ArgumentError(
            f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}",
            expected='one shape for both, for the metrics "mse" and "mae"',
            fix="squeeze or unsqueeze one of them",
        )
    return function(outputs, targets)
