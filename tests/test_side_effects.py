"""What a function changes in Python when it is called, as far as it can be seen."""

import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ignition.side_effects import SideEffects

number, items, names, last = 0, [], set(), None
generator = np.random.default_rng(0)
settings = SimpleNamespace(inner=SimpleNamespace(count=0), table={"a": [1]})
layer = nn.Linear(2, 2)
optimizer = torch.optim.Adam(layer.parameters())
buffer = torch.zeros(2)


def adds():
    global number
    number += 1000


def sets_none():
    global last
    last = object()


def by_another():
    adds()


def in_a_closure():
    inner = [0]

    def count():
        inner[0] += 1000

    return count


def rebinds():
    total = 0.0

    def add():
        nonlocal total
        total += 0.5

    return add


class Meter:
    def __init__(self):
        self.value = 0.0

    def __call__(self):
        self.value += 1.5


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.zeros(2)

    def forward(self):
        self.hidden = self.hidden + 1


remembering = Remembering()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (adds, ["f.number"]),
        (sets_none, ["f.last"]),
        (lambda: items.append(torch.ones(2)), ["f.items"]),
        (lambda: names.add(len(names)), ["f.names"]),
        (by_another, ["f.adds.number"]),
        (in_a_closure(), ["f.inner.0"]),
        (rebinds(), ["f.total"]),
        (Meter(), ["f.value"]),
        (lambda: setattr(settings.inner, "count", object()), ["f.settings.inner.count"]),
        (lambda: settings.table["a"].append(2), ["f.settings.table.a"]),
        (lambda: settings.table.update(b=1), ["f.settings.table"]),
        (lambda: remembering(), ["f.remembering.hidden"]),
        (lambda: setattr(layer, "mark", object()), ["f.layer.mark"]),
        (lambda: random.random(), ["the random numbers of python"]),
        (lambda: np.random.rand(), ["the random numbers of numpy"]),
        (lambda: torch.rand(2), ["the random numbers of torch"]),
        (lambda: generator.normal(), ["the generator f.generator"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "f",
)
def test_what_is_another_object_than_before_is_named(function, expected):
    effects = SideEffects({"f": function})
    assert effects.found() == []
    function()
    assert effects.found() == expected


def test_other_roots_are_looked_at_too():
    state, waiting = {"hidden": None}, deque()
    effects = SideEffects({"state": state, "waiting": waiting})
    state["hidden"] = torch.zeros(2)
    waiting.append(1)
    assert effects.found() == ["waiting", "state.hidden"]


def test_what_training_changes_is_none():
    def trains():
        optimizer.zero_grad()
        layer(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        buffer.add_(1)
        return {"loss": buffer.sum()}

    effects = SideEffects({"f": trains, "model": layer})
    trains()
    assert effects.found() == []
