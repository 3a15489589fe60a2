"""How the gradients of a step come together from many processes.

DDP averages gradients over the processes in the backward pass. So each process scales its loss by what its batch
weighs, in a unit that is the same for all of them, and the average is divided by the average weight: that is the
gradient of the mean over all samples, however unequal the batches are. The weights travel while backward runs.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer

from ignition import distributed
from ignition.device import tensors_in
from ignition.errors import OptimizerError, warn
from ignition.roll_call import END, UPDATE, RollCall, Word
from ignition.said import sum_of_all
from ignition.strategy import Replica, replica_of
from ignition.structure import named

if TYPE_CHECKING:
    from ignition.fsdp import Sharded

__all__ = ["GradientSync", "Total"]

_COUNT = operator.attrgetter("count")


class Total:
    """The weight of a window, averaged over the processes; on its way there until it is asked for."""

    def __init__(self, local: Any, calls: RollCall, optimizer: int) -> None:
        self._calls = calls
        self._sum = self._work = None
        if isinstance(local, Tensor):  # of weights on an accelerator: nobody waits for it
            self._sum = local.detach().double().reshape(1)
            self._work = dist.all_reduce(self._sum, async_op=True)
        self._word = calls.say(UPDATE, optimizer, 0.0 if self._sum is not None else local)

    def value(self) -> Any:
        """The average: a number, or a 0-d tensor on the accelerator.

        Raises:
            ProcessError: If the processes do not take the same steps.
        """
        self._calls.hear()
        size = distributed.world_size()
        if self._sum is None or self._work is None:
            return self._word.value / size
        self._work.wait()
        return self._sum.item() / size if self._sum.is_cpu else self._sum[0] / size


class GradientSync:
    """What the processes do for one another in a step.

    Args:
        models: Those that the functions receive.
        unit: In which weight batches are measured; None until the first update, when the processes agree on it.
        sharded: The models under FSDP, which sum up their gradients at each batch: each process keeps its rows alone.
    """

    def __init__(self, models: Iterable[Any], unit: float | None = None, sharded: Sharded | None = None) -> None:
        self.unit = unit
        self.calls = RollCall()
        """What the processes say to one another."""
        self._sharded = sharded
        self.stepped_plainly = False
        """Whether a step was taken without `optimize`, and so as the plain average over the processes."""
        self._replicas = [replica for model in models if (replica := replica_of(model)) is not None]
        self._passes = [replica.forward_passes for replica in self._replicas]
        self._begun_with = self._counts()  # the forward passes before the fit
        self._used: dict[Optimizer, list[int]] = {}  # those before each optimizer's last step
        # Gradients that were there before the fit's first step: of the call before, or from a checkpoint.
        self._are_kept = any(one.grad is not None for replica in self._replicas for one in replica.module.parameters())
        self._seen: set[Optimizer] = set()
        self._passed: Word | None = None  # what was said at the last place between two steps, if it is still to be used
        self._parts: dict[Optimizer, tuple[int, bool]] = {}
        self._weights = 0  # a digest of what the batches weighed since the last record
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Notes which backward passes exchange something, for the length of a fit; of a sharded model each says so."""
        for replica in self._replicas:
            trained = [one for one in replica.module.parameters() if one.requires_grad]
            # One has a part in each backward pass, unless it need not: then each may be the only one.
            for one in trained if replica.find_unused_parameters else trained[:1]:
                node: Any = get_gradient_edge(one).node
                self._handles.append(node.register_prehook(functools.partial(self._begins_backward, replica)))
        for model in [] if self._sharded is None else named(self._sharded.models).values():
            self._handles.append(model.register_forward_pre_hook(self._begins_forward, prepend=True))
        # Before those of FSDP, which have the backward pass gather the parameters: they would wait first.
        for part in () if self._sharded is None else self._sharded.parts():
            self._handles.append(part.register_forward_hook(self._ends_forward, prepend=True))

    def detach(self) -> None:
        """Takes back what `attach` did; after an error others wait until the exchanges are let go of."""
        self.calls.forget()
        self._passed = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begins_backward(self, replica: Replica, *_: Any) -> None:
        if replica.require_backward_grad_sync:
            self.calls.said_in = self.calls.batch

    def _begins_forward(self, *_: Any) -> None:
        if torch.is_grad_enabled():
            self.calls.forward()

    def _ends_forward(self, model: Any, inputs: Any, output: Any) -> None:
        for one in tensors_in(output) if torch.is_grad_enabled() else ():
            if one.grad_fn is not None:
                one.register_hook(lambda _: self.calls.backward())  # type: ignore[no-untyped-call]

    def begin_batch(self, weight: float | None, opening: bool, closing: bool) -> None:
        """Gradients travel in the last batch of a window only: what ``no_sync`` does.

        Args:
            weight: What the batch weighs by itself; None where it does not say.
            opening: Whether it is the first of its window.
            closing: Whether it is known to be the last of its window.
        """
        if opening:
            for passes in self._passes:
                passes.before = passes.count
        self._weights = hash((self._weights, -1.0 if weight is None else weight))
        self.calls.batch += 1
        for replica in self._replicas:
            # torch learns a static graph in a pass whose gradients travel: those of the first batch do, and count once.
            travels = closing or (replica.static_graph and not replica.forward_passes.count)
            if replica.require_backward_grad_sync is not travels:  # to set it takes a module long
                replica.require_backward_grad_sync = travels

    def end_batch(self, closing: bool) -> None:
        """After a batch that has said nothing of a backward pass: tells the others, if they wait for one.

        Raises:
            ProcessError: If they have not left it out.
        """
        if self._sharded is not None or (closing and self._replicas):
            self.calls.left_out()

    def meet(self, value: float) -> float:
        """Looks whether all processes have come to the same place between two steps. Waits for all of them.

        Returns:
            The mean of the values that they bring.

        Raises:
            OptimizerError: If the gradients of the last backward pass were not averaged.
            ProcessError: If they have not.
        """
        self.pass_by(value)
        return self._heard()

    def pass_by(self, value: float) -> float:
        """As `meet`, but goes on at once: what the others say of this place is heard in a later step.

        Returns:
            The mean of the values of the last place that was passed by, or 0.
        """
        for replica in self._replicas:  # before the others are waited for, which may wait for these gradients
            _check_averaged(replica)
        heard = self._heard()
        self._passed = self.calls.say(END, value=value)
        return heard

    def _heard(self) -> float:
        self.calls.hear()
        passed, self._passed = self._passed, None
        return 0.0 if passed is None else passed.value / distributed.world_size()

    def begin_backward(self) -> None:
        """Says that a backward pass of `optimize` begins, which takes no step yet: a sharded model exchanges there."""
        if self._sharded is not None:
            self.calls.backward()

    def total(self, weight: Any, optimizer: int) -> Total:
        """The weight of a window, on its way; it says beforehand that a backward pass comes, and the step after it."""
        return Total(weight, self.calls, optimizer)

    def share(self, weight: Any) -> Any:
        """What a loss of that weight counts; the first time the processes agree on the unit, that of the first one."""
        if self.unit is None:
            self.calls.backward()
            first = [float(weight) if distributed.is_main() else 0.0]  # waits for an accelerator, once a training
            self.unit = distributed.sum_of(first)[0] or 1.0
        return weight / self.unit

    def backward(self, loss: Tensor, optimizer: Optimizer, parameters: Sequence[Tensor], retain_graph: bool) -> None:
        """Adds the gradients of a loss for the parameters of an optimizer."""
        if not self.is_part(optimizer, parameters):
            # Of a sharded model, what stands for the parameters in the graph.
            inputs = parameters if self._sharded is None else self._sharded.leaves(parameters)
            torch.autograd.backward(loss, retain_graph=retain_graph, inputs=inputs)
            return
        gradients = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def is_part(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> bool:
        """Whether an optimizer has some of the parameters of a model under DDP and not all that are trained.

        In a backward pass for them alone DDP would wait for the others: `backward` makes one that it does not see, and
        the gradients are to be reduced.
        """
        known = self._parts.get(optimizer)
        if known is None or known[0] != len(parameters):
            given = {id(one) for one in parameters}
            models = [
                {id(one) for one in replica.module.parameters() if one.requires_grad} for replica in self._replicas
            ]
            apart = any(not given.isdisjoint(trained) and not given.issuperset(trained) for trained in models)
            known = self._parts[optimizer] = (len(parameters), apart)
        return known[1]

    def stand_in(self, loss: Tensor, share: Any, parameters: Sequence[Tensor]) -> Tensor:
        """The loss of a batch that counts nothing: without it the others would wait for its gradients."""
        if self._sharded is not None or math.isfinite(loss.item()):
            return torch.mul(loss, share)
        # The mean over nothing, which is NaN, and so would be its gradient.
        return torch.stack([(parameter * 0).sum() for parameter in parameters]).sum()

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """Averages gradients that were gathered without the others, as of a window that its loader cut short.

        A parameter to which no process has a gradient gets none.
        """
        parameters = [one for one in parameters if not hasattr(one, "device_mesh")]  # the others are summed already
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        for dtype, device in sorted(kinds, key=str):
            alike = [one for one in parameters if one.dtype is dtype and one.device == device]
            there = [float(one.grad is not None) for one in alike]
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in alike]
            flat = torch.cat([torch.tensor(there, dtype=dtype, device=device), *(one.reshape(-1) for one in gradients)])
            dist.all_reduce(flat)
            flat /= distributed.world_size()
            anywhere, *parts = torch.split(flat, [len(alike), *(one.numel() for one in gradients)])
            known = there if all(there) else anywhere.tolist()  # which waits for an accelerator
            for parameter, gradient, part, one in zip(alike, gradients, parts, known, strict=True):
                if one:  # not in place: two parameters may have been given one gradient
                    parameter.grad = torch.empty_like(gradient).copy_(part.view_as(gradient))

    def check(self, optimizer: Optimizer) -> None:
        """Looks before a step whether its gradients are those of all processes.

        Raises:
            ProcessError: If the processes do not take the same steps.
            OptimizerError: If the forward pass went around the model that the function received, or the gradients of
                the optimizer's first step differ from process to process.
        """
        self.calls.step()
        counts = self._counts()
        # A function may begin with the step on the gradients of the call before: it has not used their forward pass.
        used = self._used.get(optimizer, self._begun_with)
        is_excused = self._are_kept and optimizer not in self._seen  # compared below
        for replica, count, last in zip(self._replicas, counts, used, strict=True):
            bypassed = count == replica.forward_passes.before and count == last and not is_excused
            if bypassed and any(id(one) in replica.parameter_ids for one in _moved(optimizer)):
                raise OptimizerError(
                    f"{type(optimizer).__name__} is about to step on gradients of this process alone: the model that "
                    "train_fn received had no forward pass in this step",
                    expected="model(x) or model.forward(x) on the first argument of train_fn",
                    fix="use that argument, and not a model from outside; give what else computes the loss "
                    "(model.encode) a place in the model's forward",
                )
        self._used[optimizer] = counts
        if optimizer not in self._seen:
            self._seen.add(optimizer)
            self._compare(optimizer)

    @property
    def is_sharded(self) -> bool:
        """Whether each process has a part of the parameters alone."""
        return self._sharded is not None

    def shared_closure(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure of a step, whose loss is the mean over the processes.

        Its gradients are already. A step that looks at the loss too, as that of LBFGS does, calls the closure as often
        and goes as far in all processes.
        """

        def shared() -> Any:
            loss = closure()
            self.check(optimizer)
            if isinstance(loss, Tensor):
                loss = loss.detach().clone()
                dist.all_reduce(loss)
                return loss / distributed.world_size()
            return loss if loss is None else distributed.sum_of([float(loss)])[0] / distributed.world_size()

        return shared

    def warn_if_unequal(self) -> bool:
        """Warns if the processes had batches of different weights, and one of them stepped without `optimize`.

        Waits for all of them.
        """
        every = {tuple(text.split()) for text in distributed.gather_texts(f"{self._weights} {self.stepped_plainly}")}
        self._weights = 0
        unequal = len({weights for weights, _ in every}) > 1 and any(plainly == "True" for _, plainly in every)
        if unequal:
            warn(
                "the processes have batches of different sizes, and train_fn takes its steps by optimizer.step(), "
                "which uses the mean over the processes and not over the samples; optimize(loss, optimizer) in the "
                "place of zero_grad, backward and step is exact"
            )
        return unequal

    def _counts(self) -> list[int]:
        return list(map(_COUNT, self._passes))

    def _compare(self, optimizer: Optimizer) -> None:
        gradients = [one.grad for one in _moved(optimizer) if one.grad is not None]
        gradients = [one for one in gradients if not hasattr(one, "device_mesh")]  # of these each process has its rows
        total = sum_of_all(gradients)
        total = total if math.isfinite(total) else 0.0
        highest, lowest = distributed.max_of([total, -total])
        if highest != -lowest:
            raise OptimizerError(
                f"the gradients of {type(optimizer).__name__} differ from process to process",
                expected="parameters that belong to the models of the Trainer, and a loss that went through them",
                fix="give the Trainer every module that is trained, and use train_fn's first argument alone; with a "
                "part that has no share in each loss, strategy=DDP(find_unused_parameters=True)",
            )


def _check_averaged(replica: Replica) -> None:
    """Raises OptimizerError if a backward pass left out a parameter: DDP says so in the next forward pass alone."""
    if not replica.forward_passes.travelled:
        return
    try:
        replica.reducer._rebuild_buckets()  # which looks at it first, and has nothing else to do after a forward pass
    except RuntimeError as error:
        if "finished reduction" not in str(error):
            raise
        parts = replica.module.named_parameters()
        without = [name for name, one in parts if one.requires_grad and one.grad is None]
        raise OptimizerError(
            f"{', '.join(without[:3]) or 'a parameter of the model'} had no share in the last loss, and the gradients "
            "of this process were not averaged with those of the others",
            expected="a share of each trained parameter in each loss",
            fix="strategy=DDP(find_unused_parameters=True), or freeze what is not trained",
        ) from error


def _moved(optimizer: Optimizer) -> Iterable[Tensor]:
    return (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None)
