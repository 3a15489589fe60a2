"""EarlyStopping, TerminateOnNaN and TimeLimit: when a training ends, and with what words."""

from __future__ import annotations

import copy
import io
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ignition import Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch
from ignition.callbacks import stopping
from ignition.callbacks.base import Callback
from ignition.callbacks.stopping import EarlyStopping, TerminateOnNaN, TimeLimit
from ignition.errors import ArgumentError, MetricError, NotFiniteError
from ignition.history import History

NAN, INF = math.nan, math.inf


class StandIn:
    """What a callback sees of a Trainer; an epoch is ten steps, and what it measured is given."""

    def __init__(self, callback: Callback, model: Any = None) -> None:
        self.callback: Any = callback
        self.model = nn.BatchNorm1d(1) if model is None else model
        self.averaged: dict[str, Any] = {}
        self.history = History()
        self.epoch = self.step = 0
        self.exception: BaseException | None = None
        self.stop_reason: str | None = None
        self.batch_metrics: dict[str, Any] = {}

    def stop(self, reason: str) -> None:
        self.stop_reason = reason

    def fit(self, *records: dict[str, Any], exception: BaseException | None = None) -> int:
        """Returns after how many records the training stopped."""
        self.stop_reason, self.exception, number = None, None, 0
        self.callback.on_train_begin(self)
        for number, record in enumerate(records, start=1):
            if self.stop_reason is not None:
                number -= 1
                break
            self.record(**record)
        self.exception = exception
        self.callback.on_train_end(self)
        return number

    def record(self, **values: Any) -> None:
        """Ten steps, whose only effect is that the weights are the number of steps."""
        self.epoch += 1
        self.step += 10
        if isinstance(self.model, nn.Module):
            for tensor in self.model.state_dict().values():
                tensor.fill_(self.step)
        row = {"epoch": self.epoch, "step": self.step, **values}
        self.callback.check_columns([*dict.fromkeys([*self.history.columns, *row])])
        self.history.append(row, epoch_ended=True)
        self.callback.on_record(self)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"val_loss": value} for value in values]


# EarlyStopping: when


@pytest.mark.parametrize(
    ("arguments", "values", "stops_after"),
    [
        ({"patience": 1}, [3, 2, 1, 1, 0], 4),  # equal is no improvement
        ({"patience": 2}, [3, 4, 2, 3, 3, 1], 5),
        ({"patience": 2}, [3, 4, 2, 3, 1], None),
        ({"patience": 3}, [1, 1, 1, 1, 1, 1], 4),
        ({"patience": 2}, [1, 0.0, 0.0, 0.0], 4),  # 0.0 is the best so far
        ({"patience": 2}, [NAN, NAN, 1], 2),
        ({"patience": 3}, [NAN, NAN, 1, NAN, NAN, NAN, 0], 6),
        ({"patience": 2}, [INF, 1, INF, 2, 0], 4),
        ({"patience": 2, "min_delta": 1}, [10, 9, 8, 7, 6], None),  # 8 and 6 are more than 1 below 10 and 8
        ({"patience": 2, "min_delta": 2}, [10, 9, 8, 7, 6], 3),
        ({"patience": 2, "min_delta": 0.5}, [10, 9.5, 9.5, 1], 3),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 2, 4], 4),
        ({"patience": 2, "mode": "max", "min_delta": 1}, [0, 1, 2, 3, 3, 3], 5),
    ],
)
def test_the_training_stops_when_the_patience_is_at_its_end(
    arguments: dict[str, Any], values: list[float], stops_after: int | None
) -> None:
    trainer = StandIn(EarlyStopping("val_loss", **arguments))

    assert trainer.fit(*losses(*values)) == (len(values) if stops_after is None else stops_after)
    assert (trainer.stop_reason is None) == (stops_after is None)


@given(
    values=st.lists(st.integers(-5, 5) | st.just(NAN), min_size=1, max_size=30),
    patience=st.integers(1, 4),
    min_delta=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_place_of_the_stop_is_that_of_the_definition(
    values: list[float], patience: int, min_delta: int, mode: Any
) -> None:
    sign = -1 if mode == "min" else 1
    reference, last_improvement, expected = -INF, 0, len(values)
    for number, value in enumerate(values, start=1):
        if sign * value > reference + (min_delta if reference > -INF else 0):
            reference, last_improvement = sign * value, number
        if number - last_improvement == patience:
            expected = number
            break
    callback = EarlyStopping("val_x", patience, min_delta, mode)

    assert StandIn(callback, {}).fit(*[{"val_x": value} for value in values]) == expected
    seen = [value for value in values[:expected] if not math.isnan(value)]
    assert callback.best_value == ((min if mode == "min" else max)(seen) if seen else None)


def test_a_record_that_lacks_the_metric_is_no_improvement() -> None:
    trainer = StandIn(EarlyStopping("val_loss", 2))

    assert trainer.fit({"val_loss": 1}, {"train_loss": 0}, {"train_loss": 0}, {"val_loss": 0}) == 3


def test_a_metric_that_nobody_returns_is_an_error_at_the_first_record_that_lists_what_there_is() -> None:
    with pytest.raises(MetricError, match=r"'val_acc'(.|\n)*train_loss, val_loss"):
        StandIn(EarlyStopping("val_acc", 3)).fit({"train_loss": 1.0, "val_loss": 1.0})


@pytest.mark.parametrize(
    ("callback", "values", "reason"),
    [
        (
            EarlyStopping("val_loss", 2),
            [0.5, 0.0, 1, 1],
            "val_loss has not improved for 2 records; the best was 0 in epoch 2",
        ),
        (
            EarlyStopping("val_loss", 1, min_delta=0.01),
            [0.5, 0.495],
            "val_loss has not improved by more than 0.01 for 1 record; the best was 0.495 in epoch 2",
        ),
        (EarlyStopping("val_loss", 2), [NAN, NAN], "val_loss was NaN for 2 records"),
    ],
)
def test_the_reason_names_metric_best_value_and_epoch(
    callback: EarlyStopping, values: list[float], reason: str
) -> None:
    trainer = StandIn(callback)
    trainer.fit(*losses(*values))

    assert trainer.stop_reason == reason


@pytest.mark.parametrize("metric", ["val_loss", "train_mse"])
def test_the_direction_is_read_from_the_name_or_given(metric: str) -> None:
    assert EarlyStopping(metric, 1).mode == "min"
    assert EarlyStopping(metric, 1, mode="max").mode == "max"


# EarlyStopping: from fit to fit


def test_the_next_fit_starts_its_patience_afresh_and_keeps_the_best() -> None:
    callback = EarlyStopping("val_loss", 2)
    trainer = StandIn(callback)

    assert trainer.fit(*losses(1, 2, 2)) == 3
    assert trainer.stop_reason is not None
    assert trainer.fit(*losses(2, 2, 2, 2)) == 2
    assert trainer.stop_reason is not None
    assert trainer.fit(*losses(2, 0.5, 2)) == 3
    assert trainer.stop_reason is None
    assert (callback.best_value, callback.best_epoch) == (0.5, 7)


def test_an_exception_ends_the_patience_of_its_fit_too() -> None:
    trainer = StandIn(EarlyStopping("val_loss", 2))
    trainer.fit(*losses(1, 2), exception=KeyboardInterrupt())

    assert trainer.fit(*losses(2, 2, 2)) == 2


def test_a_trainer_without_history_starts_again() -> None:
    callback = EarlyStopping("val_loss", 2, restore_best=True)
    StandIn(callback, nn.Linear(1, 1)).fit(*losses(0.1))
    other = StandIn(callback, nn.Linear(5, 5))

    assert other.fit(*losses(3, 2, 1)) == 3
    assert (callback.best_value, callback.best_epoch) == (1, 3)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_a_resumed_training_stops_where_the_uninterrupted_one_does(cut: int) -> None:
    records = losses(3, 2, 4, 4, 4, 4, 4)
    whole = StandIn(EarlyStopping("val_loss", 3, restore_best=True))
    assert whole.fit(*records) == 5

    first = StandIn(EarlyStopping("val_loss", 3, restore_best=True))
    first.callback.on_train_begin(first)
    for record in records[:cut]:
        first.record(**record)
    file = io.BytesIO()
    torch.save(first.callback.state_dict(), file)  # what weights_only takes is numbers, tensors and plain containers
    file.seek(0)
    resumed = StandIn(EarlyStopping("val_loss", 3, restore_best=True))
    resumed.callback.load_state_dict(torch.load(file, weights_only=True))
    resumed.model.load_state_dict(first.model.state_dict())
    resumed.history, resumed.epoch, resumed.step = copy.deepcopy(first.history), first.epoch, first.step

    assert cut + resumed.fit(*records[cut:]) == 5
    assert resumed.stop_reason == whole.stop_reason
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


# EarlyStopping: the weights


def test_the_best_weights_and_buffers_are_put_back_at_the_end() -> None:
    callback = EarlyStopping("val_loss", 2, restore_best=True)
    trainer = StandIn(callback)
    trainer.fit(*losses(3, 1, 2, 2))

    assert callback.best_epoch == 2
    assert {float(value) for value in trainer.model.state_dict().values()} == {20.0}
    assert len(trainer.model.state_dict()) == 5  # weight, bias, mean, variance, number of batches


def test_the_best_weights_are_those_of_the_best_value_though_it_improved_by_less_than_min_delta() -> None:
    trainer = StandIn(EarlyStopping("val_loss", 2, min_delta=1, restore_best=True))
    trainer.fit(*losses(3, 2.5, 2.9))

    best = trainer.history.best_epoch("val_loss")
    assert best is not None
    assert trainer.model.weight.item() == best.step == 20


def test_the_best_weights_are_put_back_also_where_the_epochs_ran_out() -> None:
    trainer = StandIn(EarlyStopping("val_loss", 9, restore_best=True))
    trainer.fit(*losses(1, 2))

    assert trainer.model.weight.item() == 10


@pytest.mark.parametrize(("restore_best", "records"), [(False, losses(1, 2)), (True, losses(NAN, NAN))])
def test_the_weights_stay_without_restore_best_or_without_a_best(
    restore_best: bool, records: list[dict[str, float]]
) -> None:
    trainer = StandIn(EarlyStopping("val_loss", 9, restore_best=restore_best))
    trainer.fit(*records)

    assert trainer.model.weight.item() == 20


def test_the_weights_stay_when_something_was_raised() -> None:
    trainer = StandIn(EarlyStopping("val_loss", 9, restore_best=True))
    trainer.fit(*losses(1, 2), exception=ValueError())

    assert trainer.model.weight.item() == 20


def test_the_weights_of_several_models_are_put_back() -> None:
    models = {"G": nn.Linear(2, 2), "D": nn.Linear(2, 1)}
    before = copy.deepcopy([model.state_dict() for model in models.values()])
    trainer = StandIn(EarlyStopping("val_loss", 9, restore_best=True), models)
    trainer.callback.on_train_begin(trainer)
    trainer.record(val_loss=1)
    for model in models.values():
        nn.init.zeros_(model.weight)
    trainer.record(val_loss=2)
    trainer.callback.on_train_end(trainer)

    for model, reference in zip(models.values(), before, strict=True):
        assert torch.equal(model.weight, reference["weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("val_energy", 3), r"'val_energy'(.|\n)*mode='min' or mode='max'"),
        (("val_loss", 3, 0, "down"), "mode is 'down'"),
        ((None, 3), "None as the name of a metric"),
        (("val_loss", 0), "patience of EarlyStopping is 0"),
        (("val_loss", -1), "patience of EarlyStopping is -1"),
        (("val_loss", 2.5), "patience of EarlyStopping is 2.5"),
        (("val_loss", True), "patience of EarlyStopping is True"),
        (("val_loss", "max"), "patience of EarlyStopping is 'max'"),
        (("val_loss", 3, -0.1), "min_delta of EarlyStopping is -0.1"),
        (("val_loss", 3, NAN), "min_delta of EarlyStopping is nan"),
        (("val_loss", 3, INF), "min_delta of EarlyStopping is inf"),
        (("val_loss", 3, "max"), "min_delta of EarlyStopping is 'max'"),
    ],
)
def test_wrong_arguments_of_early_stopping_are_errors_at_once(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EarlyStopping(*arguments)


# TerminateOnNaN


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_batch_that_is_not_finite_ends_the_training_with_its_name_value_and_step(
    value: float, as_tensor: bool
) -> None:
    trainer = StandIn(TerminateOnNaN())
    trainer.epoch, trainer.step = 3, 41
    trainer.batch_metrics = {"acc": 0.0, "loss": torch.tensor(value) if as_tensor else value}

    with pytest.raises(NotFiniteError, match=rf"^'loss' is {value} in step 42 \(epoch 3\)\n.*\n  to do: "):
        trainer.callback.on_batch_end(trainer)


@pytest.mark.parametrize(
    "metrics", [{}, {"loss": 0.0, "acc": 1}, {"loss": torch.tensor(2), "x": torch.tensor(True)}, {"auc": object()}]
)
def test_finite_batches_pass(metrics: dict[str, Any]) -> None:
    trainer = StandIn(TerminateOnNaN())
    trainer.batch_metrics = metrics
    trainer.callback.on_batch_end(trainer)


@pytest.mark.parametrize("column", ["val_loss", "train_loss", "val_ema_loss"])
@pytest.mark.parametrize("names", [None, "loss", ["loss", "acc"]])
def test_a_record_that_is_not_finite_ends_the_training(column: str, names: Any) -> None:
    trainer = StandIn(TerminateOnNaN(names))
    trainer.fit({"train_acc": 0.0, column: 0.0})

    with pytest.raises(NotFiniteError, match=rf"^'{column}' is inf in the record after step 20 \(epoch 2\)"):
        trainer.record(train_acc=0.0, **{column: INF})


def test_a_record_that_only_lacks_a_metric_passes_and_so_do_other_columns() -> None:
    StandIn(TerminateOnNaN()).fit({"val_loss": 1, "lambd": NAN}, {"train_loss": 1, "lr": INF}, {"val_loss": 1})


@pytest.mark.parametrize("names", ["loss", ("loss",), {"train_loss"}])
def test_only_the_named_metrics_are_looked_at(names: Any) -> None:
    trainer = StandIn(TerminateOnNaN(names))
    trainer.batch_metrics = {"loss": 1.0, "best": INF}
    trainer.callback.on_batch_end(trainer)
    trainer.fit({"train_loss": 1.0, "train_best": INF, "val_best": NAN})

    trainer.batch_metrics = {"loss": NAN}
    with pytest.raises(NotFiniteError):
        trainer.callback.on_batch_end(trainer)


def test_a_name_of_an_evaluations_column_looks_at_no_batch() -> None:
    trainer = StandIn(TerminateOnNaN("val_loss"))
    trainer.batch_metrics = {"loss": NAN}
    trainer.callback.on_batch_end(trainer)
    trainer.fit({"train_loss": NAN, "val_loss": 1.0})

    with pytest.raises(NotFiniteError):
        trainer.record(val_loss=NAN)


def test_a_name_that_nobody_returns_is_an_error_at_the_first_record_that_lists_what_there_is() -> None:
    with pytest.raises(MetricError, match=r"'los', which(.|\n)*train_loss, val_acc"):
        StandIn(TerminateOnNaN(["loss", "los"])).fit({"train_loss": 1.0, "val_acc": 1.0, "lr": 0.1})


def test_a_name_that_nobody_returns_leaves_history_as_it_was() -> None:
    trainer = Trainer(nn.Identity(), None, lambda model, x: 1.0, [torch.zeros(2)], device="cpu", progress=False)
    trainer.callbacks = [TerminateOnNaN("los")]
    with pytest.raises(MetricError, match="'los'"):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0
    trainer.callbacks = []
    assert trainer.fit(epochs=1)["epoch"] == [1]


@pytest.mark.parametrize("metrics", [[], "", [""], [1], 3, True])
def test_what_is_no_name_of_a_metric_is_an_error_at_once(metrics: Any) -> None:
    with pytest.raises(ArgumentError, match="names of metrics"):
        TerminateOnNaN(metrics)


@pytest.mark.gpu
def test_metrics_on_an_accelerator_are_looked_at() -> None:
    trainer = StandIn(TerminateOnNaN())
    trainer.batch_metrics = {"loss": torch.tensor(NAN, device=torch.accelerator.current_accelerator())}

    with pytest.raises(NotFiniteError, match="'loss' is nan in step 1"):
        trainer.callback.on_batch_end(trainer)


# TimeLimit


class Clock:
    """Stands for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopping, "time", clock)
    return clock


@pytest.mark.parametrize(("limit", "shown"), [("1min", "1min"), (60, "60 seconds"), (60.0, "60 seconds")])
def test_the_time_limit_stops_at_the_first_step_after_it(limit: Any, shown: str, clock: Clock) -> None:
    trainer = StandIn(TimeLimit(limit))
    clock.now = 5000
    trainer.callback.on_train_begin(trainer)
    trainer.step = 6
    clock.now += 59.9
    trainer.callback.on_step_end(trainer)
    assert trainer.stop_reason is None

    trainer.step = 7
    clock.now += 0.1
    trainer.callback.on_step_end(trainer)
    assert trainer.stop_reason == f"the time limit of {shown} was reached at step 7"


def test_each_fit_has_the_whole_time(clock: Clock) -> None:
    trainer = StandIn(TimeLimit("10s"))
    for _ in range(3):
        trainer.stop_reason = None
        trainer.callback.on_train_begin(trainer)
        clock.now += 9
        trainer.callback.on_step_end(trainer)
        assert trainer.stop_reason is None
        clock.now += 2
        trainer.callback.on_step_end(trainer)
        assert trainer.stop_reason is not None


@pytest.mark.parametrize("limit", [0, -1, NAN, INF, "", "10m", "soon", None, True])
def test_what_is_no_time_limit_is_an_error_at_once(limit: Any) -> None:
    with pytest.raises(ArgumentError, match="the limit of TimeLimit is"):
        TimeLimit(limit)


def test_the_callbacks_say_what_they_are() -> None:
    assert repr(EarlyStopping("val_loss", 3)) == "EarlyStopping('val_loss', patience=3, mode='min')"
    assert repr(TerminateOnNaN()) == "TerminateOnNaN()"
    assert repr(TerminateOnNaN({"loss", "acc"})) == "TerminateOnNaN(['acc', 'loss'])"
    assert repr(TimeLimit("2h")) == "TimeLimit('2h')"


# In a training


def make_trainer(
    model: nn.Module, data: tuple[Tensor, Tensor], loader: DataLoader[Any], lr: float
) -> Trainer[nn.Module]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def train_fn(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def eval_fn(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    return Trainer(model, optimizer, train_fn, loader, eval_fn, [data], progress=False, device="cpu")


def test_a_training_that_stopped_early_measures_as_its_best_record_and_goes_on_when_asked(
    tiny_model: nn.Module, tiny_data: tuple[Tensor, Tensor], tiny_loader: DataLoader[Any]
) -> None:
    trainer = make_trainer(tiny_model, tiny_data, tiny_loader, lr=3.0)
    callback = EarlyStopping("val_loss", patience=3, restore_best=True)
    trainer.callbacks = [callback]
    trainer.fit(epochs=200)

    best = trainer.history.best_epoch("val_loss")
    assert best is not None
    assert trainer.epoch == best.epoch + 3
    assert trainer.stop_reason == (
        f"val_loss has not improved for 3 records; the best was {best.value:.6g} in epoch {best.epoch}"
    )
    assert trainer.evaluate()["loss"] == pytest.approx(best.value, rel=1e-6)

    stopped = trainer.epoch
    trainer.fit(epochs=2)
    assert trainer.epoch == stopped + 2


def test_a_training_ends_before_the_step_after_the_one_that_was_nan(
    tiny_model: nn.Module, tiny_data: tuple[Tensor, Tensor], tiny_loader: DataLoader[Any]
) -> None:
    trainer = make_trainer(tiny_model, tiny_data, tiny_loader, lr=0.1)
    calls = 0
    train_fn = trainer.train_fn

    def breaks_in_the_third_batch(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return train_fn(model, x * NAN if calls == 3 else x, y)

    trainer = Trainer(
        tiny_model, trainer.optimizer, breaks_in_the_third_batch, tiny_loader, progress=False, device="cpu"
    )
    trainer.callbacks = [TerminateOnNaN()]
    with pytest.raises(NotFiniteError, match=re.escape("'loss' is nan in step 3 (epoch 1)")):
        trainer.fit(epochs=1)
    assert calls == 3


def test_a_training_stops_at_its_time_limit(
    tiny_model: nn.Module, tiny_data: tuple[Tensor, Tensor], tiny_loader: DataLoader[Any], clock: Clock
) -> None:
    trainer = make_trainer(tiny_model, tiny_data, tiny_loader, lr=0.1)

    @trainer.on("batch_begin")
    def a_second_passes(trainer: Any) -> None:
        clock.now += 1

    trainer.callbacks = [TimeLimit("8s")]
    trainer.fit(epochs=100)
    assert (trainer.step, trainer.stop_reason) == (8, "the time limit of 8s was reached at step 8")
    trainer.fit(epochs=100)
    assert trainer.step == 16
