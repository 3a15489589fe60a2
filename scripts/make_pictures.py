"""Draws the pictures of docs/images, for light pages and dark ones, from trainings of docs/start.md and of digits.

python scripts/make_pictures.py         # a minute
"""

from __future__ import annotations

import sys
from contextlib import chdir
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory

import torch
from matplotlib import style

from ignition import (
    History,
    Trainer,
    crossentropy_loss,
    evaluate_on_batch,
    fit_on_batch,
    predict_on_batch,
    report,
    seed_everything,
)
from ignition.lr_finder import LRSweep

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"

sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]


def trained() -> tuple[Trainer, LRSweep]:
    """A Trainer after its training, and its sweep before it."""
    from digits import make_loaders, make_model

    seed_everything(0)
    train_loader, test_loader = make_loaders()
    model = make_model(dropout=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    trainer = Trainer(model, optimizer, train_fn, train_loader, evaluate_on_batch, test_loader)
    sweep = trainer.find_lr()
    trainer.fit(epochs=8)
    return trainer, sweep


def started() -> History:
    """What the script on the page Start trains."""
    from pages import blocks

    script = next(block.text for block in blocks(ROOT / "docs" / "start.md") if block.kind == "file")
    with TemporaryDirectory() as folder, chdir(folder):
        Path("train.py").write_text(script)
        return run_path("train.py")["history"]


def main() -> None:
    """Draws everything twice."""
    start = started()
    trainer, sweep = trained()
    images, labels = trainer.test_loader.dataset.tensors
    outputs = trainer.predict(predict_on_batch, trainer.test_loader)

    FOLDER.mkdir(exist_ok=True)
    for page, look in (("light", "default"), ("dark", "dark_background")):
        with style.context(look):
            drawn = {
                "start-loss": start.plot_loss(),
                "start-accuracy": start.plot_accuracy(),
                "find-lr": sweep.plot(),
                "history": report.plot_history(trainer.history)[0],
                "confusion": report.plot_confusion(outputs, labels),
                "examples": report.find_examples(outputs, labels, "right", most=False, count=6).plot(images)[0],
            }
            for name, axes in drawn.items():
                axes.figure.savefig(FOLDER / f"{name}-{page}.png", dpi=110)


if __name__ == "__main__":
    main()
