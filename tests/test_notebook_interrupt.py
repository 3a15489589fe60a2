"""Ctrl-C in a notebook: a real kernel is interrupted while it trains, and used on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the kernel's client
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WAIT = 120  # seconds, on a machine with much else to do

SCRIPT = """
import copy, pathlib, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from ignition import Trainer, crossentropy_loss, evaluate_on_batch, optimize
from ignition.callbacks import EMA, Checkpoint
torch.set_num_threads(1)
BEGUN = pathlib.Path({begun!r})

def make(folder=None, workers=0, pause=0.0, place="train"):
    global trainer, model, pauses
    torch.manual_seed(1)
    x = torch.randn(40, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 5, shuffle=True, num_workers=workers,
                        persistent_workers=workers > 0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pauses = {{"train": pause if place == "train" else 0, "eval": pause if place == "eval" else 0}}

    def train_fn(model, x, y):
        pause_in("train")
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {{"loss": loss}}

    def eval_fn(model, x, y):
        pause_in("eval")
        return evaluate_on_batch(model, x, y)

    test_loader = DataLoader(loader.dataset, 10, num_workers=workers, persistent_workers=workers > 0)
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, test_loader, device="cpu")
    trainer.callbacks = [EMA(0.9)] + ([] if folder is None else [Checkpoint(folder, every=3)])

def pause_in(place):
    if pauses[place] and trainer.step >= 3:
        BEGUN.touch()
        time.sleep(pauses[place])

def weights():
    return [value.tolist() for value in model.state_dict().values()], trainer.history["val_loss"], trainer.step
"""

USE_MODEL = "print(copy.deepcopy(model).eval()(torch.zeros(2, 4)).shape)"


class Notebook:
    """A kernel, and what the cells that it runs print."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.manager import start_new_kernel

        self.begun = folder / "begun"
        self.manager, self.client = start_new_kernel(startup_timeout=WAIT, kernel_name="python3", cwd=str(folder))
        self.run(SCRIPT.format(begun=str(self.begun)))

    def run(self, code: str, meanwhile: Callable[[], object] = lambda: None) -> str:
        """What a cell prints; at its end ``error: NAME`` where it raises."""
        texts: list[str] = []
        number = self.client.execute(code)
        meanwhile()
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                texts.append(content["text"])
            elif kind == "error":
                texts.append(f"error: {content['ename']}")
            elif kind == "status" and content["execution_state"] == "idle":
                return "".join(texts).strip()
        pytest.fail(f"the cell did not end: {code}")

    def interrupted(self, code: str) -> str:
        """What a cell prints that is interrupted in the middle of training, by the button."""

        def press() -> None:
            deadline = time.monotonic() + WAIT
            while not self.begun.exists():
                assert time.monotonic() < deadline, "the training did not begin"
                time.sleep(0.01)
            self.manager.interrupt_kernel()

        self.begun.unlink(missing_ok=True)
        return self.run(code, press)

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(folder / name))
        one = Notebook(folder)
    yield one
    one.end()


@pytest.mark.fault("Ctrl-C in a notebook", "Equal 1")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["train", "eval"])
def test_a_fit_with_a_checkpoint_goes_on_to_the_same_bits(notebook: Notebook, place: str, workers: int) -> None:
    expected = notebook.run(
        f"make('whole-{place}-{workers}', {workers}); trainer.fit(epochs=3); print(weights())"
    ).splitlines()[-1]
    printed = notebook.interrupted(
        f"make('{place}-{workers}', {workers}, 0.3, {place!r}); trainer.fit(epochs=3, resume=True)"
    )
    assert printed.endswith("error: KeyboardInterrupt")
    notebook.run("pauses.update(train=0, eval=0)")
    assert notebook.run(USE_MODEL) == "torch.Size([2, 2])"
    assert notebook.run("print(list(trainer.averaged))") == "['ema']"
    assert notebook.run("print(len(trainer.history) == trainer.history.epochs < 3, trainer.step >= 3)") == "True True"
    again = notebook.run("trainer.fit(epochs=3, resume=True); print(weights())")
    assert again.splitlines()[-1] == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["train", "eval"])
def test_a_fit_without_a_checkpoint_leaves_model_and_history_usable(
    notebook: Notebook, place: str, workers: int
) -> None:
    printed = notebook.interrupted(f"make(None, {workers}, 0.3, {place!r}); trainer.fit(epochs=3)")
    assert printed.endswith("error: KeyboardInterrupt")
    notebook.run("pauses.update(train=0, eval=0); before = trainer.epoch, len(trainer.history)")
    assert notebook.run(USE_MODEL) == "torch.Size([2, 2])"
    again = notebook.run("trainer.fit(epochs=2); print(trainer.epoch - before[0], len(trainer.history) - before[1])")
    assert again.splitlines()[-1] == "2 2"
    assert notebook.run("print(sorted(trainer.evaluate()))").endswith("['acc', 'ema_acc', 'ema_loss', 'loss']")
