"""What Ignition costs beside DDP by hand, and how both scale, on gloo processes of this machine.

    python benchmarks/processes.py                  # the cost on 2 processes, side by side; about two minutes
    python benchmarks/processes.py --curve          # on 1, 2 and 4 processes, with the parallel efficiency
    python benchmarks/processes.py --step weighed   # the same for steps that weigh the batches, and so on
    python benchmarks/processes.py --small          # beside a model that takes next to no time: what is added, in ms
    python benchmarks/processes.py --launches 5     # all of it so often, as one launch is not like another

Both trainings run in the same processes, a few steps of one and then of the other, again and again, so that whatever
else the machine does strikes both. Each has its own copy of a model that takes about 30 ms a step, the same data, and
takes the same steps; a launch has four such pairs, one after the other. Both do the same, too, or the figure would say
what a feature costs and not what Ignition does:

- ``plain``: zero_grad, backward and step, in the loop by hand and in train_fn. The mean over the processes.
- ``weighed``: the exact mean over all samples. By hand the processes tell one another the size of each batch, as
  `fit_on_batch` has them do (which is `optimize` without the norm).
- ``optimize``: not the same, but what `optimize` adds to a plain loop by hand: the exact mean, and the norm of the
  gradient, which it returns.

The figures are the ratio of the medians of the rounds, that of the processor time, which other work on the machine
hardly changes, and the median and the quarters of the rounds' own ratios of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from ignition import Trainer, crossentropy_loss, distributed, fit_on_batch, optimize

SIZE = 128, 512, 6  # samples a process and step, width and depth: 1.6 million parameters, 6.3 MB of gradients
SMALL = 4, 8, 1
STEPS = 5  # in a round
PAIRS = 4  # of models in a launch
KINDS = ("plain", "weighed", "optimize")


def now() -> torch.Tensor:
    """Seconds by the clock, and of the processor's time in this process."""
    return torch.tensor([perf_counter(), process_time()], dtype=torch.float64)


def make_model(width: int, depth: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def make_data(batch: int, width: int, steps: int, times: int = 10) -> Dataset:
    """An epoch of so many steps, each sample in it several times: what an epoch's end costs is not a step's."""
    count = steps * batch * max(distributed.world_size(), 1) // times
    samples = TensorDataset(torch.randn(count, width), torch.randint(10, (count,)))
    return Subset(samples, list(range(count)) * times)


class ByHand:
    """A loop with DDP as torch's own documentation writes it, which keeps a mean of the loss."""

    def __init__(self, model: nn.Module, data: Dataset, batch: int, weighs: bool) -> None:
        self.batch = batch
        self.model = DistributedDataParallel(model) if distributed.world_size() > 1 else model
        self.group = dist.new_group(backend="gloo") if weighs and distributed.world_size() > 1 else None
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.sampler = DistributedSampler(data, distributed.world_size(), distributed.rank(), seed=0)
        self.loader = DataLoader(data, batch, sampler=self.sampler)
        self.epoch, self.batches, self.total, self.count = 0, iter(()), 0.0, 0

    def train(self, steps: int) -> None:
        for x, y in islice(self.endless(), steps):
            loss = crossentropy_loss(self.model(x), y)
            self.optimizer.zero_grad()
            if self.group is None:
                loss.backward()
            else:
                self.weighed_backward(loss, len(x) / self.batch)
            self.optimizer.step()
            self.total, self.count = self.total + loss.item() * len(x), self.count + len(x)

    def weighed_backward(self, loss: torch.Tensor, share: float) -> None:
        """The gradient of the mean over all samples: the shares travel while backward runs."""
        shares = torch.tensor([share], dtype=torch.float64)
        work = dist.all_reduce(shares, group=self.group, async_op=True)
        (loss if share == 1 else loss * share).backward()
        work.wait()
        mean = shares.item() / distributed.world_size()
        if mean != 1:
            for parameter in self.model.parameters():
                parameter.grad /= mean

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
    """The same with a Trainer."""

    def __init__(self, model: nn.Module, data: Dataset, batch: int, kind: str) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def plain(model, x, y):
            loss = crossentropy_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss}

        def weighed(model, x, y):
            return fit_on_batch(model, x, y, crossentropy_loss, optimizer, metrics=["loss"])

        def optimized(model, x, y):
            loss = crossentropy_loss(model(x), y)
            optimize(loss, optimizer)
            return {"loss": loss}

        step = {"plain": plain, "weighed": weighed, "optimize": optimized}[kind]

        def train_fn(model, x, y):
            metrics = step(model, x, y)
            self.steps += 1
            if not self.steps % STEPS:
                self.end_round()
            return metrics

        loader = DataLoader(data, batch, shuffle=True)
        self.trainer = Trainer(model, optimizer, train_fn, loader, device="cpu", progress=False)
        self.other: ByHand | None = None
        self.rounds: list[tuple[float, ...]] = []
        self.steps, self.began = 0, now()

    def end_round(self) -> None:
        """The other training has its round: within one fit, as fits begin and end rarely.

        Called by the train function, as a callback would have a cost of its own; what is between two steps is in each
        round as often as a step.
        """
        ours = now() - self.began
        distributed.barrier()  # each round begins in all processes together
        begin = now()
        self.other.train(STEPS)
        self.rounds.append((*(now() - begin).tolist(), *ours.tolist()))
        distributed.barrier()
        self.began = now()

    def train(self, rounds: int, other: ByHand) -> None:
        self.other, self.began = other, now()
        self.trainer.fit(steps=rounds * STEPS)


def run(kind: str, size: tuple[int, int, int], rounds: int, file: Path) -> None:
    """In each of the processes, with one pair of models after another: where in memory one lies takes its time, too."""
    torch.set_num_threads(1)
    distributed.start()
    batch, width, depth = size
    torch.manual_seed(0)
    data = make_data(batch, width, steps=1000)
    kept, found = [], []
    for number in range(PAIRS):
        models = [make_model(width, depth) for _ in range(2)]
        if number % 2:
            models.reverse()
        by_hand = ByHand(models[0], data, batch, kind == "weighed")
        ours = WithIgnition(models[1], data, batch, kind)
        kept.append((by_hand, ours))  # the next ones lie elsewhere
        by_hand.train(STEPS)
        ours.train(max(rounds // PAIRS, 1) + 2, by_hand)
        found += ours.rounds[2:]
    if distributed.is_main():
        file.write_text(json.dumps(found))


def launch(kind: str, processes: int, rounds: int, small: bool) -> list[list[float]]:
    """The rounds of one training: seconds by hand and of the processor, and the same with Ignition."""
    file = Path(f".processes-{os.getpid()}.json").absolute()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, *(["--small"] if small else [])]
    command += ["--step", kind, "--rounds", str(rounds), "--file", file]
    try:
        subprocess.run([*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return json.loads(file.read_text())
    finally:
        file.unlink(missing_ok=True)


def figures_of(rounds: list[list[float]]) -> dict[str, float]:
    """Milliseconds of a step by hand and with Ignition, and what the second costs beside the first."""
    by_hand, by_hand_busy, ours, ours_busy = zip(*rounds, strict=True)
    low, middle, high = quantiles([100 * (b / a - 1) for a, b in zip(by_hand_busy, ours_busy, strict=True)], n=4)
    return {
        "by hand, ms": 1e3 * median(by_hand) / STEPS,
        "Ignition, ms": 1e3 * median(ours) / STEPS,
        "added, ms": 1e3 * (median(ours) - median(by_hand)) / STEPS,
        "cost, %": 100 * (median(ours) / median(by_hand) - 1),
        "of fastest rounds, %": 100 * (min(ours) / min(by_hand) - 1),
        "of processor time, %": 100 * (median(ours_busy) / median(by_hand_busy) - 1),
        "round by round, %": middle,
        "quarter below, %": low,
        "quarter above, %": high,
        "fastest with Ignition, ms": 1e3 * min(ours) / STEPS,
    }


def told(processes: int, figures: dict[str, float]) -> str:
    """A line of what was found."""
    return ", ".join([f"processes: {processes}", *(f"{name}: {value:.2f}" for name, value in figures.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Ignition beside DDP by hand.")
    parser.add_argument("--step", choices=KINDS, default="plain", help="how steps are taken (default: plain)")
    parser.add_argument("--rounds", type=int, default=200, help=f"of {STEPS} steps, in all pairs (default: 200)")
    parser.add_argument("--launches", type=int, default=1, help="of all processes, whose rounds are taken together")
    parser.add_argument("--small", action="store_true", help="beside a model that takes next to no time")
    parser.add_argument("--curve", action="store_true", help="on 1, 2 and 4 processes")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file is not None:
        size = SMALL if arguments.small else SIZE
        run(arguments.step, size, arguments.rounds, arguments.file)
        return
    rows = []
    for processes in (1, 2, 4) if arguments.curve else (2,):
        rounds: list[list[float]] = []
        for number in range(arguments.launches):
            of_one = launch(arguments.step, processes, arguments.rounds, arguments.small)
            rounds += of_one
            if arguments.launches > 1:
                found = figures_of(of_one)
                print(f"  launch {number + 1}: {told(processes, found)}", flush=True)
        rows.append((processes, figures_of(rounds)))
        print(told(*rows[-1]), flush=True)
    for processes, row in rows[1:]:
        efficiency = rows[0][1]["Ignition, ms"] / row["Ignition, ms"]
        best = rows[0][1]["fastest with Ignition, ms"] / row["fastest with Ignition, ms"]
        print(f"{processes} processes: parallel efficiency {efficiency:.0%} (of the fastest rounds {best:.0%})")


if __name__ == "__main__":
    main()
