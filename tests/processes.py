"""Several real processes for a test: started as torchrun would, watched, and ended whatever happens."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
TIME_LIMIT = 60.0

_PLACES = count(os.getpid())
_CALL = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2])[sys.argv[3]](*sys.argv[4:])"


class Finished(NamedTuple):
    """One process that has ended: its exit status (negative: the signal that ended it), and what it printed."""

    rank: int
    status: int
    output: str
    errors: str


def free_port() -> int:
    """A port that nobody has, and that the system gives nobody unasked before it is used.

    That would be one of those from 32768 on: gloo asks for many of them. Each worker of the tests has its own thousand.
    """
    first = 20_000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 12)
    for place in _PLACES:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", first + place % 1000))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise AssertionError("no port is free")


def run_processes(
    target: Callable[..., None] | str | Path,
    count: int,
    *arguments: object,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    time_limit: float = TIME_LIMIT,
    patience: float = 5.0,
    check: bool = True,
    while_running: Callable[[Sequence[subprocess.Popen[bytes]]], None] | None = None,
) -> list[Finished]:
    """Runs a function, or a script, in `count` processes at once; each knows its place by torchrun's variables.

    Args:
        target: A function at the top level of a test file, which is imported anew in each process; it receives the
            arguments as texts. Or the path of a script, whose command line they are.
        count: How many processes.
        *arguments: What is handed on, as texts: paths for results, mostly.
        folder: Where they run, and where their output lies: ``rank-0.out``, ``rank-0.err``.
        environment: More variables.
        time_limit: Seconds after which all are killed, and what they have printed is shown.
        patience: With `check`, the seconds that the others have when one has failed.
        check: Whether an exit status other than 0 is an error, which shows all that was printed.
        while_running: Called with the processes once they have been started: to kill one of them, for example.

    Raises:
        AssertionError: If one took too long or, with `check`, failed. All are ended by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if callable(target):
        file = inspect.getfile(target)
        command = [sys.executable, "-c", _CALL, str(TESTS), file, target.__name__, *map(str, arguments)]
    else:
        command = [sys.executable, str(target), *map(str, arguments)]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        **(environment or {}),
    }
    running: list[subprocess.Popen[bytes]] = []
    late = False
    try:
        for rank in range(count):
            mine = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (folder / f"rank-{rank}.out").open("wb") as out, (folder / f"rank-{rank}.err").open("wb") as err:
                running.append(
                    subprocess.Popen(
                        command,
                        cwd=folder,
                        env=mine,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        start_new_session=True,
                    )
                )
        if while_running is not None:
            while_running(running)
        end = time.monotonic() + time_limit
        # One that failed leaves the others waiting for it: they are not waited for long.
        while any(one.poll() is None for one in running) and time.monotonic() < end:
            if check and any(one.poll() for one in running):
                end = min(end, time.monotonic() + patience)
            time.sleep(0.02)
        late = any(one.poll() is None for one in running)
        if late:
            _tell(running)
    finally:
        for one in running:
            _end(one)
    finished = [
        Finished(rank, one.returncode, _text(folder / f"rank-{rank}.out"), _text(folder / f"rank-{rank}.err"))
        for rank, one in enumerate(running)
    ]
    if late or (check and any(one.status for one in finished)):
        raise AssertionError(_shown(finished, f"killed after {time_limit:g} s at most" if late else "failed"))
    return finished


def _tell(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Has each that still runs print where its threads are, which PYTHONFAULTHANDLER does as it aborts."""
    for one in running:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGABRT)
    end = time.monotonic() + 2.0
    while any(one.poll() is None for one in running) and time.monotonic() < end:
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process, with what it has started: they are a group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _shown(finished: Sequence[Finished], what: str) -> str:
    parts = [f"{len(finished)} processes, {what}"]
    for one in finished:
        parts.append(f"--- rank {one.rank}, exit status {one.status}")
        parts += [text.rstrip() for text in (one.output, one.errors) if text.strip()]
    return "\n".join(parts)
