import collections
import copy

import numpy as np
import pytest
import torch
from torch import nn

from ignition.plain_copy import plain_copy


def test_a_plain_copy_has_containers_of_its_own_and_the_very_tensors():
    first, second = torch.ones(2), torch.zeros(3)
    value = {"state": {0: {"step": 3, "moments": [first, (second, first)]}}, "groups": [{"lr": 0.1, "name": None}]}
    tensors = {}
    copied = plain_copy(value, tensors)
    assert list(tensors.items()) == [(id(first), first), (id(second), second)]  # each once
    value["state"][0]["moments"].append(5)
    value["state"][0]["step"] = 4
    value["groups"][0].clear()
    kept = copied["state"][0]["moments"]
    assert [id(one) for one in (kept[0], *kept[1])] == [id(first), id(second), id(first)]
    kept.clear()
    assert copied == {"state": {0: {"step": 3, "moments": []}}, "groups": [{"lr": 0.1, "name": None}]}


def test_many_dicts_are_copied_each_with_the_very_tensors():
    first, second = torch.ones(2), torch.zeros(3)
    value = [{"step": 1, "moment": first}, {"step": 2, "moment": second}, {}, {"moment": first}]
    before, tensors = [dict(one) for one in value], {}
    copied = plain_copy(value, tensors)
    assert list(tensors.items()) == [(id(first), first), (id(second), second)]
    for one in value:
        one.clear()
    assert all(found.keys() == was.keys() for found, was in zip(copied, before, strict=True))
    assert all(found[key] is was[key] for found, was in zip(copied, before, strict=True) for key in was)


def test_dicts_among_other_things_are_copied_too():
    value = [{"a": [1]}, {"b": 2}, 3, ({"c": None},)]
    before = copy.deepcopy(value)
    copied = plain_copy(value, {})
    value[0]["a"].append(2)
    value[1].clear()
    value[3][0].clear()
    assert copied == before


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, np.zeros(2), np.float64(1), torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(1)),
        collections.OrderedDict(a=1), {(1, 2): 3}, {torch.zeros(1): 0}, torch.float32, 1j, bytearray(b"a"), object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_plain_is_not_copied(value):
    for nested in (value, [value], {"a": (value,)}, [{}, {"a": value}], [{"b": torch.ones(1)}, {1: [value]}]):
        with pytest.raises(TypeError, match="is no plain value"):
            plain_copy(nested, {})
