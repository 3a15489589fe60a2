"""Averages of the weights, against ones that are worked out by hand or by torch's own tools."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchmetrics
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

from ignition import Trainer, evaluate, freeze, optimize
from ignition.callbacks import EMA, SWA, EarlyStopping, SaveModel
from ignition.errors import ArgumentError


def network(seed=0):
    """Inputs (batch, 3) to (batch, 2), with two batch norms."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        )


def batches(count=5, size=4):
    generator = torch.Generator().manual_seed(2)
    return [tuple(torch.randn(size, width, generator=generator) for width in (3, 2)) for _ in range(count)]


def eval_fn(model, x, y):
    return {"loss": functional.mse_loss(model(x), y)}


def training(model, loader=None, *, measured=True, **settings):
    """A Trainer of one model or of several, all trained on the same data."""
    models = list(model.values()) if isinstance(model, dict) else model if isinstance(model, (list, tuple)) else [model]
    optimizer = torch.optim.SGD([p for one in models for p in one.parameters()], lr=0.1, momentum=0.9)

    def train_fn(received, x, y):
        loss = sum(functional.mse_loss(one(x), y) for one in models)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def measure(received, x, y):
        several = received.values() if isinstance(received, dict) else received
        return (
            eval_fn(received, x, y)
            if isinstance(received, nn.Sequential)
            else {"loss": sum(functional.mse_loss(one(x), y) for one in several)}
        )

    loader = batches() if loader is None else loader
    evaluation = (measure, batches(2)) if measured else ()
    return Trainer(model, optimizer, train_fn, loader, *evaluation, device="cpu", progress=False, **settings)


def weights_by_hand(steps):
    """The state dict after each step of the same training, without a Trainer."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    states, data = [], batches()
    for number in range(steps):
        x, y = data[number % 5]
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def average_by_hand(states, decay):
    """What the formula gives for these states, one number at a time; buffers are the last ones'."""
    trained = dict(network().named_parameters())
    average = copy.deepcopy(states[0])
    for state in states[1:]:
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * state[name] if name in trained else state[name]
    return average


def assert_equal(state, expected, tolerance=1e-6):
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance)


# EMA


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("every", "start"), [(1, 0), (1, 4), (3, 0), (2, 5), (100, 2)])
def test_the_average_is_that_of_the_formula(decay, every, start):
    trainer = training(network())
    trainer.callbacks = [EMA(decay, every=every, start=start)]
    trainer.fit(epochs=2)
    states = weights_by_hand(10)
    expected = average_by_hand(states[start::every], decay)
    buffers = {name for name, _ in network().named_buffers()}
    last = states[start::every][-1]
    assert_equal(trainer.averaged["ema"].state_dict(), {**expected, **{name: last[name] for name in buffers}})
    assert_equal(trainer.model.state_dict(), states[-1], 0)


def test_there_is_no_average_before_the_start():
    trainer = training(network())
    trainer.callbacks = [EMA(0.5, start=7)]
    history = trainer.fit(epochs=1)
    assert trainer.averaged == {}
    assert not any(column.startswith("val_ema") for column in history.columns)
    history = trainer.fit(epochs=1)
    assert set(trainer.averaged) == {"ema"}
    assert math.isnan(history["val_ema_loss"][0])
    assert not math.isnan(history["val_ema_loss"][1])


def test_it_is_evaluated_beside_the_model():
    trainer = training(network())
    trainer.callbacks = [EMA(0.9)]
    history = trainer.fit(epochs=2)
    states = weights_by_hand(10)
    for epoch in (1, 2):
        for column, state in (
            ("val_loss", states[5 * epoch - 1]),
            ("val_ema_loss", average_by_hand(states[: 5 * epoch], 0.9)),
        ):
            model = network()
            model.load_state_dict(state)
            expected = evaluate(model, eval_fn, batches(2), device="cpu", progress=False)["loss"]
            assert history[column][epoch - 1] == pytest.approx(expected, abs=1e-6)
    assert history.columns.index("val_ema_loss") == history.columns.index("val_loss") + 1
    assert set(trainer.evaluate()) == {"loss", "ema_loss"}


def test_a_step_that_moves_no_optimizer_does_not_count():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    after = []

    def train_fn(model, x, y):
        if len(after) % 3 == 1:
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
        after.append(copy.deepcopy(model.state_dict()))

    trainer = Trainer(model, optimizer, train_fn, batches()[1:], device="cpu", progress=False)
    trainer.callbacks = [EMA(0.5)]
    after.append(None)  # so that the first call is one that steps
    trainer.fit(epochs=2)
    stepped = [state for number, state in enumerate(after) if number % 3 == 2]
    assert len(stepped) == 3
    expected = average_by_hand(stepped, 0.5)
    trained = dict(model.named_parameters())
    state = trainer.averaged["ema"].state_dict()
    assert_equal({name: state[name] for name in trained}, {name: expected[name] for name in trained})


@pytest.mark.parametrize(
    "fits", [[{"epochs": 2}], [{"epochs": 1}] * 2, [{"steps": 3}, {"steps": 1}, {"epochs": 1}, {"epochs": 1}]]
)
def test_it_goes_on_from_fit_to_fit(fits):
    trainer = training(network(), measured=False)
    trainer.callbacks = [EMA(0.9, every=2, start=1)]
    for goal in fits:
        trainer.fit(**goal)
    expected = average_by_hand(weights_by_hand(10)[1::2], 0.9)
    assert_equal(trainer.averaged["ema"].state_dict(), expected)


@pytest.mark.parametrize("same_model", [False, True])
def test_another_trainer_begins_anew(same_model):
    average, model = EMA(0.9, start=2), network()
    first = training(model)
    first.callbacks = [average]
    first.fit(epochs=1)
    if same_model:
        model.load_state_dict(network().state_dict())
    second = training(model if same_model else network())
    second.callbacks = [average]
    second.fit(epochs=2)
    assert_equal(second.averaged["ema"].state_dict(), average_by_hand(weights_by_hand(10)[2:], 0.9))


def test_a_model_that_was_exchanged_for_another_has_an_average_of_its_own():
    trainer = training([network(1), network(1)])
    trainer.callbacks = [EMA(0.9)]
    trainer.fit(epochs=1)
    trainer.model[0] = network()
    trainer.fit(epochs=1)
    assert_equal(trainer.averaged["ema"][0].state_dict(), trainer.model[0].state_dict(), 0)


def test_it_is_a_copy_in_evaluation_mode_and_the_model_is_left_as_it_was():
    model = network()
    freeze(model[0])
    trainer = training(model)
    trainer.callbacks = [EMA(0.9)]
    trainer.fit(epochs=1)
    average = trainer.averaged["ema"]
    assert type(average) is nn.Sequential
    assert not any(part.training for part in average.modules())
    assert [part.training for part in model] == [False, True, True, True, True, True]
    assert {id(p) for p in average.parameters()}.isdisjoint({id(p) for p in model.parameters()})
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 8
    assert torch.equal(average[0].weight, network()[0].weight), "what is frozen is its own average, to the bit"


STRUCTURES = {"list": list, "tuple": tuple, "dict": lambda models: dict(zip("GD", models, strict=True))}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_several_models_have_an_average_each(kind, tmp_path):
    trainer = training(STRUCTURES[kind]([network(), network(1)]))
    trainer.callbacks = [EMA(0.9), SaveModel(tmp_path / "models.pt")]
    history = trainer.fit(epochs=1)
    averages = trainer.averaged["ema"]
    assert type(averages) is type(trainer.model)
    first, second = averages.values() if kind == "dict" else averages
    assert_equal(first.state_dict(), average_by_hand(weights_by_hand(5), 0.9))
    losses = [evaluate(one, eval_fn, batches(2), device="cpu", progress=False)["loss"] for one in (first, second)]
    assert history["val_ema_loss"] == [pytest.approx(sum(losses))]
    saved = torch.load(tmp_path / "models.ema.pt", weights_only=True)
    assert list(saved) == (["G", "D"] if kind == "dict" else ["0", "1"])
    for state, model in zip(saved.values(), (first, second), strict=True):
        assert_equal(state, model.state_dict(), 0)


@pytest.mark.parametrize(("ending", "read"), [(".pt", torch.load), (".safetensors", load_file)])
def test_it_is_saved_beside_the_raw_weights(tmp_path, ending, read):
    trainer = training(network())
    trainer.callbacks = [EMA(0.9, start=5), SaveModel(tmp_path / f"{{epoch}}{ending}")]
    trainer.fit(epochs=2)
    names = [f"1{ending}", f"2.ema{ending}", f"2{ending}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    states = weights_by_hand(10)
    assert_equal(read(tmp_path / f"2{ending}"), states[-1], 0)
    assert_equal(read(tmp_path / f"2.ema{ending}"), average_by_hand(states[5:], 0.9))
    fresh = network(9)
    fresh.load_state_dict(read(tmp_path / f"2.ema{ending}"))
    assert_equal(fresh.state_dict(), trainer.averaged["ema"].state_dict(), 0)


@pytest.mark.parametrize("cut", [1, 3, 5, 7])
def test_its_state_goes_on_in_another_process(cut):
    first = training(network(), measured=False)
    first.callbacks = [EMA(0.9, every=2, start=2)]
    first.fit(steps=cut)
    kept = copy.deepcopy(first.callbacks[0].state_dict())
    first.fit(steps=1)  # what was kept is no part of what goes on

    model = network(7)
    second = training(model, batches()[cut % 5 :] + batches()[: cut % 5], measured=False)
    model.load_state_dict(weights_by_hand(cut)[-1])
    second.callbacks = [EMA(0.9, every=2, start=2)]
    second.callbacks[0].load_state_dict(kept)
    assert second.callbacks[0].state_dict()["updates"] == cut
    seen = []
    second.on("step_end")(lambda trainer: seen.append(copy.deepcopy(model.state_dict())))
    second.fit(steps=10 - cut)
    expected = average_by_hand((weights_by_hand(cut) + seen)[2::2], 0.9)
    assert_equal(second.averaged["ema"].state_dict(), expected)


def test_a_state_can_be_put_back_between_two_fits():
    trainer = training(network())
    trainer.callbacks = [average] = [EMA(0.9)]
    trainer.fit(epochs=1)
    kept, weights = average.state_dict(), copy.deepcopy(trainer.averaged["ema"].state_dict())
    trainer.fit(epochs=1)
    average.load_state_dict(kept)
    assert_equal(trainer.averaged["ema"].state_dict(), weights, 0)
    assert average.state_dict()["updates"] == 5


def test_a_state_of_other_models_is_an_error():
    first = training([network(), network()])
    first.callbacks = [EMA(0.9)]
    first.fit(epochs=1)
    second = training(network())
    second.callbacks = [EMA(0.9)]
    second.callbacks[0].load_state_dict(first.callbacks[0].state_dict())
    with pytest.raises(ArgumentError, match=r"(?s)the models 0, 1 was loaded, and the Trainer has one model.*to do: "):
        second.fit(epochs=1)


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    trainer = training(model)
    trainer.callbacks = [EMA(0.5)]
    trainer.fit(epochs=1)
    average = trainer.averaged["ema"]
    assert average[0].weight is average[1].weight


def test_hooks_are_gone_after_the_fit():
    trainer = training(network())
    trainer.callbacks = [EMA(0.5)]
    trainer.on("step_end")(lambda trainer: 1 / 0 if trainer.step == 7 else None)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=2)
    assert not trainer.optimizer._optimizer_step_post_hooks
    assert not trainer.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay of EMA is 1\.0"),
        ({"decay": -0.1}, r"decay of EMA is -0\.1"),
        ({"decay": math.nan}, "decay of EMA is nan"),
        ({"decay": "0.9"}, "decay of EMA is '0.9'"),
        ({"decay": True}, "decay of EMA is True"),
        ({"decay": 0.9, "every": 0}, "every of EMA is 0"),
        ({"decay": 0.9, "every": 1.5}, r"every of EMA is 1\.5"),
        ({"decay": 0.9, "start": -1}, "start of EMA is -1"),
        ({"decay": 0.9, "start": 2.0}, r"start of EMA is 2\.0"),
        ({"decay": 0.9, "start": None}, "start of EMA is None"),
    ],
)
def test_what_cannot_be_averaged_is_an_error_at_once(arguments, message):
    with pytest.raises(ArgumentError, match=f"(?s)^{message}.*expected: "):
        EMA(**arguments)


# EarlyStopping


@pytest.mark.parametrize("metric", ["val_ema_loss", "val_loss"])
def test_early_stopping_restores_the_average_that_was_there_with_the_best_weights(metric):
    trainer = training(network())
    trainer.callbacks = [EMA(0.7), EarlyStopping(metric, patience=3, restore_best=True)]
    kept = []
    trainer.on("record")(
        lambda trainer: kept.append(copy.deepcopy((trainer.model.state_dict(), trainer.averaged["ema"].state_dict())))
    )
    trainer.optimizer.param_groups[0]["lr"] = 0.2  # too large: it gets worse again
    history = trainer.fit(epochs=12)
    best = history[metric].index(min(history[metric]))
    assert best < len(history) - 1
    assert_equal(trainer.model.state_dict(), kept[best][0], 0)
    assert_equal(trainer.averaged["ema"].state_dict(), kept[best][1], 0)
    assert trainer.evaluate() == {
        "loss": pytest.approx(history["val_loss"][best]),
        "ema_loss": pytest.approx(history["val_ema_loss"][best]),
    }


# SWA


def swa_by_hand(epochs, forward=None, model=None):
    """Torch's own average of the weights after these epochs, with its own update of batch norm."""
    model = network() if model is None else model
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(1, max(epochs) + 1):
        for x, y in batches():
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
        if epoch in epochs:
            average.update_parameters(model)
    update_bn(batches(), average)
    return average.module


class Called:
    """A forward function that counts its calls."""

    def __init__(self):
        self.count = 0

    def __call__(self, model, x, y):
        self.count += 1
        return model(x)


@pytest.mark.parametrize("way", ["forward", "eval_fn", "model"])
@pytest.mark.parametrize(
    ("start", "every", "epochs"), [(1, 1, [1, 2, 3, 4]), (2, 2, [2, 4]), (3, 1, [3, 4]), (4, 9, [4])]
)
def test_it_equals_torchs_average_with_torchs_update_of_batch_norm(start, every, epochs, way):
    trainer = training(network(), measured=way == "eval_fn")
    forward = Called() if way == "forward" else None
    trainer.callbacks = [SWA(start, every, forward=forward)]
    trainer.fit(epochs=4)
    expected = swa_by_hand(epochs)
    average = trainer.averaged["swa"]
    assert_equal(average.state_dict(), expected.state_dict(), 0)
    assert not any(part.training for part in average.modules())
    assert [part.momentum for part in average if isinstance(part, nn.BatchNorm1d)] == [0.1, 0.1]
    if forward is not None:
        assert forward.count == 5
    assert not torch.equal(average[1].running_mean, trainer.model[1].running_mean)


def test_it_is_measured_after_the_fit_and_in_no_record(tmp_path):
    trainer = training(network())
    trainer.callbacks = [SWA(1), SaveModel(tmp_path / "model.pt")]
    history = trainer.fit(epochs=2)
    assert not any("swa" in column for column in history.columns)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    expected = evaluate(swa_by_hand([1, 2]), eval_fn, batches(2), device="cpu", progress=False)["loss"]
    assert trainer.evaluate()["swa_loss"] == pytest.approx(expected)


def test_before_its_first_epoch_there_is_no_average():
    trainer = training(network())
    trainer.callbacks = [SWA(3)]
    trainer.fit(epochs=2)
    assert trainer.averaged == {}


def test_the_average_goes_on_in_the_next_fit():
    trainer = training(network())
    trainer.callbacks = [SWA(2)]
    trainer.fit(epochs=2)
    assert_equal(trainer.averaged["swa"].state_dict(), swa_by_hand([2]).state_dict(), 0)
    trainer.fit(epochs=1)
    assert_equal(trainer.averaged["swa"].state_dict(), swa_by_hand([2, 3]).state_dict(), 0)


def test_its_state_goes_on_in_another_trainer():
    first = training(network())
    first.callbacks = [SWA(1)]
    first.fit(epochs=1)
    kept = first.callbacks[0].state_dict()
    first.fit(epochs=1)
    second = training(first.model)  # at the weights of the second epoch
    second.callbacks = [SWA(1)]
    second.callbacks[0].load_state_dict(kept)
    second.optimizer.param_groups[0]["lr"] = 0.0
    second.fit(epochs=1)
    assert_equal(second.averaged["swa"].state_dict(), swa_by_hand([1, 2]).state_dict())


def test_batch_norm_that_is_frozen_keeps_its_statistics_and_its_mode():
    model = network()
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    freeze(model[1])
    kept = copy.deepcopy(model[1].state_dict())
    trainer = training(model)
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=2)
    average = trainer.averaged["swa"]
    assert_equal(average[1].state_dict(), kept, 0)
    assert_equal(model[1].state_dict(), kept, 0)

    by_hand = copy.deepcopy(average)  # its frozen part evaluates; the other one counts what really comes to it
    by_hand[4].reset_running_stats()
    by_hand[4].momentum = None
    by_hand[4].train()
    with torch.no_grad():
        for x, _ in batches():
            by_hand(x)
    assert_equal(average[4].state_dict(), by_hand[4].state_dict(), 0)


def test_dropout_that_is_frozen_stays_off_while_the_statistics_are_made():
    model = nn.Sequential(freeze(nn.Dropout(0.9)), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    trainer = training(model)
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=1)
    average = trainer.averaged["swa"]
    expected = torch.stack([average[1](x).mean(dim=0) for x, _ in batches()]).mean(dim=0)
    torch.testing.assert_close(average[2].running_mean, expected)


class Counted:
    """A loader that counts how often it is read."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(batches())


@pytest.mark.parametrize("kind", ["none", "all frozen"])
def test_without_statistics_to_renew_the_data_is_not_read_again(kind):
    model = nn.Sequential(nn.Linear(3, 2)) if kind == "none" else network()
    for part in model:
        if isinstance(part, nn.BatchNorm1d):
            freeze(part)
    loader = Counted()
    trainer = training(model, loader)
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=2)
    assert loader.passes == 2
    assert set(trainer.averaged) == {"swa"}


def test_an_eval_function_gets_the_hyperparameters_that_it_names():
    model, seen = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y, lambd, other):
        optimize(functional.mse_loss(model(x), y), optimizer)

    def eval_fn(model, x, y, lambd):
        seen.append(lambd)
        return {"loss": model(x).mean()}

    trainer = Trainer(model, optimizer, train_fn, batches(), eval_fn, batches(2), device="cpu", progress=False)
    trainer.hyper = {"lambd": 4.0, "other": 1}
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=1)
    assert seen == [4.0] * (2 + 5)


def test_metric_objects_do_not_remember_the_pass_over_the_training_data():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    error = torchmetrics.MeanSquaredError()

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y), optimizer)

    def eval_fn(model, x, y):
        error.update(model(x), y)
        return {"error": error}

    trainer = Trainer(model, optimizer, train_fn, batches(), eval_fn, batches(2), device="cpu", progress=False)
    trainer.callbacks = [SWA(1)]
    history = trainer.fit(epochs=1)
    assert trainer.evaluate()["error"] == pytest.approx(history["val_error"][0])


def test_the_statistics_are_made_in_the_precision_of_the_functions():
    seen = []

    def forward(model, x, y):
        seen.append(model(x).dtype)

    trainer = training(network(), measured=False, precision="bf16")
    trainer.callbacks = [SWA(1, forward=forward)]
    trainer.fit(epochs=1)
    assert seen == [torch.bfloat16] * 5


def test_batches_of_any_kind_serve():
    class FromDict(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = network()

        def forward(self, batch):
            return self.parts(batch["x"])

    model = FromDict()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_fn(model, batch):
        optimize(functional.mse_loss(model(batch), batch["y"]), optimizer)

    loader = [{"x": x, "y": y} for x, y in batches()]
    trainer = Trainer(model, optimizer, train_fn, loader, device="cpu", progress=False)
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=1)
    assert_equal(trainer.averaged["swa"].parts.state_dict(), swa_by_hand([1]).state_dict())


def test_several_models_are_run_by_the_eval_function_or_by_forward():
    for measured, forward in ((True, None), (False, lambda models, x, y: [model(x) for model in models])):
        trainer = training([network(), network()], measured=measured)
        trainer.callbacks = [SWA(1, forward=forward)]
        trainer.fit(epochs=1)
        for average in trainer.averaged["swa"]:
            assert_equal(average.state_dict(), swa_by_hand([1]).state_dict(), 0)


def test_several_models_that_nothing_runs_are_an_error_before_the_first_batch():
    trainer = training([network(), network()], measured=False)
    trainer.callbacks = [SWA(1)]
    with pytest.raises(ArgumentError, match=r"(?s)several models.*expected: .*to do: pass SWA\(\.\.\., forward="):
        trainer.fit(epochs=1)
    assert trainer.step == 0


def test_data_that_can_be_read_only_once_is_an_error_before_the_first_batch_where_it_is_needed_again():
    trainer = training(network(), iter(batches()))
    trainer.callbacks = [SWA(1)]
    with pytest.raises(ArgumentError, match=r"(?s)read only once.*expected: .*to do: "):
        trainer.fit(epochs=1)
    assert trainer.step == 0
    trainer = training(nn.Sequential(nn.Linear(3, 2)), iter(batches()))
    trainer.callbacks = [SWA(1)]
    trainer.fit(epochs=1)
    assert set(trainer.averaged) == {"swa"}


def test_there_is_no_average_after_a_fit_that_failed():
    trainer = training(network())
    trainer.callbacks = [SWA(1)]
    trainer.on("step_end")(lambda trainer: 1 / 0 if trainer.step == 7 else None)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=2)
    assert trainer.averaged == {}


def test_the_pass_over_shuffled_data_under_a_seed_is_the_same_each_time():
    states = []
    x, y = (torch.cat(items) for items in zip(*batches(), strict=True))
    for _ in range(2):
        torch.manual_seed(len(states))
        trainer = training(network(), DataLoader(TensorDataset(x, y), 4, shuffle=True), seed=3)
        trainer.callbacks = [SWA(1)]
        trainer.fit(epochs=2)
        states.append(trainer.averaged["swa"].state_dict())
    assert_equal(*states, 0)


class Counting(nn.Linear):
    """A layer that counts its calls, and gives them to a state dict beside its tensors."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(1)])
def test_an_average_of_a_model_with_extra_state_goes_into_a_checkpoint_and_comes_back(make, tmp_path):
    trainer = training(nn.Sequential(Counting(3, 2)))
    trainer.callbacks = [make()]
    trainer.fit(epochs=1)
    trainer.save(tmp_path / "a")
    other = training(nn.Sequential(Counting(3, 2)))
    other.callbacks = [make()]
    other.load(tmp_path / "a")
    ((_, average),) = trainer.averaged.items()
    ((_, loaded),) = other.averaged.items()
    assert loaded[0].calls == average[0].calls
    assert torch.equal(loaded[0].weight, average[0].weight)


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(1)])
def test_an_average_of_another_model_is_refused_before_anything_is_loaded(make, tmp_path):
    trainer = training(network())
    trainer.callbacks = [make()]
    trainer.fit(epochs=1)
    state = trainer.callbacks[0].state_dict()
    state["average"][""]["module.0.weight"] = torch.zeros(6, 4)
    with pytest.raises(ArgumentError, match=r"the average of (EMA|SWA).* has 0.weight of .*6, 4"):
        make().check_state(trainer, state)
    del state["average"][""]["module.0.weight"]
    with pytest.raises(ArgumentError, match="has not the names of one model"):
        make().check_state(trainer, state)
    del state["average"][""]["n_averaged"]
    with pytest.raises(ArgumentError, match="no average with its count"):
        make().check_state(trainer, state)


def test_both_averages_can_be_kept_at_once():
    trainer = training(network())
    trainer.callbacks = [EMA(0.9), SWA(1)]
    trainer.fit(epochs=1)
    assert set(trainer.evaluate()) == {"loss", "ema_loss", "swa_loss"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start of SWA is 0"),
        ({"start": 1.5}, r"start of SWA is 1\.5"),
        ({"start": 1, "every": 0}, "every of SWA is 0"),
        ({"start": 1, "forward": 3}, "forward of SWA is an int"),
    ],
)
def test_what_swa_cannot_do_is_an_error_at_once(arguments, message):
    with pytest.raises(ArgumentError, match=f"(?s)^{message}.*expected: "):
        SWA(**arguments)


@pytest.mark.parametrize(
    ("callback", "shown"),
    [(EMA(0.99, 2, 3), "EMA(decay=0.99, every=2, start=3)"), (SWA(2, 3), "SWA(start=2, every=3)")],
)
def test_what_it_is_can_be_read(callback, shown):
    assert repr(callback) == shown


@pytest.mark.parametrize("average", [EMA(0.5), SWA(start=1)])
@pytest.mark.parametrize(
    ("saved", "fits"),
    [
        (torch.zeros(3), True), (torch.zeros(5), True), (torch.zeros(2), False), (torch.zeros(0), False),
        (torch.zeros(3, 2), False), (torch.zeros(3).double(), False), ("x", False), (None, False),
    ],
)  # fmt: skip
def test_a_buffer_that_no_state_dict_has_may_have_grown_and_is_else_that_of_the_model(average, saved, fits):
    model = network()
    model.register_buffer("shift", torch.zeros(3), persistent=False)
    trainer = training(model)
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    state = {"": {"n_averaged": torch.tensor(1), **weights, "buffer.module.shift": saved}}
    memory = {"updates": 1, "average": state} if isinstance(average, EMA) else {"ready": True, "average": state}
    if fits:
        average.check_state(trainer, memory)
    else:
        with pytest.raises(ArgumentError, match=r"has a buffer\.module\.shift that the models cannot have"):
            average.check_state(trainer, memory)
