"""How a model is trained by many processes: `DDP`, and `FSDP`, with their options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ignition import distributed
from ignition.errors import ArgumentError
from ignition.structure import named

__all__ = ["DDP", "FSDP", "check_strategy", "replicated", "share_buffers"]


@dataclass(frozen=True, slots=True)
class DDP:
    """Each process has the whole model; gradients are averaged (``torch.nn.parallel.DistributedDataParallel``).

    Attributes:
        find_unused_parameters: For a model some of whose parameters have no part in some of its losses.
        static_graph: For a graph that is the same in each step; allows some models that need activation checkpointing.
        broadcast_buffers: Whether each forward pass in training begins with the buffers of the first process.
        bucket_cap_mb: How many MiB of gradients are sent together; None for torch's choice.
        sync_batch_norm: Whether batch norm takes its statistics over the batches of all processes. The layers then are
            ``torch.nn.SyncBatchNorm``, in place, under their names.

    Source: Li et al. 2020, PyTorch Distributed, arXiv:2006.15704.

    Example:
        >>> DDP(find_unused_parameters=True).sync_batch_norm
        False
    """

    find_unused_parameters: bool = False
    static_graph: bool = False
    broadcast_buffers: bool = True
    bucket_cap_mb: float | None = None
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("find_unused_parameters", "static_graph", "broadcast_buffers", "sync_batch_norm"):
            _check_flag("DDP", name, getattr(self, name))
        size = self.bucket_cap_mb
        if size is not None and (isinstance(size, bool) or not isinstance(size, (int, float)) or not size > 0):
            raise ArgumentError(
                f"DDP was given bucket_cap_mb={size!r}", expected="a number of MiB above 0, or None", fix="leave it out"
            )


@dataclass(frozen=True, slots=True)
class FSDP:
    """Each process has a part of each parameter, gradient and moment (``torch.distributed.fsdp.fully_shard``).

    Attributes:
        wrap: Which submodules are gathered and freed by themselves: None for the elements of each ``nn.ModuleList`` and
            ``nn.Sequential``; a module class or a tuple of them; or a function from a module to whether it is one.
        precision: The type in which forward and backward run (``torch.bfloat16``); None for that of the parameters.
            The parameters that the optimizer steps keep theirs.
        reduce_precision: The type in which gradients are summed over the processes; None for that of `precision`.
        reshard_after_forward: Whether gathered parameters are freed between forward and backward: less memory, more
            communication.
        sync_batch_norm: As in `DDP`.

    Source: Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277.

    Example:
        >>> FSDP(wrap=nn.TransformerEncoderLayer, precision=torch.bfloat16).reshard_after_forward
        True
    """

    wrap: type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[nn.Module], bool] | None = None
    precision: torch.dtype | None = None
    reduce_precision: torch.dtype | None = None
    reshard_after_forward: bool = True
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("reshard_after_forward", "sync_batch_norm"):
            _check_flag("FSDP", name, getattr(self, name))
        for name in ("precision", "reduce_precision"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
                raise ArgumentError(
                    f"FSDP was given {name}={value!r}", expected="a floating-point torch.dtype", fix="torch.bfloat16"
                )
        classes = self.wrap if isinstance(self.wrap, tuple) else (self.wrap,)
        if not all(
            one is None or (issubclass(one, nn.Module) if isinstance(one, type) else callable(one)) for one in classes
        ):
            raise ArgumentError(
                f"FSDP was given wrap={self.wrap!r}",
                expected="a module class, a tuple of them, a function from a module to a boolean, or None",
                fix="for example FSDP(wrap=nn.TransformerEncoderLayer)",
            )


def check_strategy(strategy: Any) -> DDP | FSDP:
    """What ``Trainer(strategy=...)`` says. Raises ArgumentError if it is no strategy."""
    named: Mapping[str, DDP | FSDP] = {"auto": DDP(), "ddp": DDP(), "fsdp": FSDP()}
    found = named.get(strategy) if isinstance(strategy, str) else strategy
    if not isinstance(found, (DDP, FSDP)):
        raise ArgumentError(
            f"strategy={strategy!r}",
            expected='"auto", "ddp", "fsdp", or one with options',
            fix="for example strategy=DDP(find_unused_parameters=True); in one process it changes nothing",
        )
    return found


class Replicated(DistributedDataParallel):
    """The user's model under DDP, which answers for it: attributes and methods are those of the model.

    Attributes:
        forwards: How many forward passes it has had since the optimizer's last step: one that went around it leaves
            gradients that no other process knows of.
    """

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(module, **options)
        # DDP sends the gradients of the first step in other pieces than all later ones. How a sum over three and more
        # processes is rounded depends on that, and a training that goes on would begin with such a first step.
        if not self.find_unused_parameters:
            self.reducer._push_all_rebuilt_params()
        self.forwards = 0
        self.parameter_ids = {id(parameter) for parameter in module.parameters()}
        vars(self)["_own"] = frozenset({*vars(self), "training", "_own"})

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        """The parameters, last ones first where they are sent in that order: backward ends with the first."""
        parameters, are_sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return (parameters, are_sparse) if self.find_unused_parameters else (parameters[::-1], are_sparse[::-1])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's, with its gradients averaged in the backward pass."""
        self.forwards += torch.is_grad_enabled()
        return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module" or "module" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get("_own")
        if own is None or name in own or name.startswith("_"):
            super().__setattr__(name, value)
        else:  # the model's own, as in one process
            setattr(self.module, name, value)


def replicated(module: nn.Module, strategy: DDP, device: torch.device) -> nn.Module:
    """A model as DDP trains it; one without anything to train as it is."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    options: dict[str, Any] = {} if strategy.bucket_cap_mb is None else {"bucket_cap_mb": strategy.bucket_cap_mb}
    if not strategy.broadcast_buffers:  # the second is the name from torch 2.13 on
        known = inspect.signature(DistributedDataParallel).parameters
        options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    spread = len({parameter.device for parameter in module.parameters()}) > 1
    return Replicated(
        module,
        device_ids=None if device.type == "cpu" or spread else [device],
        find_unused_parameters=strategy.find_unused_parameters,
        static_graph=strategy.static_graph,
        **options,
    )


def is_sharded(model: Any) -> bool:
    """Whether a model, or one of several, is under FSDP: every process takes part in each of its forward passes."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # nothing is sharded where nobody has imported it
    return fsdp is not None and any(
        isinstance(part, fsdp.FSDPModule)
        for one in named(model).values()
        if isinstance(one, nn.Module)
        for part in one.modules()
    )


def share_buffers(modules: Iterable[nn.Module]) -> None:
    """Gives the buffers of modules, such as batch norm's statistics, the values of the first process."""
    every = (buffer for module in modules for buffer in module.buffers())
    buffers = [buffer for buffer in every if buffer.numel() and buffer.layout is torch.strided]
    for dtype in sorted({buffer.dtype for buffer in buffers}, key=str):
        alike = [buffer for buffer in buffers if buffer.dtype is dtype]
        flat = torch.cat([buffer.detach().reshape(-1).cpu() for buffer in alike])
        distributed.broadcast(flat)
        with torch.no_grad():
            for buffer, part in zip(alike, torch.split(flat, [buffer.numel() for buffer in alike]), strict=True):
                buffer.copy_(part.view_as(buffer))


def _check_flag(strategy: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ArgumentError(f"{strategy} was given {name}={value!r}", expected="True or False", fix="leave it out")
