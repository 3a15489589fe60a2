"""Rows of processes with this one alone: any place in a row without the others, or all of a row of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def one_of(count: int, rank: int = 0, *shape: int) -> Iterator[DeviceMesh]:
    """The mesh of so many processes, as the one of that rank has it: for what talks to nobody, as all that is lost.

    Args:
        count: How many processes.
        rank: Which of them this one is.
        *shape: Of the mesh, if it is no row.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield dist.init_device_mesh("cpu", shape or (count,))
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[DeviceMesh]:
    """The mesh of one process, which is all there are: what is gathered is whole."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()
