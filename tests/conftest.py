"""What holds for every test: the same random numbers, one thread, and nothing left behind."""

from __future__ import annotations

import gc
import os
import re

os.environ["MPLBACKEND"] = "Agg"  # before matplotlib is imported: no window
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported: no network

import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fault_table
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)  # sums in one order, and no fight over the cores with the other test processes

# What a shell starts in the background ignores Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests try the same examples each time, and never fail for a slow machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# What other libraries start or set once, for as long as the process lives.
LASTING_THREADS = {
    "TMonitor",
    "InductorSubproc",
    "wandb-AsyncioManager-main",
}  # tqdm, torch.compile and wandb, where its service was killed
LASTING_VARIABLES = (
    "PYTEST_",
    "KMP_",
    "TORCHINDUCTOR_",
    "_TORCHINDUCTOR",
    "TRITON_",
)  # pytest, scikit-learn, torch.compile


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `gpu` where there is no accelerator; notes which are rows of the table of faults."""
    for item in items:
        for marker in item.iter_markers("fault"):
            fault, outcome, *tries = marker.args
            item.user_properties.append(("fault", [fault, *(tries or [1]), outcome]))
    if not torch.accelerator.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an accelerator, and make test-gpu"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the files of slow tests alone where these are not asked for: some import large libraries."""
    if config.option.markexpr != "not slow" or not collection_path.match("test_*.py"):
        return None
    return True if re.search(r"^pytestmark = pytest\.mark\.slow\b", collection_path.read_text("utf-8"), re.M) else None


def pytest_collection_finish() -> None:
    """Leaves what was imported out of every later search for garbage, which tests wait for."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes the table of faults."""
    parser.addoption("--write-faults", action="store_true", help="write the table of faults to docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    """Adds the marker by which a test is a row of the table of faults; hides a GPU from tests that run everywhere."""
    if "gpu" not in config.option.markexpr:  # else what a test holds on the CPU and the Trainer's model would be apart
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config.addinivalue_line("markers", "fault(name, outcome, tries=1): what a test that passes has seen of a fault")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the tests have seen of faults: each fault, how often it was tried, what came of it."""
    found: dict[str, list[fault_table.Row]] = {
        outcome: [
            value
            for report in terminalreporter.getreports(outcome)
            for name, value in getattr(report, "user_properties", ())
            if name == "fault"
        ]
        for outcome in ("passed", "failed")
    }
    rows = fault_table.merged(found["passed"])
    if rows or found["failed"]:
        terminalreporter.section("faults, tries, outcomes")
        failed = [f"{fault}: FAILED" for fault, *_ in found["failed"]]
        terminalreporter.write_line("\n".join([*fault_table.lines(rows), *failed]))
    if rows and terminalreporter.config.getoption("write_faults"):
        fault_table.write(rows)


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str, int, str], None]:
    """Notes a row of the table that the run ends with: the fault, the number of tries, what came of them."""
    return lambda fault, tries, outcome: record_property("fault", [fault, tries, outcome])


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Seeds every generator that a test may draw from."""
    random.seed(0)
    np.random.seed(0)
    if torch.accelerator.is_available():
        torch.manual_seed(0)
    else:  # which manual_seed would note down for three accelerators, with the way to it: half a millisecond
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests run; it is empty before each."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def nothing_left_behind(empty_folder: Path) -> Iterator[None]:
    """Fails a test that leaves a thread, a changed environment variable or a file in the working directory.

    Each test runs in an empty folder, which is not `tmp_path`: what a test writes on purpose goes there.
    """
    home, threads, variables = Path.cwd(), set(threading.enumerate()), environment()
    os.chdir(empty_folder)
    yield
    os.chdir(home)
    left = [f"the file {name}" for name in sorted(os.listdir(empty_folder))]
    if left:
        shutil.rmtree(empty_folder)
        empty_folder.mkdir()

    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=0 if lasting(thread) else 1)  # one that is just ending is none left behind
        if thread.is_alive() and not lasting(thread):
            left.append(f"the thread {thread.name}")
    changed = {name for name, _ in variables.items() ^ environment().items()}
    left += [f"a change of ${name}" for name in sorted(changed)]
    if left:
        pytest.fail(f"The test left behind: {', '.join(left)}", pytrace=False)


def lasting(thread: threading.Thread) -> bool:
    return bool({thread.name, type(thread).__name__} & LASTING_THREADS)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(LASTING_VARIABLES)}


@pytest.fixture
def tiny_data() -> tuple[Tensor, Tensor]:
    """Inputs (21, 4) and labels (21,) of 3 classes that can be learned; batches of 4 leave a ragged last one."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(21) % 3
    centres = 4 * torch.randn(3, 4, generator=generator)
    return centres[y] + torch.randn(21, 4, generator=generator), y


@pytest.fixture
def tiny_loader(tiny_data: tuple[Tensor, Tensor]) -> DataLoader[tuple[Tensor, ...]]:
    """The tiny data in order, in five batches of 4 and one of 1."""
    return DataLoader(TensorDataset(*tiny_data), batch_size=4)


@pytest.fixture
def tiny_model() -> nn.Sequential:
    """A classifier of the tiny data: inputs (batch, 4) to logits (batch, 3), with dropout."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
