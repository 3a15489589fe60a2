"""Many processes: which one this is, how they find one another, and what they tell one another.

`torchrun` and SLURM's `srun` start a script several times and say so in environment variables. From these the
processes find one another when the first Trainer is made (or `evaluate`, `predict`, `barrier` is called). A script that
has made its process group itself keeps it. In one process everything here does nothing.

What the processes tell one another besides gradients goes over a group of its own, on the CPU, so that it neither waits
for an accelerator nor gets between its collectives.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ignition.errors import ProcessError

__all__ = ["barrier", "is_main", "main_first", "rank", "world_size"]

SECONDS_FOR_A_MEETING = 600.0  # as long as torch gives collectives on GPUs
_PATIENCE_AT_THE_END = timedelta(seconds=5)
_PATIENCE = timedelta(minutes=30)  # torch's own


class _Launch(NamedTuple):
    """What a launcher says of this process."""

    rank: int
    size: int
    local_rank: int


def rank() -> int:
    """The number of this process: that of the process group, or what the launcher says.

    Returns:
        From 0 on; 0 where there is one process.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if _has_group() else _launch().rank


def world_size() -> int:
    """How many processes train together.

    It may be asked before the Trainer is made, to divide a batch size: ``batch_size=64 // world_size()``.

    Returns:
        1 or more.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if _has_group() else _launch().size


def is_main() -> bool:
    """Whether this is the process that prints, logs and saves: number 0."""
    return rank() == 0


def barrier() -> None:
    """Waits here until every process has come here.

    Raises:
        ProcessError: If another process does something else meanwhile, has failed, is gone, or does not come within 30
            minutes; inside a fit, where it may wait for this one, within 10.
    """
    start()
    if world_size() > 1:
        with _state.together():
            _state.check_alike("meet at barrier or main_first")


@contextmanager
def main_first() -> Iterator[None]:
    """Runs the ``with`` block in the first process, and then in the others: for what is to be downloaded once.

    The others wait 30 minutes at most, inside a fit 10. An error in it ends all processes, as one in a fit does.

    Returns:
        A context, in which nothing is given.

    Raises:
        ProcessError: As `barrier` does.

    Example:
        >>> with main_first():
        ...     pass  # download, unless it is there
    """
    start()
    if world_size() > 1:
        with _state.together():
            control_group()  # made by all together: before, one that fails would be gone while others still look for it
    if not is_main():
        barrier()
    with _state.together():
        yield
    if is_main():
        barrier()


def ended_by(together: Callable[[], AbstractContextManager[None]], check_alike: Callable[[str], None]) -> None:
    """Sets how the processes wait for one another here: as `ignition.parting` does, which ends all for an error."""
    _state.together, _state.check_alike = together, check_alike


def one_voice() -> AbstractContextManager[None]:
    """Inside the ``with`` block of what all processes do, the first one alone warns."""
    return contextlib.nullcontext() if is_main() else warnings.catch_warnings(action="ignore")


def local_rank() -> int:
    """The number of this process on its machine: that of its accelerator."""
    return _launch().local_rank


def start() -> None:
    """Has the processes of a launcher find one another, once; what is opened here is closed at the end of Python.

    Raises:
        ProcessError: If they have parted; or if one has left the script before, and torchrun has started it.
    """
    if _has_group() or _launch().size == 1 or not dist.is_available():
        return
    if _state.left:
        raise ProcessError(
            "the processes have parted, after an error in one of them",
            expected="nothing more that they do together",
            fix="let that error end the script, and run it again",
        )
    launch = _launch()
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(launch.local_rank % torch.accelerator.device_count())
    store = _store_of(launch)
    _meet_all(store)
    _state.met = True
    dist.init_process_group(store=store, rank=launch.rank, world_size=launch.size)
    _state.opened = True
    atexit.register(close)
    control_group()


def _store_of(launch: _Launch, **options: Any) -> Any:
    url = "env://" if "MASTER_ADDR" in os.environ else f"tcp://{_slurm_address()}"
    store, _, _ = next(rendezvous(url, launch.rank, launch.size, **options))
    # Keyed by the restart: torchrun's store outlives the processes, and has the addresses of those that died.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"ignition/{restart}", store)  # type: ignore[attr-defined]


def _meet_all(store: Any) -> None:
    """Waits for all processes to come, unless one has left the script."""
    store.add("here", 1)
    until = time.monotonic() + _PATIENCE.total_seconds()
    while (come := store.add("here", 0)) < world_size():
        left = store.get("left").decode() if store.check(["left"]) else None
        if left is not None or time.monotonic() > until:
            raise ProcessError(
                f"only {come} of {world_size()} processes have come to one another within {_PATIENCE}"
                if left is None
                else f"process {left} has left the script before it met the others",
                expected="the same calls in every process, in the same order",
                fix="look for what ends the script, or leaves out its Trainer, in some processes alone",
            )
        time.sleep(0.05)


def _say_left() -> None:
    """At the end of Python: tells processes that wait for this one, where torchrun keeps their store.

    It is said only of what torchrun itself has started: a script's own child has the same environment, and one that a
    shell runs may be followed by another.
    """
    if _state.met or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not _is_of_torchrun():
        return
    launch = _launch()
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # the store may be gone
        _store_of(launch, timeout=_PATIENCE_AT_THE_END).set("left", str(launch.rank))


def _is_of_torchrun() -> bool:
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:  # another system than Linux
        return False
    return b"torchrun" in parent or b"torch.distributed.run" in parent


def close() -> None:
    """Closes the process group, if it was opened here; others that wait for this process are told so by the system."""
    if _state.opened and dist.is_initialized():
        _state.opened = False
        _state.control = _state.saving = None
        with contextlib.suppress(RuntimeError):  # of a peer that is gone already
            dist.destroy_process_group()
        gc.collect()  # what still holds a thread of the group: torch aborts now and then if Python ends before it does


def opened_here() -> bool:
    """Whether the processes have found one another by `start`, and have not parted."""
    return _state.opened


def _let_go() -> None:
    """Drops the groups that were made beside one of the script's own: torch may abort where they outlive Python."""
    _state.control = _state.saving = None
    gc.collect()


def leave() -> None:
    """Closes the group for good, after an error here: those that wait for this process wake up."""
    if _state.opened:
        _state.left = True
        close()


def control_group() -> Any:
    """The group on the CPU over which all is told but gradients; made by all processes together, once."""
    return _control()[1]


def steps_group() -> Any:
    """The one over which processes say what they do in a step: whoever has left it out says something else there."""
    return _control()[2]


def _control() -> tuple[Any, Any, Any]:
    start()
    if _state.control is None or _state.control[0] is not dist.group.WORLD:
        if _state.control is None:
            atexit.register(_let_go)
        groups = [dist.new_group(backend="gloo", timeout=_PATIENCE) for _ in range(2)]
        _state.control = dist.group.WORLD, *groups
    return _state.control


@contextmanager
def meeting(group: Any = None) -> Iterator[None]:
    """Inside the ``with`` block a group, by default that of `control_group`, waits ten minutes at most for all to come.

    What then fails cannot be taken back: the group is of no more use.
    """
    group = group or control_group()
    if not hasattr(group, "set_timeout"):  # a release of torch that cannot change it
        yield
        return
    group.set_timeout(timedelta(seconds=SECONDS_FOR_A_MEETING))
    try:
        yield
    finally:
        group.set_timeout(_PATIENCE)


def saving_group() -> Any:
    """A group of its own for what threads do beside the training; made by all processes together, once."""
    if _state.saving is None or _state.saving[0] is not dist.group.WORLD:
        _state.saving = dist.group.WORLD, dist.new_group(backend="gloo")
    return _state.saving[1]


def store() -> Any:
    """Where a process leaves a word for the others that needs nobody to wait for it; None in one process."""
    return dist.distributed_c10d._get_default_store() if _has_group() else None


def sum_of(values: Sequence[float]) -> list[float]:
    """The sum of each value over the processes. Waits for all of them."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=control_group())
    return total.tolist()


def max_of(values: Sequence[float]) -> list[float]:
    """The largest of each value over the processes. Waits for all of them."""
    if world_size() == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=control_group())
    return largest.tolist()


def gather_bytes(data: bytes, group: Any = None) -> list[bytes]:
    """What each process has, by rank, for each of them. Waits for all of them."""
    if world_size() == 1:
        return [data]
    group, size = group or control_group(), world_size()
    lengths = torch.zeros(size, 1, dtype=torch.int64)
    dist.all_gather(list(lengths), torch.tensor([len(data)]), group=group)
    room = torch.zeros(size, max(int(lengths.max()), 1), dtype=torch.uint8)
    dist.all_gather(list(room), _padded(data, room.shape[1]), group=group)
    return _rows(room, lengths)


def gather_to_main(data: bytes) -> list[bytes] | None:
    """As `gather_bytes`, for the first process alone; None in the others."""
    group, size = control_group(), world_size()
    lengths = torch.zeros(size, 1, dtype=torch.int64)
    dist.all_gather(list(lengths), torch.tensor([len(data)]), group=group)
    room = torch.zeros(size if is_main() else 0, max(int(lengths.max()), 1), dtype=torch.uint8)
    dist.gather(_padded(data, room.shape[1]), list(room) if is_main() else None, group=group)
    return _rows(room, lengths) if is_main() else None


def gather_texts(text: str, group: Any = None) -> list[str]:
    """As `gather_bytes`, of texts."""
    return [data.decode() for data in gather_bytes(text.encode(), group)]


def text_of_main(text: str) -> str:
    """What the first process has, for all. Waits for all of them."""
    return gather_texts(text if is_main() else "")[0]


def broadcast(tensor: Tensor, source: int = 0) -> None:
    """Gives a tensor on the CPU the values that it has in process `source`. Waits for all processes."""
    dist.broadcast(tensor, source, group=control_group())


def _padded(data: bytes, size: int) -> Tensor:
    padded = torch.zeros(size, dtype=torch.uint8)
    if data:
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return padded


def _rows(room: Tensor, lengths: Tensor) -> list[bytes]:
    return [bytes(row[:length].numpy()) for row, length in zip(room, lengths[:, 0].tolist(), strict=True)]


class _State:
    """What this module has opened."""

    met = False
    opened = False
    left = False
    control: tuple[Any, Any, Any] | None = None
    saving: tuple[Any, Any] | None = None
    together: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    check_alike: Callable[[str], None]


_state = _State()


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _launch() -> _Launch:
    """What the environment says: torchrun's variables, or those of a step that `srun` started."""
    read = os.environ.get
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        number = int(os.environ["RANK"])
        return _Launch(number, int(os.environ["WORLD_SIZE"]), int(read("LOCAL_RANK", number)))
    # Only srun sets this one: in a batch script that calls python itself there is one process, whatever was reserved.
    size = int(read("SLURM_STEP_NUM_TASKS", "1"))
    if size > 1 and "SLURM_PROCID" in os.environ:
        return _Launch(int(os.environ["SLURM_PROCID"]), size, int(read("SLURM_LOCALID", "0")))
    return _Launch(0, 1, 0)


def _slurm_address() -> str:
    """The first machine of a SLURM step, and a port that follows from the job and the step."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "localhost")
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,]*)", nodes)  # gpu[03-07,11] begins with gpu03
    host = nodes if first is None else first[1] + (first[2] or "") + (first[3] if first[2] else "")
    job, step = int(os.environ.get("SLURM_JOB_ID", "0")), int(os.environ.get("SLURM_STEP_ID", "0"))
    return f"{host}:{os.environ.get('MASTER_PORT', 20000 + (31 * job + step) % 20000)}"


if _launch().size > 1:
    atexit.register(_say_left)
