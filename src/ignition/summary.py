"""What a model is made of: layers, shapes, parameters, memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from ignition import rng
from ignition.arguments import check_model
from ignition.device import device_of
from ignition.errors import ArgumentError
from ignition.memory import Memory
from ignition.structure import like, named

__all__ = ["Summary", "summary"]

_SHAPES = ("input_size", "output_size")
_COUNTS = ("num_params", "trainable")


class Summary:
    """Tables of models, one below the other, and what they add up to. Shown and printed as text.

    Args:
        tables: A result of torchinfo for each model, by name.
        models: The models.

    Attributes:
        tables: What torchinfo found, by the models' names; ``""`` for a single one.
        parameters: The number of parameters of all models; what two of them share is counted once.
        trainable: How many of them require a gradient.
        bytes: The memory of parameters and buffers, in bytes.
    """

    def __init__(self, tables: Mapping[str, Any], models: Mapping[str, nn.Module]) -> None:
        self.tables = dict(tables)
        parameters = {id(one): one for model in models.values() for one in model.parameters()}
        buffers = {id(one): one for model in models.values() for one in model.buffers()}
        self.parameters = sum(one.numel() for one in parameters.values())
        self.trainable = sum(one.numel() for one in parameters.values() if one.requires_grad)
        self.bytes = sum(one.numel() * one.element_size() for one in (parameters | buffers).values())

    def __repr__(self) -> str:
        # torchinfo 1.8 prints the name of a unit's enumeration for its letter.
        tables = {name: re.sub(r"Units\.(\w)\w*", r"\1", str(table)) for name, table in self.tables.items()}
        parts = [f"{name}\n{table}" if name else table for name, table in tables.items()]
        frozen = self.parameters - self.trainable
        total = f"{self.parameters:,} parameters, {self.trainable:,} trained, {frozen:,} frozen"
        return "\n\n".join([*parts, f"{total}; {self.bytes / 1e6:,.2f} MB with buffers"])


def summary(model: Any, input: Any = None, *, input_size: Any = None, depth: int = 3) -> Summary:
    """A table of a model's layers, with shapes, parameters and memory, by torchinfo.

    Layers whose parameters are frozen have False in the column "Trainable", those with some of them frozen "Partial",
    and their numbers stand in brackets. With an input the model is called once, in evaluation mode and without
    gradients, on the device where it is. Nothing is changed: neither modes nor buffers nor generators.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them.
        input: What the model is called with: a tensor ``(batch, ...)``, a tuple or list of arguments, or a dict of
            named ones. For several models one for each, in the same structure. Without any input the table has no
            shapes.
        input_size: In the place of `input`, the shape of a tensor of random numbers, such as ``(1, 3, 224, 224)``, or
            a list of several shapes. For several models one for each.
        depth: How many levels of modules inside modules are shown.

    Returns:
        An object that prints itself, with `parameters`, `trainable` and `bytes`.

    Raises:
        ArgumentError: If `model` is no module, both inputs are given, they do not belong to the models, `depth` is no
            integer of 1 or more, a model is lazy still, or torchinfo is missing.
        RuntimeError, TypeError, ValueError: From torchinfo, if the model cannot be called with the input, or
            `input_size` is no shape.

    Example:
        >>> import torch
        >>> found = summary(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 4))
        >>> found.parameters, found.trainable, found.bytes
        (67, 67, 268)
    """
    check_model(model, "pass a model: summary(model, input)")
    if input is not None and input_size is not None:
        raise ArgumentError("summary was given input and input_size", expected="one of them", fix="leave one out")
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ArgumentError(f"depth={depth!r}", expected="an integer of 1 or more", fix="for example depth=3")
    models = named(model)
    inputs = _for_each(model, "input", input)
    sizes = _for_each(model, "input_size", input_size)
    table_of = _torchinfo()
    memory, generators = Memory(models.values()), rng.capture()
    tables = {}
    try:
        for name, one in models.items():
            shapes = () if inputs[name] is None and sizes[name] is None else _SHAPES
            tables[name] = table_of(
                one, input_data=inputs[name], input_size=sizes[name], depth=depth, col_names=(*shapes, *_COUNTS),
                col_width=16, device=device_of(one), row_settings=("var_names", "depth"), mode="eval", verbose=0,
            )  # fmt: skip
    finally:
        memory.restore()
        rng.restore(generators)
    return Summary(tables, models)


def _for_each(model: Any, role: str, given: Any) -> dict[str, Any]:
    """What is given for each model, by its name."""
    if given is None:
        return dict.fromkeys(named(model))
    if isinstance(model, nn.Module):
        return {"": given}
    each = named(given) if isinstance(given, (Mapping, list, tuple)) else {}
    if each.keys() != named(model).keys():
        raise ArgumentError(
            f"{role} has {list(each) or type(given).__name__}, and the models are {list(named(model))}",
            expected=f"an {role} for each model, in the same structure",
            fix=f"for example {role}={like(model, lambda one: ...)!r}",
        )
    return each


def _torchinfo() -> Any:
    try:
        from torchinfo import summary as table_of
    except ImportError as error:
        raise ArgumentError(
            "summary needs torchinfo, which is not installed",
            expected="the package torchinfo",
            fix='pip install "torch-ignition[summary]"',
        ) from error
    return table_of
