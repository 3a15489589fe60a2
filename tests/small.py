"""The small things that the tests of many processes train: each process makes them anew, and they are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ignition import distributed


def samples(count: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``(count, 4)`` and labels ``(count,)`` of 3 classes."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def loader(count: int = 21, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*samples(count)), batch_size, **options)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class InOrder(Sampler[int]):
    """A sampler of the user's, whose word for its length is not sure."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))

    def __len__(self) -> int:
        return self.size


def values(model: nn.Module) -> list[float]:
    """All parameters as one list."""
    return torch.cat([one.detach().reshape(-1) for one in model.parameters()]).tolist()


def raised(call: Any) -> str:
    """The kind and the first line of what a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return "nothing"


def write(folder: str | Path, result: Any) -> None:
    """Leaves the result of this process for the test."""
    Path(folder, f"result-{distributed.rank()}.json").write_text(json.dumps(result))


def read(folder: Path, count: int) -> list[Any]:
    """The results of all processes."""
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(count)]
