"""Teaches a small convolutional network to read handwritten digits.

    python examples/digits.py
    torchrun --nproc-per-node 2 examples/digits.py    # the same on two processes, with the same numbers

The data are 1,797 real scans of 8 x 8 pixels that come with scikit-learn. It takes well under a minute on a laptop.
Stop it in whatever way you like and run it again: it goes on, and ends with the very numbers of a run left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ignition import DDP, Trainer, crossentropy_loss, distributed, evaluate_on_batch, fit_on_batch, seed_everything
from ignition.callbacks import Checkpoint, LinearDecay, SaveModel


def make_loaders() -> tuple[DataLoader, DataLoader]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # (1797, 1, 8, 8), from 0 to 1
    labels = torch.tensor(digits.target)  # (1797,), the digits themselves

    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)
    batch_size = 32 // distributed.world_size()  # of each process; a script started by python is the only one
    train_loader = DataLoader(TensorDataset(train_x, train_y), batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(TensorDataset(test_x, test_y), batch_size=128)
    return train_loader, test_loader


def make_model(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64 * 4 * 4, 10),
    )


def main(epochs: int = 12, folder: Path = Path("runs/digits"), dropout: float = 0.3) -> Trainer:
    seed_everything(0)
    train_loader, test_loader = make_loaders()
    model = make_model(dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    # These two functions are all that Ignition wants to know: what to do with one batch.
    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    strategy = DDP(sync_batch_norm=True)  # matters under torchrun alone: batch norm over the batches of all processes
    trainer = Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader, strategy=strategy)
    trainer.callbacks = [
        LinearDecay("lr", start_value=0.01, end_value=0.001, max_epochs=epochs),
        SaveModel(folder / "best.pt", best="val_acc"),
        Checkpoint(folder / "checkpoints"),
    ]
    history = trainer.fit(epochs=epochs, resume=True)  # from the newest checkpoint; to begin anew, delete the folder

    if distributed.is_main():  # one of many processes is enough to say so
        history.plot_loss().figure.savefig(folder / "loss.png")
        history.plot_accuracy().figure.savefig(folder / "accuracy.png")
        best = history.best_epoch("val_acc")
        print(f"Epoch {best.epoch} read {best.value:.1%} of the test digits right. Next, look at {folder}/loss.png.")
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a small convolutional network to read handwritten digits.")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training scans (default: 12)")
    parser.add_argument("--folder", type=Path, default=Path("runs/digits"), help="where the results go")
    parser.add_argument("--dropout", type=float, default=0.3, help="chance for a feature to be left out (default: 0.3)")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.folder, arguments.dropout)
