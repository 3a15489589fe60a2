"""The work that all are given: the data, the models and the settings that must be equal."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

BATCH_SIZE = 32
LEARNING_RATE, MOMENTUM = 0.05, 0.9  # of torch.optim.SGD


def tiny_model() -> nn.Module:
    """A linear classifier: so little work that what is measured is the loop."""
    return nn.Linear(16, 4)


def tiny_data(batches: int) -> tuple[Tensor, Tensor]:
    """Inputs ``(samples, 16)`` and classes ``(samples,)``."""
    x = torch.randn(batches * BATCH_SIZE, 16, generator=torch.Generator().manual_seed(0))
    return x, x[:, :4].argmax(dim=1)


def digits_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def digits_data() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 scans of scikit-learn as ``(images (n, 1, 8, 8), labels (n,))``: 1,437 to train on, 360 to test."""
    # Read as a file: importing scikit-learn would take memory that only some of the libraries need.
    folder = Path(find_spec("sklearn").submodule_search_locations[0])
    table = torch.from_numpy(numpy.loadtxt(folder / "datasets/data/digits.csv.gz", delimiter=","))
    images, labels = table[:, :-1].float().view(-1, 1, 8, 8) / 16, table[:, -1].long()
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def test_accuracy(model: nn.Module, test_set: TensorDataset) -> float:
    """The share of the test set that a trained model gets right."""
    x, y = test_set.tensors
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).double().mean().item()


class Batches:
    """The same batch again and again: data that cost nothing to load."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.batch: tuple[Tensor, Tensor] = (torch.zeros(BATCH_SIZE, 16), torch.zeros(BATCH_SIZE, dtype=torch.long))

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        batch = self.batch
        for _ in range(self.count):
            yield batch
