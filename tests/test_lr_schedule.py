"""LRSchedule against the same scheduler of torch, stepped by hand in a plain loop."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch.optim import lr_scheduler as torchs
from torch.optim.swa_utils import SWALR

from ignition.callbacks.base import Callback
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.errors import ArgumentError, MetricError

EPOCHS, BATCHES = 6, 4
VAL_LOSSES = [3.0, 2.0, 2.0, 2.0, 1.0, 1.5]


class StandInHistory:
    """The part of History that a schedule sees."""

    def __init__(self):
        self.records = []

    def latest(self, name):
        if not any(name in record for record in self.records):
            raise MetricError(f"no record has {name!r}", "a column", "name another")
        return self.records[-1].get(name, math.nan)


class StandIn:
    """The part of a Trainer that a schedule sees, with steps that are the optimizer's own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.history = StandInHistory()
        self.seen = []

    def updated(self, optimizer):
        return optimizer is self.optimizer

    def fit(self, schedule, epochs=EPOCHS, eval_every=BATCHES):
        schedule.bind(self, [])
        for epoch in range(1, epochs + 1):
            schedule.on_epoch_begin(self)
            for batch in range(1, BATCHES + 1):
                schedule.on_batch_begin(self)
                self.seen.append(settings(self.optimizer))
                self.optimizer.step()
                schedule.on_batch_end(self)
                schedule.on_step_end(self)
                if batch % eval_every == 0:
                    self.history.records.append({"epoch": epoch, "val_loss": VAL_LOSSES[epoch - 1] + batch / 100})
                    schedule.on_record(self)
            schedule.on_epoch_end(self)
        return self.seen


def two_groups():
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    return torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.03}], lr=0.1, momentum=0.9)


def settings(optimizer):
    return [(float(group["lr"]), group["momentum"]) for group in optimizer.param_groups]


class Halving:
    """A factor with a memory of its own, as torch allows for LambdaLR and CyclicLR."""

    def __init__(self):
        self.base = 0.5
        self.function = math.cos  # no plain value

    def __call__(self, epoch):
        return self.base**epoch


def sequential(optimizer):
    rise = torchs.LinearLR(optimizer, 0.1, total_iters=3)
    fall = torchs.CosineAnnealingLR(optimizer, T_max=20)
    return torchs.SequentialLR(optimizer, [rise, fall], milestones=[3])


def chained(optimizer):
    return torchs.ChainedScheduler([torchs.ConstantLR(optimizer, 0.5, 4), torchs.MultiStepLR(optimizer, [3, 5])])


def nested(optimizer):
    return torchs.ChainedScheduler([sequential(optimizer), torchs.MultiStepLR(optimizer, [2, 9])])


SCHEDULERS = {
    "LambdaLR": lambda opt: torchs.LambdaLR(opt, lambda epoch: 0.9**epoch),
    "LambdaLR of objects": lambda opt: torchs.LambdaLR(opt, [Halving(), lambda epoch: 1.0]),
    "MultiplicativeLR": lambda opt: torchs.MultiplicativeLR(opt, lambda epoch: 0.95),
    "StepLR": lambda opt: torchs.StepLR(opt, 2, 0.5),
    "MultiStepLR": lambda opt: torchs.MultiStepLR(opt, [1, 3, 3]),
    "MultiStepLR without milestones": lambda opt: torchs.MultiStepLR(opt, []),
    "ConstantLR": lambda opt: torchs.ConstantLR(opt, 0.3, 3),
    "LinearLR": lambda opt: torchs.LinearLR(opt, 0.3, total_iters=4),
    "ExponentialLR": lambda opt: torchs.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: torchs.PolynomialLR(opt, 5, 2.0),
    "CosineAnnealingLR": lambda opt: torchs.CosineAnnealingLR(opt, 5),
    "CosineAnnealingWarmRestarts": lambda opt: torchs.CosineAnnealingWarmRestarts(opt, 2, 2),
    "CyclicLR": lambda opt: torchs.CyclicLR(opt, 0.01, 0.1, 3, mode="exp_range", gamma=0.99),
    "CyclicLR of a function": lambda opt: torchs.CyclicLR(opt, 0.01, 0.1, 3, scale_fn=lambda x: 0.5),
    "CyclicLR of an object": lambda opt: torchs.CyclicLR(opt, 0.01, 0.1, 3, scale_fn=Halving()),
    "OneCycleLR": lambda opt: torchs.OneCycleLR(opt, [0.1, 0.2], total_steps=EPOCHS * BATCHES),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "ChainedScheduler of a SequentialLR": nested,
    "SWALR": lambda opt: SWALR(opt, 0.01, anneal_epochs=4),
}


def by_hand(make, every):
    """What a loop sees that steps the scheduler itself."""
    optimizer = two_groups()
    scheduler = make(optimizer)
    seen = []
    for _ in range(EPOCHS):
        for _ in range(BATCHES):
            seen.append(settings(optimizer))
            optimizer.step()
            if every == "step":
                scheduler.step()
        if every == "epoch":
            scheduler.step()
    return seen


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
class TestEveryScheduler:
    @pytest.mark.parametrize("every", ["epoch", "step"])
    def test_is_the_same_as_by_hand(self, make, every):
        optimizer = two_groups()
        assert StandIn(optimizer).fit(LRSchedule(make(optimizer), every)) == by_hand(make, every)

    @pytest.mark.parametrize("cut", [1, 3, 4, 7, 12])
    def test_goes_on_exactly_from_its_state_as_json(self, make, cut):
        expected = by_hand(make, "step")
        optimizer = two_groups()
        schedule = LRSchedule(make(optimizer), "step")
        for _ in range(cut):
            optimizer.step()
            schedule.on_step_end(StandIn(optimizer))
        state = json.loads(json.dumps(schedule.state_dict()))
        kept = optimizer.state_dict()

        again = two_groups()
        resumed = LRSchedule(make(again), "step")
        again.load_state_dict(kept)
        resumed.load_state_dict(state)
        seen = []
        for _ in range(cut, EPOCHS * BATCHES):
            seen.append(settings(again))
            again.step()
            resumed.on_step_end(StandIn(again))
        assert seen == expected[cut:]

    def test_loading_leaves_the_state_and_the_functions_alone(self, make):
        optimizer = two_groups()
        schedule = LRSchedule(make(optimizer))
        state = schedule.state_dict()
        before = json.dumps(state)
        schedule.load_state_dict(state)
        assert json.dumps(state) == before
        assert json.dumps(schedule.state_dict()) == before
        assert schedule.scheduler.optimizer is optimizer


def test_the_state_holds_plain_values_only():
    optimizer = two_groups()
    state = LRSchedule(torchs.LambdaLR(optimizer, [Halving(), lambda epoch: 1.0])).state_dict()
    assert state["lr_lambdas"] == [{"base": 0.5}, None]
    assert "optimizer" not in state
    assert LRSchedule(torchs.MultiStepLR(optimizer, [1, 3, 3])).state_dict()["milestones"] == [[1, 1], [3, 2]]


def test_a_learning_rate_that_is_a_tensor_goes_on_too():
    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=torch.tensor(0.1))
        return optimizer, LRSchedule(torchs.ExponentialLR(optimizer, 0.5), "step")

    optimizer, schedule = make()
    optimizer.step()
    schedule.on_step_end(StandIn(optimizer))
    state, kept = schedule.state_dict(), optimizer.state_dict()
    optimizer.step()
    schedule.on_step_end(StandIn(optimizer))  # the state is no view of what goes on
    assert [float(lr) for lr in state["_last_lr"]] == pytest.approx([0.05])
    again, resumed = make()
    again.load_state_dict(kept)
    again.param_groups[0]["lr"].fill_(0.05)
    resumed.load_state_dict(state)
    again.step()
    resumed.on_step_end(StandIn(again))
    assert float(again.param_groups[0]["lr"]) == pytest.approx(0.025)
    assert isinstance(resumed.scheduler.base_lrs[0], torch.Tensor)


class TestMonitor:
    @pytest.mark.parametrize(("every", "eval_every"), [("epoch", BATCHES), ("epoch", 2), ("record", 2), ("record", 1)])
    def test_a_plateau_lowers_it_as_by_hand(self, every, eval_every):
        optimizer = two_groups()
        scheduler = torchs.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        expected = []
        for loss in VAL_LOSSES:
            for batch in range(1, BATCHES + 1):
                expected.append(settings(optimizer))
                if every == "record" and batch % eval_every == 0:
                    scheduler.step(loss + batch / 100)
            if every == "epoch":
                scheduler.step(loss + BATCHES / 100)

        optimizer = two_groups()
        schedule = LRSchedule(torchs.ReduceLROnPlateau(optimizer, factor=0.5, patience=1), every, monitor="val_loss")
        assert StandIn(optimizer).fit(schedule, eval_every=eval_every) == expected
        assert len({lrs[0] for lrs in expected}) > 1

    def test_a_plateau_goes_on_exactly_from_its_state(self):
        def make(optimizer):
            scheduler = torchs.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1)
            return LRSchedule(scheduler, monitor="val_loss")

        whole = two_groups()
        expected = StandIn(whole).fit(make(whole))
        first, second = two_groups(), two_groups()
        schedule, resumed = make(first), make(second)
        before = StandIn(first)
        before.fit(schedule, epochs=3)
        second.load_state_dict(first.state_dict())
        resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
        after = StandIn(second)
        for loss in VAL_LOSSES[3:]:
            after.seen += [settings(second)] * BATCHES
            after.history.records.append({"val_loss": loss + BATCHES / 100})
            resumed.on_epoch_end(after)
        assert before.seen + after.seen == expected

    def test_a_column_that_nobody_returned_is_the_historys_error(self):
        optimizer = two_groups()
        schedule = LRSchedule(torchs.ReduceLROnPlateau(optimizer), monitor="val_f1")
        with pytest.raises(MetricError, match="val_f1"):
            StandIn(optimizer).fit(schedule)

    def test_another_scheduler_that_takes_a_metric_is_fine(self):
        class Custom(torchs.LRScheduler):
            def get_lr(self):
                return [group["lr"] for group in self.optimizer.param_groups]

            def step(self, metrics=None, epoch=None):
                self.given = metrics

        optimizer = two_groups()
        schedule = LRSchedule(Custom(optimizer), monitor="val_loss")
        StandIn(optimizer).fit(schedule, epochs=1)
        assert schedule.scheduler.given == 3.04
        LRSchedule(Custom(optimizer))  # and needs none


class TestItsPlace:
    @pytest.mark.parametrize(
        ("every", "event"), [("epoch", "on_epoch_end"), ("step", "on_step_end"), ("record", "on_record")]
    )
    def test_an_event_that_it_does_not_tick_at_costs_nothing(self, every, event):
        schedule = LRSchedule(torchs.StepLR(two_groups(), 3), every)
        assert [name for name in vars(schedule) if name.startswith("on_")] == [event]
        assert getattr(LRSchedule, event) is getattr(Callback, event)
        other = copy.copy(schedule)
        assert getattr(other, event).__self__ is other

    @pytest.mark.parametrize(
        ("structure", "name"),
        [
            (lambda opt: opt, ""),
            (lambda opt: [two_groups(), opt], "1"),
            (lambda opt: {"G": opt, "D": two_groups()}, "G"),
        ],
        ids=["one", "list", "dict"],
    )
    def test_it_moves_every_group_of_its_optimizer(self, structure, name):
        optimizer = two_groups()
        schedule = LRSchedule(torchs.StepLR(optimizer, 3))
        assert schedule.targets == frozenset()
        schedule.bind(StandIn(structure(optimizer)), [])
        assert schedule.targets == {("optimizer", name, 0, "lr"), ("optimizer", name, 1, "lr")}

    def test_a_scheduler_that_cycles_the_momentum_moves_it_too(self):
        adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
        for optimizer, key in ((two_groups(), "momentum"), (adam, "betas")):
            schedule = LRSchedule(torchs.OneCycleLR(optimizer, 0.1, total_steps=9))
            schedule.bind(StandIn(optimizer), [])
            assert {target[3] for target in schedule.targets} == {"lr", key}

    @pytest.mark.parametrize("structure", [lambda: None, two_groups, lambda: {"G": two_groups()}])
    def test_an_optimizer_that_the_trainer_lacks_is_refused(self, structure):
        schedule = LRSchedule(torchs.StepLR(two_groups(), 3))
        with pytest.raises(ArgumentError, match=r"StepLR[\s\S]*Trainer lacks"):
            schedule.bind(StandIn(structure()), [])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda opt: LRSchedule(torchs.StepLR), "made with its optimizer"),
        (lambda opt: LRSchedule(opt), "scheduler of torch.optim.lr_scheduler"),
        (lambda opt: LRSchedule(None), "LRSchedule got None"),
        (lambda opt: LRSchedule("cosine"), "LRSchedule got 'cosine'"),
        (lambda opt: LRSchedule(torchs.StepLR(opt, 3), every="batch"), "every='batch'"),
        (lambda opt: LRSchedule(torchs.StepLR(opt, 3), monitor="val_loss"), "StepLR takes no metric"),
        (lambda opt: LRSchedule(chained(opt), monitor="val_loss"), "ChainedScheduler takes no metric"),
        (lambda opt: LRSchedule(torchs.ReduceLROnPlateau(opt)), "no monitor"),
        (lambda opt: LRSchedule(torchs.ReduceLROnPlateau(opt), monitor=""), "monitor=''"),
        (lambda opt: LRSchedule(torchs.ReduceLROnPlateau(opt), monitor=3), "monitor=3"),
        (lambda opt: LRSchedule(torchs.ReduceLROnPlateau(opt), "step", monitor="val_loss"), "every='step'"),
    ],
)
def test_a_bad_argument_is_refused_at_once(make, words):
    with pytest.raises(ArgumentError, match=words):
        make(two_groups())


def test_a_scheduler_that_has_come_to_its_end_says_what_to_do():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = LRSchedule(torchs.OneCycleLR(optimizer, 0.1, total_steps=2, cycle_momentum=False), every="step")
    trainer = StandIn(optimizer)
    trainer.step = 3
    with pytest.raises(ArgumentError, match="was made for 2 ticks, and step 3 asks for one more") as caught:
        trainer.fit(schedule, epochs=1)
    assert "another fit behind it" in str(caught.value)


def test_another_error_of_a_scheduler_comes_out_as_it_was():
    class Failing(torchs.StepLR):
        def step(self, epoch=None):
            if self.last_epoch >= 0 and hasattr(self, "total_steps"):
                raise ValueError("mine")
            super().step(epoch)

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = Failing(optimizer, 1)
    scheduler.total_steps = 5
    with pytest.raises(ValueError, match="mine"):
        StandIn(optimizer).fit(LRSchedule(scheduler, every="step"), epochs=1)
