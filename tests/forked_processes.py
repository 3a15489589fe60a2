"""Several processes that are forked from one which has torch already, so that they are there at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import process_script
import torch
import torch.distributed as dist
from processes import free_port

TIME_LIMIT = 60.0  # seconds, on a machine with much else to do


@contextmanager
def preloaded() -> Iterator[Any]:
    """What forks: a server that has imported the script."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["process_script"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        from multiprocessing.forkserver import ensure_running

        ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    yield context


def run_each(
    context: Any,
    target: Callable[..., None],
    arguments: list[tuple[Any, ...]],
    log: Callable[[], str],
    time_limit: float = TIME_LIMIT,
) -> list[int]:
    """Runs a function in a process for each of its arguments, and returns their exit statuses when all have ended."""
    running = [context.Process(target=target, args=one) for one in arguments]
    for one in running:
        one.start()
    try:
        end = time.monotonic() + time_limit
        for one in running:
            one.join(max(end - time.monotonic(), 0.0))
        statuses = [one.exitcode for one in running]
        assert None not in statuses, f"a process still ran after {time_limit} seconds\n{log()}"
        return statuses
    finally:
        for one in running:
            one.kill()
            one.join()
            one.close()


def results_of(context: Any, target: Callable[..., Any], count: int, folder: Path) -> list[Any]:
    """What a function of a test file returns in each of some processes, which have a group; the function gets its mesh.

    Args:
        context: What forks.
        target: A function at the top level of the file; what it returns is made of tensors, and of what JSON knows.
        count: How many processes.
        folder: For their results, and for what they print.
    """

    def log() -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("log-*")))

    statuses = run_each(context, _result, [(target, rank, count, str(folder)) for rank in range(count)], log)
    assert statuses == [0] * count, log()
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(count)]


def _result(target: Callable[..., Any], rank: int, count: int, folder: str) -> None:
    output = os.open(f"{folder}/log-{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    result = target(dist.init_device_mesh("cpu", (count,)))
    torch.save(result, f"{folder}/result-{rank}.pt")
    dist.destroy_process_group()


class Runs:
    """A script in a folder of its own, run by some processes, and then by others.

    Args:
        context: What forks.
        folder: Of its checkpoints, and of what it writes down.
        **job: See `process_script`.
    """

    def __init__(self, context: Any, folder: Path, **job: Any) -> None:
        folder.mkdir()
        self.context, self.report = context, folder / "report"
        self.checkpoints = folder / "checkpoints"
        self.job = {"folder": str(self.checkpoints), "report": str(self.report), **job}

    def run(
        self,
        size: int,
        time_limit: float = TIME_LIMIT,
        **changes: Any,
    ) -> list[int]:
        """Runs it until all processes have ended, and returns their exit statuses, negative for a signal."""
        job, port = {**self.job, **changes}, free_port()
        each = [(job, rank, size, port) for rank in range(size)]
        return run_each(self.context, process_script.forked, each, lambda: self.log(size), time_limit)

    def report_of(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(f"{self.report}.{rank}").read_text())
        return found

    def reports(self, size: int) -> list[dict[str, Any]]:
        return [self.report_of(rank) for rank in range(size)]

    def steps(self, rank: int = 0) -> list[tuple[int, int, list[int]]]:
        """Of each step that a process has taken so far: its epoch, its number, and the numbers of its samples."""
        path = Path(f"{self.report}.samples.{rank}")
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    def samples_in(self, epoch: int, size: int) -> list[int]:
        """The samples that all processes have trained on in an epoch, in all runs."""
        every = [samples for rank in range(size) for number, _, samples in self.steps(rank) if number == epoch]
        return sorted(number for samples in every for number in samples)

    def log(self, size: int) -> str:
        paths = [Path(f"{self.report}.log.{rank}") for rank in range(size)]
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in paths if path.exists())
