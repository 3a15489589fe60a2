"""Several processes that are forked from one which has torch already, so that they are there at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import process_script
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
        running = [
            self.context.Process(target=process_script.forked, args=(job, rank, size, port)) for rank in range(size)
        ]
        for one in running:
            one.start()
        try:
            end = time.monotonic() + time_limit
            for one in running:
                one.join(max(end - time.monotonic(), 0.0))
            statuses = [one.exitcode for one in running]
            assert None not in statuses, f"a process still ran after {time_limit} seconds\n{self.log(size)}"
            return statuses
        finally:
            for one in running:
                one.kill()
                one.join()
                one.close()

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
