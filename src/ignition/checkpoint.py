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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ignition.errors import CheckpointError

__all__ = ["VERSION", "Content", "read", "remove", "sweep", "write"]

VERSION = 1

_STATE = "state.json"
_WRITING = ".writing-"
_REMOVING = ".removing-"


@dataclass(slots=True)
class Content:
    """What a checkpoint holds.

    Attributes:
        state: Plain values, as `ignition.codec.encode` makes them.
        tensors: For each file without its ending ("model", "optimizer", "state") its tensors, on the CPU.
    """

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def write(path: Path, content: Content) -> None:
    """Writes a checkpoint, whole or not at all: whoever looks sees the old one or the new one.

    Every file is flushed to the disk before the folder gets its name, and the name is flushed after it.

    Args:
        path: The folder. One that is there is replaced.
        content: What to write.

    Raises:
        OSError: If it cannot be written. What was there before stays; nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{_WRITING}{path.name}"
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that died
    try:
        partial.mkdir()
        checksums = {}
        for name, tensors in content.tensors.items():
            if tensors or name != "state":
                file = f"{name}.safetensors"
                checksums[file] = _write_file(partial / file, _serialised(tensors))
        body = {"version": VERSION, "checksums": checksums, "state": content.state}
        text = json.dumps({"checksum": _checksum(_canonical(body)), **body}, indent=1, allow_nan=False)
        _write_file(partial / _STATE, text.encode())
        _flush_folder(partial)
        if path.exists():
            remove(path)  # of an earlier life of this training, which ended after it had been passed over
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        error.add_note(f"the checkpoint {path} could not be written; those that were there before are whole")
        raise


def read(path: Path) -> Content:
    """Reads a checkpoint, and checks every byte of it.

    Raises:
        CheckpointError: If a file is missing, cut off or changed, or the format is another version's.
    """
    body = _read_state(path)
    tensors = {}
    for file, checksum in body["checksums"].items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise _broken(path, f"{file!r} is the name of no file of a checkpoint")
        tensors[file.removesuffix(".safetensors")] = _read_tensors(path / file, checksum)
    return Content(body["state"], tensors)


def remove(path: Path) -> None:
    """Removes a checkpoint; it loses its name first, so that nobody reads a half of it."""
    gone = path.parent / f"{_REMOVING}{path.name}"
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what writers that died have left in a folder."""
    for left in (*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_REMOVING}*")):
        shutil.rmtree(left, ignore_errors=True)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        body = json.loads((path / _STATE).read_bytes())
    except OSError as error:
        raise _broken(path, f"{_STATE} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"{_STATE} is no JSON ({error})") from error
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("checksums"), dict)
        or not isinstance(body.get("state"), dict)
    ):
        raise _broken(path, f"{_STATE} is not that of a checkpoint")
    if body.get("version") != VERSION:
        raise CheckpointError(
            f"the checkpoint {path} has the format version {body.get('version')!r}",
            expected=f"version {VERSION}",
            fix="read it with the release of Ignition that wrote it",
        )
    checksum = body.pop("checksum", None)
    if checksum != _checksum(_canonical(body)):
        raise _broken(path, f"{_STATE} has been changed since it was written")
    return body


def _read_tensors(path: Path, checksum: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise _broken(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if _checksum(data) != checksum:
        raise _broken(path.parent, f"{path.name} is not as it was written: it was cut off, changed or exchanged")
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _broken(path.parent, f"{path.name} is no safetensors file ({error})") from error


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is broken: {what}",
        expected="the files as Ignition wrote them",
        fix="use another checkpoint, or delete this one",
    )


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"})


def _write_file(path: Path, data: bytes) -> str:
    """Writes and flushes a file; returns its checksum."""
    with path.open("wb") as file:  # a file object: torch and safetensors hide why a disk refused
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _checksum(data)


def _flush_folder(path: Path) -> None:
    """Makes the names in a folder last through a loss of power, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
