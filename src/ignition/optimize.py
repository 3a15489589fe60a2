"""One update of a model, in one line that stays the same whatever the run adds to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ignition.errors import ArgumentError
from ignition.gradients import total_norm, trained_parameters
from ignition.running import running
from ignition.weighing import check_weight

__all__ = ["optimize", "update"]


def optimize(
    loss: Tensor, optimizer: Optimizer, *, weight: float | Tensor | None = None, retain_graph: bool = False
) -> Tensor | None:
    """Clears the gradients, runs backward, and takes a step.

    Outside a Trainer these are the three plain calls. Inside one they know of its settings:

    - `loss` gives gradients to the parameters of `optimizer` only, so that two optimizers in one function do not
      touch each other's gradients.
    - ``accumulate``: the gradients of a window's batches are gathered, and the step uses their weighted mean. It is
      the gradient of the mean over all samples of the window, whatever the sizes of its batches.
    - many processes: the step uses the weighted mean over the batches of all of them.
    - ``precision="fp16"``: the loss is scaled, the gradients are unscaled, and a step that would overflow is left out
      (Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740; `torch.amp.GradScaler`).
    - ``clip_norm``: the gradient is clipped, once a step, to that Euclidean norm (Pascanu et al. 2013, "On the
      difficulty of training recurrent neural networks", arXiv:1211.5063).

    Args:
        loss: A tensor with one element, with a graph: the mean over a batch.
        optimizer: A torch optimizer.
        weight: How many samples (or tokens, ...) `loss` is the mean of: what the batch counts in its window. By
            default the size of the batch. Without accumulation, in one process, it changes nothing. One on an
            accelerator is not waited for, and so not checked.
        retain_graph: Keep the graph for another backward pass through it.

    Returns:
        The norm of the gradient over all parameters of the optimizer, before clipping: a 0-d tensor, not finite for a
        step that is left out for its overflow. None where the step is still to come: for the batches of a window
        before its last, and for the last one of an epoch whose loader does not say beforehand that it is.

    Raises:
        ArgumentError: If `loss` is no tensor, has no graph or more than one element, `optimizer` is no torch optimizer
            or is LBFGS (whose step needs a closure), no parameter of it is trained, or `weight` is negative, not finite
            or no scalar.
        OptimizerError: In a window of several batches, if it is called twice for one optimizer and batch, or for two
            optimizers of the same parameters. If the Trainer does not have the optimizer, and something depends on it.
            If, with many processes, the loss goes around the model that the function received, or first gradients
            differ.
        ProcessError: If the processes do not take the same steps.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> norm = optimize(layer(torch.ones(4, 2)).mean(), torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> norm.shape
        torch.Size([])
    """
    return update(loss, optimizer, weight=weight, retain_graph=retain_graph, with_norm=True)


def update(
    loss: Tensor,
    optimizer: Optimizer,
    *,
    weight: float | Tensor | None = None,
    retain_graph: bool = False,
    with_norm: bool = False,
) -> Tensor | None:
    """`optimize`, where the norm, which costs a pass over the gradients, may be left out."""
    _check(loss, optimizer)
    if weight is not None:
        weight = check_weight(weight)
    parameters = trained_parameters(optimizer)
    if not parameters:
        raise ArgumentError(
            f"none of the parameters of {type(optimizer).__name__} requires a gradient",
            expected="at least one parameter to train",
            fix="unfreeze a part of the model, or give the optimizer the parameters that are to be trained",
        )
    run, inputs = running.get(), None
    if run is not None and run.training:
        if run.window is not None:
            return run.window.update(loss, optimizer, parameters, weight, retain_graph, with_norm)
        # Backward has the types that the forward pass chose. Asked of all devices first, which is the quickest.
        if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(run.device.type):
            with torch.autocast(run.device.type, enabled=False):
                return update(loss, optimizer, retain_graph=retain_graph, with_norm=with_norm)
        inputs = parameters
    optimizer.zero_grad()
    torch.autograd.backward(loss, retain_graph=retain_graph, inputs=inputs)
    # Before the step, which may write into the gradients: SGD with Nesterov momentum does.
    norm = total_norm(parameters) if with_norm else None
    optimizer.step()
    return norm


def _check(loss: Any, optimizer: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ArgumentError(f"the loss is {what}", expected="a tensor with one element", fix="take its mean")
    if not loss.requires_grad:
        raise ArgumentError(
            "the loss has no graph, so there is nothing to run backward through",
            expected="a loss computed from parameters that require gradients",
            fix="look for .item(), .detach() or torch.no_grad() on the way to the loss, and for a frozen model",
        )
    if isinstance(optimizer, LBFGS):
        raise ArgumentError(
            "optimize was given LBFGS, which evaluates the loss several times in a step",
            expected="an optimizer whose step needs no closure",
            fix="call optimizer.step(closure) in train_fn, as in a loop written by hand",
        )
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            f"the optimizer is {type(optimizer).__name__}",
            expected="a torch.optim.Optimizer",
            fix="call optimize once for each optimizer"
            if isinstance(optimizer, (list, tuple, dict))
            else "pass the object that torch made, such as torch.optim.SGD(model.parameters(), lr=0.1)",
        )
