from collections import UserDict
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignition.data import WHOLE, Shard, batch_weight, describe_batch, items_of, iterate, length_of
from ignition.errors import BatchError
from ignition.keyed import KeyedLoader


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class Reads:
    """An iterable of any kind, which counts what is read of it."""

    def __init__(self, size):
        self.size = size
        self.read = 0

    def __iter__(self):
        for i in range(self.size):
            self.read += 1
            yield i


class Sequence:
    """What can be iterated by numbers alone, as in the oldest Python."""

    def __getitem__(self, i):
        if i >= 10:
            raise IndexError
        return i


class Lengthless:
    """Has the method, as a DataLoader over a stream does, and no length."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        raise self.error


# iterate

ANY_ITERABLE = {
    "list": lambda: list(range(10)),
    "tuple": lambda: tuple(range(10)),
    "range": lambda: range(10),
    "array": lambda: np.arange(10),
    "generator": lambda: (i for i in range(10)),
    "dict": lambda: dict.fromkeys(range(10)),
    "object": lambda: Reads(10),
    "sequence": Sequence,
    "DataLoader": lambda: DataLoader(range(10), batch_size=None),
    "stream": lambda: DataLoader(Stream(), batch_size=None),
}


@pytest.mark.parametrize("make", ANY_ITERABLE.values(), ids=ANY_ITERABLE.keys())
@pytest.mark.parametrize("start", [0, 1, 3, 4, 99])
@pytest.mark.parametrize("shard", [WHOLE, Shard(0, 3), Shard(2, 3), Shard(1, 2)])
def test_any_iterable_is_read_from_any_place_in_any_shard(make, start, shard):
    batches = iterate(make(), start=start, shard=shard)
    assert iter(batches) is batches
    assert [int(batch) for batch in batches] == list(range(10))[shard.rank :: shard.size][start:]


@given(st.integers(0, 20), st.integers(1, 5))
def test_the_shards_of_a_loader_interleave_to_the_whole(length, size):
    shards = [list(iterate(range(length), shard=Shard(rank, size))) for rank in range(size)]
    assert [shards[place % size][place // size] for place in range(length)] == list(range(length))
    assert sum(len(shard) for shard in shards) == length


def test_from_its_start_a_loader_is_iterated_as_it_is():
    loader = [1, 2]
    assert type(iterate(loader)) is type(iter(loader))


def test_nothing_is_read_before_it_is_asked_for():
    loader = Reads(10)
    batches = iterate(loader, start=2)
    assert loader.read == 0
    assert next(batches) == 2
    assert loader.read == 3


def test_an_endless_loader_is_read_as_far_as_it_is_asked_for():
    assert list(islice(iterate(count(), start=2, shard=Shard(1, 3)), 3)) == [7, 10, 13]


def test_the_order_of_a_plain_loader_comes_from_the_global_generator():
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=4, shuffle=True)
    torch.manual_seed(5)
    expected = [x.tolist() for (x,) in loader]
    torch.manual_seed(5)
    assert [x.tolist() for (x,) in iterate(loader, epoch=3)] == expected


def test_a_keyed_loader_is_asked_for_the_epoch_and_the_place():
    loader = KeyedLoader(DataLoader(range(20), batch_size=4, shuffle=True), seed=0)
    epochs = [[batch.tolist() for batch in iterate(loader, epoch)] for epoch in (1, 2)]
    assert epochs[0] != epochs[1]
    assert [batch.tolist() for batch in iterate(loader, 2, 3)] == epochs[1][3:]
    assert [batch.tolist() for batch in iterate(loader, 2, 1, Shard(1, 2))] == epochs[1][1::2][1:]


# length_of


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        ([], 0),
        ([1, 2], 2),
        (DataLoader(range(10), batch_size=4), 3),
        (DataLoader(range(10), batch_size=4, drop_last=True), 2),
        (KeyedLoader(DataLoader(range(10), batch_size=4), seed=0), 3),
        (DataLoader(Stream(), batch_size=4), None),
        ((i for i in range(3)), None),
        (count(), None),
        (Reads(3), None),
        (Lengthless(TypeError()), None),
        (Lengthless(NotImplementedError()), None),
    ],
)
def test_a_length_is_known_where_the_loader_tells_it(loader, length):
    assert length_of(loader) == length


def test_an_error_of_the_users_own_length_comes_out():
    with pytest.raises(ZeroDivisionError):
        length_of(Lengthless(ZeroDivisionError()))


# items_of


@pytest.mark.parametrize("batch", [(1, 2), [1, 2], (), [[1]]])
def test_a_tuple_or_list_becomes_the_arguments(batch):
    assert items_of(batch) is batch


@pytest.mark.parametrize("batch", [torch.ones(2), {"x": 1}, None, "text", UserDict(x=1), {1, 2}])
def test_anything_else_is_one_argument(batch):
    (item,) = items_of(batch)
    assert item is batch


# batch_weight


@dataclass
class Sample:
    name: str
    x: Tensor


X = torch.zeros(4, 5, 6)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, torch.zeros(3)),
        [X, torch.zeros(3)],
        ("text", X, torch.zeros(3)),
        {"x": X, "y": torch.zeros(3)},
        UserDict(x=X, y=torch.zeros(3)),
        ({"a": {"b": [X]}}, torch.zeros(3)),
        ([None, (1, X)], torch.zeros(3)),
        ((), {}, X),
        Sample("a", X),
        (Sample("a", X), torch.zeros(3)),
        (nn.Parameter(X), torch.zeros(3)),
        nn.Parameter(X),
        (np.zeros((3, 3)), X),
    ],
)
def test_a_batch_weighs_the_size_of_its_first_tensor(batch):
    assert batch_weight(batch, 0) == 4
    assert batch_weight(batch, 1) == 5
    assert batch_weight(batch, -1) == 6
    assert type(batch_weight(batch, 0)) is int


def test_a_batch_may_be_empty():
    assert batch_weight((torch.zeros(0, 3), torch.zeros(0)), 0) == 0


def test_a_packed_sequence_weighs_its_steps():
    assert batch_weight((pack_sequence([torch.ones(3, 2), torch.ones(2, 2)]), X), 0) == 5


@pytest.mark.parametrize("batch", [None, 3, "text", (), [], {}, ("a", "b"), np.zeros(3), (np.zeros(3),), object()])
def test_a_batch_without_a_tensor_has_no_weight(batch):
    assert batch_weight(batch, 0) is None


@pytest.mark.parametrize(
    ("batch", "axis", "shape"),
    [
        (X, 3, (4, 5, 6)),
        ((X, X), -4, (4, 5, 6)),
        ((torch.zeros(4), X), 1, (4,)),
        ((torch.tensor(3.0), X), 0, ()),
        ({"a": {"b": torch.tensor(3.0)}, "c": X}, 0, ()),
    ],
)
def test_an_axis_that_the_first_tensor_lacks_is_an_error(batch, axis, shape):
    with pytest.raises(BatchError) as caught:
        batch_weight(batch, axis)
    assert str(caught.value) == (
        f"batch_axis={axis}, and the first tensor of the batch has the shape {shape}\n"
        "  expected: an axis of that tensor, along which its samples lie\n"
        "  to do: pass the right batch_axis, or put a tensor with a batch axis first"
    )


# describe_batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (X, "one Tensor (4, 5, 6)"),
        ((X, torch.tensor(1)), "2 items (Tensor (4, 5, 6), Tensor ())"),
        ([X], "1 item (Tensor (4, 5, 6))"),
        ((), "0 items ()"),
        ({"x": X, "mask": X}, "one dict of 'x', 'mask'"),
        ((nn.Parameter(X[0, 0]), "a", None, [X]), "4 items (Parameter (6,), str, NoneType, list)"),
        (tuple(range(9)), "9 items (int, int, int, int, int, int, ...)"),
        (np.zeros(3), "one ndarray"),
    ],
)
def test_a_batch_is_described_in_words(batch, words):
    assert describe_batch(batch) == words
