"""An iterable of the user's own is read alike by all processes, as by one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from processes import run_processes
from small import read, write
from torch import nn

from ignition import Trainer, distributed, evaluate, optimize


class Shuffles:
    """A loader of the user's own, which draws its order as it begins; a noisy one draws for each batch, too."""

    noisy = False

    def __init__(self, permute, number, size, **kept):
        self.permute, self.number, self.size = permute, number, size
        vars(self).update(kept)

    def __iter__(self):
        places = self.permute()
        for begin in range(0, 24, self.size):
            number = self.number() if self.noisy else 1.0
            yield torch.full((self.size, 4), number), torch.tensor(places[begin : begin + self.size])

    def __len__(self):
        return 24 // self.size


def of_numpy(generator, size):
    return Shuffles(lambda: generator.permutation(24).tolist(), generator.random, size, generator=generator)


def of_torch(generator, size):
    return Shuffles(
        lambda: torch.randperm(24, generator=generator).tolist(),
        lambda: torch.rand(1, generator=generator).item(),
        size, generator=generator,
    )  # fmt: skip


LOADERS = {
    "torch": lambda size: of_torch(None, size),
    "numpy": lambda size: Shuffles(lambda: np.random.permutation(24).tolist(), np.random.rand, size),
    "random": lambda size: Shuffles(lambda: random.sample(range(24), 24), random.random, size),
    "one that it keeps": lambda size: of_numpy(np.random.default_rng(5), size),
    "one of torch that it keeps": lambda size: of_torch(torch.Generator().manual_seed(5), size),
    "one that it keeps, without a seed": lambda size: of_numpy(np.random.default_rng(), size),
}


def seen_by(make, size, noisy):
    """Which samples a process sees in the batches of two epochs; with noise the model draws, too."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    model, seen, loader = nn.Linear(4, 3), [], make(size)
    loader.noisy = noisy
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, places):
        seen.append(places.tolist())
        if noisy:  # in each process otherwise
            _ = torch.rand(distributed.rank() + 1), np.random.rand(), random.random()
        optimize(model(x).square().mean(), optimizer)
        return {"n": 1}

    trainer = Trainer(model, optimizer, train_fn, loader, progress=False, seed=7)
    trainer.fit(epochs=2)
    return seen


def seen_of_iterator(size):
    """The same of an iterator, which can be read once."""
    torch.manual_seed(3)
    seen = []
    loader = iter(LOADERS["torch"](size))
    trainer = Trainer(nn.Linear(4, 3), None, lambda model, x, y: seen.append(y.tolist()), loader, progress=False)
    trainer.fit(epochs=1)
    return seen


def read_all(folder):
    size = 8 // distributed.world_size()
    found = {f"{name}, {noisy}": seen_by(make, size, noisy) for name, make in LOADERS.items() for noisy in (0, 1)}
    drawn = LOADERS["one that it keeps"](size)
    means = [
        evaluate(nn.Identity(), lambda model, x, y: {"y": y.float().mean()}, drawn, max_steps=2)["y"] for _ in range(3)
    ]
    write(folder, [found, means, seen_of_iterator(size)])


@pytest.mark.slow
def test_whatever_it_draws_from_all_processes_have_one_order_and_that_of_one_process(tmp_path):
    run_processes(read_all, 2, tmp_path, folder=tmp_path)
    (first, means, once), (second, other_means, other_once) = read(tmp_path, 2)
    assert means == other_means
    assert len(set(means)) == 3
    assert sorted(place for batch in once + other_once for place in batch) == list(range(24))
    for name, make in LOADERS.items():
        for noisy in (0, 1):
            # A batch of theirs is half of one of one process.
            parts = first[f"{name}, {noisy}"], second[f"{name}, {noisy}"]
            batches = [one + other for one, other in zip(*parts, strict=True)]
            epochs = [[place for batch in batches[begin : begin + 3] for place in batch] for begin in (0, 3)]
            assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
            assert epochs[0] != epochs[1]
            if not noisy and "without a seed" not in name:
                assert batches == seen_by(make, 8, noisy)
