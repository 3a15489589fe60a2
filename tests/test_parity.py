"""A fit against the loop that one would write by hand: the same bits in weights, means and generators."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ignition import Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch

EPOCHS = 3
SAMPLES, TEST_SAMPLES, BATCH = 37, 23, 8  # a last batch of 5, and of 7


class Noisy(Dataset):
    """Three classes of points (6,), with random augmentation from each of the three global generators."""

    def __init__(self, samples):
        generator = torch.Generator().manual_seed(samples)
        self.x, self.y = torch.randn(samples, 6, generator=generator), torch.arange(samples) % 3

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index] * random.random() + float(np.random.rand()) * torch.rand(6), self.y[index]


def network():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def loaders():
    return DataLoader(Noisy(SAMPLES), BATCH, shuffle=True), DataLoader(Noisy(TEST_SAMPLES), BATCH, shuffle=True)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def outcome(modules, optimizers, means):
    """All that has to be the same: every bit that was trained, the means, and where the generators are."""
    return {
        "weights": [[tensor.tolist() for tensor in module.state_dict().values()] for module in modules],
        "moments": [
            [[torch.as_tensor(part).tolist() for part in entry.values()] for entry in optimizer.state.values()]
            for optimizer in optimizers
        ],
        "means": means,
        "generators": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
    }


def mean(pairs):
    """The mean of ``(value, samples)`` pairs, summed in their order."""
    total = samples = 0
    for value, size in pairs:
        total += value * size
        samples += size
    return total / samples


def train_by_hand(seed, evaluated):
    seed_all(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train_loader, test_loader = loaders()
    means = []
    for _ in range(EPOCHS):
        model.train()
        losses, accuracies = [], []
        for x, y in train_loader:
            optimizer.zero_grad()
            outputs = model(x)
            loss = functional.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            losses.append((loss.item(), len(x)))
            accuracies.append(((outputs.argmax(1) == y).float().mean().item(), len(x)))
        means.append([mean(losses), mean(accuracies)])
        if evaluated:
            model.eval()
            losses = []
            with torch.no_grad():
                for x, y in test_loader:
                    losses.append((functional.cross_entropy(model(x), y).item(), len(x)))
            means[-1].append(mean(losses))
    return outcome([model], [optimizer], means)


def train_with_ignition(seed, evaluated, builtin):
    seed_all(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train_loader, test_loader = loaders()

    def own_train_fn(model, x, y):
        optimizer.zero_grad()
        outputs = model(x)
        loss = functional.cross_entropy(outputs, y)
        loss.backward()
        optimizer.step()
        return {"loss": loss, "acc": (outputs.argmax(1) == y).float().mean()}

    def builtin_train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def own_eval_fn(model, x, y):
        return functional.cross_entropy(model(x), y)

    def builtin_eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y)

    train_fn, eval_fn = (builtin_train_fn, builtin_eval_fn) if builtin else (own_train_fn, own_eval_fn)
    evaluation = (eval_fn, test_loader) if evaluated else ()
    trainer = Trainer(model, optimizer, train_fn, train_loader, *evaluation, device="cpu", progress=False)
    history = trainer.fit(epochs=EPOCHS)
    columns = ["train_loss", "train_acc", "val_loss"][: 3 if evaluated else 2]
    return outcome([model], [optimizer], [list(row) for row in zip(*(history[name] for name in columns), strict=True)])


@pytest.mark.parametrize("builtin", [True, False], ids=["fit_on_batch", "own function"])
@pytest.mark.parametrize("evaluated", [True, False], ids=["with evaluation", "without"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fit_equals_the_loop_written_by_hand(seed, evaluated, builtin):
    assert train_with_ignition(seed, evaluated, builtin) == train_by_hand(seed, evaluated)


def test_another_seed_gives_another_result():
    assert train_by_hand(0, True) != train_by_hand(1, True)


def adversaries():
    generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    discriminator = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))
    return generator, discriminator, [torch.optim.Adam(net.parameters(), 0.01) for net in (generator, discriminator)]


def gan_step(generator, discriminator, optimizers, real):
    """One step of a GAN with plain calls; returns both losses."""
    fake = generator(torch.randn(len(real), 2))
    optimizers[1].zero_grad()
    loss_d = functional.softplus(-discriminator(real)).mean() + functional.softplus(discriminator(fake.detach())).mean()
    loss_d.backward()
    optimizers[1].step()
    optimizers[0].zero_grad()
    loss_g = functional.softplus(-discriminator(fake)).mean()
    loss_g.backward()
    optimizers[0].step()
    return loss_g, loss_d


def gan_by_hand(seed):
    seed_all(seed)
    generator, discriminator, optimizers = adversaries()
    loader, _ = loaders()
    means = []
    for _ in range(EPOCHS):
        generator.train()
        discriminator.train()
        losses = []
        for x, _ in loader:
            loss_g, loss_d = gan_step(generator, discriminator, optimizers, x)
            losses.append((loss_g.item(), loss_d.item(), len(x)))
        means.append([mean((g, size) for g, _, size in losses), mean((d, size) for _, d, size in losses)])
    return outcome([generator, discriminator], optimizers, means)


def gan_with_ignition(seed):
    seed_all(seed)
    generator, discriminator, optimizers = adversaries()

    def train_fn(models, x, y):
        loss_g, loss_d = gan_step(models["G"], models["D"], optimizers, x)
        return {"g": loss_g, "d": loss_d}

    trainer = Trainer(
        {"G": generator, "D": discriminator},
        {"G": optimizers[0], "D": optimizers[1]},
        train_fn,
        loaders()[0],
        device="cpu",
        progress=False,
    )
    history = trainer.fit(epochs=EPOCHS)
    assert trainer.step == EPOCHS * -(-SAMPLES // BATCH)  # both optimizers in one step
    means = [list(row) for row in zip(history["train_g"], history["train_d"], strict=True)]
    return outcome([generator, discriminator], optimizers, means)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_gan_with_two_optimizers_in_one_step_equals_its_loop_written_by_hand(seed):
    assert gan_with_ignition(seed) == gan_by_hand(seed)


def test_fits_that_stop_anywhere_end_where_one_fit_ends():
    def train(*fits):
        seed_all(3)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def train_fn(model, x, y):
            return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

        trainer = Trainer(model, optimizer, train_fn, loaders()[0], device="cpu", progress=False)
        for goal in fits:
            trainer.fit(**goal)
        return outcome([model], [optimizer], trainer.history["train_loss"])

    whole = train({"epochs": EPOCHS})
    assert train({"steps": 2}, {"steps": 3}, {"steps": 1}, {"epochs": 1}, {"epochs": 1}) == whole
