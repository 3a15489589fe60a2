"""How a model is trained by many processes: `DDP`, and `FSDP`, with their options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.utils import _sync_params_and_buffers
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ignition import distributed
from ignition.errors import ArgumentError
from ignition.structure import named

__all__ = ["DDP", "FSDP", "check_replicable", "check_strategy", "replicated", "share_values"]

_BYTES_AT_ONCE = 250 * 2**20


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

    Raises:
        ArgumentError: If a flag is no boolean, or `bucket_cap_mb` is neither None nor a number above 0.

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
    """Each process has some rows of each parameter, gradient and moment (``torch.distributed.fsdp.fully_shard``).

    The user's model is split in place when the first fit begins, with what its optimizers and averages keep of it.

    Attributes:
        wrap: Which submodules are gathered and freed by themselves: None for the elements of each ``nn.ModuleList`` and
            ``nn.Sequential``; a module class or a tuple of them; or a function from a module to whether it is one.
        precision: In which forward and backward run: None for the type of the parameters, ``"bf16"``, or a
            ``torch.distributed.fsdp.MixedPrecisionPolicy``. The parameters that the optimizer steps keep their type.
        reshard_after_forward: Whether gathered parameters are freed between forward and backward: less memory, more
            communication.
        methods: A tuple of the names of further methods of the model that compute with its parameters.
        sync_batch_norm: As in `DDP`.

    Raises:
        ArgumentError: If an option is none of these. At the first fit, if the model or its optimizer cannot be split
            (LBFGS, Adafactor, fused ones but Adam and AdamW; parameters that are 0-d, sparse, lazy or shared by two
            models), if it is split already, or if `wrap` finds no module.

    Source: Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277.

    Example:
        >>> FSDP(wrap=nn.TransformerEncoderLayer, precision="bf16").reshard_after_forward
        True
    """

    wrap: type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[nn.Module], bool] | None = None
    precision: Any = None
    reshard_after_forward: bool = True
    methods: tuple[str, ...] = ()
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("reshard_after_forward", "sync_batch_norm"):
            _check_flag("FSDP", name, getattr(self, name))
        if not (self.precision in (None, "bf16", torch.bfloat16) or hasattr(self.precision, "param_dtype")):
            raise ArgumentError(
                f"FSDP was given precision={self.precision!r}",
                expected='None, "bf16" or a torch.distributed.fsdp.MixedPrecisionPolicy',
                fix='for example FSDP(precision="bf16")',
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
        if not isinstance(self.methods, tuple) or not all(isinstance(name, str) for name in self.methods):
            raise ArgumentError(
                f"FSDP was given methods={self.methods!r}", expected="a tuple of names", fix='methods=("encode",)'
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


@dataclass(slots=True)
class ForwardPasses:
    """Those of a replica; an object of its own, since a module takes long to set an attribute.

    Attributes:
        count: How many there were, with gradients. An optimizer that steps without a new one may have gradients that no
            other process knows of. And a static graph is learnt in the first one.
        before: How many there were when the open window began.
        travelled: Whether there was one whose gradients travel.
    """

    count: int = 0
    before: int = 0
    travelled: bool = False


class Replica(DistributedDataParallel):
    """A model under DDP, of which is counted what runs through it.

    Attributes:
        forward_passes: How often it has run: what stands in for the model counts, which costs less than to do it here.
        parameter_ids: Which parameters are its own.
    """

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(module, **options)
        # DDP sends the gradients of the first step in other pieces than all later ones. How a sum over three and more
        # processes is rounded depends on that, and a training that goes on would begin with such a first step.
        if not self.find_unused_parameters:
            self.reducer._push_all_rebuilt_params()
        self.forward_passes = ForwardPasses()
        self.parameter_ids = {id(parameter) for parameter in module.parameters()}

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        """The parameters, last ones first where they are sent in that order: backward ends with the first."""
        parameters, are_sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return (parameters, are_sparse) if self.find_unused_parameters else (parameters[::-1], are_sparse[::-1])


class Replicated:
    """What the class of a user's model gets in front of it, for the object that stands in for the model under DDP.

    That object shares its ``__dict__`` with the model, so every attribute is the model's own, read and set; DDP alone
    would answer for its own (``dim``, ``device``, ``logger``). A method of the model that calls ``self(x)`` goes
    through DDP too.
    """

    _ignition_replica: Replica

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Nothing: what a class of the user's does here, it has done for itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        replica = self._ignition_replica
        if torch.is_grad_enabled():
            passes = replica.forward_passes
            passes.count += 1
            passes.travelled |= replica.require_backward_grad_sync
        return replica(*args, **kwargs)

    @property
    def forward(self) -> Any:
        """The forward pass under DDP; a property, since some models have a ``forward`` in their ``__dict__``."""
        return self.__call__

    @forward.setter
    def forward(self, function: Any) -> None:
        vars(self)["forward"] = function

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is one of the user's model."""
        return self._ignition_replica.module.__reduce_ex__(protocol)


def replicated(module: nn.Module, strategy: DDP, device: torch.device) -> nn.Module:
    """A model as DDP trains it; one without anything to train as it is, with the weights of the first process."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        share_values((*module.parameters(), *module.buffers()))  # as DDP does for all others
        return module
    options: dict[str, Any] = {} if strategy.bucket_cap_mb is None else {"bucket_cap_mb": strategy.bucket_cap_mb}
    if not strategy.broadcast_buffers:  # the second is the name from torch 2.13 on
        known = inspect.signature(DistributedDataParallel).parameters
        options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    spread = len({parameter.device for parameter in module.parameters()}) > 1
    replica = Replica(
        module,
        device_ids=None if device.type == "cpu" or spread else [device],
        find_unused_parameters=strategy.find_unused_parameters,
        static_graph=strategy.static_graph,
        **options,
    )
    model: Any = getattr(module, "_orig_mod", module)  # of one that is compiled
    kind = type(model)
    metaclass: Any = type(kind)
    made: Any = metaclass(
        kind.__name__, (Replicated, kind), {"_ignition_replica": replica, "__module__": kind.__module__}
    )
    standing_in: nn.Module = object.__new__(made)
    object.__setattr__(standing_in, "__dict__", vars(model))
    return standing_in


def check_replicable(models: Any) -> None:
    """Finds what many processes cannot train alike, under DDP or FSDP.

    Raises:
        ArgumentError: If a parameter has no values yet, or an embedding that is trained rescales its rows as it reads.
    """
    for name, model in named(models).items():
        parts = model.named_modules() if isinstance(model, nn.Module) else ()
        for path, part in ((".".join(filter(None, (name, path))), part) for path, part in parts):
            lazy = next((key for key, one in part.named_parameters(recurse=False) if is_lazy(one)), None)
            if lazy is not None:
                raise ArgumentError(
                    f"the parameter {f'{path}.' if path else ''}{lazy} has no values yet, which many processes are to "
                    "have alike",
                    expected="parameters with values",
                    fix="run one batch through lazy modules before fit, in every process the same: model(x[:1])",
                )
            if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm and part.weight.requires_grad:
                raise ArgumentError(
                    f"{type(part).__name__} {path or 'that is the model'} has max_norm={part.max_norm}: its forward "
                    "pass changes the rows that it reads, in each process others",
                    expected="a forward pass that changes no trained parameter, where many processes train",
                    fix="leave max_norm out, and normalize what is looked up in the model's forward; or train in one "
                    "process",
                )


def replica_of(model: Any) -> Replica | None:
    """What of a model's stand-in is DDP's; None for any other model."""
    return model._ignition_replica if isinstance(model, Replicated) else None


def is_sharded(model: Any) -> bool:
    """Whether a model, or one of several, is under FSDP: every process takes part in each of its forward passes."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # nothing is sharded where nobody has imported it
    return fsdp is not None and any(
        isinstance(part, fsdp.FSDPModule)
        for one in named(model).values()
        if isinstance(one, nn.Module)
        for part in one.modules()
    )


def as_sharded(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """A state dict of whole tensors as one that a model takes, which may be sharded."""
    if not is_sharded(model):
        return state
    from ignition.sharded_weights import shard_weights

    return shard_weights(state, model.state_dict())


def share_values(tensors: Iterable[torch.Tensor]) -> None:
    """Gives tensors the values of the first process, as bytes: so any type may be among them.

    Those without values of their own, or without memory for each, are left alone.
    """
    if distributed.world_size() == 1:
        return
    strided = (one.detach() for one in tensors if one.layout is torch.strided and not is_lazy(one))
    plain = [one for one in strided if one.numel() and not one.is_quantized]
    whole = [one for one in plain if all(step for step, size in zip(one.stride(), one.shape, strict=True) if size > 1)]
    sent = [one.resolve_conj().resolve_neg().contiguous() for one in whole]
    bytes_of = [one.view(-1).view(torch.uint8) for one in sent]
    on_cpu = [one for one in bytes_of if one.is_cpu]
    on_device = [one for one in bytes_of if not one.is_cpu]
    for group, some in ((distributed.control_group(), on_cpu), (dist.group.WORLD, on_device)):
        if some and group is not None:
            _sync_params_and_buffers(group, some, _BYTES_AT_ONCE, 0)
    for one, copied in zip(whole, sent, strict=True):
        if one.data_ptr() != copied.data_ptr():
            one.copy_(copied)


def _check_flag(strategy: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ArgumentError(f"{strategy} was given {name}={value!r}", expected="True or False", fix="leave it out")
