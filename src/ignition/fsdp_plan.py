"""Which modules of a model are sharded on their own, and what FSDP2 cannot shard: found before anything is changed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignition.errors import ArgumentError, kind_of
from ignition.structure import named, suffix

__all__ = [
    "check_model", "check_optimizer", "check_same", "check_types", "forward_methods", "groups", "make_contiguous",
    "policy_of", "skeleton",
]  # fmt: skip

LARGE = 1_000_000
"""From how many elements on a block inside a block is gathered on its own."""

_LISTS = (nn.ModuleList, nn.Sequential)
_TYPES: dict[Any, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NO_FUSED = (torch.optim.SGD, torch.optim.Adagrad)


def groups(model: nn.Module, wrap: Any = None) -> list[str]:
    """The paths of the modules that are gathered on their own, inner ones first; the model itself is not among them.

    Parameters that are tied stay in one group: a module that shares one with the outside is left out.

    Args:
        model: Before it is sharded.
        wrap: None for the elements of each outermost ``nn.ModuleList`` and ``nn.Sequential`` that hold parameters, and
            those inside of them from a million elements on; a class of modules or a tuple of them; or a function of a
            module that says whether it is one.

    Raises:
        ArgumentError: If `wrap` is something else, finds nothing, or finds a container that is never called.
    """
    if wrap is None:
        found = dict(_blocks(model, ""))
    else:
        wanted = _wanted(wrap)
        found = {path: module for path, module in model.named_modules() if path and wanted(module)}
        idle = [path for path, module in found.items() if _is_never_called(module)]
        if not found or idle:
            raise ArgumentError(
                f"wrap={wrap!r} finds "
                + (f"{', '.join(idle)}, a list of modules that is never called" if idle else "no module of the model"),
                expected="modules whose forward is called and that have parameters",
                fix="name the class of the model's blocks, or leave wrap out",
            )
    whole = [path for path, module in found.items() if _holds(module) and not _ties(model, path)]
    return sorted(whole, key=lambda path: -path.count("."))


def _wanted(wrap: Any) -> Callable[[nn.Module], bool]:
    classes = wrap if isinstance(wrap, tuple) else (wrap,)
    if classes and all(isinstance(one, type) and issubclass(one, nn.Module) for one in classes):
        return lambda module: isinstance(module, classes)
    if isinstance(wrap, type) or not callable(wrap):
        raise ArgumentError(
            f"wrap={wrap!r}",
            expected="a class of modules, a tuple of them, or a function of a module",
            fix="for example wrap=nn.TransformerEncoderLayer, or wrap=lambda module: isinstance(module, Block)",
        )
    return lambda module: bool(wrap(module))


def _blocks(module: nn.Module, path: str, inside: bool = False) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        block = isinstance(module, _LISTS) and not _is_never_called(child)
        if block and (not inside or sum(one.numel() for one in child.parameters()) >= LARGE):
            yield here, child
        yield from _blocks(child, here, inside or block)


def _is_never_called(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.ModuleDict)) and type(module).forward is nn.Module.forward


def _holds(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _ties(model: nn.Module, path: str) -> bool:
    """Whether a parameter of the module at the path is one of a module outside of it too."""
    mine: set[int] = set()
    others: set[int] = set()
    for owner, module in model.named_modules(remove_duplicate=False):
        side = mine if owner == path or owner.startswith(f"{path}.") else others
        side.update(id(one) for one in module.parameters(recurse=False))
    return bool(mine & others)


def forward_methods(module: nn.Module, more: tuple[str, ...] = ()) -> dict[str, bool]:
    """The methods of a module that may compute with its parameters, and whether each does so in any case.

    Args:
        module: One that is gathered on its own.
        more: Methods that compute with the parameters whatever they are given.

    Returns:
        ``forward`` and `more` with True; with False the public methods that the user's own classes add: they are taken
        to compute where they are given a tensor.
    """
    found = {
        name: False
        for kind in type(module).__mro__
        if not kind.__module__.startswith("torch.")
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) and not name.startswith("_") and not hasattr(nn.Module, name)
    }
    return found | {name: True for name in ("forward", *more) if callable(getattr(module, name, None))}


def check_model(models: Any) -> None:
    """Finds what fully_shard cannot shard.

    Raises:
        ArgumentError: If a parameter has no dimension, no values yet, or is not dense; if models share one.
            `check_types` looks at those that are gathered together.
    """
    for name, model in named(models).items():
        for path, parameter in model.named_parameters():
            given, fix = None, ""
            if is_lazy(parameter) or parameter.is_meta:
                given, fix = "has no values yet", "run one batch through lazy modules before fit"
            elif parameter.ndim == 0:
                given = "has no dimension along which it could be sharded"
                fix = "make it a tensor of one element, nn.Parameter(torch.tensor([1.0])), or use DDP"
            elif parameter.layout is not torch.strided:
                given, fix = f"has the layout {parameter.layout}", "keep it dense, or use DDP"
            if given is not None:
                raise ArgumentError(
                    f"the parameter {f'{name}.' if name else ''}{path} {given}",
                    expected="dense parameters of one dimension or more, with values",
                    fix=fix,
                )
    owners: dict[int, str] = {}
    for name, model in named(models).items():
        for path, parameter in model.named_parameters():
            first = owners.setdefault(id(parameter), name)
            if first != name:
                raise ArgumentError(
                    f"the models {first!r} and {name!r} share the parameter {path}",
                    expected="parameters of its own for each model that is sharded",
                    fix="make one module of both models, or use DDP",
                )


def check_types(model: nn.Module, paths: Iterable[str]) -> None:
    """Finds parameters that cannot be gathered together, since they are trained in different types.

    Args:
        model: Before it is sharded.
        paths: As `groups` returns them.

    Raises:
        ArgumentError: If there are some.
    """
    seen: set[int] = set()
    for path in (*paths, ""):
        first: dict[torch.dtype, str] = {}
        for name, one in model.get_submodule(path).named_parameters():
            if id(one) not in seen and one.requires_grad:
                first.setdefault(one.dtype, f"{path}.{name}" if path else name)
            seen.add(id(one))
        if len(first) > 1:
            found = " and ".join(f"{name} ({kind})" for kind, name in first.items())
            raise ArgumentError(
                f"{found} are to be gathered together, and are trained in different types",
                expected="one type for all trained parameters of a block, and of what is in no block",
                fix="give all of them one type, wrap the modules of one type by FSDP(wrap=...), or use DDP",
            )


def check_optimizer(optimizers: Any, sharded: Mapping[int, str]) -> None:
    """Finds optimizers that cannot step sharded parameters, or whose memory cannot be sharded.

    Args:
        optimizers: One, or a list, tuple or dict of them, or None.
        sharded: The names of the parameters that are to be sharded, by their id.

    Raises:
        ArgumentError: If there is one.
    """
    for name, optimizer in named(optimizers).items():
        what = f"{type(optimizer).__name__}{suffix(name)}"
        if not isinstance(optimizer, Optimizer):
            continue
        if isinstance(optimizer, (torch.optim.LBFGS, torch.optim.Adafactor)):
            raise ArgumentError(
                f"{what} cannot step parameters that are sharded: it needs them whole",
                expected="an optimizer that works element by element, such as AdamW or SGD",
                fix='use such a one, or strategy="ddp"',
            )
        if isinstance(optimizer, _NO_FUSED) and any(group.get("fused") for group in optimizer.param_groups):
            raise ArgumentError(
                f"{what} was made with fused=True, and torch has no such step for sharded parameters",
                expected="fused=None or False; Adam and AdamW may be fused",
                fix=f"make it without: {type(optimizer).__name__}(..., foreach=True)",
            )
        for parameter, state in optimizer.state.items():
            if isinstance(parameter, Tensor) and id(parameter) in sharded:
                for key, value in state.items():
                    if not _can_shard(value, parameter):
                        raise ArgumentError(
                            f"what {what} keeps as {key!r} for {sharded[id(parameter)]} is {_described(value)}",
                            expected=f"numbers, or tensors of the parameter's shape {tuple(parameter.shape)}",
                            fix='use an optimizer that works element by element, or strategy="ddp"',
                        )


def _can_shard(value: Any, parameter: Tensor) -> bool:
    if isinstance(value, Tensor):
        return value.shape == parameter.shape or value.ndim == 0
    return value is None or isinstance(value, (bool, int, float, str))


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)


def policy_of(precision: Any) -> MixedPrecisionPolicy:
    """What is gathered and reduced in which type.

    Args:
        precision: None or "fp32" for the types of the parameters; "bf16" or "fp16" for parameters that are gathered so,
            whose gradients are reduced in 32 bits; or a policy of torch's.

    Raises:
        ArgumentError: If it is something else.
    """
    if isinstance(precision, MixedPrecisionPolicy):
        return precision
    kind = _TYPES.get(precision, precision) if isinstance(precision, str) else precision
    if kind is None or precision == "fp32":
        return MixedPrecisionPolicy()
    if not isinstance(kind, torch.dtype) or kind not in _TYPES.values():
        raise ArgumentError(
            f"FSDP was given precision={precision!r}",
            expected='None, "bf16", "fp16", or a torch.distributed.fsdp.MixedPrecisionPolicy',
            fix='for example FSDP(precision="bf16"): parameters are gathered as bf16, gradients reduced as fp32',
        )
    return MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32)


def skeleton(model: nn.Module) -> nn.Module | None:
    """A copy without values, from which an average can be made when the model cannot be copied any more."""
    memo: dict[int, Any] = {}
    for one in model.parameters():
        empty = torch.empty_like(one, device="meta", memory_format=torch.contiguous_format)
        memo[id(one)] = nn.Parameter(empty, requires_grad=one.requires_grad)
    try:
        return copy.deepcopy(model, memo)
    except Exception:  # whatever the user's own model raises
        return None


def make_contiguous(model: nn.Module) -> None:
    """In place: fully_shard takes no others, such as those of ``memory_format=torch.channels_last``."""
    for parameter in model.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def check_same(mesh: DeviceMesh, tensors: list[str], memory: list[tuple[str, Any]]) -> None:
    """Compares what is about to be exchanged; otherwise a difference would be a wait without end."""
    text = "\n".join([*tensors, *(name for name, _ in memory)])
    mine = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
    mine = mine.to(mesh.device_type)
    all_of_them = [torch.empty_like(mine) for _ in range(mesh.size())]
    dist.all_gather(all_of_them, mine, group=mesh.get_group())
    others = [rank for rank, one in enumerate(all_of_them) if not torch.equal(one, all_of_them[0])]
    if others:
        raise ArgumentError(
            f"the models or the optimizers' memory of process {', '.join(map(str, others))} are not those of process 0",
            expected="the same parameters and buffers, in the same order and shapes, in every process",
            fix="make the model and the optimizer in the same way whatever the rank",
        )
