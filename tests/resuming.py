"""Scripts to be interrupted: all that a training goes on from, built anew by one call, and its fingerprint."""

from __future__ import annotations

import hashlib
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Sampler, WeightedRandomSampler, default_collate

from ignition import TensorLoader, Trainer, crossentropy_loss, evaluate_on_batch, freeze, optimize
from ignition.callbacks import EMA, SWA, Checkpoint, CosineDecay, EarlyStopping, LRSchedule, Warmup
from ignition.structure import named

SAMPLES, BATCH = 22, 6  # four batches, the last of them ragged


class Killed(BaseException):
    """Ends a run in the middle, as nothing that the library catches would."""


def small_training(kill: int | None) -> tuple[Any, Any, Any]:
    """A network with dropout, its optimizer, and a train function that ends the run in its `kill`-th call."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    steps = []

    def train_fn(model: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        steps.append(1)
        if len(steps) == kill:
            raise Killed
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    return model, optimizer, train_fn


class Data(Dataset):
    """Points of two classes, with noise from the named generators each time one is loaded."""

    def __init__(self, noise=(), samples=SAMPLES, together=False):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(samples, 4, generator=generator)
        self.y = (self.x[:, 0] + self.x[:, 1] > 0).long()
        self.noise = noise
        self.loaded = []
        if together:
            self.__getitems__ = lambda indices: [self[index] for index in indices]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        self.loaded.append(int(index))
        x = self.x[index]
        if "torch" in self.noise:
            x = x + 0.1 * torch.randn(4)
        if "numpy" in self.noise:
            x = x + 0.1 * np.random.rand()
        if "python" in self.noise:
            x = x + 0.1 * random.random()
        return x, self.y[index]


def noisy_collate(samples):
    x, y = default_collate(samples)
    return x + 0.1 * torch.randn(()) + 0.1 * np.random.rand() + 0.1 * random.random(), y


class Backwards(Sampler):
    """A sampler of the user's: from the end, with two places exchanged that numpy's generator chooses."""

    def __iter__(self):
        order = list(reversed(range(SAMPLES)))
        one, other = np.random.randint(SAMPLES, size=2)
        order[one], order[other] = order[other], order[one]
        return iter(order)

    def __len__(self):
        return SAMPLES


class OfOneSize:
    """A batch sampler of the user's: batches whose sizes Python's generator chooses, drawn as they are asked for."""

    def __iter__(self):
        for first in range(0, SAMPLES, BATCH):
            yield random.sample(range(SAMPLES), random.randint(2, min(BATCH, SAMPLES - first)))

    def __len__(self):
        return -(-SAMPLES // BATCH)


class Epochs(Sampler):
    """A sampler that is told the epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(np.random.RandomState(self.epoch).permutation(SAMPLES).tolist())

    def __len__(self):
        return SAMPLES


class Counter:
    """An object in ``trainer.state`` with a state of its own."""

    def __init__(self):
        self.count, self.seen = 0, {}

    def state_dict(self):
        return {"count": self.count, "seen": self.seen}

    def load_state_dict(self, state):
        self.count, self.seen = state["count"], state["seen"]


@dataclass(frozen=True)
class Script:
    """A script: what it trains, on what, and with what around it."""

    kind: str = "classifier"  # gan, lbfgs, carried, frozen
    dropout: float = 0.2
    norm: bool = True
    noise: tuple[str, ...] = ()
    data: str = "shuffled"
    workers: int = 0
    persistent: bool = False
    prefetch: int | None = None
    accumulate: int = 1
    schedule: str = ""
    ema: bool = False
    swa: bool = False
    stopping: bool = False
    optimizer: str = "adam"
    precision: str = "fp32"
    clip: float | None = None
    every: str | int = 1
    best: str | None = None
    keep: int = 2
    seed: int | None = None
    epochs: int | None = 3
    steps: int | None = None
    eval_every: int | None = None
    progress: bool = False

    def change(self, **changes: Any) -> Script:
        return replace(self, **changes)


def loader_of(script: Script) -> Any:
    data = Data(script.noise, together="together" in script.noise)
    options: dict[str, Any] = {"num_workers": script.workers}
    if script.workers:
        options |= {"persistent_workers": script.persistent, "prefetch_factor": script.prefetch}
    if "collate" in script.noise:
        options["collate_fn"] = noisy_collate
    weighted = WeightedRandomSampler([1.0 + index for index in range(SAMPLES)], SAMPLES)
    match script.data:
        case "shuffled":
            return DataLoader(data, BATCH, shuffle=True, **options)
        case "own generator":
            return DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(5), **options)
        case "ordered":
            return DataLoader(data, BATCH, **options)
        case "dropping":
            return DataLoader(data, BATCH, shuffle=True, drop_last=True, **options)
        case "sampler":
            return DataLoader(data, BATCH, sampler=Backwards(), **options)
        case "epochs":
            return DataLoader(data, BATCH, sampler=Epochs(), **options)
        case "batch sampler":
            return DataLoader(data, batch_sampler=OfOneSize(), **options)
        case "weighted":
            return DataLoader(data, BATCH, sampler=weighted, **options)
        case "samples":
            batches = [(data.x[place : place + 4], data.y[place : place + 4]) for place in range(0, 20, 4)]
            return DataLoader(batches, batch_size=None, shuffle=True, **options)
        case "tensors":
            return TensorLoader(data.x, data.y, batch_size=BATCH, shuffle=True)
        case "list":
            return [(data.x[place : place + BATCH], data.y[place : place + BATCH]) for place in range(0, 22, BATCH)]
    raise ValueError(script.data)


def network(script: Script, inputs: int = 4, outputs: int = 2) -> nn.Sequential:
    norm = nn.BatchNorm1d(6) if script.norm else nn.Identity()
    return nn.Sequential(nn.Linear(inputs, 6), norm, nn.Dropout(script.dropout), nn.ReLU(), nn.Linear(6, outputs))


def optimizer_of(script: Script, parameters: Any) -> Any:
    match script.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=0.02, amsgrad=True)
        case "lbfgs":
            return torch.optim.LBFGS(parameters, lr=0.5, max_iter=3, history_size=4, line_search_fn="strong_wolfe")
    return torch.optim.Adam(parameters, lr=0.02)


class Ticker:
    """Counts the places at which a run may be killed, and kills it at one of them."""

    def __init__(self, at: int | None = None, by: int | None = None):
        self.count, self.at, self.by = 0, at, by

    def tick(self) -> None:
        self.count += 1
        if self.count == self.at:
            if self.by is None:
                raise Killed
            signal.raise_signal(self.by)


def build(script: Script, folder: Path | None, ticker: Ticker | None = None) -> Trainer[Any]:
    """Everything from the start, as a new process would make it. Its places to be killed: each call of a function."""
    tick = (ticker or Ticker()).tick
    random.seed(11)
    np.random.seed(11)
    torch.manual_seed(11)
    model: Any = network(script)
    if script.kind == "frozen":
        freeze(model[0])
        freeze(model[1])
    if script.kind == "gan":
        model = {"G": network(script), "D": network(script, outputs=1)}
        optimizer: Any = {name: optimizer_of(script, one.parameters()) for name, one in model.items()}
    else:
        optimizer = optimizer_of(script, [one for one in model.parameters() if one.requires_grad])

    def train_classifier(model, x, y, **hyper):
        tick()
        loss = crossentropy_loss(model(x), y) * hyper.get("scale", 1.0)
        optimize(loss, optimizer)
        return {"loss": loss, "noise": torch.rand(()).item()}

    def train_gan(models, x, y):
        tick()
        generator, critic = models["G"], models["D"]
        fake = nn.functional.pad(generator(torch.randn(len(x), 4)), (0, 2))
        d_loss = (critic(x) - 1).pow(2).mean() + critic(fake.detach()).pow(2).mean()
        optimize(d_loss, optimizer["D"])
        g_loss = (critic(fake) - 1).pow(2).mean()
        optimize(g_loss, optimizer["G"])
        return {"g_loss": g_loss, "d_loss": d_loss}

    def evaluate_gan(models, x, y):
        tick()
        return {"loss": models["D"](x).pow(2).mean(), "noise": models["G"](torch.randn(len(x), 4)).mean()}

    def train_by_closure(model, x, y):
        tick()

        def closure():
            optimizer.zero_grad()
            loss = crossentropy_loss(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure)

    def train_carrying(model, x, y):
        tick()
        state = trainer.state
        outputs = model(x + 0.1 * state["hidden"])
        loss = crossentropy_loss(outputs, y)
        optimize(loss, optimizer)
        state["hidden"] = (0.5 * state["hidden"] + x.mean(0)).detach()
        state["queue"][state["pointer"] % 3] = x[0]
        state["pointer"] += 1
        state["last"] = (len(x), {"labels": tuple(y.tolist()), 1: np.float32(x.mean())})
        state["counter"].count += len(x)
        state["counter"].seen[state["pointer"]] = loss.item()
        return {"loss": loss, "queue": state["queue"].sum()}

    def evaluate_classifier(model, x, y):
        tick()
        return {**evaluate_on_batch(model, x, y), "noise": random.random()}

    functions = {"gan": train_gan, "lbfgs": train_by_closure, "carried": train_carrying}
    trainer = Trainer(
        model, optimizer, functions.get(script.kind, train_classifier), loader_of(script),
        evaluate_gan if script.kind == "gan" else evaluate_classifier, DataLoader(Data(samples=10), BATCH),
        device="cpu", precision=script.precision, accumulate=script.accumulate, clip_norm=script.clip, seed=script.seed,
        progress=script.progress,
    )  # fmt: skip
    if script.kind == "carried":
        trainer.state = {"hidden": torch.zeros(4), "queue": torch.zeros(3, 4), "pointer": 0, "counter": Counter()}
    callbacks: list[Any] = []
    if script.ema:
        callbacks.append(EMA(0.8))
    if script.swa:
        callbacks.append(SWA(start=2))
    if script.stopping:
        callbacks.append(EarlyStopping("val_noise", patience=2, mode="max", restore_best=True))
    match script.schedule:
        case "step":
            callbacks.append(LRSchedule(StepLR(optimizer, 3, gamma=0.5), every="step"))
        case "one cycle":
            callbacks.append(LRSchedule(OneCycleLR(optimizer, 0.1, total_steps=40), every="step"))
        case "plateau":
            scheduler = ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
            callbacks.append(LRSchedule(scheduler, every="record", monitor="val_noise"))
        case "hyper":
            trainer.hyper = {"scale": 1.0}
            callbacks.append(CosineDecay("scale", 1.0, 0.1, 20))
        case "warmup":
            callbacks.append(Warmup(4, then=CosineDecay("lr", 0.05, 0.001, 20)))
    if folder is not None:
        callbacks.append(Checkpoint(folder, every=script.every, keep=script.keep, best=script.best))
    trainer.callbacks = callbacks
    return trainer


def run(script: Script, folder: Path | None, ticker: Ticker | None = None, resume: bool = True) -> Trainer[Any]:
    """The script from its first line to its last."""
    trainer = build(script, folder, ticker)
    trainer.fit(epochs=script.epochs, steps=script.steps, eval_every=script.eval_every, resume=resume)
    return trainer


def fingerprint(trainer: Trainer[Any]) -> dict[str, str]:
    """What must be equal after an interruption: for each part the sha256 of all its bytes."""
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in trainer.history.rows]
    memories = {
        f"{type(callback).__name__}": callback.state_dict()
        for callback in trainer.callbacks
        if not isinstance(callback, Checkpoint)
    }
    parts = {
        "model": {name: model.state_dict() for name, model in named(trainer.model).items()},
        "trained": [p.requires_grad for model in named(trainer.model).values() for p in model.parameters()],
        "optimizer": {name: one.state_dict() for name, one in named(trainer.optimizer).items()},
        "averages": {
            name: [model.state_dict() for model in named(models).values()] for name, models in trainer.averaged.items()
        },
        "callbacks": memories,
        "state": {name: getattr(value, "__dict__", value) for name, value in trainer.state.items()},
        "hyper": dict(trainer.hyper),
        "history": rows,
        "columns": [list(row) for row in rows],  # in their order, which the digest of a dict leaves out
        "place": [trainer.epoch, trainer.step, trainer.updates, trainer.epoch_open, trainer.history.epochs],
        "stop": trainer.stop_reason,
        "seed": trainer.seed,
        "generators": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
    }
    return {name: _digest(part) for name, part in parts.items()}


def differences(trainer: Trainer[Any], expected: dict[str, str]) -> list[str]:
    """The names of the parts that are not as they were in the uninterrupted run."""
    found = fingerprint(trainer)
    return [name for name in expected if found[name] != expected[name]]


def _digest(value: Any) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, DTensor):
            value = value.to_local()  # the rows of this process
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, dict):
            digest.update(b"{")
            for key in sorted(value, key=repr):
                add(key)
                add(value[key])
            digest.update(b"}")
        elif isinstance(value, (list, tuple)):
            digest.update(type(value).__name__.encode())
            for item in value:
                add(item)
            digest.update(b")")
        else:
            digest.update(f"{type(value).__name__}{value!r},".encode())

    add(value)
    return digest.hexdigest()
