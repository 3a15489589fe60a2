"""Gradients that a step is still to use: those of a train function that gathers them over several calls by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ignition.structure import named

if TYPE_CHECKING:
    from ignition.training import Training

__all__ = ["UnusedGradients"]


class UnusedGradients:
    """Knows of which parameters the gradients belong to a step that is still to come.

    The last call of the train function has used up those of an optimizer that stepped in it, unless it has made others
    after the step: a function may begin with the step on the gradients of the call before. Where nobody has watched
    the optimizers, as outside of a fit with checkpoints, all gradients may be wanted. Sparse ones are passed over.

    Args:
        training: The one whose optimizers step; what is none of torch's cannot be watched.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._stepped_at: dict[int, int] = {}  # by the id of the optimizer, in steps that were done before
        self._used: dict[int, tuple[Tensor, Tensor, int]] = {}  # one of its parameters, the gradient, and its version
        self._hooks: list[Any] = []

    def watch(self) -> None:
        """Looks on as the optimizers step, until `rest`."""
        self._hooks += [one.register_step_post_hook(self._note) for one in self._optimizers()]

    def rest(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def of(self, parameters: Iterable[tuple[str, Tensor]]) -> tuple[list[str], dict[str, Tensor]]:
        """What of the gradients is there between two steps.

        Returns:
            The names of the parameters that have one, since a step may move what has a gradient of zero; and those
            gradients that are still to be used, by the parameter's name.
        """
        used = {
            id(parameter)
            for one in self._optimizers()
            if self._stepped_at.get(id(one)) == self._training.position.step - 1 and not self._has_new(one)
            for group in one.param_groups
            for parameter in group["params"]
        }
        names, unused = [], {}
        for name, parameter in parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.layout is torch.strided:
                names.append(name)
                if id(parameter) not in used:
                    unused[name] = gradient
        return names, unused

    def _optimizers(self) -> list[Optimizer]:
        return [one for one in named(self._training.trainer.optimizer).values() if isinstance(one, Optimizer)]

    def _note(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped_at[id(optimizer)] = self._training.position.step
        known = self._used.get(id(optimizer))
        witness = None if known is None else known[0]
        if witness is None or witness.grad is None:  # the smallest is kept, of which there may soon be another one
            every = (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None)
            witness = min(every, key=Tensor.numel, default=None)
        gradient = None if witness is None else witness.grad
        if witness is not None and gradient is not None:
            self._used[id(optimizer)] = witness, gradient, gradient._version
        else:
            self._used.pop(id(optimizer), None)

    def _has_new(self, optimizer: Optimizer) -> bool:
        """Whether there are other gradients than those of the optimizer's last step."""
        known = self._used.get(id(optimizer))
        if known is None or known[0].grad is None:
            return any(one.grad is not None for group in optimizer.param_groups for one in group["params"])
        witness, gradient, version = known
        return witness.grad is not gradient or gradient._version != version
