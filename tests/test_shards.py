"""Dealing batches to processes: each once, in rounds, and what becomes of a last round that lacks some."""

import pickle
from collections import namedtuple
from itertools import count, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ignition import TensorLoader
from ignition.device import move
from ignition.shards import Borrowed, Numbered, Portion, Shard, deal, drops_last, portions_in

FILLS = ["none", "borrow", "split"]


def joined(batches):
    return [sample for batch in batches for sample in batch]


def shares(batches, size, fill, start=0, **settings):
    return [list(deal(iter(batches), start, Shard(rank, size), fill, **settings)) for rank in range(size)]


# Worked out by hand: what each process gets of some batches; one with a star is borrowed


@pytest.mark.parametrize(
    ("fill", "batches", "expected"),
    [
        ("none", ["ab", "cd", "ef", "gh"], ["ab ef", "cd gh"]),
        ("none", ["ab", "cd", "e"], ["ab e", "cd"]),
        ("none", ["ab"], ["ab", "*ab"]),
        ("none", ["ab", "cd"], ["ab", "cd", "*ab"]),
        ("none", ["ab", "cd", "ef", "g"], ["ab g", "cd", "ef"]),
        ("none", [], ["", ""]),
        ("borrow", ["ab", "cd", "ef", "gh"], ["ab ef", "cd gh"]),
        ("borrow", ["ab", "cd", "e"], ["ab e", "cd *e"]),
        ("borrow", ["ab", "cd", "ef", "gh", "i"], ["ab gh", "cd i", "ef *gh"]),
        ("borrow", [], ["", ""]),
        ("split", ["ab", "cd", "ef", "g"], ["ab ef", "cd g"]),
        ("split", ["ab", "cd", "efg"], ["ab ef", "cd g"]),
        ("split", ["ab", "cd", "ef", "gh", "i"], ["ab g", "cd h", "ef i"]),
        ("split", ["ab", "cd", "ef", "gh"], ["ab g", "cd h", "ef *g"]),
        ("split", ["a"], ["a", "*a", "*a"]),
        ("split", ["abcdefg"], ["abc", "de", "fg"]),
        ("split", [], ["", ""]),
    ],
)
def test_batches_are_dealt_in_rounds(fill, batches, expected):
    dealt = shares([[*batch] for batch in batches], len(expected), fill, join=joined)
    assert [" ".join("*" * one.borrowed + "".join(one.item) for one in share) for share in dealt] == expected


def test_21_samples_that_are_left_on_2_processes_are_split_into_11_and_10():
    parts = shares([list(range(21))], 2, "split", join=joined)
    assert [[len(one.item) for one in share] for share in parts] == [[11], [10]]


@pytest.mark.parametrize("fill", FILLS)
def test_a_batch_keeps_its_place_and_a_split_one_has_a_place_of_its_round(fill):
    dealt = shares([[place] * 3 for place in range(10, 15)], 3, fill, start=10, join=joined)
    full = [[one.place for one in share][:1] for share in dealt]
    assert full == [[10], [11], [12]]
    last = [[one.place for one in share][1:] for share in dealt]
    assert last == {"none": [[13], [14], []], "borrow": [[13], [14], [13]], "split": [[13], [14], [15]]}[fill]


def test_what_cannot_be_joined_is_borrowed_and_not_split():
    for settings in ({}, {"join": lambda batches: None}):
        assert shares("abcd", 3, "split", **settings) == shares("abcd", 3, "borrow")


@pytest.mark.parametrize("settings", [{}, {"join": joined}])
def test_a_last_round_that_lacks_batches_is_dropped_where_the_loader_drops(settings):
    for fill in FILLS:
        dealt = shares(["ab", "cd", "ef", "gh", "i"], 3, fill, drop_last=True, **settings)
        assert [len(share) for share in dealt] == {"none": [2, 2, 1], "borrow": [2, 2, 2], "split": [1, 1, 1]}[fill]


def test_a_full_round_is_never_changed():
    dealt = shares(["ab", "c"], 2, "split", drop_last=True, join=joined)
    assert dealt == [[Portion(0, "ab", False)], [Portion(1, "c", False)]]


def test_no_more_is_read_than_is_asked_for():
    read = []
    endless = (read.append(place) or place for place in count())
    portions = deal(endless, 0, Shard(0, 3), "borrow")
    assert read == []
    assert [one.item for one in islice(portions, 2)] == [0, 3]
    assert read == [0, 1, 2, 3]
    assert [one.item for one in islice(deal(count(), 0, Shard(2, 3), "split", join=joined), 2)] == [2, 5]


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=5), max_size=12), st.integers(1, 5), st.booleans())
def test_nothing_is_lost_or_given_twice_and_all_keep_step(batches, size, can_split):
    settings = {"join": joined} if can_split else {}
    for fill in FILLS:
        dealt = shares(batches, size, fill, **settings)
        rounds = max(len(share) for share in dealt)
        by_round = [share[number] for number in range(rounds) for share in dealt if number < len(share)]
        assert joined([one.item for one in by_round if not one.borrowed]) == joined(batches)
        assert rounds == -(-len(batches) // size)
        if fill != "none":
            assert {len(share) for share in dealt} == {rounds}


@given(st.integers(0, 30), st.integers(1, 5), st.sampled_from(FILLS), st.booleans())
def test_the_number_of_portions_is_known(batches, size, fill, drop_last):
    dealt = shares([[0]] * batches, size, fill, drop_last=drop_last, join=joined)
    assert [portions_in(batches, Shard(rank, size), fill, drop_last) for rank in range(size)] == [*map(len, dealt)]


@given(st.integers(0, 30), st.integers(0, 9), st.integers(1, 5), st.sampled_from(FILLS), st.booleans(), st.booleans())
def test_numbers_that_are_known_are_dealt_as_those_that_are_read_one_by_one(count, start, size, fill, drops, can_split):
    numbers, join = range(start, start + count), (lambda some: [place for place in some for _ in "abc"])
    for rank in range(size):
        settings = Shard(rank, size), fill, drops, join if can_split else None
        assert list(deal(numbers, start, *settings)) == list(deal(iter(numbers), start, *settings))


# Borrowed


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("batch", "items"),
    [((1, 2), (1, 2)), ([1, 2], (1, 2)), (Pair(1, 2), (1, 2)), ({"x": 1}, ({"x": 1},)), (3, (3,)), ((), ())],
)
def test_a_borrowed_batch_is_the_tuple_of_the_functions_arguments(batch, items):
    borrowed = Borrowed.of(batch)
    assert type(borrowed) is Borrowed
    assert borrowed == items
    assert type(pickle.loads(pickle.dumps(borrowed))) is Borrowed


def test_a_borrowed_tensor_is_one_argument_and_stays_borrowed_on_another_device():
    borrowed = Borrowed.of(torch.ones(3))
    assert [item.shape for item in borrowed] == [(3,)]
    there = move(borrowed, torch.device("meta"))
    assert type(there) is Borrowed
    assert there[0].device.type == "meta"


# drops_last


@pytest.mark.parametrize(
    ("loader", "drops"),
    [
        (DataLoader(range(9), 4), False),
        (DataLoader(range(9), 4, drop_last=True), True),
        (DataLoader(range(9), batch_sampler=BatchSampler(range(9), 4, drop_last=True)), True),
        (DataLoader(range(9), batch_sampler=[[1, 2]]), False),
        (DataLoader(range(9), batch_size=None, sampler=BatchSampler(range(9), 4, drop_last=True)), True),
        (DataLoader(range(9), 4, sampler=DistributedSampler(range(9), 2, 0, drop_last=True)), False),
        (DataLoader(range(9), batch_size=None, sampler=DistributedSampler(range(9), 2, 0, drop_last=True)), False),
        (TensorLoader(torch.arange(9), batch_size=4), False),
        (TensorLoader(torch.arange(9), batch_size=4, drop_last=True), True),
        ([1, 2], False),
        (iter([1]), False),
        (None, False),
    ],
)
def test_a_loader_that_drops_its_last_batch_is_known(loader, drops):
    assert drops_last(loader) is drops


# Batches by number


def drawn(kind, seed=0):
    """A sampler of torch's over 13 samples, as fresh as its generator."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "sequential": lambda: SequentialSampler(range(13)),
        "random": lambda: RandomSampler(range(13), generator=generator),
        "some": lambda: RandomSampler(range(13), num_samples=7, generator=generator),
        "subset": lambda: SubsetRandomSampler([3, 1, 4, 15, 9, 2, 6], generator=generator),
        "weighted": lambda: WeightedRandomSampler([1.0, 2.0, 3.0], 13, generator=generator),
        "distributed": lambda: DistributedSampler(range(13), 1, 0, seed=seed),
    }[kind]()


@pytest.mark.parametrize("kind", ["sequential", "random", "some", "subset", "weighted", "distributed"])
@pytest.mark.parametrize("size", [1, 4, 13, 20])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_by_number_are_those_that_the_sampler_yields(kind, size, drop_last):
    expected = list(BatchSampler(drawn(kind), size, drop_last))
    batches = Numbered.of(BatchSampler(drawn(kind), size, drop_last))
    assert [batches[number] for number in range(len(batches))] == expected
    assert batches.joined(list(range(len(batches)))) == [index for batch in expected for index in batch]


class OwnBatches(BatchSampler):
    """One of the user's."""


@pytest.mark.parametrize(
    "order",
    [
        OwnBatches(range(13), 4, False),
        BatchSampler(range(13), 4, False),  # any iterable, which may be endless
        BatchSampler(RandomSampler(range(13), replacement=True, num_samples=10**12), 4, False),
        BatchSampler(RandomSampler(range(13), num_samples=10**12), 4, False),
        [[0, 1], [2]],
    ],
)
def test_what_can_only_be_iterated_has_no_batches_by_number(order):
    assert Numbered.of(order) is None
