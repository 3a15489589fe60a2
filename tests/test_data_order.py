"""In what order a loader reads, and which samples: the same words for the same, and others for others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)

from ignition import TensorLoader
from ignition.data_order import choice_of, order_of

DATA = list(range(10))


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(9, -1, -1))

    def __len__(self):
        return 10


class Own(DataLoader):
    def __iter__(self):
        return super().__iter__()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


class Around(Dataset):
    """A data set of a user's around another."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)


class Twice(Dataset):
    """One that has itself in it."""

    def __init__(self):
        self.me = self


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DATA, "in order"),
        (iter(DATA), "by list_iterator"),
        (TensorLoader(torch.zeros(10), batch_size=3), "in order"),
        (TensorLoader(torch.zeros(10), batch_size=3, shuffle=True), "shuffled by TensorLoader"),
        (DataLoader(DATA, 3), "in order"),
        (DataLoader(DATA, batch_size=None), "in order"),
        (DataLoader(DATA, 3, shuffle=True), "shuffled by RandomSampler"),
        (DataLoader(DATA, 3, sampler=RandomSampler(DATA, True)), "shuffled by RandomSampler with replacement"),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 3, True)), "in order"),
        (DataLoader(DATA, 3, sampler=DistributedSampler(DATA, 1, 0)), "shuffled by DistributedSampler, seed 0"),
        (DataLoader(DATA, 3, sampler=DistributedSampler(DATA, 1, 0, shuffle=False)), "in order"),
        (DataLoader(DATA, 3, sampler=Backwards()), "by Backwards"),
        (DataLoader(DATA, 3, sampler=[3, 1]), "by indices that are given"),
        (DataLoader(Stream(), 3), "by Stream"),
        (Own(DATA, 3), "in order, Own"),
    ],
)  # fmt: skip
def test_the_order_is_told_in_words(loader, words):
    assert order_of(loader) == words


def test_the_same_indices_are_the_same_choice_whatever_holds_them():
    held = [[3, 1, 4], (3, 1, 4), np.array([3, 1, 4]), torch.tensor([3, 1, 4], dtype=torch.int32)]
    choices = {choice_of(DataLoader(Subset(DATA, indices))) for indices in held}
    assert len(choices) == 1
    assert choice_of(DataLoader(Subset(DATA, range(3)))) == choice_of(DataLoader(Subset(DATA, [0, 1, 2])))


@pytest.mark.parametrize(
    "make",
    [
        lambda indices: DataLoader(Subset(DATA, indices)),
        lambda indices: DataLoader(Subset(Subset(DATA, indices), [0, 1])),
        lambda indices: DataLoader(Around(Subset(DATA, indices))),
        lambda indices: DataLoader(ConcatDataset([Subset(DATA, [0]), Subset(DATA, indices)])),
        lambda indices: DataLoader(DATA, sampler=SubsetRandomSampler(indices)),
        lambda indices: DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(indices), 2, False)),
        lambda indices: DataLoader(DATA, sampler=indices),
        lambda indices: DataLoader(DATA, sampler=WeightedRandomSampler([float(one) for one in indices], 4)),
    ],
)
def test_other_indices_are_another_choice_wherever_they_are(make):
    first, again, other = (choice_of(make(indices)) for indices in ([3, 1, 4], [3, 1, 4], [3, 4, 1]))
    assert first == again != other
    assert first


def test_a_split_without_a_generator_of_its_own_is_another_one_each_time():
    def split(*generator):
        return choice_of(DataLoader(random_split(range(100), [80, 20], *generator)[0]))

    assert split() != split()
    assert split(torch.Generator().manual_seed(0)) == split(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loader", [DATA, DataLoader(DATA, shuffle=True), DataLoader(Twice(), sampler=Backwards())])
def test_where_nothing_chooses_there_is_no_choice(loader):
    assert choice_of(loader) == ""


def test_indices_of_no_known_kind_do_no_harm():
    assert choice_of(DataLoader(Subset(DATA, [[1], [2, 3]]))).startswith("2 of a Subset")
