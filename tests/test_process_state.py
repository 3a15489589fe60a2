"""What many processes keep, and how they, or another number of them, go on from it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_processes import Runs, preloaded
from process_script import EPOCHS, SAMPLES

from ignition import process_state
from ignition.errors import CheckpointError
from ignition.process_state import moved_position

TERMINATED = 128 + signal.SIGTERM
MOVES = [(2, 3), (3, 2), (2, 1), (1, 2)]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with preloaded() as context:
        yield context


@pytest.fixture
def script(context: Any, tmp_path: Path) -> Callable[..., Runs]:
    return lambda name="script", **job: Runs(context, tmp_path / name, **job)


def stop_inside(runs: Runs, size: int, step: int, ranks: list[int] | None = None, **changes: Any) -> None:
    """Runs it until a signal after some step ends it with a checkpoint."""
    fault = {"step": step, "ranks": list(range(size)) if ranks is None else ranks, "kind": "SIGTERM"}
    assert runs.run(size, fault=fault, **changes) == [TERMINATED] * size, runs.log(size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [{}, {"seed": 7, "accumulate": 2}, {"workers": 1, "every": "epoch"}, {"batch_size": 5}, {"stream": True}],
    ids=lambda job: ", ".join(job) or "plain",
)
@pytest.mark.parametrize("size", [2, 3])
def test_the_same_number_of_processes_ends_in_the_same_bits_in_each_of_them(
    size: int, job: dict[str, Any], script: Callable[..., Runs]
) -> None:
    whole, stopped = script("whole", **job), script("stopped", **job)
    assert whole.run(size) == [0] * size, whole.log(size)
    for step in (2, 8):
        stop_inside(stopped, size, step)
    assert stopped.run(size) == [0] * size, stopped.log(size)
    assert stopped.reports(size) == whole.reports(size)
    assert [stopped.steps(rank) for rank in range(size)] == [whole.steps(rank) for rank in range(size)]
    assert len({str(whole.report_of(rank)["mean"]) for rank in range(size)}) == size  # each has a state of its own
    assert len({whole.report_of(rank)["fingerprint"]["model"] for rank in range(size)}) == 1
    assert len({whole.report_of(rank)["fingerprint"]["generators"] for rank in range(size)}) == size


@pytest.mark.slow
@pytest.mark.fault("many processes, resumed by another number of them", "Samples 4, Losses 4", 4)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_another_number_of_processes_goes_on_with_the_samples_that_are_left_and_with_the_same_numbers(
    accumulate: int, script: Callable[..., Runs]
) -> None:
    whole = script("whole", plain=True, accumulate=accumulate)
    assert whole.run(1) == [0], whole.log(1)
    for before, after in MOVES:
        runs = script(f"{before} to {after}", plain=True, accumulate=accumulate)
        stop_inside(runs, before, 2)
        assert runs.run(after) == [0] * after, runs.log(after)
        for epoch in range(1, EPOCHS + 1):
            assert runs.samples_in(epoch, 3) == list(range(SAMPLES))
        for name, values in whole.report_of(0)["history"].items():
            assert runs.report_of(0)["history"][name] == pytest.approx(values, abs=1e-5), name


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_batches_of_the_same_size_too(script: Callable[..., Runs]) -> None:
    for before, after in MOVES:
        runs = script(f"{before} to {after}", plain=True, batch_size=4)
        stop_inside(runs, before, 2)
        assert runs.run(after) == [0] * after, runs.log(after)
        for epoch in range(1, EPOCHS + 1):
            assert runs.samples_in(epoch, 3) == list(range(SAMPLES))


@pytest.mark.slow
@pytest.mark.fault("many processes with a stream each, resumed by another number of them", "Message 2", 2)
def test_streams_are_refused_by_another_number_of_processes(script: Callable[..., Runs]) -> None:
    runs = script(stream=True)
    stop_inside(runs, 2, 2)
    for size in (1, 3):
        assert 0 not in runs.run(size)
        raised = [report["raised"] for report in runs.reports(size)]
        assert any(text.startswith("CheckpointError: the checkpoint") for text in raised)
        assert "was written by 2 processes, each with its own part of a stream" in str(raised)
        assert f"now there are {size}" in str(raised)
    assert runs.run(2) == [0, 0]  # nothing was lost


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_size_that_does_not_meet_the_place_go_on_with_the_samples_that_are_left(
    workers: int, script: Callable[..., Runs]
) -> None:
    runs = script(plain=True, workers=workers, epochs=2)
    stop_inside(runs, 2, 1, batch_size=5)
    at = [runs.steps()[-1][1]]
    stop_inside(runs, 3, at[-1] + 1, batch_size=3)  # in the same epoch, and moved once more
    at.append(runs.steps()[-1][1])
    assert runs.run(1, batch_size=7) == [0], runs.log(3)
    for epoch in (1, 2):
        assert runs.samples_in(epoch, 3) == list(range(SAMPLES))
    done = 10 * at[0] + 9 * (at[1] - at[0])
    left = SAMPLES - done
    assert left % 7
    sizes = [len(samples) for epoch, step, samples in runs.steps() if epoch == 1 and step > at[1]]
    assert sizes == [7] * (left // 7) + [left % 7]


@pytest.mark.slow
def test_an_epoch_with_a_moved_place_goes_on_to_the_same_bits_with_the_same_number(
    script: Callable[..., Runs],
) -> None:
    whole, stopped = script("whole", epochs=2, plain=True), script("stopped", epochs=2, plain=True)
    stop_inside(whole, 2, 1, batch_size=4)
    shutil.copytree(whole.checkpoints, stopped.checkpoints)
    step = whole.steps()[-1][1]
    assert whole.run(3, batch_size=3) == [0] * 3, whole.log(3)
    stop_inside(stopped, 3, step + 1, batch_size=3)
    assert (8 * step) % 3
    assert stopped.steps()[-1][0] == 1
    assert stopped.run(3, batch_size=3) == [0] * 3, stopped.log(3)
    assert stopped.reports(3) == whole.reports(3)


# The place in the data, as numbers


def test_a_place_that_no_batch_meets_is_kept_as_a_shift_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def after(then: dict[str, int], count: int, size: int, others: int, other_size: int) -> dict[str, int]:
        monkeypatch.setattr("ignition.distributed.world_size", lambda: others)
        state = {
            "position": {"epoch": 1, "step": 3, "skipped": 0, "offset": 0, **then},
            "processes": {"others": [{}] * (count - 1)},
            "data": {"batch_size": size},
        }
        data = {"samples": 54, "batches": -(-54 // other_size), "batch_size": other_size}
        return moved_position(state, data, "runs/a", True)

    once = after({"batch": 1}, 2, 8, 3, 5)  # 16 samples: a batch of 1, as it were, and three of 5
    assert (once["batch"], once["offset"], once["shift"]) == (1, 0, 1)
    again = after({**once, "batch": 2}, 3, 5, 2, 7)  # 31 samples
    assert (again["batch"], again["offset"], again["shift"]) == (2, 0, 3)
    same = after(again, 2, 7, 3, 7)  # of the same size
    assert (same["batch"], same["offset"], same["shift"]) == (1, 1, 3)
    ended = after({**once, "batch": 4}, 3, 5, 2, 7)
    assert (2 * ended["batch"] + ended["offset"], ended["shift"]) == (8, 0)


def moved(batch: int, offset: int, then: tuple[int, int], now: tuple[int, int], monkeypatch: Any) -> tuple[int, int]:
    """Where so many processes with such batches go on, of 54 samples."""
    (processes, size), (others, other_size) = then, now
    monkeypatch.setattr("ignition.distributed.world_size", lambda: others)
    state = {
        "position": {"epoch": 1, "batch": batch, "offset": offset, "step": 9, "skipped": 0},
        "processes": {"others": [None] * (processes - 1)},
        "data": {"batch_size": size},
    }
    data = {"samples": 54, "batches": -(-54 // other_size), "batch_size": other_size}
    position = moved_position(state, data, "runs/a")
    assert (position["epoch"], position["step"], position["skipped"]) == (1, 9, 0)
    return position["batch"], position["offset"]


def test_the_place_is_counted_in_the_batches_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moved(2, 0, (2, 6), (2, 6), monkeypatch) == (2, 0)
    assert moved(2, 0, (2, 6), (3, 4), monkeypatch) == (2, 0)  # 24 samples
    assert moved(2, 0, (2, 6), (3, 6), monkeypatch) == (1, 1)  # four batches
    assert moved(1, 1, (3, 6), (2, 6), monkeypatch) == (2, 0)
    assert moved(2, 0, (2, 6), (1, 24), monkeypatch) == (1, 0)
    assert moved(1, 0, (1, 24), (4, 6), monkeypatch) == (1, 0)


def test_an_epoch_whose_last_round_was_split_has_nothing_left_for_batches_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch, offset = moved(4, 0, (3, 5), (2, 7), monkeypatch)  # 60 samples, had all rounds been full
    assert 2 * batch + offset == 8  # all batches of seven


def test_a_place_inside_a_batch_of_now_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"after 12 samples of an epoch, and now 3 processes read 5 samples"):
        moved(1, 0, (2, 6), (3, 5), monkeypatch)


# What travels to the first process


def test_parts_come_out_as_they_were_packed() -> None:
    tensors = {
        "a": torch.randn(3, 4, dtype=torch.float64).t(),
        "b": torch.tensor(True),
        "c": torch.empty(0, 5, dtype=torch.bfloat16),
        "d": torch.randn(7).to(torch.bfloat16),
        "e": torch.arange(3),
    }
    own, unpacked = process_state._unpacked(process_state._packed({"x": [1, None, "é"]}, tensors))
    assert own == {"x": [1, None, "é"]}
    assert list(unpacked) == list(tensors)
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.dtype
        assert torch.equal(unpacked[name], tensor)


def test_a_single_process_gathers_nothing() -> None:
    assert process_state.gathered({"state": {}}, {"a": torch.ones(1)}) == ([], {})
