"""A checkpoint of sharded models: each process writes its part of the folder, and the first one gives it its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignition import checkpoint, distributed
from ignition.checkpoint import Content
from ignition.errors import CheckpointError
from ignition.tensor_parts import joined, read_parts, write_part

__all__ = ["read", "write"]


def write(path: Path, content: Content) -> None:
    """Writes a checkpoint, whole or not at all, as `ignition.checkpoint.write` does.

    Where the content is sharded, all processes call this, each with its own part; they tell one another over a group of
    their own, so that it may run on a thread beside the training.

    Raises:
        OSError: If it cannot be written here. What was there before stays; nothing else is left.
        CheckpointError: If it could not be written in another process.
    """
    if content.parts is None:
        checkpoint.write(path, content)
        return
    parts, rank, count = content.parts, distributed.rank(), distributed.world_size()
    try:
        folder = Path(_told(path, lambda: str(checkpoint.begin(path)) if rank == 0 else "")[0])
        mine = _told(
            path, lambda: json.dumps({kind: write_part(folder, kind, rank, count, parts[kind]) for kind in parts})
        )
        every = [json.loads(text) for text in mine]
        if rank == 0:
            content.state["sharded"] = {kind: joined([one[kind] for one in every]) for kind in parts}
        _told(path, lambda: _named(path, content) if rank == 0 else "")
    except BaseException:
        if rank == 0:
            checkpoint.abandon(path)
        raise


def read(path: Path) -> Content:
    """As `ignition.checkpoint.read`, with the parts of sharded tensors put together."""
    content = checkpoint.read(path)
    described = content.state.get("sharded")
    for kind, one in described.items() if isinstance(described, dict) else ():
        content.tensors.setdefault(kind, {}).update(read_parts(checkpoint.folder_of(path), one))
    return content


def _named(path: Path, content: Content) -> str:
    checkpoint.finish(path, content)
    return path.name


def _told(path: Path, work: Callable[[], str]) -> list[str]:
    """What the work has given in each process; if it failed in one, it has failed in all."""
    failure: BaseException | None = None
    try:
        word: dict[str, Any] = {"done": work()}
    except (OSError, CheckpointError, RuntimeError) as error:
        failure, word = error, {"failed": f"{type(error).__name__}: {error}"}
    every = [json.loads(text) for text in distributed.gather_texts(json.dumps(word), distributed.saving_group())]
    if failure is not None:
        raise failure
    for number, one in enumerate(every):
        if "failed" in one:
            raise CheckpointError(
                f"the checkpoint {path} could not be written in process {number}: {one['failed']}",
                expected="a folder that every process can write to, on a disk with room",
                fix="make room or mend the folder, and go on with fit(..., resume=True)",
            )
    return [one["done"] for one in every]
