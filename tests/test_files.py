"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ignition import files
from ignition.files import open_regular, write_text, write_whole


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError("no"), OSError("gone")])
def test_whatever_interrupts_the_writing_nothing_is_left(failure: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(partial: Path) -> None:
        partial.write_text("half")
        (partial.parent / "more").touch()
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        write_whole(path, write)

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_file_is_there_until_the_new_one_is_whole_and_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen: list[str] = []
    flush = os.fsync

    def watched_flush(descriptor: int) -> None:
        seen.append(path.read_text())
        flush(descriptor)

    def write(partial: Path) -> None:
        partial.write_text("new")
        seen.append(path.read_text())

    monkeypatch.setattr(os, "fsync", watched_flush)
    write_whole(path, write)

    assert seen == ["old", "old", "new"]  # while it is written, at its flush, at the folder's flush


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, lambda file: file.write("one\n"))
    write_text(str(path), lambda file: file.write("two\ud800\n"))
    assert path.read_bytes() == b"two\\ud800\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    def write(file):
        file.write("half")
        raise KeyError("stop")

    path = tmp_path / "a.txt"
    path.write_text("whole")
    with pytest.raises(KeyError, match="stop"):
        write_text(path, write)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    path.write_text("old")
    link.symlink_to(path)
    write_text(link, lambda file: file.write("new"))
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_only_what_is_a_file_is_opened_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"whole")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"whole"
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_only_a_large_file_is_asked_whether_it_may_be_as_large(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    asked = []

    def is_whole(file: Any, size: int) -> bool:
        asked.append((file.read(3), size))
        return size == 10

    for large, expected in ((10, []), (9, [(b"012", 10)])):
        monkeypatch.setattr(files, "_LARGE", large)
        with open_regular(tmp_path / "a", is_whole) as file:
            assert file.read() == b"0123456789"
        assert asked == expected


def test_a_file_that_is_larger_than_it_may_be_is_closed_again(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "_LARGE", 0)
    (tmp_path / "a").write_bytes(b"0123456789")
    opened: list[Any] = []
    with pytest.raises(OSError, match="its 10 bytes are not what it begins with"):
        open_regular(tmp_path / "a", lambda file, size: bool(opened.append(file)))
    assert opened[0].closed
