"""How processes end, each case in processes that are forked from those of the test: so torch is imported once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from small import net

from ignition import distributed, parting

LIMIT = 10.0
AT_ONCE = 3  # cases that run side by side: most of their time they wait


def end_each(cases: Mapping[str, Callable[[], object]], folder: str, ports: Sequence[str]) -> None:
    """Leaves for each case the exit status of this process, None where it hangs, and what was raised in it."""
    torch.optim.SGD(net().parameters(), 0.1)  # imports what an optimizer needs
    number, found = int(os.environ["RANK"]), {}
    waiting = list(zip(cases.items(), ports, strict=True))
    while waiting:
        begun = []
        for (name, call), port in [waiting.pop(0) for _ in range(min(AT_ONCE, len(waiting)))]:
            path = os.path.join(folder, f"said-{number}-{len(found) + len(begun)}")
            child = os.fork()
            if not child:
                os.environ["MASTER_PORT"] = port
                parting._SECONDS_FOR_A_WORD, distributed.SECONDS_FOR_A_MEETING = 1.0, 2.0
                _end_as(call, path)
            begun.append((name, child, path))
        until = time.monotonic() + LIMIT
        for name, child, path in begun:
            found[name] = [_status_of(child, until), Path(path).read_text() if os.path.exists(path) else ""]
    Path(folder, f"result-{number}.json").write_text(json.dumps(found))


def _status_of(child: int, until: float) -> int | None:
    """The exit status of a process; None for one that has to be killed."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def _end_as(call: Callable[[], object], path: str) -> None:
    """Ends this process as Python would after `call`, and notes what was raised."""
    status, said = 0, "nothing"
    try:
        call()
    except SystemExit:
        said = "exit"
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status, said = 1, f"{type(error).__name__}: {error}".partition("\n")[0]
    Path(path).write_text(said)
    distributed.close()
    os._exit(status)
