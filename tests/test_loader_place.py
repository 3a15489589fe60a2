"""A loader that keeps its place by itself goes on there: with the batches and the draws of a run that never stopped."""

from __future__ import annotations

import copy
import gc
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler
from torchdata import nodes
from torchdata.stateful_dataloader import StatefulDataLoader

from ignition import TensorLoader
from ignition.loader_place import load_place, place_of

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's use of torch

SAMPLES, BATCH, LENGTH = 11, 3, 4  # the last of the four batches is ragged


class Stream(IterableDataset):
    """Numbers, one after another; it knows how many it has given."""

    place = 0

    def __iter__(self):
        while self.place < SAMPLES:
            self.place += 1
            yield self.place
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class Own:
    """A loader of the user's, shuffled from a generator that it may have, else from torch's own."""

    def __init__(self, generator=None):
        self.generator, self.order = generator, []

    def __iter__(self):
        self.order = self.order or torch.randperm(SAMPLES, generator=self.generator).tolist()
        while self.order:
            batch, self.order = self.order[:BATCH], self.order[BATCH:]
            yield torch.tensor(batch)

    def state_dict(self):
        return {"order": self.order}

    def load_state_dict(self, state):
        self.order = list(state["order"])


class ShowsItsEnd(Own):
    """One that shows the end of an epoch once more where that is its state, as torchdata's does."""

    ended = False

    def __iter__(self):
        if self.ended:
            self.ended = False
            torch.rand(())  # a draw that no run makes which goes on without a stop
            return
        yield from super().__iter__()

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.ended = not self.order


class KnowsItsPlaceLate:
    """One that can tell its place only once it is being read."""

    def __init__(self, generator=None):
        self.generator, self.start = generator, 0

    def __iter__(self):
        self.place, self.start = self.start, 0
        while self.place < LENGTH:
            self.place += 1
            yield torch.tensor([self.place]) + torch.rand((), generator=self.generator)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.start = state["place"]


def pipeline(sampler=None, **options):
    batches = nodes.Batcher(nodes.SamplerWrapper(sampler or range(SAMPLES)), BATCH, drop_last=False)
    loader = nodes.Loader(nodes.Mapper(batches, torch.tensor), **options)
    loader.generator = None
    return loader


LOADERS = {
    "a stream": lambda generator: DataLoader(Stream(), BATCH, generator=generator),
    "of torchdata": lambda generator: StatefulDataLoader(range(SAMPLES), BATCH, generator=generator),
    "of torchdata, shuffled": lambda generator: StatefulDataLoader(range(SAMPLES), BATCH, True, generator=generator),
    "of one's own": Own,
    "one that shows its end": ShowsItsEnd,
    "one that knows its place late": KnowsItsPlaceLate,
    "nodes of torchdata": lambda generator: pipeline(),
    "nodes of torchdata without a restart": lambda generator: pipeline(restart_on_stop_iteration=False),
}


def made(kind, own, seed):
    """A loader, with a generator of its own or without, in a script that begins with this seed."""
    torch.manual_seed(seed)
    return LOADERS[kind](torch.Generator().manual_seed(seed + 1) if own else None)


def seen(batches, loader):
    """What a function sees that draws by itself too: each batch, and what the generators give after it."""
    for batch in batches:
        yield batch.tolist(), torch.rand(()).item(), own_draw(loader)


def own_draw(loader):
    return None if loader.generator is None else torch.rand((), generator=loader.generator).item()


@pytest.mark.parametrize("own", [False, True], ids=["torch's generator", "its own"])
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("batches", range(1, 2 * LENGTH + 1))
def test_what_comes_after_a_place_is_what_would_have_come_without_a_stop(kind, own, batches):
    loader = made(kind, own, seed=1)
    never_stopped = [list(seen(loader, loader)) for _ in range(4)]

    loader = made(kind, own, seed=1)
    epochs, left = divmod(batches, LENGTH)
    for _ in range(epochs):
        assert len(list(seen(loader, loader))) == LENGTH
    if left:
        this_epoch = seen(loader, loader)
        assert [next(this_epoch) for _ in range(left)] == never_stopped[epochs][:left]
    generator = torch.get_rng_state()  # before the loader is asked, which may draw for that
    place = copy.deepcopy(place_of(loader))

    loader = made(kind, own, seed=7)
    kept = load_place(loader, place, ended=not left)
    if left:  # an epoch that is open is opened before the generators are put back, a new one after it
        opened = kept.open()
        torch.set_rng_state(generator)
    else:
        torch.set_rng_state(generator)
        opened = kept.open()
    assert list(seen(opened, loader)) == never_stopped[epochs][left:]
    assert [list(seen(loader, loader)) for _ in range(3 - epochs)] == never_stopped[epochs + 1 :]


@pytest.mark.parametrize("restarts", [True, False])
def test_nodes_of_torchdata_whose_epoch_is_all_read_show_its_end_and_not_the_next_one(restarts):
    loader = pipeline(restart_on_stop_iteration=restarts)
    batches = iter(loader)
    for _ in range(LENGTH):
        next(batches)
    place = place_of(loader)  # the end has not shown
    loader = pipeline(restart_on_stop_iteration=restarts)
    assert list(load_place(loader, place, ended=False).open()) == []
    assert len(list(loader)) == LENGTH
    assert loader.restart_on_stop_iteration is restarts


def test_nodes_of_torchdata_that_shuffle_draw_the_next_epoch_as_without_a_stop():
    torch.manual_seed(1)
    loader = pipeline(RandomSampler(range(SAMPLES)))
    list(loader)
    place, generator = place_of(loader), torch.get_rng_state()
    expected = [list(seen(loader, loader)) for _ in range(2)]
    loader = pipeline(RandomSampler(range(SAMPLES)))
    kept = load_place(loader, place, ended=True)
    torch.set_rng_state(generator)
    assert [list(seen(kept.open(), loader)), list(seen(loader, loader))] == expected


def test_nodes_of_torchdata_that_were_asked_for_their_place_before_go_on_at_the_one_that_is_loaded():
    loader = pipeline()
    batches = iter(loader)
    next(batches)
    place, rest = place_of(loader), [batch.tolist() for batch in batches]
    loader = pipeline()
    place_of(loader)
    assert [batch.tolist() for batch in load_place(loader, place, ended=False).open()] == rest


class Ignoring:
    """Whether the process that loads ignores Ctrl-C."""

    def __getitem__(self, index):
        return int(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)

    def __len__(self):
        return 4


@pytest.mark.parametrize("ended", [False, True])
def test_the_workers_of_a_loader_that_goes_on_leave_ctrl_c_to_the_script(ended):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        place = place_of(StatefulDataLoader(Ignoring(), 2, num_workers=1))
        kept = load_place(StatefulDataLoader(Ignoring(), 2, num_workers=1), place, ended=ended)
        assert [batch.tolist() for batch in kept.open()] == [[1, 1], [1, 1]]
    finally:
        signal.signal(signal.SIGINT, before)
        gc.collect()  # the loaders end their workers when they go


# What keeps its place


@pytest.mark.parametrize(
    "loader",
    [
        [torch.zeros(1)],
        iter([torch.zeros(1)]),
        DataLoader(range(9), generator=torch.Generator()),
        DataLoader(Stream(), num_workers=1),  # each worker has a stream of its own
        TensorLoader(torch.zeros(3), batch_size=2),
    ],
    ids=["list", "iterator", "DataLoader", "a stream of workers", "TensorLoader"],
)
def test_a_loader_that_does_not_keep_its_place_has_none(loader):
    assert place_of(loader) is None


@pytest.mark.parametrize("generator", [None, np.random.default_rng(0), 3], ids=["none", "numpy's", "a number"])
def test_only_a_generator_of_torch_belongs_to_the_place(generator):
    loader = Own(generator)
    loader.order = [1, 2]
    assert place_of(loader) == {"state": {"order": [1, 2]}, "generator": None}
    kept = load_place(loader, place_of(loader), ended=False)
    assert [batch.tolist() for batch in kept.open()] == [[1, 2]]
    assert loader.generator is generator


def test_a_place_without_a_generator_leaves_that_of_the_loader_alone():
    loader = Own(torch.Generator().manual_seed(5))
    kept = load_place(loader, {"state": {"order": [1]}, "generator": None}, ended=False)
    assert [batch.tolist() for batch in kept.open()] == [[1]]
    assert torch.equal(loader.generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_a_loader_that_has_no_generator_any_more_goes_on_without_it():
    place = place_of(Own(torch.Generator().manual_seed(5)))
    kept = load_place(Own(), {**place, "state": {"order": [1]}}, ended=False)
    assert [batch.tolist() for batch in kept.open()] == [[1]]


def test_the_generator_of_a_place_is_a_copy_that_later_draws_leave_alone():
    loader = Own(torch.Generator().manual_seed(5))
    place = place_of(loader)
    torch.rand(9, generator=loader.generator)
    assert torch.equal(place["generator"], torch.Generator().manual_seed(5).get_state())


def test_what_is_put_back_is_the_stream_that_a_loader_reads():
    loader = DataLoader(Stream(), BATCH)
    load_place(loader, {"state": {"place": 9}, "generator": None}, ended=False)
    assert loader.dataset.place == 9


def test_a_state_that_the_loader_refuses_is_its_own_error():
    with pytest.raises(KeyError, match="order"):
        load_place(Own(), {"state": {}, "generator": None}, ended=False)
