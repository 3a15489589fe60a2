from collections import OrderedDict
from typing import NamedTuple

import pytest
from torch import nn

from ignition.structure import by_class, key_in, like, named, suffix


class Pair(NamedTuple):
    G: int
    D: int


@pytest.mark.parametrize(
    ("objects", "by_name"),
    [
        (None, {}),
        (7, {"": 7}),
        ([7], {"0": 7}),
        ([7, 8], {"0": 7, "1": 8}),
        ((7, 8), {"0": 7, "1": 8}),
        (Pair(7, 8), {"0": 7, "1": 8}),
        ({"G": 7, "D": 8}, {"G": 7, "D": 8}),
        ({0: 7}, {"0": 7}),
        ([], {}),
        ({}, {}),
    ],
)
def test_objects_are_read_by_name(objects, by_name):
    assert named(objects) == by_name
    assert list(named(objects)) == list(by_name)


def test_a_module_of_modules_is_one_object():
    for module in (nn.ModuleList([nn.Identity()]), nn.ModuleDict({"a": nn.Identity()}), nn.Sequential(nn.Identity())):
        assert named(module) == {"": module}


@pytest.mark.parametrize(
    ("objects", "changed"),
    [
        (None, None),
        (1, "1"),
        ([1, 2], ["1", "2"]),
        ((1, 2), ("1", "2")),
        (Pair(1, 2), Pair("1", "2")),
        ({"G": 1}, {"G": "1"}),
        (OrderedDict(G=1), {"G": "1"}),
    ],
)
def test_a_change_keeps_the_structure(objects, changed):
    result = like(objects, str)
    assert result == changed
    assert type(result) is type(changed)


def test_a_change_leaves_the_original_alone():
    objects = {"G": [1]}
    like(objects, lambda value: [*value, 2])
    assert objects == {"G": [1]}


def test_only_one_of_several_has_a_suffix():
    assert [suffix(name) for name in named(1)] == [""]
    assert [suffix(name) for name in named({"G": 1, "D": 2})] == ["_G", "_D"]


def test_objects_are_told_apart_by_class_and_place():
    assert [name for name, _ in by_class([1, "a", 2, None])] == ["int.1", "str.1", "int.2", "NoneType.1"]


def test_a_part_of_one_of_several_is_named_after_both():
    assert (key_in("G", "0.weight"), key_in("", "0.weight")) == ("G.0.weight", "0.weight")
