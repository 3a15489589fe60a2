"""Checks of the training as a whole: that it learns, that it can be resumed, that it does not wait."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ignition.background import Writer
from ignition.check_report import Failed, Skipped
from ignition.check_runs import Material, listed, train_on
from ignition.data import check_place_kept, iterate
from ignition.errors import CheckpointError
from ignition.loader_advice import SHARE, faster
from ignition.snapshot import capture
from ignition.structure import named

__all__ = ["batch_can_be_overfitted", "loader_keeps_up", "resumes_to_the_same_bits"]

_OVERFIT_STEPS, _OVERFIT_SECONDS = 200, 10.0
_LOADER_STEPS, _LOADER_SECONDS = 30, 5.0
_WARMING = 3  # batches for which workers, caches and kernels may start
_NOTHING_TO_GAIN = 0.002  # seconds of waiting a batch


def batch_can_be_overfitted(material: Material) -> str:
    """Trained again and again on one batch, the loss falls to half or less."""
    trainer = material.trainer
    if len(named(trainer.optimizer)) > 1:
        raise Skipped("several optimizers: their losses need not fall")
    losses: list[float] = []
    until = perf_counter() + _OVERFIT_SECONDS

    def look(trainer: Any) -> None:
        loss = trainer.batch_metrics.get("loss")
        if not isinstance(loss, (float, Tensor)):
            trainer.stop("no loss")
            return
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            trainer.stop("not finite")
        elif _has_fallen(losses) or perf_counter() > until:
            trainer.stop("seen enough")

    train_on(trainer, material.train[:1], _OVERFIT_STEPS, batch_end=look)
    if not losses:
        raise Skipped("train_fn returns no loss")
    seen = f"on one batch the loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps"
    if _has_fallen(losses):
        return seen
    if math.isfinite(losses[-1]) and _falls_still(losses):
        raise Skipped(f"{seen}, too slow to tell: try a higher learning rate")
    if math.isfinite(losses[-1]) and len(losses) < _OVERFIT_STEPS:
        raise Skipped(f"{seen}, in the {_OVERFIT_SECONDS:.0f} s that there are for it")
    raise Failed(
        f"{seen}: see whether each label belongs to its input, change the learning rate, and look for what is random "
        "in train_fn, or detached"
    )


def _has_fallen(losses: list[float]) -> bool:
    return losses[0] - median(losses[-5:]) >= abs(losses[0]) / 2


def _falls_still(losses: list[float]) -> bool:
    """Whether the last quarter lies below the one before it, by more than the losses scatter."""
    quarter = len(losses) // 4
    if quarter < 2:
        return False
    before, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    error = math.sqrt((stdev(before) ** 2 + stdev(last) ** 2) / quarter)
    return fmean(before) - fmean(last) > max(4 * error, 0.002 * abs(losses[0]))


def resumes_to_the_same_bits(material: Material) -> str:
    """A training that goes on from a checkpoint ends where the one that went on without it ended."""
    trainer, batches = material.trainer, None
    where = "with the train loader"
    try:
        check_place_kept(trainer.train_loader)
    except CheckpointError:  # a fault only for those who want a Checkpoint, which says so itself
        batches, where = material.train, "on a list of batches, as the train loader cannot be put back"
    if trainer.seed is None:
        trainer.seed, trainer.training.seeded = 0, True
    train_on(trainer, batches, 2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        trainer.save(path)
        ends = []
        for resumes in (False, True):
            if resumes:
                trainer.load(path)
            train_on(trainer, None, 3)
            content = capture(trainer.training, Writer().copy)
            if content is not None:  # as it is in one process
                ends.append(content)
    first, second = ends
    differ = [
        name
        for file, tensors in first.tensors.items()
        for name, tensor in tensors.items()
        if name not in second.tensors[file] or not _same_bits(tensor, second.tensors[file][name])
    ]
    differ += [name for name in ("state", "hyper", "position") if repr(first.state[name]) != repr(second.state[name])]
    if differ:
        raise Failed(
            "a training that went on from a checkpoint, and the one that was not stopped, ended differently in "
            f"{listed(differ)}: keep what the functions carry from batch to batch in trainer.state, and all of it in "
            "an object's state_dict; on an accelerator try torch.use_deterministic_algorithms(True)"
        )
    return f"3 steps from a checkpoint end in the same bits, {where}"


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.numel():
        return True
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))


class _Timed:
    """A loader's batches, and when each was asked for and came."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.times: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[Any]:
        asked = perf_counter()
        for batch in iterate(self._source):
            self.times.append((asked, perf_counter()))
            yield batch
            asked = perf_counter()


def loader_keeps_up(material: Material) -> str:
    """Training does not spend its time waiting for the train loader."""
    loader = material.trainer.train_loader
    seen = ""
    for _ in range(2):  # a machine that was busy with something else for a moment is no fault of the loader
        share, waited = _waiting(material.trainer, loader)
        seen = f"{share:.0%} of the time waiting for the loader, {1000 * waited:.1f} ms a batch"
        if share <= SHARE or waited <= _NOTHING_TO_GAIN:
            return seen
    raise Failed(f"{seen}: {faster(loader)}")


def _waiting(trainer: Any, loader: Any) -> tuple[float, float]:
    """The share of the time that some steps wait for a loader, and the seconds that they wait for a batch."""
    timed = _Timed(trainer.training.source("train", loader))
    until = perf_counter() + _LOADER_SECONDS

    def look(trainer: Any) -> None:
        if perf_counter() > until and len(timed.times) > 2 * _WARMING:
            trainer.stop("seen enough")

    trainer.train_loader = timed
    train_on(trainer, None, _LOADER_STEPS, step_end=look)
    times = timed.times[_WARMING:]
    if len(times) < 2:
        raise Skipped("too few batches to measure")
    waited = sum(came - asked for asked, came in times)
    return waited / (times[-1][1] - times[0][0]), waited / len(times)
