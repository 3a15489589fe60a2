"""Gradients that a train function gathers over several calls by itself come back after a kill between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ignition import TensorLoader, Trainer, crossentropy_loss, fit_on_batch, freeze
from ignition.callbacks import Checkpoint

STEPS = 14  # of two epochs


class Stop(Exception):
    """The end of a run that is to be taken up."""


def build(folder, kind, to_none):
    torch.manual_seed(0)
    models = {"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}
    optimizers = {name: torch.optim.AdamW(model.parameters(), 0.01) for name, model in models.items()}

    def gathers(models, x, y):
        loss = crossentropy_loss(models["a"](x) + models["b"](x), y) / 3
        loss.backward()
        for name, every in (("a", 3), ("b", 2)):
            if (trainer.step + 1) % every == 0:
                optimizers[name].step()
                optimizers[name].zero_grad(set_to_none=to_none)
        return {"loss": loss}

    def steps_first(models, x, y):
        for one in optimizers.values():
            one.step()
            one.zero_grad(set_to_none=to_none)
        loss = crossentropy_loss(models["a"](x) + models["b"](x), y)
        loss.backward()
        return {"loss": loss}

    def steps_each_time(models, x, y):
        for one in optimizers.values():
            one.zero_grad(set_to_none=to_none)
        loss = crossentropy_loss(models["a"](x) + models["b"](x), y)
        loss.backward()
        for one in optimizers.values():
            one.step()
        if trainer.step == 2:
            freeze(models["b"])  # whose weight decay goes on where its gradient is zero and not None
        return {"loss": loss}

    x, y = torch.randn(28, 4), torch.randint(3, (28,))
    train_fn = {"gathers": gathers, "steps first": steps_first, "steps each time": steps_each_time}[kind]
    loader = TensorLoader(x, y, batch_size=4, shuffle=True)
    trainer = Trainer(models, optimizers, train_fn, loader, device="cpu", seed=0, progress=False)
    trainer.callbacks = [Checkpoint(folder, every=1, keep=1)]
    return trainer


def weights(trainer):
    return [parameter.tolist() for model in trainer.model.values() for parameter in model.parameters()]


@pytest.mark.slow
@pytest.mark.fault("ended between calls that gather gradients by hand", "Equal 1")
@pytest.mark.filterwarnings("ignore:.*took no step")
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("kind", ["gathers", "steps first", "steps each time"])
@pytest.mark.parametrize(
    "cut", [pytest.param(cut, marks=() if cut == 5 else pytest.mark.slow) for cut in range(1, STEPS, 2)]
)
def test_a_run_that_is_taken_up_between_two_calls_ends_in_the_same_bits(tmp_path, kind, to_none, cut):
    whole = build(tmp_path / "whole", kind, to_none)
    whole.fit(epochs=2)
    assert whole.step == STEPS
    stopped = build(tmp_path / "cut", kind, to_none)

    @stopped.on("batch_begin")
    def stop(trainer):
        if trainer.step == cut:
            raise Stop

    with pytest.raises(Stop):
        stopped.fit(epochs=2)
    again = build(tmp_path / "cut", kind, to_none)
    again.fit(epochs=2, resume=True)
    assert again.step == STEPS
    assert weights(again) == weights(whole)


def gradients_kept(trainer):
    names, unused = trainer.training.unused_gradients.of(trainer.model.named_parameters())
    return names, list(unused)


def plain(folder=None, known=True):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    batches = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))] * 3
    trainer = Trainer(model, optimizer if known else None, train_fn, batches, device="cpu", progress=False)
    trainer.callbacks = [] if folder is None else [Checkpoint(folder)]
    return trainer


def test_what_a_step_has_used_is_noted_and_not_kept(tmp_path):
    trainer = plain(tmp_path)
    assert gradients_kept(trainer) == ([], [])
    trainer.fit(epochs=1)
    assert gradients_kept(trainer) == (["weight", "bias"], [])
    assert not trainer.optimizer._optimizer_step_post_hooks  # nobody looks on any longer


@pytest.mark.filterwarnings("ignore::ignition.errors.IgnitionWarning")
@pytest.mark.parametrize("known", [True, False])
def test_where_nobody_has_looked_on_all_gradients_are_kept(known):
    trainer = plain(known=known)
    trainer.fit(epochs=1)
    assert gradients_kept(trainer) == (["weight", "bias"], ["weight", "bias"])


def test_sparse_gradients_are_passed_over():
    trainer = plain()
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    assert trainer.training.unused_gradients.of(embedding.named_parameters()) == ([], {})
