"""Samplers and loaders of the user's go on from epoch to epoch after a resume as they would have without it."""

from __future__ import annotations

import enum
import os
import random
import shutil
import signal
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from marks import slow
from resuming import Data, Killed, differences, fingerprint, small_training
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ignition import Trainer, crossentropy_loss
from ignition.callbacks import Checkpoint
from ignition.errors import CheckpointError, IgnitionWarning
from ignition.sampler_memory import SamplerMemory, own_samplers


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Counting(Sampler):
    """Begins each epoch somewhere else, by a count of its own; counts on only when it was read to its end."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return 22

    def __iter__(self):
        for place in range(22):
            yield (place * 5 + 3 * self.epoch) % 22
        self.epoch += 1


class InPlace(Sampler):
    """Shuffles one list in place, again and again."""

    def __init__(self):
        self.indices = list(range(22))

    def __len__(self):
        return 22

    def __iter__(self):
        random.shuffle(self.indices)
        return iter(list(self.indices))


class InArrays(Sampler):
    """Keeps its order in an array and a tensor, which it turns a little further in each epoch."""

    def __init__(self):
        self.array, self.tensor = np.arange(11), torch.arange(11, 22)

    def __len__(self):
        return 22

    def __iter__(self):
        self.array[:] = np.roll(self.array, 1)
        self.tensor.copy_(self.tensor.roll(3))
        return iter([*self.array.tolist(), *self.tensor.tolist()])


class LeftOver(Sampler):
    """Batches of six; what is left over of an epoch comes first in the next one."""

    def __init__(self, sampler):
        self.sampler, self.left = sampler, deque()

    def __len__(self):
        return (22 + len(self.left)) // 6

    def __iter__(self):
        for index in self.sampler:
            self.left.append(index)
            if len(self.left) == 6:
                batch = [*self.left]
                self.left.clear()
                yield batch


class Stateful(Sampler):
    """Tells its memory by state_dict; an attribute of its own cannot be kept."""

    def __init__(self):
        self.turns, self.source = [], object()

    def __len__(self):
        return 22

    def __iter__(self):
        self.turns.append(len(self.turns))
        return iter([(place * 3 + sum(self.turns)) % 22 for place in range(22)])

    def state_dict(self):
        return {"turns": self.turns}

    def load_state_dict(self, state):
        self.turns = state["turns"]


class Growing(Sampler):
    """Has more samples in each epoch, as in a curriculum; counts the epochs as it is read."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return 5 * max(self.epoch, 1)

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(5 * self.epoch).tolist())


class GrowingAsTold(Growing):
    """The same, and is told the epoch."""

    def __len__(self):
        return 5 * (self.epoch + 1)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(5 * (self.epoch + 1)).tolist())


class Mixing(DataLoader):
    """Adds noise of each generator to a batch, and gives it some batches later, at random."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.own = np.random.default_rng(1)

    def __iter__(self):
        waiting = []
        for x, y in super().__iter__():
            waiting.append((x + torch.rand(()) + np.random.rand() + random.random() + self.own.random(), y))
            if len(waiting) > 2:
                yield waiting.pop(random.randrange(3))
        yield from waiting


class Keeping(DataLoader):
    """Keeps the last batch of an epoch for the next one, and counts all that it has given."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.given, self.kept = 0, []

    def __len__(self):
        return super().__len__() - 1 + len(self.kept)

    def __iter__(self):
        for x, y in super().__iter__():
            self.kept.append((x * (1 + self.given / 100), y))
            if len(self.kept) > 1:
                self.given += 1
                yield self.kept.pop(0)


LOADERS = {
    "growing": lambda **more: DataLoader(Data(), 3, sampler=Growing(), **more),
    "growing as told": lambda **more: DataLoader(Data(), 3, sampler=GrowingAsTold(), **more),
    "own noise and order": lambda **more: Mixing(Data(), 6, shuffle=True, **more),
    "own batches left over": lambda **more: Keeping(Data(), 6, shuffle=True, **more),
    "own count and a sampler's": lambda **more: Keeping(Data(), 6, sampler=Counting(), **more),
    "a count": lambda **more: DataLoader(Data(), 6, sampler=Counting(), **more),
    "a list in place": lambda **more: DataLoader(Data(), 6, sampler=InPlace(), **more),
    "arrays": lambda **more: DataLoader(Data(), 6, sampler=InArrays(), **more),
    "left over": lambda **more: DataLoader(Data(), batch_sampler=LeftOver(RandomSampler(range(22))), **more),
    "left over of a count": lambda **more: DataLoader(Data(), batch_sampler=LeftOver(Counting()), **more),
    "in batches": lambda **more: DataLoader(Data(), batch_sampler=BatchSampler(Counting(), 6, True), **more),
    "state_dict": lambda **more: DataLoader(Data(), 6, sampler=Stateful(), **more),
}


def build(loader, folder=None, *, every=1, kill=None, seed=None, eval_loader=None, more=None):
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    loader = loader(**(more or {}))
    model, optimizer, train_fn = small_training(kill)

    def eval_fn(model, x, y):
        return {"loss": crossentropy_loss(model(x), y)}

    test = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))]
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, test, device="cpu", progress=False, seed=seed)
    if folder is not None:
        trainer.callbacks = [Checkpoint(folder, every=every, keep=1000)]
    return trainer


def let_go(trainer):
    """Ends the workers of a Trainer; as a part of a cycle that Python frees, each would take 5 s."""
    trainer.training.drop_pass()
    trainer.training._keyed.clear()
    trainer.exception = None


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_a_sampler_goes_on_from_every_step_as_it_would_have(name, tmp_path):
    whole = build(LOADERS[name], tmp_path / "whole")
    whole.fit(epochs=4, eval_every=2, resume=True)
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*")):
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(LOADERS[name], tmp_path / "again", every=1000)
        again.fit(epochs=4, eval_every=2, resume=True)
        assert not differences(again, fingerprint(whole)), checkpoint
        shutil.rmtree(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_how_often_it_is_saved_changes_no_order(name, tmp_path):
    ends = []
    for every in (1, 1000):
        trainer = build(LOADERS[name], tmp_path / str(every), every=every)
        trainer.fit(epochs=3, resume=True)
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["a count", "left over", "growing", "own noise and order", "own batches left over"])
def test_workers_that_read_ahead_change_nothing(name, workers, tmp_path):
    whole = build(LOADERS[name], tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    more = {"num_workers": workers, "persistent_workers": workers == 2}
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*"))[1:9:3]:
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(LOADERS[name], tmp_path / "again", every=2, more=more)
        again.fit(epochs=3, resume=True)
        assert not differences(again, fingerprint(whole)), checkpoint
        shutil.rmtree(tmp_path / "again")
        let_go(again)


@pytest.mark.parametrize("name", LOADERS)
def test_an_epoch_that_is_begun_anew_after_an_error_has_its_order_again(name):
    orders = []
    for kill in (None, 6):
        trainer = build(LOADERS[name], seed=5, kill=kill)
        try:
            trainer.fit(epochs=2)
        except Killed:
            trainer.train_loader.dataset.loaded.clear()
            trainer.fit(epochs=1)
        orders.append(trainer.train_loader.dataset.loaded)
    assert orders[1] == orders[0][-len(orders[1]) :]


@pytest.mark.parametrize("name", LOADERS)
def test_a_training_goes_back_in_the_same_process(name, tmp_path):
    trainer = build(LOADERS[name], seed=5)
    trainer.fit(steps=2)
    trainer.save(tmp_path / "start")
    trainer.fit(epochs=2)
    expected = fingerprint(trainer)
    trainer.load(tmp_path / "start")
    trainer.fit(epochs=2)
    assert not differences(trainer, expected)


Bounds = namedtuple("Bounds", "low high")


class Order(enum.IntEnum):
    MIXED = 1


class OfItsOwnClasses(Sampler):
    """Keeps values that are what they are by their class, which do not change, beside a count that does."""

    def __init__(self, weights):
        self.order, self.bounds, self.recent, self.epoch = Order.MIXED, Bounds(0, 22), OrderedDict(a=1), 0
        self.weights = weights

    def __len__(self):
        return 22

    def __iter__(self):
        self.epoch += 1
        self.recent.move_to_end("a")
        low, high = self.bounds.low, self.bounds.high
        return iter((torch.randperm(high) + low).tolist() if self.order is Order.MIXED else range(low, high))


def test_what_a_sampler_has_not_changed_stays_what_it_was(tmp_path):
    weights, ends = torch.ones(3), []
    for kill in (None, 6, None):
        trainer = build(lambda: DataLoader(Data(), 6, sampler=OfItsOwnClasses(weights)), tmp_path / "a", kill=kill)
        if kill is None and not ends:
            trainer.callbacks = [Checkpoint(tmp_path / "whole", every=1)]
        try:
            trainer.fit(epochs=3, resume=True)
        except Killed:
            continue
        sampler = trainer.train_loader.sampler
        assert sampler.weights is weights
        assert sampler.order is Order.MIXED
        assert (type(sampler.bounds), sampler.epoch) == (Bounds, 3)
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kill", [7, slow(3), slow(11)])
@pytest.mark.parametrize("in_evaluation", [False, True])
def test_a_test_loaders_sampler_goes_on_from_evaluation_to_evaluation(kill, in_evaluation, tmp_path):
    def made(folder, kill):
        trainer = build(LOADERS["a list in place"], folder, every=2, kill=kill)
        trainer.test_loader = DataLoader(Data(), 5, sampler=InPlace(), drop_last=True)  # leaves out others each time
        return trainer

    whole = made(tmp_path / "whole", None)
    whole.fit(epochs=3, eval_every=2, resume=True)
    assert len(set(whole.history["val_loss"])) == len(whole.history)
    first = made(tmp_path / "a", None if in_evaluation else kill)
    if in_evaluation:  # by a signal: the evaluation begins anew
        first.on("eval_begin")(lambda trainer: trainer.step == kill + 1 and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt if in_evaluation else Killed):
        first.fit(epochs=3, eval_every=2, resume=True)
    again = made(tmp_path / "a", None)
    again.fit(epochs=3, eval_every=2, resume=True)
    assert not differences(again, fingerprint(whole))


def test_another_test_loader_begins_with_what_the_script_gave_it(tmp_path):
    first = build(LOADERS["a count"], tmp_path / "a", kill=6)
    first.test_loader = DataLoader(Data(), 6, sampler=Counting())
    with pytest.raises(Killed):
        first.fit(epochs=3, resume=True)
    again = build(LOADERS["a count"], tmp_path / "a")
    again.test_loader = DataLoader(Data(), 6, sampler=InPlace())
    again.fit(epochs=3, resume=True)
    assert again.epoch == 3


class AtOnce(Sampler):
    """Draws an epoch as it begins, by weights that the training sets."""

    def __init__(self):
        self.weights, self.level = torch.ones(22), 0

    def __len__(self):
        return 22

    def __iter__(self):
        return iter(torch.multinomial(self.weights, 22, replacement=True).tolist())


class Stepwise(AtOnce):
    """Begins further on in the data for each level, and counts what it has given."""

    def __init__(self):
        super().__init__()
        self.given = 0

    def __iter__(self):
        for place in range(22):
            self.given += 1
            yield (place + self.given) % 22
        self.given += self.level


class Together(Sampler):
    """Two samplers in a list, one after the other; and batches that are shuffled in place."""

    def __init__(self):
        self.parts = [Counting(), Counting()]
        self.batches = [[place, place + 1] for place in range(0, 2400, 2)]

    def __len__(self):
        return 22

    def __iter__(self):
        random.shuffle(self.batches)
        first, second = (list(part) for part in self.parts)
        return iter([*first[:11], *second[:5], *(batch[0] % 22 for batch in self.batches[:6])])


def change(sampler, step):
    """What a training does with a sampler, in the middle of an epoch."""
    if isinstance(sampler, SubsetRandomSampler):
        sampler.indices = list(range(step % 7, 22))  # fewer than the script has made it with
    elif isinstance(sampler, Stepwise):
        sampler.level += step
    elif hasattr(sampler, "weights"):
        sampler.weights[step % 22] += step


CHANGED = {
    "weights of torch's": lambda: WeightedRandomSampler(torch.ones(22), 22),
    "indices of torch's": lambda: SubsetRandomSampler(list(range(22))),
    "weights of its own": AtOnce,
    "a level": Stepwise,
    "samplers in a list": Together,
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", CHANGED)
def test_a_sampler_that_the_training_changes_inside_an_epoch_goes_on_from_every_step(name, workers, tmp_path):
    def made(folder, every):
        more = {"num_workers": workers}
        trainer = build(lambda **more: DataLoader(Data(), 3, sampler=CHANGED[name](), **more), folder, more=more)
        trainer.callbacks[0].every = every
        sampler = trainer.train_loader.sampler
        trainer.on("step_end")(lambda trainer: trainer.step % 3 == 1 and change(sampler, trainer.step))
        return trainer

    whole = made(tmp_path / "whole", 1)
    whole.fit(epochs=3, resume=True)
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*"))[:: 5 if workers else 1]:
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = made(tmp_path / "again", 1000)
        again.fit(epochs=3, resume=True)
        assert not differences(again, fingerprint(whole)), checkpoint
        shutil.rmtree(tmp_path / "again")


GIVEN = {
    "a list": lambda: {"batch_size": 3, "sampler": list(range(22))},
    "an array": lambda: {"batch_size": 3, "sampler": np.arange(22)},
    "a tensor": lambda: {"batch_size": 3, "sampler": torch.arange(22)},
    "batches in a list": lambda: {"batch_sampler": [[place, place + 1] for place in range(0, 22, 2)]},
    "a batch sampler around a list": lambda: {"batch_sampler": BatchSampler(list(range(22)), 3, False)},
}


def indices_of(loader, name):
    return loader.batch_sampler if name.startswith("batches") else loader.batch_sampler.sampler


@pytest.mark.parametrize(
    "name",
    ["a list", "batches in a list", slow("an array"), slow("a tensor"), slow("a batch sampler around a list")],
)
def test_indices_in_the_place_of_a_sampler_go_on_as_the_training_has_shuffled_them(name, tmp_path):
    def made(folder, kill=None):
        trainer = build(lambda: DataLoader(Data(), **GIVEN[name]()), folder, every=2, kill=kill)
        indices = indices_of(trainer.train_loader, name)

        def shuffle(trainer):
            order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(trainer.epoch)).tolist()
            indices[:] = [indices[place] for place in order] if isinstance(indices, list) else indices[order]

        trainer.on("epoch_end")(shuffle)
        return trainer

    whole = made(tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    for kill in (10, 6):
        with pytest.raises(Killed):
            made(tmp_path / "a", kill).fit(epochs=3, resume=True)
    again = made(tmp_path / "a")
    again.fit(epochs=3, resume=True)
    assert not differences(again, fingerprint(whole))


def test_indices_that_are_shuffled_inside_an_epoch_are_named(tmp_path):
    for kill in (4, None):
        trainer = build(lambda: DataLoader(Data(), 3, sampler=list(range(22))), tmp_path / "a", kill=kill)
        indices = indices_of(trainer.train_loader, "a list")
        trainer.on("step_end")(lambda trainer, indices=indices: indices.reverse())
        fit_until(trainer, kill)


def test_indices_alone_do_not_ask_for_a_seed(tmp_path, recwarn):
    trainer = build(lambda: DataLoader(Data(), 3, sampler=list(range(22))))
    trainer.fit(steps=2)
    trainer.save(tmp_path / "a")
    again = build(lambda: DataLoader(Data(), 3, sampler=list(range(22))))
    again.load(tmp_path / "a")
    again.fit(epochs=1)
    trainer.fit(epochs=1)
    assert again.train_loader.dataset.loaded[-16:] == trainer.train_loader.dataset.loaded[6:]
    assert not recwarn.list


def fit_until(trainer, kill):
    """Fits until it is killed; else the run goes on from there, and says that the order is another."""
    if kill:
        with pytest.raises(Killed):
            trainer.fit(epochs=2, resume=True)
    else:
        with pytest.warns(IgnitionWarning, match="gave other samples before the checkpoint"):
            trainer.fit(epochs=2, resume=True)


def test_a_sampler_that_draws_as_it_goes_from_what_the_training_changes_is_named(tmp_path):
    class AsItGoes(AtOnce):
        def __iter__(self):
            for _ in range(22):
                yield int(torch.multinomial(self.weights, 1))

    for kill in (4, None):
        trainer = build(lambda: DataLoader(Data(), 3, sampler=AsItGoes()), tmp_path / "a", kill=kill)
        sampler = trainer.train_loader.sampler

        def forget(trainer, sampler=sampler):
            sampler.weights[: trainer.step] = 0

        trainer.on("step_end")(forget)
        fit_until(trainer, kill)


def test_a_tensor_that_a_sampler_shares_with_the_training_stays_shared(tmp_path):
    weights = torch.ones(22)

    class Shared(AtOnce):
        def __init__(self):
            super().__init__()
            self.weights = weights

    for kill in (6, None):
        weights.fill_(1)
        trainer = build(lambda: DataLoader(Data(), 6, sampler=Shared()), tmp_path / "a", kill=kill)
        trainer.on("step_end")(lambda trainer: weights.mul_(2))
        if kill:
            with pytest.raises(Killed):
                trainer.fit(epochs=3, resume=True)
    trainer.fit(epochs=3, resume=True)
    assert trainer.train_loader.sampler.weights is weights
    assert weights.tolist() == [2.0**12] * 22


@dataclass
class Curriculum:
    level: int = 0


UNKEPT = {
    "an enum": lambda sampler: setattr(sampler, "kept", Order.MIXED),
    "a named tuple": lambda sampler: setattr(sampler, "kept", Bounds(1, 2)),
    "a data class": lambda sampler: setattr(sampler.course, "level", 2),
    "very many lists": lambda sampler: sampler.many.reverse(),
}


@pytest.mark.parametrize("name", UNKEPT)
def test_what_a_sampler_has_changed_and_no_checkpoint_can_hold_is_named(name, tmp_path):
    class Holding(Counting):
        def __init__(self):
            super().__init__()
            self.kept, self.course, self.many = None, Curriculum(), [[place] for place in range(20_000)]

    for changed in (False, True):
        trainer = build(lambda: DataLoader(Data(), 6, sampler=Holding()), tmp_path / str(changed))
        if not changed:
            trainer.fit(epochs=1, resume=True)
            continue
        trainer.on("epoch_end")(lambda trainer: UNKEPT[name](trainer.train_loader.sampler))
        with pytest.warns(IgnitionWarning, match="Holding has changed '(kept|course|many)', which a checkpoint cannot"):
            trainer.fit(epochs=1, resume=True)


class Twice(DataLoader):
    """Passes over its data twice in an epoch."""

    def __iter__(self):
        yield from super().__iter__()
        yield from super().__iter__()

    def __len__(self):
        return 2 * super().__len__()


def test_a_loader_that_passes_over_its_data_twice_has_two_orders(tmp_path):
    ends = []
    for kill in (None, 6, None):
        folder = tmp_path / ("whole" if not ends else "killed")
        trainer = build(lambda: Twice(Data(), 6, shuffle=True), folder, kill=kill)
        try:
            trainer.fit(epochs=2, resume=True)
        except Killed:
            continue
        ends.append(fingerprint(trainer))
        loaded = trainer.train_loader.dataset.loaded
        assert sorted(loaded[-22:]) == sorted(loaded[-44:-22]) == sorted(loaded[-22:])
        assert loaded[-22:] != loaded[-44:-22]
    assert ends[0] == ends[1]


class Skipping(Sampler):
    """Tells by state_dict how much it has given of an epoch, and begins after that once: as torchdata's samplers do."""

    def __init__(self):
        self.given = self.next = 0

    def __len__(self):
        return 22

    def __iter__(self):
        order = torch.randperm(22).tolist()
        self.given, self.next = self.next, 0
        for index in order[self.given :]:
            self.given += 1
            yield index
        self.given = 0

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.next = state["given"]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [2, 9, 14])
def test_a_sampler_that_begins_in_its_middle_by_its_state_dict_is_not_asked_to(kill, tmp_path):
    ends = []
    for stop in (None, kill, None):
        folder = tmp_path / ("killed" if ends else "whole")
        trainer = build(lambda: DataLoader(Data(), 3, sampler=Skipping()), folder, kill=stop)
        try:
            trainer.fit(epochs=3, resume=True)
        except Killed:
            continue
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


@pytest.mark.slow
@pytest.mark.parametrize("event", ["train_begin", "epoch_begin"])
@pytest.mark.parametrize("name", ["weights of torch's", "a level"])
def test_what_changes_a_sampler_before_the_first_batch_counts(name, event, tmp_path):
    ends = []
    for stop in (None, 5, None):
        folder = tmp_path / ("killed" if ends else "whole")
        trainer = build(lambda: DataLoader(Data(), 6, sampler=CHANGED[name]()), folder, kill=stop)
        trainer.on(event)(lambda trainer: trainer.epoch + trainer.step < 2 and change(trainer.train_loader.sampler, 7))
        try:
            trainer.fit(epochs=3, resume=True)
        except Killed:
            continue
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["weights of torch's", "indices of torch's", "a level"])
def test_a_sampler_is_where_it_was_before_the_next_batch_is_asked_for(name, workers, tmp_path):
    def loader():
        return DataLoader(Data(), 3, sampler=CHANGED[name](), num_workers=workers)

    ends = []
    for goes_back in (False, True):
        trainer = build(loader, seed=5)
        trainer.fit(steps=4)
        change(trainer.train_loader.sampler, 3)
        if goes_back:
            trainer.save(tmp_path / "a")
            change(trainer.train_loader.sampler, 5)  # is forgotten
            trainer.fit(steps=2)
            let_go(trainer)
            trainer = build(loader, seed=5)
            trainer.load(tmp_path / "a")
        change(trainer.train_loader.sampler, 4)
        trainer.fit(epochs=2)
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("name", ["a list in place", "a count", "state_dict", "shuffled"])
@pytest.mark.filterwarnings("ignore:the checkpoint is from the middle of an epoch, and without seed=")
def test_a_save_by_hand_as_an_epoch_begins_holds_what_it_begins_with(name, epoch, seed, tmp_path):
    loaders = LOADERS | {"shuffled": lambda: DataLoader(Data(), 6, shuffle=True)}
    whole = build(loaders[name], seed=seed)
    whole.on("epoch_begin")(lambda trainer: trainer.epoch == epoch and trainer.save(tmp_path / "a"))
    whole.fit(epochs=3)
    again = build(loaders[name], seed=seed)
    again.load(tmp_path / "a")
    again.fit(epochs=4 - epoch)
    assert not differences(again, fingerprint(whole))


@pytest.mark.slow
def test_a_fit_that_went_on_in_the_same_process_saves_as_before(tmp_path):
    def made(folder, kill=None, at=None):
        more = {"num_workers": 2}
        trainer = build(lambda **more: DataLoader(Data(), 3, sampler=Stepwise(), **more), folder, kill=kill, more=more)

        def step(trainer):
            trainer.train_loader.sampler.level += trainer.step
            if trainer.step == at and trainer.epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)

        trainer.on("step_end")(step)
        return trainer

    whole = made(tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    first = made(tmp_path / "a", kill=7, at=4)
    with pytest.raises(KeyboardInterrupt):
        first.fit(epochs=3, resume=True)
    with pytest.raises(Killed):
        first.fit(epochs=3, resume=True)
    again = made(tmp_path / "a")
    again.fit(epochs=3, resume=True)
    assert not differences(again, fingerprint(whole))
    let_go(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights of torch's", "a list in place"])
def test_one_loader_may_serve_training_and_evaluation(name, tmp_path):
    ends = []
    for stop in (None, 5, 11, None):
        folder = tmp_path / ("killed" if ends else "whole")
        trainer = build((CHANGED_LOADERS | LOADERS)[name], folder, kill=stop)
        trainer.test_loader = trainer.train_loader
        sampler = trainer.train_loader.sampler
        trainer.on("step_end")(lambda trainer, sampler=sampler: change(sampler, trainer.step))
        try:
            trainer.fit(epochs=4, eval_every=3, resume=True)
        except Killed:
            continue
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1]


CHANGED_LOADERS = {"weights of torch's": lambda: DataLoader(Data(), 6, sampler=CHANGED["weights of torch's"]())}


def test_what_the_sampler_of_a_test_loader_keeps_is_named_too(tmp_path):
    trainer = build(LOADERS["a count"], tmp_path)
    trainer.test_loader = DataLoader(Data(), 5, sampler=Iterating())
    with pytest.warns(IgnitionWarning, match="the test loader's Iterating keeps an iterator"):
        trainer.fit(epochs=2, resume=True)


def test_indices_of_torchs_sampler_that_no_checkpoint_can_hold_are_named(tmp_path):
    indices = list(np.arange(1200) % 22)
    trainer = build(lambda: DataLoader(Data(), 600, sampler=SubsetRandomSampler(indices)), tmp_path)
    trainer.on("epoch_end")(lambda trainer: indices.reverse())
    with pytest.warns(IgnitionWarning, match="SubsetRandomSampler has changed 'indices', which a checkpoint cannot"):
        trainer.fit(epochs=2, resume=True)


def test_what_changes_between_two_passes_of_one_epoch_is_named(tmp_path):
    for kill in (6, None):
        trainer = build(lambda: Twice(Data(), 6, sampler=CHANGED["weights of torch's"]()), tmp_path, kill=kill)
        trainer.on("step_end")(lambda trainer: trainer.step == 3 and change(trainer.train_loader.sampler, 500))
        fit_until(trainer, kill)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("kind", [Growing, GrowingAsTold])
def test_an_epoch_has_as_many_batches_as_its_sampler_gives(kind, seed):
    trainer = build(lambda: DataLoader(Data(), 3, sampler=kind()), seed=seed)
    if seed is None:  # with a seed the library tells it
        set_epoch = getattr(trainer.train_loader.sampler, "set_epoch", None)
        trainer.on("epoch_begin")(lambda trainer: set_epoch and set_epoch(trainer.epoch - 1))
    trainer.fit(epochs=4)
    assert trainer.history["step"] == [2, 6, 11, 18]  # 5, 10, 15, 20 samples in batches of 3


class Iterating(Sampler):
    """Goes through the samples by one iterator for all epochs."""

    def __init__(self):
        self.iterator = cycle(range(22))

    def __len__(self):
        return 20

    def __iter__(self):
        self.iterator = iter(self.iterator)
        return islice(self.iterator, 20)


class FromIterator(Iterating):
    """Makes that iterator as it is read for the first time."""

    def __init__(self):
        self.iterator = None

    def __iter__(self):
        self.iterator = self.iterator or cycle(range(22))
        return islice(self.iterator, 20)


@pytest.mark.parametrize("kind", [Iterating, FromIterator])
def test_an_iterator_that_no_checkpoint_can_hold_is_named(kind, tmp_path):
    trainer = build(lambda: DataLoader(Data(), 5, sampler=kind()), tmp_path / "a")
    with pytest.warns(IgnitionWarning, match=rf"{kind.__name__} keeps an iterator, 'iterator'.*state_dict"):
        trainer.fit(epochs=2, resume=True)


def test_other_samplers_are_refused_before_anything_is_changed(tmp_path):
    with pytest.raises(Killed):
        build(LOADERS["a count"], tmp_path / "a", kill=6).fit(epochs=3, resume=True)
    other = build(lambda: DataLoader(Data(), 6, shuffle=True), tmp_path / "a")
    before = fingerprint(other)
    with pytest.raises(CheckpointError, match="memory of samplers"):
        other.fit(epochs=3, resume=True)
    assert not differences(other, before)


@pytest.mark.parametrize(
    ("loader", "paths"),
    [
        ([], []),
        (DataLoader(Data(), 6, shuffle=True), []),
        (DataLoader(Data(), 6, sampler=[3, 1]), []),
        (DataLoader(Data(), 6, sampler=Counting()), ["sampler.sampler"]),
        (DataLoader(Data(), batch_sampler=LeftOver(Counting())), ["sampler", "sampler.sampler"]),
        (DataLoader(Data(), batch_sampler=LeftOver(SequentialSampler(range(22)))), ["sampler"]),
        (DataLoader(Data(), batch_size=None, sampler=Stateful()), ["sampler"]),
    ],
)
def test_torchs_own_samplers_remember_nothing(loader, paths):
    assert list(own_samplers(loader)) == paths
    assert bool(SamplerMemory(loader)) is bool(paths)


def test_data_that_a_sampler_holds_is_not_copied():
    class Holding(Counting):
        def __init__(self):
            super().__init__()
            self.images = [torch.zeros(1)] * 2000
            self.large = np.zeros(2**27, dtype=np.uint8)

    memory = SamplerMemory(DataLoader(Data(), 6, sampler=Holding()))
    assert set(memory.now()["sampler.sampler"]) == {"epoch"}
