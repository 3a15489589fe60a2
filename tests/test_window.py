"""Windows of batches: the step of a window is that of one big batch; clipping; what is refused, and what is left."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignition import TensorLoader, Trainer, fit_on_batch, optimize
from ignition.callbacks import EMA, LRSchedule, Schedule
from ignition.errors import ArgumentError, IgnitionWarning, OptimizerError
from ignition.position import Position
from ignition.window import UpdateRules, Window

SIZES = [4, 4, 1, 3, 4, 2, 5]

OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "two groups": lambda model: torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5, "weight_decay": 0.1}], lr=0.1
    ),
}


def network(outputs=2):
    """Inputs (batch, 3) to (batch, outputs), the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, outputs))


def batches_of(sizes, outputs=2):
    """Batches (x (size, 3), y (size, outputs))."""
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(n, 3, generator=generator), torch.randn(n, outputs, generator=generator)) for n in sizes]


def quiet(model, optimizer, train_fn, loader, *evaluation, **settings):
    return Trainer(model, optimizer, train_fn, loader, *evaluation, device="cpu", progress=False, **settings)


def windows_of(batches, accumulate):
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


def joined(batches):
    return tuple(torch.cat(items) for items in zip(*batches, strict=True))


def train_on_big_batches(batches, accumulate, kind="SGD", epochs=1, clip_norm=None):
    """The reference: a loop written by hand in which each window is one batch; also the norm of each gradient."""
    model = network()
    optimizer = OPTIMIZERS[kind](model)
    norms = []
    for _ in range(epochs):
        for window in windows_of(batches, accumulate):
            x, y = joined(window)
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            norms.append(clip_grad_norm_(model.parameters(), math.inf if clip_norm is None else clip_norm).item())
            optimizer.step()
    return model, norms


def training(loader, accumulate, kind="SGD", **settings):
    """A Trainer of the same model, and the list into which the norms come that `optimize` returns."""
    model, norms = network(), []
    optimizer = OPTIMIZERS[kind](model)

    def train_fn(model, x, y):
        loss = functional.mse_loss(model(x), y)
        norm = optimize(loss, optimizer)
        norms.append(None if norm is None else norm.item())
        return {"loss": loss}

    return quiet(model, optimizer, train_fn, loader, accumulate=accumulate, **settings), norms


def assert_close(model, other, tolerance=1e-6):
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


def assert_same(model, other):
    assert_close(model, other, 0)


def assert_no_hooks(*optimizers):
    for optimizer in optimizers:
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks


# The step of a window is that of one big batch


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("accumulate", [2, 3, 7, 100])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_windows_step_equals_that_of_one_big_batch(kind, accumulate, clip_norm):
    batches = batches_of(SIZES)
    expected, big_norms = train_on_big_batches(batches, accumulate, kind, epochs=3, clip_norm=clip_norm)
    trainer, norms = training(batches, accumulate, kind, clip_norm=clip_norm)
    trainer.fit(epochs=3)
    assert_close(trainer.model, expected)
    assert trainer.step == len(big_norms) == 3 * math.ceil(len(SIZES) / accumulate)
    assert [norm for norm in norms if norm is not None] == pytest.approx(big_norms, abs=1e-6)
    if clip_norm is not None:
        assert min(big_norms) > clip_norm, "it is to be clipped"
    assert_no_hooks(trainer.optimizer)


def test_only_a_windows_last_batch_has_a_norm():
    trainer, norms = training(batches_of(SIZES), 3)
    trainer.fit(epochs=1)
    assert [norm is not None for norm in norms] == [False, False, True, False, False, True, True]


class Stream(IterableDataset):
    """Samples without a length."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __iter__(self):
        return zip(*self.tensors, strict=True)


class WithoutLength:
    """Batches that can be read again and again, and do not say how many there are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return (batch for batch in self.batches)


class WrongLength(list):
    """Batches, and a length that is not theirs."""

    def __init__(self, batches, length):
        super().__init__(batches)
        self.length = length

    def __len__(self):
        return self.length


LOADERS = {
    "list": lambda x, y: zip_split(x, y),
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), 4),
    "TensorLoader": lambda x, y: TensorLoader(x, y, batch_size=4),
    "DataLoader without length": lambda x, y: DataLoader(Stream(x, y), 4),
    "iterable without length": lambda x, y: WithoutLength(zip_split(x, y)),
}


def zip_split(x, y):
    return list(zip(x.split(4), y.split(4), strict=True))


@pytest.mark.parametrize("accumulate", [2, 3, 4, 9])
@pytest.mark.parametrize("kind", LOADERS)
def test_any_loader_serves(kind, accumulate):
    x, y = joined(batches_of([22]))  # six batches, the last of 2
    expected, norms = train_on_big_batches(zip_split(x, y), accumulate, "AdamW", epochs=2)
    trainer, _ = training(LOADERS[kind](x, y), accumulate, "AdamW")
    trainer.fit(epochs=2)
    assert_close(trainer.model, expected)
    assert trainer.step == len(norms)
    assert trainer.history["step"] == [trainer.step // 2, trainer.step]


def test_a_length_that_is_too_small_is_not_believed_and_loses_nothing():
    batches = batches_of([4] * 6)
    expected, _ = train_on_big_batches(batches, 3)
    trainer, _ = training(WrongLength(batches, 4), 3)
    trainer.fit(epochs=1)
    assert_close(trainer.model, expected)


def test_a_length_that_is_too_large_is_warned_of_and_the_last_window_is_whole():
    batches = batches_of([4] * 5)
    expected, _ = train_on_big_batches(batches, 3)
    trainer, _ = training(WrongLength(batches, 9), 3)
    with pytest.warns(IgnitionWarning, match="ended after 5 batches"):
        trainer.fit(epochs=1)
    assert_close(trainer.model, expected)


@pytest.mark.parametrize(("kind", "ahead"), [("iterable", 0), ("DataLoader", 1)])
def test_only_a_dataloader_is_read_ahead_of_the_function(kind, ahead):
    read, found = [0], []

    class Counted(IterableDataset):
        def __iter__(self):
            for number in range(5):
                read[0] += 1
                yield torch.tensor([float(number)])

    loader = DataLoader(Counted(), batch_size=None) if kind == "DataLoader" else WithoutLength(Counted())
    trainer = quiet(nn.Identity(), None, lambda model, x: found.append(read[0]), loader, accumulate=2)
    trainer.fit(epochs=1)
    assert found == [min(number + ahead, 5) for number in (1, 2, 3, 4, 5)]
    assert trainer.step == 3


def test_a_window_that_the_loader_ends_is_closed_after_its_end():
    trainer, norms = training(WithoutLength(batches_of([4, 4, 2])), 2)
    steps = []
    trainer.on("batch_end")(lambda trainer: steps.append(trainer.step))
    trainer.on("step_end")(lambda trainer: steps.append("step"))
    trainer.fit(epochs=1)
    assert steps == [0, 0, "step", 1, "step"]
    assert [norm is None for norm in norms] == [True, False, True]  # nobody knew that it was the last
    assert trainer.history["step"] == [2]


# Weights


def token_loss(model, x, mask):
    """The mean over the tokens that the mask (batch, time) leaves, and their number."""
    losses = model(x).square().mean(dim=2)
    return (losses * mask).sum() / mask.sum(), mask.sum()


def token_batches(counts):
    """Batches of x (2, 8, 3) and a mask (2, 8) with so many ones."""
    generator = torch.Generator().manual_seed(4)
    batches = []
    for count in counts:
        mask = torch.zeros(16)
        mask[torch.randperm(16, generator=generator)[:count]] = 1
        batches.append((torch.randn(2, 8, 3, generator=generator), mask.view(2, 8)))
    return batches


KINDS_OF_WEIGHTS = {
    "int": lambda count: int(count),
    "float": lambda count: float(count),
    "tensor": lambda count: count,
    "int tensor": lambda count: count.long(),
    "numpy": lambda count: np.int64(count.item()),
    "any unit": lambda count: 0.001 * count,
}


@pytest.mark.parametrize("kind", KINDS_OF_WEIGHTS)
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_a_loss_over_tokens_is_weighed_by_their_number(kind, clip_norm):
    batches = token_batches([16, 1, 5, 9, 12, 2, 7])
    expected = network()
    optimizer = OPTIMIZERS["momentum"](expected)
    for window in windows_of(batches, 3):
        optimizer.zero_grad()
        token_loss(expected, *joined(window))[0].backward()
        if clip_norm is not None:
            clip_grad_norm_(expected.parameters(), clip_norm)
        optimizer.step()

    model = network()
    optimizer = OPTIMIZERS["momentum"](model)

    def train_fn(model, x, mask):
        loss, count = token_loss(model, x, mask)
        optimize(loss, optimizer, weight=KINDS_OF_WEIGHTS[kind](count))

    quiet(model, optimizer, train_fn, batches, accumulate=3, clip_norm=clip_norm).fit(epochs=1)
    assert_close(model, expected)


@pytest.mark.parametrize("zeros", [[0, 5, 9], [5, 0, 9], [5, 9, 0], [0, 0, 9]])
def test_a_batch_that_weighs_nothing_counts_for_nothing_though_its_loss_is_nan(zeros):
    batches = token_batches(zeros)
    model, expected = network(), network()
    optimizer = OPTIMIZERS["AdamW"](expected)
    token_loss(expected, *joined([batch for batch, count in zip(batches, zeros, strict=True) if count]))[0].backward()
    optimizer.step()
    optimizer = OPTIMIZERS["AdamW"](model)

    def train_fn(model, x, mask):
        loss, count = token_loss(model, x, mask)
        optimize(loss, optimizer, weight=count)

    quiet(model, optimizer, train_fn, batches, accumulate=3).fit(epochs=1)
    assert_close(model, expected)


def test_an_empty_batch_counts_for_nothing():
    batches = batches_of([4, 0, 3])
    expected, _ = train_on_big_batches([batches[0], batches[2]], 2)
    trainer, _ = training(batches, 3)
    trainer.fit(epochs=1)
    assert_close(trainer.model, expected)


@pytest.mark.parametrize("counts", [[16, 1, 5], [0, 5, 9], [5, 0, 9], [0, 0, 0]])
def test_weights_that_stay_tensors_as_those_on_an_accelerator_do_give_the_same_mean(counts):
    """What is on an accelerator is not looked at, so zeros count by arithmetic alone."""
    x, y = joined(batches_of([20]))
    parts = list(zip(x.split([7, 7, 6]), y.split([7, 7, 6]), strict=True))
    models = [network(), network()]
    optimizers = [OPTIMIZERS["SGD"](model) for model in models]
    sum(
        count / max(sum(counts), 1) * functional.mse_loss(models[0](x), y)
        for count, (x, y) in zip(counts, parts, strict=True)
    ).backward()
    optimizers[0].step()

    window = Window({"": optimizers[1]}, UpdateRules(accumulate=3), torch.device("cpu"))
    parameters = list(models[1].parameters())
    for number, (count, (x, y)) in enumerate(zip(counts, parts, strict=True)):
        window.begin_batch(7, last=number == 2)
        loss = functional.mse_loss(models[1](x), y)
        window.update(loss, optimizers[1], parameters, torch.tensor(count), retain_graph=False, with_norm=True)
        assert window.end_batch(Position()) is (number == 2)
    assert_close(*models)


def test_without_accumulation_a_weight_changes_nothing():
    batches = batches_of([4, 2])
    expected, _ = train_on_big_batches(batches, 1)
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y), optimizer, weight=torch.tensor(7.0))

    quiet(model, optimizer, train_fn, batches, clip_norm=1e9).fit(epochs=1)
    assert_close(model, expected)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 100])
def test_logged_means_do_not_depend_on_how_many_batches_make_a_step(accumulate):
    batches = batches_of(SIZES)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def train_fn(model, x, y):
        loss = functional.mse_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss, "first": (x[0, 0], 1)}

    history = quiet(model, optimizer, train_fn, batches, accumulate=accumulate).fit(epochs=1)
    x, y = joined(batches)
    assert history["train_loss"] == [pytest.approx(functional.mse_loss(model(x), y).item())]
    assert history["train_first"] == [pytest.approx(sum(x[0, 0].item() for x, _ in batches) / len(batches))]


# Where windows begin and end


@pytest.mark.parametrize("fits", [[3], [1, 1, 1], [2, 1]])
def test_a_fit_by_steps_ends_at_the_end_of_a_window(fits):
    batches = batches_of(SIZES)
    expected, _ = train_on_big_batches(batches, 3)
    trainer, norms = training(batches, 3)
    seen = []
    for steps in fits:
        trainer.fit(steps=steps)
        seen.append(len(norms))
    assert seen == [min(3 * done, 7) for done in np.cumsum(fits)]
    assert_close(trainer.model, expected)


def test_a_fit_goes_on_between_the_windows_of_an_epoch_without_a_length():
    batches = batches_of([4] * 6)
    expected, _ = train_on_big_batches(batches, 2, epochs=2)
    trainer, _ = training(DataLoader(Stream(*joined(batches)), 4), 2)
    for _ in range(6):
        trainer.fit(steps=1)
    assert_close(trainer.model, expected)
    assert (trainer.epoch, trainer.step) == (2, 6)


def test_eval_every_counts_windows():
    trainer, _ = training(batches_of([4] * 10), 2)
    assert trainer.fit(epochs=1, eval_every=2)["step"] == [2, 4, 5]


@pytest.mark.parametrize("kind", ["list", "iterable without length", "DataLoader without length"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_stop_inside_a_window_finishes_the_window(kind, at):
    x, y = joined(batches_of([20]))
    expected, _ = train_on_big_batches(zip_split(x, y)[:3], 3)
    trainer, norms = training(LOADERS[kind](x, y), 3)
    trainer.on("batch_end")(lambda trainer: trainer.stop("enough") if len(norms) == at else None)
    trainer.fit(epochs=5)
    assert (len(norms), trainer.step, trainer.stop_reason) == (3, 1, "enough")
    assert_close(trainer.model, expected)


@pytest.mark.parametrize("kind", ["list", "iterable without length"])
def test_a_stop_in_the_last_window_ends_the_epoch_too(kind):
    x, y = joined(batches_of([20]))
    expected, _ = train_on_big_batches(zip_split(x, y), 3)
    trainer, norms = training(LOADERS[kind](x, y), 3)
    trainer.on("batch_end")(lambda trainer: trainer.stop("enough") if len(norms) == 4 else None)
    trainer.fit(epochs=5)
    assert (trainer.epoch, trainer.step, trainer.epoch_open) == (1, 2, False)
    assert_close(trainer.model, expected)


@pytest.mark.parametrize("broken", [2, 3, 5])
def test_an_exception_inside_a_window_leaks_nothing_into_the_next_fit(broken):
    batches = batches_of(SIZES)
    model, calls = network(), [0]
    optimizer = OPTIMIZERS["momentum"](model)

    def train_fn(model, x, y):
        calls[0] += 1
        if calls[0] == broken:
            raise KeyboardInterrupt
        optimize(functional.mse_loss(model(x), y), optimizer)

    trainer = quiet(model, optimizer, train_fn, batches, accumulate=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=1)
    assert_no_hooks(optimizer)
    by_hand = copy.deepcopy(model)
    theirs = OPTIMIZERS["momentum"](by_hand)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for window in windows_of(batches, 3):
        x, y = joined(window)
        theirs.zero_grad()
        functional.mse_loss(by_hand(x), y).backward()
        theirs.step()
    trainer.fit(epochs=1)
    assert_close(model, by_hand)
    assert trainer.step == (broken - 1) // 3 + 3


# Callbacks count windows


def test_callbacks_count_windows():
    model, seen = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    torch_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    def train_fn(model, x, y, lambd):
        seen.append((lambd, optimizer.param_groups[0]["lr"]))
        optimize(0 * functional.mse_loss(model(x), y), optimizer)

    trainer = quiet(model, optimizer, train_fn, batches_of(SIZES), accumulate=3)
    average = EMA(0.5)
    trainer.callbacks = [
        Schedule("lambd", lambda step: 10 * step, every="step"),
        LRSchedule(torch_schedule, every="step"),
        average,
    ]
    trainer.fit(epochs=1)
    first, second, third = (10, 1.0), (20, 1 / 2), (30, 1 / 3)
    assert seen == [first] * 3 + [second] * 3 + [third]
    assert optimizer.param_groups[0]["lr"] == 1 / 4
    assert average.state_dict()["updates"] == 3
    assert trainer.updates == 3


def test_what_a_callback_optimizes_between_two_windows_is_no_part_of_the_next():
    batches = batches_of([4] * 4)
    trainer, _ = training(batches, 2)
    by_hand = network()
    optimizer = OPTIMIZERS["SGD"](by_hand)
    trainer.on("step_end")(lambda trainer: optimize(trainer.model[0].weight.square().sum(), trainer.optimizer))
    trainer.fit(epochs=1)
    for window in windows_of(batches, 2):
        x, y = joined(window)
        for loss in (lambda x=x, y=y: functional.mse_loss(by_hand(x), y), lambda: by_hand[0].weight.square().sum()):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert_close(trainer.model, by_hand)


# Several optimizers


def players():
    """A generator of points (batch, 3) out of noise (batch, 3), and a discriminator of points."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return {"G": nn.Linear(3, 3), "D": nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))}


def discriminator_loss(models, noise, real):
    fake = models["G"](noise).detach()
    return functional.softplus(-models["D"](real)).mean() + functional.softplus(models["D"](fake)).mean()


def generator_loss(models, noise):
    return functional.softplus(-models["D"](models["G"](noise))).mean()


def momentum(module):
    return torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.5)


def gan(batches, **settings):
    models = players()
    optimizers = {name: momentum(model) for name, model in models.items()}
    norms = []

    def train_fn(models, noise, real):
        norm_d = optimize(discriminator_loss(models, noise, real), optimizers["D"])
        norm_g = optimize(generator_loss(models, noise), optimizers["G"])
        norms.append((norm_d, norm_g))

    return quiet(models, optimizers, train_fn, batches, **settings), norms


def add_gradient(into, loss, module, share):
    """Adds a share of a loss's gradient for one module alone; backward() would reach all of them."""
    for total, gradient in zip(into, torch.autograd.grad(loss, list(module.parameters())), strict=True):
        total += share * gradient


def step_with(optimizer, module, gradients):
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


@pytest.mark.parametrize("accumulate", [1, 2, 3, 9])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_gans_windows_do_not_mix(accumulate, clip_norm):
    batches = batches_of([4, 3, 1, 4, 2], outputs=3)
    models = players()
    optimizers = {name: momentum(model) for name, model in models.items()}
    for window in windows_of(batches, accumulate) * 2:
        samples = sum(len(noise) for noise, _ in window)
        gathered = {name: [torch.zeros_like(p) for p in model.parameters()] for name, model in models.items()}
        for number, (noise, real) in enumerate(window, start=1):
            for name, loss in (
                ("D", lambda noise=noise, real=real: discriminator_loss(models, noise, real)),
                ("G", lambda noise=noise: generator_loss(models, noise)),
            ):
                add_gradient(gathered[name], loss(), models[name], len(noise) / samples)
                if number == len(window):
                    if clip_norm is not None:
                        norm = math.sqrt(sum(g.square().sum().item() for g in gathered[name]))
                        gathered[name] = [g * min(1, clip_norm / (norm + 1e-6)) for g in gathered[name]]
                    step_with(optimizers[name], models[name], gathered[name])
    trainer, _ = gan(batches, accumulate=accumulate, clip_norm=clip_norm)
    trainer.fit(epochs=2)
    for name in models:
        assert_close(trainer.model[name], models[name])
    assert trainer.step == 2 * math.ceil(5 / accumulate)
    assert_no_hooks(*optimizers.values())


def test_a_generators_backward_does_not_add_to_the_discriminators_open_window():
    batches = batches_of([4, 4], outputs=3)
    models = players()
    right = [torch.zeros_like(p) for p in models["D"].parameters()]
    for noise, real in batches:
        add_gradient(right, discriminator_loss(models, noise, real), models["D"], 1 / 2)
    right_norm = math.sqrt(sum(g.square().sum().item() for g in right))

    for number, (noise, real) in enumerate(batches):  # three plain calls, the generator's backward between them
        (discriminator_loss(models, noise, real) / 2).backward()
        if number == 0:
            (generator_loss(models, noise) / 2).backward()
    mixed_norm = math.sqrt(sum(p.grad.square().sum().item() for p in models["D"].parameters()))

    trainer, norms = gan(batches, accumulate=2)
    trainer.fit(epochs=1)
    assert norms[0] == (None, None)
    assert norms[1][0].item() == pytest.approx(right_norm, abs=1e-6)
    assert abs(mixed_norm - right_norm) > 0.05, "the two are to differ"


def test_an_optimizer_that_is_left_out_of_a_windows_last_batch_steps_with_what_it_has_gathered():
    batches = batches_of([4, 4, 4, 2, 4, 4])
    models = {"often": network(), "seldom": network()}
    optimizers = {name: OPTIMIZERS["momentum"](model) for name, model in models.items()}
    calls = [0]

    def train_fn(models, x, y):
        optimize(functional.mse_loss(models["often"](x), y), optimizers["often"])
        if calls[0] % 3 != 2:
            optimize(functional.mse_loss(models["seldom"](x), y), optimizers["seldom"])
        calls[0] += 1

    trainer = quiet(models, optimizers, train_fn, batches, accumulate=3)
    updated = []
    trainer.callbacks = [EMA(0.5)]  # has the updates watched
    trainer.on("step_end")(lambda trainer: updated.append([trainer.updated(one) for one in optimizers.values()]))
    trainer.fit(epochs=1)
    expected = network()
    optimizer = OPTIMIZERS["momentum"](expected)
    for window in (batches[0:2], batches[3:5]):
        x, y = joined(window)
        optimizer.zero_grad()
        functional.mse_loss(expected(x), y).backward()
        optimizer.step()
    assert_close(models["seldom"], expected)
    assert_close(models["often"], train_on_big_batches(batches, 3, "momentum")[0])
    assert updated == [[True, True], [True, True]]


def test_parameters_that_are_unfrozen_inside_a_window_take_part_in_its_mean():
    batches = batches_of([4, 4])
    model = network()
    model[0].requires_grad_(False)
    optimizer = OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y), optimizer)
        model[0].requires_grad_(True)

    quiet(model, optimizer, train_fn, batches, accumulate=2).fit(epochs=1)
    expected = network()
    x, y = batches[1]
    functional.mse_loss(expected(x), y).backward()  # half the window: what was frozen had a gradient of zero
    torch.testing.assert_close(model[0].weight, network()[0].weight - 0.1 * expected[0].weight.grad / 2)


def test_sparse_gradients_are_gathered_and_clipped():
    table = nn.Embedding(5, 2, sparse=True)
    by_hand = nn.Embedding(5, 2, _weight=table.weight.detach().clone())
    batches = [torch.tensor([1, 1, 3]), torch.tensor([3])]
    by_hand(torch.cat(batches)).sum(dim=1).mean().backward()  # 1/2 for the rows 1 and 3
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    norms = []

    def train_fn(model, x):
        norms.append(optimize(model(x).sum(dim=1).mean(), optimizer))

    before = table.weight.detach().clone()
    quiet(table, optimizer, train_fn, batches, accumulate=2, clip_norm=0.5).fit(epochs=1)
    assert norms[1].item() == pytest.approx(1.0)  # four entries of 1/2
    torch.testing.assert_close(table.weight, before - by_hand.weight.grad / 2)


# Clipping


def plain_step(model, x, y, optimizer):
    optimizer.zero_grad()
    functional.mse_loss(model(x), y).backward()
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "fit_on_batch", "optimize"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [0.01, 0.3, 100])
def test_clipping_equals_torchs_in_a_loop_written_by_hand(kind, way, clip_norm):
    batches = batches_of(SIZES)
    expected, _ = train_on_big_batches(batches, 1, kind, epochs=2, clip_norm=clip_norm)
    model = network()
    optimizer = OPTIMIZERS[kind](model)

    def train_fn(model, x, y):
        if way == "plain":
            plain_step(model, x, y, optimizer)
        elif way == "optimize":
            optimize(functional.mse_loss(model(x), y), optimizer)
        else:
            fit_on_batch(model, x, y, functional.mse_loss, optimizer, ["loss"])

    quiet(model, optimizer, train_fn, batches, clip_norm=clip_norm).fit(epochs=2)
    assert_same(model, expected)
    assert_no_hooks(optimizer)


def test_each_optimizer_is_clipped_by_itself():
    models = [network(), network()]
    optimizers = [OPTIMIZERS["SGD"](model) for model in models]
    batches = batches_of([4, 4])

    def train_fn(models, x, y):
        for factor, model, optimizer in zip((1, 100), models, optimizers, strict=True):
            optimizer.zero_grad()
            (factor * functional.mse_loss(model(x), y)).backward()
            optimizer.step()

    quiet(models, optimizers, train_fn, batches, clip_norm=0.05).fit(epochs=1)
    expected, _ = train_on_big_batches(batches, 1, clip_norm=0.05)
    assert_same(models[0], expected)
    assert_close(models[1], expected)


def test_the_norm_that_optimize_returns_can_be_logged_with_clipping_on():
    batches = batches_of(SIZES)
    _, norms = train_on_big_batches(batches, 1, clip_norm=0.05)
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        return {"norm": (optimize(functional.mse_loss(model(x), y), optimizer), 1)}

    history = quiet(model, optimizer, train_fn, batches, clip_norm=0.05).fit(epochs=1)
    assert history["train_norm"] == [pytest.approx(sum(norms) / len(norms))]


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_that_the_users_own_scaler_scaled_are_clipped_at_their_own_size(fused):
    batches = batches_of(SIZES)
    expected, _ = train_on_big_batches(batches, 1, clip_norm=0.05)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def train_fn(model, x, y):
        optimizer.zero_grad()
        scaler.scale(functional.mse_loss(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()

    quiet(model, optimizer, train_fn, batches, clip_norm=0.05).fit(epochs=1)
    assert_close(model, expected)


# Closures


def lbfgs_training(**settings):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def train_fn(model, x, y):
        def closure():
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        return {"loss": optimizer.step(closure)}

    return quiet(model, optimizer, train_fn, batches_of([8, 8]), **settings)


@pytest.mark.parametrize("callbacks", [[], [EMA(0.5)]], ids=["unwatched", "watched"])
def test_lbfgs_takes_the_same_path_as_by_hand(callbacks):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    for x, y in batches_of([8, 8]) * 2:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    trainer = lbfgs_training()
    trainer.callbacks = callbacks
    trainer.fit(epochs=2)
    assert_same(trainer.model, model)
    assert trainer.step == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": 1.0}, r"clip_norm=1\.0.*expected: .*to do: clip in the closure"),
        ({"accumulate": 2}, r"accumulate=2.*expected: .*to do: use larger batches"),
        ({"precision": "fp16"}, r'precision="fp16".*expected: .*to do: use precision="bf16"'),
        ({"accumulate": 2, "clip_norm": 1.0}, r"accumulate=2, clip_norm=1\.0.*larger batches.*clip in the closure"),
    ],
)
def test_a_closure_where_gradients_must_be_there_before_is_an_error_at_the_first_batch(settings, message):
    trainer = lbfgs_training(**settings)
    with pytest.raises(OptimizerError, match=f"(?s)LBFGS steps with a closure, with {message}"):
        trainer.fit(epochs=1)
    assert_same(trainer.model, network())
    assert_no_hooks(trainer.optimizer)
    assert trainer.step == 0


# What is refused, and what is left then


def refused(trainer, kind, message):
    """Holds that a fit ends in such an error, with weights, momenta, settings and hooks as they were."""
    optimizers = trainer.optimizer if isinstance(trainer.optimizer, list) else [trainer.optimizer]
    models = trainer.model if isinstance(trainer.model, list) else [trainer.model]
    before = copy.deepcopy([model.state_dict() for model in models])
    states = copy.deepcopy([optimizer.state_dict() for optimizer in optimizers])
    wanted = [p.requires_grad for model in models for p in model.parameters()]
    with pytest.raises(kind, match=f"(?s){message}"):
        trainer.fit(epochs=1)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [optimizer.state_dict() for optimizer in optimizers] == states
    assert [p.requires_grad for model in models for p in model.parameters()] == wanted
    assert (trainer.step, len(trainer.history)) == (0, 0)
    assert_no_hooks(*optimizers)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"accumulate": 3}, "accumulate=3"),
        ({"accumulate": 100}, "accumulate=100"),
        ({"precision": "fp16"}, 'precision="fp16"'),
        ({"accumulate": 2, "precision": "fp16", "clip_norm": 1.0}, "accumulate=2"),
    ],
)
def test_a_plain_step_in_a_window_is_an_error_at_the_first_batch_that_names_optimize(settings, cause):
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)
    calls = []

    def train_fn(model, x, y):
        calls.append(1)
        plain_step(model, x, y, optimizer)

    trainer = quiet(model, optimizer, train_fn, batches_of(SIZES), **settings)
    refused(trainer, OptimizerError, rf"SGD\.step\(\) itself, with {cause}.*expected: .*optimize\(loss, optimizer\)")
    assert len(calls) == 1


def test_two_calls_on_one_optimizer_for_one_batch_are_an_error_in_a_window():
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)
    calls = []

    def train_fn(model, x, y):
        for target in (y, -y):
            calls.append(1)
            optimize(functional.mse_loss(model(x), target), optimizer)

    trainer = quiet(model, optimizer, train_fn, batches_of(SIZES), accumulate=2)
    refused(trainer, OptimizerError, "twice on SGD in one call of train_fn.*accumulate=2.*expected: .*to do: add the")
    assert len(calls) == 2
    quiet(model, optimizer, train_fn, batches_of([4]), clip_norm=1.0).fit(epochs=1)  # two steps, one after the other
    assert len(calls) == 4


def test_two_optimizers_of_the_same_parameters_are_an_error_in_a_window():
    model = network()
    optimizers = [OPTIMIZERS["SGD"](model), torch.optim.SGD(model[2].parameters(), lr=0.1)]

    def train_fn(model, x, y):
        for optimizer in optimizers:
            optimize(functional.mse_loss(model(x), y), optimizer)

    trainer = quiet(model, optimizers, train_fn, batches_of([4, 4]), accumulate=2)
    refused(trainer, OptimizerError, r"SGD '1' and SGD '0' train the same parameters \(2 of them\).*to do: ")
    quiet(model, optimizers, train_fn, batches_of([4, 4]), clip_norm=1.0).fit(epochs=1)


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"clip_norm": 1.0}, {"precision": "fp16"}])
@pytest.mark.parametrize("known", [None, "other"])
def test_an_optimizer_that_the_trainer_does_not_have_is_an_error_at_the_first_batch(settings, known):
    model = network()
    optimizer, other = OPTIMIZERS["SGD"](model), OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y), other)

    trainer = quiet(model, [optimizer] if known else [], train_fn, batches_of([4, 4]), **settings)
    refused(trainer, OptimizerError, r"optimizer that the Trainer does not have \(SGD\).*expected: .*to do: ")


WEIGHTS = {
    "negative": -1,
    "negative float": -0.5,
    "infinite": math.inf,
    "NaN": math.nan,
    "negative tensor": torch.tensor(-2),
    "NaN tensor": torch.tensor(math.nan),
    "vector": torch.tensor([4.0]),
    "matrix": torch.ones(2, 2),
    "complex": torch.tensor(1j),
    "text": "4",
    "list": [4],
    "bool": True,
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}])
def test_a_weight_that_is_none_is_an_error_at_the_first_batch(kind, settings):
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y), optimizer, weight=WEIGHTS[kind])

    trainer = quiet(model, optimizer, train_fn, batches_of([4, 4]), **settings)
    refused(trainer, ArgumentError, "optimize was given the weight .*expected: a finite number of 0 or more.*to do: ")


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"precision": "fp16"}, {"clip_norm": 1.0}])
def test_a_loss_without_a_graph_is_an_error_at_the_first_batch(settings):
    model = network()
    optimizer = OPTIMIZERS["SGD"](model)

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x), y).detach(), optimizer)

    trainer = quiet(model, optimizer, train_fn, batches_of([4, 4]), **settings)
    refused(trainer, ArgumentError, "the loss has no graph.*expected: .*to do: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": -1}, "accumulate=-1"),
        ({"accumulate": 2.0}, r"accumulate=2\.0"),
        ({"accumulate": True}, "accumulate=True"),
        ({"accumulate": None}, "accumulate=None"),
        ({"clip_norm": 0}, "clip_norm=0"),
        ({"clip_norm": -1.0}, r"clip_norm=-1\.0"),
        ({"clip_norm": math.nan}, "clip_norm=nan"),
        ({"clip_norm": "1"}, "clip_norm='1'"),
    ],
)
def test_settings_out_of_range_are_errors_before_anything_is_made(settings, message):
    model = network()
    with pytest.raises(ArgumentError, match=f"(?s)^{message}.*expected: .*to do: "):
        quiet(model, OPTIMIZERS["SGD"](model), plain_step, batches_of([4]), **settings)
    assert_same(model, network())


def test_a_failed_fit_is_followed_by_one_that_works():
    model = network()
    optimizer = OPTIMIZERS["momentum"](model)
    losses = [lambda loss: loss.detach(), lambda loss: loss]

    def train_fn(model, x, y):
        optimize(losses[0](functional.mse_loss(model(x), y)), optimizer)

    batches = batches_of(SIZES)
    trainer = quiet(model, optimizer, train_fn, batches, accumulate=3)
    with pytest.raises(ArgumentError):
        trainer.fit(epochs=1)
    losses.pop(0)
    trainer.fit(epochs=1)
    assert_close(model, train_on_big_batches(batches, 3, "momentum")[0])


# Many models, many optimizers

STRUCTURES = {"list": list, "tuple": tuple, "dict": lambda items: dict(zip("ab", items, strict=True))}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_many_models_and_optimizers_have_their_groups_and_wishes_untouched_and_one_call_is_one_step(
    structure, accumulate
):
    pair = [network(), network()]
    pair[1][0].requires_grad_(False)
    models = STRUCTURES[structure](pair)
    optimizers = STRUCTURES[structure]([OPTIMIZERS["two groups"](model) for model in pair])
    first, second = optimizers.values() if structure == "dict" else optimizers
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for optimizer in (first, second)
        for group in optimizer.param_groups
    ]
    received = []

    def train_fn(models, x, y):
        received.append(models)
        for model, optimizer in zip(pair, (first, second), strict=True):
            optimize(functional.mse_loss(model(x), y), optimizer)

    trainer = quiet(models, optimizers, train_fn, batches_of(SIZES), accumulate=accumulate)
    wanted = [p.requires_grad for model in pair for p in model.parameters()]
    history = trainer.fit(epochs=1)
    assert trainer.step == math.ceil(7 / accumulate)
    assert trainer.model is models
    assert trainer.optimizer is optimizers
    assert type(received[0]) is type(models)
    assert [p.requires_grad for model in pair for p in model.parameters()] == wanted
    assert [
        {name: value for name, value in group.items() if name != "params"}
        for optimizer in (first, second)
        for group in optimizer.param_groups
    ] == groups
    names = "ab" if structure == "dict" else "01"
    assert [column for column in history.columns if column.startswith("lr")] == [f"lr_{name}" for name in names]
    assert_close(pair[0], train_on_big_batches(batches_of(SIZES), accumulate, "two groups")[0])
    assert_same(pair[1][0], network()[0])
    assert_no_hooks(first, second)


def test_what_a_function_carries_is_in_the_state_of_the_trainer():
    online, target = network(), network().requires_grad_(False)
    optimizer = OPTIMIZERS["SGD"](online)
    batches = batches_of([4] * 5)

    def momentum_step(online, target, optimize, x, queue):
        keys = target(x)
        optimize((online(x) - torch.cat([keys, queue])[:4].detach()).square().mean())
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return torch.cat([keys.detach(), queue])[:8]

    def train_fn(models, x, y):
        trainer.state["queue"] = momentum_step(
            *models, lambda loss: optimize(loss, optimizer), x, trainer.state["queue"]
        )

    trainer = quiet((online, target), optimizer, train_fn, batches)
    trainer.state = {"queue": torch.zeros(8, 2)}
    trainer.fit(steps=3)
    trainer.fit(steps=2)

    by_hand, slow = network(), network()
    theirs, queue = OPTIMIZERS["SGD"](by_hand), torch.zeros(8, 2)

    def plain(loss):
        theirs.zero_grad()
        loss.backward()
        theirs.step()

    for x, _ in batches:
        queue = momentum_step(by_hand, slow, plain, x, queue)
    assert_same(online, by_hand)
    assert_same(target, slow)
    assert torch.equal(trainer.state["queue"], queue)
    assert isinstance(trainer.state["queue"], Tensor)
