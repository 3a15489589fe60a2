"""Values that JSON lacks come back as they were; what a file names chooses from tables."""

from __future__ import annotations

import enum
import itertools
import json
import random

import numpy as np
import pytest
import torch

from ignition.encoded_values import (
    KINDS,
    array_mark,
    check_kind,
    marked,
    name_of_generator,
    new_generator,
    number_mark,
    text_of,
    warn_of_origin,
)
from ignition.errors import CheckpointError, IgnitionWarning
from ignition.generators import put_back, state_of


def there_and_back(mark):
    kind, content = json.loads(json.dumps(mark))["$"]
    return KINDS[kind](content)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", ">i4", "bool", "complex64", "uint8"])
@pytest.mark.parametrize("shape", [(2, 3), (4,), (), (0, 3), (2, 3, 4)])
def test_an_array_comes_back_with_its_order_and_memory_of_its_own(shape, dtype, order):
    array = np.asarray(np.random.default_rng(0).random(shape) * 9, dtype, order=order)
    back = there_and_back(array_mark(array))
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.strides) == (array.dtype, array.strides)
    assert back.flags.owndata
    assert back.flags.writeable


def test_an_array_that_is_a_part_of_another_comes_back_as_a_whole_one():
    array = np.arange(12).reshape(3, 4)[::2, ::2]
    np.testing.assert_array_equal(there_and_back(array_mark(array)), array)


@pytest.mark.parametrize("number", [np.float32(0.1), np.float64("nan"), np.int8(-3), np.bool_(True), np.complex64(1j)])
def test_a_number_of_numpy_comes_back_with_its_type(number):
    back = there_and_back(number_mark(number))
    assert type(back) is type(number)
    assert back.tobytes() == number.tobytes()


def test_an_array_of_objects_is_none(monkeypatch):
    with pytest.raises(ValueError, match="an array of"):
        KINDS["array"](["|O", [1], text_of(b"12345678"), "C"])


GENERATORS = {
    "Generator": torch.Generator,
    "RandomState": lambda: np.random.RandomState(3),
    "Random": lambda: random.Random(3),
    **{
        kind.__name__: lambda kind=kind: np.random.Generator(kind(3))
        for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
    },
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_of_the_same_name_takes_its_state(name):
    generator = GENERATORS[name]()
    assert name_of_generator(generator) == name
    new = new_generator(name)
    assert type(new) is type(generator)
    put_back(new, state_of(generator))
    assert str(state_of(new)) == str(state_of(generator))


def test_other_generators_have_no_name():
    own = type("Random", (random.Random,), {})
    assert [name_of_generator(one) for one in (random.SystemRandom(), own(), 3)] == [None] * 3
    with pytest.raises(KeyError):
        new_generator("SystemRandom")


def test_a_mark_has_one_key():
    assert marked("tuple", [1]) == {"$": ["tuple", [1]]}


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_dimensions_of_an_array_lie_in_memory_as_they_did(axes):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(axes)
    back = there_and_back(array_mark(array))
    np.testing.assert_array_equal(back, array)
    assert back.strides == array.strides
    assert back.flags.owndata
    assert back.flags.writeable


@pytest.mark.parametrize("axes", ["F", "", [0], [0, 0], [0, 1, 2], [1, "0"], None, 3, [-1, 0]])
def test_an_order_that_is_none_of_the_dimensions_is_refused(axes):
    given = ["<f8", [1, 2], text_of(np.zeros(2).tobytes()), axes]
    with pytest.raises((ValueError, TypeError, AttributeError)):
        KINDS["array"](given)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(enum.IntEnum("Colour", "RED").RED, "int"), (type("Name", (str,), {})("a"), "str"),
     (type("Number", (np.float64,), {})(1.0), "float"), (torch.ones(1).as_subclass(type("Own", (torch.Tensor,), {})),
     "Tensor")],
)  # fmt: skip
def test_what_would_come_back_as_something_plainer_is_refused(value, plain):
    with pytest.raises(CheckpointError, match=f"a.b is a .*, which would come back as a plain {plain}"):
        check_kind(value, "a.b")


@pytest.mark.parametrize("value", [True, 1, "a", 1.5, 1j, b"a", torch.ones(1), torch.nn.Parameter(torch.ones(1)), None])
def test_what_is_plain_is_not_refused(value):
    check_kind(value, "a")


def test_a_tensor_with_an_origin_is_named_as_it_stands_in_the_state():
    with pytest.warns(IgnitionWarning, match=r"trainer\.state holds 'a\.0', .* Put it\.detach\(\) there"):
        warn_of_origin("process1.state.a.0")
