"""The weights of a model, or of several: copied to the CPU, put back, and written to files that are whole or not there.

A ``.pt`` file holds a plain state dict, or with several models ``{name: state dict}``; ``torch.load(path,
weights_only=True)`` reads it. A ``.safetensors`` file holds the same tensors; with several models its keys are
"name.parameter" and its metadata has the names as JSON under "models".
"""

from __future__ import annotations

import copy
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ignition import distributed
from ignition.buffers import is_unset
from ignition.errors import ArgumentError, kind_of
from ignition.files import write_whole
from ignition.strategy import as_sharded, is_sharded
from ignition.structure import named

__all__ = [
    "ENDINGS",
    "Weights",
    "check_fit",
    "check_there",
    "check_weights",
    "copy_weights",
    "restore_weights",
    "write_weights",
]

ENDINGS = (".pt", ".safetensors")
"""The endings of the files that can be written."""

Weights: TypeAlias = "dict[str, OrderedDict[str, Any]]"
"""A state dict for each name of `ignition.structure.named`; the name of an only model is ""."""


def copy_weights(models: Any) -> Weights:
    """The state dicts, parameters and buffers, as CPU tensors that share no memory with the models.

    What is the same tensor under two names, as tied weights are, is one copy under both.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them. The keys of one from ``torch.compile`` are those of
            the model inside it, so that they fit a plain one.

    Raises:
        ArgumentError: If a tensor has no values yet: a lazy module before its first call, or the meta device.
    """
    copies: dict[Any, Tensor] = {}
    return {name: _copy_state(name, _plain(model), copies) for name, model in named(models).items()}


def restore_weights(models: Any, weights: Weights) -> None:
    """Puts back what `copy_weights` returned, in place; every key must be there, and no other.

    Raises:
        ArgumentError: If the models have other names than when they were copied.
        RuntimeError: From torch, if a model has other parameters than when it was copied.
    """
    modules = named(models)
    if modules.keys() != weights.keys():
        raise ArgumentError(
            f"weights of the models {_listed(weights)}",
            f"weights of {_listed(modules)}",
            "use the same structure of models, under the same names, as when the weights were copied",
        )
    for name, model in modules.items():
        _plain(model).load_state_dict(as_sharded(weights[name], _plain(model)))  # whole ones, from a checkpoint


def check_fit(models: Any, weights: Mapping[str, Any], what: str) -> None:
    """Finds out whether `restore_weights` can put weights back: their names, shapes and types.

    Args:
        models: Those that are there now.
        weights: As `copy_weights` returns them.
        what: What they are, for the message.

    Raises:
        ArgumentError: If they are those of other models.
    """
    modules = named(models)
    problem = (
        None if modules.keys() == weights.keys() else f"is that of {_models(weights)}, and here is {_models(modules)}"
    )
    for name, model in modules.items() if problem is None else ():
        state, here = weights[name], _plain(model).state_dict()
        if not isinstance(state, Mapping) or not _are_names(state.keys(), here.keys(), _plain(model)):
            problem = f"has not the names of {_models([name])}"
            break
        for key, value in here.items():
            if isinstance(value, Tensor) and not is_lazy(value) and _kind(state[key]) != _kind(value):
                problem = f"has {_key(name, key)} of {_kind(state[key])}, and here it is of {_kind(value)}"
        if problem is None and not all(isinstance(value, Tensor) for value in here.values()):
            try:  # whether a module takes back what it has given by get_extra_state, it alone can tell
                copy.deepcopy(_plain(model)).load_state_dict(state)
            except Exception as error:
                problem = f"cannot be put into {_models([name])} ({error!r})"
    if problem is not None:
        raise ArgumentError(f"{what} {problem}", "weights of these models", "make the models as they were made then")


def _are_names(saved: Set[str], here: Set[str], model: nn.Module) -> bool:
    """Whether they are the same, but for buffers that the model is still to set."""
    return not here - saved and all(is_unset(model, key) for key in saved - here)


def _models(names: Iterable[str]) -> str:
    return ", ".join(f"the model {name}" if name else "one model" for name in names) or "no model"


def _kind(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_weights(models: Any, ending: str) -> None:
    """Finds out before a training whether these models can be written to a file of that kind; copies nothing.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them.
        ending: ".pt" or ".safetensors".

    Raises:
        ArgumentError: If the ending is another; if a state dict holds an object that ``torch.load(weights_only=True)``
            refuses; for ``.safetensors`` also if it holds anything but dense tensors of a type that the format has, or
            if a name of several models is empty or has a dot.
    """
    if ending not in ENDINGS:
        raise ArgumentError(
            f"weights in a file that ends in {ending!r}",
            f"one of {', '.join(ENDINGS)}",
            f"name the file with one of these, such as model{ENDINGS[0]}",
        )
    names = [*named(models)]
    if ending == ".safetensors" and names != [""]:
        for name in names:
            if not name or "." in name:
                raise ArgumentError(
                    f"{name!r} as the name of one of several models in a .safetensors file",
                    "a name that is not empty and has no dot, since its keys are 'name.parameter'",
                    "rename it in the dict of models, or write to a .pt file",
                )
    states = {name: _plain(model).state_dict() for name, model in named(models).items()}
    for name, state in states.items():
        for key, value in state.items():
            reason = _not_for_safetensors(value) if ending == ".safetensors" else _not_for_torch(value)
            if reason is not None:
                raise ArgumentError(
                    f"{_key(name, key)!r} in the model's state dict is {reason}",
                    "dense tensors" if ending == ".safetensors" else "tensors and plain values",
                    "write to a .pt file" if ending == ".safetensors" else "keep it out of get_extra_state",
                )


def write_weights(models: Any, path: str | os.PathLike[str]) -> None:
    """Writes the weights as CPU tensors, to ``.pt`` or ``.safetensors`` as the path ends; see the module for the form.

    Of many processes the first one writes. If the models are sharded, all must call it: the tensors are joined one by
    one, and kept by the first.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them.
        path: The file. Its folders are made; what is there is replaced once the new file is whole and on the disk.

    Raises:
        ArgumentError: As `check_weights` and `copy_weights` do.
        OSError: If the file cannot be written. What was there stays, and nothing else is left.
    """
    ending = Path(path).suffix
    check_weights(models, ending)
    if is_sharded(models):
        from ignition.sharded_weights import gather_weights

        gathered = gather_weights(models, keep=distributed.is_main())
    else:
        gathered = copy_weights(models) if distributed.is_main() else None
    if gathered is None:
        return
    weights = gathered
    write = _write_safetensors if ending == ".safetensors" else _write_torch
    write_whole(path, lambda partial: write(weights, partial))


def _plain(model: nn.Module) -> nn.Module:
    inner = getattr(model, "_orig_mod", None)  # what torch.compile(model) wraps
    return inner if isinstance(inner, nn.Module) else model


def _copy_state(name: str, model: nn.Module, copies: dict[Any, Tensor]) -> OrderedDict[str, Any]:
    state = model.state_dict()
    copied: OrderedDict[str, Any] = OrderedDict()
    for key, value in state.items():
        is_tensor = isinstance(value, Tensor)
        copied[key] = _copy_tensor(_key(name, key), value, copies) if is_tensor else copy.deepcopy(value)
    if hasattr(state, "_metadata"):  # the versions of the modules, which load_state_dict reads
        copied._metadata = state._metadata  # type: ignore[attr-defined]
    return copied


def check_there(model: nn.Module) -> None:
    """Raises ArgumentError if a tensor of a model has no values yet, as in a lazy module before its first call."""
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor):
            _check_there(key, value)


def _check_there(key: str, tensor: Tensor) -> None:
    if is_lazy(tensor) or tensor.is_meta:
        raise ArgumentError(
            f"{key!r} has no values yet",
            "a model whose parameters are there",
            "call a lazy model once on a batch; move one from the meta device with to_empty and initialise it",
        )


def _copy_tensor(key: str, tensor: Tensor, copies: dict[Any, Tensor]) -> Tensor:
    _check_there(key, tensor)
    if tensor.layout is not torch.strided:
        return tensor.detach().to("cpu", copy=True)
    if hasattr(tensor, "device_mesh"):  # the rows of this process, where they are
        return tensor.detach().clone()
    place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if place not in copies:
        copies[place] = tensor.detach().to("cpu", copy=True)  # waits for an accelerator
    return copies[place]


def _write_torch(weights: Weights, path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(weights[""] if [*weights] == [""] else dict(weights), file)
    except RuntimeError as error:
        # torch says "unexpected pos" of a full disk; the reason is what it was raised upon.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _write_safetensors(weights: Weights, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, state in weights.items():
        for key, tensor in state.items():
            # The format has neither strides nor shared tensors: tied weights are written twice.
            tensors[_key(name, key)] = (tensor.clone() if id(tensor) in seen else tensor).contiguous()
            seen.add(id(tensor))
    metadata = {"format": "pt"} | ({} if [*weights] == [""] else {"models": json.dumps([*weights])})
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _not_for_torch(value: Any) -> str | None:
    """Why ``torch.load(weights_only=True)`` would refuse what ``torch.save`` writes of this; None if it does not."""
    if isinstance(value, Tensor):
        return None
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # anything: it is the user's object that is written
        return f"{kind_of(value)}, which torch.load refuses with weights_only=True"
    return None


def _not_for_safetensors(value: Any) -> str | None:
    from safetensors.torch import save

    if not isinstance(value, Tensor):
        return f"{kind_of(value)}, which .safetensors cannot hold"
    if value.layout is not torch.strided:
        return f"a tensor of layout {value.layout}, which .safetensors cannot hold"
    try:
        save({"one": torch.empty(0, dtype=value.dtype)})
    except (KeyError, ValueError):
        return f"a tensor of {value.dtype}, which .safetensors cannot hold"
    return None


def _key(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
