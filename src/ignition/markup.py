"""How records, a History and a Trainer look in a notebook: HTML that is legible on light and on dark.

No colour is set but half-transparent grey and green, so that text and background stay those of the notebook's theme.
Where a viewer takes the styles away, what they say is there in words and signs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from torch.nn.parameter import is_lazy

from ignition.errors import MetricError
from ignition.optimizers import learning_rates
from ignition.records import number_text
from ignition.structure import named, suffix

if TYPE_CHECKING:
    from ignition.history import History
    from ignition.trainer import Trainer

__all__ = ["history_html", "table_html", "trainer_html"]

_TABLE = "border-collapse: collapse; margin: 0.3em 0; font-variant-numeric: tabular-nums"
_CELL = "padding: 0.2em 0.7em; text-align: right; white-space: nowrap"
_HEAD = f"{_CELL}; font-weight: bold; border-bottom: 1px solid rgba(128, 128, 128, 0.6)"
_NAME = "padding: 0.2em 1em 0.2em 0; text-align: left; vertical-align: top; font-weight: bold; white-space: nowrap"
_FACT = "padding: 0.2em 0; text-align: left"
_MARKED = "font-weight: bold; background: rgba(0, 158, 115, 0.2)"
_MOST_ROWS = 60


def table_html(columns: Sequence[str], rows: Sequence[Mapping[str, str]], marked: int | None = None) -> str:
    """Rows of texts as a table.

    Args:
        columns: From left to right.
        rows: From top to bottom; "-" stands where one has no such value. Of more than 60 the last ones are shown, and
            how many there are above.
        marked: The index of the row that gets a star; it is shown in any case.

    Example:
        >>> "<td" in table_html(["epoch", "val_loss"], [{"epoch": "1"}])
        True
    """
    first = max(0, len(rows) - _MOST_ROWS)
    shown = [*([marked] if marked is not None and marked < first else []), *range(first, len(rows))]
    lines = [_line("th", _HEAD, columns)]
    last = -1
    for index in shown:
        if index > last + 1:
            left_out = f"… {index - last - 1:,} more …"
            lines.append(f'<tr><td colspan="{len(columns)}" style="{_CELL}">{left_out}</td></tr>')
        cells = [rows[index].get(name, "-") for name in columns]
        if index == marked:
            cells[0] = f"★ {cells[0]}"
        lines.append(_line("td", _CELL, cells, _MARKED if index == marked else ""))
        last = index
    return f'<table style="{_TABLE}">{"".join(lines)}</table>'


def history_html(history: History) -> str:
    """The records of a history, the best one marked: by what `History.best_epoch` takes by default."""
    if not len(history):
        return "<b>History</b>: no record yet"
    title = f"<b>History</b>: {_count(history.epochs, 'epoch')}, {_count(len(history), 'record')}"
    try:
        best = history.best_epoch()
    except MetricError:  # no metric of which it is known what is better
        best = None
    marked = None
    if best is not None:
        marked = history["step"].index(best.step)
        title += f"; ★ best {escape(best.metric)} {number_text(best.value)} in epoch {best.epoch}"
    rows = [{name: number_text(value) for name, value in row.items()} for row in history.rows]
    return f"<div>{title}{table_html(history.columns, rows, marked)}</div>"


def trainer_html(trainer: Trainer[Any]) -> str:
    """What a Trainer trains, with what, where, and how far it has come."""
    facts: dict[str, str] = {}
    for name, model in named(trainer.model).items():
        facts[f"model {name}".rstrip()] = f"{type(model).__name__}, {_parameters(model)}"
    rates = learning_rates(trainer.optimizer)
    for name, optimizer in named(trainer.optimizer).items():
        lr = f"lr{suffix(name)}"
        rate = f", lr {number_text(rates[lr])}" if lr in rates else ""
        facts[f"optimizer {name}".rstrip()] = f"{type(optimizer).__name__}{rate}"
    facts["device"] = str(trainer.device)
    if trainer.hyper:
        facts["hyper"] = ", ".join(f"{name} {number_text(value):.40}" for name, value in trainer.hyper.items())
    if trainer.callbacks:
        facts["callbacks"] = ", ".join(type(callback).__name__ for callback in trainer.callbacks)
    facts["epoch"] = f"{trainer.epoch}{', still to be finished' if trainer.epoch_open else ''}"
    facts["step"] = f"{trainer.step:,}"
    if trainer.stop_reason is not None:
        facts["stopped"] = trainer.stop_reason
    lines = [_fact(name, escape(text)) for name, text in facts.items()]
    last = {name: number_text(value) for name, value in trainer.history.last.items()}
    lines.append(_fact("last record", table_html(list(last), [last]) if last else "none yet"))
    return f'<div><b>Trainer</b><table style="{_TABLE}">{"".join(lines)}</table></div>'


def _line(kind: str, style: str, texts: Sequence[str], row_style: str = "") -> str:
    cells = "".join(f'<{kind} style="{style}">{escape(text)}</{kind}>' for text in texts)
    return f'<tr style="{row_style}">{cells}</tr>' if row_style else f"<tr>{cells}</tr>"


def _fact(name: str, html: str) -> str:
    return f'<tr><th style="{_NAME}">{escape(name)}</th><td style="{_FACT}">{html}</td></tr>'


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _parameters(model: Any) -> str:
    """How many numbers a model learns, those that a first batch has yet to shape apart."""
    parameters = list(model.parameters())
    known = [parameter for parameter in parameters if not is_lazy(parameter)]
    text = _count(sum(parameter.numel() for parameter in known), "parameter")
    fixed = sum(parameter.numel() for parameter in known if not parameter.requires_grad)
    text += f", {fixed:,} of them fixed" if fixed else ""
    return text + (", more with the first batch" if len(known) < len(parameters) else "")
