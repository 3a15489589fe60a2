from collections import UserDict
from dataclasses import dataclass
from itertools import count, islice

import dealing
import numpy as np
import pytest
import torch
from dealing import as_numbers, check_split
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    get_worker_info,
)

from ignition import TensorLoader
from ignition.data import (
    Borrowed,
    Shard,
    batch_weight,
    can_shift,
    describe_batch,
    digest_of,
    items_of,
    iterate,
    length_of,
    rekeyed,
    rounds,
)
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
    "DataLoader of a class": lambda: Threefold(range(10), batch_size=None),
}


class Threefold(DataLoader):
    """Gives each batch three times, and afterwards only every third of these."""

    def __iter__(self):
        return islice((batch for batch in super().__iter__() for _ in range(3)), 0, None, 3)


def shares(make, size, fill, epoch=1, start=0):
    """What each of `size` processes reads, each of a loader of its own."""
    shards = [iterate(make(), epoch, start, Shard(rank, size), fill) for rank in range(size)]
    return [[dealing.as_numbers(batch) for batch in shard] for shard in shards]


@pytest.mark.slow
@pytest.mark.parametrize("make", ANY_ITERABLE.values(), ids=ANY_ITERABLE.keys())
@pytest.mark.parametrize("start", [0, 1, 3, 4, 9, 99])
def test_any_iterable_is_read_from_any_place_by_any_number_of_processes(make, start):
    batches = iterate(make(), start=start)
    assert iter(batches) is batches
    rest = [[number] for number in range(10)[start:]]
    assert [dealing.as_numbers(batch) for batch in batches] == rest
    for size in (2, 3, 4, 11):
        dealing.check_none(shares(make, size, "none", start=start), rest)
        dealing.check_borrow(shares(make, size, "borrow", start=start), rest)
        dealing.check_borrow(shares(make, size, "split", start=start), rest)  # no indices that could be split


@given(st.integers(0, 20), st.integers(2, 5), st.integers(0, 25))
def test_batches_of_a_list_are_dealt_each_once(length, size, start):
    batches = [[torch.tensor([number, -number])] for number in range(length)]
    rest = [[number, -number] for number in range(length)][start:]
    dealing.check_none(shares(lambda: batches, size, "none", start=start), rest)
    dealing.check_borrow(shares(lambda: iter(batches), size, "borrow", start=start), rest)


@given(
    st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.booleans(), st.booleans(),
    st.sampled_from(["DataLoader", "TensorLoader"]),
)  # fmt: skip
def test_a_round_has_the_samples_of_one_larger_batch(samples, batch_size, size, start, shuffle, drop_last, kind):
    data = torch.arange(samples)

    def make(batch_size):
        if kind == "DataLoader":
            loader = DataLoader(TensorDataset(data), batch_size, shuffle, drop_last=drop_last)
        else:
            loader = TensorLoader(data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
        return rekeyed(loader, 5, "train")

    larger = [dealing.as_numbers(batch) for batch in iterate(make(batch_size * size), 2)]
    split = shares(lambda: make(batch_size), size, "split", 2, start * size)
    dealing.check_split(split, larger[start:])
    if -(-samples // batch_size) % size and not drop_last:  # its last round lacks batches
        for turn in list(zip(*split, strict=True))[-1:]:
            dealing.check_even(turn)
    batches = [dealing.as_numbers(batch) for batch in iterate(make(batch_size), 2)]
    if size > 1:
        dealing.check_none(shares(lambda: make(batch_size), size, "none", 2, start), batches[start:])
        dealing.check_borrow(shares(lambda: make(batch_size), size, "borrow", 2, start), batches[start:])


def test_what_is_left_of_an_epoch_goes_to_another_number_of_processes():
    loader = rekeyed(TensorLoader(torch.arange(40), batch_size=3, shuffle=True), 5, "train")
    whole = dealing.as_numbers(
        next(iterate(rekeyed(TensorLoader(torch.arange(40), batch_size=40, shuffle=True), 5, "train")))
    )
    begun = [number for rank in range(2) for batch in list(iterate(loader, 1, 0, Shard(rank, 2), "split"))[:2]
             for number in dealing.as_numbers(batch)]  # fmt: skip
    after = [
        number
        for share in shares(lambda: loader, 3, "split", start=4)
        for batch in dealing.own(share)
        for number in batch
    ]
    assert sorted(begun) == sorted(whole[:12])
    assert sorted(after) == sorted(whole[12:])


class Stateful(list):
    """Keeps its place by itself."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("make", [lambda: DataLoader(Stream(), batch_size=None), lambda: Stateful(range(10))])
@pytest.mark.parametrize("fill", ["none", "borrow", "split"])
def test_each_process_reads_the_whole_of_a_stream_of_its_own(make, fill):
    for start in (0, 3):
        assert shares(make, 3, fill, start=start) == [[[number] for number in range(10)[start:]]] * 3
    assert rounds(make(), size=3, fill=fill) is None


def test_a_shuffled_loader_without_a_seed_has_one_order_in_all_processes():
    loaders = {
        "DataLoader": lambda: DataLoader(TensorDataset(torch.arange(20)), 3, shuffle=True),
        "TensorLoader": lambda: TensorLoader(torch.arange(20), batch_size=3, shuffle=True),
    }
    for make in loaders.values():
        read = [number for share in shares(make, 3, "none") for batch in share for number in batch]
        assert sorted(read) == list(range(20))
        assert read != sorted(read)


def test_a_dict_is_one_argument_of_a_borrowed_batch():
    batches = [{"x": torch.ones(2)}, {"x": torch.zeros(2)}, {"x": torch.ones(1)}]
    (own, borrowed) = iterate(batches, shard=Shard(1, 2), fill="borrow")
    assert own is batches[1]
    assert type(borrowed) is Borrowed
    assert borrowed[0] is batches[2]


def test_a_loader_of_any_kind_that_says_that_it_drops_has_its_last_round_dropped():
    class Dropping(Reads):
        drop_last = True

    assert shares(lambda: Dropping(10), 4, "split") == [[[rank], [rank + 4]] for rank in range(4)]
    dealing.check_borrow(shares(lambda: Dropping(10), 4, "borrow"), [[number] for number in range(10)])


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
    assert list(islice(iterate(count(), start=2, shard=Shard(1, 3)), 3)) == [3, 6, 9]


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
    assert [batch.tolist() for batch in iterate(loader, 2, 2, Shard(1, 2))] == epochs[1][3::2]


# rounds


LOADERS = {
    "list": lambda: list(range(10)),
    "tuple": lambda: (1, 2, 3),
    "empty": list,
    "tensors": lambda: TensorLoader(torch.arange(21), batch_size=4),
    "tensors, last dropped": lambda: TensorLoader(torch.arange(21), batch_size=4, drop_last=True),
    "DataLoader": lambda: DataLoader(range(21), 4),
    "DataLoader, last dropped": lambda: DataLoader(range(21), 4, drop_last=True),
    "batches of batches": lambda: DataLoader(range(21), batch_sampler=BatchSampler(range(21), 4, drop_last=True)),
    "samples": lambda: DataLoader(range(9), batch_size=None),
    "distributed": lambda: DataLoader(range(21), 4, sampler=DistributedSampler(range(21), 3, 1)),
    "distributed samples": lambda: DataLoader(range(7), batch_size=None, sampler=DistributedSampler(range(7), 3, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize("fill", ["none", "borrow", "split"])
@pytest.mark.parametrize("start", [0, 1, 4, 99])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_number_of_rounds_is_that_of_the_batches_of_the_first_process(make, size, start, fill):
    loader = make()
    assert rounds(loader, start, size, fill) == len(shares(lambda: loader, size, fill, start=start)[0])


@pytest.mark.parametrize(
    "loader",
    [iter([1]), Reads(3), DataLoader(Stream()), Threefold(range(3)), DataLoader(range(4), batch_sampler=[[1], [2, 3]])],
)
@pytest.mark.parametrize("size", [1, 2])
def test_the_number_of_rounds_is_unknown_where_a_length_may_be_wrong(loader, size):
    assert rounds(loader, 0, size) is None


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


# Workers that read the same


class OfWorkers(IterableDataset):
    """Samples that the workers share, or that each of them reads as if it were alone; or one and the same for ever."""

    def __init__(self, kind):
        self.kind = kind

    def __iter__(self):
        info = get_worker_info()
        parted = self.kind == "parted" and info is not None
        numbers = range(info.id, 24, info.num_workers) if parted else range(24)
        return iter([7] * 24 if self.kind == "constant" else numbers)


def numbers_read(kind, workers, **options):
    batches = iterate(DataLoader(OfWorkers(kind), 4, num_workers=workers, **options))
    return sorted(number for batch in batches for number in batch.tolist())


def test_a_stream_that_all_workers_read_alike_is_an_error():
    with pytest.raises(BatchError, match=r"(?s)each of 2 workers.*expected: .*to do: .*get_worker_info"):
        numbers_read("alike", 2)
    passed_over = DataLoader(OfWorkers("alike"), 4, num_workers=2)
    with pytest.raises(BatchError, match="the same batches"):
        list(iterate(passed_over, start=4))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_that_is_parted_by_worker_is_read_as_it_is(workers):
    assert numbers_read("parted", workers) == list(range(24))


def test_one_worker_may_read_all_and_a_constant_stream_shows_nothing():
    assert numbers_read("alike", 0) == numbers_read("alike", 1) == list(range(24))
    assert numbers_read("constant", 2) == [7] * 48


# From any sample on


def shiftable(count, size, drop_last):
    data = torch.arange(count)
    plain = {"batch_size": size, "drop_last": drop_last}
    batches = BatchSampler(RandomSampler(range(count)), size, drop_last)
    return {
        "in order": DataLoader(TensorDataset(data), **plain),
        "shuffled": DataLoader(TensorDataset(data), shuffle=True, **plain),
        "workers": DataLoader(TensorDataset(data), shuffle=True, num_workers=1, **plain),
        "a batch sampler": DataLoader(TensorDataset(data), batch_sampler=batches),
        "tensors": TensorLoader(data, **plain),
        "shuffled tensors": TensorLoader(data, shuffle=True, **plain),
    }


def read_from(loader, start, shift, processes):
    """The samples of what each process reads, in its own order, and how many batches it was told."""
    keyed = rekeyed(loader, 3, "train")
    fill = "split" if processes > 1 else "none"
    shares = [
        [as_numbers(batch) for batch in iterate(keyed, 2, start, Shard(rank, processes), fill, shift)]
        for rank in range(processes)
    ]
    return shares, rounds(loader, start, processes, fill, shift)


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("start", "shift"), [(0, 3), (2, 1), (4, 2), (6, 3)])
@pytest.mark.parametrize("name", shiftable(1, 1, False))
def test_what_is_left_of_an_epoch_is_read_from_any_sample_on(name, start, shift, drop_last):
    count, size = 26, 4
    whole = iterate(rekeyed(shiftable(count, count, False)[name], 3, "train"), 2)
    (order,) = [as_numbers(batch) for batch in whole]
    left = order[start * size + shift :]
    loader = shiftable(count, size, drop_last)[name]
    assert can_shift(loader)
    for processes in (1, 2, 3):
        shares, told = read_from(loader, start, shift, processes)
        together = size * processes
        expected = [left[place : place + together] for place in range(0, len(left), together)]
        if drop_last and expected and len(expected[-1]) < together:
            expected.pop()
        check_split(shares, expected)
        assert [len(share) for share in shares] == [told] * processes


@pytest.mark.parametrize(
    "loader",
    [
        [1, 2], iter([1]), DataLoader(Stream()), DataLoader(range(4), batch_sampler=[[1], [2, 3]]),
        DataLoader(range(4), batch_size=None),
        DataLoader(range(4), 2, sampler=RandomSampler(range(4), replacement=True)),
    ],
)  # fmt: skip
def test_what_makes_its_batches_by_itself_is_read_from_whole_batches_on(loader):
    assert not can_shift(loader)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
)
def test_a_tensor_whose_numbers_do_not_lie_side_by_side_has_a_digest_of_its_type(tensor):
    assert digest_of([tensor]) == digest_of([tensor])
    assert digest_of([tensor]) not in (b"", digest_of([tensor, tensor]))


def test_a_digest_is_of_the_numbers_however_they_lie():
    numbers = torch.arange(6.0).view(2, 3)
    assert digest_of(numbers.T) == digest_of(numbers.T.contiguous()) != digest_of(numbers.view(3, 2))
    complex_numbers = torch.tensor([1 + 2j])
    assert digest_of(complex_numbers.conj()) == digest_of(torch.tensor([1 - 2j])) != digest_of(complex_numbers)
