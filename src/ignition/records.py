"""What a record of history is made of: the values it may hold, the order of its columns, and how it is written down."""

from __future__ import annotations

import csv
import difflib
import json
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO, TypeAlias

import torch

from ignition.errors import ArgumentError, MetricError
from ignition.files import open_regular

__all__ = [
    "Scalar",
    "check_column",
    "column_order",
    "decode",
    "encode",
    "number_text",
    "plain_values",
    "read_json",
    "scalar",
    "table",
    "unknown_column",
    "write_csv",
]

Scalar: TypeAlias = float | int | str | bool | None

_TAGS = {"inf": math.inf, "-inf": -math.inf, "none": None}
_GROUPS = ("epoch", "step", "train_", "val_", "val_ema_", "lr", "hyperparameter", "seconds", "data_seconds")


def _group(column: str) -> str:
    if column in ("epoch", "step", "seconds", "data_seconds", "lr"):
        return column
    for start in ("val_ema_", "val_", "train_", "lr_"):
        if column.startswith(start):
            return start if start in _GROUPS else "lr"
    return "hyperparameter"


def column_order(column: str) -> int:
    """A key to sort by: epoch, step, ``train_*``, ``val_*``, ``val_ema_*``, ``lr*``, hyperparameters, the seconds.

    Example:
        >>> sorted(["lr", "seconds", "lambd", "val_loss", "train_loss", "step"], key=column_order)
        ['step', 'train_loss', 'val_loss', 'lr', 'lambd', 'seconds']
    """
    return _GROUPS.index(_group(column))


def scalar(column: str, value: Any) -> Scalar:
    """The plain Python value that a record holds for `value`; numpy's numbers become Python's.

    Args:
        column: Its name. ``epoch`` and ``step`` are whole numbers from 0; metrics (``train_*``, ``val_*``), ``lr*`` and
            the seconds are numbers; a hyperparameter may be a string, a bool or None too.
        value: What to hold.

    Raises:
        ArgumentError: The value is none of these, or the name is no string.

    Example:
        >>> scalar("lambd", 4)
        4
    """
    if not isinstance(column, str):
        raise ArgumentError(
            f"a column is named by {_shown(column)}", "a string, such as 'val_loss'", "name it by a string"
        )
    group = _group(column)
    if group in ("epoch", "step"):
        if isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 0:
            return int(value)
        raise ArgumentError(
            f"{column} is {_shown(value)}",
            "a whole number, 0 or more",
            f"pass the count as an int: {{{column!r}: 1}}, for example",
        )
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if group == "hyperparameter" and (value is None or isinstance(value, str)):
        return None if value is None else str(value)
    raise ArgumentError(
        f"{column!r} is {_shown(value)}",
        "a number, a string, a bool or None" if group == "hyperparameter" else "a number",
        "take the number out with .item()" if hasattr(value, "item") else "leave it out, or put it into trainer.state",
    )


def _shown(value: Any) -> str:
    return f"{value!r:.60} ({type(value).__name__})"


def encode(value: Scalar) -> Any:
    """A record's value for strict JSON: NaN as null, and what else JSON cannot say as ``{"is": "inf"}``.

    Example:
        >>> encode(0.5), encode(float("nan")), encode(float("-inf")), encode(None)
        (0.5, None, {'is': '-inf'}, {'is': 'none'})
    """
    if value is None:
        return {"is": "none"}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else {"is": str(value)}
    return value


def decode(value: Any) -> Any:
    """What `encode` was given.

    Raises:
        ArgumentError: `value` is an object that `encode` never returns.
    """
    if value is None:
        return math.nan
    if not isinstance(value, dict):
        return value
    tag = value.get("is")
    if len(value) != 1 or not isinstance(tag, str) or tag not in _TAGS:
        raise ArgumentError(
            f"{_shown(value)} is no value of a record",
            "a plain value, as encode made it",
            "use an intact copy; that one was cut off or changed",
        )
    return _TAGS[tag]


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Scalar]], width: int = 120) -> str:
    """Rows under each other, aligned to the right; "-" where a row has no such value.

    Args:
        columns: From left to right. Where they do not fit, the last ones give way to "...".
        rows: From top to bottom.
        width: In characters.

    Example:
        >>> print(table(["epoch", "val_loss"], [{"epoch": 1}, {"epoch": 2, "val_loss": 0.123456}]))
        epoch  val_loss
            1         -
            2    0.1235
    """
    cells = [[name, *(_cell(row[name]) if name in row else "-" for row in rows)] for name in columns]
    padded = [[text.rjust(max(map(len, column))) for text in column] for column in cells]
    if sum(len(column[0]) + 2 for column in padded) > width + 2:
        while len(padded) > 1 and sum(len(column[0]) + 2 for column in padded) + 3 > width:
            padded.pop()
        padded.append(["..."] * (len(rows) + 1))
    return "\n".join("  ".join(line) for line in zip(*padded, strict=True))


def number_text(value: Any) -> str:
    """A number in nine characters or less: four decimals, or three digits where those would show too little.

    Example:
        >>> number_text(0.98765), number_text(0.00012), number_text(31)
        ('0.9877', '0.00012', '31')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return " ".join(str(value).splitlines())  # a hyperparameter's text may have several
    if isinstance(value, int) and abs(value) < 1e8:
        return str(value)
    if 1e-2 <= abs(value) < 1e3 or (abs(value) < 1 and math.isclose(value, round(value, 4))):
        return f"{value:.4f}"
    return f"{value:.2f}" if 1e3 <= abs(value) < 1e5 else f"{value:.3g}"


def check_column(name: Any) -> str:
    """`name`, if it is one.

    Raises:
        ArgumentError: `name` is no string.
    """
    if isinstance(name, str):
        return name
    is_place = isinstance(name, (int, slice))
    fix = "a record is history.rows[index], the last one history.last" if is_place else "pass the name as text"
    raise ArgumentError(f"a column is named by {name!r:.60}", "a string, such as 'val_loss'", fix)


def unknown_column(name: str, columns: Sequence[str]) -> MetricError:
    """The error for a column that no record has, with the ones there are; `columns` is empty before the first."""
    if not columns:
        return MetricError(
            f"there is no {name!r}, as there is no record yet",
            "a record, which is made at each epoch's end and every eval_every steps",
            "train to the end of an epoch: trainer.fit(epochs=1), or pass fit(steps=..., eval_every=...)",
        )
    near = [column for column in columns if column.endswith(f"_{name}")]
    near = near or difflib.get_close_matches(name, columns, n=3)
    fix = f"did you mean {' or '.join(map(repr, near))}?" if near else "name one of these"
    if name.startswith("val_") and not any(column.startswith("val_") for column in columns):
        fix = "give the Trainer an eval_fn and a test_loader, or name a train_ metric"
    return MetricError(f"no record has {name!r}", f"one of {', '.join(columns)}", fix)


def _cell(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.splitlines()[0][:20] if isinstance(value, str) and value else str(value)


def write_csv(file: TextIO, columns: Sequence[str], rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Writes a header and a line a row; what is NaN, None or not there is empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(name) for name in columns]
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a file of strict JSON holds.

    Raises:
        ArgumentError: The file is no JSON; NaN and Infinity, which Python's reader lets pass, are none either.
        OSError: The file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return json.loads(file.read(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(
            f"{os.fspath(path)} is no JSON: {error}",
            "a file that was written as JSON",
            "see whether it is the right file, and whole",
        ) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in the standard")


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that can be entries of history: plain values, and tensors of one element as numbers."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()  # once a record: waits where it is on an accelerator
        if isinstance(value, (numbers.Real, str)) or value is None:  # numpy's numbers are Real too
            plain[name] = value
    return plain
