"""Each fault, planted alone, fails its check and no other, with what to do; a sound training passes all."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ignition import (
    Callback,
    TensorLoader,
    Trainer,
    crossentropy_loss,
    evaluate_on_batch,
    fit_on_batch,
    freeze,
    optimize,
    sanity_checks,
)
from ignition.background import Writer
from ignition.callbacks import Checkpoint, LinearDecay, Warmup
from ignition.errors import ArgumentError, BatchError
from ignition.snapshot import capture

INPUTS, OUTPUTS, FIRST_LOSS = "inputs are in range", "outputs are in range", "the first loss is that of guessing"
CHANGE, STAY = "trainable parameters change", "frozen parameters stay"
EVALUATION, LEAK = "evaluation changes nothing", "samples do not leak into each other"
OVERFIT, APART = "a single batch can be overfitted", "training and test data are apart"
LOADER, RESUME = "the loader keeps up", "a resumed training is the same"


CLOCK = {"seconds": 0.0}  # a busy machine must not make a loader look slow


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    def seconds():
        CLOCK["seconds"] += 0.0001
        return CLOCK["seconds"]

    monkeypatch.setattr("ignition.training_checks.perf_counter", seconds)


def data(samples=60, offset=0):
    generator = torch.Generator().manual_seed(1 + offset)
    x = torch.randn(samples, 4, generator=generator)
    return x, x[:, :3].argmax(1)


class Net(nn.Module):
    """A classifier (batch, 4) -> (batch, 3), with what can go wrong in between."""

    def __init__(self, middle=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.middle = middle or nn.Dropout(0.1)

    def forward(self, x):
        return self.last(self.middle(torch.relu(self.norm(self.first(x)))))


def trainer_of(model=None, train_fn=None, eval_fn=evaluate_on_batch, train=None, test=None, optimizer=None, **options):
    model = model or Net()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)

    def plain(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    train = TensorLoader(*data(), batch_size=12, shuffle=True) if train is None else train
    test = TensorLoader(*data(30, offset=1), batch_size=12) if test is None else test
    test = test if eval_fn else None
    return Trainer(model, optimizer, train_fn or plain, train, eval_fn, test, progress=False, **options)


def failures(report):
    return {name: message for name, passed, message in report if not passed}


def skipped(report):
    return {one.name: one.message for one in report if one.verdict == "skipped"}


@pytest.mark.slow
def test_a_sound_training_passes_every_check():
    model = Net()
    freeze(model.norm)
    report = sanity_checks(trainer_of(model))
    assert report.passed, report
    assert len(report) == 11
    assert not skipped(report), report


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_it_passes_with_a_data_loader_and_options_of_the_trainer(seed, options):
    loader = DataLoader(TensorDataset(*data()), 12, shuffle=True)
    test = DataLoader(TensorDataset(*data(30, offset=1)), 12)
    report = sanity_checks(trainer_of(train=loader, test=test, seed=seed, **options))
    assert report.passed, report


# Faults, one at a time


def planted_dead_layer():
    class Dead(nn.Linear):
        def forward(self, x):
            return torch.relu(super().forward(x) - 1e3) + x

    return trainer_of(Net(Dead(16, 16))), CHANGE, "middle.weight, middle.bias: their gradient is zero"


def planted_layer_outside_the_optimizer():
    model = Net()
    optimizer = torch.optim.Adam([*model.first.parameters(), *model.norm.parameters()], lr=0.01)
    return trainer_of(model, optimizer=optimizer), CHANGE, "last.weight, last.bias: in no optimizer; give them to it"


def planted_layer_without_gradient():
    class Cut(nn.Linear):
        def forward(self, x):
            return x + super().forward(x).detach()

    return trainer_of(Net(Cut(16, 16))), CHANGE, "no gradient reaches them; look for detach"


def planted_frozen_layer_that_the_optimizer_moves():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model(x), y)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    train_fn(model, *data())
    freeze(model.first)
    return trainer_of(model, train_fn, optimizer=optimizer), STAY, "first.weight, first.bias; leave them out of the opt"


def planted_giant_initialisation():
    model = Net()
    nn.init.normal_(model.last.weight, std=100)
    return trainer_of(model), FIRST_LOSS, r"ln\(3\) is 1.099: look at the scale of the last layer"


def planted_sum_in_the_place_of_the_mean():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
        optimize(loss, optimizer)
        return {"loss": loss}

    return trainer_of(model, train_fn, optimizer=optimizer), FIRST_LOSS, "it looks like a sum over the batch"


def planted_samples_that_leak():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    return trainer_of(Net(Centred())), LEAK, r"depends on the input of sample .* over the batch axis \(0\)"


def planted_leak_that_a_plain_sum_would_hide():
    class Softmax(nn.Module):
        def forward(self, x):
            return 10 * torch.softmax(x, 0)

    return trainer_of(Net(Softmax())), LEAK, "softmax"


def planted_evaluation_that_writes_a_buffer():
    def eval_fn(model, x, y):
        model.train()
        metrics = evaluate_on_batch(model, x, y)
        model.eval()
        return metrics

    return trainer_of(Net(nn.Identity()), eval_fn=eval_fn), EVALUATION, "changed norm.running_mean.*leave the model in"


def planted_evaluation_that_draws():
    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x + 1e-3 * torch.randn(x.shape), y)

    return trainer_of(eval_fn=eval_fn), EVALUATION, "the global generator of torch.*torch.Generator of its own"


def planted_labels_that_are_shuffled():
    model = Net(nn.Identity())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y[torch.randperm(len(y))], crossentropy_loss, optimizer)

    return trainer_of(model, train_fn, optimizer=optimizer), OVERFIT, "whether each label belongs to its input"


def planted_shared_samples():
    x, y = data()
    return (
        trainer_of(test=TensorLoader(x[50:].clone(), y[50:], batch_size=12)),
        APART,
        "10 test samples .* split the data",
    )


def planted_shared_indices():
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 1e-2 * torch.rand(4), y

    whole = Augmented(*data())
    train, test = Subset(whole, range(40)), Subset(Subset(whole, range(30, 60)), range(12))
    return trainer_of(train=DataLoader(train, 10), test=DataLoader(test, 10)), APART, "10 samples .*by their index"


def planted_slow_loader():
    class Slow(TensorDataset):
        def __getitem__(self, index):
            CLOCK["seconds"] += 0.001
            return super().__getitem__(index)

    class Collected(Dataset):  # not a TensorDataset: it is not in memory
        def __init__(self):
            self.inner = Slow(*data())

        def __len__(self):
            return 60

        def __getitem__(self, index):
            return self.inner[index]

    return trainer_of(train=DataLoader(Collected(), 12)), LOADER, "num_workers=4 or more, persistent_workers=True"


def planted_hidden_state():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    hidden = {"calls": 0}

    def train_fn(model, x, y):
        hidden["calls"] += 1
        x = x * (1 + 0.01 * (hidden["calls"] % 7))
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    return trainer_of(model, train_fn, optimizer=optimizer), RESUME, "ended differently in .*trainer.state"


def planted_state_that_loading_resets():
    class Forgets:
        calls = 0

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            self.calls = 0

    model, kept = Net(), Forgets()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        kept.calls += 1
        return fit_on_batch(model, x * (1 + 0.05 * kept.calls), y, crossentropy_loss, optimizer)

    trainer = trainer_of(model, train_fn, optimizer=optimizer)
    trainer.state["kept"] = kept
    return trainer, RESUME, "not stopped, ended differently in .*all of it in an object's state_dict"


def planted_last_layer_of_a_model_for_dicts():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    nn.init.normal_(model.last.weight, std=100.0)

    def train_fn(model, batch):
        return fit_on_batch(model, batch["x"], batch["label"], crossentropy_loss, optimizer)

    x, y = data()
    batches = [{"x": part, "label": target} for part, target in zip(x.split(12), y.split(12), strict=True)]
    return trainer_of(model, train_fn, None, batches, optimizer=optimizer), FIRST_LOSS, "scale of the last layer"


def planted_leak_between_sequences_of_tokens():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 8)
            self.mixing = nn.MultiheadAttention(8, 2)  # which has the batch in axis 1, and is given it in axis 0
            self.last = nn.Linear(8, 3)

        def forward(self, tokens):
            mixed = self.embedding(tokens)
            return self.last(mixed + self.mixing(mixed, mixed, mixed)[0]).mean(1)

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, (36, 6), generator=generator)
    train = TensorLoader(tokens, (tokens == 0).sum(1).clamp(max=2), batch_size=12)
    return (
        trainer_of(Tagger(), train=train, eval_fn=None),
        LEAK,
        "input of sample .* over the batch axis",
    )


FAULTS = [value for name, value in list(globals().items()) if name.startswith("planted_")]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__.removeprefix("planted_"))
def test_a_fault_fails_its_check_alone_with_what_to_do(plant):
    trainer, name, message = plant()
    report = sanity_checks(trainer)
    assert list(failures(report)) == [name], report
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failures(report)[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.fill_(math.nan), "NaN or infinite values in a batch of train_loader, in a tensor of shape"),
        (lambda x: x.zero_(), "all inputs of train_loader are zero"),
        (lambda x: x.mul_(1000), "scale them"),
    ],
)
def test_bad_inputs_are_named(change, message):
    x, y = data()
    change(x)
    assert message in failures(sanity_checks(trainer_of(train=TensorLoader(x, y, batch_size=12))))[INPUTS]


@pytest.mark.parametrize(("factor", "message"), [(math.nan, "NaN or infinity"), (1e7, "outputs of up to")])
def test_bad_outputs_are_named(factor, message):
    class Scaled(Net):
        def forward(self, x):
            return factor * super().forward(x)

    assert message in failures(sanity_checks(trainer_of(Scaled())))[OUTPUTS]


@pytest.mark.parametrize("waits", [[(0.9, 0.01), (0.1, 0.01)], [(0.9, 0.01), (0.9, 0.001)], [(0.9, 0.01)] * 2])
def test_a_loader_is_slow_only_when_it_was_so_twice(waits, monkeypatch):
    """A machine that is busy with something else for a moment is no fault of the loader."""
    seen = iter(waits)
    monkeypatch.setattr("ignition.training_checks._waiting", lambda trainer, loader: next(seen))
    slow = waits[0] == waits[1]
    assert list(failures(sanity_checks(trainer_of()))) == ([LOADER] if slow else [])
    assert next(seen, None) is None


# What cannot be checked


def test_what_cannot_be_checked_is_skipped_with_the_reason_and_fails_nothing():
    embedding = nn.Embedding(10, 5)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=0.05)

    def train_fn(model, batch):
        return fit_on_batch(model, batch["ids"], batch["labels"], crossentropy_loss, optimizer)

    batches = [{"ids": torch.arange(i, i + 5), "labels": torch.arange(5)} for i in (0, 5)]
    trainer = Trainer(embedding, optimizer, train_fn, batches, progress=False)
    report = sanity_checks(trainer)
    assert report.passed, report
    assert skipped(report) == {
        INPUTS: "skipped: no floating-point inputs in the batches",
        STAY: "skipped: nothing is frozen",
        EVALUATION: "skipped: there is no eval_fn",
        APART: "skipped: there is no test_loader",
    }
    told = {name: message for name, _, message in report}
    assert told[LEAK] == "4 outputs stay when the other sample of their batch is exchanged, 3 times"
    assert told[FIRST_LOSS].endswith("and ln(5) is 1.609")


def test_what_has_no_batch_axis_and_no_class_numbers_is_skipped_with_the_reason():
    vector = nn.Parameter(torch.ones(3))
    model = nn.ParameterList([vector])
    optimizer = torch.optim.SGD([vector], lr=0.01)

    def train_fn(model, x):
        loss = (x - vector).square().mean()
        optimize(loss, optimizer)
        return {"loss": loss}

    told = skipped(sanity_checks(Trainer(model, optimizer, train_fn, [torch.randn(4, 3)] * 3, progress=False)))
    assert told[LEAK] == "skipped: no tensors with a batch axis go into the model's calls and come out of them"
    assert told[FIRST_LOSS] == (
        "skipped: not a classifier: no outputs (batch, classes) with class numbers (batch,) as the batch's last item "
        "or label"
    )


def test_several_models_and_optimizers_and_no_loss_are_no_fault():
    models = {"G": nn.Linear(4, 4), "D": nn.Linear(4, 1)}
    optimizers = {name: torch.optim.SGD(one.parameters(), lr=0.1) for name, one in models.items()}

    def train_fn(models, x, y):
        optimize(nn.functional.softplus(-models["D"](models["G"](x))).mean(), optimizers["G"])
        optimize(nn.functional.softplus(models["D"](models["G"](x).detach())).mean(), optimizers["D"])

    trainer = trainer_of(models, train_fn, eval_fn=None, optimizer=optimizers)
    report = sanity_checks(trainer)
    assert report.passed, report
    assert skipped(report)[OVERFIT] == "skipped: several optimizers: their losses need not fall"
    assert "no gradient at the other" in dict((name, message) for name, _, message in report)[LEAK]


@pytest.mark.parametrize("mixes", [False, True])
def test_samples_may_lie_along_another_axis(mixes):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.last = nn.GRU(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = x - x.mean(1, keepdim=True) if mixes else x
            return self.last(self.recurrent(x)[0][-1])

    x, y = torch.randn(5, 60, 4), torch.arange(60) % 3
    batches = [(x[:, place : place + 10], y[place : place + 10]) for place in range(0, 60, 10)]
    model = Recurrent()
    outcome = {one.name: one for one in sanity_checks(trainer_of(model, train=batches, test=batches, batch_axis=1))}[
        LEAK
    ]
    assert outcome.verdict == ("FAILED" if mixes else "passed")
    assert "the batch axis (1)" in outcome.message or not mixes


def test_a_model_without_gradients_is_no_fault():
    trainer = Trainer(nn.Identity(), None, lambda model, x: None, [torch.rand(3, 2)] * 9, progress=False)
    report = sanity_checks(trainer)
    assert report.passed, report


def test_a_trained_model_is_not_held_to_the_loss_of_guessing():
    trainer = trainer_of()
    trainer.fit(epochs=1)
    assert skipped(sanity_checks(trainer))[FIRST_LOSS] == "skipped: it has been trained already, for 5 steps"


def test_a_learning_rate_too_low_to_tell_is_no_fault():
    model = Net(nn.Identity())
    report = sanity_checks(trainer_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3)))
    assert "try a higher learning rate" in skipped(report)[OVERFIT]


def test_schedules_that_supply_and_warm_up_are_no_fault():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y, lambd):
        return fit_on_batch(model, lambd * x, y, crossentropy_loss, optimizer)

    trainer = trainer_of(model, train_fn, optimizer=optimizer)
    trainer.callbacks = [LinearDecay("lambd", 1, 0.9, 5), Warmup(5)]
    assert sanity_checks(trainer).passed


def test_a_function_that_fails_is_told_by_its_message():
    def train_fn(model, x, y):
        raise ValueError("the shapes do not fit")

    failed = failures(sanity_checks(trainer_of(train_fn=train_fn)))
    assert failed[CHANGE] == "it raised ValueError: the shapes do not fit"
    assert INPUTS not in failed


def test_what_a_checkpoint_cannot_hold_is_told():
    trainer = trainer_of()
    trainer.state["socket"] = object()
    assert list(failures(sanity_checks(trainer))) == [RESUME]


# Checks of one's own


def test_own_checks_are_functions_of_the_trainer():
    def fine(trainer):
        return True

    def says_nothing(trainer):
        pass

    def wrong(trainer):
        return False

    def explains(trainer):
        return "too wide: make it narrower"

    def both(trainer):
        return trainer.step == 0, f"at step {trainer.step}"

    def raises(trainer):
        raise RuntimeError("no")

    own = [fine, says_nothing, wrong, explains, both, raises]
    report = [tuple(one) for one in sanity_checks(trainer_of(), own)][11:]
    assert report == [
        ("fine", True, ""),
        ("says_nothing", True, ""),
        ("wrong", False, "it returned False"),
        ("explains", False, "too wide: make it narrower"),
        ("both", True, "at step 0"),
        ("raises", False, "it raised RuntimeError: no"),
    ]


def test_an_own_check_may_train_and_the_next_one_begins_afresh():
    steps = []

    def trains(trainer):
        trainer.fit(steps=3)
        steps.append(trainer.step)

    trainer = trainer_of()
    assert sanity_checks(trainer, [trains, trains]).passed
    assert steps == [3, 3]
    assert trainer.step == 0


# Everything as it was


def everything(trainer):
    content = capture(trainer.training, Writer().copy)
    state = copy.deepcopy(content.state) | {"seconds": 0}
    gradients = [None if one.grad is None else one.grad.tolist() for one in trainer.model.parameters()]
    modes = [module.training for module in trainer.model.modules()]
    return repr((state, gradients, modes, {k: t.tolist() for f in content.tensors.values() for k, t in f.items()}))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_everything_is_as_it_was_and_nothing_was_written(error, tmp_path):
    seen = []

    class Seeing(Callback):
        def on_batch_end(self, trainer):
            seen.append(trainer.step)

    def raising(trainer):
        trainer.fit(steps=2)
        if error is not None:
            raise error

    trainer = trainer_of(train=DataLoader(TensorDataset(*data()), 12, shuffle=True))
    trainer.fit(steps=3)
    trainer.model.last.eval()
    trainer.callbacks = [Seeing(), Checkpoint(tmp_path)]
    before, callbacks, parts = everything(trainer), list(trainer.callbacks), dict(vars(trainer))
    if error is None:
        assert sanity_checks(trainer, [raising]).passed
    else:
        with pytest.raises(error):
            sanity_checks(trainer, [raising])
    assert everything(trainer) == before
    assert trainer.callbacks == callbacks
    assert all(vars(trainer)[name] is value for name, value in parts.items())
    assert trainer.epoch_open
    assert not seen
    assert not list(tmp_path.iterdir())


def test_the_training_afterwards_is_the_same_as_without_the_checks():
    def run(with_checks):
        torch.manual_seed(0)
        trainer = trainer_of(train=DataLoader(TensorDataset(*data()), 12, shuffle=True))
        trainer.fit(steps=2)
        if with_checks:
            sanity_checks(trainer)
        trainer.fit(epochs=2)
        return [one.tolist() for one in trainer.model.state_dict().values()], trainer.history["train_loss"]

    assert run(True) == run(False)


def test_fit_never_makes_them_unasked(monkeypatch):
    monkeypatch.setattr("ignition.trial.everything_restored", None)
    monkeypatch.setattr("ignition.checks.everything_restored", None)
    trainer_of().fit(epochs=1)


# What is given


@pytest.mark.parametrize("given", [3, nn.Linear(2, 2)])
def test_what_is_no_trainer_is_refused(given):
    with pytest.raises(ArgumentError, match="sanity_checks was given"):
        sanity_checks(given)


@pytest.mark.parametrize("checks", [print, [3], ["loss"]])
def test_checks_that_are_no_functions_are_refused(checks):
    with pytest.raises(ArgumentError, match="checks= was given"):
        sanity_checks(trainer_of(), checks)


def test_an_empty_loader_is_refused_by_its_name():
    with pytest.raises(BatchError, match="train_loader"):
        sanity_checks(trainer_of(train=[], eval_fn=None))
