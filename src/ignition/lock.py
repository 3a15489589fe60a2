"""One writer for a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from ignition.errors import CheckpointError

__all__ = ["FolderLock"]

_held: dict[str, IO[str]] = {}
"""The lock files that this process has open, by folder."""


class FolderLock:
    """Holds a folder until `release`, or until the process ends.

    The lock is the system's, on a file in the folder, and not the file itself: a process that was killed leaves the
    file, and no lock. Worker processes, which may outlive their parent for a moment, let go of it as they begin.

    Args:
        folder: The folder, which is made.

    Raises:
        CheckpointError: If somebody holds it, or it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self._name = os.path.realpath(folder)
        if self._name in _held:
            raise _in_use(folder, "another fit of this process")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "lock").open("a+")
        except OSError as error:
            raise _unusable(folder, error) from error
        self._file = _held[self._name] = file
        try:
            if not _lock(file):
                file.seek(0)
                holder = file.read().strip()
                raise _in_use(folder, f"the process {holder}" if holder else "another process")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise _unusable(folder, error) from error
            raise

    def release(self) -> None:
        """Lets others have the folder."""
        if _held.get(self._name) is self._file:
            del _held[self._name]
        _close(self._file)  # which ends the system's lock too


def _in_use(folder: Path, holder: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is being written by {holder}",
        expected="one training for each folder of checkpoints",
        fix="wait for it, stop it, or use another folder",
    )


def _unusable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be used for checkpoints: {error}",
        expected="a folder that may be written to, on a disk with room",
        fix="mend it, or use another folder",
    )


def _lock(file: IO[str]) -> bool:
    """Whether the system gave the lock."""
    try:
        import fcntl
    except ImportError:  # no POSIX system: only this process is kept out
        return True
    try:
        # Not lockf's kind, which is lost as soon as the process closes the file anywhere, after a copy of the folder.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(file: IO[str]) -> None:
    with contextlib.suppress(OSError):  # a disk that is full: the file is closed all the same
        file.close()


def _let_go() -> None:
    """In a forked child: the lock stays the parent's alone."""
    for file in _held.values():
        _close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
