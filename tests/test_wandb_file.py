"""The reader of wandb's files, against logs that are put together by hand from the format's description."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from ignition.callbacks.wandb_file import records, rows

BLOCK = 32768


def row(values: dict[str, Any]) -> bytes:
    record = wandb_internal_pb2.Record()
    for name, value in values.items():
        record.history.item.add(key=name, value_json=json.dumps(value))
    return bytes(record.SerializeToString())


def log(contents: list[bytes]) -> bytes:
    """The contents as LevelDB lays them out: cut at the ends of blocks, whose last bytes are zero if too few."""
    data = b":W&B\xe1\xbe\x00"
    for content in contents:
        rest, kind = content, "first"
        while rest or kind == "first":
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            number = (1 if kind == "first" else 4) if not rest else (2 if kind == "first" else 3)
            data += struct.pack("<IHB", 0, len(part), number) + part
            kind = "next"
    return data


@pytest.mark.parametrize("size", [10, 32000, BLOCK - 40, BLOCK, 3 * BLOCK + 5])
def test_rows_of_any_size_are_read_over_the_ends_of_blocks(size: int, tmp_path: Path) -> None:
    expected = [{"loss": 0.5 / (number + 1), "text": "x" * size, "_step": number} for number in range(7)]
    path = tmp_path / "run-a.wandb"
    path.write_bytes(log([row(values) for values in expected]))
    os.utime(path, (0, 0))
    assert rows(path) == expected


@pytest.mark.parametrize("filled", range(BLOCK - 10, BLOCK + 1))
def test_the_end_of_a_block_may_leave_no_room_for_a_header(filled: int, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    first = filled - 7 - 7 - len(row({"a": ""}))
    for padding in (first - 8, first - 6, first - 4):
        contents = [row({"a": "x" * padding}), row({"b": 1}), row({"c": 2})]
        path.write_bytes(log(contents))
        assert [record.SerializeToString() for record in records(path)] == contents


def test_what_was_cut_off_ends_with_the_last_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    whole = log([row({"a": 1})])
    data = log([row({"a": 1}), row({"a": 2})])
    for end in range(len(whole), len(data)):
        path.write_bytes(data[:end])
        os.utime(path, (0, 0))
        assert rows(path) == [{"a": 1}]


def test_a_file_that_is_written_when_the_run_has_ended_is_waited_for_however_old_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(log([]))
    os.utime(path, (0, 0))  # nothing was written while it trained
    end = wandb_internal_pb2.Record(exit=wandb_internal_pb2.RunExitRecord())

    def write() -> None:
        time.sleep(0.2)
        path.write_bytes(log([row({"a": 1}), bytes(end.SerializeToString())]))

    thread = threading.Thread(target=write)
    thread.start()
    found = rows(path, finished=time.time())
    thread.join()
    assert found == [{"a": 1}]
