"""One object in two places of trainer.state is found, and what only looks alike is not."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from ignition.sharing import shared_in

LIST, ARRAY, WEIGHT = [1], np.zeros(2), nn.Parameter(torch.zeros(2))
ITSELF = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"a": LIST, "b": LIST}, {("a", "b"): "list"}),
        ({"a": LIST, "b": {"c": (LIST,)}}, {("a", "b.c.0"): "list"}),
        ({"a": ARRAY, "b": [ARRAY, ARRAY]}, {("a", "b.0"): "ndarray", ("a", "b.1"): "ndarray"}),
        ({"q": deque([LIST]), 3: LIST}, {("q.0", "3"): "list"}),
        ({"a": {"b": LIST}, "c": {"b": LIST}}, {("a.b", "c.b"): "list"}),
        ({"w": [WEIGHT]}, {("layer.weight", "w.0"): "parameter of the model"}),
        (ITSELF, {("", "0"): "list"}),
    ],
)
def test_one_object_in_two_places_is_found(state, found):
    assert shared_in(state, {id(WEIGHT): "layer.weight"}) == found


BOTH = torch.zeros(4)


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {"a": [1], "b": [1]},
        {"a": (1,), "b": (1,), "c": 5, "d": 5, "e": "text", "f": "text"},
        {"a": LIST, "b": list(LIST)},
        {"a": ARRAY[:1], "b": ARRAY[1:]},
        dict(zip("ab", BOTH.chunk(2), strict=True)),
        {"a": BOTH, "b": BOTH},  # which comes back as one
        {"w": nn.Parameter(torch.zeros(2))},
    ],
)
def test_what_only_looks_alike_is_not(state):
    assert shared_in(state, {id(WEIGHT): "layer.weight"}) == {}
