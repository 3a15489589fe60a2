"""Trainers that say nothing, of functions and batches of a line each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ignition import Trainer
from ignition.structure import named


def quiet(train_fn, loader, *evaluation, model=None, optimizer=None, **settings):
    """A silent Trainer on the CPU, by default of a model with the optimizer's parameters and no others."""
    if model is None:
        model = nn.Identity()
        model.trained = nn.ParameterList(trained_by(optimizer))
    return Trainer(model, optimizer, train_fn, loader, *evaluation, device="cpu", progress=False, **settings)


def trained_by(optimizers):
    groups = [group for one in named(optimizers).values() for group in getattr(one, "param_groups", ())]
    return [parameter for group in groups for parameter in group["params"]]


def nothing(model, *batch):
    """A train or eval function that does nothing."""


def numbered(*sizes):
    """Batches (size,) of ones, twos, threes, ..."""
    return [torch.full((size,), float(number)) for number, size in enumerate(sizes, start=1)]


def first_value(model, x):
    return {"loss": x[0]}


class WithoutLength:
    """Batches that can be read again and again, and do not say how many there are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


with_or_without_length = pytest.mark.parametrize("kind", [list, WithoutLength], ids=["with length", "without"])
