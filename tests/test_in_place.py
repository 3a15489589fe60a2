"""What a function holds on to takes back what was saved, and stays."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from ignition.codec import decode, encode, give_back


def taken_back(saved, present):
    tensors, objects = {}, []
    encoded = encode(saved, tensors, "it", exact=True)
    back = decode(encoded, {name: one.clone() for name, one in tensors.items()}, present, objects)
    give_back(objects)
    return back


@pytest.mark.parametrize(
    ("saved", "present"),
    [
        ([1, 2, 3], [0]),
        ({"a": 1}, {"b": 2}),
        ({1, 2}, set()),
        (deque([1, 2], 2), deque([0], 2)),
        (Counter(a=2), Counter(b=1)),
        (OrderedDict(b=1, a=2), OrderedDict()),
        (defaultdict(list, a=[1]), defaultdict(list, a=[])),
        (torch.arange(3.0), torch.zeros(3)),
        (torch.ones(2, 3).t(), torch.zeros(3, 2)),
        (torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)),
        (nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))),
        (np.arange(3), np.zeros(3, dtype=int)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_thing_of_the_same_kind_and_form_is_filled(saved, present):
    for wrap in (lambda one: {"a": one}, lambda one: [one], lambda one: (one,), lambda one: {3: {"b": one}}):
        back = taken_back(wrap(saved), wrap(present))
        assert repr(back) == repr(wrap(saved))
        held = back
        while isinstance(held, (tuple, dict, list)) and held is not present:
            held = next(iter(held.values())) if isinstance(held, dict) else held[0]
        assert held is present


@pytest.mark.parametrize(
    ("saved", "present"),
    [
        ([1, 2], (0,)),
        ((1, 2), (0, 0)),
        ({"a": 1}, OrderedDict(a=2)),
        (deque([1], 2), deque([0], 3)),
        (torch.ones(3), torch.zeros(2)),
        (torch.ones(3), torch.zeros(3, dtype=torch.float64)),
        (torch.ones(3), torch.zeros(3, requires_grad=True)),
        (torch.ones(3), torch.zeros(1).expand(3)),
        (torch.ones(3), [0.0, 0.0, 0.0]),
        (torch.ones(3), torch.zeros(3, requires_grad=True) * 2),
        (np.ones(3), np.zeros(4)[1:]),
        (np.ones(3), np.zeros(3, dtype=int)),
        (np.ones(3), None),
    ],
)
def test_a_thing_of_another_kind_or_form_is_left_alone(saved, present):
    before = repr(present)
    back = taken_back({"a": saved}, {"a": present})["a"]
    assert back is not present
    assert repr(back) == repr(saved)
    assert repr(present) == before


def test_views_of_one_memory_stay_views():
    queue = torch.zeros(4, 3)
    saved = torch.arange(12.0).reshape(4, 3)
    back = taken_back(
        {"queue": saved, "first": saved[0], "column": saved[:, 1]},
        {"queue": queue, "first": queue[0], "column": queue[:, 1]},
    )
    assert torch.equal(queue, saved)
    back["queue"][0, 1] = 7
    assert back["first"][1] == 7
    assert back["column"][0] == 7


def test_views_that_have_parted_since_stay_apart():
    queue = torch.zeros(4)
    back = taken_back({"queue": torch.ones(4), "part": torch.full((2,), 5.0)}, {"queue": queue, "part": queue[:2]})
    assert back["queue"] is queue
    assert back["queue"].tolist() == [1, 1, 1, 1]
    assert back["part"].tolist() == [5, 5]


def test_two_places_that_held_one_tensor_hold_one_again():
    one, a, b = torch.ones(2), torch.zeros(2), torch.zeros(2)
    back = taken_back({"a": one, "b": one}, {"a": a, "b": b})
    assert back["a"] is back["b"] is a


@pytest.mark.parametrize("kind", [list, torch.zeros, np.zeros])
def test_one_thing_in_two_places_does_not_take_two_values(kind):
    present = kind(2) if kind is not list else [0, 0]
    values = (kind(2), kind(2) + 1) if kind is not list else ([1], [2])
    back = taken_back({"a": values[0], "b": values[1]}, {"a": present, "b": present})
    assert repr(back) == repr({"a": values[0], "b": values[1]})


def test_one_list_in_two_places_stays_one_where_both_held_the_same():
    present, saved = [0], [1, 2]
    back = taken_back({"a": saved, "b": saved}, {"a": present, "b": present})
    assert back["a"] is back["b"] is present


def test_nothing_is_filled_before_all_is_known():
    present, objects = {"a": torch.zeros(2), "b": [0]}, []
    tensors = {}
    encoded = encode({"a": torch.ones(2), "b": [1]}, tensors, "it")
    decode(encoded, tensors, present, objects)
    assert repr(present) == repr({"a": torch.zeros(2), "b": [0]})
