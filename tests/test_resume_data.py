"""What is read of the data when a run goes on: loaders that keep their place, streams, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections import deque

import numpy as np
import pytest
import torch
from resuming import Data, Killed, differences, fingerprint, small_training
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchdata import nodes

from ignition import TensorLoader, Trainer, crossentropy_loss
from ignition.callbacks import Checkpoint
from ignition.data import check_place_kept, iterate
from ignition.errors import CheckpointError


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Stream(IterableDataset):
    """Samples in an order of its own for each pass, drawn from a generator of its own; tells its place."""

    def __init__(self, samples=22, noisy=True):
        self.data = Data(samples=samples)
        self.generator = torch.Generator().manual_seed(2)
        self.order, self.place, self.noisy = [], 0, noisy

    def __iter__(self):
        if self.place == len(self.order):
            self.order = torch.randperm(len(self.data), generator=self.generator).tolist()
            self.place = 0
        while self.place < len(self.order):
            index = self.order[self.place]
            self.place += 1
            x, y = self.data[index]
            yield x + 0.1 * torch.randn(4) * self.noisy, y

    def state_dict(self):
        return {"generator": self.generator.get_state(), "order": list(self.order), "place": self.place}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.order, self.place = list(state["order"]), state["place"]


class GoingBack(IterableDataset):
    """A stream that goes back to its beginning as it ends, which the collating of a short last batch comes to."""

    def __init__(self, samples=22):
        self.data, self.place = Data(samples=samples), 0

    def __iter__(self):
        while self.place < len(self.data):
            self.place += 1
            x, y = self.data[self.place - 1]
            yield x + 0.1 * torch.randn(4), y
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class EndShowing(IterableDataset):
    """A stream that is put back to its end shows that end once, before it begins anew."""

    def __init__(self):
        self.data, self.place, self.start = Data(), 0, 0

    def __iter__(self):
        start, self.start = self.start, 0
        for place in range(start, len(self.data)):
            self.place = place + 1
            x, y = self.data[place]
            yield x + 0.1 * torch.randn(4), y

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = self.start = state["place"]


class KeepingLoader:
    """A loader of the user's that tells its place, with noise from numpy's generator."""

    def __init__(self, length=4):
        self.data, self.place, self.length = Data(), 0, length

    def __len__(self):
        return self.length

    def __iter__(self):
        while self.place < self.length:
            self.place += 1
            rows = slice(5 * (self.place - 1), 5 * self.place)
            yield self.data.x[rows] + 0.1 * np.random.rand(), self.data.y[rows]
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class KnowsItsPlaceLate(KeepingLoader):
    """A loader of the user's that can tell its place only once it is being read."""

    def __init__(self):
        super().__init__()
        self.start = self.__dict__.pop("place")

    def __iter__(self):
        self.place, self.start = self.start, 0
        yield from super().__iter__()
        self.place = self.length

    def load_state_dict(self, state):
        self.start = state["place"]


def pipeline():
    """A pipeline of torchdata, with noise from numpy's generator."""
    data = Data()

    def load(places):
        return data.x[list(places)] + 0.1 * np.random.rand(), data.y[list(places)]

    return nodes.Loader(nodes.Mapper(nodes.Batcher(nodes.SamplerWrapper(range(22)), 6, drop_last=False), load))


class Batches(Dataset):
    """Batches by index, each noisy when it is made; tells which were."""

    def __init__(self):
        self.data, self.made = Data(), []

    def __len__(self):
        return 4

    def __getitem__(self, place):
        if place >= 4:
            raise IndexError
        self.made.append(place)
        return self.data.x[5 * place : 5 * place + 5] + 0.1 * torch.randn(1), self.data.y[5 * place : 5 * place + 5]


LOADERS = {
    "a stream": lambda: DataLoader(Stream(), batch_size=6),
    "a stream that goes back": lambda: DataLoader(GoingBack(), batch_size=6),
    "a stream that goes back after a whole batch": lambda: DataLoader(GoingBack(24), batch_size=6),
    "a stream that shows its end": lambda: DataLoader(EndShowing(), batch_size=6),
    "a stream without its last batch": lambda: DataLoader(Stream(20), batch_size=6, drop_last=True),
    "samples of a stream": lambda: DataLoader(Together(Stream(8)), batch_size=None),
    "a loader": KeepingLoader,
    "a loader that knows its place late": KnowsItsPlaceLate,
    "nodes of torchdata": pipeline,
    "batches by index": Batches,
    "a deque": lambda: deque([(torch.randn(3, 4), torch.tensor([0, 1, 1])) for _ in range(4)]),
}


class Together(IterableDataset):
    """Batches of two of a stream."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        waiting = []
        for x, y in self.stream:
            waiting.append((x, y))
            if len(waiting) == 2:
                (x0, y0), (x1, y1) = waiting
                waiting = []
                yield torch.stack([x0, x1]), torch.stack([y0, y1])

    def state_dict(self):
        return self.stream.state_dict()

    def load_state_dict(self, state):
        self.stream.load_state_dict(state)


def build(loader, folder, *, every=1, accumulate=1, kill=None, evaluate=False):
    torch.manual_seed(4)
    np.random.seed(4)
    loader = loader()
    model, optimizer, train_fn = small_training(kill)

    def eval_fn(model, x, y):
        return {"loss": crossentropy_loss(model(x), y), "noise": torch.rand(())}

    test = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))]
    trainer = Trainer(
        model, optimizer, train_fn, loader, *((eval_fn, test) if evaluate else ()),
        device="cpu", accumulate=accumulate, progress=False,
    )  # fmt: skip
    if folder is not None:
        trainer.callbacks = [Checkpoint(folder, every=every, keep=1000)]
    return trainer


@pytest.mark.parametrize("name", ["a loader that knows its place late", "nodes of torchdata"])
def test_a_loader_that_is_not_to_be_asked_before_it_is_read_goes_on_at_its_place(name, tmp_path):
    whole = build(LOADERS[name], tmp_path / "whole")
    whole.fit(epochs=2, resume=True)
    for kill in (2, 4, 4):
        with pytest.raises(Killed):
            build(LOADERS[name], tmp_path / "often", kill=kill).fit(epochs=2, resume=True)
    again = build(LOADERS[name], tmp_path / "often")
    again.fit(epochs=2, resume=True)
    assert not differences(again, fingerprint(whole))


def stopped(loader, folder, step):
    """A run that gets a signal in a step."""
    trainer = build(loader, folder, every=1000)

    @trainer.on("step_end")
    def _(trainer):
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        trainer.fit(epochs=3, resume=True)


# Without the one that, put back behind its last batch, begins anew and shows no end.
@pytest.mark.parametrize("name", sorted({*LOADERS} - {"samples of a stream"}))
def test_a_signal_in_the_last_batch_of_an_epoch_has_no_batch_come_twice_or_never(name, tmp_path):
    whole = build(LOADERS[name], tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    last = whole.step // 3
    for step in (last, last + 1, 2 * last):
        stopped(LOADERS[name], tmp_path / "often", step)
    again = build(LOADERS[name], tmp_path / "often")
    again.fit(epochs=3, resume=True)
    assert not differences(again, fingerprint(whole))


@pytest.mark.parametrize("event", ["step_end", "epoch_begin"])
@pytest.mark.parametrize("name", ["a stream that goes back", "a stream that shows its end", "nodes of torchdata"])
def test_what_is_saved_by_hand_at_the_edge_of_an_epoch_goes_on_with_the_next_one(name, event, tmp_path):
    whole, again = (build(LOADERS[name], None) for _ in range(2))
    whole.seed = again.seed = 4

    @whole.on(event)
    def _(trainer):
        if trainer.step == 4 and not (tmp_path / "a").exists():
            trainer.save(tmp_path / "a")

    whole.fit(epochs=3)
    again.load(tmp_path / "a")
    again.save(tmp_path / "b")  # before it is read
    again.load(tmp_path / "b")
    again.fit(epochs=2 + (event == "step_end"))
    assert again.step == whole.step
    parts = [fingerprint(one)["model"] for one in (again, whole)]
    assert parts[0] == parts[1]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_that_keeps_its_place_is_put_back(name, accumulate, tmp_path):
    options = {"accumulate": accumulate, "evaluate": True}
    whole = build(LOADERS[name], tmp_path / "whole", **options)
    whole.fit(epochs=3, eval_every=2, resume=True)
    expected = fingerprint(whole)
    checkpoints = sorted((tmp_path / "whole").glob("fit-*"))
    assert len(checkpoints) >= 4
    for checkpoint in checkpoints:
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(LOADERS[name], tmp_path / "again", every=1000, **options)
        again.fit(epochs=3, eval_every=2, resume=True)
        assert not differences(again, expected), checkpoint
        shutil.rmtree(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_that_keeps_its_place_survives_several_interruptions(name, tmp_path):
    whole = build(LOADERS[name], tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    for kill in (4, 3, 2, 3):
        with pytest.raises(Killed):
            build(LOADERS[name], tmp_path / "often", kill=kill).fit(epochs=3, resume=True)
    again = build(LOADERS[name], tmp_path / "often")
    again.fit(epochs=3, resume=True)
    assert not differences(again, fingerprint(whole))


def test_an_interrupted_evaluation_takes_nothing_from_a_stream(tmp_path):
    def live(folder, interrupt):
        trainer = build(LOADERS["a stream"], folder, evaluate=True)
        measured = []

        @trainer.on("eval_begin")
        def _(trainer):
            measured.append(trainer.step)
            if interrupt and trainer.step == 2:
                signal.raise_signal(signal.SIGTERM)

        trainer.fit(epochs=2, eval_every=2, resume=True)
        return trainer

    whole = live(tmp_path / "whole", interrupt=False)
    with pytest.raises(SystemExit) as ended:
        live(tmp_path / "again", interrupt=True)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not differences(live(tmp_path / "again", interrupt=False), fingerprint(whole))


# What is not read


@pytest.mark.parametrize("batch_size", [5, None])
def test_skipped_samples_are_not_loaded(batch_size, tmp_path):
    def loader():
        return DataLoader(Data() if batch_size else Batches(), batch_size, shuffle=True)

    def loaded(trainer):
        data = trainer.train_loader.dataset
        return data.loaded if batch_size else data.made

    whole = build(loader, tmp_path / "whole")
    whole.fit(epochs=2, resume=True)
    steps_in_epoch = whole.step // 2
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*"))[:-1]:
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(loader, tmp_path / "again", every=1000)
        again.fit(epochs=2, resume=True)
        done = int(checkpoint.name[-9:])
        assert done < 2 * steps_in_epoch or not loaded(again)
        assert loaded(again) == loaded(whole)[len(loaded(whole)) - len(loaded(again)) :]
        samples = 22 if batch_size else 4
        in_steps = done // steps_in_epoch * samples + done % steps_in_epoch * (batch_size or 1)
        assert len(loaded(again)) == 2 * samples - in_steps
        shutil.rmtree(tmp_path / "again")


def test_batches_by_index_are_not_made_where_they_are_passed_over():
    batches = Batches()
    list(iterate(batches, 1, 3))
    assert batches.made == [3]


def test_tensors_are_not_indexed_where_they_are_passed_over(monkeypatch):
    taken = []
    plain = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *args: taken.append(1) or plain(*args))
    from ignition.data import rekeyed

    keyed = rekeyed(TensorLoader(torch.arange(20), batch_size=2, shuffle=True), 0, "train")
    assert len(list(iterate(keyed, 1, 7))) == len(taken) == 3


# What is refused


class PlainStream(IterableDataset):
    def __iter__(self):
        yield from Data()


class ShufflingLoader:
    """Has a length and an index, and yet another order each time."""

    def __len__(self):
        return 4

    def __getitem__(self, place):
        return Batches()[place]

    def __iter__(self):
        return (self[place] for place in torch.randperm(4).tolist())


class Unsized:
    def __iter__(self):
        return iter(Batches())


REFUSED = {
    "a stream": (lambda: DataLoader(PlainStream(), 4), r"state_dict.*|two methods"),
    "a stream that keeps its place, and workers": (
        lambda: DataLoader(Stream(), 4, num_workers=1),
        "num_workers=0",
    ),
    "a loader of the user's": (Unsized, "give its class these two methods"),
    "a generator": (lambda: (batch for batch in Batches()), "put the batches into a list"),
    "an index beside an iteration of its own": (ShufflingLoader, "ShufflingLoader"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("resume", [True, False])
def test_what_cannot_be_put_back_is_refused_at_once_with_what_to_add(name, resume, tmp_path):
    loader, message = REFUSED[name]
    trainer = build(loader, tmp_path / "a")
    with pytest.raises(CheckpointError, match=message) as caught:
        trainer.fit(epochs=1, resume=resume)
    assert "state_dict" in str(caught.value)
    assert "num_workers=0" in str(caught.value) or "list" in str(caught.value)
    assert trainer.step == 0
    assert trainer.seed is None
    trainer.callbacks = []
    trainer.fit(epochs=1)  # without a Checkpoint it is read as it is


@pytest.mark.parametrize(
    "loader",
    [
        *([1, 2], (1, 2), range(3), deque([1]), torch.zeros(3, 2), np.zeros((3, 2))),
        *(Batches(), KeepingLoader(), TensorLoader(torch.zeros(3), batch_size=1)),
    ],
)
def test_what_has_its_batches_by_number_or_tells_its_place_is_taken(loader):
    check_place_kept(loader)


def test_another_kind_of_loader_is_refused(tmp_path):
    build(KeepingLoader, tmp_path / "a").fit(epochs=1, resume=True)
    with pytest.raises(CheckpointError, match="keeps its place"):
        build(Batches, tmp_path / "a").fit(epochs=2, resume=True)
    build(Batches, tmp_path / "b").fit(epochs=1, resume=True)
    with pytest.raises(CheckpointError, match="keeps its place"):
        build(KeepingLoader, tmp_path / "b").fit(epochs=2, resume=True)


@pytest.mark.fault("other data or batch size on resume", "Message 1")
@pytest.mark.parametrize(
    "other",
    [
        lambda: DataLoader(Data(samples=23), 6),
        lambda: DataLoader(Data(), 5),
        lambda: DataLoader(Data(), 6, drop_last=True),
    ],
    ids=["another length", "another batch size", "last batch dropped"],
)
def test_other_data_is_refused_with_the_difference(other, tmp_path):
    with pytest.raises(Killed):
        build(lambda: DataLoader(Data(), 6), tmp_path / "a", kill=3).fit(epochs=2, resume=True)
    now = other()
    with pytest.raises(CheckpointError) as caught:
        build(other, tmp_path / "a").fit(epochs=2, resume=True)
    message = str(caught.value)
    assert "4 batches" in message
    assert "22 samples" in message
    assert f"{len(now)} batches" in message
    assert f"{len(now.dataset)} samples" in message
    assert "fit-001-step-000000002" in message


# Another loader in the course of a training


def first_loader():
    return DataLoader(Data(("torch",)), 6, shuffle=True)


def second_loader(samples=14):
    return DataLoader(Data(("torch",), samples=samples), 6, shuffle=True)


@pytest.mark.parametrize("samples", [14, 22], ids=["of another length", "of the same length"])
@pytest.mark.parametrize(("event", "epoch"), [("epoch_begin", 2), ("epoch_end", 1), ("step_end", 2)])
def test_another_loader_inside_a_fit_with_a_checkpoint_is_refused_with_the_way_that_works(
    event, epoch, samples, tmp_path
):
    trainer = build(first_loader, tmp_path / "a")
    other = second_loader(samples)

    @trainer.on(event)
    def replace(trainer):
        if trainer.epoch == epoch:
            trainer.train_loader = other

    with pytest.raises(CheckpointError, match=f"train_loader was set inside a fit with a Checkpoint, in epoch {epoch}"):
        trainer.fit(epochs=3, resume=True)
    assert trainer.train_loader is not other
    trainer._functions.clear()
    trainer.fit(epochs=3, resume=True)  # goes on from the folder, with the loader that it had
    whole = build(first_loader, tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    assert differences(trainer, fingerprint(whole)) == []


def test_another_loader_as_a_fit_begins_is_refused_too(tmp_path):
    trainer = build(first_loader, tmp_path / "a")
    trainer.on("train_begin")(lambda trainer: setattr(trainer, "train_loader", second_loader()))
    with pytest.raises(
        CheckpointError, match=r"inside a fit with a Checkpoint, in epoch 0(?s:.)*set it between two fits"
    ):
        trainer.fit(epochs=3, resume=True)


def test_the_same_loader_once_more_is_no_other_one(tmp_path):
    trainer = build(first_loader, tmp_path / "a")

    @trainer.on("epoch_begin")
    def set_it(trainer):
        trainer.train_loader = trainer.train_loader

    trainer.fit(epochs=2, resume=True)
    assert trainer.epoch == 2


@pytest.mark.parametrize("at", [3, 6, 10])
def test_a_loader_that_is_set_between_two_fits_is_gone_on_with(at, tmp_path):
    def script(folder, kill=None):
        trainer = build(first_loader, folder, kill=kill)
        trainer.fit(epochs=1, resume=True)
        trainer.train_loader = second_loader()
        trainer.fit(epochs=2, resume=True)
        return trainer

    expected = fingerprint(script(tmp_path / "whole"))
    with pytest.raises(Killed):
        script(tmp_path / "a", kill=at)
    assert differences(script(tmp_path / "a"), expected) == []


def test_without_a_checkpoint_a_callback_may_set_another_and_a_save_goes_on_with_that_one(tmp_path):
    def replacing(folder=None):
        trainer = build(first_loader, None)
        trainer.seed = 3

        @trainer.on("epoch_begin")
        def replace(trainer):
            if trainer.epoch == 2:
                trainer.train_loader = second_loader()

        return trainer

    whole = replacing()
    whole.fit(steps=5)  # of 4 in the first epoch
    whole.save(tmp_path / "a")
    whole.fit(epochs=2)
    other = replacing()
    with pytest.raises(CheckpointError, match=r"set the loader that was read then before this fit \(or load\)"):
        other.load(tmp_path / "a")
    other.train_loader = second_loader()
    other.load(tmp_path / "a")
    other.fit(epochs=2)
    assert differences(other, fingerprint(whole)) == []


# Samplers with generators of their own


class OwnGenerator(Sampler):
    """Shuffles by a generator of its own, which goes on from epoch to epoch."""

    def __init__(self):
        self.random = np.random.default_rng(8)

    def __len__(self):
        return 22

    def __iter__(self):
        return iter(self.random.permutation(22).tolist())


class OwnNoise(Data):
    """Adds noise from a generator that the data set keeps."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(5)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * self.random.random(), y


@pytest.mark.parametrize(
    "loader",
    [lambda: DataLoader(Data(), 6, sampler=OwnGenerator()), lambda: DataLoader(OwnNoise(), 6, shuffle=True)],
    ids=["sampler", "data set"],
)
def test_a_generator_of_its_own_follows_the_seed_too(loader, tmp_path):
    whole = build(loader, tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    orders = np.reshape(whole.train_loader.dataset.loaded, (3, 22))
    assert not np.array_equal(orders[0], orders[1])
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*"))[1::2]:
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(loader, tmp_path / "again", every=1000)
        again.fit(epochs=3, resume=True)
        assert not differences(again, fingerprint(whole)), checkpoint
        shutil.rmtree(tmp_path / "again")
