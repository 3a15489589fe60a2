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


def end_each(cases: Mapping[str, Callable[[], object]], folder: str, ports: Sequence[str]) -> None:
    """Leaves for each case the exit status of this process, None where it hangs, and what was raised in it."""
    torch.optim.SGD(net().parameters(), 0.1)  # imports what an optimizer needs
    number, found = int(os.environ["RANK"]), {}
    for (name, call), port in zip(cases.items(), ports, strict=True):
        begun, path = time.monotonic(), os.path.join(folder, f"said-{number}")
        if os.path.exists(path):
            os.remove(path)
        child = os.fork()
        if not child:
            os.environ["MASTER_PORT"] = port
            parting._SECONDS_FOR_A_WORD, distributed.SECONDS_FOR_A_MEETING = 1.0, 2.0
            _end_as(call, path)
        status = None
        while status is None and time.monotonic() < begun + LIMIT:
            done, status = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(status) if done else time.sleep(0.02)
        if status is None:
            os.kill(child, 9)
            os.waitpid(child, 0)
        found[name] = [status, Path(path).read_text() if os.path.exists(path) else ""]
    Path(folder, f"result-{number}.json").write_text(json.dumps(found))


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
