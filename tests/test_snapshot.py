"""What a checkpoint holds of a training comes back whole, or nothing is touched."""

import copy
import hashlib
import json
import random

import numpy as np
import pytest
import safetensors.torch
import torch
import torchmetrics
from marks import slow
from torch import nn
from torch.nn.utils import parametrizations

from ignition import Trainer, crossentropy_loss, freeze
from ignition.background import Writer
from ignition.callbacks import Callback
from ignition.checkpoint import read
from ignition.errors import CheckpointError
from ignition.modes import is_frozen
from ignition.snapshot import apply, capture
from ignition.structure import named

# An optimizer in trainer.state is not one of those that the Trainer watches.
pytestmark = pytest.mark.filterwarnings("ignore:the first step was taken by an optimizer that the Trainer")

GENERATOR = torch.Generator().manual_seed(3)
BATCHES = [(torch.randn(6, 4, generator=GENERATOR), torch.arange(6) % 3) for _ in range(5)]


def net(*more):
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3), *more)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def trainer_of(model=None, make=adam, step=None, batches=BATCHES, state=None, seed=0):
    """A training that can be made again and again by the same "script"."""
    torch.manual_seed(seed)
    model = net() if model is None else model()
    optimizer = make(model)

    def train_fn(model, x, y):
        if step is not None:
            return step(trainer, model, optimizer, x, y)
        optimizer.zero_grad()
        loss = crossentropy_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    trainer = Trainer(model, optimizer, train_fn, batches, progress=False)
    trainer.state = {} if state is None else state()
    return trainer


def everything(trainer):
    """Weights, buffers, optimizers, generators, history and what is carried, as one string."""
    content = capture(trainer.training, Writer().copy)
    for name in ("seconds", "history"):
        content.state.pop(name)
    parts = [json.dumps(content.state, sort_keys=True)]
    for file in sorted(content.tensors):
        for name, tensor in sorted(content.tensors[file].items()):
            data = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            parts.append(f"{file} {name} {tensor.dtype} {hashlib.sha256(data).hexdigest()}")
    losses = [row["train_loss"] for row in trainer.history.rows if "train_loss" in row]
    return "\n".join([*parts, repr(losses)])


def loss_of(model, x, y):
    return crossentropy_loss(model(x), y)


def two_models():
    return {"G": net(), "D": net()}


def two_optimizers(models):
    return {
        name: adam(model) if name == "G" else torch.optim.SGD(model.parameters(), 0.1, 0.9)
        for name, model in models.items()
    }


def train_both(trainer, models, optimizers, x, y):
    for name in ("G", "D"):
        optimizers[name].zero_grad()
        loss = loss_of(models[name], x, y)
        loss.backward()
        optimizers[name].step()
    return {"loss": loss}


def train_list(trainer, models, optimizers, x, y):
    return train_both(trainer, dict(zip("GD", models, strict=True)), dict(zip("GD", optimizers, strict=True)), x, y)


def lbfgs(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=4, line_search_fn="strong_wolfe")


def train_lbfgs(trainer, model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    return {"loss": optimizer.step(closure)}


def groups(model):
    return torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[1:].parameters(), "betas": (0.5, 0.9)}],
        lr=0.01,
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x).tanh()))


class Odd(nn.Module):
    """Buffers that no state dict has, one of which is made on the way, and extra state."""

    def __init__(self):
        super().__init__()
        self.inner = net()
        self.calls = (0, "none")
        self.register_buffer("shift", torch.zeros(3), persistent=False)
        self.register_buffer("cache", None, persistent=False)

    def forward(self, x):
        self.calls = (self.calls[0] + 1, f"{self.calls[0]}")
        if self.cache is None:
            self.cache = torch.zeros(1)
        if self.calls[0] == 2:
            self.cache = torch.rand(3)
        self.shift += 0.1 * x.mean()
        return self.inner(x) * (1 + 0.01 * self.calls[0]) + self.shift + self.cache

    def get_extra_state(self):
        return {"calls": self.calls, "memory": torch.tensor([self.calls[0]])}

    def set_extra_state(self, state):
        self.calls = state["calls"]
        assert int(state["memory"]) == self.calls[0]


class Master:
    """SGD whose momentum is in 64 bits and lies in lists: torch would give it the type of the parameter."""

    def __new__(cls, model):
        class MasterSGD(torch.optim.SGD):
            def step(self, closure=None):
                with torch.no_grad():
                    for parameter in self.param_groups[0]["params"]:
                        state = self.state[parameter]
                        if not state:
                            state["copies"] = [
                                parameter.double(),
                                {"name": "momentum", "value": parameter.double() * 0},
                            ]
                        state["copies"][1]["value"].mul_(0.9).add_(parameter.grad.double())
                        state["copies"][0].sub_(0.1 * state["copies"][1]["value"])
                        parameter.copy_(state["copies"][0])

        return MasterSGD(model.parameters(), lr=0.1)


def carried():
    return {"hidden": torch.zeros(3), "pointer": 0, "names": ("a", None), "queue": [torch.zeros(2), {1: 2.5}]}


def train_carrying(trainer, model, optimizer, x, y):
    optimizer.zero_grad()
    state = trainer.state
    loss = crossentropy_loss(model(x) + state["hidden"], y)
    loss.backward()
    optimizer.step()
    state["hidden"] = 0.5 * state["hidden"] + 0.1 * torch.rand(3)
    state["queue"][0][state["pointer"] % 2] += 1
    state["pointer"] += 1
    return {"loss": loss}


def holding_objects():
    module = nn.Linear(3, 3)
    return {
        "module": module,
        "optimizer": torch.optim.Adam(module.parameters()),
        "accuracy": torchmetrics.classification.MulticlassAccuracy(3),
        "temperature": nn.Parameter(torch.ones(1)),
    }


def train_with_objects(trainer, model, optimizer, x, y):
    state = trainer.state
    optimizer.zero_grad()
    state["optimizer"].zero_grad()
    logits = state["module"](model(x)) * state["temperature"]
    loss = crossentropy_loss(logits, y)
    loss.backward()
    optimizer.step()
    state["optimizer"].step()
    with torch.no_grad():
        state["temperature"].mul_(1.01)
    state["temperature"].grad = None
    state["accuracy"].update(logits, y)
    return {"loss": loss + 0 * state["accuracy"].compute()}


class Measured(nn.Module):
    """A model that measures itself as it goes, with a metric whose state no state dict has."""

    def __init__(self):
        super().__init__()
        self.inner, self.mean = net(), torchmetrics.MeanMetric()

    def forward(self, x):
        self.mean.update(x.abs())
        return self.inner(x) * self.mean.compute()


def half_frozen():
    model = net()
    freeze(model[0])
    model[4].bias.requires_grad_(False)
    return model


def parametrized():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Linear(8, 3))


def complex_model():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))

        def forward(self, x):
            return (x.to(torch.complex128) @ self.weight).abs().float()

    return Complex()


def channels_last():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 5, 2), nn.Flatten(), nn.Linear(5, 3)).to(
        memory_format=torch.channels_last
    )


SCRIPTS = {
    "one model": {},
    "a dict of models": {"model": two_models, "make": two_optimizers, "step": train_both},
    "a list of models": {
        "model": lambda: [net(), net()],
        "make": lambda models: list(two_optimizers(dict(zip("GD", models, strict=True))).values()),
        "step": train_list,
    },
    "LBFGS": {"make": lbfgs, "step": train_lbfgs},
    "parameter groups": {"make": groups},
    "tied weights": {"model": Tied},
    "odd buffers and extra state": {"model": Odd},
    "copies of another type": {"make": Master},
    "carried values": {"state": carried, "step": train_carrying},
    "objects in state": {"state": holding_objects, "step": train_with_objects},
    "a metric in the model": {"model": Measured},
    "half of it frozen": {"model": half_frozen},
    "parametrized": {"model": parametrized},
    "complex": {"model": complex_model},
    "channels last": {"model": channels_last},
    "amsgrad": {"make": lambda model: torch.optim.Adam(model.parameters(), amsgrad=True)},
    "16 bits": {"model": lambda: nn.Linear(4, 3).bfloat16(), "batches": [(x.bfloat16(), y) for x, y in BATCHES]},
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("taken", [slow(1), 3, slow(5)])
def test_a_training_that_is_put_back_ends_as_the_one_that_went_on(tmp_path, script, taken):
    whole = trainer_of(**script)
    whole.fit(steps=taken)
    whole.save(tmp_path / "a")
    saved = everything(whole)
    whole.fit(steps=4)

    put_back = trainer_of(**script, seed=9)  # other weights, other generators
    put_back.load(tmp_path / "a")
    assert everything(put_back) == saved
    put_back.fit(steps=4)
    assert everything(put_back) == everything(whole)
    put_back.load(tmp_path / "a")  # the same one, once more
    assert put_back.training.fit["number"] == 2  # no number comes twice in a script
    put_back.training.fit["number"] = 1
    assert everything(put_back) == saved


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_same_content_twice_gives_equal_trainings(tmp_path, script):
    first = trainer_of(**script)
    first.fit(steps=2)
    first.save(tmp_path / "a")
    content = read(tmp_path / "a")
    before = copy.deepcopy(content)
    ends = []
    for seed in (4, 5):
        trainer = trainer_of(**script, seed=seed)
        apply(trainer.training, content, "memory")
        trainer.fit(steps=4)
        ends.append(everything(trainer))
    assert ends[0] == ends[1]
    assert content.state == before.state
    for file, tensors in before.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, content.tensors[file][name])


def test_what_is_captured_shares_no_memory():
    trainer = trainer_of(state=carried, step=train_carrying)
    trainer.fit(steps=2)
    content = capture(trainer.training, Writer().copy)
    before = copy.deepcopy(content)
    trainer.fit(steps=2)
    for file, tensors in before.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, content.tensors[file][name])
    assert content.state == before.state


def changed_in_place(trainer):
    """As a training goes on that leaves nothing as it was: all that optimizers hold, and all generators."""
    for optimizer in named(trainer.optimizer).values():
        for group in optimizer.param_groups:
            group["lr"] = 0.5
            group["new"] = [1]
        for state in optimizer.state.values():
            for key, value in list(state.items()):
                if isinstance(value, torch.Tensor):
                    value.add_(1)
                elif isinstance(value, list):
                    value.append(7)
                state[f"more of {key}"] = value
    torch.rand(3)
    np.random.random(3)
    random.random()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_is_completed_while_the_training_goes_on_is_as_it_was_taken(script):
    trainer = trainer_of(**script)
    trainer.fit(steps=2)
    at_once = capture(trainer.training, Writer().copy)
    later = capture(trainer.training, Writer().copy, at_once=False)
    changed_in_place(trainer)
    later.complete()
    later.complete()  # there is nothing more to do
    later.state["seconds"] = at_once.state["seconds"]
    assert later.state == at_once.state
    assert {file: list(tensors) for file, tensors in later.tensors.items()} == {
        file: list(tensors) for file, tensors in at_once.tensors.items()
    }
    for file, tensors in at_once.tensors.items():
        for name, tensor in tensors.items():
            assert later.tensors[file][name].dtype == tensor.dtype
            assert torch.equal(tensor, later.tensors[file][name])


@pytest.mark.parametrize("name", ["one model", "tied weights", "parametrized", "16 bits", "half of it frozen"])
def test_the_weights_load_strictly_into_a_plain_model(tmp_path, name):
    trainer = trainer_of(**SCRIPTS[name])
    trainer.fit(steps=2)
    trainer.save(tmp_path / "a")
    plain = SCRIPTS[name].get("model", net)()
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "a" / "model.safetensors"), strict=True)
    for key, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[key])


def test_the_weights_of_several_models_have_their_names(tmp_path):
    trainer = trainer_of(**SCRIPTS["a dict of models"])
    trainer.save(tmp_path / "a")
    found = safetensors.torch.load_file(tmp_path / "a" / "model.safetensors")
    assert found.keys() == {f"{name}.{key}" for name in ("G", "D") for key in net().state_dict()}


def test_marks_and_gradients_asked_for_come_back(tmp_path):
    trainer = trainer_of(half_frozen)
    trainer.save(tmp_path / "a")
    other = trainer_of()
    other.load(tmp_path / "a")
    assert [is_frozen(part) for part in other.model] == [True, False, False, False, False]
    assert [one.requires_grad for one in other.model.parameters()] == [False, False, True, True, True, False]
    back = trainer_of()
    back.save(tmp_path / "b")
    other.load(tmp_path / "b")
    assert not any(is_frozen(part) for part in other.model)
    assert all(one.requires_grad for one in other.model.parameters())


def test_what_functions_hold_on_to_stays(tmp_path):
    trainer = trainer_of(state=holding_objects, step=train_with_objects)
    trainer.hyper = {}
    state, hyper, objects, weight = trainer.state, trainer.hyper, dict(trainer.state), trainer.model[0].weight
    trainer.fit(steps=1)
    trainer.save(tmp_path / "a")
    trainer.load(tmp_path / "a")
    assert trainer.state is state
    assert trainer.hyper is hyper
    assert trainer.model[0].weight is weight
    assert all(state[name] is one for name, one in objects.items())


# What does not fit


class Remembering(Callback):
    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": 1}

    def load_state_dict(self, state):
        self.value = state["value"]


def wider():
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.ReLU(), nn.Linear(9, 3))


def renamed():
    model = net()
    model[4] = nn.Sequential(nn.Linear(8, 3))
    return model


MISFITS = {
    "wider": ({"model": wider}, r"another model .*of another shape: 0.weight \(8, 4\) instead of \(9, 4\), 0.bias"),
    "renamed": ({"model": renamed}, r"missing: 4.0.weight, 4.0.bias; unexpected: 4.bias, 4.weight"),
    "longer": ({"model": lambda: net(nn.Linear(3, 3))}, r"missing: 5.weight, 5.bias\)"),
    "of another type": ({"model": lambda: net().double()}, r"0.weight torch.float32 instead of torch.float64"),
    "two models": (SCRIPTS["a dict of models"], r"another model \(missing: G.0.weight"),
    "another optimizer": (
        {"make": lambda model: torch.optim.SGD(model.parameters(), 0.1)},
        "with Adam, and here is SGD",
    ),
    "other groups": (
        {"make": lambda model: torch.optim.Adam([{"params": [one]} for one in model.parameters()])},
        r"groups of \[6\] parameters, here of \[1, 1, 1, 1, 1, 1\]",
    ),
    "named optimizers": ({"make": lambda model: {"a": adam(model)}}, r"of the optimizers \[''\], and here are \['a'\]"),
    "fewer batches": ({"batches": BATCHES[:3]}, "train_loader of 5 batches .* now it has 3 batches"),
    "an object is missing": ({"state": dict}, "the state of an object where there is NoneType now"),
    "another object": ({"state": lambda: {"module": 3}}, "the state of an object where there is int now"),
}


@pytest.mark.parametrize(("script", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path, script, message):
    saved = trainer_of(state=lambda: {"module": nn.Linear(2, 2)})
    saved.callbacks = [Remembering()]
    saved.fit(steps=3)
    saved.save(tmp_path / "a")
    script = {"state": lambda: {"module": nn.Linear(2, 2)}} | script
    trainer = trainer_of(**script, seed=5)
    trainer.callbacks = [callback] = [Remembering()]
    trainer.hyper, trainer.training.position.step = {}, 2
    before = everything(trainer)
    with pytest.raises(CheckpointError, match=message) as caught:
        trainer.load(tmp_path / "a")
    assert "to do:" in str(caught.value)
    assert everything(trainer) == before
    assert callback.value == 0


def spoil(value):
    return [None, 3, "x", [], {}, [value], {"$": ["tensor", ["missing", False, "cpu", None]]}, {"$": ["eval", "1"]}]


PLACES = ["generators", "history", "hyper", "state", "callbacks", "scales", "loader", "pending", "means", "extra",
          "metrics", "optimizers", "optimizer_kinds", "data", "trained", "frozen"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_content_that_lacks_something_is_refused_and_nothing_is_changed(tmp_path, place):
    saved = trainer_of()
    saved.fit(steps=2)
    saved.save(tmp_path / "a")
    content = read(tmp_path / "a")
    del content.state[place]
    trainer = trainer_of(seed=5)
    before = everything(trainer)
    with pytest.raises(CheckpointError, match="made by hand"):
        apply(trainer.training, content, "made by hand")
    assert everything(trainer) == before


@pytest.mark.slow
@pytest.mark.parametrize("place", [*PLACES, "position", "fit", "seed", "seconds", "open"])
def test_a_crafted_content_is_refused_with_one_kind_of_error_or_none(tmp_path, place):
    saved = trainer_of()
    saved.fit(steps=2)
    saved.save(tmp_path / "a")
    content = read(tmp_path / "a")
    for value in spoil(content.state[place]):
        crafted = copy.deepcopy(content)
        crafted.state[place] = value
        try:
            apply(trainer_of(seed=5).training, crafted, "made by hand")
        except CheckpointError:
            continue


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight is that of a lazy module"),
        (lambda: nn.Linear(4, 3, device="meta"), "weight is .* on the device meta"),
        (lambda: with_buffer(torch.eye(3).to_sparse()), "buffer is torch.sparse_coo"),
    ],
)
def test_a_tensor_that_cannot_be_held_is_named(tmp_path, model, message):
    trainer = trainer_of(make=lambda model: None)
    trainer._model = model()
    with pytest.raises(CheckpointError, match=f"(?s)the tensor {message}.*which a checkpoint cannot hold.*to do: "):
        trainer.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def with_buffer(tensor):
    model = nn.Linear(4, 3)
    model.register_buffer("buffer", tensor)
    return model


def test_something_in_state_that_cannot_be_held_is_named(tmp_path):
    trainer = trainer_of(state=lambda: {"a": [open]})
    with pytest.raises(CheckpointError, match=r"state.a.0 is a builtin_function_or_method"):
        trainer.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()
