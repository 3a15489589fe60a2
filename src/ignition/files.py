"""Files that are whole or not there: written beside, flushed, renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["flush_folder", "write_text", "write_whole"]


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Has a file written beside, flushed to the disk, and renamed: at any moment the old or the new is there, whole.

    Args:
        path: The file. Its folders are made; what a symbolic link points to is replaced, not the link.
        write: Receives the path to write to: an empty file of another name in a folder of its own.

    Raises:
        OSError: If it cannot be written. What was there stays, and nothing else is left.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: whatever a writer leaves there goes with it, after an interrupt too.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
        partial = Path(folder) / "file"
        partial.touch()
        permissions = partial.stat().st_mode & 0o777
        try:
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(permissions)  # safetensors writes files that nobody else may read
            os.replace(partial, target)
        except OSError as error:
            error.add_note(f"{os.fspath(path)} could not be written; what was there before is unchanged")
            raise
    with suppress(OSError):  # some network file systems refuse it; the file is there in any case
        flush_folder(target.parent)


def write_text(path: str | os.PathLike[str], write: Callable[[TextIO], object]) -> None:
    """`write_whole` for text; `write` receives the open file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/new/a.txt", lambda file: file.write("whole"))
        ...     Path(folder, "new", "a.txt").read_text()
        'whole'
    """

    def write_open(partial: Path) -> None:
        # Half of a surrogate pair is no UTF-8; a file name that was read from the system may hold one.
        with partial.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
            write(file)

    write_whole(path, write_open)


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder last through a loss of power, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
