"""One update of a model, in one line that stays the same whatever the run adds to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ignition.errors import ArgumentError
from ignition.running import running

__all__ = ["optimize", "update"]


def optimize(loss: Tensor, optimizer: Optimizer, *, retain_graph: bool = False) -> Tensor:
    """Clears the gradients, runs backward, and takes a step.

    Outside a Trainer these are the three plain calls. Inside one, `loss` gives gradients to the parameters of
    `optimizer` only, so that two optimizers in one function do not touch each other's gradients.

    Args:
        loss: A tensor with one element, with a graph.
        optimizer: A torch optimizer.
        retain_graph: Keep the graph for another backward pass through it.

    Returns:
        The norm of the gradient that the step used, over all parameters of the optimizer: a 0-d tensor.

    Raises:
        ArgumentError: If `loss` has no graph or more than one element, or no parameter of `optimizer` is trained.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> norm = optimize(layer(torch.ones(4, 2)).mean(), torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> norm.shape
        torch.Size([])
    """
    parameters = update(loss, optimizer, retain_graph=retain_graph)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def update(loss: Tensor, optimizer: Optimizer, *, retain_graph: bool = False) -> list[Tensor]:
    """`optimize` without the norm, which costs a pass over the gradients. Returns the parameters it trains."""
    _check(loss, optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if not parameters:
        raise ArgumentError(
            f"none of the parameters of {type(optimizer).__name__} requires a gradient",
            expected="at least one parameter to train",
            fix="unfreeze a part of the model, or give the optimizer the parameters that are to be trained",
        )
    run = running.get()
    optimizer.zero_grad()
    torch.autograd.backward(
        loss, retain_graph=retain_graph, inputs=parameters if run is not None and run.training else None
    )
    optimizer.step()
    return parameters


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
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            f"the optimizer is {type(optimizer).__name__}",
            expected="a torch.optim.Optimizer",
            fix="call optimize once for each optimizer",
        )
