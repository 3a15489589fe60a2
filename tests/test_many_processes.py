"""What users do around a fit on many processes: it trains as one process does, or says at once why it cannot."""

from __future__ import annotations

import warnings

import pytest
import torch
from processes import run_processes
from small import InOrder, loader, net, raised, read, values, write
from torch import nn

from ignition import DDP, FSDP, Trainer, distributed, optimize
from ignition.callbacks import EMA
from ignition.errors import ArgumentError
from ignition.strategy import check_replicable, share_values


def whole(model):
    """All parameters of a model that may be sharded."""
    parts = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in model.parameters()]
    return torch.cat([one.detach().reshape(-1) for one in parts]).tolist()


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def adam_by_hand(size, epochs):
    """The loop of one process, written by hand."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        for x, y in loader(24, size):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
    return values(model)


def adam(*, model=None, optimizer=None, train_loader=None, **options):
    model = net() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 0.01) if optimizer is None else optimizer

    def train_fn(model, x, y):
        loss = loss_of(model, x, y)
        optimize(loss, optimizer)
        return {"loss": loss}

    return Trainer(model, optimizer, train_fn, train_loader or loader(24), progress=False, **options)


# A sweep before the first fit


def sweep_first(folder):
    """A sweep over learning rates before the first fit, and between two."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        trainer = adam(strategy=strategy)
        trainer.callbacks = [EMA(0.5)]
        first = trainer.find_lr(steps=7)
        found[f"{strategy}, put back"] = whole(trainer.model) == values(net()) and not trainer.optimizer.state
        trainer.fit(epochs=1)
        second = trainer.find_lr(steps=7)
        trainer.fit(epochs=1)
        found[strategy] = whole(trainer.model)
        found[f"{strategy}, losses"] = [first.losses, second.losses]
        found[f"{strategy}, average"] = whole(trainer.averaged["ema"])
    write(folder, found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_after_a_sweep_before_the_first_fit_all_is_as_it_was(tmp_path, count):
    run_processes(sweep_first, count, tmp_path, folder=tmp_path)
    for one in read(tmp_path, count):
        for strategy in ("ddp", "fsdp"):
            assert one[f"{strategy}, put back"]
            assert one[strategy] == pytest.approx(adam_by_hand(4 * count, 2), abs=1e-6)
            assert one[f"{strategy}, losses"][0] != one[f"{strategy}, losses"][1]
        assert one["fsdp, average"] == pytest.approx(one["ddp, average"], abs=1e-6)
        assert one["fsdp, losses"] == [pytest.approx(losses, abs=1e-4) for losses in one["ddp, losses"]]


# Two optimizers for the parts of one model


class Parts(nn.Module):
    """Two parts, and one that not every batch uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.rare, self.calls = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3), 0

    def forward(self, x):
        self.calls += 1
        hidden = torch.tanh(self.body(x))
        return self.head(hidden) + (self.rare(hidden) if self.calls > 3 else 0)


def optimizers_of(model):
    return [
        torch.optim.Adam(model.body.parameters(), 0.01),
        torch.optim.SGD([*model.head.parameters(), *model.rare.parameters()], 0.1, weight_decay=0.1),
    ]


def in_parts(size, *, plain, epochs=3, **options):
    model = Parts()
    optimizers = optimizers_of(model)

    def train_fn(model, x, y):
        loss = loss_of(model, x, y)
        if not plain:
            optimize(loss, optimizers[0], retain_graph=True)
            optimize(loss, optimizers[1])
            return
        for one in optimizers:
            one.zero_grad()
        loss.backward()
        for one in optimizers:
            one.step()

    batches = loader(21 if "accumulate" in options else 24, size)
    Trainer(model, optimizers, train_fn, batches, progress=False, **options).fit(epochs=epochs)
    return whole(model)


def parts_by_hand(size, epochs=3):
    """The loop of one process: each optimizer has the gradients of its own part."""
    model = Parts()
    optimizers = optimizers_of(model)
    for _ in range(epochs):
        for x, y in loader(24, size):
            for one in optimizers:
                one.zero_grad()
            loss_of(model, x, y).backward()
            for one in optimizers:
                one.step()
    return values(model)


def train_in_parts(folder, size):
    unused = DDP(find_unused_parameters=True)
    found = {
        "ddp": in_parts(int(size), plain=False),
        "unused": in_parts(int(size), plain=False, strategy=unused),
        "plain": in_parts(int(size), plain=True, strategy=unused),
        "fsdp": in_parts(int(size), plain=False, strategy="fsdp"),
        "windows": in_parts(int(size), plain=False, accumulate=2),
    }
    write(folder, found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_two_optimizers_for_parts_of_one_model_step_as_in_one_process(tmp_path, count):
    run_processes(train_in_parts, count, tmp_path, 12 // count, folder=tmp_path)
    alone = parts_by_hand(12)
    windows = in_parts(12, plain=False, accumulate=2)
    for one in read(tmp_path, count):
        for name in ("ddp", "unused", "plain", "fsdp"):
            assert one[name] == pytest.approx(alone, abs=1e-6), name
        assert one["windows"] == pytest.approx(windows, abs=1e-6)


# A second Trainer for a model that is sharded


def trained_twice(folder):
    """Two Trainers for one model, whose optimizers were both made before it was sharded, and one made after it."""
    found = {}
    for again in (True, False):
        strategy = FSDP(reshard_after_forward=again)
        model = net()
        optimizers = [torch.optim.Adam(model.parameters(), 0.01), torch.optim.SGD(model.parameters(), 0.1)]
        adam(model=model, optimizer=optimizers[0], strategy=strategy).fit(epochs=1)
        second = adam(model=model, optimizer=optimizers[1], strategy=strategy)
        second.callbacks = [EMA(0.5)]
        found[f"evaluated {again}"] = second.find_lr(steps=3).losses
        second.fit(epochs=1)
        found[f"average {again}"] = whole(second.averaged["ema"])
        third = adam(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), strategy=strategy)
        third.fit(epochs=1)
        found[f"values {again}"] = whole(model)
    other = adam(model=model, optimizer=optimizers[0], strategy=FSDP(precision="bf16"))
    found["other"] = raised(lambda: other.fit(epochs=1))
    write(folder, found)


def twice_by_hand(size):
    model = net()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    averages = []
    makers = [lambda one: torch.optim.Adam(one, 0.01), lambda one: torch.optim.SGD(one, 0.1)]
    for number, make in enumerate([*makers, makers[1]]):
        optimizer = make(model.parameters())
        if number == 1:
            average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average.multi_avg_fn)
        for x, y in loader(24, size):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
            average.update_parameters(model)
        averages.append(values(average.module))
    return averages[1], values(model)


@pytest.mark.slow
def test_a_second_trainer_goes_on_with_a_sharded_model(tmp_path):
    run_processes(trained_twice, 2, tmp_path, folder=tmp_path)
    average, last = twice_by_hand(8)
    for one in read(tmp_path, 2):
        for again in (True, False):
            assert one[f"values {again}"] == pytest.approx(last, abs=1e-6)
            assert one[f"average {again}"] == pytest.approx(average, abs=1e-6)
        assert "is sharded already" in one["other"]


# A step limit at the end of an epoch


class Counted:
    """An iterable of the user's with a length."""

    def __iter__(self):
        return iter(loader())

    def __len__(self):
        return len(loader())


def train_to_the_limit(folder):
    """Fits whose number of steps is that of an epoch, and what is there after each."""
    found = {}
    for name, batches in {"sampler": loader(sampler=InOrder(21)), "iterable": Counted(), "plain": loader()}.items():
        trainer = adam(train_loader=batches)
        for _ in range(2):
            trainer.fit(steps=3)
            found.setdefault(name, []).append([trainer.step, trainer.history["epoch"], trainer.epoch_open])
    write(folder, found)


@pytest.mark.slow
def test_a_limit_of_steps_at_the_end_of_an_epoch_ends_it_in_all_processes(tmp_path):
    run_processes(train_to_the_limit, 2, tmp_path, folder=tmp_path)
    expected = [[3, [1], False], [6, [1, 2], False]]  # 21 samples in batches of 4, two at a time
    for one in read(tmp_path, 2):
        assert one == {"sampler": expected, "iterable": expected, "plain": expected}


# What is not the model's any more once it is sharded


def use_what_is_stale(folder, name):
    """An optimizer that the Trainer was not given, or a list of parameters, from before the first fit."""
    model = net()
    optimizer, parameters = torch.optim.SGD(model.parameters(), 0.1), list(model.parameters())

    def step(model, x, y):
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def clip(model, x, y):
        loss_of(model, x, y).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)

    if name == "given later":
        trainer = adam(model=model, strategy="fsdp")
        trainer.fit(steps=1)
        trainer.optimizer, trainer.train_fn = optimizer, step
        before = whole(model)
        trainer.fit(steps=1)
        write(folder, [whole(model) != before, [list(one.shape) for one in parameters]])
    else:
        trained = (None, step) if name == "optimizer" else (optimizer, clip)
        trainer = Trainer(model, *trained, loader(24), strategy="fsdp", progress=False)
        write(folder, raised(lambda: trainer.fit(steps=2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer", "list"])
def test_parameters_from_before_a_model_was_sharded_are_an_error_where_they_are_used(tmp_path, name):
    run_processes(use_what_is_stale, 2, tmp_path, name, folder=tmp_path)
    found = read(tmp_path, 2)
    assert any("OptimizerError: the parameter 0.weight is used as it was before FSDP" in one for one in found), found
    assert all("the parameter 0.weight" in one for one in found)


@pytest.mark.slow
def test_an_optimizer_from_before_a_model_was_sharded_may_be_given_later(tmp_path):
    run_processes(use_what_is_stale, 2, tmp_path, "given later", folder=tmp_path)
    for moved, shapes in read(tmp_path, 2):
        assert moved
        assert shapes == [[5, 4], [5], [3, 5], [3]]


# What many processes cannot train


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.LazyLinear(3), "the parameter 1.weight has no values yet"),
        (nn.Embedding(5, 4, max_norm=1.0), "Embedding 1 has max_norm=1.0"),
        (nn.EmbeddingBag(5, 4, max_norm=0.5), "EmbeddingBag 1 has max_norm=0.5"),
    ],
)
def test_a_model_that_processes_cannot_train_alike_is_refused(part, words, many):
    model = nn.Sequential(nn.Linear(4, 4), part)
    with pytest.raises(ArgumentError, match=words if many == 1 else words.replace(" 1", " 1.1", 1)):
        check_replicable(model if many == 1 else [net(), model])


def test_an_embedding_that_is_not_trained_may_have_max_norm():
    check_replicable(nn.Embedding(5, 4, max_norm=1.0).requires_grad_(False))
    check_replicable({"net": net(), "embedding": nn.Embedding(5, 4)})


# What each process has its own of before, and none afterwards


class Teacher(nn.Module):
    """A frozen model with values of many types."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        for dtype in (torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn):
            self.register_buffer(f"{dtype}"[6:], torch.tensor([distributed.rank(), 1]).to(dtype))
        self.register_buffer("turned", torch.full((2, 3), float(distributed.rank())).T)

    def forward(self, x):
        return self.layers(x)


def differ_at_first(folder):
    """Models that each process has made with weights of its own, and statistics of the batches that each has seen."""
    torch.manual_seed(distributed.rank())
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    teacher = Teacher().requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(models, x, y):
        optimize(nn.functional.mse_loss(models["student"](x), models["teacher"](x)), optimizer)
        return {"n": 1}

    def eval_fn(models, x, y):
        return {"mean": models["student"](x).mean(), "teacher": models["teacher"](x).mean()}

    models = {"student": model, "teacher": teacher}
    before = Trainer(models, optimizer, train_fn, loader(24), eval_fn, loader(24), progress=False).evaluate()
    x, _ = loader(24).dataset.tensors
    by_hand = [one.eval()(x).mean().item() for one in models.values()]
    trainer = Trainer(models, optimizer, train_fn, loader(24), progress=False)
    trainer.callbacks = [EMA(0.5)]
    trainer.fit(epochs=1)
    share_values([torch.zeros(1).expand(3)])  # which has no memory for each of its values
    outputs = trainer.predict(lambda models, x, y: models["student"](x), loader(24))
    every = {**models, "average": trainer.averaged["ema"]["student"]}
    state = {
        f"{name}.{key}": one.to(torch.complex64).flatten().tolist()
        for name, module in every.items()
        for key, one in module.state_dict().items()
    }
    write(folder, {"before": before, "by hand": by_hand, "state": repr(state), "outputs": outputs.tolist()})


@pytest.mark.slow
def test_models_that_each_process_has_made_for_itself_are_those_of_the_first(tmp_path):
    run_processes(differ_at_first, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first == second
    assert list(first["before"].values()) == pytest.approx(first["by hand"], abs=1e-6)


def differ_in_a_number(folder):
    """A hyperparameter that is another number in each process, and one that no process can compare."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y, noise, device):
        optimize(loss_of(model, x, y), optimizer)
        return {"n": 1}

    trainer = Trainer(model, optimizer, train_fn, loader(24), progress=False)
    trainer.hyper = {"noise": 0.5 + distributed.rank(), "device": f"cuda:{distributed.rank()}"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = trainer.fit(epochs=1)
    write(folder, [[str(one.message) for one in caught], history["noise"]])


@pytest.mark.slow
def test_a_hyperparameter_that_is_another_number_in_each_process_is_told(tmp_path):
    run_processes(differ_in_a_number, 2, tmp_path, folder=tmp_path)
    (first, noise), (second, other_noise) = read(tmp_path, 2)
    assert noise == other_noise == [0.5]
    assert second == []
    assert len(first) == 1
    assert first[0].startswith("the hyperparameter 'noise' differs between the processes: 0.5, 1.5; each trains")
