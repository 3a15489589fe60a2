"""Writing beside the training: the loop waits for a copy in memory, and a thread does the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ignition.errors import CheckpointError

__all__ = ["Writer"]


class Writer:
    """Runs one job at a time on a thread, out of memory of its own.

    Example:
        >>> writer, written = Writer(), []
        >>> kept = writer.copy("weight", torch.ones(2))
        >>> writer.start(lambda: written.append(kept.tolist()), wake=lambda: None)
        >>> writer.finish()
        >>> written
        [[1.0, 1.0]]
    """

    def __init__(self) -> None:
        self._running: tuple[threading.Thread, threading.Event] | None = None
        self._failure: BaseException | None = None
        self._copies: dict[str, Tensor] = {}
        self._used: set[str] = set()

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """A copy on the CPU; its memory is used again for the next copy of that name."""
        kept = self._copies.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype is not tensor.dtype:
            kept = self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        self._used.add(name)
        return kept.copy_(tensor)  # waits for an accelerator

    def start(self, job: Callable[[], None], wake: Callable[[], None]) -> None:
        """Runs `job`; calls `wake` if it fails."""
        self._copies = {name: self._copies[name] for name in self._used}  # not those of what is no more
        self._used.clear()
        done, gate = threading.Event(), threading.Lock()

        def run() -> None:
            try:
                gate.acquire()  # Thread.start waits until it runs: at work at once, it would keep Python for 5 ms
                job()
            except BaseException as error:
                self._failure = error
                wake()
            finally:
                done.set()

        thread = threading.Thread(target=run, name="ignition-checkpoint")
        self._running = thread, done  # before it runs, so that it is waited for whatever happens
        gate.acquire()
        try:
            thread.start()
        except KeyError as error:
            # What Thread.start makes of an error that a signal's handler raises inside it, as torch's does when a
            # loader worker has died.
            raise (error.__context__ or error) from None
        finally:
            gate.release()

    def finish(self) -> None:
        """Waits until nothing is being written, and raises what went wrong."""
        if self._running is not None:
            thread, done = self._running
            # Not by join alone: when Ctrl-C comes in it, Python 3.11 takes the thread for ended.
            while not done.wait(1) and thread.is_alive():
                pass
            if thread.is_alive():
                thread.join()
            self._running = None
        self.raise_failure()

    def free(self) -> None:
        """Gives the memory of the copies back."""
        self._copies.clear()

    def raise_failure(self) -> None:
        """Raises what went wrong since it was last asked."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise CheckpointError(
                f"a checkpoint could not be written: {failure}",
                expected="a folder on a disk with room, which may be written to",
                fix="make room or mend the folder, and go on with fit(..., resume=True)",
            ) from failure
