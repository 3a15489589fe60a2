"""DDP and FSDP as options, and the model under DDP: all of it is the user's own but the forward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from processes import run_processes
from small import loader, net, raised, read, values, write
from torch import nn

from ignition import DDP, FSDP, Trainer, distributed, optimize
from ignition.errors import ArgumentError
from ignition.strategy import check_strategy, replica_of, replicated


@pytest.mark.parametrize("strategy", [DDP, FSDP])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_flag_is_true_or_false(strategy, value):
    flags = [name for name, default in ((f, getattr(strategy(), f)) for f in strategy.__slots__) if default in (0, 1)]
    assert flags
    for flag in flags:
        with pytest.raises(ArgumentError, match=f"{flag}="):
            strategy(**{flag: value})


@pytest.mark.parametrize("size", [0, -1, True, "25", float("nan")])
def test_a_bucket_has_a_size(size):
    with pytest.raises(ArgumentError, match="bucket_cap_mb"):
        DDP(bucket_cap_mb=size)


@pytest.mark.parametrize("value", ["bf32", torch.int8, 16])
def test_a_precision_is_one_in_which_a_model_can_run(value):
    with pytest.raises(ArgumentError, match="precision"):
        FSDP(precision=value)


@pytest.mark.parametrize("value", ["encode", [1], (1,)])
def test_methods_are_named_in_a_tuple(value):
    with pytest.raises(ArgumentError, match="methods"):
        FSDP(methods=value)


@pytest.mark.parametrize("wrap", ["layers", 3, (nn.Linear, 3), int, [nn.Linear]])
def test_what_is_wrapped_is_given_by_classes_or_a_function(wrap):
    with pytest.raises(ArgumentError, match="wrap"):
        FSDP(wrap=wrap)


@pytest.mark.parametrize("wrap", [None, nn.Linear, (nn.Linear, nn.Conv2d), lambda module: True])
def test_classes_and_functions_are_taken(wrap):
    assert FSDP(wrap=wrap).wrap is wrap


def test_a_strategy_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        DDP().static_graph = True


def test_names_stand_for_the_strategies_without_options():
    assert check_strategy("auto") == check_strategy("ddp") == DDP()
    assert check_strategy("fsdp") == FSDP()
    options = DDP(bucket_cap_mb=1)
    assert check_strategy(options) is options


def test_a_model_with_nothing_to_train_stays_as_it_is():
    model = net().requires_grad_(False)
    assert replicated(model, DDP(), torch.device("cpu")) is model
    assert replica_of(model) is None


# In two processes


class Named(nn.Module):
    """A model whose attributes have the names of DDP's own."""

    def __init_subclass__(cls, name, **arguments):
        super().__init_subclass__(**arguments)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dim, self.device, self.logger, self.module, self._scale = 7, "here", "log", "mine", 1
        self.inner = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * self._scale

    def loss(self, x, y):
        return nn.functional.cross_entropy(self(x), y)


class WithForwardAttribute(nn.Linear):
    """A model that some library has given another forward pass."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(4, 3)
        plain = super().forward
        self.forward = lambda x: 2 * plain(x)


def look_at(model, x, y, found):
    own = found["model"]
    copied = copy.deepcopy(model)
    found["names"] = [model.dim, model.device, model.logger, model.module, list(model.state_dict())]
    found["kind"] = [isinstance(model, Named), type(copied) is Named, type(model).__name__]
    model.fresh, model._scale = 5, 2
    found["set"] = [own.fresh, own._scale]
    del model.fresh
    model.dropout.eval()
    found["deleted"] = [hasattr(own, "fresh"), own.training, own.dropout.training]
    model.train()
    before = own.calls
    losses = [nn.functional.cross_entropy(model(x), y), nn.functional.cross_entropy(model.forward(x), y)]
    losses.append(model.loss(x, y))
    found["calls"] = own.calls - before
    found["alike"] = len({loss.item() for loss in losses}) == 1
    return sum(losses) / 3


def one_step(model, loss_of, **options):
    """A Trainer's first step on 8 samples of both processes."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(prepared, x, y):
        loss = loss_of(prepared, x, y)
        optimize(loss, optimizer)
        return {"loss": loss}

    Trainer(model, optimizer, train_fn, loader(8), progress=False, **options).fit(steps=1)
    return values(model)


class TwoHeads(nn.Module):
    """A model of which each batch uses one of two parts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.turn = nn.Linear(4, 3), nn.Linear(4, 3), 0

    def forward(self, x):
        self.turn += 1
        return (self.first if self.turn % 2 else self.second)(x)


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def many_steps(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        loss = loss_of(model, x, y)
        optimize(loss, optimizer)
        return {"loss": loss}

    trainer = Trainer(model, optimizer, train_fn, loader(), progress=False, **options)
    return [*trainer.fit(epochs=2)["train_loss"], *values(model)]


def plain_step(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def adversaries(size):
    """A generator and a discriminator, trained in turn by plain steps and by `optimize`."""
    found = []
    for plain in (False, True):
        torch.manual_seed(1)
        models = {"G": nn.Linear(4, 4), "D": nn.Linear(4, 1)}
        optimizers = {name: torch.optim.Adam(one.parameters(), 0.01) for name, one in models.items()}

        step = plain_step if plain else optimize

        def train_fn(models, x, y, optimizers=optimizers, step=step):
            fake = models["G"](x)
            real, faked = models["D"](x), models["D"](fake.detach())
            step(nn.functional.softplus(-real).mean() + nn.functional.softplus(faked).mean(), optimizers["D"])
            step(nn.functional.softplus(-models["D"](fake)).mean(), optimizers["G"])

        Trainer(models, optimizers, train_fn, loader(24, size), progress=False).fit(epochs=2)
        found += [*values(models["G"]), *values(models["D"])]
    return found


def buffers_of():
    """Batch norm's statistics after an evaluation: each process has had other batches."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        loss = loss_of(model, x, y)
        optimize(loss, optimizer)

    def eval_fn(model, x, y):
        return {"loss": loss_of(model, x, y)}

    Trainer(model, optimizer, train_fn, loader(20), eval_fn, loader(), progress=False).fit(epochs=1)
    return model[0].running_mean.tolist()


def train_under_ddp(folder):
    found = {"model": Named()}
    found["values"] = one_step(found["model"], lambda model, x, y: look_at(model, x, y, found))
    del found["model"]
    found["forward attribute"] = one_step(WithForwardAttribute(), loss_of)
    found["compiled"] = one_step(net(), loss_of, compile={"backend": "eager"})
    found["unused"] = many_steps(TwoHeads(), strategy=DDP(find_unused_parameters=True))
    found["static"] = many_steps(net(), strategy=DDP(static_graph=True, bucket_cap_mb=1, broadcast_buffers=False))
    found["static window"] = many_steps(net(), strategy=DDP(static_graph=True), accumulate=2)
    found["plain window"] = many_steps(net(), accumulate=2)
    found["adversaries"] = adversaries(4)
    found["buffers"] = buffers_of()
    nothing = Trainer(nn.Identity(), None, lambda model, x, y: {"m": model(x).mean()}, loader(), progress=False)
    found["without parameters"] = nothing.fit(epochs=1)["train_m"]
    found["not said"] = raised(lambda: many_steps(TwoHeads()))
    write(folder, found)


def by_hand(model, batches, epochs=1):
    """The loop of one process, written by hand."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
    return values(model)


@pytest.mark.slow
def test_the_prepared_model_is_the_users_but_for_its_forward_pass(tmp_path):
    run_processes(train_under_ddp, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert {name: first[name] == second[name] for name in first if name != "not said"} == {
        name: True for name in first if name != "not said"
    }
    assert first["names"] == [7, "here", "log", "mine", ["inner.weight", "inner.bias"]]
    assert first["kind"] == [True, True, "Named"]
    assert first["set"] == [5, 2]
    assert first["deleted"] == [False, True, False]
    assert first["calls"] == 3
    assert first["alike"]
    eight = [(torch.cat([x for x, _ in loader(8)]), torch.cat([y for _, y in loader(8)]))]
    scaled = Named()
    scaled._scale = 2
    assert first["values"] == pytest.approx(by_hand(scaled, eight), abs=1e-6)
    assert first["forward attribute"] == pytest.approx(by_hand(WithForwardAttribute(), eight), abs=1e-6)
    assert first["compiled"] == pytest.approx(by_hand(net(), eight), abs=1e-6)
    rounds = list(loader(21, 8))
    assert first["unused"][2:] == pytest.approx(by_hand(TwoHeads(), rounds, 2), abs=1e-6)
    assert first["static"][2:] == pytest.approx(by_hand(net(), rounds, 2), abs=1e-6)
    assert first["static window"] == pytest.approx(first["plain window"], abs=1e-6)
    assert first["adversaries"] == pytest.approx(adversaries(8), abs=1e-6)
    assert first["without parameters"] == pytest.approx([torch.cat([x for x, _ in loader()]).mean().item()])
    assert "differ from process to process" in first["not said"] + second["not said"]
    assert distributed.world_size() == 1
