"""One writer for a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from ignition.errors import CheckpointError

__all__ = ["FolderLock"]

_held: set[str] = set()
"""The folders that this process has locked: the system's lock keeps out other processes alone."""


class FolderLock:
    """Holds a folder until `release`, or until the process ends.

    The lock is the system's, on a file in the folder, and not the file itself: a process that was killed leaves the
    file, and no lock. It is not inherited by worker processes, which may outlive their parent for a moment.

    Args:
        folder: The folder, which is made.

    Raises:
        CheckpointError: If somebody holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name = os.path.realpath(folder)
        if self._name in _held:
            raise _in_use(folder, "another fit of this process")
        self._file: IO[str] = (folder / "lock").open("a+")
        if not _lock(self._file):
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise _in_use(folder, f"the process {holder}")
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        _held.add(self._name)

    def release(self) -> None:
        """Lets others have the folder."""
        _held.discard(self._name)
        self._file.close()  # which ends the system's lock too


def _in_use(folder: Path, holder: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is being written by {holder}",
        expected="one training for each folder of checkpoints",
        fix="wait for it, stop it, or use another folder",
    )


def _lock(file: IO[str]) -> bool:
    """Whether the system gave the lock."""
    try:
        import fcntl
    except ImportError:  # no POSIX system: only this process is kept out
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
