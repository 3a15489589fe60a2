"""Every kind of schedule against values worked out from its formula, and the life of a schedule in fits."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ignition.callbacks.base import Callback
from ignition.callbacks.schedules import (
    CosineAnneal,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    LRSchedule,
    Schedule,
    StepDecay,
    Warmup,
    bind_schedules,
)
from ignition.errors import ArgumentError


class StandIn:
    """The part of a Trainer that a schedule sees."""

    def __init__(self, optimizer=None, hyper=None):
        self.optimizer = optimizer
        self.hyper = {} if hyper is None else hyper
        self.epoch = 0
        self.step = 0
        self.epoch_open = False

    @property
    def updates(self):
        return self.step

    def fit(self, schedules, epochs=None, *, steps=math.inf, batches=3, parameters=("lambd",), read=None):
        """Runs the events in the loop's order; what `read` sees at each step (default: the hyper's lambd)."""
        read = read or (lambda: self.hyper["lambd"])
        bind_schedules(schedules, self, parameters)
        seen = []
        last = math.inf if epochs is None else self.epoch - self.epoch_open + epochs
        self.left = getattr(self, "left", 0) if self.epoch_open else 0
        while self.epoch_open or self.epoch < last:
            if not self.epoch_open:
                self.epoch, self.left, self.epoch_open = self.epoch + 1, batches, True
                for schedule in schedules:
                    schedule.on_epoch_begin(self)
            while self.left:
                if len(seen) == steps:
                    return seen
                for schedule in schedules:
                    schedule.on_batch_begin(self)
                seen.append(read())
                self.step, self.left = self.step + 1, self.left - 1
            self.epoch_open = False
            if len(seen) == steps:
                return seen
        return seen


def weights(*sizes):
    return [torch.nn.Parameter(torch.zeros(size)) for size in sizes]


def sgd(*lrs, **options):
    return torch.optim.SGD([{"params": weights(2), "lr": lr} for lr in lrs], **options)


def lrs(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


# Worked out from the formulas with sqrt(2) = 1.4142135623730951 and sqrt(3) = 1.7320508075688772:
# (1 + cos(pi/4)) / 2 = 0.8535533905932737, (1 + cos(3 pi/4)) / 2 = 0.1464466094067262, (1 + cos(pi/6)) / 2 =
# 0.9330127018922193, (1 + cos(5 pi/6)) / 2 = 0.0669872981077807.
TABLES = {
    "linear down": (LinearDecay, (4, 1), 4, {}, [4, 3, 2, 1, 1, 1]),
    "linear up": (LinearDecay, (0, 1), 5, {}, [0, 0.25, 0.5, 0.75, 1, 1, 1]),
    "linear of one": (LinearDecay, (4, 1), 1, {}, [1, 1, 1]),
    "linear of two": (LinearDecay, (4, 1), 2, {}, [4, 1, 1]),
    "exponential": (ExponentialDecay, (1, 0.001), 4, {}, [1, 0.1, 0.01, 0.001, 0.001]),
    "exponential below zero": (ExponentialDecay, (-1, -16), 5, {}, [-1, -2, -4, -8, -16, -16]),
    "exponential of one": (ExponentialDecay, (1, 0.5), 1, {}, [0.5, 0.5]),
    "cosine": (CosineDecay, (1,), 5, {}, [1, 0.8535533905932737, 0.5, 0.1464466094067262, 0, 0, 0]),
    "cosine between": (
        CosineDecay,
        (3, 1),
        7,
        {},
        [3, 2.8660254037844386, 2.5, 2, 1.5, 1.1339745962155614, 1, 1],
    ),
    "cosine of one": (CosineDecay, (3, 1), 1, {}, [1, 1]),
    "anneal": (CosineAnneal, (1,), 2, {}, [1, 0.5, 1, 0.5, 1, 0.5, 1]),
    "anneal between": (
        CosineAnneal,
        (0.1, 0.02),
        4,
        {},
        [0.1, 0.0882842712474619, 0.06, 0.0317157287525381, 0.1, 0.0882842712474619],
    ),
    "anneal longer": (
        CosineAnneal,
        (1,),
        2,
        {"multiplier": 2},
        [1, 0.5, 1, 0.8535533905932737, 0.5, 0.1464466094067262, 1, 0.9619397662556434, 0.8535533905932737],
    ),
    "anneal with an end": (
        CosineAnneal,
        (1, 0.25),
        2,
        {"cycles": 2},
        [1, 0.625, 1, 0.625, 0.25, 0.25, 0.25],
    ),
    "anneal longer with an end": (
        CosineAnneal,
        (1,),
        1,
        {"multiplier": 3, "cycles": 2},
        [1, 1, 0.75, 0.25, 0, 0, 0],
    ),
    "drop by period": (StepDecay, (8, 0.5), 2, {}, [8, 8, 4, 4, 2, 2, 1]),
    "drop by a tenth": (StepDecay, (1,), 3, {}, [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
    "drop at milestones": (StepDecay, (8, 0.5), [1, 4], {}, [8, 4, 4, 4, 2, 2, 2, 2]),
}


def made(case, unit, name, **where):
    kind, values, length, options, expected = TABLES[case]
    argument = {LinearDecay: "max", ExponentialDecay: "max", CosineDecay: "max"}.get(kind, "period")
    if isinstance(length, list):
        argument = "milestone"
    return kind(name, *values, **{f"{argument}_{unit}s": length}, **options, **where), expected


@pytest.mark.parametrize("case", TABLES)
class TestTables:
    def test_the_function_gives_the_table(self, case):
        schedule, expected = made(case, "epoch", "lambd")
        assert [schedule.fn(count) for count in range(1, len(expected) + 1)] == pytest.approx(expected, rel=1e-13)

    def test_before_the_first_it_is_the_first(self, case):
        schedule, expected = made(case, "epoch", "lambd")
        assert [schedule.fn(count) for count in (0, -1, -100)] == pytest.approx([expected[0]] * 3)

    def test_a_hyperparameter_by_epoch(self, case):
        schedule, expected = made(case, "epoch", "lambd")
        seen = StandIn().fit([schedule], len(expected), batches=3)
        assert seen == pytest.approx([value for value in expected for _ in range(3)], rel=1e-13)

    def test_a_hyperparameter_by_step(self, case):
        schedule, expected = made(case, "step", "lambd")
        assert StandIn().fit([schedule], steps=len(expected), batches=2) == pytest.approx(expected, rel=1e-13)

    @pytest.mark.parametrize("unit", ["epoch", "step"])
    def test_a_value_of_the_optimizer(self, case, unit):
        optimizer = sgd(0.5)
        schedule, expected = made(case, unit, "lr")
        seen = StandIn(optimizer).fit([schedule], steps=len(expected), batches=1, read=lambda: lrs(optimizer)[0])
        assert seen == pytest.approx(expected, rel=1e-13)


def test_the_guides_example_of_sixty_epochs():
    lambd = LinearDecay("lambd", start_value=4, end_value=1, max_epochs=60)
    seen = StandIn(hyper={"lambd": 4.0}).fit([lambd], 70, batches=1)
    assert seen[0] == 4
    assert seen[1] == pytest.approx(3.9491525423728815, rel=1e-14)  # 4 - 3/59
    assert seen[29] == pytest.approx(2.5254237288135593, rel=1e-14)  # 4 - 87/59
    assert seen[58] == pytest.approx(1.0508474576271187, rel=1e-14)  # 4 - 174/59
    assert seen[59:] == [1] * 11


class TestAgainstTorch:
    """The same curves by torch's own schedulers, stepped by hand."""

    @pytest.mark.parametrize(
        ("schedule", "torchs"),
        [
            (
                CosineAnneal("lr", 0.1, 0.01, period_epochs=3, multiplier=2),
                lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=3, T_mult=2, eta_min=0.01),
            ),
            (
                CosineAnneal("lr", 0.1, period_epochs=7),
                lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=7),
            ),
            (
                StepDecay("lr", 0.1, 0.3, period_epochs=4),
                lambda opt: torch.optim.lr_scheduler.StepLR(opt, 4, gamma=0.3),
            ),
            (
                StepDecay("lr", 0.1, milestone_epochs=[3, 4, 20]),
                lambda opt: torch.optim.lr_scheduler.MultiStepLR(opt, [3, 4, 20]),
            ),
            (
                LinearDecay("lr", 0.1, 0.02, max_epochs=12),
                lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.2, total_iters=11),
            ),
            (
                ExponentialDecay("lr", 0.1, 0.1 * 0.8**29, max_epochs=30),
                lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.8),
            ),
            (
                CosineDecay("lr", 0.1, 0.01, max_epochs=30),
                lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=29, eta_min=0.01),
            ),
        ],
        ids=["sgdr", "restarts", "step", "milestones", "linear", "exponential", "cosine"],
    )
    def test_thirty_epochs_are_the_same(self, schedule, torchs):
        optimizer = sgd(0.1)
        scheduler = torchs(optimizer)
        expected = []
        for _ in range(30):
            expected.append(lrs(optimizer)[0])
            optimizer.step()
            scheduler.step()
        assert [schedule.fn(epoch) for epoch in range(1, 31)] == pytest.approx(expected, rel=1e-9)


class TestWarmup:
    def test_it_raises_the_optimizers_own_value_to_what_it_was(self):
        optimizer = sgd(0.4)
        seen = StandIn(optimizer).fit([Warmup(4)], steps=6, read=lambda: lrs(optimizer)[0])
        assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
        assert seen[3] == 0.4

    def test_every_group_ends_exactly_where_it_was(self):
        before = [0.1, 0.3, 0.07, 1e-5, 0.0]
        optimizer = sgd(*before)
        first = []
        StandIn(optimizer).fit([Warmup(3)], steps=3, read=lambda: first.append(lrs(optimizer)))
        assert first[0] == pytest.approx([value / 3 for value in before])
        assert first[2] == before

    def test_it_starts_from_the_start_factor(self):
        optimizer = sgd(1.0)
        seen = StandIn(optimizer).fit([Warmup(4, start_factor=0.2)], steps=5, read=lambda: lrs(optimizer)[0])
        assert seen == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])

    def test_once_it_is_over_it_leaves_the_value_alone(self):
        optimizer, warmup = sgd(0.4), Warmup(2)
        trainer = StandIn(optimizer)
        trainer.fit([warmup], steps=3, read=lambda: None)
        optimizer.param_groups[0]["lr"] = 0.05
        trainer.fit([warmup], steps=4, read=lambda: None)
        assert lrs(optimizer) == [0.05]

    def test_a_second_fit_inside_the_warm_up_goes_on_to_the_first_target(self):
        optimizer, warmup = sgd(0.4), Warmup(4)
        trainer = StandIn(optimizer)
        trainer.fit([warmup], steps=2, read=lambda: None)
        assert trainer.fit([warmup], steps=3, read=lambda: lrs(optimizer)[0]) == pytest.approx([0.3, 0.4, 0.4])

    def test_the_steps_of_what_follows_start_after_it(self):
        optimizer = sgd(0.4)
        warmup = Warmup(2, then=LinearDecay("lr", 4, 1, max_steps=4))
        seen = StandIn(optimizer).fit([warmup], steps=8, read=lambda: lrs(optimizer)[0])
        assert seen == pytest.approx([2, 4, 4, 3, 2, 1, 1, 1])

    def test_the_epochs_of_what_follows_start_with_the_fit(self):
        optimizer = sgd(0.4)
        warmup = Warmup(4, then=LinearDecay("lr", 4, 1, max_epochs=4))
        seen = StandIn(optimizer).fit([warmup], 5, batches=3, read=lambda: lrs(optimizer)[0])
        # epoch 1: 4 times 1/4, 2/4, 3/4; epoch 2: 3 times 4/4, then 3
        assert seen == pytest.approx([1, 2, 3, 3, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1])

    def test_it_takes_name_optimizer_and_group_from_what_follows(self):
        first, second = sgd(0.1), sgd(0.2, 0.4)
        trainer = StandIn({"G": first, "D": second})
        warmup = Warmup(2, CosineDecay("lr", 1.0, max_steps=3, optimizer="D", group=1))
        trainer.fit([warmup], steps=1, read=lambda: None)
        assert (lrs(first), lrs(second)) == ([0.1], [0.2, 0.5])
        assert warmup.targets == {("optimizer", "D", 1, "lr")}

    def test_a_hyperparameter_rises_to_what_was_set(self):
        trainer = StandIn(hyper={"lambd": 4.0})
        assert trainer.fit([Warmup(4, name="lambd")], steps=5) == [1, 2, 3, 4, 4]

    def test_a_hyperparameter_rises_to_what_follows(self):
        warmup = Warmup(2, then=StepDecay("lambd", 8, 0.5, period_steps=1))
        assert StandIn().fit([warmup], steps=5) == [4, 8, 8, 4, 2]

    def test_a_resumed_warm_up_goes_on_to_the_first_target(self):
        optimizer, warmup = sgd(0.4), Warmup(4)
        trainer = StandIn(optimizer)
        trainer.fit([warmup], steps=2, read=lambda: None)
        state = json.loads(json.dumps(warmup.state_dict()))
        again, resumed = Warmup(4), StandIn(sgd(0.2))
        again.load_state_dict(state)
        resumed.epoch, resumed.step, resumed.epoch_open, resumed.left = trainer.epoch, 2, True, 1
        seen = resumed.fit([again], steps=3, read=lambda: lrs(resumed.optimizer)[0])
        assert seen == pytest.approx([0.3, 0.4, 0.4])

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Warmup(0), "steps of Warmup is 0"),
            (lambda: Warmup(2.0), "steps of Warmup is 2.0"),
            (lambda: Warmup(True), "steps of Warmup is True"),
            (lambda: Warmup(2, start_factor=-0.1), "start_factor"),
            (lambda: Warmup(2, start_factor=1.5), "start_factor"),
            (lambda: Warmup(2, start_factor=math.nan), "start_factor"),
            (lambda: Warmup(2, then=3), "then="),
            (lambda: Warmup(2, then=Warmup(2)), "no second Warmup"),
            (lambda: Warmup(2, then=CosineDecay("momentum", 1, max_steps=2), name="lr"), "name='lr'"),
            (lambda: Warmup(2, then=CosineDecay("lr", 1, max_steps=2, group=0), group=1), "group=1"),
            (lambda: Warmup(2, then=CosineDecay("lr", 1, max_steps=2), optimizer="G"), "optimizer='G'"),
            (lambda: Warmup(2, name=""), "name"),
        ],
    )
    def test_a_bad_argument_is_refused_at_once(self, make, words):
        with pytest.raises(ArgumentError, match=words):
            make()

    def test_nothing_to_rise_to_is_refused(self):
        with pytest.raises(ArgumentError, match="is 0"):
            StandIn(sgd(0.0)).fit([Warmup(2)], 1)
        with pytest.raises(ArgumentError, match="no value"):
            StandIn().fit([Warmup(2, name="lambd")], 1)
        with pytest.raises(ArgumentError, match="is 0"):
            StandIn(hyper={"lambd": 0.0}).fit([Warmup(2, name="lambd")], 1)
        with pytest.raises(ArgumentError, match="'high'"):
            StandIn(hyper={"lambd": "high"}).fit([Warmup(2, name="lambd")], 1)


finite_values = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-6)
positive_values = st.floats(1e-6, 1e6)
lengths = st.integers(1, 50)


class TestProperties:
    @given(st.sampled_from([LinearDecay, CosineDecay, ExponentialDecay]), positive_values, positive_values, lengths)
    def test_a_decay_is_monotone_between_its_ends_and_constant_after(self, kind, start, end, length):
        schedule = kind("lambd", start, end, max_steps=length)
        values = [schedule.fn(count) for count in range(1, length + 6)]
        assert all(min(start, end) <= value <= max(start, end) for value in values)
        assert values[length - 1 :] == [end] * 6
        assert schedule.fn(10**9) == end
        if length > 1:
            assert values[0] == start
        slack = 1e-12 * max(start, end)
        rises = [after - before for before, after in pairwise(values)]
        assert all(rise <= slack for rise in rises) or all(rise >= -slack for rise in rises)

    @given(st.sampled_from([LinearDecay, CosineDecay]), finite_values, finite_values, lengths)
    def test_a_decay_through_zero_keeps_between_its_ends(self, kind, start, end, length):
        schedule = kind("lambd", start, end, max_epochs=length)
        assert all(min(start, end) <= schedule.fn(count) <= max(start, end) for count in range(-2, length + 3))
        assert schedule.fn(length) == end

    @given(finite_values, finite_values, st.integers(1, 8), st.integers(1, 3), st.integers(1, 4))
    def test_annealing_keeps_between_its_ends_and_restarts_at_the_top(self, start, end, period, multiplier, cycles):
        schedule = CosineAnneal("lambd", start, end, period_steps=period, multiplier=multiplier, cycles=cycles)
        first = 1
        for cycle in range(cycles):
            assert schedule.fn(first) == start
            first += period * multiplier**cycle
        assert all(min(start, end) <= schedule.fn(count) <= max(start, end) for count in range(-1, first + 3))
        assert [schedule.fn(count) for count in (first, first + 1, first + 1000)] == [end] * 3

    @given(
        positive_values,
        st.floats(0.01, 0.99),
        st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted),
    )
    def test_milestones_only_lower_and_stay_after_the_last(self, start, factor, milestones):
        schedule = StepDecay("lambd", start, factor, milestone_epochs=milestones)
        values = [schedule.fn(count) for count in range(1, milestones[-1] + 5)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(milestones) + 1
        assert values[0] == start
        assert len(set(values[milestones[-1] :])) == 1

    @given(st.integers(1, 30), st.floats(0, 1))
    def test_a_warm_up_rises_and_stays(self, steps, start_factor):
        warmup = Warmup(steps, start_factor=start_factor)
        values = [warmup.fn(count) for count in range(1, steps + 5)]
        assert all(start_factor - 1e-12 <= value <= 1 for value in values)
        assert all(after >= before - 1e-12 for before, after in pairwise(values))
        assert values[steps - 1 :] == [1.0] * 5


class TestWhatTheNameMeans:
    def test_an_entry_of_hyper_comes_before_the_optimizer(self):
        optimizer = sgd(0.1, momentum=0.9)
        trainer = StandIn(optimizer, hyper={"momentum": 1.0})
        schedule = LinearDecay("momentum", 4, 1, max_epochs=4)
        trainer.fit([schedule], 2, read=lambda: None)
        assert schedule.targets == {("hyper", "momentum")}
        assert (trainer.hyper["momentum"], optimizer.param_groups[0]["momentum"]) == (3.0, 0.9)

    def test_a_parameter_of_the_function_comes_before_the_optimizer(self):
        optimizer = torch.optim.ASGD(weights(2), lambd=0.5)  # has a value of that name
        trainer = StandIn(optimizer)
        trainer.fit([LinearDecay("lambd", 4, 1, max_epochs=4)], 1, parameters=("x", "lambd"))
        assert (trainer.hyper, optimizer.param_groups[0]["lambd"]) == ({"lambd": 4.0}, 0.5)

    @pytest.mark.parametrize("where", [{"optimizer": ""}, {"group": 0}])
    def test_optimizer_and_group_say_that_it_is_the_optimizers(self, where):
        optimizer = sgd(0.1, momentum=0.9)
        trainer = StandIn(optimizer, hyper={"momentum": 1.0})
        trainer.fit([LinearDecay("momentum", 0.5, 1, max_epochs=4, **where)], 1, read=lambda: None)
        assert (trainer.hyper["momentum"], optimizer.param_groups[0]["momentum"]) == (1.0, 0.5)

    def test_a_name_that_nothing_has_is_a_hyperparameter(self):
        trainer = StandIn(sgd(0.1))
        trainer.fit([LinearDecay("temperature", 4, 1, max_epochs=4)], 1, parameters=(), read=lambda: None)
        assert trainer.hyper == {"temperature": 4.0}

    def test_it_needs_no_optimizer_for_a_hyperparameter(self):
        trainer = StandIn(optimizer=None)
        trainer.fit([LinearDecay("lr", 4, 1, max_epochs=4)], 1, parameters=(), read=lambda: None)
        assert trainer.hyper == {"lr": 4.0}

    def test_weight_decay_and_momentum_move_too(self):
        optimizer = sgd(0.1, momentum=0.9, weight_decay=0.01)
        schedules = [
            LinearDecay("weight_decay", 0.01, 0.03, max_epochs=3),
            CosineDecay("momentum", 0.9, 0.5, max_epochs=3),
        ]
        StandIn(optimizer).fit(schedules, 2, read=lambda: None)
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.02)
        assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.7)
        assert optimizer.param_groups[0]["lr"] == 0.1

    @pytest.mark.parametrize(
        ("optimizers", "chosen"), [({"G": 0.1, "D": 0.2}, "D"), ([0.1, 0.2], 1), ([0.1, 0.2], "1"), ((0.1, 0.2), 1)]
    )
    def test_one_of_several_optimizers_is_chosen(self, optimizers, chosen):
        if isinstance(optimizers, dict):
            optimizers = {name: sgd(lr) for name, lr in optimizers.items()}
            first, second = optimizers.values()
        else:
            optimizers = type(optimizers)(sgd(lr) for lr in optimizers)
            first, second = optimizers
        schedule = LinearDecay("lr", 4, 1, max_epochs=4, optimizer=chosen)
        StandIn(optimizers).fit([schedule], 1, read=lambda: None)
        assert (lrs(first), lrs(second)) == ([0.1], [4.0])
        assert schedule.targets == {("optimizer", str(chosen), 0, "lr")}

    def test_several_and_none_chosen_lists_their_names(self):
        trainer = StandIn({"G": sgd(0.1), "D": sgd(0.2)})
        with pytest.raises(ArgumentError, match=r"'G', 'D'[\s\S]*optimizer="):
            trainer.fit([LinearDecay("lr", 4, 1, max_epochs=4)], 1)

    @pytest.mark.parametrize(
        ("optimizer", "where", "words"),
        [
            ({"G": 0.1, "D": 0.2}, {"optimizer": "E"}, "'G', 'D'"),
            ({"G": 0.1, "D": 0.2}, {"group": 0}, "'G', 'D'"),
            (0.1, {"optimizer": "G"}, "single optimizer, which needs no name"),
            (None, {"optimizer": "G"}, "no optimizer"),
            (None, {"group": 0}, "no optimizer"),
            (0.1, {"group": 1}, "0 to 0"),
        ],
    )
    def test_what_is_not_there_lists_what_is(self, optimizer, where, words):
        if isinstance(optimizer, dict):
            optimizer = {name: sgd(lr) for name, lr in optimizer.items()}
        elif optimizer is not None:
            optimizer = sgd(optimizer)
        with pytest.raises(ArgumentError, match=words):
            StandIn(optimizer).fit([LinearDecay("lr", 4, 1, max_epochs=4, **where)], 1)

    @pytest.mark.parametrize("name", ["momentum", "betas", "amsgrad", "params"])
    def test_a_value_that_the_groups_lack_or_that_is_no_number_lists_the_numbers(self, name):
        adam = torch.optim.Adam(weights(2), lr=0.1)
        with pytest.raises(ArgumentError, match="'lr', 'eps', 'weight_decay'"):
            StandIn(adam).fit([LinearDecay(name, 4, 1, max_epochs=4, group=0)], 1)


class TestGroups:
    def test_without_group_all_keep_their_ratios(self):
        optimizer = sgd(0.1, 0.01, 0.2)
        StandIn(optimizer).fit([LinearDecay("lr", 1, 0, max_epochs=3)], 2, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([0.5, 0.05, 1.0])

    def test_equal_groups_stay_bit_equal(self):
        optimizer = sgd(0.3, 0.3)
        StandIn(optimizer).fit([Schedule("lr", lambda epoch: 0.1 / 3)], 1, read=lambda: None)
        assert lrs(optimizer) == [0.1 / 3, 0.1 / 3]

    def test_a_group_at_zero_stays_there(self):
        optimizer = sgd(0.0, 0.1, 0.05)
        StandIn(optimizer).fit([LinearDecay("lr", 1, 0, max_epochs=2)], 1, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([0.0, 1.0, 0.5])

    def test_all_at_zero_move_alike(self):
        optimizer = sgd(0.0, 0.0)
        StandIn(optimizer).fit([LinearDecay("lr", 1, 0, max_epochs=2)], 1, read=lambda: None)
        assert lrs(optimizer) == [1.0, 1.0]

    def test_ratios_survive_a_value_of_zero(self):
        optimizer = sgd(0.1, 0.01)
        table = {1: 1.0, 2: 0.0, 3: 2.0}
        StandIn(optimizer).fit([Schedule("lr", table.get)], 3, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([2.0, 0.2])

    def test_with_group_only_that_one_moves(self):
        optimizer = sgd(0.1, 0.01, 0.2)
        schedule = LinearDecay("lr", 1, 0, max_epochs=3, group=1)
        StandIn(optimizer).fit([schedule], 2, read=lambda: None)
        assert lrs(optimizer) == [0.1, 0.5, 0.2]
        assert schedule.targets == {("optimizer", "", 1, "lr")}

    @pytest.mark.parametrize("unit", ["epochs", "steps"])
    def test_a_group_added_between_fits_keeps_the_ratio_that_it_has_then(self, unit):
        optimizer = sgd(0.1, 0.2)
        trainer = StandIn(optimizer)
        schedule = LinearDecay("lr", 1, 0, **{f"max_{unit}": 5})
        trainer.fit([schedule], 2, batches=1, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([0.75, 1.5])
        optimizer.add_param_group({"params": weights(2), "lr": 0.25})
        trainer.fit([schedule], 1, batches=1, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([0.5, 1.0, 0.5 / 3])
        assert ("optimizer", "", 2, "lr") in schedule.targets

    def test_a_group_added_inside_a_fit_moves_with_the_rest(self):
        optimizer = sgd(0.1)
        schedule = LinearDecay("lr", 1, 0, max_steps=5)

        def read():
            if len(optimizer.param_groups) == 1:
                optimizer.add_param_group({"params": weights(2), "lr": 0.5})
            return lrs(optimizer)

        seen = StandIn(optimizer).fit([schedule], steps=3, read=read)
        assert seen == [[1.0, 0.5], pytest.approx([0.75, 0.375]), pytest.approx([0.5, 0.25])]

    def test_a_group_added_while_the_value_is_zero_moves_alike(self):
        optimizer = sgd(0.1)
        trainer, schedule = StandIn(optimizer), LinearDecay("lr", 0, 1, max_epochs=3)
        trainer.fit([schedule], 1, read=lambda: None)
        optimizer.add_param_group({"params": weights(2), "lr": 0.3})
        trainer.fit([schedule], 1, read=lambda: None)
        assert lrs(optimizer) == [0.5, 0.5]

    def test_a_tensor_is_filled_in_place(self):
        held = torch.tensor(0.5)
        optimizer = torch.optim.SGD(weights(2), lr=held)
        StandIn(optimizer).fit([LinearDecay("lr", 1, 0, max_epochs=3)], 2, read=lambda: None)
        assert optimizer.param_groups[0]["lr"] is held
        assert held.item() == 0.5

    def test_it_finds_the_groups_after_the_optimizer_loaded_its_state(self):
        optimizer = sgd(0.1, 0.01)
        trainer, schedule = StandIn(optimizer), LinearDecay("lr", 1, 0, max_epochs=3)
        trainer.fit([schedule], 1, read=lambda: None)
        optimizer.load_state_dict(optimizer.state_dict())  # makes new groups
        trainer.fit([schedule], 1, read=lambda: None)
        assert lrs(optimizer) == pytest.approx([0.5, 0.05])


class TestLife:
    def test_the_count_starts_at_the_fit_that_first_saw_it(self):
        trainer = StandIn()
        trainer.epoch, trainer.step = 5, 50
        assert trainer.fit([LinearDecay("lambd", 4, 1, max_epochs=4)], 5, batches=1) == [4, 3, 2, 1, 1]
        trainer = StandIn()
        trainer.epoch, trainer.step = 5, 50
        assert trainer.fit([LinearDecay("lambd", 4, 1, max_steps=4)], steps=5) == [4, 3, 2, 1, 1]

    @pytest.mark.parametrize("unit", ["epochs", "steps"])
    def test_a_second_fit_counts_on(self, unit):
        trainer, schedule = StandIn(), LinearDecay("lambd", 4, 1, **{f"max_{unit}": 4})
        assert trainer.fit([schedule], 2, batches=1) + trainer.fit([schedule], 3, batches=1) == [4, 3, 2, 1, 1]

    def test_a_fit_that_goes_on_inside_an_epoch_keeps_its_value(self):
        trainer, schedule = StandIn(), LinearDecay("lambd", 4, 1, max_epochs=4)
        assert trainer.fit([schedule], steps=4) == [4, 4, 4, 3]
        trainer.hyper = {"lambd": 99.0}
        assert trainer.fit([schedule], steps=4) == [3, 3, 2, 2]

    def test_a_fit_that_goes_on_inside_an_epoch_sets_the_optimizers_value(self):
        optimizer = sgd(0.1)
        trainer, schedule = StandIn(optimizer), LinearDecay("lr", 4, 1, max_epochs=4)
        trainer.fit([schedule], steps=4, read=lambda: None)
        optimizer.param_groups[0]["lr"] = 99.0
        assert trainer.fit([schedule], steps=3, read=lambda: lrs(optimizer)[0]) == [3, 3, 2]

    def test_first_seen_inside_an_epoch_that_epoch_is_the_first(self):
        trainer = StandIn(hyper={"lambd": 0.0})
        trainer.fit([], steps=4)
        assert trainer.fit([LinearDecay("lambd", 4, 1, max_epochs=4)], steps=4) == [4, 4, 3, 3]

    @pytest.mark.parametrize("unit", ["epochs", "steps"])
    def test_binding_supplies_a_hyperparameter_and_leaves_an_optimizer(self, unit):
        optimizer = sgd(0.1)
        trainer = StandIn(optimizer)
        LinearDecay("lambd", 4, 1, **{f"max_{unit}": 4}).bind(trainer, ["lambd"])
        LinearDecay("lr", 4, 1, **{f"max_{unit}": 4}).bind(trainer, ["lambd"])
        assert (trainer.hyper, lrs(optimizer)) == ({"lambd": 4.0}, [0.1])

    def test_binding_before_a_later_epoch_gives_that_epochs_value(self):
        trainer, schedule = StandIn(), LinearDecay("lambd", 4, 1, max_epochs=4)
        trainer.fit([schedule], 2)
        trainer.hyper = {}
        schedule.bind(trainer, ["lambd"])
        assert trainer.hyper == {"lambd": 2.0}

    def test_several_batches_of_one_step_have_one_value(self):
        trainer, schedule = StandIn(), LinearDecay("lambd", 4, 1, max_steps=4)
        schedule.bind(trainer, ["lambd"])
        seen = []
        for step in (0, 0, 1, 1):  # a window of two batches
            trainer.step = step
            schedule.on_batch_begin(trainer)
            seen.append(trainer.hyper["lambd"])
        assert seen == [4, 4, 3, 3]

    def test_another_trainer_starts_it_again(self):
        schedule = LinearDecay("lambd", 4, 1, max_epochs=4)
        first = StandIn()
        first.epoch = 10
        assert first.fit([schedule], 2, batches=1) == [4, 3]
        assert StandIn().fit([schedule], 3, batches=1) == [4, 3, 2]

    @pytest.mark.parametrize("first", ["load", "bind"])
    @pytest.mark.parametrize("unit", ["epochs", "steps"])
    def test_a_resumed_schedule_counts_from_the_old_start(self, unit, first):
        def make():
            return LinearDecay("lambd", 4, 1, **{f"max_{unit}": 4})

        trainer, schedule = StandIn(), make()
        trainer.epoch, trainer.step = 7, 70
        trainer.fit([schedule], 2, batches=1)
        state = json.loads(json.dumps(schedule.state_dict()))
        resumed, again = StandIn(), make()
        if first == "bind":
            again.bind(resumed, ["lambd"])
        again.load_state_dict(state)
        resumed.epoch, resumed.step = trainer.epoch, trainer.step
        assert resumed.fit([again], 3, batches=1) == [2, 1, 1]

    def test_a_resumed_schedule_keeps_the_ratios(self):
        optimizer, schedule = sgd(0.1, 0.01), LinearDecay("lr", 1, 0, max_epochs=3)
        StandIn(optimizer).fit([schedule], 1, read=lambda: None)
        state = json.loads(json.dumps(schedule.state_dict()))
        resumed = StandIn(sgd(0.1, 0.1))  # the script's ratios have changed
        resumed.epoch = 1
        again = LinearDecay("lr", 1, 0, max_epochs=3)
        again.load_state_dict(state)
        resumed.fit([again], 1, read=lambda: None)
        assert lrs(resumed.optimizer) == pytest.approx([0.5, 0.05])

    def test_before_the_first_fit_there_is_nothing_to_keep(self):
        schedule = LinearDecay("lambd", 4, 1, max_epochs=4)
        assert schedule.state_dict() == {}
        again = LinearDecay("lambd", 4, 1, max_epochs=4)
        again.load_state_dict({})
        trainer = StandIn()
        trainer.epoch = 3
        assert trainer.fit([again], 2, batches=1) == [4, 3]

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    @pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
    def test_a_copy_listens_by_itself(self, copied, limit):
        schedule = LinearDecay("lambd", 4, 1, **{limit: 4})
        other = copied(schedule)
        other.name = "other"
        trainer = StandIn()
        trainer.fit([other], None if limit == "max_steps" else 3, steps=3 if limit == "max_steps" else 9, read=dict)
        assert trainer.hyper == {"other": 2}
        assert schedule.state_dict() == {}

    def test_a_copy_moves_on_its_own(self):
        schedule = LinearDecay("lambd", 4, 1, max_steps=4)
        other = copy.deepcopy(schedule)
        trainer = StandIn()
        assert trainer.fit([other], steps=3) == [4, 3, 2]
        assert schedule.state_dict() == {}

    def test_an_event_that_it_does_not_need_costs_nothing(self):
        by_epoch, by_step = LinearDecay("a", 4, 1, max_epochs=4), LinearDecay("a", 4, 1, max_steps=4)
        for kind in (Schedule, LinearDecay, ExponentialDecay, CosineDecay, CosineAnneal, StepDecay, Warmup):
            assert kind.on_batch_begin is Callback.on_batch_begin
            assert kind.on_epoch_begin is Callback.on_epoch_begin
        assert "on_batch_begin" not in vars(by_epoch)
        assert "on_epoch_begin" not in vars(by_step)
        assert {"on_epoch_begin"} == {name for name in vars(by_epoch) if name.startswith("on_")}
        assert {"on_batch_begin"} == {name for name in vars(by_step) if name.startswith("on_")}

    def test_it_runs_before_other_callbacks(self):
        assert Schedule.order == LRSchedule.order == -1
        assert Callback.order == 0


class TestTheFunction:
    def test_an_int_stays_an_int(self):
        trainer = StandIn()
        trainer.fit([Schedule("lambd", lambda epoch: 10 * epoch)], 2)
        assert trainer.hyper["lambd"] == 20
        assert type(trainer.hyper["lambd"]) is int

    def test_a_tensor_of_one_value_is_read(self):
        assert StandIn().fit([Schedule("lambd", lambda epoch: torch.tensor(0.5 * epoch))], 2, batches=1) == [0.5, 1.0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, "4", None, torch.zeros(2)])
    def test_what_is_no_finite_number_is_refused_with_its_count(self, bad):
        trainer = StandIn()
        schedule = Schedule("lambd", lambda epoch: 1.0 if epoch < 3 else bad)
        with pytest.raises(ArgumentError, match=r"Schedule\('lambd', every='epoch'\)[\s\S]*epoch 3"):
            trainer.fit([schedule], 5)
        assert trainer.epoch == 3

    def test_its_own_exception_comes_out_unchanged(self):
        trainer = StandIn()
        with pytest.raises(ZeroDivisionError):
            trainer.fit([Schedule("other", lambda epoch: 1.0), Schedule("lambd", lambda epoch: 1 / 0)], 1)
        assert trainer.hyper == {}


class TestTwoOnOneThing:
    @pytest.mark.parametrize(
        ("make", "names"),
        [
            (
                lambda opt: [LinearDecay("lambd", 4, 1, max_epochs=4), CosineDecay("lambd", 4, max_steps=4)],
                r"LinearDecay\('lambd', every='epoch'\) and CosineDecay\('lambd', every='step'\).*'lambd'",
            ),
            (
                lambda opt: [CosineDecay("lr", 4, max_steps=4), LinearDecay("lr", 4, 1, max_epochs=4, group=1)],
                r"CosineDecay.* and LinearDecay.*group 1",
            ),
            (
                lambda opt: [Warmup(3), CosineDecay("lr", 4, max_steps=4)],
                "Warmup.* and CosineDecay.*'lr' of group 0",
            ),
            (
                lambda opt: [LRSchedule(torch.optim.lr_scheduler.StepLR(opt, 3)), Warmup(3)],
                "StepLR.* and Warmup.*'lr' of group 0",
            ),
            (
                lambda opt: [
                    LRSchedule(torch.optim.lr_scheduler.StepLR(opt, 3)),
                    LRSchedule(torch.optim.lr_scheduler.ExponentialLR(opt, 0.9), "step"),
                ],
                "StepLR.* and .*ExponentialLR",
            ),
            (
                lambda opt: [
                    LRSchedule(torch.optim.lr_scheduler.OneCycleLR(opt, 1.0, total_steps=9), "step"),
                    CosineDecay("momentum", 0.9, max_steps=4),
                ],
                "OneCycleLR.* and CosineDecay.*'momentum'",
            ),
        ],
        ids=["hyper", "group", "warm-up", "torch", "two of torch", "cycled momentum"],
    )
    def test_is_refused_and_names_both_with_nothing_changed(self, make, names):
        optimizer = sgd(0.1, 0.2, momentum=0.9)
        trainer, schedules = StandIn(optimizer), make(optimizer)
        before = [dict(group) for group in optimizer.param_groups]
        with pytest.raises(ArgumentError, match=names):
            bind_schedules(schedules, trainer, ["lambd"])
        assert trainer.hyper == {}
        assert optimizer.param_groups == before
        assert all(each.state_dict() == {} for each in schedules if isinstance(each, Schedule))

    def test_different_things_are_no_conflict(self):
        trainer = StandIn({"G": sgd(0.1, 0.2, momentum=0.9), "D": sgd(0.3)}, hyper={"lr": 1.0})
        schedules = [
            LinearDecay("lr", 4, 1, max_epochs=4),  # the hyperparameter of that name
            LinearDecay("lr", 4, 1, max_epochs=4, optimizer="G", group=0),
            LinearDecay("lr", 3, 1, max_epochs=4, optimizer="G", group=1),
            LinearDecay("momentum", 0.9, 0.5, max_epochs=4, optimizer="G"),
            LRSchedule(torch.optim.lr_scheduler.StepLR(trainer.optimizer["D"], 3)),
            Callback(),
        ]
        of_optimizers = bind_schedules(schedules, trainer, [])
        assert of_optimizers == [repr(schedule) for schedule in schedules[1:5]]
        assert trainer.hyper == {"lr": 4.0}
        assert schedules[3].targets == {("optimizer", "G", 0, "momentum"), ("optimizer", "G", 1, "momentum")}

    def test_a_later_one_that_does_not_fit_leaves_the_earlier_unbound(self):
        trainer = StandIn(sgd(0.1))
        schedules = [LinearDecay("lambd", 4, 1, max_epochs=4), LinearDecay("lr", 4, 1, max_epochs=4, group=7)]
        with pytest.raises(ArgumentError, match="group=7"):
            bind_schedules(schedules, trainer, ["lambd"])
        assert trainer.hyper == {}
        assert schedules[0].targets == frozenset()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule("", lambda epoch: 1), "name"),
        (lambda: Schedule("  ", lambda epoch: 1), "name"),
        (lambda: Schedule(3, lambda epoch: 1), "name"),
        (lambda: Schedule("a", 4), "function"),
        (lambda: Schedule("a", lambda epoch: 1, every="batch"), "every='batch'"),
        (lambda: Schedule("a", lambda epoch: 1, optimizer=sgd(0.1)), "optimizer="),
        (lambda: Schedule("a", lambda epoch: 1, optimizer=True), "optimizer="),
        (lambda: Schedule("a", lambda epoch: 1, group=-1), "group=-1"),
        (lambda: Schedule("a", lambda epoch: 1, group="0"), "group='0'"),
        (lambda: LinearDecay("", 4, 1, max_epochs=3), "name"),
        (lambda: LinearDecay("a", math.nan, 1, max_epochs=3), "start_value"),
        (lambda: LinearDecay("a", 4, math.inf, max_epochs=3), "end_value"),
        (lambda: LinearDecay("a", "4", 1, max_epochs=3), "start_value"),
        (lambda: LinearDecay("a", True, 1, max_epochs=3), "start_value"),
        (lambda: LinearDecay("a", 4, 1), "exactly one of max_epochs, max_steps"),
        (lambda: LinearDecay("a", 4, 1, max_epochs=3, max_steps=3), "max_epochs and max_steps"),
        (lambda: LinearDecay("a", 4, 1, max_epochs=0), "max_epochs"),
        (lambda: LinearDecay("a", 4, 1, max_epochs=-3), "max_epochs"),
        (lambda: LinearDecay("a", 4, 1, max_epochs=3.0), "max_epochs"),
        (lambda: LinearDecay("a", 4, 1, max_steps=True), "max_steps"),
        (lambda: LinearDecay("a", 4, 1, max_steps="3"), "max_steps"),
        (lambda: ExponentialDecay("a", 0, 1, max_epochs=3), "neither of them 0"),
        (lambda: ExponentialDecay("a", 1, 0, max_epochs=3), "neither of them 0"),
        (lambda: ExponentialDecay("a", 1, -1, max_epochs=3), "one sign"),
        (lambda: ExponentialDecay("a", 1, 2), "exactly one"),
        (lambda: CosineDecay("a", math.inf, max_epochs=3), "start_value"),
        (lambda: CosineDecay("a", 1), "exactly one"),
        (lambda: CosineAnneal("a", 1), "exactly one of period_epochs, period_steps"),
        (lambda: CosineAnneal("a", 1, period_epochs=0), "period_epochs"),
        (lambda: CosineAnneal("a", 1, period_epochs=2, multiplier=0), "multiplier"),
        (lambda: CosineAnneal("a", 1, period_epochs=2, multiplier=1.5), "multiplier"),
        (lambda: CosineAnneal("a", 1, period_epochs=2, cycles=0), "cycles"),
        (lambda: StepDecay("a", 1), "exactly one of period_epochs"),
        (lambda: StepDecay("a", 1, period_epochs=2, milestone_epochs=[3]), "period_epochs and milestone_epochs"),
        (lambda: StepDecay("a", 1, period_steps=0), "period_steps"),
        (lambda: StepDecay("a", 1, factor=0, period_epochs=2), "factor"),
        (lambda: StepDecay("a", 1, factor=1.0, period_epochs=2), "factor"),
        (lambda: StepDecay("a", 1, milestone_epochs=[]), "milestone_epochs"),
        (lambda: StepDecay("a", 1, milestone_epochs=30), "milestone_epochs"),
        (lambda: StepDecay("a", 1, milestone_epochs="30"), "milestone_epochs"),
        (lambda: StepDecay("a", 1, milestone_epochs=[3, 2]), "rising"),
        (lambda: StepDecay("a", 1, milestone_steps=[3, 3]), "rising"),
        (lambda: StepDecay("a", 1, milestone_steps=[0]), "milestone_steps"),
    ],
)
def test_a_bad_argument_is_refused_at_once(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()
