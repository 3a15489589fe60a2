"""compile="step": whole calls of the train function, captured as CUDA graphs, against loops written by hand."""

import random
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ignition import Trainer, crossentropy_loss, fit_on_batch, freeze, optimize, seed_everything, unfreeze
from ignition.callbacks import EMA, Checkpoint, LinearDecay, Schedule
from ignition.errors import ArgumentError, IgnitionWarning
from ignition.step_graphs import step_graphs

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
EPOCHS = 4
DTYPE = torch.float64  # in which the numbers of two ways to round stay together


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 32, bias=False),  # which would be moved by rounding alone
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 3),
        )

    def forward(self, x):
        return self.layers(x)


def make_batches(device="cuda", sizes=(16, 16, 16, 16, 16, 16, 5), dtype=DTYPE):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 8, generator=generator).to(device, dtype),
            torch.randint(3, (size,), generator=generator).to(device),
        )
        for size in sizes
    ]


def make_model(dropout=0.0, dtype=DTYPE):
    seed_everything(3)
    return Net(dropout).to("cuda", dtype)


OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD with momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "Adam": (torch.optim.Adam, {"lr": 0.01}),
    "fused Adam": (torch.optim.Adam, {"lr": 0.01, "fused": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.01}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
}


def plain(name):
    kind, options = OPTIMIZERS[name]
    return lambda parameters: kind(parameters, **options)


def capturable(name):
    """As torch says to make an optimizer whose steps are to be captured."""
    kind, options = OPTIMIZERS[name]
    way = {"fused": True} if kind is torch.optim.SGD else {"capturable": True}
    return lambda parameters: kind(parameters, **(options | way | {"lr": torch.tensor(options["lr"], device="cuda")}))


def plain_step(model, x, y, optimizer, scale=1.0):
    optimizer.zero_grad()
    loss = crossentropy_loss(model(x), y)
    (scale * loss).backward()
    optimizer.step()
    return loss.detach()


def by_hand(make, scales=None, epochs=EPOCHS, dropout=0.0, rates=None, dtype=DTYPE):
    """A loop with nothing of ours."""
    model = make_model(dropout, dtype)
    optimizer = make(model.parameters())
    losses, step = [], 0
    for epoch in range(epochs):
        for x, y in make_batches(dtype=dtype):
            step += 1
            if rates is not None:
                for group in optimizer.param_groups:
                    group["lr"] = torch.full_like(group["lr"], rates(step))
            losses.append(plain_step(model, x, y, optimizer, 1.0 if scales is None else scales(epoch + 1)).item())
    return model, losses


def fitted(
    train_fn=None,
    make=None,
    compile="step",
    epochs=EPOCHS,
    dropout=0.0,
    callbacks=(),
    dtype=DTYPE,
    **options,
):
    model = make_model(dropout, dtype)
    optimizer = (make or plain("SGD with momentum"))(model.parameters())
    replayed = np.zeros(1, dtype=int)  # in place, which nobody takes for a side effect

    def own(model, x, y, scale=1.0):
        replayed[0] += 1
        return {"loss": plain_step(model, x, y, optimizer, scale)}

    def called(model, x, y):
        return train_fn(model, x, y, optimizer)

    batches = options.pop("batches", None) or make_batches(dtype=dtype)
    trainer = Trainer(
        model, optimizer, own if train_fn is None else called, batches, compile=compile, progress=False, **options
    )
    losses = []
    trainer.callbacks = list(callbacks)
    trainer.on("batch_end")(lambda trainer: losses.append(trainer.batch_metrics["loss"]))
    trainer.fit(epochs=epochs)
    return SimpleNamespace(
        trainer=trainer,
        model=model,
        optimizer=optimizer,
        kept=losses,
        losses=[float(loss) for loss in losses],
        calls=replayed[0],
    )


def assert_same(model, other, tolerance=1e-6):
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=tolerance, atol=tolerance, msg=name)


# Parity


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_computes_what_a_loop_by_hand_computes(name):
    model, losses = by_hand(capturable(name), dtype=torch.float32, dropout=0.2)
    found = fitted(make=plain(name), dtype=torch.float32, dropout=0.2)
    assert found.losses == pytest.approx(losses, abs=1e-6)
    assert_same(found.model, model)
    assert found.calls == 5, "the first, and for each of two shapes a look and a capture"


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_computes_what_the_optimizer_does_that_cannot_be_captured(name):
    model, losses = by_hand(plain(name))
    found = fitted(make=plain(name))
    # Adam and its kin count their steps in 32 bits where these can be captured.
    tolerance = 1e-6 if OPTIMIZERS[name][0] is torch.optim.SGD else 1e-4
    assert found.losses == pytest.approx(losses, abs=tolerance)
    assert_same(found.model, model, tolerance)


@cuda
@pytest.mark.gpu
def test_learning_rates_and_hyperparameters_reach_a_captured_step():
    def rate(step):
        return 0.01 / step

    model, losses = by_hand(capturable("Adam"), scales=lambda epoch: 4 - (epoch - 1), rates=rate)
    schedules = [Schedule("lr", rate, every="step"), LinearDecay("scale", start_value=4, end_value=1, max_epochs=4)]
    found = fitted(make=plain("Adam"), callbacks=schedules)
    assert found.losses == pytest.approx(losses, abs=1e-6)
    assert_same(found.model, model)
    assert found.trainer.history["scale"] == [4, 3, 2, 1]
    assert found.trainer.history["lr"] == [rate(step) for step in (7, 14, 21, 28)]
    assert found.calls < 8


@cuda
@pytest.mark.gpu
def test_sgd_takes_rates_that_change_each_step_without_a_new_capture():
    def rate(step):
        return 0.05 / step

    model, losses = by_hand(capturable("SGD with momentum"), rates=rate)
    found = fitted(callbacks=[Schedule("lr", rate, every="step")])
    assert found.losses == pytest.approx(losses, abs=1e-6)
    assert_same(found.model, model)
    assert found.calls == 5


@cuda
@pytest.mark.gpu
def test_dropout_draws_the_numbers_of_an_eager_run():
    model, losses = by_hand(plain("SGD with momentum"), dropout=0.5)
    found = fitted(dropout=0.5)
    assert found.losses == pytest.approx(losses, abs=1e-6)
    assert_same(found.model, model)
    after = torch.rand(3, device="cuda")
    by_hand(plain("SGD with momentum"), dropout=0.5)
    assert torch.equal(after, torch.rand(3, device="cuda")), "the generator is where it would be"


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{"clip_norm": 0.1}, {"precision": "bf16"}, {"ema": 0.9}], ids=str)
def test_what_the_trainer_does_around_a_step_is_as_without(settings):
    def train_fn(model, x, y, optimizer):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def run(compile):
        options = dict(settings)
        callbacks = [EMA(options.pop("ema"))] if "ema" in options else []
        make = capturable("Adam")
        return fitted(train_fn, make=make, compile=compile, callbacks=callbacks, dtype=torch.float32, **options)

    found, eager = run("step"), run(False)
    assert found.losses == eager.losses
    assert_same(found.model, eager.model, 0)
    columns = [
        {name: one.trainer.history[name] for name in ("train_loss", "train_acc", "lr")} for one in (found, eager)
    ]
    assert columns[0] == columns[1]
    for name, average in eager.trainer.averaged.items():
        assert_same(found.trainer.averaged[name], average, 0)


@cuda
@pytest.mark.gpu
def test_evaluation_and_gradients_in_between_are_those_of_the_step():
    norms = {}
    for compile in ("step", False):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def train_fn(model, x, y, optimizer=optimizer):
            return {"loss": plain_step(model, x, y, optimizer)}

        def eval_fn(model, x, y):
            return {"loss": crossentropy_loss(model(x), y)}

        batches = make_batches()
        trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, batches, compile=compile, progress=False)
        norms[compile] = []
        trainer.on("step_end")(
            lambda trainer, norms=norms[compile]: norms.append(
                float(torch.nn.utils.get_total_norm([one.grad for one in trainer.model.parameters()]))
            )
        )
        trainer.fit(epochs=4, eval_every=3)
        norms[compile].extend(trainer.history["val_loss"])
    assert norms["step"] == pytest.approx(norms[False], rel=1e-5)


@cuda
@pytest.mark.gpu
def test_a_pair_of_models_with_an_optimizer_each():
    def run(compile):
        seed_everything(0)
        models = {"G": nn.Linear(4, 8).to("cuda", DTYPE), "D": nn.Linear(8, 1).to("cuda", DTYPE)}
        optimizers = {name: capturable("Adam")(model.parameters()) for name, model in models.items()}

        def train_fn(models, x, y):
            fake = models["G"](torch.randn(len(x), 4, device=x.device, dtype=x.dtype))
            loss = models["D"](fake.detach()).mean() - models["D"](x).mean()
            optimize(loss, optimizers["D"])
            loss_g = -models["D"](fake).mean()
            optimize(loss_g, optimizers["G"])
            return {"d": loss, "g": (loss_g, len(x)), "kind": 2.0}

        trainer = Trainer(models, optimizers, train_fn, make_batches(), compile=compile, progress=False)
        trainer.fit(epochs=4)
        return trainer

    found, eager = run("step"), run(False)
    for name in ("G", "D"):
        assert_same(found.model[name], eager.model[name])
    for name in ("train_d", "train_g", "train_kind"):
        assert found.history[name] == pytest.approx(eager.history[name], abs=1e-6)


# What changes between two steps


@cuda
@pytest.mark.gpu
def test_what_a_callback_changes_inside_a_fit_is_captured_anew():
    def changed(trainer):
        if trainer.step == 9:
            freeze(trainer.model.layers[0])
        if trainer.step == 12:
            trainer.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        if trainer.step == 16:
            unfreeze(trainer.model.layers[0])
        if trainer.step == 20:
            trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())

    class Changes(Schedule):
        def __init__(self):
            super().__init__("lr", lambda step: 0.01, every="step")

        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            changed(trainer)

    found = fitted(make=plain("Adam"), callbacks=[Changes()])
    eager = fitted(make=capturable("Adam"), compile=False, callbacks=[Changes()])
    assert found.losses == pytest.approx(eager.losses, abs=1e-6)
    assert_same(found.model, eager.model)


@cuda
@pytest.mark.gpu
def test_a_momentum_that_changes_each_step_is_given_up_with_a_word():
    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    schedules = [Schedule("momentum", lambda step: 0.9 / step, every="step")]
    eager = fitted(make=make, compile=False, callbacks=schedules, epochs=8)
    with pytest.warns(
        IgnitionWarning, match=r"runs eagerly, since 'momentum' of the optimizer changes again and again"
    ):
        found = fitted(make=make, callbacks=schedules, epochs=8)
    assert_same(found.model, eager.model)


@cuda
@pytest.mark.gpu
def test_fits_follow_one_another_and_leave_the_optimizer_as_it_was():
    model, _ = by_hand(capturable("Adam"), epochs=6)
    found = fitted(make=plain("Adam"), epochs=3)
    group = found.optimizer.param_groups[0]
    assert (group["lr"], group["capturable"], group["foreach"], group["fused"]) == (0.01, False, None, None)
    assert {state["step"].device.type for state in found.optimizer.state.values()} == {"cpu"}
    assert found.trainer.training.graphs is None
    found.trainer.fit(epochs=3)
    assert_same(found.model, model)


@cuda
@pytest.mark.gpu
def test_memory_does_not_grow_with_the_fits():
    found = fitted()
    held = []
    for _ in range(5):
        found.trainer.fit(epochs=2)
        found.kept.clear()
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1]


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("at", [3, 9, 17])
def test_a_run_that_is_resumed_ends_in_the_same_bits(tmp_path, at):
    def run(folder, steps, resume):
        model = make_model(0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def train_fn(model, x, y, scale):
            return {"loss": plain_step(model, x, y, optimizer, scale**2)}

        trainer = Trainer(model, optimizer, train_fn, make_batches(), compile="step", seed=5, progress=False)
        decay = LinearDecay("scale", start_value=2, end_value=1, max_epochs=4)
        trainer.callbacks = [decay, Checkpoint(folder, every=1), EMA(0.9)]
        if steps is not None:

            @trainer.on("step_end")
            def stop(trainer):
                if trainer.step == steps:
                    raise KeyboardInterrupt

        trainer.fit(epochs=4, resume=resume)
        return trainer

    whole = run(tmp_path / "whole", None, False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", at, False)
    resumed = run(tmp_path / "cut", None, True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert whole.history["train_loss"] == resumed.history["train_loss"]


@cuda
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_replays_wait_for_nothing():
    def watch(trainer):
        if trainer.step == 22:  # inside the last epoch, in which nothing is captured any more
            torch.cuda.set_sync_debug_mode("error")
        if trainer.step == 26:
            torch.cuda.set_sync_debug_mode("default")

    class Watch(LinearDecay):
        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            watch(trainer)

    try:
        found = fitted(callbacks=[Watch("scale", start_value=4, end_value=1, max_epochs=4)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.trainer.step == 28


# What cannot be captured


class Counting:
    """A metric object."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value):
        self.total, self.count = self.total + float(value), self.count + 1

    def compute(self):
        return self.total / max(self.count, 1)

    def reset(self):
        self.__init__()


kept, counting, count = [], Counting(), 0


def keeps(model, x, y, optimizer):
    loss = plain_step(model, x, y, optimizer)
    kept.append(loss)
    return {"loss": loss}


def counts(model, x, y, optimizer):
    global count
    count += 1
    return {"loss": plain_step(model, x, y, optimizer)}


def draws(model, x, y, optimizer):
    return {"loss": plain_step(model, x, y, optimizer, 1 + random.random())}


def draws_on_the_cpu(model, x, y, optimizer):
    return {"loss": plain_step(model, x, y, optimizer, float(torch.rand(()) + np.random.rand()))}


def waits(model, x, y, optimizer):
    return {"loss": plain_step(model, x, y, optimizer).item()}


def branches(model, x, y, optimizer):
    loss = plain_step(model, x, y, optimizer)
    if loss > 0.5:
        plain_step(model, x, y, optimizer, 0.1)
    return {"loss": loss}


def fails_in_a_capture(model, x, y, optimizer):
    torch.cuda.synchronize()
    return {"loss": plain_step(model, x, y, optimizer)}


def fails_after_the_step(model, x, y, optimizer):
    loss = plain_step(model, x, y, optimizer)
    torch.cuda.synchronize()
    return {"loss": loss}


def objects(model, x, y, optimizer):
    return {"loss": plain_step(model, x, y, optimizer), "count": counting}


class Clipped(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad.clamp(-0.1, 0.1)


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("train_fn", "reason"),
    [
        (keeps, r"it changes train_fn\.train_fn\.kept"),
        (counts, r"it changes train_fn\.train_fn\.count,"),
        (draws, "it changes the random numbers of python"),
        (draws_on_the_cpu, "it changes the random numbers of numpy, the random numbers of torch"),
        (waits, r"it waits for the GPU \(.*test_step_graphs\.py, line"),
        (branches, r"it waits for the GPU \(.*test_step_graphs\.py, line"),
        (fails_in_a_capture, "it could not be captured"),
        (fails_after_the_step, "it could not be captured"),
        (objects, "it returns 'count', a Counting"),
    ],
)
def test_what_cannot_be_captured_runs_eagerly_after_one_warning(train_fn, reason):
    eager = fitted(train_fn, compile=False, dropout=0.3)
    with pytest.warns(IgnitionWarning, match="runs eagerly, since " + reason) as warned:
        found = fitted(train_fn, dropout=0.3)
    assert len([one for one in warned if one.category is IgnitionWarning]) == 1
    assert found.losses == pytest.approx(eager.losses, abs=1e-6)
    assert_same(found.model, eager.model)
    held = torch.cuda.memory_allocated()
    again = fitted(dropout=0.3)  # and what comes after is captured as if nothing had been
    assert again.calls == 5
    by_copies = fitted(train_fn, compile=False, dropout=0.3, batches=make_batches("cpu") * 20)
    del again, by_copies
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() < held + 2**20, "memory of copies comes back"


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "cpu"}, "the model is on cpu"),
        ({"accumulate": 2}, "accumulate=2"),
        ({"precision": "fp16"}, "fp16"),
        ({"make": Clipped}, "Clipped has no capturable step"),
        ({"make": torch.optim.Adagrad}, "Adagrad has no capturable step"),
    ],
    ids=["on the CPU", "accumulate", "fp16", "an optimizer of one's own", "Adagrad"],
)
def test_settings_that_stand_against_it_are_named_before_the_first_step(settings, reason):
    def train_fn(model, x, y, optimizer):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    eager = fitted(train_fn, compile=False, dtype=torch.float32, **settings)
    with pytest.warns(IgnitionWarning, match=f"runs eagerly, since .*{reason}"):
        found = fitted(train_fn, dtype=torch.float32, **settings)
    assert_same(found.model, eager.model, 0)


@cuda
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:the batches for train_fn hold no tensor")
def test_a_batch_that_may_hold_tensors_out_of_sight_runs_eagerly():
    class Batch:
        def __init__(self, x, y):
            self.x, self.y = x, y

    def train_fn(model, batch):
        return {"loss": (plain_step(model, batch.x, batch.y, optimizer), len(batch.x))}

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(
        model, optimizer, train_fn, [Batch(*batch) for batch in make_batches()], compile="step", progress=False
    )
    with pytest.warns(IgnitionWarning, match="the batch holds Batch"):
        trainer.fit(epochs=EPOCHS)
    assert_same(model, by_hand(plain("SGD"))[0])


@cuda
@pytest.mark.gpu
def test_nested_batches_and_many_shapes():
    sizes = [*range(4, 16), 16, 16]

    def run(compile):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def train_fn(model, batch):
            return {"loss": plain_step(model, batch["x"][0], batch["y"], optimizer, 2.0 if batch["name"] else 1.0)}

        batches = [{"x": [x], "y": y, "name": "a" * (len(x) % 2)} for x, y in make_batches(sizes=sizes)]
        trainer = Trainer(model, optimizer, train_fn, batches, compile=compile, progress=False)
        trainer.fit(epochs=4)
        return model

    assert_same(run("step"), run(False))


@cuda
@pytest.mark.gpu
def test_a_function_that_needs_a_plain_number_says_so():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def needs_a_number(model, x, y, power):
        return plain_step(model, x, y, optimizer, timedelta(seconds=power).total_seconds())

    trainer = Trainer(model, optimizer, needs_a_number, make_batches(), compile="step", progress=False)
    trainer.hyper = {"power": 0.5}
    with pytest.raises(TypeError) as raised:
        trainer.fit(epochs=1)
    assert 'compile="step" passes the hyperparameters power as 0-d tensors' in raised.value.__notes__[0]


# Without CUDA


def test_without_cuda_it_runs_eagerly_after_one_warning():
    def run(compile):
        seed_everything(0)
        model = Net().to(DTYPE)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def train_fn(model, x, y, scale):
            assert isinstance(scale, float)
            return {"loss": plain_step(model, x, y, optimizer, scale)}

        trainer = Trainer(
            model, optimizer, train_fn, make_batches("cpu"), compile=compile, device="cpu", progress=False
        )
        trainer.hyper = {"scale": 2.0}
        trainer.fit(epochs=2)
        return trainer

    with pytest.warns(
        IgnitionWarning, match=r'compile="step": train_fn runs eagerly, since the model is on cpu'
    ) as all_:
        found = run("step")
    assert len(all_) == 1
    eager = run(False)
    assert found.history["train_loss"] == eager.history["train_loss"]
    assert found.training.prepare() is found.model, "nothing is compiled"


def test_no_graphs_are_made_unasked():
    model = Net()
    trainer = Trainer(model, None, lambda model, x, y: None, make_batches("cpu"), device="cpu", progress=False)
    assert step_graphs(trainer.training) is None


@pytest.mark.parametrize("compile", ["steps", "yes", 1, None])
def test_what_says_neither_yes_nor_how_is_an_error(compile):
    with pytest.raises(ArgumentError, match='expected: True, False, "step"'):
        Trainer(Net(), None, lambda model, x, y: None, make_batches("cpu"), compile=compile)
