"""What Ignition costs beside DDP by hand, and how both scale, on gloo processes of this machine.

    python benchmarks/processes.py            # the cost on 2 processes, side by side; about two minutes
    python benchmarks/processes.py --curve    # the parallel efficiency on 1, 2 and 4 processes too

Both trainings run in the same processes, a few steps of one and then of the other, again and again, so that whatever
else the machine does strikes both. Each has its own copy of a model that takes about 30 ms a step, the same data, and
takes the same steps. The figures are the ratio of the medians of the rounds, and that of the processor time, which
other work on the machine hardly changes; the spread is that of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ignition import Trainer, crossentropy_loss, distributed, optimize

BATCH, WIDTH, LAYERS = 128, 512, 6  # a process; 1.6 million parameters, 6.3 MB of gradients
STEPS = 10  # in a round


def now() -> torch.Tensor:
    """Seconds by the clock, and of the processor's time in this process."""
    return torch.tensor([perf_counter(), process_time()], dtype=torch.float64)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def make_data(steps: int) -> TensorDataset:
    count = steps * BATCH * max(distributed.world_size(), 1)
    return TensorDataset(torch.randn(count, WIDTH), torch.randint(10, (count,)))


class ByHand:
    """A loop with DDP as torch's own documentation writes it, which keeps a mean of the loss."""

    def __init__(self, model: nn.Module, data: TensorDataset) -> None:
        self.model = DistributedDataParallel(model) if distributed.world_size() > 1 else model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.sampler = DistributedSampler(data, distributed.world_size(), distributed.rank(), seed=0)
        self.loader = DataLoader(data, BATCH, sampler=self.sampler)
        self.epoch, self.batches, self.total, self.count = 0, iter(()), 0.0, 0

    def train(self, steps: int) -> None:
        for x, y in islice(self.endless(), steps):
            loss = crossentropy_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.total, self.count = self.total + loss.item() * len(x), self.count + len(x)

    def endless(self):
        while True:
            batch = next(self.batches, None)
            if batch is None:
                self.epoch += 1
                self.sampler.set_epoch(self.epoch)
                self.batches = iter(self.loader)
            else:
                yield batch


class WithIgnition:
    """The same with a Trainer, by `optimize`, which weighs the batches of the processes."""

    def __init__(self, model: nn.Module, data: TensorDataset) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def train_fn(model, x, y):
            loss = crossentropy_loss(model(x), y)
            optimize(loss, optimizer)
            return {"loss": loss}

        loader = DataLoader(data, BATCH, shuffle=True)
        self.trainer = Trainer(model, optimizer, train_fn, loader, device="cpu", seed=0, progress=False)
        self.other: ByHand | None = None
        self.rounds: list[tuple[float, ...]] = []
        self.trainer.on("step_end")(self.count)
        self.began = now()

    def count(self, trainer: Trainer) -> None:
        """At the end of each round the other training has its own: within one fit, as fits begin and end rarely."""
        if trainer.step % STEPS:
            return
        middle = now()
        self.other.train(STEPS)
        end = now()
        self.rounds.append((*(end - middle).tolist(), *(middle - self.began).tolist()))
        distributed.barrier()  # both rounds begin together
        self.began = now()

    def train(self, rounds: int, other: ByHand) -> None:
        self.other, self.began = other, now()
        self.trainer.fit(steps=rounds * STEPS)


def run(rounds: int, file: Path) -> None:
    """In each of the processes."""
    torch.set_num_threads(1)
    distributed.start()
    model, data = make_model(), make_data(steps=50)
    by_hand, ours = ByHand(copy.deepcopy(model), data), WithIgnition(model, data)
    by_hand.train(STEPS)
    ours.train(rounds + 2, by_hand)
    if distributed.is_main():
        file.write_text(json.dumps(ours.rounds[2:]))


def measure(processes: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a step by hand and with Ignition, and what the second costs beside the first, in percent."""
    file = Path(f".processes-{os.getpid()}.json").absolute()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--rounds", str(rounds), "--file", file]
    try:
        subprocess.run([*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        found = json.loads(file.read_text())
    finally:
        file.unlink(missing_ok=True)
    by_hand, by_hand_busy, ours, ours_busy = zip(*found, strict=True)
    low, _, high = quantiles([100 * (b / a - 1) for a, b in zip(by_hand, ours, strict=True)], n=4)
    return {
        "processes": processes,
        "by hand, ms": 1e3 * median(by_hand) / STEPS,
        "Ignition, ms": 1e3 * median(ours) / STEPS,
        "cost of medians, %": 100 * (median(ours) / median(by_hand) - 1),
        "of processor time, %": 100 * (median(ours_busy) / median(by_hand_busy) - 1),
        "of fastest rounds, %": 100 * (min(ours) / min(by_hand) - 1),
        "quarter below, %": low,
        "quarter above, %": high,
        "fastest with Ignition, ms": 1e3 * min(ours) / STEPS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Ignition beside DDP by hand.")
    parser.add_argument("--rounds", type=int, default=100, help=f"of {STEPS} steps each (default: 100)")
    parser.add_argument("--curve", action="store_true", help="on 1, 2 and 4 processes")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file is not None:
        run(arguments.rounds, arguments.file)
        return
    rows = [measure(processes, arguments.rounds) for processes in ((1, 2, 4) if arguments.curve else (2,))]
    for row in rows:
        print(
            ", ".join(
                f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}"
                for name, value in row.items()
            )
        )
    for row in rows[1:]:
        efficiency = rows[0]["Ignition, ms"] / row["Ignition, ms"]
        best = rows[0]["fastest with Ignition, ms"] / row["fastest with Ignition, ms"]
        print(f"{row['processes']} processes: parallel efficiency {efficiency:.0%} (of the fastest rounds {best:.0%})")


if __name__ == "__main__":
    main()
