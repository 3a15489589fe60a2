"""What a training keeps from fit to fit: its place, what ends it, and its seed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from quiet import first_value, nothing, numbered, quiet, with_or_without_length
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ignition import seed_everything
from ignition.training import Goal

# Goals


@pytest.mark.parametrize(
    ("last_step", "eval_every", "step", "expected"),
    [
        (None, None, 5, None),
        (8, None, 5, 3),
        (None, 4, 5, 3),
        (None, 4, 8, 4),
        (7, 4, 5, 2),
        (30, 4, 5, 3),
    ],
)
def test_what_is_due_first_counts(last_step, eval_every, step, expected):
    assert Goal(None, last_step, eval_every, None).steps_until_due(step) == expected


# Going on


def test_a_second_fit_trains_on_and_counts_on():
    trainer = quiet(first_value, numbered(1, 1))
    trainer.fit(epochs=2)
    trainer.fit(epochs=1)
    assert trainer.history["epoch"] == [1, 2, 3]
    assert trainer.history["step"] == [2, 4, 6]
    assert (trainer.epoch, trainer.step) == (3, 6)


@with_or_without_length
@pytest.mark.parametrize("fits", [[7], [1] * 7, [3, 4], [4, 3], [2, 5], [6, 1]])
def test_fits_by_steps_read_the_batches_in_the_order_of_one_pass(fits, kind):
    seen = []
    trainer = quiet(lambda model, x: seen.append(x[0].item()), kind(numbered(1, 1, 1)))
    for steps in fits:
        trainer.fit(steps=steps)
    assert seen == [1, 2, 3, 1, 2, 3, 1]
    assert trainer.step == 7


def test_a_shuffled_epoch_goes_on_in_its_order():
    def read(*fits):
        torch.manual_seed(0)
        seen = []
        loader = DataLoader(torch.arange(10), batch_size=3, shuffle=True)
        trainer = quiet(lambda model, x: seen.append(x.tolist()), loader)
        for goal in fits:
            trainer.fit(**goal)
        return seen

    torch.manual_seed(0)
    loader = DataLoader(torch.arange(10), batch_size=3, shuffle=True)
    by_hand = [x.tolist() for _ in range(2) for x in loader]
    assert read({"epochs": 2}) == read({"steps": 1}, {"steps": 5}, {"steps": 2}) == by_hand


@with_or_without_length
def test_finishing_an_open_epoch_counts_as_one(kind):
    trainer = quiet(first_value, kind(numbered(1, 1, 1)))
    trainer.fit(steps=2)
    assert (trainer.epoch, trainer.epoch_open, trainer.history.epochs) == (1, True, 0)
    trainer.fit(epochs=1)
    assert (trainer.epoch, trainer.epoch_open, trainer.step) == (1, False, 3)
    assert trainer.history["epoch"] == [1]


@with_or_without_length
def test_a_fit_by_steps_to_the_end_of_an_epoch_is_followed_by_the_next_epoch_without_a_gap(kind):
    seen = []
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)

    def train_fn(model, x):
        seen.append(x[0].item())
        optimizer.step()
        return x[0]

    trainer = quiet(train_fn, kind(numbered(1, 1)), optimizer=optimizer)
    trainer.fit(steps=2)
    trainer.fit(steps=2)
    trainer.fit(steps=1)
    assert seen == [1, 2, 1, 2, 1]
    assert trainer.history["epoch"] == [1, 2]
    assert trainer.history["train_loss"] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("goal", "steps", "epochs"),
    [({"epochs": 2, "steps": 4}, 4, 1), ({"epochs": 1, "steps": 4}, 3, 1), ({"epochs": 1, "steps": 3}, 3, 1)],
)
def test_of_epochs_and_steps_the_first_that_is_reached_ends_the_fit(goal, steps, epochs):
    trainer = quiet(nothing, numbered(1, 1, 1))
    trainer.fit(**goal)
    assert (trainer.step, trainer.history.epochs) == (steps, epochs)


def test_another_loader_gives_up_the_open_epoch():
    seen = []
    trainer = quiet(lambda model, x: seen.append(x[0].item()), numbered(1, 1, 1))
    trainer.fit(steps=1)
    trainer.train_loader = [torch.tensor([10.0]), torch.tensor([20.0])]
    history = trainer.fit(epochs=1)
    assert seen == [1, 10, 20]
    assert history["epoch"] == [1]


# Stopping


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        ("train_begin", 0),
        ("epoch_begin", 0),
        ("batch_begin", 1),
        ("batch_end", 1),
        ("step_end", 1),
        ("eval_begin", 3),
        ("eval_end", 3),
        ("record", 3),
        ("epoch_end", 3),
        ("train_end", 6),
    ],
)
def test_a_stop_ends_the_fit_after_the_current_step_with_its_place_kept(event, steps):
    seen, stopping = [], [True]
    trainer = quiet(lambda model, x: seen.append(x[0].item()), numbered(1, 1, 1), nothing, numbered(1))

    @trainer.on(event)
    def stop(trainer):
        if stopping:
            trainer.stop("enough")

    trainer.fit(epochs=2)
    assert trainer.step == len(seen) == steps
    assert trainer.stop_reason == "enough"
    stopping.clear()
    trainer.fit(steps=9 - steps)
    assert trainer.stop_reason is None
    assert seen == [1, 2, 3] * 3


def test_a_train_function_may_stop_its_own_fit():
    def train_fn(model, x):
        if x[0] == 2:
            trainer.stop("seen enough")

    trainer = quiet(train_fn, numbered(1, 1, 1))
    trainer.fit(epochs=5)
    assert (trainer.step, trainer.stop_reason) == (2, "seen enough")


# Seeds


class Noisy(Dataset):
    """Ten samples, each drawn anew from each of the three global generators."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), torch.rand(())


def batches_seen(seed, *, workers=0, fits=({"epochs": 2},), between=lambda: None):
    """The samples that each step of a seeded training got, and what its function drew."""
    loader = DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=workers)
    seen = []

    def train_fn(model, *batch):
        between()
        seen.append([part.tolist() for part in batch] + [torch.rand(2).tolist(), random.random()])

    trainer = quiet(train_fn, loader, seed=seed)
    for goal in fits:
        trainer.fit(**goal)
    return seen


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs():
    first = batches_seen(0)
    torch.manual_seed(5)
    assert batches_seen(0) == first
    assert batches_seen(1) != first


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing_under_a_seed():
    assert batches_seen(0, workers=2) == batches_seen(0)


def test_where_a_fit_stops_changes_nothing_under_a_seed():
    assert batches_seen(0, fits=({"steps": 3}, {"steps": 5})) == batches_seen(0)


def test_under_a_seed_the_data_draw_nothing_from_the_generators_of_the_model():
    loader = DataLoader(Noisy(), batch_size=3, shuffle=True)
    quiet(nothing, loader, lambda model, *batch: None, loader, seed=7).fit(epochs=2)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    seed_everything(7)
    assert torch.equal(after[0], torch.get_rng_state())
    assert after[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_under_a_seed_the_data_do_not_depend_on_what_the_model_draws():
    quietly, noisily = batches_seen(0), batches_seen(0, between=lambda: torch.rand(99))
    assert [step[:4] for step in quietly] == [step[:4] for step in noisily]


def test_each_epoch_has_an_order_and_randomness_of_its_own():
    seen = batches_seen(0)
    first, second = seen[:4], seen[4:]
    assert sorted(index for step in first for index in step[0]) == list(range(10))
    assert first != second


def test_without_a_seed_no_generator_is_touched():
    before = torch.get_rng_state(), random.getstate()
    quiet(nothing, numbered(1, 1), nothing, numbered(1)).fit(epochs=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
