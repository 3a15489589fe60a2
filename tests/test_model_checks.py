"""Checks of the model: each fault, planted alone, fails its check and no other, with what to do."""

from __future__ import annotations

import math

import pytest
import torch
from checking import (
    CHANGE,
    EVALUATION,
    FIRST_LOSS,
    LEAK,
    OUTPUTS,
    STAY,
    Net,
    clock,  # noqa: F401
    data,
    fails_alone,
    failures,
    planted,
    skipped,
    trainer_of,
)
from torch import nn

from ignition import (
    TensorLoader,
    Trainer,
    crossentropy_loss,
    evaluate_on_batch,
    fit_on_batch,
    freeze,
    optimize,
    sanity_checks,
)


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


FAULTS = planted(globals())


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__.removeprefix("planted_"))
def test_a_fault_fails_its_check_alone_with_what_to_do(plant):
    fails_alone(plant)


@pytest.mark.parametrize(("factor", "message"), [(math.nan, "NaN or infinity"), (1e7, "outputs of up to")])
def test_bad_outputs_are_named(factor, message):
    class Scaled(Net):
        def forward(self, x):
            return factor * super().forward(x)

    assert message in failures(sanity_checks(trainer_of(Scaled())))[OUTPUTS]


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


def test_a_trained_model_is_not_held_to_the_loss_of_guessing():
    trainer = trainer_of()
    trainer.fit(epochs=1)
    assert skipped(sanity_checks(trainer))[FIRST_LOSS] == "skipped: it has been trained already, for 5 steps"
