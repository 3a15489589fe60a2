"""How good predictions are: accuracy and top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ignition.errors import ArgumentError

__all__ = ["accuracy", "check_tensors", "topk_accuracy"]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of right predictions.

    Which kind it is shows in the shapes:

    - multi-class: outputs ``(batch, classes, ...)``, targets ``(batch, ...)`` of class numbers; the class with
      the largest output is the prediction.
    - binary: outputs ``(batch,)`` or ``(batch, 1)`` of logits, targets ``(batch,)`` or ``(batch, 1)`` of 0 and 1;
      a logit above 0 predicts 1. So do outputs ``(batch, 1, ...)`` with targets ``(batch, ...)``.
    - multi-label: outputs ``(batch, labels, ...)`` of logits, targets of the same shape of 0 and 1; a sample is
      right where all of its labels are (exact match, as scikit-learn's ``accuracy_score`` has it).

    In the binary and multi-label kinds outputs that are integers or booleans are taken as predictions themselves; for
    probabilities pass ``probabilities > 0.5``.

    Args:
        outputs: Logits or predictions, see above.
        targets: Integers or booleans.

    Returns:
        A 0-d float tensor from 0 to 1; NaN for an empty batch.

    Raises:
        ArgumentError: If one is no tensor, targets are floating-point, the shapes fit none of the kinds, or outputs of
            several classes are booleans.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor(0.5000)
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        check_tensors("accuracy", outputs, targets)
    if targets.is_floating_point() or targets.is_complex():
        raise ArgumentError(
            f"accuracy was given targets of {targets.dtype}",
            expected="class numbers or 0 and 1, as integers or booleans",
            fix="pass targets.long() if they are class numbers, or where the loss needs floats, as BCEWithLogitsLoss "
            'does, metrics={"acc": lambda outputs, y: accuracy(outputs, y.long())}; for a regression ask for "mse" or '
            '"mae", not "acc"',
        )
    shape, wanted = outputs.shape, targets.shape
    usual = len(shape) == 2 and len(wanted) == 1 and shape[0] == wanted[0]  # quicker than what holds for all shapes
    if usual or (len(shape) == len(wanted) + 1 and shape[:1] + shape[2:] == wanted):
        if shape[1] == 1:
            predictions = _predictions(outputs.squeeze(1))
        elif outputs.dtype is torch.bool:
            raise ArgumentError(
                f"accuracy was given outputs {tuple(shape)} of torch.bool and targets {tuple(wanted)}",
                expected="a number for each class, of which the largest is the prediction",
                fix="pass the logits; or, for several labels a sample, targets of the shape of the outputs",
            )
        else:
            predictions = outputs.argmax(dim=1)
        return (predictions == targets).float().mean()
    if shape and wanted == (*shape, 1):
        targets = targets.squeeze(-1)
    if shape and shape == targets.shape:
        right = _predictions(outputs) == targets
        return right.flatten(1).all(dim=1).float().mean() if right.ndim > 1 else right.float().mean()
    raise ArgumentError(
        f"accuracy was given outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}",
        expected="outputs (batch, classes, ...) with targets (batch, ...), or both of one shape",
        fix="squeeze the axis that is too much, or see whether outputs and targets are of the same batch",
    )


def _predictions(outputs: Tensor) -> Tensor:
    return outputs > 0 if outputs.is_floating_point() else outputs


def topk_accuracy(outputs: Tensor, targets: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """The share of samples whose class is among the k largest outputs, for each k.

    Args:
        outputs: Scores ``(batch, classes)``.
        targets: Class numbers ``(batch,)``.
        ks: The k's, each from 1 to the number of classes.

    Returns:
        ``{"top1": ..., "top5": ...}``: 0-d float tensors from 0 to 1, ready to be returned as metrics; NaN for an empty
        batch.

    Raises:
        ArgumentError: If one is no tensor, a shape does not fit, targets are floating-point, or a k is out of range.

    Example:
        >>> import torch
        >>> topk_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]), ks=(1, 2))
        {'top1': tensor(0.), 'top2': tensor(1.)}
    """
    check_tensors("topk_accuracy", outputs, targets)
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1] or targets.is_floating_point():
        raise ArgumentError(
            f"topk_accuracy was given outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} "
            f"of {targets.dtype}",
            expected="outputs (batch, classes) and targets (batch,) of class numbers",
            fix="make class numbers of one-hot targets with targets.argmax(dim=1)",
        )
    classes = outputs.shape[1]
    fits = isinstance(ks, Sequence) and len(ks) > 0
    if not fits or any(isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes for k in ks):
        raise ArgumentError(
            f"topk_accuracy was given ks={ks!r} with {classes} classes",
            expected=f"a tuple or list of numbers from 1 to {classes}, at least one",
            fix="for example ks=(1,); the defaults 1 and 5 need 5 classes or more",
        )
    right = outputs.topk(max(ks), dim=1).indices == targets.unsqueeze(1)
    return {f"top{k}": right[:, :k].any(dim=1).float().mean() for k in ks}


def check_tensors(function: str, outputs: Any, targets: Any) -> None:
    """Raises ArgumentError unless both are tensors."""
    for name, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"{function} was given {name} that are {type(value).__name__}",
                expected="a tensor",
                fix="make one with torch.as_tensor, or take the tensor out of what the model or the loader gives",
            )
