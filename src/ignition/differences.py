"""What a script says otherwise than the checkpoint that it goes on from: each difference told, and which side counts.

Where it makes the run another one than its user may think, there is a warning, whatever is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ignition.data_order import SAMPLES
from ignition.errors import warn
from ignition.settings import CALLBACK

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Run", "tell_differences", "tell_of_finished"]

_GOALS = ("epochs", "steps")


class Run(NamedTuple):
    """What a script, or a checkpoint, says of a fit."""

    seed: int | None
    fit: Mapping[str, Any]


def tell_differences(trainer: Trainer[Any], script: Run, checkpoint: Run, head: str, folder: object) -> None:
    """Tells in what a script differs from the checkpoint from which a fit goes on.

    Args:
        trainer: In the place of the checkpoint.
        script: As it was before that was loaded.
        checkpoint: As it was when it was written.
        head: What is said before, for a warning.
        folder: Where the checkpoint is.
    """
    warned = _warn_of_another_run(script, checkpoint, folder)
    warned += _warn_of_short_schedules(script.fit["settings"], checkpoint.fit["settings"])
    lines = _lines(script, checkpoint)
    for name in _GOALS:
        mine, theirs = script.fit.get(name), checkpoint.fit.get(name)
        if mine is not None and theirs is not None and mine < theirs:  # a raised one is the way to train on
            lines[name] = _line(name, str(mine), str(theirs), script_counts=True)
    _say(trainer, lines, warned, head)


def tell_of_finished(
    trainer: Trainer[Any], script: Run, checkpoint: Run, head: str, folder: object, is_last: bool
) -> None:
    """Tells in what a script differs from a fit that is passed over, since an earlier run has finished it.

    Args:
        trainer: In the place where that fit ended.
        script: As it was before that was loaded.
        checkpoint: As it was when it was written.
        head: What is said before, for a warning.
        folder: Where the checkpoint is.
        is_last: Whether the earlier run had come to no fit after it.
    """
    _warn_of_goal(script.fit, checkpoint.fit, is_last)
    lines = _lines(script, checkpoint, is_over=True)
    _say(trainer, lines, _warn_of_another_run(script, checkpoint, folder), head)


def _say(trainer: Trainer[Any], lines: Mapping[str, str], warned: list[str], head: str) -> None:
    progress = trainer.training.progress
    for line in lines.values():
        progress.say(line)
    untold = [line for name, line in lines.items() if name not in warned]
    if untold and not progress.is_shown:
        warn("\n".join([f"{head}, and the script says otherwise than it did:", *untold]))


def _lines(script: Run, checkpoint: Run, is_over: bool = False) -> dict[str, str]:
    """A line for each difference, by its name."""
    lines = {}
    if script.seed is not None and script.seed != checkpoint.seed:
        lines["seed"] = _line("seed", str(script.seed), str(checkpoint.seed), is_over=is_over)
    mine, theirs = (one.fit.get("options", {}) for one in (script, checkpoint))
    in_one = mine.keys() ^ theirs.keys()
    untold = {name for name in in_one if CALLBACK not in (mine.get(name), theirs.get(name))}
    for kind in ("settings", "options"):
        here, there = script.fit[kind], checkpoint.fit.get(kind, {})
        if kind == "options" and SAMPLES not in there:  # of a fit without a Checkpoint, or of an older release
            continue
        for name in sorted(here.keys() | there.keys()):
            # Of a callback that one of them lacks there is nothing else to be said.
            label, _, part = name.partition(", ")
            known = here.get(name) == there.get(name) or (bool(part) and label in in_one)
            if not known and (kind == "settings" or name not in untold):
                values = (here.get(name, "nothing") or "all", there.get(name, "nothing") or "all")
                lines[name] = _line(name, *values, script_counts=kind == "options", is_over=is_over)
    return lines


def _line(name: str, mine: str, theirs: str, script_counts: bool = False, is_over: bool = False) -> str:
    if is_over:
        return f"  {name}: {mine} in the script, {theirs} in that fit, which is not run again"
    if script_counts:
        return f"  {name}: {mine} in the script, which counts, {theirs} in the checkpoint"
    return f"  {name}: {mine} in the script, {theirs} in the checkpoint, which counts"


def _warn_of_another_run(script: Run, checkpoint: Run, folder: object) -> list[str]:
    """Warns of another seed, and of other data; returns the names of what it has told."""
    told = []
    if script.seed is not None and script.seed != checkpoint.seed:
        told.append("seed")
        warn(
            f"the script has seed={script.seed}, and the run in {folder} was begun with {checkpoint.seed}, which "
            f"counts: this is that run, and none with seed={script.seed}. Give that one a folder of its own"
        )
    mine, theirs = (one.fit.get("options", {}).get(SAMPLES) for one in (script, checkpoint))
    if theirs is not None and mine != theirs:
        told.append(SAMPLES)
        warn(
            f"train_loader reads other samples than in the run in {folder} ({mine or 'all'} now, {theirs or 'all'} "
            "then): some on which the model has been trained may be among those on which it is tested now, and inside "
            "an epoch samples come twice or never. Without a generator of its own a split is another one in each "
            "process: random_split(data, lengths, generator=torch.Generator().manual_seed(0)). The split of that run "
            "is not in its checkpoints; to train on one that lasts, begin anew in another folder"
        )
    return told


def _warn_of_short_schedules(mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[str]:
    """Warns of schedulers that were made for fewer ticks than the script's; yields the names of what it has told."""
    for name, count in mine.items():
        most = theirs.get(name, "")
        is_count = name.startswith("LRSchedule(OneCycleLR)") and name.endswith(", total_steps") and most.isdecimal()
        if is_count and int(most) < int(count):
            warn(
                f"{name} is {count} in the script and {most} in the checkpoint, which counts: torch ends a training "
                f"that goes on after {most} ticks with an error. Have this fit end there, and train on in another fit "
                "behind it, with a scheduler of its own; or begin anew in another folder"
            )
            yield name


def _warn_of_goal(mine: Mapping[str, Any], theirs: Mapping[str, Any], is_last: bool) -> None:
    """Warns of a finished fit whose number of epochs or steps is another one now."""
    if not any(name in theirs for name in _GOALS) or all(mine[name] == theirs.get(name) for name in _GOALS):
        return
    if not is_last:
        why = "since a later fit went on from its end"
        fix = (
            "To train on, raise the number of the last fit, or put another fit behind it; to train this one for longer "
            "or shorter, begin anew in another folder. If a fit was added to the script, or left out, undo it: fits "
            "are matched by their order"
        )
    elif theirs["stop_reason"] is not None:
        why = f"since it was stopped ({theirs['stop_reason']})"
        fix = "To train on, put another fit behind it"
    else:
        why = "since it has come as far as that"
        fix = (
            "For a shorter one begin anew in another folder. If a fit was added to the script, or left out, undo it: "
            "fits are matched by their order"
        )
    warn(
        f"fit {theirs['number']} has {_goal(mine)} in the script, and was finished with {_goal(theirs)}: it is passed "
        f"over as it is, {why}. {fix}"
    )


def _goal(fit: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={fit[name]}" for name in _GOALS if fit.get(name) is not None)
