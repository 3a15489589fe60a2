"""The folder format of a checkpoint: written beside, flushed, renamed; read only when every byte is as written.

A checkpoint is a folder::

    model.safetensors       the weights and buffers, under their plain names
    optimizer.safetensors   the tensors of the optimizers
    state.safetensors       all other tensors, where there are any
    state.json              everything else, with a checksum of itself and of the other files

Nothing in it is executed when it is read: JSON and safetensors hold data alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import Tensor

from ignition.errors import CheckpointError
from ignition.files import flush_folder, open_regular
from ignition.tensor_files import FOREIGN, is_whole, serialised

if TYPE_CHECKING:
    from ignition.dtensors import Part

__all__ = [
    "VERSION",
    "Content",
    "OtherVersion",
    "abandon",
    "begin",
    "broken",
    "check_replaceable",
    "checksums_of",
    "finish",
    "folder_of",
    "read",
    "remove",
    "sweep",
    "write",
    "write_file",
]

VERSION = 1
"""What changes with the format; in every version state.json has the same checksum of itself."""

_STATE = "state.json"
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_SORTED = json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=True)  # the form that is checked
_PIECE = 500  # items of a list that are made into text at once
_FILES = ("model", "optimizer", "state")
_WRITING = ".writing-"
_REPLACED = ".replaced-"
_REMOVING = ".removing-"


class OtherVersion(CheckpointError):
    """A checkpoint in the format of another release: it may well be whole."""


@dataclass(slots=True)
class Content:
    """What a checkpoint holds.

    Attributes:
        state: Plain values, as `ignition.codec.encode` makes them.
        tensors: For each file without its ending ("model", "optimizer", "state") its tensors, on the CPU.
        parts: Of sharded tensors what this process has of them, in the same way; None where nothing is sharded.
        rest: Works out what is still missing from the two: what can be done while the training goes on.
    """

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    parts: dict[str, dict[str, Part]] | None = None
    rest: Callable[[], None] | None = None

    def complete(self) -> None:
        """Adds what is missing, once."""
        if self.rest is not None:
            self.rest()
            self.rest = None


def write(path: Path, content: Content) -> None:
    """Writes a checkpoint, whole or not at all: whoever looks sees the old one or the new one.

    Every file is flushed to the disk before the folder gets its name, and the name is flushed after it.

    Args:
        path: The folder. One that is there is replaced.
        content: What to write.

    Raises:
        OSError: If it cannot be written. What was there before stays; nothing else is left.
    """
    try:
        begin(path)
        finish(path, content)
    except BaseException as error:
        abandon(path)
        if isinstance(error, OSError):
            error.filename = error.filename or os.fspath(path)
            error.add_note(
                f"the checkpoint {path} could not be written; those that were there before are whole\n"
                "  to do: make room on the disk, or mend the folder, and save again"
            )
        raise


def check_replaceable(path: Path) -> None:
    """Looks whether a checkpoint may take the place of what is there: a slip in a path must cost nobody a folder.

    Raises:
        CheckpointError: If it is a file, or a folder that has something in it and nothing of a checkpoint.
    """
    if path.is_dir():
        there = {one.name for one in path.iterdir()}
        if not there or _STATE in there or any(name.endswith(".safetensors") for name in there):
            return
        what = f"a folder of {len(there)} other things, such as {min(there)!r}"
    elif path.is_symlink() or path.exists():
        what = "no folder"
    else:
        return
    raise CheckpointError(
        f"a checkpoint was to be saved as {path}, which is {what}",
        expected="a new or an empty folder, or a checkpoint, which is replaced",
        fix=f"give it a folder of its own, such as {path / 'step-100' if path.is_dir() else f'{path}-100'}",
    )


def begin(path: Path) -> Path:
    """Makes the folder in which a checkpoint is written, beside where it will be; several may write into it.

    Args:
        path: The folder of the checkpoint to be.

    Returns:
        The folder for its files. `finish` gives it its name; `abandon` removes it.
    """
    partial = _partial(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that died
    partial.mkdir()
    return partial


def finish(path: Path, content: Content) -> None:
    """Writes the content into the folder that `begin` made, flushes the folder, and gives it its name."""
    content.complete()
    partial = _partial(path)
    files, foreign = {}, {}
    for name, tensors in content.tensors.items():
        if tensors or name != "state":
            file = f"{name}.safetensors"
            files[file], foreign[file] = serialised(tensors)
    with checksums_of(files) as checksums:
        for file, parts in files.items():
            write_file(partial / file, parts)
        body = {"version": VERSION, "checksums": checksums(), "foreign": foreign, "state": content.state}
    try:
        checksum = _checksum("".join(_lines(body, _SORTED)).encode())
        lines = list(_lines(body, _JSON))
    except ValueError as error:
        if "integer string conversion" not in str(error):  # Python's limit, which it would meet again as it reads
            raise
        raise CheckpointError(
            f"the state of the training has a whole number that cannot be written ({error})",
            expected=f"whole numbers of at most {sys.get_int_max_str_digits()} digits",
            fix="keep it in trainer.state as bytes or text, or in parts",
        ) from error
    lines[0] = f'{{"checksum":"{checksum}",\n{lines[0][1:]}'
    write_file(partial / _STATE, ["\n".join(lines).encode()])
    flush_folder(partial)
    _name(partial, path)


def abandon(path: Path) -> None:
    """Removes what `begin` made, and all that was written into it."""
    shutil.rmtree(_partial(path), ignore_errors=True)


def folder_of(path: Path) -> Path:
    """Where the checkpoint of this name lies: aside, if a writer died as it was about to name the new one."""
    aside = path.parent / f"{_REPLACED}{path.name}"
    return aside if not path.exists() and aside.exists() else path


def _partial(path: Path) -> Path:
    return path.parent / f"{_WRITING}{path.name}"


def read(path: Path) -> Content:
    """Reads a checkpoint, and checks every byte of it.

    Raises:
        CheckpointError: If a file is missing, cut off or changed, or the format is another version's.
    """
    path = folder_of(path)
    if not path.exists():
        fix = "look for a slip in the path"
        raise CheckpointError(f"there is no checkpoint {path}", "a folder that save or Checkpoint wrote", fix)
    body = _read_state(path)
    tensors = {}
    for file, checksum in body["checksums"].items():
        name = file.removesuffix(".safetensors")
        if file != f"{name}.safetensors" or name not in _FILES:
            raise broken(path, f"{_STATE} names {file[:80]!r}, which is no file of a checkpoint")
        tensors[name] = _read_tensors(path / file, checksum, body["foreign"].get(file, {}))
    return Content(body["state"], tensors)


def remove(path: Path) -> None:
    """Removes a checkpoint; it loses its name first, so that nobody reads a half of it."""
    gone = path.parent / f"{_REMOVING}{path.name}"
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what writers that died have left in a folder; what they had put aside gets its name back."""
    for aside in folder.glob(f"{_REPLACED}*"):
        _recover(folder / aside.name.removeprefix(_REPLACED))
    for left in (*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_REMOVING}*")):
        shutil.rmtree(left, ignore_errors=True)


def _name(partial: Path, path: Path) -> None:
    """Gives what is whole on the disk its name."""
    aside = path.parent / f"{_REPLACED}{path.name}"
    if path.exists():  # a folder cannot be replaced at one stroke: the old one stays until the new one has its name
        os.replace(path, aside)
    try:
        os.replace(partial, path)
    except BaseException:
        _recover(path)
        raise
    flush_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _recover(path: Path) -> None:
    """Ends what a writer had begun that died while it replaced a checkpoint."""
    aside = path.parent / f"{_REPLACED}{path.name}"
    if aside.exists():
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, path)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path / _STATE, _is_json) as file:
            body = json.loads(file.read())
    except OSError as error:
        raise broken(path, f"{_STATE} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise broken(path, f"{_STATE} is no JSON ({error})") from error
    if not isinstance(body, dict):
        raise broken(path, f"{_STATE} is not that of a checkpoint")
    checksum = body.pop("checksum", None)
    try:
        found = _checksum(_canonical(body))
    except (ValueError, RecursionError) as error:  # NaN, or nested without end
        raise broken(path, f"{_STATE} is not that of a checkpoint ({error})") from error
    if checksum != found:
        raise broken(path, f"{_STATE} has been changed since it was written")
    if body.get("version") != VERSION:
        raise OtherVersion(
            f"the checkpoint {path} has the format version {str(body.get('version'))[:80]}",
            expected=f"version {VERSION}",
            fix="read it with the release of Ignition that wrote it",
        )
    if not all(isinstance(body.get(part), dict) for part in ("checksums", "foreign", "state")):
        raise broken(path, f"{_STATE} is not that of a checkpoint")
    return body


def _read_tensors(path: Path, checksum: Any, foreign: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with open_regular(path, is_whole) as file:
            data = file.read()
    except OSError as error:
        raise broken(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if _checksum(data) != checksum:
        raise broken(path.parent, f"{path.name} is not as it was written: it was cut off, changed or exchanged")
    try:
        tensors = load(data)
        for name, (dtype, shape) in foreign.items():
            tensors[name] = tensors[name].view(FOREIGN[dtype]).reshape(shape)
        return dict(sorted(tensors.items()))  # they come in any order
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise broken(path.parent, f"{path.name} is no safetensors file ({error})") from error


def broken(path: Path, what: str) -> CheckpointError:
    """The error that says what is wrong with a checkpoint."""
    return CheckpointError(
        f"the checkpoint {path} is broken: {what}",
        expected="the files as Ignition wrote them",
        fix="use another checkpoint, or delete this one",
    )


@contextmanager
def checksums_of(files: Mapping[str, list[memoryview]]) -> Iterator[Callable[[], dict[str, str]]]:
    """The checksums of files, worked out by a thread of their own: Python lets it run while the disk is waited for."""
    found: dict[str, str] = {}

    def work() -> None:
        for file, parts in files.items():
            digest = hashlib.sha256()
            for part in parts:
                digest.update(part)
            found[file] = digest.hexdigest()

    def finished() -> dict[str, str]:
        thread.join()
        return found

    thread = threading.Thread(target=work, name="ignition-checksums")
    try:
        thread.start()
    except RuntimeError:  # Python is about to end, and starts no more threads
        work()
        yield lambda: found
        return
    try:
        yield finished
    finally:
        thread.join()


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes and flushes a file."""
    with path.open("wb") as file:  # a file object: torch and safetensors hide why a disk refused
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_json(file: BinaryIO, size: int) -> bool:
    begins = file.read(12) == b'{"checksum":'
    file.seek(-1, os.SEEK_END)
    return begins and file.read(1) == b"}"


def _canonical(body: Mapping[str, Any]) -> bytes:
    return _SORTED.encode(body).encode()


def _lines(value: Any, encoder: json.JSONEncoder, depth: int = 3) -> Iterator[str]:
    """JSON in pieces, which are the lines of the file: while Python makes one, no other thread of it runs."""
    if isinstance(value, Mapping) and value and depth:
        opening = "{"
        for key in sorted(value) if encoder.sort_keys else value:
            first, *others = _lines(value[key], encoder, depth - 1)
            yield f"{opening}{encoder.encode(key)}:{first}"
            yield from others
            opening = ","
        yield "}"
    elif isinstance(value, list) and len(value) > _PIECE:
        for start in range(0, len(value), _PIECE):
            yield f"{',' if start else '['}{encoder.encode(value[start : start + _PIECE])[1:-1]}"
        yield "]"
    else:
        yield encoder.encode(value)
