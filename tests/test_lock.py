"""One writer for a folder, and no lock that outlives its holder."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ignition.errors import CheckpointError
from ignition.lock import FolderLock

HOLDER = """
import os, sys, time
from pathlib import Path
from ignition.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
child = os.fork() if sys.argv[2] == "with a child" else None
if child == 0:
    os.close(1)
    sys.stdin.read()  # lives until the test closes the pipe
    os._exit(0)
print(child, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold a folder; they end with the test."""
    started = []

    def start(folder, kind="alone"):
        command = [sys.executable, "-c", HOLDER, str(folder), kind]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        child = process.stdout.readline().strip()
        return process, int(child) if child.isdigit() else None

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def is_alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_folder_is_made(tmp_path):
    lock = FolderLock(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "lock").read_text() == str(os.getpid())
    lock.release()


def test_a_second_lock_of_this_process_is_refused_until_the_first_is_released(tmp_path):
    lock = FolderLock(tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "link")
    for name in ("a", "link", "a/../a"):
        with pytest.raises(CheckpointError, match=r"(?s)another fit of this process.*to do: wait"):
            FolderLock(tmp_path / name)
    FolderLock(tmp_path / "other").release()
    lock.release()
    again = FolderLock(tmp_path / "link")
    lock.release()  # a second time: not another's
    with pytest.raises(CheckpointError, match="is being written"):
        FolderLock(tmp_path / "a")
    again.release()


@pytest.mark.slow
def test_another_process_is_refused_with_the_number_of_the_holder(tmp_path, holder):
    process, _ = holder(tmp_path)
    with pytest.raises(CheckpointError, match=f"being written by the process {process.pid}\n.*\n.*another folder"):
        FolderLock(tmp_path)
    gc.collect()  # no file is left open: that would be a ResourceWarning
    assert (tmp_path / "lock").read_text() == str(process.pid)


@pytest.mark.fault("the lock of a dead process", "taken over")
@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, holder):
    process, _ = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FolderLock(tmp_path).release()


@pytest.mark.fault("the lock of a dead process", "taken over")
@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over_while_its_children_live(tmp_path, holder):
    process, child = holder(tmp_path, "with a child")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_alive(child)
    FolderLock(tmp_path).release()
    assert is_alive(child)
    process.stdin.close()
    while is_alive(child):
        time.sleep(0.01)


@pytest.mark.slow
def test_a_child_does_not_end_the_lock_of_its_parent(tmp_path, holder):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                FolderLock(tmp_path)
            except CheckpointError as error:
                status = 0 if f"the process {os.getppid()}" in str(error) else 2
            lock.release()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not takes(tmp_path)
    lock.release()
    assert takes(tmp_path)


@pytest.mark.slow
def test_a_copy_of_the_folder_does_not_end_the_lock(tmp_path):
    lock = FolderLock(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert not takes(tmp_path / "a")
    lock.release()


def takes(folder):
    """Whether another process gets the lock."""
    code = "import sys, pathlib; from ignition.lock import FolderLock; FolderLock(pathlib.Path(sys.argv[1]))"
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert found.returncode == 0 or "CheckpointError" in found.stderr
    return found.returncode == 0


def test_a_file_that_a_dead_holder_left_is_no_lock(tmp_path):
    (tmp_path / "lock").write_text("1")
    lock = FolderLock(tmp_path)
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    lock.release()


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/nowhere", "folder"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"{name} cannot be used for checkpoints: .*\n.*\n  to do: mend it"):
        FolderLock(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be used"):  # and not: in use
        FolderLock(tmp_path / name)
