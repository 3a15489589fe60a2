"""Warmup: a slow start, by the table of its formula."""

import json
import math

import pytest
import torch
from scheduling import StandIn, lrs, sgd
from torch import nn

from ignition import Trainer
from ignition.callbacks import LinearDecay, Schedule, Warmup
from ignition.callbacks.schedules import CosineDecay, StepDecay
from ignition.errors import ArgumentError

batches = [torch.zeros(1)] * 4


def rates(schedule, epochs=2, lr=0.8):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    seen = []

    def train_fn(model, x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        seen.append(optimizer.param_groups[0]["lr"])

    trainer = Trainer(model, optimizer, train_fn, batches, progress=False)
    trainer.callbacks = [schedule]
    trainer.fit(epochs=epochs)
    return seen


def test_alone_it_brings_the_optimizers_own_value_up_to_what_it_was():
    # lr * s / steps for s = 1 ... 4
    assert rates(Warmup(4)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_it_begins_with_its_start_factor():
    # lr * (f + (1 - f) s / steps), f = 0.5
    assert rates(Warmup(4, start_factor=0.5)) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_what_comes_then_counts_from_its_end():
    then = LinearDecay("lr", start_value=1.0, end_value=0.0, max_steps=5)
    assert rates(Warmup(2, then=then)) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_what_comes_then_by_epoch_is_scaled_while_it_warms_up():
    then = LinearDecay("lr", start_value=1.0, end_value=0.5, max_epochs=2)
    assert rates(Warmup(2, then=then)) == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])


def test_it_takes_the_name_of_what_comes_then():
    assert Warmup(2, then=Schedule("momentum", lambda step: 0.9, every="step")).name == "momentum"
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        Warmup(2, then=Schedule("momentum", lambda step: 0.9, every="step"), name="lr")


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 1.5}, {"steps": 2, "start_factor": float("nan")}])
def test_what_makes_no_warm_up_is_an_error(arguments):
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        Warmup(**arguments)


def test_a_value_of_zero_cannot_be_warmed_up_to():
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        rates(Warmup(2), lr=0.0)


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
