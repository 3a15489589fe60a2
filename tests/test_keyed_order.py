"""The order of an epoch's samples follows from a seed and the epoch alone."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from ignition.errors import ArgumentError
from ignition.keyed_order import KeyedIndices, KeyedOrder, batches_left, drawn_under, unsharded
from ignition.rng import capture
from ignition.shards import Shard


class Drawing(Sampler):
    """Draws each index as it is asked for it, from all three generators and one of its own."""

    def __init__(self):
        self.own = np.random.default_rng(0)

    def __len__(self):
        return 10

    def __iter__(self):
        for _ in range(10):
            yield (random.randrange(7), np.random.randint(7), torch.randint(7, ()).item(), self.own.integers(7))


SAMPLERS = {
    "random": lambda: RandomSampler(range(10)),
    "own": Drawing,
    "batches": lambda: BatchSampler(RandomSampler(range(10)), 3, drop_last=False),
    "own batches": lambda: BatchSampler(Drawing(), 3, drop_last=False),
}


def order_of(name, seed=3, purpose="train"):
    sampler = SAMPLERS[name]()
    kind = "batch_sampler" if isinstance(sampler, BatchSampler) else "sampler"
    return KeyedOrder(DataLoader(range(10), **{kind: sampler}), seed, purpose)


def read(order, epoch=1, **place):
    order.place(epoch, **place)
    return list(order)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epochs_order_is_the_same_from_any_start_and_leaves_the_generators(name):
    before = str(capture())
    whole = read(order_of(name), 2)
    assert str(capture()) == before
    random.random(), torch.rand(1)  # whatever else is drawn
    for start in range(len(whole)):
        assert read(order_of(name), 2, start=start) == whole[start:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_seed_purpose_or_epoch_gives_another_order(name):
    others = order_of(name, seed=4), order_of(name, purpose="eval")
    orders = [read(order_of(name)), read(order_of(name), 2), *map(read, others)]
    indices = [str([item.indices for item in order]) for order in orders]
    assert len(set(indices)) == 4


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_batch_has_a_key_of_its_own(name):
    order = order_of(name)
    items = read(order, 1) + read(order, 2)
    assert all(type(item) is KeyedIndices for item in items)
    assert len({item.key for item in items}) == len(items)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_processes_have_each_batch_once(name):
    whole = read(order_of(name))
    parts = [read(order_of(name), shard=Shard(rank, 2)) for rank in range(2)]
    assert [parts[place % 2][place // 2] for place in range(len(whole))] == whole


def test_what_is_drawn_under_a_key_goes_on_where_it_was_left():
    drawn = drawn_under(Drawing(), 5)
    first = list(islice(drawn, 4))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert first + list(drawn) == list(drawn_under(Drawing(), 5))


def test_what_is_drawn_is_asked_for_within_a_block_of_the_callers():
    log = []

    class Within:
        def __enter__(self):
            log.append("in")

        def __exit__(self, *error):
            log.append("out")

    assert list(drawn_under([1, 2], 5, Within)) == [1, 2]
    assert log == ["in", "out"] * 3


@pytest.mark.parametrize(("drop_last", "expected"), [(True, 2), (False, 3)])
def test_the_batches_that_are_left_are_counted_without_the_first_samples(drop_last, expected):
    assert batches_left(BatchSampler(SequentialSampler(range(10)), 3, drop_last), 2) == expected


def test_a_distributed_sampler_reads_all_samples_and_is_left_as_it_is():
    sampler = DistributedSampler(range(7), 2, 1, shuffle=False)
    assert list(unsharded(sampler)) == list(range(7))
    assert list(unsharded(BatchSampler(sampler, 3, False))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(sampler) == [1, 3, 5, 0]
    with pytest.raises(ArgumentError, match="num_replicas=2"):
        unsharded(type("Own", (Sampler,), {"num_replicas": 2})())
