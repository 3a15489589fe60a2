"""Autocast around the functions, and the scaled loss of fp16, each against a loop written by hand."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from marks import slow
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional

from ignition import Trainer, optimize
from ignition.callbacks import EMA, LRSchedule, Schedule
from ignition.errors import ArgumentError
from ignition.precision import autocasting, check_precision, without_autocast

CPU = torch.device("cpu")


def cast(dtype=torch.bfloat16, **settings):
    return torch.autocast("cpu", dtype, **settings)


def uncached():
    return cast(cache_enabled=False)


def network(seed=0, inputs=4, outputs=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


def batches(count):
    """Batches of x (32, 4) and targets (32, 2) that depend on x linearly."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 2, generator=generator)
    inputs = [torch.randn(32, 4, generator=generator) for _ in range(count)]
    return [(x, x @ weight) for x in inputs]


def fit(model, optimizer, train_fn, loader, epochs=1, callbacks=(), **settings):
    trainer = Trainer(model, optimizer, train_fn, loader, device="cpu", progress=False, **settings)
    trainer.callbacks = list(callbacks)
    trainer.fit(epochs=epochs)
    return trainer


def distance(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((one - two).abs().max().item() for one, two in pairs)


# bf16: what three kinds of training do, with autocast in the places that `around` says


def lbfgs_function(model, around):
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def train_fn(model, x, y):
        def closure():
            optimizer.zero_grad()
            with around():
                loss = functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        return {"loss": optimizer.step(closure)}

    return optimizer, train_fn


def sam_function(model, around, radius=0.5):
    """Sharpness-aware minimisation: the gradient is that of a place uphill, so each call goes forward twice."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parameters = list(model.parameters())

    def train_fn(model, x, y):
        def backward():
            optimizer.zero_grad()
            with around():
                loss = functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        loss = backward()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        uphill = [parameter.grad * (radius / norm) for parameter in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, uphill)
        backward()
        with torch.no_grad():
            torch._foreach_sub_(parameters, uphill)
        optimizer.step()
        return {"loss": loss}

    return optimizer, train_fn


def gan_function(models, around, update=None):
    """The discriminator is trained first, so the generator's loss must see its new weights."""
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.3) for model in models]
    update = update or three_plain_calls

    def train_fn(models, x, y):
        generator, discriminator = models
        with around():
            fake = generator(x)
            real_loss = functional.softplus(-discriminator(y)).mean()
            loss_d = real_loss + functional.softplus(discriminator(fake.detach())).mean()
        update(loss_d, optimizers[1])
        with around():
            loss_g = functional.softplus(-discriminator(fake)).mean()
        update(loss_g, optimizers[0])
        return {"loss_D": loss_d, "loss_G": loss_g}

    return optimizers, train_fn


def three_plain_calls(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def players():
    return nn.ModuleList([network(3), network(4, inputs=2, outputs=1)])


KINDS = {
    "LBFGS": (network, lbfgs_function, batches(1) * 3),
    "SAM": (network, sam_function, batches(20)),
    "GAN": (players, gan_function, batches(20)),
    "GAN by optimize": (players, lambda models, around: gan_function(models, around, optimize), batches(20)),
}


def by_hand(kind, around):
    """The loop that one would write, with autocast around the forward passes alone."""
    make, function, data = KINDS[kind]
    model = make()
    _, train_fn = (gan_function if kind == "GAN by optimize" else function)(model, around)
    for x, y in data:
        train_fn(model, x, y)
    return model


def ours(kind):
    """The same functions without a word on precision, as a Trainer runs them in bf16."""
    make, function, data = KINDS[kind]
    model = make()
    optimizer, train_fn = function(model, nullcontext)
    fit(list(model) if isinstance(model, nn.ModuleList) else model, optimizer, train_fn, data, precision="bf16")
    return model


def with_the_cache_on(kind):
    """What autocast with its default cache makes of it, around the whole function."""
    make, function, data = KINDS[kind]
    model = make()
    _, train_fn = function(model, nullcontext)
    for x, y in data:
        with cast():
            train_fn(model, x, y)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_equals_autocast_around_the_forward_pass_alone(kind):
    model = ours(kind)
    assert distance(model, by_hand(kind, uncached)) == 0
    # A cached cast sums the gradients of its uses in bf16, whose numbers are 2 ** -8 apart.
    assert distance(model, by_hand(kind, cast)) < 2e-3


@pytest.mark.parametrize("kind", ["LBFGS", "SAM", "GAN"])
def test_autocasts_cache_would_be_wrong_where_a_step_is_taken_inside(kind):
    assert distance(with_the_cache_on(kind), by_hand(kind, cast)) > 0.05


def test_lbfgs_converges_in_bf16_as_it_would_not_with_the_cache():
    x, y = KINDS["LBFGS"][2][0]
    losses = {make: functional.mse_loss(make("LBFGS")(x), y).item() for make in (ours, with_the_cache_on)}
    assert losses[ours] < 0.01
    assert losses[with_the_cache_on] > 1


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adafactor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1e9}], ids=["plain steps", "a window"])
def test_optimize_leaves_autocast_for_backward_and_step(optimizer_class, settings):
    def train_fn(model, x, y, around, update):
        with around():
            hidden = model[1](model[0](x))
            with cast(enabled=False):  # a part that is kept out of it: so must its backward pass be
                outputs = model[2](hidden.float())
            loss = functional.mse_loss(outputs, y)
        update(loss)

    models = [network(), network()]
    optimizers = [optimizer_class(model.parameters(), lr=0.1) for model in models]
    for x, y in batches(5):
        train_fn(models[0], x, y, uncached, lambda loss: three_plain_calls(loss, optimizers[0]))

    def ours(model, x, y):
        train_fn(model, x, y, nullcontext, lambda loss: optimize(loss, optimizers[1]))

    fit(models[1], optimizers[1], ours, batches(5), precision="bf16", **settings)
    assert distance(*models) == 0


def test_autocast_is_off_after_each_call_and_off_in_callbacks():
    seen = []
    model = network()

    class Watching(EMA):
        def on_batch_end(self, trainer):
            seen.append(torch.is_autocast_enabled("cpu"))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y):
        seen.append(torch.is_autocast_enabled("cpu"))
        seen.append(torch.is_autocast_cache_enabled())
        three_plain_calls(functional.mse_loss(model(x), y), optimizer)

    fit(model, optimizer, train_fn, batches(1), callbacks=[Watching(0.5)], precision="bf16")
    assert seen == [True, False, False]
    assert torch.is_autocast_cache_enabled()


def test_an_exception_leaves_autocast_as_it_was():
    def train_fn(model, x, y):
        raise KeyError("of the user")

    with pytest.raises(KeyError, match="of the user"):
        fit(network(), None, train_fn, batches(1), precision="bf16")
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_autocast_cache_enabled()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def nothing(model, *batch):
    """A train function that does nothing."""


@pytest.mark.parametrize("precision", DTYPES)
def test_evaluation_and_prediction_run_in_the_same_precision(precision):
    model, data, seen = network(), batches(3), []

    def eval_fn(model, x, y):
        outputs = model(x)
        seen.append(outputs.dtype)
        return {"loss": functional.mse_loss(outputs.float(), y)}

    trainer = Trainer(model, None, nothing, data, eval_fn, data, device="cpu", precision=precision, progress=False)
    with torch.no_grad(), cast(DTYPES[precision], enabled=precision != "fp32"):
        outputs = [model(x) for x, _ in data]
    mean = sum(functional.mse_loss(out.float(), y).item() for out, (_, y) in zip(outputs, data, strict=True)) / 3
    assert trainer.evaluate() == {"loss": pytest.approx(mean)}
    assert trainer.fit(epochs=1)["val_loss"] == [pytest.approx(mean)]
    assert set(seen) == {DTYPES[precision]}
    predicted = trainer.predict(lambda model, x: model(x), data)
    assert predicted.dtype == DTYPES[precision]
    assert torch.equal(predicted, torch.cat(outputs))


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"clip_norm": 1.0}, {"compile": False}], ids=str)
@pytest.mark.parametrize("precision", DTYPES)
def test_gradients_in_evaluation_work(precision, settings):
    model, data = network(), batches(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def slope(model, x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).float().square().sum(), x)
        return gradient.abs().mean()

    def train_fn(model, x, y):
        optimize(functional.mse_loss(model(x).float(), y), optimizer)

    def eval_fn(model, x, y):
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            return {"slope": slope(model, x)}

    trainer = Trainer(
        model, optimizer, train_fn, data, eval_fn, data, device="cpu", precision=precision, progress=False, **settings
    )
    history = trainer.fit(epochs=2)
    with cast(DTYPES[precision], enabled=precision != "fp32"):
        expected = sum(slope(model, x).item() for x, _ in data) / 3
    assert history["val_slope"] == pytest.approx([expected] * 2)
    assert trainer.evaluate()["slope"] == pytest.approx(expected)


def test_what_evaluation_makes_can_take_part_in_a_graph():
    kept = []
    model = network()

    def eval_fn(model, x, y):
        kept.append(model(x).float())

    trainer = Trainer(model, None, nothing, batches(1), eval_fn, batches(1), device="cpu", progress=False)
    trainer.evaluate()
    model[2](torch.tanh(torch.ones(1, 16))).sum().mul(kept[0].sum()).backward()
    assert model[2].weight.grad is not None


# fp16


FP16_OPTIMIZERS = {
    "SGD": lambda model, fused: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused),
    "AdamW": lambda model, fused: torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused),
}
fused_or_not = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
OVERFLOWS = {"never": (), "first": (0,), "some": (0, 3, 4, 9), "all": tuple(range(12))}


def fp16_loss(model, x, y, overflows):
    loss = functional.mse_loss(model(x).float(), y)
    return loss * math.inf if overflows else loss


def scaled_by_hand(kind, overflowing, accumulate=1, clip_norm=None):
    """A loop with a GradScaler as torch's documentation writes it; also the steps that were taken, and the norms."""
    model = network()
    # Never fused: torch's fused SGD steps with uninitialised momentum after an overflow in its first step.
    optimizer, scaler = FP16_OPTIMIZERS[kind](model, False), GradScaler("cpu")
    taken, norms, data = [], [], batches(12)
    for start in range(0, 12, accumulate):
        window = range(start, min(start + accumulate, 12))
        optimizer.zero_grad()
        for number in window:
            with cast(torch.float16):
                loss = fp16_loss(model, *data[number], number in overflowing)
            scaler.scale(loss).backward()
        for parameter in model.parameters():
            parameter.grad /= len(window)
        scaler.unscale_(optimizer)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf).item())
        before, scale = copy.deepcopy(model), scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        taken.append(scaler.get_scale() >= scale)
        assert taken[-1] or distance(model, before) == 0
    return model, optimizer, scaler, taken, norms


def scaled_training(kind, overflowing, accumulate=1, fused=False, **settings):
    model, calls, norms = network(), [0], []
    optimizer = FP16_OPTIMIZERS[kind](model, fused)

    def train_fn(model, x, y):
        loss = fp16_loss(model, x, y, calls[0] in overflowing)
        calls[0] += 1
        norm = optimize(loss, optimizer)
        if norm is not None:
            norms.append(norm.item())

    trainer = Trainer(
        model, optimizer, train_fn, batches(12), device="cpu", precision="fp16", progress=False,
        accumulate=accumulate, **settings,
    )  # fmt: skip
    return trainer, norms


def scales(trainer):
    return {name: state["scale"] for name, state in trainer.training.window.state_dict().items()}


@fused_or_not
@pytest.mark.parametrize("overflowing", OVERFLOWS)
@pytest.mark.parametrize("kind", FP16_OPTIMIZERS)
@pytest.mark.parametrize(("accumulate", "clip_norm"), [slow(1, None), slow(1, 0.05), slow(5, None), (5, 0.05)])
def test_fp16_equals_a_scaler_in_a_loop_written_by_hand(kind, overflowing, accumulate, clip_norm, fused):
    model, theirs, scaler, taken, norms = scaled_by_hand(kind, OVERFLOWS[overflowing], accumulate, clip_norm)
    trainer, our_norms = scaled_training(kind, OVERFLOWS[overflowing], accumulate, fused, clip_norm=clip_norm)
    trainer.fit(epochs=1)
    assert distance(trainer.model, model) < 1e-6
    assert (trainer.step, trainer.updates) == (len(taken), sum(taken))
    assert trainer.training.window.state_dict() == {"": scaler.state_dict()}
    assert our_norms == pytest.approx(norms, abs=1e-6, nan_ok=True)
    assert not trainer.optimizer._optimizer_step_pre_hooks
    assert not trainer.optimizer._optimizer_step_post_hooks
    for one, two in zip(trainer.optimizer.state.values(), theirs.state.values(), strict=True):
        for name, value in one.items():
            assert torch.allclose(torch.as_tensor(value), torch.as_tensor(two[name]), atol=1e-6)


@fused_or_not
@pytest.mark.parametrize("overflowing", OVERFLOWS)
def test_callbacks_do_not_count_a_step_that_overflowed(overflowing, fused):
    model, seen = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    average = EMA(0.0)

    def train_fn(model, x, y, lambd):
        number = len(seen)
        seen.append((lambd, optimizer.param_groups[0]["lr"]))
        optimize(fp16_loss(model, x, y, number in OVERFLOWS[overflowing]), optimizer)

    callbacks = [LRSchedule(schedule, every="step"), Schedule("lambd", lambda step: step, every="step"), average]
    trainer = fit(model, optimizer, train_fn, batches(12), callbacks=callbacks, precision="fp16")
    taken = [number not in OVERFLOWS[overflowing] for number in range(12)]
    counts = [sum(taken[:number]) for number in range(12)]
    assert seen == [(count + 1, 1 / (count + 1)) for count in counts]
    assert schedule.last_epoch == sum(taken) == trainer.updates == average.state_dict()["updates"]
    assert trainer.step == 12


@fused_or_not
@pytest.mark.parametrize("kind", FP16_OPTIMIZERS)
def test_an_optimizer_that_overflowed_took_no_step(kind, fused):
    trainer, _ = scaled_training(kind, OVERFLOWS["some"], fused=fused)
    trainer.callbacks = [EMA(0.5)]
    updated = []
    trainer.on("step_end")(lambda trainer: updated.append(trainer.updated(trainer.optimizer)))
    trainer.fit(epochs=1)
    assert updated == [number not in OVERFLOWS["some"] for number in range(12)]


def test_a_fused_optimizer_under_the_users_own_scaler_is_judged_the_same_way():
    model, calls, updated = network(), [0], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=True)
    scaler = GradScaler("cpu")

    def train_fn(model, x, y):
        with cast(torch.float16):
            loss = fp16_loss(model, x, y, calls[0] in OVERFLOWS["some"])
        calls[0] += 1
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    trainer = Trainer(model, optimizer, train_fn, batches(12), device="cpu", progress=False)
    trainer.callbacks = [EMA(0.5)]
    trainer.on("step_end")(lambda trainer: updated.append(trainer.updated()))
    trainer.fit(steps=3)
    trainer.fit(steps=9)
    assert updated == [number not in OVERFLOWS["some"] for number in range(12)]


@pytest.mark.parametrize("fits", [[{"steps": 12}], [{"steps": 5}, {"steps": 7}], [{"steps": 1}] * 12])
def test_the_scale_lives_from_fit_to_fit(fits):
    model, _, scaler, _, _ = scaled_by_hand("SGD", OVERFLOWS["some"])
    trainer, _ = scaled_training("SGD", OVERFLOWS["some"])
    for goal in fits:
        trainer.fit(**goal)
    assert distance(trainer.model, model) < 1e-6
    assert trainer.training.window.state_dict() == {"": scaler.state_dict()}


def test_the_scale_is_kept_when_a_fit_fails():
    trainer, _ = scaled_training("SGD", OVERFLOWS["first"])
    trainer.on("step_end")(lambda trainer: 1 / 0 if trainer.step == 3 else None)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=1)
    assert scales(trainer) == {"": 2.0**15}
    trainer._functions.clear()
    trainer.fit(steps=1)
    assert scales(trainer) == {"": 2.0**15}


def test_gradients_that_are_too_large_for_the_first_scale_bring_it_down():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def train_fn(model, x, y):
        optimize(1000 * functional.mse_loss(model(x).float(), y), optimizer)

    trainer = fit(model, optimizer, train_fn, batches(12), precision="fp16")
    skipped = trainer.step - trainer.updates
    assert 0 < skipped < 12
    assert scales(trainer) == {"": 2.0 ** (16 - skipped)}


def test_each_optimizer_has_a_scale_of_its_own():
    models = {"G": network(1), "D": network(2)}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.1) for name, model in models.items()}
    calls, updated = [0], []

    def train_fn(models, x, y):
        optimize(fp16_loss(models["G"], x, y, calls[0] in (0, 2)), optimizers["G"])
        optimize(fp16_loss(models["D"], x, y, calls[0] == 2), optimizers["D"])
        calls[0] += 1

    trainer = Trainer(models, optimizers, train_fn, batches(4), device="cpu", precision="fp16", progress=False)
    trainer.on("step_end")(lambda trainer: updated.append([trainer.updated(one) for one in optimizers.values()]))
    trainer.fit(epochs=1)
    assert updated == [[False, True], [True, True], [False, False], [True, True]]
    assert scales(trainer) == {"G": 2.0**14, "D": 2.0**15}
    assert (trainer.step, trainer.updates) == (4, 3)


def test_several_steps_in_one_call_are_judged_each_by_itself():
    model, updated = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    plans = [(True, True), (True, False), (False, True), (False, False)]

    def train_fn(model, x, y):
        for overflows in plans[trainer.step]:
            optimize(fp16_loss(model, x, y, overflows), optimizer)

    trainer = Trainer(model, optimizer, train_fn, batches(4), device="cpu", precision="fp16", progress=False)
    trainer.on("step_end")(lambda trainer: updated.append(trainer.updated()))
    trainer.fit(epochs=1)
    assert updated == [False, True, True, True]
    assert trainer.updates == 3


def test_a_call_that_takes_no_step_after_one_that_overflowed_is_not_counted_with_it():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y):
        if trainer.step < 2:
            optimize(fp16_loss(model, x, y, trainer.step == 1), optimizer)

    trainer = Trainer(model, optimizer, train_fn, batches(4), device="cpu", precision="fp16", progress=False)
    trainer.fit(epochs=1)
    assert (trainer.step, trainer.updates) == (4, 3)


def test_a_loss_that_reaches_no_parameter_of_its_optimizer_is_a_step_that_moves_nothing():
    models = [network(), network()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]

    def train_fn(models, x, y):
        for optimizer in optimizers:
            optimize(functional.mse_loss(models[0](x).float(), y), optimizer)

    trainer = fit(models, optimizers, train_fn, batches(3), precision="fp16")
    assert distance(models[1], network()) == 0
    assert distance(models[0], network()) > 0
    assert trainer.updates == 3


def test_the_norm_is_that_of_the_gradient_at_its_own_size():
    trainer, norms = scaled_training("SGD", ())
    trainer.fit(steps=1)
    model = network()
    x, y = batches(1)[0]
    with cast(torch.float16):
        loss = fp16_loss(model, x, y, False)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert norms == [pytest.approx(norm.item(), rel=1e-2)]


# What is refused, and the parts by themselves


@pytest.mark.parametrize("precision", ["fp8", "float16", "", None, 16, torch.bfloat16, ["bf16"], True])
def test_an_unknown_precision_is_an_error_that_lists_those_there_are(precision):
    message = r'(?s)^precision=.*expected: "fp32", "bf16" or "fp16".*to do: '
    with pytest.raises(ArgumentError, match=message):
        check_precision(precision)
    model = network()
    with pytest.raises(ArgumentError, match=message):
        Trainer(model, None, nothing, batches(1), device="cpu", precision=precision, progress=False)
    assert distance(model, network()) == 0


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cpu:x", 3.5, None])
@pytest.mark.parametrize("precision", DTYPES)
def test_a_device_that_is_not_there_is_an_error_before_anything_is_made(device, precision):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ArgumentError, match=r"(?s)^device=.*expected: .*to do: "):
        Trainer(model, optimizer, nothing, batches(1), device=device, precision=precision, progress=False)
    assert distance(model, network()) == 0
    assert next(model.parameters()).device == CPU


def test_a_function_in_full_precision_is_left_as_it_is():
    assert autocasting(nothing, "fp32", CPU) is nothing


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_function_under_autocast_keeps_its_name_and_hands_on_what_it_gets_and_returns(precision):
    def train_fn(model, x, lambd):
        """Of the user."""
        return model, x, lambd, torch.get_autocast_dtype("cpu")

    wrapped = autocasting(train_fn, precision, CPU)
    assert (wrapped.__name__, wrapped.__doc__) == ("train_fn", "Of the user.")
    assert wrapped(1, 2, lambd=3) == (1, 2, 3, DTYPES[precision])


def test_what_leaves_autocast_is_nothing_where_there_is_none():
    assert isinstance(without_autocast(CPU), nullcontext)
    with cast():
        with without_autocast(CPU):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_callable_object_serves_as_a_function_in_any_precision(precision):
    class Function:
        def __init__(self):
            self.seen = []

        def __call__(self, model, x, y):
            self.seen.append(model(x).dtype)

    train_fn = Function()
    fit(network(), None, train_fn, batches(1), precision=precision)
    assert train_fn.seen == [DTYPES[precision]]
