"""What each of many processes keeps for itself in a checkpoint: its generators, its means, its ``trainer.state``.

The first process writes what all have in common, and its own; the others hand it theirs. Another number of processes
may go on from it: what is left of the epoch is dealt out among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ignition import distributed, rng
from ignition.codec import decode
from ignition.errors import CheckpointError
from ignition.means import Means

if TYPE_CHECKING:
    from ignition.dtensors import Part

__all__ = ["gathered", "generators_from", "means_from", "moved_position", "own_part", "parts_in"]


def gathered(own: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[list[Any], dict[str, Tensor]] | None:
    """What the other processes keep, by rank, with their tensors: in the first process; None in the others.

    Waits for all of them.
    """
    if distributed.world_size() == 1:
        return [], {}
    every = distributed.gather_to_main(_packed(own, tensors) if distributed.rank() else b"")
    if every is None:
        return None
    parts = [_unpacked(data) for data in every[1:]]
    return [own for own, _ in parts], {name: tensor for _, those in parts for name, tensor in those.items()}


def parts_in(
    files: Mapping[str, dict[str, Tensor]], copy_tensors: Callable[[str, dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, dict[str, Part]]:
    """Takes sharded tensors out of what is to be written; returns copies of what this process has of them."""
    from torch.distributed.tensor import DTensor

    from ignition.dtensors import part_of

    parts: dict[str, dict[str, Part]] = {}
    for file, entries in files.items():
        sharded = {name: part_of(one, copy=False) for name, one in entries.items() if isinstance(one, DTensor)}
        rows = copy_tensors(f"{file} in parts", {name: part.rows for name, part in sharded.items()})
        parts[file] = {name: part._replace(rows=rows[name]) for name, part in sharded.items()}
        for name in sharded:
            del entries[name]
    return parts


def own_part(state: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Where in a checkpoint the part of this process is.

    Raises:
        CheckpointError: If the train loader keeps a place of its own in each process, and now there are others.
    """
    others, number = state["processes"]["others"], distributed.rank()
    count = 1 + len(others)
    if count != distributed.world_size() and state["loader"] is not None:
        raise CheckpointError(
            f"the checkpoint {source} was written by {count} processes, each with its own part of a stream, and now "
            f"there are {distributed.world_size()}",
            expected="as many processes as then, since nobody else can say what is left of each part",
            fix=f"go on with {count} processes, or train on data with indices",
        )
    part: Mapping[str, Any] = ([state, *others])[number % count]
    return part


def means_from(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sums that this process goes on with; of another number of processes the first one takes them all."""
    parts = [state, *state["processes"]["others"]]
    if len(parts) == distributed.world_size():
        own: dict[str, Any] = decode(parts[distributed.rank()]["means"], tensors)
        return own
    merged = Means()
    for part in parts if distributed.is_main() else []:
        sums = Means()
        sums.load_state_dict(decode(part["means"], tensors))
        merged.merge(sums)
    return merged.state_dict()


def generators_from(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The generators' states of this process; where there was no such process, those of a new seed."""
    parts, number = [state, *state["processes"]["others"]], distributed.rank()
    if number < len(parts):
        states: dict[str, Any] = decode(parts[number]["generators"], tensors)
        return states
    before = rng.capture()
    rng.seed_everything(rng.key_of(state["seed"] or 0, "process", number, state["position"]["step"]))
    fresh = rng.capture()
    rng.restore(before)
    return fresh


def moved_position(
    state: Mapping[str, Any], data: Mapping[str, int | None], source: str, can_shift: bool = False
) -> dict[str, int]:
    """The position, counted in the batches of the processes that are there now: with the same samples left.

    Args:
        state: Of the checkpoint.
        data: What is known of the data now, as `ignition.matching.data_size` gives it.
        source: The checkpoint, for messages.
        can_shift: Whether batches may begin at any sample; see `ignition.data.can_shift`.

    Raises:
        CheckpointError: If they may not, and what was read does not end where a batch of now would.
    """
    position: dict[str, int] = dict(state["position"])
    count, processes = 1 + len(state["processes"]["others"]), distributed.world_size()
    if count == processes:
        return position
    read = position["batch"] * count + position["offset"]  # in the batches of then
    then, now, samples, batches = state["data"]["batch_size"], data["batch_size"], data["samples"], data["batches"]
    if then and now and then != now:
        done = read * then + position.get("shift", 0)
        if samples is not None and batches is not None and done >= samples:  # all, the last round being split
            read, position["shift"] = batches, 0
        elif done % now and not can_shift:
            raise CheckpointError(
                f"the checkpoint {source} was written by {count} processes after {done} samples of an epoch, "
                f"and now {processes} processes read {now} samples a batch",
                expected="a batch size in which that is a whole number of batches",
                fix=f"use batch_size={then}, or go on with {count} processes to the end of the epoch",
            )
        else:
            read, position["shift"] = divmod(done, now)
    position["batch"], position["offset"] = divmod(read, processes)
    return position


def _packed(own: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    kinds = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in whole.items()]
    head = json.dumps([own, kinds]).encode()
    parts = [tensor.view(-1).view(torch.uint8).numpy().tobytes() for tensor in whole.values()]
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _unpacked(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    end = 8 + int.from_bytes(data[:8], "little")
    own, kinds = json.loads(data[8:end])
    tensors = {}
    for name, kind, shape in kinds:
        dtype = getattr(torch, kind)
        size = dtype.itemsize * torch.Size(shape).numel()
        raw = torch.frombuffer(bytearray(data[end : end + size]), dtype=torch.uint8) if size else torch.empty(0)
        tensors[name] = raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
        end += size
    return own, tensors
