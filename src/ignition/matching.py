"""Whether a checkpoint is that of this model, these optimizers and this data."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import BatchSampler

from ignition import distributed
from ignition.buffers import is_unset
from ignition.checkpoint import Content
from ignition.codec import decode
from ignition.data import keeps_place, length_of, sure_length
from ignition.data_order import ORDER, order_of
from ignition.errors import CheckpointError
from ignition.structure import key_in, named

__all__ = [
    "are_usual",
    "check_data",
    "check_dense",
    "check_model",
    "check_order_kept",
    "check_place",
    "checked_optimizers",
    "data_size",
]

# Types of several elements to a byte.
_PACKED = {value for name, value in vars(torch).items() if re.fullmatch(r"u?int[1-7]|bits\w+", name)}
_USUAL = {Tensor, nn.Parameter}
_FORM = attrgetter("layout", "dtype", "is_meta")
_WHOLE = {torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8}


def data_size(loader: Any) -> dict[str, int | None]:
    """How many batches and samples there are in an epoch, and samples in a batch, as far as the loader says."""
    samples = length_of(getattr(loader, "dataset", None))
    size = getattr(loader, "batch_size", None)
    if size is None and type(batches := getattr(loader, "batch_sampler", None)) is BatchSampler:
        size = batches.batch_size
    return {
        "batches": length_of(loader),
        "samples": getattr(loader, "samples", samples),
        "batch_size": size if isinstance(size, int) else None,
    }


def are_usual(tensors: Collection[Tensor]) -> bool:
    """Whether a checkpoint can hold tensors, for all that can be told at once: the training waits."""
    if not {*map(type, tensors)} <= _USUAL:
        return False
    forms = {*map(_FORM, tensors)}  # of many tensors few
    return all(layout is torch.strided and dtype in _WHOLE and not is_meta for layout, dtype, is_meta in forms)


def check_dense(tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError if a checkpoint cannot hold one of some tensors, given by their names."""
    if not are_usual(tensors.values()):
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if are_usual((tensor,)):
        return
    problem = None
    if is_lazy(tensor):
        problem = "that of a lazy module, which has seen no batch yet"
    elif tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        problem = f"{'quantised' if tensor.is_quantized else tensor.layout} on the device {tensor.device}"
    elif tensor.dtype in _PACKED:
        problem = f"of {tensor.dtype}"
    if problem is not None:
        raise CheckpointError(
            f"the tensor {name} is {problem}, which a checkpoint cannot hold",
            expected="dense tensors of whole bytes, with content",
            fix="keep it dense, or give what holds it state_dict and load_state_dict that do; "
            "run one batch through lazy modules first",
        )


def check_model(models: Any, content: Content, source: str) -> None:
    """Raises CheckpointError if the parameters and buffers are others than those of the checkpoint."""
    saved = content.tensors.get("model", {})
    expected = {
        key_in(name, key): value
        for name, module in named(models).items()
        for key, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    unset = content.state.get("unset", ())  # buffers that the model sets as it runs may be there, or not yet
    later = {
        name
        for name in saved
        for prefix, module in named(models).items()
        if name.startswith(key_in(prefix, "")) and is_unset(module, name.removeprefix(key_in(prefix, "")))
    }
    missing = [name for name in expected if name not in saved and name not in unset]
    unexpected = [name for name in saved if name not in expected and name not in later]
    known = {name: value for name, value in expected.items() if name in saved}
    misshapen = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(value.shape)}"
        for name, value in known.items()
        if not is_lazy(value) and saved[name].shape != value.shape
    ]
    mistyped = [
        f"{name} {saved[name].dtype} instead of {value.dtype}"
        for name, value in known.items()
        if saved[name].dtype != value.dtype
    ]
    if missing or unexpected or misshapen or mistyped:
        parts = {
            "missing": missing,
            "unexpected": unexpected,
            "of another shape": misshapen,
            "of another type": mistyped,
        }
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        raise CheckpointError(
            f"the checkpoint {source} is that of another model ({found})",
            expected="the parameters and buffers of this one",
            fix="make the model as the script did that wrote it, or use another folder; to load a part of the weights "
            "for fine-tuning, use load_weights(model, path, strict=False)",
        )


def check_data(loader: Any, state: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if the training data are others than those of the checkpoint."""
    now, then = data_size(loader), state["data"]
    shared = ["batches", "samples", "batch_size"]
    if 1 + len(state["processes"]["others"]) != distributed.world_size() and now["samples"] is not None:
        shared = ["samples"]  # the size of a batch may have been divided by another number
    elif _has_memory(state):
        shared = ["samples", "batch_size"]  # how many batches there are may depend on what the sampler remembers
    if any(now[name] != then[name] for name in shared):
        raise CheckpointError(
            f"the checkpoint {source} was written with a train_loader of {_size(then)}, and now it has {_size(now)}",
            expected="the same data, in batches of the same size, since the place in them is part of the checkpoint",
            fix="set the loader that was read then before this fit (or load), where a script has several of them; or "
            "begin anew in another folder with SaveModel's weights",
        )
    if (keeps_place(loader) is None) != (state["loader"] is None):
        raise CheckpointError(
            f"the checkpoint {source} has {'no' if state['loader'] is None else 'a'} state of the train_loader, "
            f"and now it is {'none' if keeps_place(loader) is None else 'one'} that keeps its place by itself",
            expected="the same loader",
            fix="use the one with which the checkpoint was written, or begin anew in another folder",
        )


def check_order_kept(loader: Any, state: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if an epoch that is open was read in another order than the loader's."""
    now_by, then_by = order_of(loader), state["fit"].get("options", {}).get(ORDER)
    if state["order"].get("epoch") and state["position"]["batch"] and then_by not in (None, now_by):
        raise CheckpointError(
            f"the checkpoint {source} is from the middle of an epoch that was read {then_by}, and now train_loader "
            f"reads {now_by}",
            expected="the same order until that epoch's end, since the place in it is part of the checkpoint",
            fix="put the order back until an epoch has ended, where it may change; or begin anew in another folder",
        )


def check_place(loader: Any, state: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if a checkpoint says that more batches of an epoch are done than there are."""
    length, count = sure_length(loader), 1 + len(state["processes"]["others"])
    if length is not None and count == distributed.world_size() and not _has_memory(state):
        done = state["position"]["batch"] * count + state["position"]["offset"]
        if done >= length + count:  # a last round has no more than one batch for each
            raise CheckpointError(
                f"the checkpoint {source} is broken: position.batch in state.json says that {done} batches are done "
                f"of the {length} of an epoch",
                expected="as many as there are",
                fix="use another checkpoint, or delete this one",
            )


def _has_memory(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint holds what a sampler remembers, which its length may follow."""
    order = state.get("order") or {}
    return bool(order.get("memory") or order.get("now", {}).get("memory"))


def _size(size: Mapping[str, Any]) -> str:
    return f"{size['batches']} batches and {size['samples']} samples"


def checked_optimizers(optimizer: Any, content: Content, source: str) -> dict[str, Any]:
    """The states of the optimizers, by name. Raises CheckpointError if they are others than those that are here."""
    saved, now = content.state["optimizers"], named(optimizer)
    if saved.keys() != now.keys():
        raise CheckpointError(
            f"the checkpoint {source} is that of the optimizers {list(saved)}, and here are {list(now)}",
            expected="the same optimizers, under the same names",
            fix="give the Trainer those that the script had then, or begin anew in another folder",
        )
    kinds, here = content.state["optimizer_kinds"], {name: type(one).__name__ for name, one in now.items()}
    if kinds != here:
        raise CheckpointError(
            f"the checkpoint {source} was written with {_listed(kinds)}, and here is {_listed(here)}",
            expected="the same kind of optimizer, since its memory is part of the checkpoint",
            fix="use the same, or begin anew in another folder with SaveModel's weights",
        )
    states = {name: decode(saved[name], content.tensors.get("optimizer", {})) for name in saved}
    for name, one in now.items():
        groups = [len(group["params"]) for group in states[name].get("param_groups", ())]
        present = [len(group["params"]) for group in getattr(one, "param_groups", ())]
        if groups != present:
            raise CheckpointError(
                f"in the checkpoint {source} {type(one).__name__} has groups of {groups} parameters, here of {present}",
                expected="the same parameter groups as when it was written",
                fix="add them before fit, as the script did",
            )
    return states


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} ({name})" if name else kind for name, kind in kinds.items())
