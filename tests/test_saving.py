"""SaveModel: which files are written, what they are called, and what is refused."""

from __future__ import annotations

import math
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ignition import Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch
from ignition.callbacks.base import Callback
from ignition.callbacks.saving import SaveModel
from ignition.errors import ArgumentError, IgnitionError, MetricError
from ignition.history import History

NAN = math.nan


class StandIn:
    """What SaveModel sees of a Trainer; an epoch is ten steps, and what it measured is given."""

    def __init__(self, callback: Callback, model: Any = None, hyper: dict[str, Any] | None = None) -> None:
        self.callback = callback
        self.model = nn.Linear(1, 1, bias=False) if model is None else model
        self.hyper = hyper or {}
        self.history = History()
        self.epoch = self.step = 0
        self.exception: BaseException | None = None
        self.averaged: dict[str, nn.Module] = {}

    def begin(self) -> StandIn:
        self.callback.on_train_begin(self)  # type: ignore[arg-type]
        return self

    def record(self, ended: bool = True, **values: Any) -> None:
        """Ten steps, whose only effect is the model's weight: the number of steps."""
        if ended or self.epoch == 0:
            self.epoch += 1
        self.step += 10
        if isinstance(self.model, nn.Linear):
            nn.init.constant_(self.model.weight, self.step)
        plain = {name: value for name, value in self.hyper.items() if isinstance(value, (int, float, str))}
        record = {"epoch": self.epoch, "step": self.step, **values, "lr": 0.5, **plain, "seconds": 2.0}
        self.history.append(record, epoch_ended=ended)
        self.callback.on_record(self)  # type: ignore[arg-type]
        if ended:
            self.callback.on_epoch_end(self)  # type: ignore[arg-type]


def weight_in(path: Path | str | None) -> float:
    assert path is not None
    if Path(path).suffix == ".pt":
        return float(torch.load(path, weights_only=True)["weight"])
    return float(safetensors.torch.load_file(path)["weight"])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Which epochs


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_each_epoch_overwrites_a_file_without_placeholders(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"model{ending}"
    trainer = StandIn(SaveModel(path)).begin()
    for expected in (10, 20, 30):
        trainer.record()
        assert weight_in(path) == expected
    assert files(tmp_path) == [f"new/model{ending}"]


def test_every_counts_the_epochs_of_all_fits(tmp_path: Path) -> None:
    callback = SaveModel(tmp_path / "{epoch}.pt", every=3)
    trainer = StandIn(callback)
    for _ in range(4):
        trainer.begin()
        trainer.record()
        trainer.record()

    assert files(tmp_path) == ["3.pt", "6.pt"]
    assert callback.last_path == tmp_path / "6.pt"
    assert weight_in(callback.last_path) == 60


def test_a_record_inside_an_epoch_is_no_epochs_end(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "{step}.pt")).begin()
    trainer.record(ended=False)
    trainer.record()

    assert files(tmp_path) == ["20.pt"]


# The best


@pytest.mark.parametrize(
    ("metric", "mode", "values", "written"),
    [
        ("val_acc", None, [0.5, 0.4, 0.6, 0.6, 0.7], [10, 30, 50]),
        ("val_loss", None, [0.5, 0.4, 0.6, 0.4, 0.0, -0.0], [10, 20, 50]),
        ("val_acc", None, [0.0, 0.0, 0.1], [10, 30]),
        ("val_loss", None, [NAN, 0.5, NAN, 0.4], [20, 40]),
        ("val_loss", None, [math.inf, 0.5], [10, 20]),
        ("val_acc", "min", [0.5, 0.4, 0.6], [10, 20]),
        ("train_energy", "max", [-2, -1, -3], [10, 20]),
        ("val_acc", None, [NAN, NAN], []),
    ],
)
def test_only_what_is_better_than_ever_is_written(
    metric: str, mode: Any, values: list[float], written: list[int], tmp_path: Path
) -> None:
    callback = SaveModel(tmp_path / "{step}.pt", best=metric, mode=mode)
    trainer = StandIn(callback).begin()
    for value in values:
        trainer.record(**{metric: value})

    assert files(tmp_path) == [f"{step}.pt" for step in written]
    valid = [value for value in values if not math.isnan(value)]
    assert callback.best_value == ((min if callback.mode == "min" else max)(valid) if valid else None)


def test_records_inside_an_epoch_count_for_the_best_and_are_written_once(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "{epoch}-{step}.pt", best="val_acc")).begin()
    trainer.record(ended=False, val_acc=0.1)
    trainer.record(ended=False, val_acc=0.9)
    trainer.record(val_acc=0.5)

    assert files(tmp_path) == ["1-10.pt", "1-20.pt"]


def test_a_record_that_lacks_the_metric_is_not_the_best(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "{step}.pt", best="val_loss")).begin()
    trainer.record(val_loss=0.5)
    trainer.record(train_loss=0.1)

    assert files(tmp_path) == ["10.pt"]


def test_the_best_is_kept_over_fits_and_through_a_state_dict_but_not_for_a_fresh_trainer(tmp_path: Path) -> None:
    first = SaveModel(tmp_path / "{step}.pt", best="val_acc")
    trainer = StandIn(first).begin()
    trainer.record(val_acc=0.8)
    trainer.begin()
    trainer.record(val_acc=0.7)
    assert files(tmp_path) == ["10.pt"]

    resumed = SaveModel(tmp_path / "{step}.pt", best="val_acc")
    resumed.load_state_dict(first.state_dict())
    trainer.callback = resumed
    trainer.begin()
    trainer.record(val_acc=0.75)
    assert files(tmp_path) == ["10.pt"]
    assert (resumed.best_value, resumed.last_path) == (0.8, tmp_path / "10.pt")

    fresh = StandIn(resumed).begin()
    fresh.record(val_acc=0.1)
    assert resumed.best_value == 0.1


def test_the_state_before_the_first_file_goes_round() -> None:
    state = SaveModel("a.pt").state_dict()
    callback = SaveModel("a.pt")
    callback.load_state_dict(state)

    assert (callback.best_value, callback.last_path) == (None, None)


def test_a_best_that_nobody_returns_is_an_error_at_the_first_record_that_lists_what_there_is(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "best.pt", best="val_acc")).begin()

    with pytest.raises(MetricError, match=r"'val_acc'(.|\n)*train_loss, val_loss"):
        trainer.record(train_loss=1.0, val_loss=1.0)
    assert files(tmp_path) == []


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{epoch}-{step}.pt", "1-10.pt"),
        ("{epoch:03d}_{step:.1f}.pt", "001_10.0.pt"),
        ("{val_acc:.3f}.safetensors", "0.123.safetensors"),
        ("{val_acc}.pt", "0.12345.pt"),
        ("{val_acc:.1%}.pt", "12.3%.pt"),
        ("{train_loss:+.2e}.pt", "+0.00e+00.pt"),
        ("{val_hits}.pt", "3.pt"),
        ("lr={lr:g}.pt", "lr=0.5.pt"),
        ("{lambd:.1f}-{kind:>4}.pt", "4.0-  ab.pt"),
        ("{sizes}.pt", "[1, 2].pt"),
        ("{seconds:.0f}s.pt", "2s.pt"),
        ("{{epoch}}-{epoch}.pt", "{epoch}-1.pt"),
        ("{epoch}/a/{epoch}.pt", "1/a/1.pt"),
        ("{train_loss/G:.1f}.pt", "7.0.pt"),
        ("dots.in.name.pt", "dots.in.name.pt"),
    ],
)
def test_placeholders_are_filled_from_the_record(name: str, expected: str, tmp_path: Path) -> None:
    hyper = {"lambd": 4, "kind": "ab", "sizes": [1, 2]}
    callback = SaveModel(f"{tmp_path}/{name}")
    trainer = StandIn(callback, hyper=hyper).begin()
    trainer.record(train_loss=0.0, val_acc=0.12345, val_hits=3, **{"train_loss/G": 7.0})

    assert files(tmp_path) == [expected]
    assert callback.last_path == tmp_path / expected


def test_a_metric_that_this_record_lacks_is_nan_in_the_name(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "{epoch}-{val_f1:.2f}.pt")).begin()
    trainer.record(val_f1=0.5)
    trainer.record()

    assert files(tmp_path) == ["1-0.50.pt", "2-nan.pt"]


def test_a_metric_that_nobody_returns_is_an_error_at_the_first_file_that_lists_what_there_is(tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "{val_f1}.pt", every=2)).begin()
    trainer.record(val_acc=0.5)

    with pytest.raises(MetricError, match=r"'val_f1'(.|\n)*epoch, step, val_acc, lr, seconds") as caught:
        trainer.record(val_acc=0.5)
    assert "{val_f1}.pt" in caught.value.__notes__[0]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["{acc}.pt", "{loss:.2f}.pt", "{Epoch}.pt", "{lrate}.pt", "{ epoch }.pt", "{lambda}.pt"]
)
def test_a_placeholder_that_can_be_no_column_is_an_error_before_the_first_batch(name: str, tmp_path: Path) -> None:
    trainer = StandIn(SaveModel(tmp_path / "made" / name), hyper={"lambd": 4})

    with pytest.raises(ArgumentError, match=r"no column of history(.|\n)*epoch, step, train_\*, val_\*, lr\*, lambd"):
        trainer.begin()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "{.pt",
        "}.pt",
        "{epoch.pt",
        "{}.pt",
        "{0}.pt",
        "{epoch.real}.pt",
        "{epoch.__class__}.pt",
        "{hyper[key]}.pt",
        "{epoch!r}.pt",
        "{epoch!x}.pt",
        "{epoch:{step}}.pt",
        "{val_acc:d}.pt",
        "{epoch:s}.pt",
        "{val_acc:.3q}.pt",
        "{lr:=^+s}.pt",
    ],
)
def test_a_malformed_name_is_an_error_at_once(name: str) -> None:
    with pytest.raises(ArgumentError, match="the file name") as caught:
        SaveModel(name)
    assert "expected: " in str(caught.value)


def test_a_format_that_does_not_fit_a_hyperparameter_is_an_error_before_the_first_batch() -> None:
    with pytest.raises(ArgumentError, match=r"\{kind:\.2f\}(.|\n)*a str"):
        StandIn(SaveModel("{kind:.2f}.pt"), hyper={"kind": "ab"}).begin()


@pytest.mark.parametrize(
    "name", ["model", "model.pth", "model.bin", ".pt", "", "runs/", "model_{val_acc:.3f}", "{lr:.pt}"]
)
def test_another_ending_is_an_error_at_once(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"ends in \.pt or \.safetensors"):
        SaveModel(name)


def test_the_error_of_another_ending_offers_a_name() -> None:
    with pytest.raises(ArgumentError, match=r"'runs/model\.pt'"):
        SaveModel("runs/model.pth")
    with pytest.raises(ArgumentError, match=r"'\{val_acc:\.3f\}\.pt'"):
        SaveModel("{val_acc:.3f}")


@pytest.mark.parametrize("name", [None, 3, b"model.pt", nn.Linear(1, 1)])
def test_what_is_no_file_name_is_an_error_at_once(name: Any) -> None:
    with pytest.raises(ArgumentError, match="as its file name"):
        SaveModel(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every of SaveModel is 0"),
        ({"every": -1}, "every of SaveModel is -1"),
        ({"every": 1.5}, "every of SaveModel is 1.5"),
        ({"every": True}, "every of SaveModel is True"),
        ({"every": "epoch"}, "every of SaveModel is 'epoch'"),
        ({"best": "val_acc", "every": 2}, "every=2 with best='val_acc'"),
        ({"best": "val_energy"}, r"'val_energy'(.|\n)*mode='min' or mode='max'"),
        ({"best": "val_acc", "mode": "up"}, "mode is 'up'"),
        ({"mode": "max"}, "mode='max' without best"),
        ({"best": True}, "True as the name of a metric"),
        ({"best": ""}, "'' as the name of a metric"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SaveModel("model.pt", **arguments)


# Models and disks


def test_a_model_that_cannot_be_written_so_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, dtype=torch.complex128)

    with pytest.raises(ArgumentError, match=r"complex128(.|\n)*write to a \.pt"):
        StandIn(SaveModel(tmp_path / "model.safetensors"), model).begin()
    StandIn(SaveModel(tmp_path / "model.pt"), model).begin()


def test_a_folder_that_cannot_be_made_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()

    with pytest.raises(OSError, match="runs"):
        StandIn(SaveModel(tmp_path / "runs" / "{epoch}" / "model.pt")).begin()


def test_a_file_that_could_not_be_written_does_not_count_as_the_best(tmp_path: Path) -> None:
    callback = SaveModel(tmp_path / "best.pt", best="val_acc")
    trainer = StandIn(callback).begin()
    trainer.record(val_acc=0.5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            trainer.record(val_acc=0.6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert callback.best_value == 0.5
    assert (files(tmp_path), weight_in(tmp_path / "best.pt")) == (["best.pt"], 10)
    trainer.record(val_acc=0.55)
    assert weight_in(tmp_path / "best.pt") == 30


def test_several_models_are_written_under_their_names(tmp_path: Path) -> None:
    models = {"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)}
    trainer = StandIn(SaveModel(tmp_path / "gan.pt"), models).begin()
    trainer.record()

    state = torch.load(tmp_path / "gan.pt", weights_only=True)
    for name, plain in {"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)}.items():
        plain.load_state_dict(state[name])
        assert torch.equal(plain.weight, models[name].weight)


def test_averaged_models_are_written_beside_the_model_itself(tmp_path: Path) -> None:
    callback = SaveModel(tmp_path / "{val_acc:.2f}.pt", best="val_acc")
    trainer = StandIn(callback).begin()
    trainer.averaged = {"ema": nn.Linear(1, 1, bias=False)}
    nn.init.constant_(trainer.averaged["ema"].weight, 5)  # type: ignore[arg-type]
    trainer.record(val_acc=0.5)

    assert files(tmp_path) == ["0.50.ema.pt", "0.50.pt"]
    assert (weight_in(tmp_path / "0.50.pt"), weight_in(tmp_path / "0.50.ema.pt")) == (10, 5)
    assert callback.last_path == tmp_path / "0.50.pt"


def test_a_callback_says_what_it_is() -> None:
    assert repr(SaveModel("a.pt", every=2)) == "SaveModel('a.pt', every=2)"
    assert repr(SaveModel("a.pt", best="val_acc")) == "SaveModel('a.pt', best='val_acc', mode='max')"


# In a training


def make_trainer(model: nn.Module, data: tuple[Tensor, Tensor], loader: DataLoader[Any]) -> Trainer[nn.Module]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def eval_fn(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    return Trainer(model, optimizer, train_fn, loader, eval_fn, [data], progress=False, device="cpu")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_the_best_file_of_a_training_measures_as_its_history_says(
    ending: str, tiny_model: nn.Module, tiny_data: tuple[Tensor, Tensor], tiny_loader: DataLoader[Any], tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_model, tiny_data, tiny_loader)
    callback = SaveModel(tmp_path / f"{{epoch}}-{{val_loss:.4f}}{ending}", best="val_loss")
    trainer.callbacks = [callback]
    trainer.fit(epochs=5, eval_every=4)

    best = trainer.history.best_epoch("val_loss")
    assert best is not None
    assert callback.best_value == best.value
    assert callback.last_path == tmp_path / f"{best.epoch}-{best.value:.4f}{ending}"
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)).eval()
    path = callback.last_path
    plain.load_state_dict(torch.load(path, weights_only=True) if ending == ".pt" else safetensors.torch.load_file(path))
    x, y = tiny_data
    assert nn.functional.cross_entropy(plain(x), y).item() == pytest.approx(best.value, rel=1e-6)


def test_a_training_with_an_unknown_placeholder_takes_no_step(
    tiny_model: nn.Module, tiny_data: tuple[Tensor, Tensor], tiny_loader: DataLoader[Any], tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_model, tiny_data, tiny_loader)
    trainer.callbacks = [SaveModel(tmp_path / "{acc}.pt")]

    with pytest.raises(IgnitionError, match=r"val_acc"):
        trainer.fit(epochs=1)
    assert (trainer.step, len(trainer.history)) == (0, 0)
    trainer.callbacks = [SaveModel(tmp_path / "{val_acc:.2f}.pt")]
    trainer.fit(epochs=1)
    assert files(tmp_path) == [f"{trainer.history.last['val_acc']:.2f}.pt"]


@pytest.mark.parametrize(
    ("name", "example"),
    [("", "model.pt"), ("runs/", "runs/model.pt"), ("a.pth", "a.pt"), ("a_{val_acc:.3f}", "a_{val_acc:.3f}.pt")],
)
def test_the_file_name_that_is_proposed_is_a_good_one(name: str, example: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"to do: for example {example!r}")):
        SaveModel(name)
    assert SaveModel(example).filename == example


def test_of_a_malformed_name_no_other_is_made() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)'a/\{epoch' is malformed: .*to do: close each placeholder"):
        SaveModel("a/{epoch")
