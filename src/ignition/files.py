"""Files that are whole or not there: written beside, flushed, renamed; and read only where they are files."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TextIO

__all__ = ["flush_folder", "open_regular", "write_text", "write_whole"]

_LARGE = 2**28


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


def open_regular(
    path: str | os.PathLike[str], is_whole: Callable[[BinaryIO, int], bool] | None = None
) -> BufferedReader:
    """A file opened for reading, if it is one with an end: a pipe or a device in its place would be read for ever.

    Args:
        path: The file, or a link to it.
        is_whole: ``is_whole(file, size)``: whether a file may have that size, by how it begins. Only a large one is
            asked for, which may be all holes.

    Raises:
        OSError: If it cannot be opened, is no regular file, or is larger than it may be.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    file = os.fdopen(descriptor, "rb")
    try:
        if is_whole is not None and found.st_size > _LARGE and not is_whole(file, found.st_size):
            raise OSError(errno.EFBIG, f"its {found.st_size} bytes are not what it begins with", os.fspath(path))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder last through a loss of power, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
