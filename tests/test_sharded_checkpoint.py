"""Training under FSDP with all that a Trainer has, held against one process; its checkpoints, read by any number."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from processes import run_processes
from torch import nn

from ignition import (
    DDP,
    FSDP,
    TensorLoader,
    Trainer,
    crossentropy_loss,
    distributed,
    evaluate_on_batch,
    load_weights,
    optimize,
    predict_on_batch,
    seed_everything,
)
from ignition.callbacks import EMA, Checkpoint, EarlyStopping, LinearDecay, SaveModel
from ignition.errors import CheckpointError
from ignition.sharded_checkpoint import read
from ignition.sharded_weights import gather_weights
from ignition.weights import restore_weights

SAMPLES = 45


class Net(nn.Module):
    """Blocks in a list, a tied weight, and a method of its own that a function calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)])
        self.last = nn.Linear(8, 8, bias=False)
        self.last.weight = self.blocks[0][0].weight
        self.head = nn.Linear(8, 3)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encode(x))


def make_trainer(strategy: object, epochs: int, folder: Path) -> Trainer:
    seed_everything(0)
    x = torch.randn(SAMPLES + 20, 6)
    y = (x[:, :3] + 0.3 * torch.randn(len(x), 3)).argmax(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model.forward(x), y)
        norm = optimize(loss, optimizer)
        return {"loss": loss, "norm": norm}

    batch = 12 // distributed.world_size()
    trainer = Trainer(
        model,
        optimizer,
        train_fn,
        TensorLoader(x[:SAMPLES], y[:SAMPLES], batch_size=batch, shuffle=True),
        evaluate_on_batch,
        TensorLoader(x[SAMPLES:], y[SAMPLES:], batch_size=7),
        accumulate=2,
        clip_norm=0.5,
        strategy=strategy,
        seed=0,
        progress=False,
    )
    trainer.callbacks = [
        LinearDecay("lr", start_value=0.02, end_value=0.005, max_epochs=epochs),
        EMA(0.8),
        SaveModel(folder / "best.safetensors", best="val_loss"),
        SaveModel(folder / "last.pt"),
        EarlyStopping("val_loss", patience=50, restore_best=True),
        Checkpoint(folder / "checkpoints", every=2, keep=2),
    ]
    return trainer


def result_of(trainer: Trainer) -> dict[str, object]:
    history = {name: trainer.history[name] for name in trainer.history.columns if "seconds" not in name}
    outputs = trainer.predict(predict_on_batch, trainer.test_loader)
    return {"history": history, "outputs": outputs.tolist(), "evaluation": trainer.evaluate()}


def whole(folder: str, strategy: str) -> None:
    """One run from end to end, and what comes after it: another fit, a sweep, saving and loading by hand."""
    place = Path(folder)
    trainer = make_trainer(strategy, 4, place)
    trainer.fit(epochs=3)
    first = result_of(trainer)
    trainer.save(place / "by-hand")
    before = result_of(trainer)["outputs"]
    trainer.callbacks = [EMA(0.5)]  # begun of a model that is sharded
    trainer.fit(epochs=1)
    second = result_of(trainer)
    trainer.callbacks = []
    trainer.load(place / "by-hand")
    loaded = torch.tensor(result_of(trainer)["outputs"])
    assert torch.equal(loaded, torch.tensor(before)), "a checkpoint that was loaded gave other outputs"
    if distributed.is_main():
        (place / "result.json").write_text(json.dumps({"first": first, "second": second}))


def interrupted(folder: str, strategy: str) -> None:
    """Ends with an error in the middle of the second epoch."""
    trainer = make_trainer(strategy, 4, Path(folder))

    @trainer.on("step_end")
    def fail(trainer: Trainer) -> None:
        if trainer.step == 3:
            sys.exit(7)

    trainer.fit(epochs=3, resume=True)


def resumed(folder: str, strategy: str) -> None:
    trainer = make_trainer(strategy, 4, Path(folder))
    trainer.fit(epochs=3, resume=True)
    result = result_of(trainer)
    if distributed.is_main():
        (Path(folder) / "resumed.json").write_text(json.dumps({"first": result}))


def put_back(folder: str) -> None:
    """Weights that a checkpoint has joined, as those of EarlyStopping after a restart, come back into the parts."""
    trainer = make_trainer("fsdp", 4, Path(folder))
    trainer.fit(epochs=1)
    models = {"model": trainer.model, "average": trainer.averaged["ema"]}
    before = gather_weights(models, keep=True)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    restore_weights(models, before)
    after = gather_weights(models, keep=True)
    for name, state in before.items():
        assert all(torch.equal(after[name][key], value) for key, value in state.items()), name
        assert any(value.any() for value in state.values())


def gathers(folder: str, strategy: str, stop: str = "never") -> None:
    """A train function that steps every third time by itself, killed after some steps or run to its end."""
    seed_everything(0)
    x, y = torch.randn(48, 6), torch.randint(3, (48,))
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model(x), y) / 3
        loss.backward()
        if (trainer.step + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss}

    batch = 12 // distributed.world_size()
    loader = TensorLoader(x, y, batch_size=batch, shuffle=True)
    trainer = Trainer(model, optimizer, train_fn, loader, strategy=strategy, seed=0, progress=False)
    trainer.callbacks = [Checkpoint(Path(folder) / "checkpoints", every=1, keep=1)]

    @trainer.on("batch_begin")
    def leave(trainer: Trainer) -> None:
        if str(trainer.step) == stop:
            sys.exit(7)

    trainer.fit(epochs=3, resume=True)
    weights = gather_weights({"model": trainer.model}, keep=True)["model"]
    if distributed.is_main():
        result = {name: tensor.tolist() for name, tensor in weights.items()}
        (Path(folder) / "weights.json").write_text(json.dumps(result))


def read_result(path: Path) -> dict[str, dict[str, object]]:
    return json.loads(path.read_text())


def assert_close(found: dict[str, object], expected: dict[str, object], tolerance: float) -> None:
    assert found["history"].keys() == expected["history"].keys()
    for name, column in expected["history"].items():
        assert found["history"][name] == pytest.approx(column, abs=tolerance, nan_ok=True), name
    assert torch.tensor(found["outputs"]).sub(torch.tensor(expected["outputs"])).abs().max() < tolerance
    assert found["evaluation"] == pytest.approx(expected["evaluation"], abs=tolerance)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    whole(str(folder), "auto")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "count"), [("fsdp", 2), ("fsdp", 3), ("ddp", 2)])
def test_many_processes_give_the_numbers_and_the_files_of_one(tmp_path, one_process, strategy, count):
    run_processes(whole, count, tmp_path, strategy, folder=tmp_path)

    found, expected = read_result(tmp_path / "result.json"), read_result(one_process / "result.json")
    for fit in ("first", "second"):
        assert_close(found[fit], expected[fit], 1e-5)
    for name in ("best.safetensors", "best.ema.safetensors", "last.pt", "last.ema.pt", "by-hand"):
        there, here = Net(), Net()
        load_weights(there, one_process / name)
        load_weights(here, tmp_path / name)
        for key, value in there.state_dict().items():
            assert (value - here.state_dict()[key]).abs().max() < 1e-5, (name, key)
    assert torch.load(tmp_path / "last.pt", weights_only=True).keys() == Net().state_dict().keys()


@pytest.mark.slow
def test_what_two_processes_have_left_any_number_goes_on_from(tmp_path, one_process):
    whole_run, cut = tmp_path / "whole", tmp_path / "cut"
    run_processes(resumed, 2, whole_run, "fsdp", folder=whole_run)
    finished = run_processes(interrupted, 2, cut, "fsdp", folder=cut, check=False)
    assert [one.status for one in finished] == [7, 7]
    left = tmp_path / "left"
    for count in (3, 1):
        other = left / str(count)
        other.mkdir(parents=True)
        (cut / "checkpoints").rename(cut / "kept")
        import shutil

        shutil.copytree(cut / "kept", other / "checkpoints")
        (cut / "kept").rename(cut / "checkpoints")
        run_processes(resumed, count, other, "fsdp", folder=other)
        found = read_result(other / "resumed.json")["first"]
        assert_close(found, read_result(whole_run / "resumed.json")["first"], 1e-5)

    run_processes(resumed, 2, cut, "fsdp", folder=cut)

    assert read_result(cut / "resumed.json") == read_result(whole_run / "resumed.json")  # to the bit


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*took no step")
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_gradients_gathered_by_hand_are_not_lost_in_a_restart(tmp_path, strategy):
    one, many, cut = (tmp_path / name for name in ("one", "many", "cut"))
    for folder in (one, many, cut):
        folder.mkdir()
    gathers(str(one), "auto")
    run_processes(gathers, 2, many, strategy, folder=many)
    finished = run_processes(
        gathers, 2, cut, strategy, "4", folder=cut, check=False
    )  # one step after that of an optimizer
    assert [one.status for one in finished] == [7, 7]

    run_processes(gathers, 2, cut, strategy, folder=cut)

    assert read_result(cut / "weights.json") == read_result(many / "weights.json")  # to the bit
    for name, values in read_result(one / "weights.json").items():
        assert torch.tensor(read_result(many / "weights.json")[name]).sub(torch.tensor(values)).abs().max() < 1e-5


@pytest.mark.slow
def test_whole_weights_are_put_back_into_a_sharded_model(tmp_path):
    run_processes(put_back, 2, tmp_path, folder=tmp_path)


@pytest.mark.slow
def test_a_damaged_part_is_passed_over_for_the_checkpoint_before(tmp_path):
    run_processes(interrupted, 2, tmp_path, "fsdp", folder=tmp_path, check=False)
    newest = sorted((tmp_path / "checkpoints").glob("fit-*"))[-1]
    part = next(newest.glob("optimizer-00002-of-00002.safetensors"))
    data = bytearray(part.read_bytes())
    data[-3] ^= 1
    part.write_bytes(data)

    with pytest.raises(CheckpointError, match=r"optimizer-00002-of-00002\.safetensors is not as it was written"):
        read(newest)


def test_fsdp_changes_nothing_in_one_process(tmp_path, one_process):
    trainer = make_trainer(FSDP(wrap=nn.Linear), 4, tmp_path)
    trainer.fit(epochs=3)

    assert result_of(trainer) == read_result(one_process / "result.json")["first"]


def test_ddp_changes_nothing_in_one_process(tmp_path, one_process):
    trainer = make_trainer(DDP(sync_batch_norm=True), 4, tmp_path)
    trainer.fit(epochs=3)

    assert result_of(trainer) == read_result(one_process / "result.json")["first"]
