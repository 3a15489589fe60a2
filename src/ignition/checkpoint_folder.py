"""The checkpoints in a folder: each is named for its fit and its step, and that is what orders them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ignition import sharded_checkpoint
from ignition.checkpoint import Content, OtherVersion
from ignition.errors import ArgumentError, CheckpointError
from ignition.ranking import Mode, best_index

__all__ = [
    "best_of",
    "checked_folder",
    "end_of",
    "is_end",
    "is_name",
    "name_of",
    "paths_in",
    "place_in",
    "read_named",
    "to_be_removed",
]

_NAME = re.compile(r"fit-(\d{3,})-step-(\d{9,})(-end)?")


def checked_folder(folder: Any) -> Path:
    """The folder that `Checkpoint` is given. Raises ArgumentError if it is no path of one."""
    if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str) or not os.fspath(folder):
        raise ArgumentError(
            f"Checkpoint got {folder!r} as its folder",
            "the path of a folder",
            "for example Checkpoint('runs/digits')",
        )
    return Path(folder)


def name_of(fit: int, step: int, ending: str = "") -> str:
    """The name of a checkpoint; that of a fit's end has the ending ``-end``."""
    return f"fit-{fit:03d}-step-{step:09d}{ending}"


def paths_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first: by fit and step, never by a file's time."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=place_in)


def is_name(name: str) -> bool:
    """Whether it is the name of a checkpoint, and so of nothing outside its folder."""
    return _NAME.fullmatch(name) is not None


def place_in(path: Path) -> tuple[int, int, bool]:
    """The fit and the step in a checkpoint's name, and whether it is that of the fit's end."""
    match = _NAME.fullmatch(path.name)
    return (0, 0, False) if match is None else (int(match[1]), int(match[2]), match[3] is not None)


def is_end(path: Path) -> bool:
    """Whether a checkpoint is that of a fit's end."""
    return place_in(path)[2]


def best_of(paths: list[Path], rows: Iterable[Mapping[str, Any]], metric: str, mode: Mode) -> tuple[float, Path] | None:
    """The best value of a metric among some checkpoints, by the records of their steps, and the checkpoint; or None.

    A record of a later fit has a later step, but where a fit ended, which has the same weights.
    """
    values = {row["step"]: row[metric] for row in rows if isinstance(row.get(metric), (int, float))}
    known = [path for path in paths if place_in(path)[1] in values]
    best = best_index([values[place_in(path)[1]] for path in known], mode)
    return None if best is None else (values[place_in(known[best])[1]], known[best])


def read_named(path: Path) -> Content:
    """A checkpoint, if it is the one that its name says."""
    content = sharded_checkpoint.read(path)
    try:
        fit = content.state["fit"]
        place = fit["number"], content.state["position"]["step"], fit["ended"]
    except (LookupError, TypeError):
        place = None
    if place != place_in(path):
        found = "nothing of a fit" if place is None else f"step {place[1]} of fit {place[0]}"
        raise CheckpointError(
            f"the checkpoint {path} is broken: it holds {found}{', its end' if place and place[2] else ''}",
            expected="what its name says, as Checkpoint wrote it",
            fix="give a folder that was renamed or exchanged its name back, or delete it",
        )
    return content


def end_of(number: int, newest: Path) -> tuple[Path, Content]:
    """The checkpoint of the end of a fit that is to be passed over, and what is in it.

    Args:
        number: The fit.
        newest: The newest checkpoint in the folder, of a later fit.

    Raises:
        CheckpointError: If it is not there, or broken. The result of that fit is lost then: code between it and the
            next one would see an untrained model.
    """
    ends = [one for one in paths_in(newest.parent) if is_end(one) and place_in(one)[0] == number]
    found, broken = f"{newest.parent} has no checkpoint of the end of fit {number}", None
    if ends:
        try:
            return ends[-1], read_named(ends[-1])
        except OtherVersion:
            raise
        except CheckpointError as error:
            found, broken = str(error.args[0]), error
    last = place_in(newest)[0]
    raise CheckpointError(
        f"{found}, and the run had come to fit {last}",
        expected="what each finished fit has left, since the code after it is to see its result, and a script that "
        "comes to its fits in the order in which they were run",
        fix=f'put trainer.load("{newest}") in the place of fits {number} to {last}, after the code between them; then '
        "fit what is left, with a Checkpoint in another folder, as here that file is kept only until newer ones come; "
        "or begin anew in another folder",
    ) from broken


def to_be_removed(paths: list[Path], keep: int, others: Iterable[Path | None]) -> list[Path]:
    """Which of the checkpoints in a folder are kept no more.

    Args:
        paths: All of them, oldest first.
        keep: How many of the newest are kept. The end of an earlier fit is besides; one that is there twice, since the
            number of epochs was raised after it, is the newer one alone.
        others: What else is kept.
    """
    ends = {place_in(path)[0]: path for path in paths if is_end(path)}
    counted = [path for path in paths if not is_end(path) or path in ends.values()]
    kept = {*counted[-keep:], *ends.values(), *others}
    return [path for path in paths if path not in kept]
