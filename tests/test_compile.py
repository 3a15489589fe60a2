"""compile=True: the functions receive a compiled model, and everything else sees the plain one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounter

from ignition import Trainer, crossentropy_loss, load_weights, optimize, predict_on_batch
from ignition.callbacks import EMA, SaveModel, Schedule
from ignition.errors import ArgumentError

x, y = torch.randn(22, 4), torch.arange(22) % 3
batches = [(x[start : start + 11], y[start : start + 11]) for start in (0, 11)]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(compile, epochs=3, dropout=0.0, forward=False, callbacks=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y, scale=1.0):
        loss = crossentropy_loss(model.forward(x) if forward else model(x), y)
        optimize(scale * loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        return {"loss": crossentropy_loss(model(x), y)}

    trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, batches, compile=compile, progress=False)
    trainer.callbacks = list(callbacks)
    trainer.fit(epochs=epochs)
    return trainer


@pytest.mark.parametrize("forward", [False, True])
def test_the_functions_receive_the_compiled_model_and_learn_the_same(forward):
    counter = CompileCounter()
    compiled = trained({"backend": counter}, forward=forward)
    plain = trained(False)
    assert counter.frame_count == 2, "once for training, once for evaluation"
    assert compiled.history["val_loss"] == pytest.approx(plain.history["val_loss"], abs=1e-6)
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(compiled.model.state_dict()[name], value, atol=1e-6), name


def test_a_hyperparameter_that_changes_each_step_compiles_nothing_anew():
    counter = CompileCounter()
    halving = Schedule("scale", lambda step: 0.5**step, every="step")
    trainer = trained({"backend": counter}, epochs=6, callbacks=[halving])
    assert len(set(trainer.history["scale"])) == 6
    assert counter.frame_count == 2


def test_a_hyperparameter_that_the_model_is_called_with_is_compiled_once_for_all_its_values():
    class Scaled(nn.Linear):
        def forward(self, x, scale):
            return super().forward(x) * scale

    counter, model = CompileCounter(), Scaled(4, 3)
    optimizer, compiled = torch.optim.SGD(model.parameters(), lr=0.1), []

    def train_fn(model, x, y, scale):
        compiled.append(counter.frame_count)
        optimize(crossentropy_loss(model(x, scale), y), optimizer)

    trainer = Trainer(model, optimizer, train_fn, batches, compile={"backend": counter}, progress=False)
    trainer.callbacks = [Schedule("scale", lambda step: 0.9**step, every="step")]
    trainer.fit(epochs=4)
    assert compiled == [0, 1, 2, 2, 2, 2, 2, 2]


def test_what_is_saved_has_the_plain_names(tmp_path):
    files = [SaveModel(tmp_path / name) for name in ("model.pt", "model.safetensors")]
    trainer = trained({"backend": "eager"}, callbacks=[EMA(0.9), *files])
    names = list(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)).state_dict()
    )
    assert list(trainer.model.state_dict()) == names
    assert list(trainer.averaged["ema"].state_dict()) == names
    assert list(torch.load(tmp_path / "model.pt", weights_only=True)) == names
    assert list(torch.load(tmp_path / "model.ema.pt", weights_only=True)) == names
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(names)
    trainer.save(tmp_path / "checkpoint")
    assert sorted(load_file(tmp_path / "checkpoint" / "model.safetensors")) == sorted(names)
    load_weights(nn.Sequential(*trainer.model), tmp_path / "checkpoint")


def test_evaluation_and_prediction_use_the_compiled_model_too_and_modes_are_kept():
    counter = CompileCounter()
    trainer = trained({"backend": counter}, dropout=0.5)
    outputs = trainer.predict(predict_on_batch, batches)
    trainer.evaluate()
    assert counter.frame_count == 2
    assert all(module.training for module in trainer.model.modules())
    assert torch.allclose(outputs, trainer.model.eval()(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at its own inputs
def test_several_models_are_compiled_each():
    counter = CompileCounter()
    models = {"a": nn.Linear(4, 3), "b": nn.Linear(3, 3)}

    def train_fn(models, x, y):
        return {"loss": crossentropy_loss(models["b"](models["a"](x)), y)}

    Trainer(models, None, train_fn, batches, compile={"backend": counter}, progress=False).fit(epochs=2)
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own modules
def test_torchs_own_compiler_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # in this process, which leaves none behind
    compiled, plain = trained(True), trained(False)
    assert compiled.history["val_loss"] == pytest.approx(plain.history["val_loss"], abs=1e-5)


@pytest.mark.parametrize("compile", ["yes", 1, None])
def test_what_says_neither_yes_nor_how_is_an_error(compile):
    with pytest.raises(ArgumentError, match="compile="):
        Trainer(nn.Linear(4, 3), None, lambda model, x, y: None, batches, compile=compile)
