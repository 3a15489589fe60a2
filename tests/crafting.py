"""Checkpoints as somebody would craft them who knows the format: with odd values, and the right checksums."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn

from ignition import Trainer, crossentropy_loss, optimize
from ignition.background import Writer
from ignition.callbacks import EMA, SWA, Checkpoint, CosineDecay, EarlyStopping, LRSchedule
from ignition.checkpoint import Content, read
from ignition.snapshot import capture

GENERATOR = torch.Generator().manual_seed(3)
BATCHES = [(torch.randn(6, 4, generator=GENERATOR), torch.arange(6) % 3) for _ in range(5)]
WRONG: tuple[Any, ...] = (None, "x", -1, 1e9, [], {}, "../../etc", [[1]], {"$": ["eval", "1"]})
DELETED = object()


class Measured(nn.Module):
    """A model with a metric in it, extra state, and a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head, self.mean, self.calls = nn.Linear(5, 3), torchmetrics.MeanMetric(), 0
        self.register_buffer("shift", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        self.mean.update(x.abs())
        self.shift += 0.01 * x.mean()
        return self.head(self.body(x)) + self.shift

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = int(state["calls"])


class Counter:
    """An object in ``trainer.state`` with a state of its own."""

    def __init__(self) -> None:
        self.count, self.seen = 0, torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"] + 0
        self.seen.copy_(state["seen"])


def gathering(folder: Path | None = None, seed: int = 0) -> Trainer[Any]:
    """A training of two optimizers, one of which gathers gradients over two batches, with much around it."""
    torch.manual_seed(seed)
    model, noise = Measured(), np.random.default_rng(seed)
    optimizers = {
        "body": torch.optim.Adam(
            [{"params": model.body[0].parameters()}, {"params": model.body[1].parameters()}], 0.01
        ),
        "head": torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9),
    }

    def train_fn(model: Any, x: Tensor, y: Tensor, scale: float) -> Any:
        state = trainer.state
        loss = crossentropy_loss(model(x + 0.01 * noise.random()) + state["hidden"], y) * scale
        loss.backward()
        state["hidden"] = 0.5 * state["hidden"] + 0.1 * torch.rand(3)
        state["counter"].count += 1
        for one in list(optimizers.values())[: 2 - state["counter"].count % 2]:
            one.step()
            one.zero_grad()
        return {"loss": loss}

    def eval_fn(model: Any, x: Tensor, y: Tensor) -> Any:
        return {"loss": crossentropy_loss(model(x), y)}

    trainer = Trainer(model, optimizers, train_fn, BATCHES, eval_fn, BATCHES[:2], progress=False, seed=seed)
    trainer.hyper = {"scale": 1.0}
    trainer.state = {"hidden": torch.zeros(3), "counter": Counter(), "names": ("a", None, {1: 2.5}), "bytes": b"ab"}
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizers["body"], 0.1, total_steps=100)
    trainer.callbacks = [
        EMA(0.8), SWA(start=1), CosineDecay("scale", 1.0, 0.1, 20), LRSchedule(scheduler, every="epoch"),
        EarlyStopping("val_loss", patience=50, restore_best=True),
        *([] if folder is None else [Checkpoint(folder, best="val_loss", every=3)]),
    ]  # fmt: skip
    return trainer


def scaled(folder: Path | None = None, seed: int = 0) -> Trainer[Any]:
    """A training in 16 bits with accumulation, which has a scale for its loss."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)

    def train_fn(model: Any, x: Tensor, y: Tensor) -> Any:
        loss = crossentropy_loss(model(x).float(), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model: Any, x: Tensor, y: Tensor) -> Any:
        return {"loss": crossentropy_loss(model(x).float(), y)}

    trainer = Trainer(
        model, optimizer, train_fn, BATCHES, eval_fn, BATCHES[:1], precision="fp16", accumulate=2, progress=False,
        device="cpu",
    )  # fmt: skip
    trainer.callbacks = [] if folder is None else [Checkpoint(folder)]
    return trainer


def fingerprint(trainer: Trainer[Any]) -> str:
    """All that a checkpoint would hold of a training, as one string."""
    return described(capture(trainer.training, Writer().copy))


def described(content: Content | None) -> str:
    assert content is not None
    state = {name: value for name, value in content.state.items() if name not in ("seconds", "best")}
    parts = [json.dumps(state, sort_keys=True)]
    for file in sorted(content.tensors):
        for name, tensor in sorted(content.tensors[file].items()):
            data = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            parts.append(f"{file} {name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}")
    return "\n".join(parts)


def saved(make: Any, folder: Path) -> Content:
    """A checkpoint from inside an epoch, with a record behind it; of `scaled`, from inside an evaluation."""
    trainer = make(folder / "runs")
    if make is scaled:
        trainer.on("eval_begin")(lambda trainer: trainer.save(folder / "a"))
        trainer.fit(epochs=1)
    else:
        trainer.fit(steps=7)
        trainer.save(folder / "a")
    return read(folder / "a")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in nested lists and dicts; of a long list of numbers, to its first and last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        long = len(value) > 8 and not any(isinstance(one, (list, dict)) for one in value)
        for index in [0, len(value) - 1] if long else range(len(value)):
            yield from places(value[index], (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def with_value(content: Content, path: tuple[Any, ...], value: Any) -> Content:
    """A copy of a checkpoint in which one value is another, or is missing."""
    state = copy.deepcopy(content.state)
    inner = at(state, path[:-1])
    if value is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = copy.deepcopy(value)
    return Content(state, content.tensors)


def with_tensor(content: Content, file: str, name: str, tensor: Tensor | None) -> Content:
    """A copy of a checkpoint in which one tensor is another, or is missing."""
    tensors = {kind: dict(those) for kind, those in content.tensors.items()}
    if tensor is None:
        del tensors[file][name]
    else:
        tensors[file][name] = tensor
    return Content(content.state, tensors)
