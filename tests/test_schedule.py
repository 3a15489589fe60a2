"""What a schedule is: what its name means, what its function may return, and no two that move the same."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scheduling import StandIn, lrs, sgd, weights

from ignition import Callback
from ignition.callbacks.schedule import Schedule, bind_schedules, finite, positive_count
from ignition.callbacks.schedules import (
    CosineAnneal,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    LRSchedule,
    StepDecay,
    Warmup,
)
from ignition.errors import ArgumentError, IgnitionWarning


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
        with pytest.warns(IgnitionWarning, match="'lr' at 0 in all groups, which so have no ratio"):
            StandIn(optimizer).fit([LinearDecay("lr", 1, 0, max_epochs=2)], 1, read=lambda: None)
        assert lrs(optimizer) == [1.0, 1.0]
        alone = sgd(0.0)
        StandIn(alone).fit([LinearDecay("lr", 1, 0, max_epochs=2)], 1, read=lambda: None)  # without a warning
        assert lrs(alone) == [1.0]

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


class TestItsEvents:
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
    ],
)
def test_a_bad_argument_is_refused_at_once(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


@pytest.mark.parametrize("value", [3, -2.5, 0, np.float32(0.5), np.int64(7), Fraction(1, 4)])
def test_a_finite_number_of_any_kind_becomes_a_float(value):
    assert finite("end_value", value) == float(value)
    assert type(finite("end_value", value)) is float


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (math.nan, "such as 0.1"),
        (-math.inf, "such as 0.1"),
        (True, "such as 0.1"),
        (None, "such as 0.1"),
        (1j, "such as 0.1"),
        ("0.3", "without quotes"),
        (torch.tensor(0.3), r"\.item\(\)"),
    ],
)
def test_what_is_no_finite_number_is_named_with_what_to_do(value, fix):
    with pytest.raises(ArgumentError, match=rf"(?s)^end_value is .*expected: a finite number\n  to do: .*{fix}"):
        finite("end_value", value)


@pytest.mark.parametrize("value", [1, 300, np.int64(7)])
def test_a_whole_number_of_1_or_more_becomes_an_int(value):
    assert positive_count("max_steps", value) == value
    assert type(positive_count("max_steps", value)) is int


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (0, "such as 10"),
        (-1, "such as 10"),
        (2.0, "such as 10"),
        (True, "such as 10"),
        (None, "such as 10"),
        ("3", "without quotes"),
        (torch.tensor(3), r"\.item\(\)"),
    ],
)
def test_what_is_no_count_is_named_with_what_to_do(value, fix):
    with pytest.raises(ArgumentError, match=rf"(?s)^max_steps is .*expected: a whole number.*to do: .*{fix}"):
        positive_count("max_steps", value)
