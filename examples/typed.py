"""Trains with everything annotated: what the type checkers see of Ignition.

    python examples/typed.py

`make check` runs mypy (strict) and pyright (strict) over this file, so it shows how annotated code is written, and
that the package's own annotations serve both. It takes a few seconds, and needs no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_type

import torch
from torch import Tensor, nn

from ignition import (
    History,
    IgnitionError,
    TensorLoader,
    Trainer,
    accuracy,
    crossentropy_loss,
    evaluate,
    evaluate_on_batch,
    fit_on_batch,
    optimize,
    predict,
    predict_on_batch,
    seed_everything,
)
from ignition.callbacks import Callback, CosineDecay, CSVLogger, EarlyStopping, SaveModel


class Network(nn.Module):
    """Points ``(batch, 2)`` to logits ``(batch, 2)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs

    def size(self) -> Tensor:
        return torch.stack([parameter.abs().sum() for parameter in self.parameters()]).sum()


class Milestone(Callback):
    """Notes the step at which the accuracy first reached a goal."""

    def __init__(self, goal: float) -> None:
        self.goal = goal
        self.step: int | None = None

    def on_record(self, trainer: Trainer[Network]) -> None:
        if self.step is None and trainer.history.last["val_acc"] >= self.goal:
            self.step = trainer.step


def main(epochs: int = 5) -> Trainer[Network]:
    seed_everything(0)
    x = torch.randn(1000, 2)
    y = (x.prod(dim=1) > 0).long()
    train_loader = TensorLoader(x[:800], y[:800], batch_size=32, shuffle=True)
    test_loader = TensorLoader(x[800:], y[800:], batch_size=100)
    model = Network(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model: Network, x: Tensor, y: Tensor, lambd: float) -> Mapping[str, Tensor]:
        outputs = model(x)
        loss = crossentropy_loss(outputs, y)
        optimize(loss + lambd * model.size(), optimizer)
        return {"loss": loss, "acc": accuracy(outputs, y)}

    def plain_train_fn(model: Network, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def eval_fn(model: Network, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    trainer = Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader)
    assert_type(trainer, Trainer[Network])
    assert_type(trainer.model, Network)
    milestone = Milestone(0.9)
    trainer.hyper = {"lambd": 1e-4}

    def stop_when_good(trainer: Trainer[Network]) -> None:
        if trainer.history.last["val_acc"] > 0.99:
            trainer.stop("good enough")

    trainer.on("epoch_end")(stop_when_good)  # as a decorator it serves too

    with TemporaryDirectory() as folder:
        trainer.callbacks = [
            CosineDecay("lr", start_value=0.01, end_value=0.001, max_epochs=epochs),
            EarlyStopping("val_loss", patience=3),
            SaveModel(Path(folder) / "best.pt", best="val_acc"),
            CSVLogger(Path(folder) / "history.csv"),
            milestone,
        ]
        assert_type(trainer.fit(epochs=epochs), History)

    best = trainer.history.best_epoch("val_acc")
    assert best is not None  # a history without records has none
    print(f"Epoch {best.epoch} was the best: {best.value:.1%}, and {milestone.goal:.0%} after {milestone.step} steps.")
    assert_type(trainer.evaluate(), dict[str, float])
    assert_type(evaluate(model, eval_fn, test_loader, progress=False), dict[str, float])
    print(f"The outputs for the test data are of shape {tuple(predict(model, predict_on_batch, test_loader).shape)}.")

    try:
        Trainer(model, optimizer, plain_train_fn, train_loader, progress=False).fit(steps=0)
    except IgnitionError as error:
        print(f"What an error looks like: {error}")
    return trainer


if __name__ == "__main__":
    main()
