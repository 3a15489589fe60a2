"""The random generators that objects and functions keep for themselves: found, put back, and part of a checkpoint."""

from __future__ import annotations

import copy
import json
import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from resuming import Data, Killed, Ticker, differences, fingerprint
from torch import nn
from torch.utils.data import DataLoader

from ignition import Trainer, crossentropy_loss, optimize
from ignition.callbacks import Callback, Checkpoint
from ignition.codec import decode, encode
from ignition.errors import IgnitionWarning
from ignition.generators import by_place, generators_of, put_back, put_back_by_place, reseed, state_of
from ignition.rng import keyed

KINDS = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "PCG64": lambda: np.random.default_rng(1),
    "Philox": lambda: np.random.Generator(np.random.Philox(1)),
    "SFC64": lambda: np.random.Generator(np.random.SFC64(1)),
    "MT19937": lambda: np.random.Generator(np.random.MT19937(1)),
    "RandomState": lambda: np.random.RandomState(1),
    "Random": lambda: random.Random(1),
}
of_this_module = np.random.default_rng(3)


def drawn(generator):
    """Numbers of kinds that leave a second half of a pair behind."""
    if isinstance(generator, torch.Generator):
        return [*torch.randn(3, generator=generator).tolist(), *torch.randperm(4, generator=generator).tolist()]
    if isinstance(generator, random.Random):
        return [generator.gauss(0, 1), generator.random()]
    integers = generator.integers if isinstance(generator, np.random.Generator) else generator.randint
    return [generator.standard_normal(), int(integers(100)), *generator.permutation(4).tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_put_back_after_a_way_through_json(kind):
    generator, tensors = KINDS[kind](), {}
    drawn(generator)
    written = json.dumps(encode(state_of(generator), tensors, "g"))
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = [drawn(generator) for _ in range(3)]
    put_back(generator, decode(json.loads(written), kept))
    assert [drawn(generator) for _ in range(3)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_keyed_leads_it_and_puts_it_back(kind):
    generator = KINDS[kind]()
    drawn(generator)
    before = drawn(copy.deepcopy(generator)) if kind != "torch" else drawn(generator.clone_state())
    with keyed(7, [generator]):
        first = drawn(generator)
    with keyed(7, [generator]):
        assert drawn(generator) == first
    with keyed(8, [generator]):
        assert drawn(generator) != first
    assert drawn(generator) == before


def test_two_of_a_kind_draw_different_numbers_under_one_key():
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    with keyed(7, [one, other]):
        assert drawn(one) != drawn(other)


class Holder:
    def __init__(self, **held):
        vars(self).update(held)


class Calling:
    def __call__(self, x):
        return x + of_this_module.normal()


def with_default(x, rng=np.random.RandomState(4)):  # noqa: B008
    return rng


def naming(x):
    return [of_this_module.normal() for _ in x]


def places():
    generator = np.random.default_rng(2)
    closed = lambda x: x + generator.normal()  # noqa: E731
    return {
        "itself": (generator, generator),
        "an attribute": (Holder(rng=generator), generator),
        "a dict": (Holder(rngs={"noise": generator}), generator),
        "a list in an object in an object": (Holder(transform=Holder(steps=[Holder(rng=generator)])), generator),
        "a closure": (Holder(transform=closed), generator),
        "a partial": (partial(drawn, generator=generator), generator),
        "a default": (with_default, with_default.__defaults__[0]),
        "a global that an inner function names": (naming, of_this_module),
        "a global that a class's call names": (Holder(transform=Calling()), of_this_module),
    }


@pytest.mark.parametrize("name", places())
def test_it_is_found_in(name):
    value, generator = places()[name]
    assert [one is generator for one in generators_of(value)] == [True]


def test_it_is_found_once_and_named_by_the_shortest_way():
    generator = KINDS["PCG64"]()
    holder = Holder(inner=Holder(rng=generator), rng=generator)
    holder.inner.back = holder
    assert by_place({"train_fn": holder}) == {"train_fn.rng": generator}
    assert generators_of(holder.inner, holder) == [generator]


class NotThereYet:
    @property
    def __dict__(self):
        raise RuntimeError("outside of its context")


@pytest.mark.parametrize(
    "value",
    [
        None,
        torch.zeros(3),
        [KINDS["PCG64"]() for _ in range(1000)],  # data
        random.SystemRandom(),  # has no state
        np.random,
        np.random.Generator,
        torch.nn.functional.dropout,
        NotThereYet(),
    ],
)
def test_none_is_found_in(value):
    assert generators_of(Holder(value=value)) == []


def test_one_that_is_there_no_more_is_named_in_a_warning():
    generators = {"train_fn.a": random.Random(1)}
    states = {name: ("Random", state_of(generators["train_fn.a"])) for name in ("train_fn.a", "train_fn.b")}
    expected = drawn(random.Random(1))
    reseed(generators["train_fn.a"], 5)
    with pytest.warns(IgnitionWarning, match=r"train_fn\.b"):
        put_back_by_place(generators, states)
    assert drawn(generators["train_fn.a"]) == expected


# In a training


class Noisy(Data):
    """Noise from generators that the data set keeps, in an attribute, a dict and a closure."""

    def __init__(self):
        super().__init__()
        self.own, self.more = np.random.default_rng(1), {"python": random.Random(2)}
        generator = torch.Generator().manual_seed(3)
        self.transform = lambda x: x + 0.1 * torch.randn(4, generator=generator)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return self.transform(x) + 0.1 * self.own.normal() + 0.1 * self.more["python"].random(), y


class Shaking(Callback):
    """Changes the weights a little after each step, from a generator of its own."""

    def __init__(self):
        self.random = np.random.default_rng(7)

    def on_step_end(self, trainer):
        with torch.no_grad():
            trainer.model[0].bias += 0.01 * self.random.normal()


class Dropping(nn.Module):
    """Dropout from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(4)

    def forward(self, x):
        return x * (torch.rand(x.shape, generator=self.generator) > 0.2)


def run(folder, ticker=None, workers=0):
    tick = (ticker or Ticker()).tick
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Dropping(), nn.Linear(6, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    noise = np.random.default_rng(5)

    def train_fn(model, x, y):
        tick()
        loss = crossentropy_loss(model(x + 0.1 * noise.normal()), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        tick()
        return {"loss": crossentropy_loss(model(x), y), "noise": noise.random()}

    # A worker gets the data set as it is when it is forked, and a closure cannot be pickled.
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(Noisy(), 6, shuffle=True, **options)
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, DataLoader(Noisy(), 8), device="cpu", progress=False)
    trainer.callbacks = [Shaking(), Checkpoint(folder, every=1)]
    wobbling = random.Random(3)

    @trainer.on("step_end")
    def _(trainer):
        with torch.no_grad():
            trainer.model[2].bias += 0.01 * wobbling.random()

    trainer.fit(epochs=2, eval_every=3, resume=True)
    assert len(trainer.training.generators.capture()["kept"]) == 4
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, 15], ids=["killed", "SIGTERM"])
def test_a_run_with_generators_of_its_own_goes_on_to_the_same_bits(by, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    whole = Ticker()
    expected = fingerprint(run(tmp_path / "whole", whole))
    for at in range(1, whole.count, 3):
        with pytest.raises((Killed, SystemExit)):
            run(tmp_path / str(at), Ticker(at, by))
        assert not differences(run(tmp_path / str(at)), expected), at


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing_of_generators_in_the_data_set(tmp_path):
    expected = fingerprint(run(tmp_path / "alone"))
    assert not differences(run(tmp_path / "two", workers=2), expected)


def altered(state, way, value):
    """A copy of a state in which one value is another."""
    changed = copy.deepcopy(state)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return changed


@pytest.mark.parametrize("value", [-1, -100_000, 625, 10**9, 2.0, None, "1"])
@pytest.mark.parametrize(
    ("kind", "way"), [("MT19937", ("state", "pos")), ("RandomState", ("state", "pos")), ("Philox", ("buffer_pos",))]
)
def test_a_place_outside_of_its_words_is_refused_as_numpy_would_read_there(kind, way, value):
    generator = KINDS[kind]()
    expected = state_of(generator)
    with pytest.raises(ValueError, match="is no place among the"):
        put_back(generator, altered(expected, way, value))
    assert repr(state_of(generator)) == repr(expected)


def test_a_second_normal_number_that_is_none_is_refused():
    generator = random.Random(1)
    generator.gauss(0, 1)
    version, words, second = generator.getstate()
    put_back(generator, (version, words, None))
    put_back(generator, (version, words, second))
    assert generator.gauss(0, 1) == second
    with pytest.raises(ValueError, match="'x' is no second one of two normal numbers"):
        put_back(generator, (version, words, "x"))
