"""What a training keeps from fit to fit: its place, its records, its seed, and which optimizers take the steps."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.utils.data import DataLoader, Dataset

from ignition import Trainer, seed_everything
from ignition.callbacks import LinearDecay, LRSchedule
from ignition.errors import IgnitionWarning, OptimizerError
from ignition.structure import named
from ignition.training import Goal


def quiet(train_fn, loader, *evaluation, model=None, optimizer=None, **settings):
    """A silent Trainer on the CPU, by default of a model with the optimizer's parameters and no others."""
    if model is None:
        model = nn.Identity()
        model.trained = nn.ParameterList(trained_by(optimizer))
    return Trainer(model, optimizer, train_fn, loader, *evaluation, device="cpu", progress=False, **settings)


def trained_by(optimizers):
    groups = [group for one in named(optimizers).values() for group in getattr(one, "param_groups", ())]
    return [parameter for group in groups for parameter in group["params"]]


def nothing(model, *batch):
    """A train or eval function that does nothing."""


def numbered(*sizes):
    """Batches (size,) of ones, twos, threes, ..."""
    return [torch.full((size,), float(number)) for number, size in enumerate(sizes, start=1)]


def first_value(model, x):
    return {"loss": x[0]}


class WithoutLength:
    """Batches that can be read again and again, and do not say how many there are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


with_or_without_length = pytest.mark.parametrize("kind", [list, WithoutLength], ids=["with length", "without"])


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


# Records


@with_or_without_length
@pytest.mark.parametrize(
    ("eval_every", "steps"),
    [
        (None, [4, 8, 12]),
        (1, list(range(1, 13))),
        (2, [2, 4, 6, 8, 10, 12]),
        (3, [3, 4, 6, 8, 9, 12]),
        (4, [4, 8, 12]),
        (5, [4, 5, 8, 10, 12]),
        (100, [4, 8, 12]),
    ],
)
def test_a_record_is_written_at_each_epochs_end_and_at_each_multiple_of_eval_every(kind, eval_every, steps):
    history = quiet(first_value, kind(numbered(1, 1, 1, 1))).fit(epochs=3, eval_every=eval_every)
    assert history["step"] == steps
    assert history["epoch"] == [(step + 3) // 4 for step in steps]
    assert history.epochs == 3


@with_or_without_length
def test_the_means_of_a_record_are_over_the_batches_since_the_record_before(kind):
    history = quiet(first_value, kind(numbered(4, 2, 1, 3, 5))).fit(epochs=2, eval_every=3)
    first, second = (4 * 1 + 2 * 2 + 1 * 3) / 7, (3 * 4 + 5 * 5) / 8
    third = 1.0
    fourth, fifth = (2 * 2 + 1 * 3 + 3 * 4) / 6, 5.0
    assert history["step"] == [3, 5, 6, 9, 10]
    assert history["train_loss"] == [first, second, third, fourth, fifth]


def test_the_means_go_on_over_the_end_of_a_fit():
    trainer = quiet(first_value, numbered(1, 1, 1))
    trainer.fit(steps=2)
    trainer.fit(steps=1)
    assert trainer.history["train_loss"] == [2.0]


def test_a_record_is_of_the_model_as_it_is_after_that_step():
    weight = nn.Linear(1, 1, bias=False)

    def train_fn(model, x):
        with torch.no_grad():
            model.weight.fill_(x[0])

    def eval_fn(model, x):
        return {"weight": model.weight.sum()}

    history = quiet(train_fn, numbered(1, 1, 1), eval_fn, numbered(1), model=weight).fit(epochs=1, eval_every=2)
    assert history["val_weight"] == [2.0, 3.0]


def test_max_eval_steps_bounds_each_evaluation_of_a_fit():
    trainer = quiet(nothing, numbered(1), first_value, numbered(1, 1, 1))
    assert trainer.fit(epochs=1, max_eval_steps=2)["val_loss"] == [1.5]
    assert trainer.evaluate() == {"loss": 2.0}


def test_learning_rates_and_hyperparameters_are_columns():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizers = {"G": torch.optim.SGD([parameters[0]], lr=0.5), "D": torch.optim.SGD([parameters[1]], lr=0.25)}

    def train_fn(model, x, **hyper):
        for optimizer in optimizers.values():
            optimizer.step()

    trainer = quiet(train_fn, numbered(1), optimizer=optimizers)
    trainer.hyper = {
        "a": 1,
        "b": torch.tensor(0.5),
        "c": "text",
        "d": None,
        "e": np.float32(0.25),
        "f": np.int64(3),
        "g": True,
        "listed": [1, 2],
    }
    last = trainer.fit(epochs=1).last
    assert (last["lr_G"], last["lr_D"]) == (0.5, 0.25)
    assert "lr" not in last
    assert [last[name] for name in "abcdefg"] == [1, 0.5, "text", None, 0.25, 3, True]
    assert "listed" not in last


@pytest.mark.parametrize(
    ("structure", "columns"), [(lambda o: o, ["lr"]), (lambda o: [o], ["lr_0"]), (lambda o: None, [])]
)
def test_one_optimizer_has_the_column_lr_and_one_in_a_list_its_place(structure, columns):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    trainer = quiet(lambda model, x: optimizer.step(), numbered(1), optimizer=structure(optimizer))
    if structure(optimizer) is None:
        trainer = quiet(nothing, numbered(1))
    history = trainer.fit(epochs=1)
    assert [column for column in history.columns if column.startswith("lr")] == columns


class Clock:
    """A clock that stands still unless it is set forward."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in ("loop", "passes", "training"):
            monkeypatch.setattr(f"ignition.{module}.perf_counter", lambda: self.now)

    def forward(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_seconds_of_a_record_are_those_since_the_one_before(clock):
    class Slow:
        def __iter__(self):
            for x in numbered(1, 1, 1):
                clock.forward(1)
                yield x

    trainer = quiet(lambda model, x: clock.forward(10), Slow(), lambda model, x: clock.forward(100), numbered(1))
    history = trainer.fit(epochs=2, eval_every=2)
    assert history["step"] == [2, 3, 4, 6]
    assert history["seconds"] == [122, 111, 111, 122]
    assert history["data_seconds"] == [2, 1, 1, 2]


def test_the_seconds_between_two_fits_belong_to_no_record(clock):
    trainer = quiet(lambda model, x: clock.forward(1), numbered(1, 1, 1))
    trainer.fit(steps=2)
    clock.forward(1000)
    trainer.fit(epochs=1)
    assert trainer.history["seconds"] == [3]


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


# Which optimizers step


class Own:
    """An optimizer that is not torch's."""

    def step(self):
        pass


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def steps(*optimizers):
    def train_fn(model, x):
        for optimizer in optimizers:
            optimizer.step()

    return train_fn


ONE, OTHER = sgd(), sgd()


@pytest.mark.parametrize(
    ("stepped", "known"),
    [
        ([], None),
        ([ONE], ONE),
        ([ONE], [ONE]),
        ([ONE, OTHER], {"G": ONE, "D": OTHER}),
        ([ONE], {"G": ONE, "D": OTHER}),
        ([ONE, ONE, OTHER], (OTHER, ONE)),
        ([], Own()),
        ([ONE], Own()),
        ([ONE], [ONE, Own()]),
    ],
)
def test_the_optimizers_of_the_trainer_may_step(stepped, known):
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(epochs=1)
    assert not _global_optimizer_post_hooks


@pytest.mark.parametrize(
    ("stepped", "known", "message"),
    [
        ([OTHER], ONE, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([ONE, OTHER], ONE, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([OTHER], [ONE], r"an optimizer that the Trainer does not have \(SGD\)"),
        ([OTHER], None, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([], ONE, r"the Trainer's optimizer \(SGD\) took no step"),
        ([], {"G": ONE, "D": OTHER}, r"the Trainer's optimizer \(SGD, SGD\) took no step"),
    ],
)
def test_a_step_by_another_optimizer_or_none_is_noticed_in_the_first_step(stepped, known, message):
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    with pytest.warns(IgnitionWarning, match=message) as caught:
        trainer.fit(epochs=2)
    assert len(caught) == 1
    assert trainer.step == 4
    assert not _global_optimizer_post_hooks


@pytest.mark.parametrize("stepped", [[], [OTHER]])
@pytest.mark.parametrize("schedule", ["ours", "torch's"])
def test_it_is_an_error_where_a_schedule_depends_on_it(stepped, schedule):
    known = sgd()
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    trainer.callbacks = [
        LinearDecay("lr", 0.4, 0.1, max_epochs=3)
        if schedule == "ours"
        else LRSchedule(torch.optim.lr_scheduler.ConstantLR(known, factor=0.5))
    ]
    with pytest.raises(OptimizerError, match=r"(?s)on which depends: \w+.*expected: .*to do: "):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0
    assert not _global_optimizer_post_hooks


def test_a_schedule_of_a_hyperparameter_does_not_depend_on_steps():
    trainer = quiet(lambda model, x, lambd: None, numbered(1), optimizer=Own())
    trainer.callbacks = [LinearDecay("lambd", 1, 0, max_epochs=3)]
    trainer.fit(epochs=1)
    assert trainer.history["lambd"] == [1.0]


def test_each_fit_looks_at_its_own_first_step():
    optimizers = [ONE]
    trainer = quiet(lambda model, x: optimizers[0].step(), numbered(1, 1), optimizer=ONE)
    trainer.fit(epochs=1)
    optimizers[0] = OTHER
    with pytest.warns(IgnitionWarning, match="does not have"):
        trainer.fit(epochs=1)


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
