"""One update window: the batches between two steps, whose gradients are gathered, unscaled, clipped and used.

A window sees every optimizer through torch's step hooks, so it works for any function that calls
``optimizer.step()``; what a plain step cannot do (accumulation, loss scaling) goes through `Window.update`,
which is what `optimize` calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from ignition.errors import OptimizerError
from ignition.gradient_sync import GradientSync, Total
from ignition.gradients import total_norm, with_gradients
from ignition.position import Position
from ignition.precision import without_autocast
from ignition.weighing import NOTHING, not_zero

__all__ = ["UpdateRules", "Window"]


@dataclass(slots=True)
class _Gathered:
    """What one optimizer has gathered in the open window."""

    parameters: list[Tensor]  # those that its first batch gave gradients to
    unit: Any = 1  # the weight of its first batch, in which the others are measured, so that losses keep their size
    total: Any = 0.0  # the sum of the weights, in that unit
    average: Total | None = None  # that of the totals of many processes, once the gradients are on their way

    def add(self, weight: Any, sync: GradientSync | None) -> Any:
        """Adds the weight of a batch, and returns what its loss counts."""
        if sync is not None:
            share = sync.share(weight)
        else:
            if isinstance(self.total, float) and not self.total:  # nothing has counted yet
                self.unit = not_zero(weight)
            share = weight / self.unit
        self.total = self.total + share
        return share


@dataclass(slots=True, frozen=True)
class UpdateRules:
    """How the steps of a training are taken.

    Attributes:
        accumulate: How many batches make a window.
        clip_norm: The largest norm of a gradient, over all parameters of an optimizer; None to leave it.
        scaled: Whether losses are scaled, as fp16 needs it.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    scaled: bool = False

    def described(self) -> list[str]:
        """What of this depends on the Trainer knowing the optimizers that step, in words."""
        accumulating = [f"accumulate={self.accumulate}"] if self.accumulate > 1 else []
        clipping = [f"clip_norm={self.clip_norm}"] if self.clip_norm is not None else []
        return accumulating + clipping + (['precision="fp16"'] if self.scaled else [])


class Window:
    """What the open window has gathered so far, by the rules of the training's updates.

    Args:
        optimizers: Those that the Trainer has, by name.
        rules: How steps are taken.
        device: Where the model is.
        sync: How gradients come together from many processes; None in one.
    """

    def __init__(
        self, optimizers: dict[str, Any], rules: UpdateRules, device: torch.device, sync: GradientSync | None = None
    ) -> None:
        self.accumulate = rules.accumulate
        self.clip_norm = rules.clip_norm
        self.closing = True
        """Whether the current batch is the last of its window."""
        self.updated: list[Optimizer] = []
        """The optimizers that changed their parameters in the last window; one that overflowed did not."""
        self.skipped = False
        """Whether an overflow kept an optimizer of the last window from its step."""
        self._device = device
        self._sync = sync
        self._weighs = rules.accumulate > 1 or sync is not None
        self._names = {id(optimizer): name for name, optimizer in optimizers.items()}
        self._optimizers = [one for one in optimizers.values() if isinstance(one, Optimizer)]
        self._scaled = rules.scaled
        self._settings = [*rules.described(), *([] if sync is None else ["many processes"])]
        self._scalers: dict[str, GradScaler] = {}
        self._index = 0
        self._weight: Any = 1
        self._gathered: dict[Optimizer, _Gathered] = {}
        self._called: set[Optimizer] = set()
        self._stepping = False
        self._hooks: list[Any] = []

    # The loop's side

    def attach(self) -> None:
        """Hooks into the optimizers' steps, for the length of a fit."""
        for optimizer in self._optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))
        if self._sync is not None:
            self._sync.attach()

    def detach(self) -> None:
        """Takes all hooks away; a window that is still open is given up."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._sync is not None:
            self._sync.detach()
        self._gathered.clear()
        self._called.clear()
        self._index = 0

    def set_sync(self, sync: GradientSync | None) -> None:
        """Exchanges between two steps how gradients come together, while hooks are there."""
        if self._sync is not None:
            self._sync.detach()
        self._sync = sync
        if sync is not None:
            sync.attach()

    def begin_batch(self, weight: float | None, last: bool) -> None:
        """Says what the batch weighs by itself, and whether it is known to be the epoch's last."""
        self._called.clear()
        if self._index == 0:
            self._gathered.clear()  # of what a callback may have optimized between two windows
            self.updated.clear()
            self.skipped = False
        self._weight = 1 if weight is None else weight
        self.closing = last or self._index + 1 == self.accumulate
        if self._sync is not None:
            self._sync.begin_batch(weight, opening=self._index == 0, closing=self.closing)

    def end_batch(self, position: Position) -> bool:
        """Whether the batch has closed its window; a step that overflowed is counted as skipped."""
        self._index += 1
        sync = self._sync
        if sync is not None and sync.calls.said_in != sync.calls.batch:  # asked here: nearly always it is the same
            sync.end_batch(self.closing)
        if not self.closing:
            return False
        for optimizer, gathered in self._gathered.items():
            if optimizer not in self._called:  # the function left it out of the last batch, and not of all before
                self._step(optimizer, gathered, with_norm=False)
        self._gathered.clear()
        self._index = 0
        position.skipped += self.skipped and not self.updated
        return True

    @property
    def is_open(self) -> bool:
        """Whether batches have been gathered whose step is still to come."""
        return self._index > 0

    def close(self, position: Position) -> bool:
        """Takes the steps of a window in whose middle the loader has ended; False where none is open."""
        if self._index == 0:
            return False
        self.closing = True
        self._called.clear()
        return self.end_batch(position)

    def state_dict(self) -> dict[str, Any]:
        """The scales of the losses, by the optimizers' names."""
        return {name: scaler.state_dict() for name, scaler in self._scalers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._scalers.clear()
        for name, scale in state.items():
            self._scaler_named(name).load_state_dict(scale)

    # The function's side

    def update(
        self,
        loss: Tensor,
        optimizer: Optimizer,
        parameters: list[Tensor],
        weight: Any,
        retain_graph: bool,
        with_norm: bool,
    ) -> Tensor | None:
        """Adds the gradients of a batch for one optimizer, and takes its step where the window closes.

        Returns:
            The norm of the gradient, before it was clipped, where it is wanted and the window closes.

        Raises:
            OptimizerError: If the Trainer does not have the optimizer; in a window of several batches, if it is the
                optimizer's second time in one call, or another one gathers gradients for the same parameters.
        """
        gathered = self._gather(optimizer, parameters)
        counts = True
        if self._weighs:
            # What a borrowed batch weighs is not left to the function.
            weight = self._weight if weight is None or self._weight is NOTHING else weight
            counts = isinstance(weight, Tensor) or weight > 0  # a mean over nothing may be NaN, and times 0 still is
            share = gathered.add(weight, self._sync)
            if self._sync is not None and not counts:
                loss, counts = self._sync.stand_in(loss, share, parameters), True
            elif not isinstance(share, float) or share != 1:
                loss = loss * share
            if self._sync is not None and self.closing:
                gathered.average = self._sync.total(gathered.total, self._place(optimizer))  # comes while backward runs
            elif self._sync is not None:
                self._sync.begin_backward()
        scaler = self._scaler(optimizer)
        if scaler is not None:
            loss = scaler.scale(loss)
        with without_autocast(self._device):
            if counts and self._sync is None:
                torch.autograd.backward(loss, retain_graph=retain_graph, inputs=parameters)
            elif counts and self._sync is not None:
                self._sync.backward(loss, optimizer, parameters, retain_graph)
            return self._step(optimizer, gathered, with_norm) if self.closing else None

    def _gather(self, optimizer: Optimizer, parameters: list[Tensor]) -> _Gathered:
        gathered = self._gathered.get(optimizer)
        if gathered is None:
            self._check_first(optimizer, parameters)
        elif self.accumulate > 1 and optimizer in self._called:
            raise OptimizerError(
                f"optimize was called twice on {self._described(optimizer)} in one call of train_fn, with "
                f"accumulate={self.accumulate}",
                expected="one call for each optimizer and batch, as the step comes only at the window's end",
                fix="add the losses up and call optimize once, or use accumulate=1",
            )
        self._called.add(optimizer)
        if gathered is None or self.accumulate == 1:
            optimizer.zero_grad()
            gathered = self._gathered[optimizer] = _Gathered(parameters)
        return gathered

    def _check_first(self, optimizer: Optimizer, parameters: list[Tensor]) -> None:
        """Checks what is new in a window: an optimizer and the parameters that it trains."""
        if id(optimizer) not in self._names:
            raise OptimizerError(
                f"optimize was called on an optimizer that the Trainer does not have ({type(optimizer).__name__}), on "
                "whose steps something depends: accumulate, clip_norm, fp16, many processes, a callback that counts",
                expected="the optimizer that was given to Trainer(...)",
                fix="give the Trainer that very object, one of several in a list or dict (in a notebook: run the cell "
                "that makes the Trainer again)",
            )
        if self.accumulate == 1 or not self._gathered:
            return
        mine = set(map(id, parameters))
        for other, gathered in self._gathered.items():
            shared = sum(id(one) in mine for one in gathered.parameters)
            if shared:
                raise OptimizerError(
                    f"{self._described(optimizer)} and {self._described(other)} train the same parameters ({shared} "
                    f"of them), with accumulate={self.accumulate}",
                    expected="parameters of its own for each optimizer that gathers gradients over a window",
                    fix="add the losses up and use one optimizer, or use accumulate=1",
                )

    def _step(self, optimizer: Optimizer, gathered: _Gathered, with_norm: bool) -> Tensor | None:
        """The gradients' sum becomes their mean; then unscale, clip, step: in this order."""
        total = gathered.total
        if self._sync is not None:
            average = gathered.average or self._sync.total(total, self._place(optimizer))
            total = average.value()
            # The window's last batch was not known to be it; or DDP has no share in gradients of a part of its model.
            if gathered.average is None or self._sync.is_part(optimizer, gathered.parameters):
                self._sync.reduce(gathered.parameters)
            self._sync.check(optimizer)
        parameters, gradients = with_gradients(optimizer)
        if self._weighs and gradients and not (isinstance(total, float) and total == 1):
            torch._foreach_div_(gradients, not_zero(total))
        # Without a gradient there is nothing that could overflow, and a scaler would not let the step pass.
        scaler = self._scaler(optimizer) if gradients else None
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = self._clip(parameters)
        if norm is None and with_norm:
            norm = total_norm(parameters)
        # Not left to the step: a fused one calls its hooks on an overflow too, and SGD's keeps an empty momentum then.
        if scaler is None or not _overflowed(scaler, optimizer):
            self._stepping = True
            try:
                optimizer.step()
            finally:
                self._stepping = False
        else:
            self.skipped = True
        if scaler is not None:
            scaler.update()
        return norm

    def _clip(self, parameters: Sequence[Tensor]) -> Tensor | None:
        """Clips, if that is asked for, and returns the norm from before."""
        if self.clip_norm is None:
            return None
        norm = total_norm(parameters)
        for alike in (True, False):  # torch scales no sharded gradients together with plain ones
            some = [one for one in parameters if hasattr(one, "device_mesh") is alike]
            if some:
                torch.nn.utils.clip_grads_with_norm_(some, self.clip_norm, norm)
        return norm

    # The optimizers' side

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._stepping:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            self._check_closure(optimizer)
        if self.accumulate > 1 or self._scaled:
            cause = f"accumulate={self.accumulate}" if self.accumulate > 1 else 'precision="fp16"'
            raise OptimizerError(
                f"train_fn called {type(optimizer).__name__}.step() itself, with {cause}",
                expected="that the step is left to optimize, which knows the window and the scale of the loss",
                fix="write optimize(loss, optimizer) in the place of zero_grad, backward and step",
            )
        if self._sync is not None:
            self._sync.stepped_plainly = True
            if closure is None:
                self._sync.check(optimizer)
            else:
                shared = self._sync.shared_closure(optimizer, closure)
                return (
                    ((args[0], shared, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": shared})
                )
        if self.clip_norm is not None:
            parameters, gradients = with_gradients(optimizer)
            scale = getattr(optimizer, "grad_scale", None)
            if scale is not None and gradients:  # a GradScaler of the user's leaves it to a fused step to unscale
                torch._foreach_div_(gradients, scale)
                optimizer.grad_scale = None  # type: ignore[attr-defined]
            self._clip(parameters)
        return None

    def _check_closure(self, optimizer: Optimizer) -> None:
        fixes = ["use larger batches in the place of accumulate"] if self.accumulate > 1 else []
        if self._scaled:
            fixes.append('use precision="bf16" or "fp32"')
        if self.clip_norm is not None:
            fixes.append("clip in the closure, after backward: torch.nn.utils.clip_grad_norm_(parameters, norm)")
        if self._sync is not None and self._sync.is_sharded and isinstance(optimizer, torch.optim.LBFGS):
            fixes.append('train with strategy="ddp", since LBFGS makes one vector of all parameters')
        if fixes:
            raise OptimizerError(
                f"{type(optimizer).__name__} steps with a closure, with {', '.join(self._settings)}",
                expected="a step whose gradients are there before it begins: a closure makes its own inside",
                fix="; ".join(fixes),
            )

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A fused optimizer that a GradScaler of the user's steps is called on an overflow too.
        infinite = getattr(optimizer, "found_inf", None)
        if infinite is not None and infinite.item():
            return
        if optimizer not in self.updated:
            self.updated.append(optimizer)

    def _scaler(self, optimizer: Optimizer) -> GradScaler | None:
        """Each optimizer has a scale of its own: an overflow in one loss says nothing of another."""
        return self._scaler_named(self._names.get(id(optimizer), "")) if self._scaled else None

    def _scaler_named(self, name: str) -> GradScaler:
        if name not in self._scalers:
            self._scalers[name] = GradScaler(self._device.type)
        return self._scalers[name]

    def _place(self, optimizer: Optimizer) -> int:
        return self._optimizers.index(optimizer)

    def _described(self, optimizer: Optimizer) -> str:
        name = self._names.get(id(optimizer))
        return f"{type(optimizer).__name__}{f' {name!r}' if name else ''}"


def _overflowed(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Whether there is no using the unscaled gradients; waits for the accelerator."""
    return any(found.item() for found in scaler._found_inf_per_device(optimizer).values())
