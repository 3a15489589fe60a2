"""Tensors of which each process holds a part: split, joined, measured, copied into.

A sharded tensor is a `torch.distributed.tensor.DTensor` that is split along its first dimension as `torch.chunk` does
it: each process has ``ceil(length / count)`` rows, the last ones fewer or none. That is what FSDP2 makes of a
parameter, and optimizers of their memory for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from ignition.errors import ArgumentError

__all__ = ["Part", "copy_into", "from_part", "gathered", "is_sharded", "part_of", "shard_like", "span", "total_norm"]


class Part(NamedTuple):
    """The rows of a tensor that one process holds.

    Attributes:
        rows: The rows themselves, a plain tensor.
        start: The place of the first of them in the whole tensor.
        shape: The shape of the whole tensor.
    """

    rows: Tensor
    start: int
    shape: tuple[int, ...]


def span(length: int, rank: int, count: int) -> tuple[int, int]:
    """The first row that a process holds, and how many.

    Args:
        length: How many rows there are.
        rank: Which process, from 0 on.
        count: How many processes there are.

    Example:
        >>> [span(7, rank, 3) for rank in range(3)]
        [(0, 3), (3, 3), (6, 1)]
        >>> [span(2, rank, 3) for rank in range(3)]
        [(0, 1), (1, 1), (2, 0)]
    """
    each = -(-length // count)
    start = min(rank * each, length)
    return start, min(each, length - start)


def part_of(tensor: DTensor, copy: bool = True) -> Part:
    """What this process holds of a sharded tensor.

    Args:
        tensor: Sharded along its first dimension.
        copy: Whether to copy the rows to the CPU, so that they share no memory with the tensor.

    Raises:
        ArgumentError: If it is split in another way.
    """
    mesh = tensor.device_mesh
    rows = tensor.to_local().detach()
    start, length = span(tensor.shape[0], mesh.get_local_rank(), mesh.size()) if is_sharded(tensor) else (0, -1)
    if not rows.ndim or rows.shape[0] != length:
        raise ArgumentError(
            f"a tensor of shape {tuple(tensor.shape)} is spread as {tensor.placements} over {mesh}",
            expected="one that is split along its first dimension, as fully_shard does it",
            fix="let the Trainer shard the model, with strategy=FSDP(...)",
        )
    return Part(rows.to("cpu", copy=True) if copy else rows, start, tuple(tensor.shape))


def from_part(rows: Tensor, shape: Iterable[int], mesh: DeviceMesh) -> DTensor:
    """A sharded tensor, of the rows that this process has of it; talks to nobody.

    Args:
        rows: Those that `span` names.
        shape: The shape of the whole.
        mesh: The processes, in one row.
    """
    size = torch.Size(shape)
    stride = torch.empty(size, device="meta").stride()
    here: DTensor = DTensor.from_local(
        rows.to(mesh.device_type).contiguous(), mesh, (Shard(0),), run_check=False, shape=size, stride=stride
    )
    return here


def is_sharded(tensor: Any) -> bool:
    """Whether it is a tensor that is split along its first dimension over a row of processes."""
    return isinstance(tensor, DTensor) and tensor.ndim > 0 and tuple(tensor.placements) == (Shard(0),)


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has whole, as sharded as another of its shape; talks to nobody.

    Args:
        tensor: The same in all processes. One that is sharded is returned as it is.
        like: A sharded tensor; for a plain one, `tensor` is returned as it is.

    Returns:
        A sharded tensor with memory of its own.
    """
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    start, length = span(tensor.shape[0], mesh.get_local_rank(), mesh.size())
    rows = tensor.detach()[start : start + length].clone(memory_format=torch.contiguous_format)
    return from_part(rows, tensor.shape, mesh)


def copy_into(target: Tensor, source: Tensor) -> None:
    """Writes values into a tensor in place; both may be whole or sharded.

    A source that is sharded while the target is whole is gathered: all processes must call it then.
    """
    with torch.no_grad():
        target.copy_(shard_like(source, target) if isinstance(target, DTensor) else _whole(source))


def gathered(tensor: Tensor, keep: bool) -> Tensor | None:
    """The whole of a tensor as a copy on the CPU, for those that want it; all processes must call it.

    Args:
        tensor: Sharded or whole.
        keep: Whether this process wants it; the others let it go at once.
    """
    if isinstance(tensor, DTensor):
        whole, alone = _whole(tensor.detach()), tensor.device_mesh.size() == 1  # whose part is the whole itself
        return whole.to("cpu", copy=alone) if keep else None
    return tensor.detach().to("cpu", copy=True) if keep else None


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm over all gradients, sharded ones and plain ones: a 0-d plain tensor, the same in all processes.

    All processes must call it, with the same gradients; plain ones count once, and must be the same in all.
    """
    plain: list[Tensor] = []
    sharded: list[Tensor] = []
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            sharded.append(gradient)
        else:  # torch has no norm for the sparse gradient of an embedding
            plain.append(gradient.coalesce().values() if gradient.is_sparse else gradient)
    norms = [_whole(torch.nn.utils.get_total_norm(group)) for group in (sharded, plain) if group]
    return norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm(norms)


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = cast(Any, tensor).full_tensor()
    return whole
