"""What compile="step" gains on a GPU, beside the loop written by hand and Ignition without it.

    python benchmarks/step_graphs.py

All on one GPU, in one process, in turn and again in each round: a ratio is that of two times of one round, each over
some hundred steps that are waited for at their end alone. Data comes from the GPU's own memory.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch
from torch import nn

from ignition import TensorLoader, Trainer, crossentropy_loss, fit_on_batch

BATCH, STEPS, ROUNDS = 32, 300, 7


class Attention(nn.Module):
    """Two small layers of a transformer over sequences of 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(1, 32)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True) for _ in range(2))
        self.out = nn.Linear(32, 4)

    def forward(self, x):
        hidden = self.into(x.unsqueeze(-1))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.out(hidden.mean(dim=1))


def convolutional() -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 4, 4))]
    for inner, outer in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(16, 4),
    "three layers": lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)),
    "convolutional": convolutional,
    "transformer": Attention,
    "wide": lambda: nn.Sequential(nn.Linear(16, 8192), nn.ReLU(), nn.Linear(8192, 8192), nn.ReLU(), nn.Linear(8192, 4)),
}


class ByHand:
    """The loop of torch's tutorials, with a mean of loss and accuracy that waits for nothing."""

    def __init__(self, model: nn.Module, loader: TensorLoader) -> None:
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch(self) -> None:
        loss_sum, acc_sum = torch.zeros((), device="cuda"), torch.zeros((), device="cuda")
        for x, y in self.loader:
            outputs = self.model(x)
            loss = nn.functional.cross_entropy(outputs, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(x)
            acc_sum += (outputs.detach().argmax(1) == y).sum()
        torch.cuda.synchronize()


class WithIgnition:
    """The same by a Trainer; one epoch after the other of a single fit, so that it captures once."""

    def __init__(self, model: nn.Module, loader: TensorLoader, compile: bool | str) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def train_fn(model, x, y):
            return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

        self.trainer = Trainer(model, optimizer, train_fn, loader, compile=compile, progress=False)

    def epochs(self, count: int) -> list[float]:
        """Seconds of each epoch."""
        started: list[float] = []

        @self.trainer.on("epoch_begin")
        def note(trainer) -> None:
            torch.cuda.synchronize()
            started.append(perf_counter())

        self.trainer.fit(epochs=count)
        torch.cuda.synchronize()
        started.append(perf_counter())
        return [after - before for before, after in pairwise(started)]


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("CUDA graphs need a GPU of CUDA's; none is here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}")
    print(
        f"batches of {BATCH}, Adam, loss and accuracy; {STEPS} steps an epoch, {ROUNDS} epochs; medians (min to max)\n"
    )
    print('| model | by hand, us a step | Ignition | compile="step" | times as fast as by hand |')
    print("| --- | --- | --- | --- | --- |")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        x, y = torch.randn(BATCH * STEPS, 16, device="cuda"), torch.randint(4, (BATCH * STEPS,), device="cuda")
        loader = TensorLoader(x, y, batch_size=BATCH, shuffle=True)
        by_hand = ByHand(make().cuda(), loader)
        by_hand.epoch()
        hand: list[float] = []
        for _ in range(ROUNDS):
            started = perf_counter()
            by_hand.epoch()
            hand.append(perf_counter() - started)
        eager = WithIgnition(make().cuda(), loader, False).epochs(ROUNDS + 1)[1:]
        graphs = WithIgnition(make().cuda(), loader, "step").epochs(ROUNDS + 1)[1:]
        ratios = [one / other for one, other in zip(hand, graphs, strict=True)]
        columns = [1e6 * median(times) / STEPS for times in (hand, eager, graphs)]
        print(
            f"| {name} | "
            + " | ".join(f"{one:.0f}" for one in columns)
            + f" | {median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |"
        )


if __name__ == "__main__":
    main()
