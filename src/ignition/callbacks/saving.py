"""Writing a model's weights to files while it trains."""

from __future__ import annotations

import os
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from ignition.callbacks.base import Callback
from ignition.callbacks.schedule import positive_count
from ignition.errors import ArgumentError, MetricError, kind_of
from ignition.ranking import Mode, check_mode, direction, is_better
from ignition.state_values import check_memory
from ignition.weights import ENDINGS, check_weights, write_weights

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["SaveModel", "mode_of"]

_COUNTS = ("epoch", "step")
_SECONDS = ("seconds", "data_seconds")


class SaveModel(Callback):
    """Writes the model's weights, parameters and buffers, at the end of epochs or whenever a metric is best.

    The weights are CPU tensors under the names that the model's ``state_dict()`` gives them, so they load into a plain
    model on any machine. With several models a ``.pt`` file holds ``{name: state dict}``, and a ``.safetensors`` file
    the keys "name.parameter" and the names as JSON under "models" in its metadata. A file is written beside, flushed
    to the disk and renamed: it is whole or not there. One of the same name is overwritten; folders are made.
    Averages of the model that another callback keeps go beside it: ``best.ema.pt`` beside ``best.pt``.

    ``trainer.epoch`` is what counts, so the next fit counts on. With `best`, every record is looked at (so those of
    ``eval_every`` too), and compared with the best that this callback has seen, in earlier fits and before a resume
    too; a Trainer without history starts again. NaN is never best, 0.0 is a value like others.

    Args:
        filename: Where to, ending in ``.pt`` or ``.safetensors``. In braces may stand ``epoch``, ``step`` and any
            column of the record, with a format: ``"runs/{epoch:03d}-{val_acc:.3f}.pt"``. A literal brace is doubled.
        every: Write after each epoch whose number is a multiple of it.
        best: A column of history, such as "val_acc": write only when it is better than ever before.
        mode: With `best`, "min" or "max". Default: what the metric's name tells.

    Attributes:
        last_path: The file written last, a ``Path``, or None.
        best_value: The best value of `best` so far, or None.

    Raises:
        ArgumentError: At once if `filename` is malformed, has another ending, or reaches for an attribute or an item;
            if `every` is no whole number of 1 or more, or not 1 beside `best`; if `mode` is neither, is missing where
            the name does not tell, or comes without `best`. At the fit's start if a placeholder can be no column, or
            the model cannot be written to such a file.
        MetricError: Before the first record is written if it lacks `best` or a placeholder's metric; before the first
            batch if that is one of an evaluation and there is none.
        OSError: If a file cannot be written. Nothing of it is left then, and one that was there before stays.

    Example:
        >>> from ignition.callbacks import SaveModel
        >>> each_epoch = SaveModel("runs/digits/{epoch:03d}-{val_loss:.4f}.safetensors")
        >>> only_better_ones = SaveModel("runs/digits/best.pt", best="val_acc")

        It is read with plain torch::

            model.load_state_dict(torch.load("runs/digits/best.pt", weights_only=True))
    """

    def __init__(
        self, filename: str | os.PathLike[str], every: int = 1, best: str | None = None, mode: Mode | None = None
    ) -> None:
        self.filename = _checked_filename(filename)
        self._parts = _parts(self.filename)
        self.every = positive_count("every of SaveModel", every)
        if best is None:
            if mode is not None:
                raise ArgumentError(
                    f"mode={mode!r} without best",
                    "the metric it is about: best='val_acc'",
                    "pass best= too, or leave mode= out",
                )
            self.mode = None
        else:
            self.mode = mode_of(best, mode)
            if self.every != 1:
                raise ArgumentError(
                    f"every={every} with best={best!r}",
                    "one of the two: with best each record is looked at",
                    "leave out every, or use two SaveModel",
                )
        self.best = best
        self.best_value: float | None = None
        self.last_path: Path | None = None

    def __repr__(self) -> str:
        which = f"every={self.every}" if self.best is None else f"best={self.best!r}, mode={self.mode!r}"
        return f"SaveModel({self.filename!r}, {which})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Checks what can be known before the first batch, and makes the folder if its name is known."""
        for name, spec in self._placeholders():
            if not _known(name):
                _check_hyperparameter(self.filename, name, spec, trainer.hyper)
        check_weights(trainer.model, Path(self.filename).suffix)
        Path(os.path.dirname(self._parts[0][0])).mkdir(parents=True, exist_ok=True)  # as far as it is known
        if not len(trainer.history):
            self.best_value = None

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Writes the weights if the metric is the best so far."""
        if self.best is None or self.mode is None:
            return
        value = trainer.history.latest(self.best)
        if is_better(value, float("nan") if self.best_value is None else self.best_value, self.mode):
            self._write(trainer)
            self.best_value = value

    def on_epoch_end(self, trainer: Trainer[Any]) -> None:
        """Writes the weights if it is the turn of this epoch."""
        if self.best is None and trainer.epoch % self.every == 0:
            self._write(trainer)

    def columns_needed(self) -> tuple[str, ...]:
        """`best`, and the placeholders that are columns."""
        names = [name for name, _ in self._placeholders() if _known(name) and name not in (*_COUNTS, *_SECONDS)]
        return tuple(names if self.best is None else [self.best, *names])

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and the file written last."""
        return {"best_value": self.best_value, "last_path": None if self.last_path is None else str(self.last_path)}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the values."""
        check_memory(self, state, best_value="number or none", last_path="text or none")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.best_value = None if state["best_value"] is None else float(state["best_value"])
        self.last_path = None if state["last_path"] is None else Path(state["last_path"])

    def _placeholders(self) -> list[tuple[str, str]]:
        return [(name, spec) for _, name, spec in self._parts if name is not None]

    def _write(self, trainer: Trainer[Any]) -> None:
        record = trainer.history.last
        values: dict[str, Any] = {}
        for name, _ in self._placeholders():
            if name in _COUNTS:
                values[name] = getattr(trainer, name)
            elif name in record:
                values[name] = record[name]
            elif name in trainer.hyper:  # one that is no plain value has no column
                values[name] = str(trainer.hyper[name])
            else:
                values[name] = self._latest(trainer, name)
        self.last_path = path = Path(_filled(self._parts, values))
        write_weights(trainer.model, path)
        for name, averaged in trainer.averaged.items():
            write_weights(averaged, path.with_suffix(f".{name}{path.suffix}"))

    def _latest(self, trainer: Trainer[Any], name: str) -> float:
        """NaN for what only this record lacks."""
        try:
            return trainer.history.latest(name)
        except MetricError as error:
            error.add_note(f"it is a placeholder in the file name {self.filename!r} of SaveModel")
            raise


def mode_of(metric: Any, mode: Any) -> Mode:
    """Whether less or more of a metric is better: `mode` if it is given, else what the name tells.

    Raises:
        ArgumentError: If `metric` is no name, `mode` is neither "min" nor "max", or the name does not tell.

    Example:
        >>> mode_of("val_acc", None), mode_of("val_energy", "min")
        ('max', 'min')
    """
    if not isinstance(metric, str) or not metric:
        raise ArgumentError(
            f"{metric!r:.60} as the name of a metric",
            "a column of history, such as 'val_loss'",
            "pass it as history has it: what eval_fn returns as 'loss' is 'val_loss'",
        )
    if mode is not None:
        check_mode(mode)
    found: Mode | None = mode or direction(metric)
    if found is None:
        raise ArgumentError(
            f"the name {metric!r} does not tell whether less or more is better",
            "mode= with such a metric",
            "pass mode='min' or mode='max'",
        )
    return found


def _checked_filename(filename: Any) -> str:
    text = os.fspath(filename) if isinstance(filename, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise ArgumentError(
            f"SaveModel got {kind_of(filename)} as its file name",
            "a path",
            "for example SaveModel('runs/best.pt')",
        )
    _parsed(text)  # what is malformed makes no good example either
    ending = Path(text).suffix
    if ending not in ENDINGS:
        stem = text if "}" in ending else text.removesuffix(ending)
        is_folder = text.endswith(("/", os.sep)) or not Path(stem).name.strip(".")
        example = os.path.join(stem, "model.pt") if is_folder else stem + ".pt"
        raise ArgumentError(
            f"SaveModel got the file name {text!r}",
            f"a name that ends in {' or '.join(ENDINGS)}",
            f"for example {example!r}",
        )
    return text


def _parsed(filename: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(filename))
    except ValueError as error:
        raise ArgumentError(
            f"the file name {filename!r} is malformed: {error}",
            "placeholders such as {epoch} or {val_acc:.3f}",
            "close each placeholder with }, and write a brace that is part of the name twice: {{ or }}",
        ) from None


def _parts(filename: str) -> list[tuple[str, str | None, str]]:
    """A file name as ``(text, placeholder or None, format)``; the placeholders are plain names, never looked up in."""
    parts = _parsed(filename)
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        # A brace in the format is a placeholder inside it.
        if not name or name.isdigit() or set(name) & set(".[]!{}") or conversion or "{" in (spec or ""):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ArgumentError(
                f"the file name {filename!r} has the placeholder {{{shown}}}",
                "the name of a column with an optional format, such as {val_acc:.3f}",
                "name the column plainly; a brace that is part of the file name is written twice: {{ or }}",
            )
        if _known(name):
            _check_format(filename, name, spec or "", 1 if name in _COUNTS else 0.5)
    return [(text, name, spec or "") for text, name, spec, _ in parts]


def _known(name: str) -> bool:
    """Whether the name tells that it is a column of numbers; else it can only be a hyperparameter."""
    return name in (*_COUNTS, *_SECONDS, "lr") or name.startswith(("train_", "val_", "lr_"))


def _check_hyperparameter(filename: str, name: str, spec: str, hyper: dict[str, Any]) -> None:
    if name not in hyper:
        there = ", ".join([*_COUNTS, "train_*", "val_*", "lr*", *hyper, *_SECONDS])
        raise ArgumentError(
            f"the file name {filename!r} has the placeholder {{{name}}}, which is no column of history",
            f"one of {there}",
            f"what eval_fn returns as {name!r} is val_{name}, what train_fn returns train_{name}",
        )
    _check_format(filename, name, spec, hyper[name])


def _check_format(filename: str, name: str, spec: str, value: Any) -> None:
    try:
        format(_formattable(value), spec)
    except ValueError as error:
        raise ArgumentError(
            f"the file name {filename!r} has the placeholder {{{name}:{spec}}}: {error}",
            f"a format for {'a whole number' if name in _COUNTS else f'{kind_of(value)}'}",
            f"for example {{{name}{':03d' if name in _COUNTS else ':.3f' if isinstance(value, float) else ''}}}",
        ) from None


def _filled(parts: list[tuple[str, str | None, str]], values: dict[str, Any]) -> str:
    pieces = []
    for text, name, spec in parts:
        pieces.append(text)
        if name is not None:
            pieces.append(format(_formattable(values[name]), spec))
    return "".join(pieces)


def _formattable(value: Any) -> int | float | str:
    return value if isinstance(value, (int, float, str)) else str(value)
