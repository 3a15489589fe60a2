"""Sharded tensors as files: each process writes its own rows, and any number of processes reads the rows that it needs.

Beside the files of a checkpoint lie, for each kind of them that has sharded tensors, as many files as there were
processes: ``model-00001-of-00003.safetensors``. What is in them stands in a description of plain values, which the
checkpoint's state.json holds::

    {"tensors": {name: {"dtype": "torch.float32", "shape": [7, 5]}},
     "files": [{"name": ..., "checksum": ..., "foreign": {...}, "rows": {name: [first row, number of rows]}}]}

The steps of writing: one process makes the folder (`ignition.checkpoint.begin`), each calls `write_part`, one joins
what these return (`joined`) and ends the checkpoint with it (`ignition.checkpoint.finish`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ignition.checkpoint import broken, checksums_of, write_file
from ignition.errors import CheckpointError
from ignition.files import open_regular
from ignition.tensor_files import is_whole, serialised

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ignition.dtensors import Part

__all__ = ["Parts", "joined", "read_parts", "write_part"]

_NAME = re.compile(r"[a-z]+-\d{5,}-of-\d{5,}\.safetensors")
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def write_part(folder: Path, kind: str, rank: int, count: int, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Writes and flushes what one process holds.

    Args:
        folder: That of the checkpoint in the making; it must be there.
        kind: "model", "optimizer" or "state".
        rank: Which process this is, from 0 on.
        count: How many there are.
        parts: The rows by the tensors' names, on the CPU.

    Returns:
        Plain values for `joined`.

    Raises:
        OSError: If it cannot be written.
    """
    name = f"{kind}-{rank + 1:05}-of-{count:05}.safetensors"
    held = {key: part for key, part in parts.items() if part.rows.shape[0]}
    blocks, foreign = serialised({key: part.rows for key, part in held.items()})
    with checksums_of({name: blocks}) as checksums:
        write_file(folder / name, blocks)
        checksum = checksums()[name]
    return {
        "name": name,
        "checksum": checksum,
        "foreign": foreign,
        "rows": {key: [part.start, part.rows.shape[0]] for key, part in held.items()},
        "tensors": {key: {"dtype": str(one.rows.dtype), "shape": list(one.shape)} for key, one in parts.items()},
    }


def joined(written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The description of all files of one kind, of what `write_part` returned in each process, by rank.

    Raises:
        CheckpointError: If the processes do not hold the same tensors, or leave rows out.
    """
    tensors = written[0]["tensors"]
    odd = [rank for rank, one in enumerate(written) if one["tensors"] != tensors]
    if odd:
        raise CheckpointError(
            f"process {', '.join(map(str, odd))} holds parts of other tensors than process 0",
            expected="the same names, shapes and types in every process",
            fix="make models, optimizers and callbacks in the same way whatever the rank",
        )
    files = [{key: one[key] for key in ("name", "checksum", "foreign", "rows")} for one in written]
    described = {"tensors": tensors, "files": files}
    for name, tensor in tensors.items():
        _check_rows(name, tensor["shape"], [one["rows"][name] for one in files if name in one["rows"]])
    return described


class Parts:
    """Reads rows of sharded tensors; a file is checked, every byte of it, when it is needed first.

    To be used in a ``with`` block, which closes the files.

    Args:
        folder: That of the checkpoint.
        described: What `joined` returned, after a way through JSON.

    Attributes:
        shapes: The whole tensors' shapes by name.
        opened: The files that were needed so far.

    Raises:
        CheckpointError: If it is no such description.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}
        try:
            self.shapes = {name: tuple(map(int, one["shape"])) for name, one in described["tensors"].items()}
            self._dtypes = {name: _DTYPES[one["dtype"]] for name, one in described["tensors"].items()}
            self._files = [dict(one) for one in described["files"]]
            for one in self._files:
                if not _NAME.fullmatch(one["name"]):
                    raise ValueError(f"{str(one['name'])[:80]!r} is no file of a checkpoint")
            self._rows: dict[str, list[tuple[int, int, dict[str, Any]]]] = {
                name: sorted(
                    ((int(one["rows"][name][0]), int(one["rows"][name][1]), one) for one in self._files
                     if name in one["rows"]), key=lambda row: row[0],
                )
                for name in self.shapes
            }  # fmt: skip
            for name, rows in self._rows.items():
                _check_rows(name, self.shapes[name], [[start, length] for start, length, _ in rows])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise broken(folder, f"its description of sharded tensors is not as it was written ({error})") from error

    @property
    def opened(self) -> list[str]:
        """The names of the files that were needed so far."""
        return [*self._open]

    def rows(self, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """Some rows of a tensor, by default all, as a tensor of its own on the CPU.

        Raises:
            CheckpointError: If a file that holds some of them is missing, cut off or changed.
        """
        shape = self.shapes[name]
        end = shape[0] if length is None else start + length
        try:
            found = torch.empty((end - start, *shape[1:]), dtype=self._dtypes[name])
        except (RuntimeError, TypeError, ValueError) as error:  # less than nothing, or more than any memory holds
            raise broken(self._folder, f"{name} has the shape {shape} in its description ({error})") from error
        for first, count, file in self._rows[name]:
            here, there = max(start, first), min(end, first + count)
            if here < there:
                self._copy(file, name, here - first, found[here - start : there - start])
        return found

    def _copy(self, file: dict[str, Any], name: str, first: int, into: Tensor) -> None:
        from safetensors import SafetensorError

        try:
            handle = self._open.get(file["name"])
            if handle is None:
                handle = self._open[file["name"]] = self._checked(file)
            piece = handle.get_slice(name)
            if name in file["foreign"]:  # kept as bytes, without a shape
                row = into[0].numel() * into.element_size()
                # In memory of its own: in the file it may lie where its type cannot be read (a segmentation fault).
                found = piece[first * row : (first + len(into)) * row].clone().view(into.dtype).reshape(into.shape)
            else:
                found = piece[first : first + len(into)]
            if found.dtype != into.dtype or found.shape != into.shape:
                raise ValueError(f"{name} is of {found.dtype} and {tuple(found.shape)}")
            into.copy_(found)
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise broken(self._folder, f"{file['name']} is not what its description says ({error})") from error

    def _checked(self, file: Mapping[str, Any]) -> Any:
        from safetensors import safe_open

        path = self._folder / file["name"]
        try:
            with open_regular(path, is_whole) as opened:
                checksum = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise broken(self._folder, f"{path.name} cannot be read ({error.strerror})") from error
        if checksum != file["checksum"]:
            raise broken(self._folder, f"{path.name} is not as it was written: it was cut off, changed or exchanged")
        return safe_open(path, framework="pt").__enter__()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            _, handle = self._open.popitem()
            handle.__exit__(None, None, None)


def read_parts(
    folder: Path, described: Mapping[str, Any], mesh: DeviceMesh | None = None, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a description: whole ones, or sharded over the processes that there are now.

    Each process reads the rows that it is to hold, and no files but those that have some of them. It talks to nobody.

    Args:
        folder: That of the checkpoint.
        described: What `joined` returned, after a way through JSON.
        mesh: The processes, in one row; None for whole tensors on the CPU.
        names: Which tensors; all by default.

    Raises:
        CheckpointError: If the description or a file that is needed is not as it was written.
    """
    with Parts(folder, described) as parts:
        wanted = [*parts.shapes] if names is None else [*names]
        if mesh is None:
            return {name: parts.rows(name) for name in wanted}
        from ignition.dtensors import from_part, span

        tensors: dict[str, Tensor] = {}
        for name in wanted:
            shape = parts.shapes[name]
            start, length = span(shape[0], mesh.get_local_rank(), mesh.size())
            tensors[name] = from_part(parts.rows(name, start, length), shape, mesh)
        return tensors


def _check_rows(name: str, shape: Sequence[int], rows: Iterable[list[int]]) -> None:
    """That the rows are those of the whole tensor, each once."""
    place = 0
    for start, length in sorted(rows):
        if start != place or length < 1:
            break
        place += length
    else:
        if shape and place == shape[0]:
            return
    raise CheckpointError(
        f"the parts of {name} are not its {shape[0] if shape else 1} rows, each of them once",
        expected="parts that were written by the processes of one training at one step",
        fix="use another checkpoint",
    )
