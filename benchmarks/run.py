"""Measures Ignition beside the hand-written loop and its peers: ``make bench``, or ``make bench-quick`` without peers.

Each library runs in a process and a terminal of its own, one after the other, again in each round. Ratios are taken
within a round, so that a machine that is slower for a minute is so for all. Nothing here passes or fails.
"""

import argparse
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import page, report  # noqa: E402 (found from the line above)

RESULTS = ROOT / "runs" / "benchmarks.json"

ALONE = ("loading", "predicting", "saving", "compiling")  # which compare in one process; the others are peers/
OWN = ("by_hand", "by_hand_in_memory", "ignition_", "ignition_own_step", "ignition_in_memory", *ALONE)
PEERS = ("ignite_", "poutyne_", "skorch_", "accelerate_", "transformers_", "fastai_", "keras_", "lightning_")

# One thread: with so little work a step, more threads only wait for each other, and the figures jump about.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # the import time is that of the second import, as for an installed package
    "MKL_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",  # all on the CPU, wherever it runs
    "KERAS_TORCH_DEVICE": "cpu",
    "HF_HUB_OFFLINE": "1",
    "TERM": "xterm-256color",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long a measurement runs (default: 0.5)")
    parser.add_argument("--no-peers", action="store_true", help="the hand-written loop and Ignition alone")
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="some modules of benchmarks/peers/ alone")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and the chart")
    parser.add_argument("--again", action="store_true", help="measure nothing: take the figures of the run before")
    arguments = parser.parse_args()

    if arguments.again:
        rounds = json.loads(RESULTS.read_text())
    else:
        rounds = measured_in_rounds(arguments)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rounds))
    figures = report.Figures(rounds)
    for name, table in report.tables(figures).items():
        print(f"\n{name}\n\n{table}")
    if arguments.write:
        page.write(figures, ROOT / "docs")


def measured_in_rounds(arguments: argparse.Namespace) -> list[dict[str, dict]]:
    """What `measure.py` found, by module, in each round."""
    modules = arguments.only or (OWN if arguments.no_peers else OWN + PEERS)
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append({})
        # Every other round backwards: who comes after whom is not always the same.
        for module in modules if number % 2 else modules[::-1]:
            started = perf_counter()
            rounds[-1][module] = measured(module, arguments.seconds)
            errors = "".join(f"  {work}: {error}" for work, error in rounds[-1][module]["errors"].items())
            print(f"round {number}  {module:<20} {perf_counter() - started:5.1f} s{errors}"[:200], flush=True)
    return rounds


def measured(module: str, seconds: float, limit: float = 180) -> dict:
    """What `measure.py` finds out about a module; where it fails or hangs, the error takes the place."""
    name = f"benchmarks.{module}" if module in ALONE else f"benchmarks.peers.{module}"
    with tempfile.TemporaryDirectory() as folder:  # as the working directory too: some libraries leave files
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks.measure", name, str(result), str(seconds)]
        said = run_in_terminal(command, folder, limit)
        found = json.loads(result.read_text()) if result.exists() else {"errors": {}}
        if said is not None:
            found["errors"]["process"] = said
        return found


def run_in_terminal(command: list[str], folder: str, limit: float) -> str | None:
    """Runs a command in a terminal of 24 lines; returns how it failed, or None where it did not."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | ENVIRONMENT, stdin=there, stdout=there, stderr=there,
        start_new_session=True,
    )  # fmt: skip
    os.close(there)
    killer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    last = b""
    try:
        while text := os.read(here, 65536):
            last = (last + text)[-2000:]
    except OSError:  # how Linux says that the other side was closed
        pass
    except KeyboardInterrupt:  # which the process, in a terminal of its own, has not heard of
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        status = process.wait()
        killer.cancel()
        os.close(here)
    if status == -signal.SIGKILL:
        return f"took more than {limit:.0f} s"
    lines = last.decode(errors="replace").strip().splitlines() or [""]
    return f"exit status {status}: {lines[-1]}" if status else None


if __name__ == "__main__":
    main()
