"""Reading what wandb has written offline: which of its rows are there shows where a run goes on."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["records", "rows"]

_HEADER, _BLOCK = 7, 32768
_WHOLE, _FIRST, _LAST = 1, 2, 4
_PATIENCE = 5.0  # seconds


def rows(path: Path, finished: float = 0.0) -> list[dict[str, Any]]:
    """The rows of history in a ``.wandb`` file; those of a process that was killed end with the last whole one.

    ``Run.finish`` may return before the file is written, all of it even: one that lacks its end is waited for until
    nobody has written to it for some seconds.

    Args:
        path: The file.
        finished: When ``Run.finish`` returned, in seconds since 1970; it may be long after the last writing.
    """
    while True:
        found, kinds = [], set()
        for record in records(path):
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("history"):
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        if "exit" in kinds or not 0 <= time.time() - max(path.stat().st_mtime, finished) < _PATIENCE:
            return found
        time.sleep(0.05)


def records(path: Path) -> Iterator[Any]:
    """The ``wandb_internal_pb2.Record`` in a ``.wandb`` file.

    It is a log in the format of LevelDB, after a header of seven bytes that is part of the first block. See
    https://github.com/google/leveldb/blob/main/doc/log_format.md.

    Args:
        path: The file.
    """
    from wandb.proto import wandb_internal_pb2

    for content in _contents(path.read_bytes()):
        yield wandb_internal_pb2.Record.FromString(content)  # type: ignore[attr-defined]


def _contents(data: bytes) -> Iterator[bytes]:
    place, content = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        _, size, kind = struct.unpack_from("<IHB", data, place)  # the checksum is not looked at
        if left < _HEADER or kind == 0:  # filled up to the block's end
            place += left
            continue
        part = data[place + _HEADER : place + _HEADER + size]
        if len(part) < size:
            return
        place += _HEADER + size
        content = part if kind in (_WHOLE, _FIRST) else content + part
        if kind in (_WHOLE, _LAST):
            yield content
