import gc
import multiprocessing
import random
import signal
import time
from itertools import chain

import dealing
import numpy as np
import pytest
import torch
from marks import slow
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from ignition.errors import ArgumentError
from ignition.keyed import KeyedLoader, can_be_keyed, leaving_signals
from ignition.keyed_order import unsharded
from ignition.rng import capture, seed_everything
from ignition.shards import Shard


def noise():
    """A number of each generator that a data set may draw from."""
    return [random.random(), np.random.rand(), torch.rand(()).item()]


class Noisy(Dataset):
    """13 samples, each its number and noise."""

    def __init__(self, size=13):
        self.size = size
        self.loaded = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.loaded.append(index)
        return index, noise()


class NoisyTogether(Noisy):
    """The same, loaded many at once, with noise that they have in common."""

    def __getitems__(self, indices):
        self.loaded += indices
        common = noise()
        return [(index, [*noise(), *common]) for index in indices]


def noisy_collate(samples):
    return *default_collate(samples), torch.tensor(noise(), dtype=torch.float64)


def plain(batch):
    """A batch as numbers that can be compared."""
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    return [plain(item) for item in batch] if isinstance(batch, (tuple, list)) else batch


def read(loader, epoch=1, start=0, rank=0, size=1, fill="none"):
    return [plain(batch) for batch in loader.iterate(epoch, start, Shard(rank, size), fill)]


def keyed(dataset=None, seed=3, purpose="train", **settings):
    settings = {"batch_size": 4, "shuffle": True} | settings
    return KeyedLoader(DataLoader(dataset or Noisy(), **settings), seed, purpose)


def numbers(batches):
    """The numbers of the samples in some batches."""
    return [number for batch in batches for number in batch[0]]


WITH_WORKERS = [
    {"num_workers": 1},
    {"num_workers": 2, "prefetch_factor": 1},
    {"num_workers": 2, "persistent_workers": True},
]


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    if multiprocessing.active_children():
        gc.collect()  # with its loader, a worker ends
    assert multiprocessing.active_children() == []


# The same batches wherever one starts


@pytest.mark.parametrize("settings", WITH_WORKERS, ids=["one", "two", "persistent"])
@pytest.mark.parametrize("kind", [Noisy, slow(NoisyTogether)])
@pytest.mark.parametrize("collate", [slow(None), noisy_collate])
def test_the_number_of_workers_changes_nothing(settings, kind, collate):
    alone = keyed(kind(), collate_fn=collate)
    loader = keyed(kind(), collate_fn=collate, timeout=60, **settings)
    assert read(loader) == read(alone)
    assert read(loader, epoch=2, start=1) == read(alone, epoch=2)[1:]


@pytest.mark.parametrize("kind", [Noisy, NoisyTogether])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 9])
def test_from_any_start_exactly_the_rest_is_read(kind, start):
    dataset = kind()
    loader = keyed(dataset, collate_fn=noisy_collate)
    whole = read(loader)
    dataset.loaded.clear()
    assert read(loader, start=start) == whole[start:]
    assert dataset.loaded == numbers(whole[start:])


class NoisyColumn:
    """What a TensorDataset takes for a tensor, and draws."""

    shape = (13,)

    def size(self, axis):
        return self.shape[axis]

    def __getitem__(self, index):
        return index, noise()


def test_a_tensor_data_set_of_what_draws_follows_the_key_too():
    expected = read(keyed(TensorDataset(NoisyColumn())))
    torch.rand(5)
    assert str(read(keyed(TensorDataset(NoisyColumn())))) == str(expected)


def test_a_tensor_data_set_leaves_the_generators_alone():
    before = str(capture())
    read(keyed(TensorDataset(torch.arange(13))))
    assert str(capture()) == before


def test_a_batch_does_not_depend_on_what_the_process_draws():
    expected = read(keyed())
    seed_everything(99)
    batches = []
    for batch in keyed().iterate(1, 0):
        batches.append(plain(batch))
        noise()
    assert batches == expected


def test_an_epoch_can_be_read_again():
    loader = keyed()
    expected = read(loader, epoch=2)
    read(loader, epoch=5)
    assert read(loader, epoch=2) == expected


def test_two_readings_at_once_do_not_disturb_each_other():
    loader = keyed()
    expected = list(zip(read(loader, 1), read(loader, 2), strict=True))
    together = zip(loader.iterate(1, 0), loader.iterate(2, 0), strict=True)
    assert [(plain(a), plain(b)) for a, b in together] == expected


@pytest.mark.parametrize(
    "other",
    [
        lambda: read(keyed(), epoch=2),
        lambda: read(keyed(seed=4)),
        lambda: read(keyed(purpose="eval")),
    ],
    ids=["epoch", "seed", "purpose"],
)
def test_another_key_gives_another_order_and_other_noise(other):
    ours, others = read(keyed()), other()
    assert numbers(ours) != numbers(others)
    assert sorted(numbers(ours)) == sorted(numbers(others)) == list(range(13))
    noise_of = {tuple(row) for batch in (*ours, *others) for row in zip(*batch[1], strict=True)}
    assert len(noise_of) == 26


def test_the_noise_differs_from_batch_to_batch_and_from_sample_to_sample():
    rows = [row for batch in read(keyed(shuffle=False)) for row in zip(*batch[1], strict=True)]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == 13


def test_without_shuffling_the_order_is_that_of_the_data():
    assert numbers(read(keyed(shuffle=False), epoch=4)) == list(range(13))


def test_the_order_spreads_over_all_places():
    first = {numbers(read(keyed(), epoch=epoch))[0] for epoch in range(1, 101)}
    assert first == set(range(13))  # 13 (12/13)**100 = 0.4 % of fair seeds miss one


def test_without_a_place_the_first_epoch_is_read():
    loader = keyed()
    assert [plain(batch) for batch in loader] == read(loader, epoch=1)


# What the process itself draws


class Drawing(Sampler):
    """An order drawn from all global generators, some of it between the items."""

    def __init__(self, size=13):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        order = np.random.permutation(self.size).tolist()
        random.shuffle(order)
        while order:
            yield order.pop(torch.randint(len(order), ()).item())


class DrawingBatches(Sampler):
    """Batches of sizes that are drawn too."""

    def __len__(self):
        return 6

    def __iter__(self):
        order = np.random.permutation(13).tolist()
        while order:
            size = random.randint(1, 4)
            yield order[:size]
            order = order[size:]


class Random(RandomSampler):
    """Torch's own, under another name."""


SAMPLERS = {
    "in order": {"shuffle": False},
    "shuffled": {"shuffle": True},
    "shuffled by a generator": {"shuffle": True, "generator": torch.Generator()},
    "without batches": {"batch_size": None},
    "last dropped": {"drop_last": True},
    "random": {"shuffle": False, "sampler": RandomSampler(range(13), replacement=True, num_samples=20)},
    "subset": {"shuffle": False, "sampler": SubsetRandomSampler(range(3, 10))},
    "weighted": {"shuffle": False, "sampler": WeightedRandomSampler([1.0] * 6 + [9.0] * 7, 20)},
    "derived": {"shuffle": False, "sampler": Random(range(13))},
    "derived with a generator": {"shuffle": False, "sampler": Random(range(13), generator=torch.Generator())},
    "drawing": {"shuffle": False, "sampler": Drawing()},
    "drawing without batches": {"shuffle": False, "sampler": Drawing(), "batch_size": None},
    "distributed": {"shuffle": False, "sampler": DistributedSampler(range(13), num_replicas=2, rank=1)},
    "a list": {"shuffle": False, "sampler": [3, 1, 4, 1, 5, 9, 2]},
    "batches": {"batch_sampler": BatchSampler(Drawing(), 3, drop_last=True)},
    "batches of a generator": {"batch_sampler": BatchSampler(Random(range(13), generator=torch.Generator()), 3, True)},
    "drawing batches": {"batch_sampler": DrawingBatches()},
    "a list of batches": {"batch_sampler": [[1, 2], [3], [4, 5, 6]]},
    "batches as samples": {"batch_size": None, "sampler": BatchSampler(RandomSampler(range(13)), 3, drop_last=False)},
}


class NoisyTensors(Noisy):
    """Takes a list of numbers too."""

    def __getitem__(self, index):
        return np.atleast_1d(index).tolist(), noise()


def with_sampler(name):
    settings = dict(SAMPLERS[name])
    if "batch_sampler" not in settings:
        settings = {"batch_size": 4, "shuffle": settings.get("sampler") is None} | settings
    return DataLoader(NoisyTensors() if settings.get("batch_size", 1) is None else Noisy(), **settings)


def states():
    """The states of all generators, so that two of them can be compared bit for bit."""
    state = capture()
    kind, words, *rest = state["numpy"]
    return state["python"], (kind, words.tobytes(), *rest), state["torch"].numpy().tobytes()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_generators_of_the_process_are_left_alone(name):
    random.gauss(0, 1)  # which keeps a second number for later
    np.random.standard_normal()
    loader = KeyedLoader(with_sampler(name), seed=3)
    before = states()
    for _ in loader.iterate(1, 1):
        assert states() == before
    assert states() == before


def test_workers_leave_the_generators_of_the_process_alone():
    loader = KeyedLoader(DataLoader(Noisy(), sampler=Drawing(), batch_size=4, num_workers=1, timeout=60), seed=3)
    before = states()
    for _ in loader.iterate(1, 0):
        assert states() == before
    assert states() == before


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_gives_the_same_order_from_any_start(name):
    whole = read(KeyedLoader(with_sampler(name), seed=3), epoch=2)
    noise()
    loader = KeyedLoader(with_sampler(name), seed=3)
    for start in (len(whole), 2, 1, 0):
        assert read(loader, epoch=2, start=start) == whole[start:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_that_draws_gives_another_order_in_another_epoch(name):
    loader = KeyedLoader(with_sampler(name), seed=3)
    same_order = numbers(read(loader, epoch=1)) == numbers(read(loader, epoch=2))
    assert same_order == (name in ("in order", "a list", "a list of batches"))


def sizes(batches):
    return [len(batch[0]) if isinstance(batch[0], list) else 1 for batch in batches]


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_gives_samples_as_it_does_without_a_key(name):
    loader = with_sampler(name)
    theirs, ours = [plain(batch) for batch in loader], read(KeyedLoader(loader, seed=3))
    if name != "drawing batches":
        assert sizes(ours) == sizes(theirs)
    if name not in ("random", "weighted", "last dropped", "batches", "batches of a generator"):  # which choose some
        assert sorted(numbers(ours)) == sorted(numbers(theirs))


def test_weights_are_kept():
    drawn = numbers(read(KeyedLoader(DataLoader(Noisy(2), sampler=WeightedRandomSampler([0.0, 1.0], 50)), seed=3)))
    assert drawn == [1] * 50


class Counting(Sampler):
    """Knows its epoch by `set_epoch` alone."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([self.epoch] * 3)


@pytest.mark.parametrize(
    "settings",
    [{"sampler": Counting(), "batch_size": None}, {"sampler": Counting(), "batch_size": 2}, {"sampler": Counting()}],
)
def test_a_sampler_is_told_the_epoch(settings):
    loader = KeyedLoader(DataLoader(range(9), **settings), seed=0)
    for epoch in (1, 3):
        assert {number for batch in read(loader, epoch) for number in np.atleast_1d(batch)} == {epoch - 1}


def test_a_distributed_sampler_is_told_the_epoch_and_left_alone():
    loader = with_sampler("distributed")
    sampler = DistributedSampler(range(13), num_replicas=2, rank=1)
    sampler.set_epoch(4)
    assert numbers(read(KeyedLoader(loader, seed=0), epoch=5)) == list(sampler)
    assert loader.sampler.epoch == 0


# Shards


class Lengthless:
    """A sampler without a length, not even of torch's class."""

    def __iter__(self):
        return iter(torch.randperm(13).tolist())


def shares(loader, size, fill, epoch=2, start=0):
    return [
        [dealing.as_numbers(batch) for batch in loader.iterate(epoch, start, Shard(rank, size), fill)]
        for rank in range(size)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_batches_of_any_sampler_are_dealt_each_once(name, size, start):
    loader = KeyedLoader(with_sampler(name), seed=3)
    whole = [dealing.as_numbers(batch) for batch in loader.iterate(2)]
    if name == "distributed":  # as for one process
        whole = [
            dealing.as_numbers(batch) for batch in keyed(sampler=unsharded(loader.sampler), shuffle=False).iterate(2)
        ]
    dealing.check_none(shares(loader, size, "none", start=start), whole[start:])
    dealing.check_borrow(shares(loader, size, "borrow", start=start), whole[start:])
    rest = len(whole[start:]) % size
    dropped = loader.drop_last or getattr(loader.batch_sampler, "drop_last", False)
    split = shares(loader, size, "split", start=start)
    if "without batches" in name:
        dealing.check_borrow(split, whole[start:])
        return
    kept = whole[start : len(whole) - rest] if dropped else whole[start:]
    dealing.check_split(split, [[*chain(*kept[first : first + size])] for first in range(0, len(kept), size)])
    if rest and not dropped:
        dealing.check_even([share[-1] for share in split])


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampler", [None, Drawing, Lengthless, lambda: [3, 1, 4, 1, 5, 9, 2, 6]])
def test_a_round_has_the_samples_of_one_larger_batch(size, drop_last, sampler):
    def make(batch_size):
        order = {"shuffle": True} if sampler is None else {"sampler": sampler(), "shuffle": False}
        return keyed(batch_size=batch_size, drop_last=drop_last, **order)

    larger = [dealing.as_numbers(batch) for batch in make(2 * size).iterate(2)]
    dealing.check_split(shares(make(2), size, "split"), larger)
    dealing.check_split(shares(make(2), size, "split", start=size), larger[1:])


def test_a_process_loads_its_own_batches_alone():
    dataset = Noisy()
    assert dataset.loaded == []
    shard = read(keyed(dataset), 1, 2, 1, 2)
    assert len(shard) == 1
    assert dataset.loaded == numbers(shard)


def test_a_batch_has_the_randomness_of_its_place_whoever_reads_it():
    whole = read(keyed(collate_fn=noisy_collate))
    for size in (2, 3):
        for rank in range(size):
            assert read(keyed(collate_fn=noisy_collate), 1, 0, rank, size) == whole[rank::size]
    borrowed = read(keyed(collate_fn=noisy_collate), 1, 0, 2, 3, "borrow")[-1]
    assert borrowed == whole[3]


def test_the_parts_of_a_split_round_have_each_a_randomness_of_its_own():
    last = [read(keyed(collate_fn=noisy_collate), 1, 0, rank, 3, "split")[-1] for rank in range(3)]
    assert len({str(part[-1]) for part in last}) == 3
    again = [read(keyed(collate_fn=noisy_collate), 1, 3, rank, 3, "split")[-1] for rank in range(3)]
    assert again == last


BORROWING = [("none", 5), ("borrow", 3), ("split", 3)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*WITH_WORKERS, {"num_workers": 2, "in_order": False}])
@pytest.mark.parametrize(("fill", "size"), BORROWING)
def test_with_workers_each_process_reads_the_same(settings, fill, size):
    dataset = Noisy(4 * 3 + 1)
    expected = shares(keyed(dataset), size, fill)
    assert any(map(dealing.lent, expected)) or fill == "split"
    assert shares(keyed(dataset, timeout=60, **settings), size, fill) == expected


@pytest.mark.parametrize(("fill", "size"), BORROWING)
def test_the_copy_knows_how_many_batches_it_reads(fill, size):
    loader = keyed()
    for rank in range(size):
        for start in (0, 1, 5):
            batches = list(loader.iterate(1, start, Shard(rank, size), fill))
            assert len(loader.batch_sampler) == len(batches)


def test_batches_that_are_no_lists_of_indices_are_borrowed_and_not_split():
    batches = [(0, 1), (2, 3), (4, 5, 6)]
    loader = KeyedLoader(DataLoader(Noisy(), batch_sampler=batches), seed=3)
    dealing.check_borrow(shares(loader, 2, "split"), [list(batch) for batch in batches])


@pytest.mark.parametrize("fill", ["none", "borrow", "split"])
def test_an_empty_loader_gives_no_process_anything(fill):
    assert shares(keyed(shuffle=False, sampler=[]), 3, fill) == [[], [], []]
    assert shares(keyed(Noisy(3), drop_last=True), 2, fill) == [[], []]


# Samplers that shard by themselves


class Pairs(Sampler):
    """A batch sampler of the user's around a sampler."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        order = list(self.sampler)
        return iter([order[first : first + 2] for first in range(0, len(order), 2)])


class Backwards(DistributedSampler):
    """A user's own kind."""

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


DISTRIBUTED = {
    "plain": lambda sampler: DataLoader(Noisy(), 2, sampler=sampler),
    "samples": lambda sampler: DataLoader(NoisyTensors(), None, sampler=sampler),
    "batches": lambda sampler: DataLoader(Noisy(), batch_sampler=BatchSampler(sampler, 2, drop_last=False)),
    "own batches": lambda sampler: DataLoader(Noisy(), batch_sampler=Pairs(sampler)),
    "batches of samples": lambda sampler: DataLoader(NoisyTensors(), None, sampler=BatchSampler(sampler, 2, False)),
}


@pytest.mark.parametrize("make", DISTRIBUTED.values(), ids=DISTRIBUTED.keys())
@pytest.mark.parametrize("kind", [DistributedSampler, Backwards])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_distributed_sampler_is_not_sharded_twice(make, kind, shuffle, drop_last):
    alone = kind(range(13), num_replicas=1, rank=0, shuffle=shuffle, seed=8)
    alone.set_epoch(4)
    order = list(alone)
    for size in (2, 3):
        parts = []
        for rank in range(size):
            sampler = kind(range(13), size, rank, shuffle=shuffle, seed=8, drop_last=drop_last)
            loader = KeyedLoader(make(sampler), seed=3)
            parts.append([dealing.as_numbers(batch) for batch in loader.iterate(5, 0, Shard(rank, size), "borrow")])
            assert (sampler.num_replicas, sampler.rank, sampler.epoch, len(sampler)) == (size, rank, 0, len(sampler))
            assert len(list(sampler)) == len(sampler) < 13
        each = 1 if make is DISTRIBUTED["samples"] else 2
        dealing.check_borrow(parts, [order[first : first + each] for first in range(0, 13, each)])


def test_a_distributed_sampler_under_an_iteration_of_the_users_own_is_not_sharded_twice():
    parts = []
    for rank in range(2):
        loader = Doubling(Noisy(), 2, sampler=DistributedSampler(range(13), 2, rank, shuffle=False))
        parts.append([batch.tolist() for batch in KeyedLoader(loader, seed=3).iterate(1, 0, Shard(rank, 2))])
    assert parts[0] == parts[1] == [list(range(13))[first : first + 2] for first in range(0, 13, 2)]


def test_in_one_process_a_distributed_sampler_keeps_its_part():
    sampler = DistributedSampler(range(13), 2, 1, shuffle=False)
    loader = KeyedLoader(DataLoader(Noisy(), 2, sampler=sampler), seed=3)
    list(loader.iterate(1, 0, Shard(0, 2)))
    assert numbers(read(loader)) == list(sampler)


def test_a_sampler_without_a_sharding_of_its_own_stays_itself():
    for name in SAMPLERS:
        loader = with_sampler(name)
        sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        assert (unsharded(sampler) is sampler) == (name != "distributed")


class Sharding(Sampler):
    """Picks the part of one process, in a way of its own."""

    def __init__(self, num_replicas, rank):
        self.num_replicas, self.rank = num_replicas, rank

    def __iter__(self):
        return iter(range(self.rank, 13, self.num_replicas))


@pytest.mark.parametrize("make", DISTRIBUTED.values(), ids=DISTRIBUTED.keys())
def test_a_sampler_that_shards_in_a_way_of_its_own_is_an_error_for_several_processes(make):
    loader = KeyedLoader(make(Sharding(2, 1)), seed=3)
    assert sum(len(dealing.as_numbers(batch)) for batch in loader.iterate(1)) == 6
    with pytest.raises(ArgumentError) as caught:
        loader.iterate(1, 0, Shard(1, 2))
    assert str(caught.value) == (
        "the loader's Sharding has num_replicas=2: it picks the part of one process by itself, of which each process "
        "would read a part again\n"
        "  expected: a sampler for all samples, of which each process is given its part, or a DistributedSampler\n"
        "  to do: make it with num_replicas=1 and rank=0, or leave it out"
    )
    whole = KeyedLoader(make(Sharding(1, 0)), seed=3)
    assert sorted(number for share in shares(whole, 2, "none") for batch in share for number in batch) == [*range(13)]


# What stays as the user made it


class Doubling(DataLoader):
    """Gives each batch twice, and says so."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch[0]
            yield batch[0]

    def __len__(self):
        return 2 * super().__len__()


def test_an_iteration_of_the_users_own_is_kept():
    loader = KeyedLoader(Doubling(Noisy(), batch_size=4, shuffle=True), seed=3)
    once = [batch[0] for batch in read(keyed())]
    twice = [batch for batch in once for _ in range(2)]
    assert read(loader) == twice
    assert len(loader) == len(twice)


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_an_iteration_of_the_users_own_has_its_place_too(start):
    loader = KeyedLoader(Doubling(Noisy(), batch_size=4, shuffle=True), seed=3)
    whole = read(loader, 2)
    assert read(loader, 2, start) == whole[start:]
    for size in (2, 3):
        dealing.check_none(shares(loader, size, "none", start=start), whole[start:])
        dealing.check_borrow(shares(loader, size, "borrow", start=start), whole[start:])
        dealing.check_borrow(shares(loader, size, "split", start=start), whole[start:])
    dropping = KeyedLoader(Doubling(Noisy(), batch_size=2, shuffle=True, drop_last=True), seed=3)
    twice = read(dropping, 2)
    assert len(twice) == 12
    assert shares(dropping, 5, "split") == [twice[rank:10:5] for rank in range(5)]


class Remembering(DataLoader):
    """Numbers its batches, from epoch to epoch; looks at its own parts meanwhile."""

    given = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.given += 1
            self.seen = self.batch_size, self.drop_last, len(self.dataset), self.dataset.size, len(self)
            yield self.given, batch[0], noise()


@pytest.mark.parametrize("settings", [{}, *WITH_WORKERS], ids=["none", "one", "two", "persistent"])
def test_an_iteration_of_the_users_own_draws_by_the_seed_and_remembers(settings):
    reads = []
    for start in (0, 3):
        theirs = Remembering(Noisy(), batch_size=4, shuffle=True, **settings)
        parts = {name: part for name, part in vars(theirs).items() if name not in ("given", "seen")}
        ours = KeyedLoader(theirs, seed=3)
        first = read(ours, 1)
        before = capture()
        reads.append(read(ours, 2, start))
        assert str(capture()) == str(before)
        assert [batch[0] for batch in first] == [1, 2, 3, 4]
        assert theirs.given == 8
        assert theirs.seen == (4, False, 13, 13, 4)
        assert {name: vars(theirs)[name] for name in parts} == parts
        noise()  # whatever else is drawn meanwhile
    assert reads[0][3:] == reads[1]
    assert first != reads[0]


def test_two_readings_of_an_iteration_of_the_users_own_do_not_disturb_each_other():
    theirs = Mixed(Noisy(), batch_size=4, shuffle=True)
    train, test = KeyedLoader(theirs, seed=3), KeyedLoader(theirs, seed=3, purpose="eval")
    alone = read(train), read(test)
    pairs = list(zip(train.iterate(1), test.iterate(1), strict=True))
    assert ([plain(pair[0]) for pair in pairs], [plain(pair[1]) for pair in pairs]) == alone


class Mixed(DataLoader):
    def __iter__(self):
        return ((batch[0], noise()) for batch in super().__iter__())


class Slow(Noisy):
    """Its first sample comes late."""

    def __getitem__(self, index):
        if index == 0:
            time.sleep(0.3)
        return super().__getitem__(index)


@pytest.mark.slow
def test_the_batches_come_in_their_order_also_where_workers_need_not_keep_to_it():
    settings = {"batch_size": 2, "num_workers": 2, "shuffle": False, "in_order": False}
    loader = keyed(Slow(), **settings)
    assert numbers(read(loader)) == [*range(13)]
    assert numbers(read(loader, 1, 2)) == [*range(4, 13)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_length_is_that_of_the_users_loader(name):
    loader = with_sampler(name)
    ours = KeyedLoader(loader, seed=3)
    ours.iterate(1, 2, Shard(1, 2))
    assert len(ours) == len(loader)


def attributes(loader):
    return [dict(vars(part)) for part in (loader, loader.sampler, loader.batch_sampler) if hasattr(part, "__dict__")]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_users_loader_is_left_alone(name):
    loader = with_sampler(name)
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = [part.generator for part in (loader, *samplers) if getattr(part, "generator", None) is not None]
    before, states_before = attributes(loader), [generator.get_state() for generator in generators]
    ours = KeyedLoader(loader, seed=3)
    for epoch in (1, 2):
        read(ours, epoch, start=1)
    assert attributes(loader) == before
    for generator, state in zip(generators, states_before, strict=True):
        assert torch.equal(generator.get_state(), state)


def test_the_users_loader_can_be_read_in_between():
    loader = DataLoader(Noisy(), batch_size=4, shuffle=True)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = [plain(batch) for batch in loader]
    ours = KeyedLoader(loader, seed=3).iterate(1, 0)
    next(ours)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    theirs = iter(loader)
    batches = []
    for _ in range(4):
        batches.append(plain(next(theirs)))
        next(ours, None)
    assert batches == expected


def test_the_settings_of_a_loader_can_be_read():
    loader = keyed(drop_last=True)
    assert (loader.batch_size, loader.drop_last, loader.num_workers, loader.pin_memory) == (4, True, 0, False)
    assert loader.dataset.size == 13
    assert len(loader.dataset) == 13
    assert loader.batch_sampler.batch_size == 4
    with pytest.raises(AttributeError):
        loader.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "dataset",
    [
        list(range(13)),
        TensorDataset(torch.arange(13)),
        Subset(list(range(20)), range(13)),
        StackDataset(a=list(range(13)), b=list(range(13))),
        dict(zip(range(13), "abcdefghijklm", strict=True)),
    ],
    ids=["list", "tensors", "subset", "stack", "dict"],
)
def test_any_data_set_with_indices_is_read(dataset):
    theirs = [str(batch) for batch in DataLoader(dataset, batch_size=4)]
    assert [str(batch) for batch in keyed(dataset, shuffle=False)] == theirs


def test_a_sample_may_be_converted_and_not_collated():
    loader = keyed([{"x": np.arange(2), "name": "a"}], batch_size=None, shuffle=False)
    (sample,) = loader
    assert torch.equal(sample["x"], torch.arange(2))
    assert sample["name"] == "a"


class Broken(Noisy):
    def __getitem__(self, index):
        noise()
        raise LookupError(f"no scan {index}")


def test_an_error_of_the_data_set_comes_out_and_the_generators_are_put_back():
    before = states()
    with pytest.raises(LookupError, match="no scan 0"):
        read(keyed(Broken(), shuffle=False))
    assert states() == before


class Opened(Dataset):
    """Reads from what each worker opens for itself."""

    file, offset = None, 100

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.file[index] + get_worker_info().dataset.offset


def open_file(worker):
    """What a worker_init_fn often does: reads and sets attributes of the worker's data set."""
    dataset = get_worker_info().dataset
    dataset.file = [10 * index for index in range(len(dataset))]
    dataset.offset += dataset.offset


def test_a_worker_can_change_its_data_set():
    dataset = Opened()
    loader = keyed(dataset, shuffle=False, num_workers=1, timeout=60, worker_init_fn=open_file)
    assert read(loader) == [[200, 210, 220, 230], [240, 250]]
    assert dataset.file is None


class Mixing(Noisy):
    """Adds another sample to each, found by way of the worker's data set, as mixup does."""

    def __getitem__(self, index):
        info = get_worker_info()
        if info is None or index >= 100:
            return index % 100
        return index + 10 * info.dataset[100 + (index + 1) % 13]


def test_a_worker_can_read_other_samples():
    loader = keyed(Mixing(), shuffle=False, batch_size=13, num_workers=1, timeout=60)
    assert read(loader) == [[index + 10 * ((index + 1) % 13) for index in range(13)]]


@pytest.mark.slow
class Handlers(Dataset):
    """What the process that loads does on Ctrl-C and on SIGUSR1: 0 for what ends it, 1 for nothing, 2 for its own."""

    def __getitem__(self, index):
        kinds = {signal.SIG_DFL: 0, signal.default_int_handler: 0, signal.SIG_IGN: 1}
        return torch.tensor([kinds.get(signal.getsignal(name), 2) for name in (signal.SIGINT, signal.SIGUSR1)])

    def __len__(self):
        return 2


@pytest.fixture
def defaults():
    """Ctrl-C and SIGUSR1 as in a script of its own."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def test_workers_leave_signals_to_the_whole_group_to_the_script(defaults):
    assert [batch.tolist() for batch in keyed(Handlers(), shuffle=False, num_workers=1)] == [[[1, 1], [1, 1]]]
    assert [batch.tolist() for batch in keyed(Handlers(), shuffle=False)] == [[[0, 0], [0, 0]]]


def test_a_workers_handlers_of_the_scripts_own_stay(defaults):
    def own(worker):
        signal.signal(signal.SIGINT, lambda number, frame: None)

    assert [batch.tolist() for batch in keyed(Handlers(), shuffle=False, num_workers=1, worker_init_fn=own)] == [
        [[2, 1], [2, 1]]
    ]
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    assert [batch.tolist() for batch in keyed(Handlers(), shuffle=False, num_workers=1)] == [[[1, 2], [1, 2]]]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_workers_of_any_loader_can_be_started_so(workers, defaults):
    loader = DataLoader(Handlers(), 2, num_workers=workers)
    with leaving_signals(loader), leaving_signals([1]):
        batches = iter(loader)
    assert [batch.tolist() for batch in batches] == [[[workers] * 2] * 2]
    assert loader.worker_init_fn is None


def test_workers_may_be_started_anew():
    alone = read(keyed())
    assert read(keyed(num_workers=1, timeout=60, multiprocessing_context="spawn")) == alone


def test_persistent_workers_persist_and_end_with_their_loader():
    loader = keyed(num_workers=1, persistent_workers=True, timeout=60)
    read(loader)
    (worker,) = multiprocessing.active_children()
    partly = loader.iterate(2, 0)
    next(partly)
    assert read(loader, epoch=3) == read(keyed(), epoch=3)
    assert multiprocessing.active_children() == [worker]


# What can be keyed


class Streaming(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Resuming(DataLoader):
    """A loader that keeps its place by itself."""

    def state_dict(self):
        return {}


@pytest.mark.parametrize(
    "loader",
    [DataLoader(range(3)), DataLoader(range(3), batch_size=None), Doubling(range(3)), DataLoader([1], sampler=[0])],
)
def test_a_loader_over_a_data_set_with_indices_can_be_keyed(loader):
    assert can_be_keyed(loader)


@pytest.mark.parametrize("loader", [DataLoader(Streaming()), Resuming(range(3)), [1, 2], iter([1]), None, range(3)])
def test_other_loaders_cannot(loader):
    assert not can_be_keyed(loader)
