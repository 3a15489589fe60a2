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

_METRICS: dict[str, MetricFn | None] = {  # those that leave no graph behind; None stands for the loss
    "loss": None,
    "acc": accuracy,
    "top5": lambda outputs, targets: topk_accuracy(outputs, targets, ks=(5,))["top5"],
    "mse": lambda outputs, targets: _same_shape(functional.mse_loss, outputs, targets),
    "mae": lambda outputs, targets: _same_shape(functional.l1_loss, outputs, targets),
}


def crossentropy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy between logits and targets (`torch.nn.functional.cross_entropy`).

    Args:
        outputs: Logits ``(batch, classes, ...)``.
        targets: Class numbers ``(batch, ...)``, of which -100 stands for "leave this one out" (torch's `ignore_index`);
            or class probabilities of the shape of `outputs`.

    Returns:
        A 0-d tensor, in nats; NaN where nothing is left, as for an empty batch.

    Raises:
        RuntimeError, ValueError, IndexError: torch's own, where shapes or types do not fit or a class is out of range.

    Example:
        >>> crossentropy_loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
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
        metrics: Names among "loss", "acc" (`accuracy`), "top5" (`topk_accuracy`), "mse", "mae"; or a mapping from
            names to ``function(outputs, y)``, besides which the loss is returned too, unless one of them is "loss".

    Returns:
        The metrics by name, of the outputs before the step: 0-d tensors without a graph, and what the functions of a
        mapping return, which run without gradients.

    Raises:
        ArgumentError: If `loss_fn` is no function, a metric is unknown or has no function, or outputs and targets do
            not fit it (floating-point targets for "acc", fewer than 5 classes for "top5", two shapes for "mse" and
            "mae"); as `optimize` does. The parameters are as they were then.
        OptimizerError: As `optimize` does.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> sorted(fit_on_batch(layer, torch.ones(4, 2), torch.zeros(4).long(), crossentropy_loss, optimizer))
        ['acc', 'loss']
    """
    measures, own = _measures(loss_fn, metrics)
    outputs = model(x)
    loss = loss_fn(outputs, y)
    # Measured first: the step may change in place what the outputs share memory with.
    measured = _measure(measures, own, loss, outputs, y)
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
        The metrics by name, as from `fit_on_batch`.

    Raises:
        ArgumentError: As `fit_on_batch` does, apart from what `optimize` raises.

    Example:
        >>> evaluate_on_batch(nn.Identity(), torch.eye(3), torch.tensor([0, 1, 0]), metrics=["acc"])
        {'acc': tensor(0.6667)}
    """
    measures, own = _measures(loss_fn, metrics)
    outputs = model(x)
    return _measure(measures, own, loss_fn(outputs, y), outputs, y)


def predict_on_batch(model: nn.Module, x: Any) -> Any:
    """The model's outputs for one batch: a predict function for `predict`.

    Args:
        model: Called as ``model(x)``.
        x: Inputs ``(batch, ...)``.

    Returns:
        What the model returns: outputs ``(batch, ...)``, or a nesting of them.

    Example:
        >>> predict_on_batch(nn.Linear(2, 3), torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
    return model(x)


def _measures(
    loss_fn: Any, metrics: Iterable[str] | Mapping[str, MetricFn]
) -> tuple[Mapping[str, MetricFn | None], bool]:
    """The function of each metric by name, None for the loss; and whether they are functions of the user's own."""
    if isinstance(loss_fn, type) or not callable(loss_fn):
        is_class = isinstance(loss_fn, type)
        raise ArgumentError(
            f"loss_fn is {f'the class {loss_fn.__name__}' if is_class else type(loss_fn).__name__}",
            expected="a function loss_fn(outputs, targets)",
            fix=f"make an object of it: {loss_fn.__name__}()"
            if is_class
            else "see whether the arguments are in their places; crossentropy_loss is one for classifiers",
        )
    if not isinstance(metrics, (tuple, list)):  # these first: to ask for a Mapping takes longer
        if isinstance(metrics, Mapping):
            return _own_measures(metrics), True
        if not isinstance(metrics, Iterable):
            raise ArgumentError(
                f"metrics is {metrics!r:.60}",
                expected='names such as ["loss", "acc"], or a mapping',
                fix='leave it out for "loss" and "acc", or pass ["loss"]',
            )
        metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    try:
        return {name: _METRICS[name] for name in metrics}, False
    except KeyError as error:
        raise ArgumentError(
            f"metrics has the unknown name {error.args[0]!r}",
            expected=f"names among {', '.join(_METRICS)}",
            fix="pass a mapping from a name to a function(outputs, targets) for a metric of your own",
        ) from None


def _own_measures(metrics: Mapping[str, MetricFn]) -> dict[str, MetricFn | None]:
    wrong = [name for name, function in metrics.items() if not callable(function)]
    if wrong:
        raise ArgumentError(
            f"metrics has no function for {wrong}",
            expected="{name: function(outputs, targets)}",
            fix="pass the function itself, such as {'acc': accuracy}; names alone go into a list",
        )
    return {"loss": None, **metrics}


def _measure(measures: Mapping[str, MetricFn | None], own: bool, loss: Any, outputs: Any, y: Any) -> dict[str, Any]:
    if isinstance(loss, Tensor):
        loss = loss.detach()
        if loss.ndim and loss.numel() == 1:
            loss = loss.reshape(())
    if own:
        with torch.no_grad():
            return {name: loss if function is None else function(outputs, y) for name, function in measures.items()}
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
    return function(outputs.detach(), targets.detach())
