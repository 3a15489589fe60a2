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
from scheduling import StandIn, lrs, sgd

from ignition.callbacks.schedules import (
    CosineAnneal,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    StepDecay,
    Warmup,
)
from ignition.errors import ArgumentError

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


@pytest.mark.parametrize(
    ("make", "words"),
    [
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
