"""What all are to train, to checkpoint at step 11 of 24, and to go on with."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

SAMPLES, BATCH_SIZE, EPOCHS = 64, 8, 3  # 24 steps
CHECKPOINT_EVERY = 11  # steps: the first is in the middle of the second epoch
LEARNING_RATE, MOMENTUM = 0.05, 0.9  # of torch.optim.SGD
SEED = 0


class Case(NamedTuple):
    """What draws random numbers, and how many processes load the data."""

    dropout: bool
    shuffle: bool
    augmentation: bool
    workers: int


CASES = [Case(*settings) for settings in product((False, True), (False, True), (False, True), (0, 2))]


class Stopped(Exception):
    """What ends the run that is to be gone on with, in its 12th step."""


class Points(Dataset):
    """Points ``(8,)`` of four classes; augmented with noise from torch's generator, drawn at each loading."""

    def __init__(self, augmentation: bool) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.x = torch.randn(SAMPLES, 8, generator=generator)
        self.y = self.x[:, :4].argmax(dim=1)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index):
        x = self.x[index]
        return x + 0.1 * torch.randn(8) if self.augmentation else x, self.y[index]


class Network(nn.Module):
    def __init__(self, dropout: bool, stop: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            self.layers = nn.Sequential(
                nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2 if dropout else 0.0), nn.Linear(16, 4)
            )
        self.steps_left = CHECKPOINT_EVERY if stop else None

    def forward(self, x):
        if self.steps_left == 0:
            raise Stopped
        if self.steps_left is not None:
            self.steps_left -= 1
        return self.layers(x)
