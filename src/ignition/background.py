"""Writing beside the training: the loop waits for a copy in memory, and a thread does the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter

import torch
from torch import Tensor

from ignition.errors import CheckpointError

__all__ = ["Writer"]

_FORM = attrgetter("shape", "dtype")
_Form = tuple[str, tuple[torch.Size, torch.dtype]]  # a tensor's name, and its form


class Writer:
    """Runs one job at a time on a thread, out of memory of its own.

    Example:
        >>> writer, written = Writer(), []
        >>> kept = writer.copy("model", {"weight": torch.ones(2)})
        >>> writer.start(lambda: written.append(kept["weight"].tolist()), wake=lambda: None)
        >>> writer.finish()
        >>> written
        [[1.0, 1.0]]
        >>> writer.free()
    """

    def __init__(self) -> None:
        self._name = f"ignition-checkpoint-{id(self)}"  # of the thread: that of another Writer is none of ours
        self._pool: ThreadPoolExecutor | None = None
        self._done: threading.Event | None = None
        self._failure: BaseException | None = None
        self._copies: dict[str, tuple[list[_Form], list[Tensor]]] = {}  # of each group

    def copy(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the CPU; their memory is used again for the next copies of that group."""
        forms = [*zip(tensors, map(_FORM, tensors.values()), strict=True)]
        before, copies = self._copies.get(group, ([], []))
        if forms != before:
            kept = dict(zip(before, copies, strict=True))
            copies = [kept[form] if form in kept else torch.empty(form[1][0], dtype=form[1][1]) for form in forms]
            self._copies[group] = forms, copies
        if copies:
            with torch.no_grad():  # a buffer may have a graph
                torch._foreach_copy_(copies, [*tensors.values()])  # waits for an accelerator
        return dict(zip(tensors, copies, strict=True))

    def start(self, job: Callable[[], None], wake: Callable[[], None]) -> None:
        """Runs `job`; calls `wake` if it fails."""
        begun, done = threading.Lock(), threading.Event()

        def run() -> None:
            if not begun.acquire(blocking=False):
                return
            try:
                job()
            except BaseException as error:
                self._failure = error
                wake()
            finally:
                done.set()

        if self._pool is None:  # one thread for all jobs: to begin one takes longer than to copy 5 MB
            self._pool = ThreadPoolExecutor(1, self._name)
        self._done = done  # before it runs, so that it is waited for whatever happens
        try:
            self._pool.submit(run)
        except BaseException as error:
            # Where an error came only after the thread had begun, the job runs; else it never will, also not later.
            has_thread = any(thread.name.startswith(self._name) for thread in threading.enumerate())
            if not has_thread and begun.acquire(blocking=False):
                done.set()
            if isinstance(error, KeyError):
                # What Thread.start makes of an error that a signal's handler raises inside it, as torch's does when a
                # loader worker has died.
                raise (error.__context__ or error) from None
            raise

    def finish(self) -> None:
        """Waits until nothing is being written, and raises what went wrong."""
        if self._done is not None:
            self._done.wait()
            self._done = None
        self.raise_failure()

    def afterwards(self, call: Callable[[], None]) -> None:
        """Calls `call` as soon as nothing is being written: now, or on the thread when its job has ended."""
        if self._pool is None or self._done is None or self._done.is_set():
            call()
        else:
            self._pool.submit(call)

    def free(self) -> None:
        """Ends the thread, which may be at its last job, and gives the memory of the copies back."""
        if self._pool is not None:
            self._pool.shutdown(wait=self._done is None)
            self._pool = None
        self._copies.clear()

    def raise_failure(self) -> None:
        """Raises what went wrong since it was last asked."""
        failure, self._failure = self._failure, None
        if isinstance(failure, CheckpointError):  # which says by itself what is to be done
            raise failure
        if failure is not None:
            raise CheckpointError(
                f"a checkpoint could not be written: {failure}",
                expected="a folder on a disk with room, which may be written to",
                fix="make room or mend the folder, and go on with fit(..., resume=True)",
            ) from failure
