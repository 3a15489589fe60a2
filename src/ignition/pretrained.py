"""Weights from a file into a model: all of them, or those that fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ignition import sharded_checkpoint
from ignition.arguments import check_model
from ignition.errors import ArgumentError, CheckpointError, kind_of
from ignition.files import open_regular
from ignition.structure import named
from ignition.tensor_files import is_whole

__all__ = ["LoadedWeights", "load_weights"]


class LoadedWeights(NamedTuple):
    """What `load_weights` did.

    Attributes:
        loaded: The names that were loaded.
        missing: Those that the model has and the file has not; they are as they were.
        unexpected: Those that the file has and the model has not.
        misshapen: Those that both have in different shapes, with the shapes; they are as they were.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    def __str__(self) -> str:
        left = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in left.items() if names)
        return f"{len(self.loaded)} loaded" + (f"; {found}" if found else "")


def load_weights(model: Any, path: str | os.PathLike[str], strict: bool = True) -> LoadedWeights:
    """Loads weights and buffers from a file that `SaveModel` wrote, from a checkpoint, or from another tool's file.

    Nothing in the file is executed: ``.pt`` files are read with ``weights_only=True``.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them, as when the file was written.
        path: A ``.pt`` or ``.safetensors`` file, or the folder of a checkpoint.
        strict: Whether every name and shape must fit. Otherwise, as for fine-tuning, what fits is loaded.

    Returns:
        What was loaded, in the model's own types, and what was not; print it to see both.

    Raises:
        ArgumentError: If `model` is no model or is lazy still, or the path ends in something else.
        CheckpointError: If the file is not there or cannot be read, or does not fit and `strict` is true. Nothing is
            loaded then.
        TypeError: If `path` is no path.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(nn.Linear(2, 3).state_dict(), f"{folder}/a.pt")
        ...     print(load_weights(nn.Linear(2, 5), f"{folder}/a.pt", strict=False))
        0 loaded; of another shape: weight (3, 2) in the file and (5, 2) in the model, bias (3,) in the file and (5,) in the model
    """  # noqa: E501
    check_model(model, fix="check the order: load_weights(model, path)")
    saved = _read(Path(path))
    here = {
        f"{name}.{key}" if name else key: value
        for name, module in named(model).items()
        for key, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    lazy = next((name for name, value in here.items() if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentError(
            f"load_weights was given a model whose {lazy!r} has no shape yet",
            expected="a model whose lazy modules have seen a batch",
            fix="call it once before: model(x)",
        )
    fits = [name for name in here if name in saved and saved[name].shape == here[name].shape]
    report = LoadedWeights(
        fits,
        [name for name in here if name not in saved],
        [name for name in saved if name not in here],
        [
            f"{name} {tuple(saved[name].shape)} in the file and {tuple(value.shape)} in the model"
            for name, value in here.items()
            if name in saved and saved[name].shape != value.shape
        ],
    )
    if strict and len(fits) != len(here | saved):
        raise CheckpointError(
            f"{os.fspath(path)} does not fit the model: {report}",
            expected="the same names and shapes",
            fix="load what fits with strict=False",
        )
    with torch.no_grad():
        for name in fits:
            target, source = here[name], saved[name]  # what a state dict holds is the model's own memory
            if hasattr(target, "device_mesh"):  # rows of it
                from ignition.dtensors import copy_into

                copy_into(target, source)
            else:
                target.copy_(source)
    return report


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; those of several models as ``"name.parameter"``."""
    if any(path.glob("model-*-of-*.safetensors")):  # of a sharded model
        return sharded_checkpoint.read(path).tensors["model"]
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix not in (".pt", ".safetensors"):
        raise ArgumentError(
            f"load_weights was given {str(path)!r}",
            expected="a .pt or .safetensors file, or the folder of a checkpoint",
            fix="rename the file if it is one of these, such as a .pth that torch.save wrote",
        )
    try:
        with open_regular(path, is_whole if path.suffix == ".safetensors" else None) as file:
            if path.suffix == ".pt":
                return _flat(torch.load(file, map_location="cpu", weights_only=True))
            from safetensors.torch import load

            return load(file.read())
    except Exception as error:  # whatever a reader raises of a file that is not what its name says
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="a state dict of tensors",
            fix="see whether the file is whole; a file that holds a pickled model is not read, since that runs code",
        ) from error


def _flat(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds {kind_of(state)}")
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{key}": one for key, one in value.items() if isinstance(one, Tensor)}
    return flat
