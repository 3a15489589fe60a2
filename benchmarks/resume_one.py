"""Stops and resumes the trainings of one library: ``python -m benchmarks.resume_one MODULE RESULT_FILE``.

`resume.py` starts it. Each training has a process of its own, forked from one that has imported the library: one is
never stopped, one is stopped in its 12th step, and one goes on from what that has left, as the same script run again.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
import torch._dynamo  # some libraries do at their first step: here once for all trainings

from benchmarks.resuming.work import CASES, Case, Network, Stopped

LIMIT = 120  # seconds for a training


def main(name: str, result_file: str) -> None:
    result: dict[str, list] = {"differences": [], "errors": []}
    torch.set_num_threads(1)
    try:
        module = import_module(name)
    except Exception as error:
        result["errors"].append(f"{type(error).__name__}: {error}")
    else:
        for case in CASES:
            try:
                result["differences"].append(difference(module, case))
            except Exception as error:
                result["differences"].append(None)
                result["errors"].append(f"{case}: {error}")
    Path(result_file).write_text(json.dumps(result))


def difference(module: ModuleType, case: Case) -> float:
    """The largest absolute difference in the weights between the run that was stopped and the one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(module, case, Path(folder, "whole"))
        trained(module, case, Path(folder, "stopped"), stop=True)
        resumed = trained(module, case, Path(folder, "stopped"), resume=True)
    return max((whole[name] - resumed[name]).abs().max().item() for name in whole)


def trained(module: ModuleType, case: Case, folder: Path, stop: bool = False, resume: bool = False) -> dict:
    """The weights that a training ends with, in a process of its own."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        with open(folder / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(folder)
        model, error = Network(case.dropout, stop), None
        try:
            module.train(case, model, folder, resume)
        except Stopped:
            error = "stopped"
        except BaseException as raised:
            traceback.print_exc()
            error = f"{type(raised).__name__}: {raised}"
        torch.save({"weights": model.layers.state_dict(), "error": error}, folder / "ended.pt")
        os._exit(0)
    deadline = time.monotonic() + LIMIT
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"took more than {LIMIT} s")
        time.sleep(0.01)
    ended = torch.load(folder / "ended.pt")
    (folder / "ended.pt").unlink()
    if ended["error"] != ("stopped" if stop else None):
        raise RuntimeError(ended["error"] or "it ended before its 12th step")
    return ended["weights"]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
