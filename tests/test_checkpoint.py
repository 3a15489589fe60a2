"""The folder of a checkpoint is whole or not there, whatever happens while it is written, and nothing in it runs."""

import errno
import hashlib
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from marks import slow
from torch import nn

from ignition import Trainer, crossentropy_loss, files, fit_on_batch
from ignition.callbacks import Checkpoint
from ignition.checkpoint import Content, OtherVersion, read, remove, sweep, write
from ignition.errors import CheckpointError, IgnitionWarning

FILES = ("model.safetensors", "optimizer.safetensors", "state.safetensors", "state.json")


def content(step, size=30):
    """What differs in every file from what any other step has."""
    generator = torch.Generator().manual_seed(step)
    return Content(
        {"step": step, "history": [step] * 40},
        {name: {f"{name}.a": torch.randn(size, size, generator=generator)} for name in ("model", "optimizer", "state")},
    )


def is_of(found, step, size=30):
    expected = content(step, size)
    return found.state == expected.state and all(
        torch.equal(found.tensors[file][name], tensor)
        for file, tensors in expected.tensors.items()
        for name, tensor in tensors.items()
    )


def in_child(function):
    """What `function` returns, as text, in a forked process that ends without clearing up."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(here, str(function()).encode())
        except BaseException as error:
            os.write(here, f"failed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(here)
    with open(there, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# What is written


@pytest.mark.parametrize("count", [0, 1, 500, 501, 1200])
def test_a_state_of_any_length_comes_back_in_its_order_and_its_file_is_plain_json(count, tmp_path):
    state = {
        "z": {},
        "a": {"records": [{"step": number, "b\n": "\u2028\ud800", "a": [None, {}]} for number in range(count)], "": []},
        "m": list(range(count)),
    }
    write(tmp_path / "a", Content(state))
    found = read(tmp_path / "a").state
    assert json.dumps(found) == json.dumps(state)  # the order of the keys too
    assert json.loads((tmp_path / "a" / "state.json").read_text())["state"] == state
    lines = (tmp_path / "a" / "state.json").read_text().splitlines()
    assert max(map(len, lines)) < 40_000  # no piece holds up the other threads of Python for long


def test_checksums_are_those_that_any_tool_finds(tmp_path):
    write(tmp_path / "a", content(1))
    checksums = json.loads((tmp_path / "a" / "state.json").read_text())["checksums"]
    assert checksums == {name: hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() for name in FILES[:3]}


def test_it_is_written_while_python_ends_and_starts_no_more_threads(tmp_path, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr("threading.Thread.start", refuse)
    write(tmp_path / "a", content(1))
    assert is_of(read(tmp_path / "a"), 1)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "deep" / "a", content(1))
    assert is_of(read(tmp_path / "deep" / "a"), 1)
    assert sorted(os.listdir(tmp_path / "deep" / "a")) == sorted(FILES)
    assert os.listdir(tmp_path / "deep") == ["a"]


def test_any_tool_opens_the_weights(tmp_path):
    weights = nn.Linear(3, 2).state_dict()
    write(tmp_path / "a", Content({}, {"model": weights, "optimizer": {}, "state": {}}))
    model = nn.Linear(3, 2)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "a" / "model.safetensors"), strict=True)
    assert torch.equal(model.weight, weights["weight"])
    assert sorted(os.listdir(tmp_path / "a")) == ["model.safetensors", "optimizer.safetensors", "state.json"]


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e8m0fnu, torch.float4_e2m1fn_x2, torch.complex64, torch.complex128, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type_and_shape_come_back(tmp_path, dtype):
    numbers = torch.arange(256, dtype=torch.uint8) % 2
    tensors = {
        "matrix": numbers[:96].view(dtype).reshape(3, -1),
        "scalar": numbers[: dtype.itemsize].view(dtype).reshape(()),
        "empty": numbers[:0].view(dtype).reshape(0, 4),
        "ünïcode.name": numbers[:96].view(dtype),
    }
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["transposed"] = tensors["matrix"].clone().t()
    write(tmp_path / "a", Content({}, {"model": tensors}))
    found = read(tmp_path / "a").tensors["model"]
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (dtype, tensor.shape)
        assert as_bytes(found[name]) == as_bytes(tensor)


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_an_older_one_of_that_name_is_replaced(tmp_path):
    write(tmp_path / "a", content(1))
    (tmp_path / "a" / "more").write_text("")
    write(tmp_path / "a", content(2))
    assert is_of(read(tmp_path / "a"), 2)
    assert os.listdir(tmp_path) == ["a"]
    assert sorted(os.listdir(tmp_path / "a")) == sorted(FILES)


def test_remove_and_sweep_take_away_what_is_theirs(tmp_path):
    write(tmp_path / "a", content(1))
    write(tmp_path / "b", content(2))
    (tmp_path / ".writing-c").mkdir()
    (tmp_path / ".writing-c" / "state.json").write_text("{")
    (tmp_path / ".hidden").mkdir()
    remove(tmp_path / "a")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "b"]


# What is broken


@pytest.fixture
def written(tmp_path):
    write(tmp_path / "a", content(1, size=60))
    return tmp_path / "a"


def refused(path, file):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert file in message
    assert "to do: use another checkpoint, or delete this one" in message
    return message


@pytest.mark.fault("a file cut off at each 4 KB and at its ends", "Message 1")
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_off_anywhere_is_refused(written, file):
    whole = (written / file).read_bytes()
    lengths = [*range(0, len(whole), 4096), 1, 7, len(whole) // 2, len(whole) - 1]
    for length in lengths:
        (written / file).write_bytes(whole[:length])
        refused(written, file)
    (written / file).write_bytes(whole + b"\0")
    refused(written, file)
    (written / file).write_bytes(whole)
    assert is_of(read(written), 1, size=60)


@pytest.mark.fault("one bit of a file flipped", "Message 396", 396)
@pytest.mark.parametrize("file", [FILES[0], *map(slow, FILES[1:])])
def test_one_flipped_bit_in_any_place_is_refused(tmp_path, file):
    write(tmp_path / "a", content(1))
    whole = (tmp_path / "a" / file).read_bytes()
    draw = random.Random(f"flips of {file}")
    places = [(draw.randrange(len(whole)), draw.randrange(8)) for _ in range(300)]
    places += [(index, bit) for index in range(12) for bit in range(8)]  # the lengths and the first letters
    for index, bit in places:
        changed = bytearray(whole)
        changed[index] ^= 1 << bit
        (tmp_path / "a" / file).write_bytes(changed)
        refused(tmp_path / "a", file)


@pytest.mark.fault("a file of another step", "Message 1")
@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_step_is_refused(tmp_path, written, file):
    write(tmp_path / "b", content(2, size=60))
    shutil.copy(tmp_path / "b" / file, written / file)
    refused(written, "safetensors" if file == "state.json" else file)


@pytest.mark.fault("a file missing", "Message 1")
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing_or_no_file_is_refused(written, file):
    (written / file).unlink()
    assert "No such file" in refused(written, file)
    (written / file).mkdir()
    refused(written, file)


@pytest.mark.fault("a pipe or a device in the place of a file", "Message 1, no Hang")
@pytest.mark.parametrize("file", FILES)
def test_what_would_be_read_for_ever_is_refused(written, file):
    (written / file).unlink()
    os.mkfifo(written / file)
    assert "no regular file" in refused(written, file)
    (written / file).unlink()
    (written / file).symlink_to("/dev/zero")
    assert "no regular file" in refused(written, file)


def test_a_checkpoint_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)there is no checkpoint .*nowhere.*to do: "):
        read(tmp_path / "nowhere")


# What is crafted


class Evil:
    """Makes the file `path` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def sign(folder, **changes):
    """state.json as somebody would write it who knows the format."""
    body = json.loads((folder / "state.json").read_text())
    del body["checksum"]
    for path in folder.glob("*.safetensors"):
        if path.name in body["checksums"]:
            body["checksums"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    body |= changes
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(body))


@pytest.mark.fault("a malicious pickle in the place of a file", "nothing executed, Message 1")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_malicious_pickle_is_never_run(tmp_path, written, file, kind):
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(Evil(sentinel)))  # it is malicious indeed
    assert sentinel.exists()
    sentinel.unlink()
    for name in ("data.pkl", ".metadata", "optimizer.pt", "__init__.py", "state.pkl"):
        (written / name).write_bytes(pickle.dumps(Evil(sentinel)))
    assert is_of(read(written), 1, size=60)
    if kind == "pickle":
        (written / file).write_bytes(pickle.dumps(Evil(sentinel)))
    else:
        torch.save(Evil(sentinel), written / file)
    refused(written, file)
    if file != "state.json":
        sign(written)
        assert "no safetensors file" in refused(written, file)
    assert not sentinel.exists()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("begins", ["with nothing", "as it should"])
def test_a_file_that_is_mostly_a_hole_is_refused_without_being_read(written, file, begins):
    content = (written / file).read_bytes() if begins == "as it should" else b""
    with (written / file).open("wb") as opened:
        opened.write(content)
        opened.truncate(2**40)  # more than any memory holds
    assert f"{file} cannot be read (its {2**40} bytes are not what it begins with)" in refused(written, file)


def test_a_large_file_that_is_whole_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGE", 10)
    write(tmp_path / "a", content(1))
    assert is_of(read(tmp_path / "a"), 1)


@pytest.mark.fault("crafted JSON", "nothing executed, Message 1")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{",
        b"\xff\xfe\x00",
        b'{"version": 1}',
        b'{"version": NaN, "checksums": {}, "state": {}}',
        b'{"version": 1, "checksums": {}, "foreign": {}, "state": {"a": Infinity}}',
        b'{"version": 1, "checksums": {}, "foreign": {}, "state": {"a": 1e999}}',
        b'{"version": 1, "checksums": {}, "foreign": {}, "state": {"a": ' + b"9" * 5000 + b"}}",
        b'{"__reduce__": ["os.system", "true"], "version": 1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"version": 1, "checksums": {}, "foreign": {}, "state": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}",
    ],
)
def test_crafted_json_is_refused(written, text):
    (written / "state.json").write_bytes(text)
    refused(written, "state.json")


@pytest.mark.fault("crafted JSON", "nothing executed, Message 1")
@pytest.mark.parametrize(
    "name",
    [
        "../b/model.safetensors",
        "/etc/passwd",
        "..",
        "../x",
        "model.safetensors/../../b/model.safetensors",
        "a\0.safetensors",
        "other.safetensors",
        "model",
        "",
        "x" * 5000,
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, written, name):
    write(tmp_path / "b", content(2))
    digest = hashlib.sha256((tmp_path / "b" / "model.safetensors").read_bytes()).hexdigest()
    sign(written, checksums={name: digest})
    assert "is no file of a checkpoint" in refused(written, "state.json")


@pytest.mark.fault("crafted JSON", "nothing executed, Message 1")
@pytest.mark.parametrize(
    "changes",
    [
        {"checksums": []},
        {"checksums": {"model.safetensors": None}},
        {"checksums": {"model.safetensors": ["a"]}},
        {"state": None},
        {"state": []},
        {"foreign": 3},
        {"foreign": {"model.safetensors": 3}},
        {"foreign": {"model.safetensors": {"missing": ["torch.complex128", [1]]}}},
        {"foreign": {"model.safetensors": {"model.a": ["torch.load", [1]]}}},
        {"foreign": {"model.safetensors": {"model.a": ["torch.complex128", [7, 7]]}}},
        {"foreign": {"model.safetensors": {"model.a": 3}}},
    ],
)
def test_signed_json_of_another_form_is_refused(written, changes):
    sign(written, **changes)
    refused(written, "")


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.fault("crafted safetensors", "nothing executed, Message 1")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        header(b"{"),
        header(b"[" * 50_000),
        header({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"\0" * 4),
        header({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
        header(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
            },
            b"\0" * 6,
        ),
        b'{"$": ["eval", "1"]}' * 100,
    ],
)
def test_crafted_safetensors_are_refused(written, data):
    (written / "model.safetensors").write_bytes(data)
    refused(written, "model.safetensors")
    sign(written)
    assert "no safetensors file" in refused(written, "model.safetensors")


@pytest.mark.fault("a checkpoint of another format version", "Message 1")
def test_another_version_is_told_apart_from_a_broken_one(written):
    sign(written, version=7)
    with pytest.raises(OtherVersion, match=r"(?s)has the format version 7.*expected: version 1.*the release of"):
        read(written)
    text = (written / "state.json").read_text()
    (written / "state.json").write_text(text.replace('"version": 7', '"version": 3'))
    refused(written, "state.json")  # nobody wrote it like that


# What goes wrong while it is written


class Calls:
    """Stands between a writer and the system; counts what it asks for, and acts before or after one such call."""

    def __init__(self, monkeypatch, point=None, after=False, act=None):
        self.seen, self.point, self.after, self.act = [], point, after, act
        for name in ("mkdir", "replace", "fsync", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))
        real = Path.open

        def opened(path, *args, **kwargs):
            file = self.call("open", path.name, lambda: real(path, *args, **kwargs))
            return Watched(self, path.name, file)

        monkeypatch.setattr(Path, "open", opened)

    def wrapped(self, name, real):
        def called(first, *args, **kwargs):
            target = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else first
            return self.call(name, os.path.basename(target), lambda: real(first, *args, **kwargs))

        return called

    def call(self, name, target, real):
        self.seen.append((name, target))
        here = len(self.seen) - 1 == self.point
        if here and not self.after:
            self.act()
        result = None
        try:
            result = real()
        finally:
            if here and self.after:
                if result is not None and name == "open":
                    result.close()
                self.act()
        return result


class Watched:
    def __init__(self, calls, name, file):
        self.calls, self.name, self.file = calls, name, file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        return self.calls.call("write", self.name, lambda: self.file.write(data[half:]))

    def flush(self):
        self.calls.call("flush", self.name, self.file.flush)

    def fileno(self):
        return self.file.fileno()


def points(monkeypatch, job):
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        job()
        return calls.seen


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    write(tmp_path / "a", content(1))
    seen = points(monkeypatch, lambda: write(tmp_path / "a", content(2)))
    order = []
    for file in FILES:
        order += [("open", file), ("write", file), ("flush", file), ("fsync", file)]
    order += [("fsync", ".writing-a"), ("replace", "a"), ("replace", ".writing-a"), ("fsync", tmp_path.name)]
    assert seen[0] == ("mkdir", tmp_path.name) or seen[0] == ("mkdir", ".writing-a")
    seen = [call for call, _ in groupby(seen)]  # a file is written in parts, tensor by tensor
    start = seen.index(order[0])
    assert seen[start : start + len(order)] == order
    assert {name for name, _ in seen[start + len(order) :]} == {"unlink", "rmdir"}  # the old one goes last


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def jobs(folder):
    """What a Checkpoint asks for: each leaves one of the named steps at the named places."""
    return {
        "a new one": (lambda: write(folder / "new", content(3)), {"new": {None, 3}, "old": {1}, "other": {2}}),
        "replaced": (lambda: write(folder / "old", content(3)), {"old": {1, 3}, "other": {2}}),
        "removed": (lambda: remove(folder / "old"), {"old": {None, 1}, "other": {2}}),
    }


def holds(folder, name, steps):
    """Whether one of `steps` can be read there, whole; None stands for none."""
    try:
        found = read(folder / name)
    except CheckpointError as error:
        return None in steps and "there is no checkpoint" in str(error)
    return any(step is not None and is_of(found, step) for step in steps)


@pytest.mark.parametrize("job", ["a new one", "replaced", "removed"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("end", ["dies", "fails"])
@pytest.mark.slow
def test_at_every_point_the_older_checkpoint_stays_whole(tmp_path, monkeypatch, job, after, end, seen):
    def fresh(name):
        folder = tmp_path / name
        write(folder / "old", content(1))
        write(folder / "other", content(2))
        return folder

    trial = fresh("trial")
    count = len(points(monkeypatch, jobs(trial)[job][0]))
    assert count >= (6 if job == "removed" else 19)
    shutil.rmtree(trial)
    for point in range(count):
        folder = fresh(f"{point}")
        run, outcomes = jobs(folder)[job]
        if end == "dies":

            def die(run=run, point=point):
                Calls(pytest.MonkeyPatch(), point, after, lambda: os._exit(0))
                run()
                return "lived"

            assert in_child(die) == ""
        else:
            with monkeypatch.context() as patch:
                Calls(patch, point, after, full)
                try:
                    run()
                    failed = None
                except OSError as error:
                    failed = error
            if failed and job != "removed":
                assert "could not be written" in failed.__notes__[0]
                assert f"No space left on device: '{folder}" in str(failed)
            if job == "a new one" and failed:
                assert not leftovers(folder)
        for _ in range(2):  # as it was left, and as the next run finds it
            assert all(holds(folder, name, steps) for name, steps in outcomes.items()), (point, end)
            sweep(folder)
        assert not leftovers(folder)
        named = {path.name for path in folder.iterdir()}
        assert all(holds(folder, name, outcomes[name]) for name in named)  # no half of one has a name
        shutil.rmtree(folder)
    seen("died or failed at every open, write, fsync, replace, unlink of a save", count, f"Retained {count}")


def test_a_replacement_that_died_half_way_is_ended_by_the_next_one(tmp_path):
    write(tmp_path / "a", content(1))
    os.rename(tmp_path / "a", tmp_path / ".replaced-a")
    write(tmp_path / ".writing-a", content(2))
    assert is_of(read(tmp_path / "a"), 1)
    write(tmp_path / "a", content(3))
    assert is_of(read(tmp_path / "a"), 3)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.fault("a full disk", "Retained 1, Message 1")
def test_a_disk_that_is_full_is_named_and_the_older_one_stays(tmp_path):
    write(tmp_path / "old", content(1))

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            write(tmp_path / "old", content(2))
        except OSError as error:
            return f"{error}\n{error.__notes__}"

    found = in_child(save)
    assert "File too large" in found
    assert str(tmp_path / "old") in found
    assert "to do: make room" in found
    assert is_of(read(tmp_path / "old"), 1)
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("name", ["file/a", "/proc/nowhere/a", "/dev/null/a"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=name.split("/")[1] if name[0] == "/" else "file") as caught:
        write(tmp_path / name, content(1))
    assert f"{tmp_path / name} could not be written" in caught.value.__notes__[0]


@pytest.mark.fault("a read-only folder", "Retained 1, Message 1")
def test_a_read_only_folder_is_named_and_the_older_one_stays(tmp_path_factory):
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("read-only")))
    write(folder / "old", content(1))
    folder.chmod(0o555)

    def save():
        os.chdir(folder)  # nobody may go there from above
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            write(Path("new"), content(2))
        except PermissionError as error:
            return f"{error}\n{error.__notes__}"

    found = in_child(save)
    folder.chmod(0o755)
    assert "Permission denied: '.writing-new'" in found
    assert "the checkpoint new could not be written" in found
    assert is_of(read(folder / "old"), 1)
    assert os.listdir(folder) == ["old"]


def test_what_is_no_json_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "a", Content({"a": float("nan")}, {"model": {}}))
    assert os.listdir(tmp_path) == []


def killed_while_saving(folder, tries, seed):
    """Kills a process that saves without a pause, again and again."""
    draw = random.Random(seed)
    folder.mkdir()
    sizes = {"last": 0, "lost": 0, "in flight": 0}
    for _ in range(tries):
        there, here = os.pipe()
        first = sizes["last"] + 1
        child = os.fork()
        if child == 0:
            try:
                sweep(folder)
                for step in range(first, first + 10_000):
                    write(folder / f"{step:06d}", content(step))
                    os.write(here, step.to_bytes(4, "little"))  # it is acknowledged
                    if step > 2:
                        remove(folder / f"{step - 2:06d}")
            finally:
                os._exit(0)
        os.close(here)
        select.select([there], [], [], 60)  # the first one
        time.sleep(draw.random() * 0.012)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(there, "rb") as file:
            acknowledged = int.from_bytes(file.read()[-4:], "little")
        sweep_needed = leftovers(folder)
        sizes["in flight"] += bool(sweep_needed)
        names = sorted(path.name for path in folder.iterdir() if path.name not in sweep_needed)
        for name in names:
            assert is_of(read(folder / name), int(name))
        assert acknowledged <= int(names[-1]) <= acknowledged + 1
        sweep(folder)
        assert sorted(os.listdir(folder)) == names
        sizes["last"] = int(names[-1])
    return sizes


@pytest.mark.slow
def test_a_process_killed_in_a_save_loses_that_one_alone(tmp_path):
    found = killed_while_saving(tmp_path / "a", 30, seed=1)
    assert found["in flight"] > 0  # some were hit in the middle


# What a training makes of it


def training(folder, every=1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(5, 4, generator=generator), torch.arange(5) % 3) for _ in range(4)]

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    trainer = Trainer(model, optimizer, train_fn, batches, progress=False, seed=0)
    trainer.callbacks = [Checkpoint(folder, every=every, keep=4)]
    return trainer


def digest(trainer):
    parts = [tensor.numpy().tobytes() for tensor in trainer.model.state_dict().values()]
    parts += [torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


DAMAGES = {
    "cut off": lambda path, other: path.write_bytes(path.read_bytes()[:-5]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "flipped": lambda path, other: path.write_bytes(bytes([*path.read_bytes()[:-9], 7, *path.read_bytes()[-8:]])),
    "of another step": lambda path, other: shutil.copy(other, path),
    "missing": lambda path, other: path.unlink(),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
    "a pickle": lambda path, other: path.write_bytes(pickle.dumps(Evil(path.parent / "sentinel"))),
}


@pytest.mark.fault("the newest checkpoint damaged: cut off, emptied, flipped, exchanged", "Message 1, Equal 1")
@pytest.mark.parametrize("file", [FILES[0], *map(slow, FILES[1:])])
@pytest.mark.parametrize("damage", ["flipped", *(slow(name) for name in DAMAGES if name != "flipped")])
def test_a_training_falls_back_to_the_one_before_and_says_why(tmp_path, file, damage):
    whole = training(tmp_path / "whole")
    whole.fit(steps=8)
    folder = tmp_path / "a"
    broken = training(folder)
    broken.on("step_end")(lambda trainer: trainer.stop("killed") if trainer.step == 6 else None)
    broken.fit(steps=8)
    newest = sorted(folder.glob("fit*"))[-1]  # that of the end, which would count as finished
    shutil.rmtree(newest)
    newest, before = sorted(folder.glob("fit*"))[-1], sorted(folder.glob("fit*"))[-2]
    DAMAGES[damage](newest / file, before / file)

    again = training(folder)
    with pytest.warns(IgnitionWarning, match=r"is broken") as caught:
        again.fit(steps=8, resume=True)
    message = str(caught[0].message)
    assert newest.name in message
    assert ("safetensors" if (file, damage) == ("state.json", "of another step") else file) in message
    assert "passed over" in message
    assert not list(folder.rglob("sentinel"))
    assert digest(again) == digest(whole)


@pytest.mark.fault("a full disk", "Retained 1, Message 1")
def test_a_full_disk_ends_a_fit_with_its_cause_and_the_older_ones_stay(tmp_path):
    def fit():
        trainer = training(tmp_path / "a")
        trainer.on("step_end")(
            lambda trainer: trainer.step == 5 and resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        )
        try:
            trainer.fit(steps=20)
        except CheckpointError as error:
            return f"{type(error.__cause__).__name__} {trainer.step} {error}"

    found = in_child(fit)
    assert found.startswith("OSError ")
    assert "File too large" in found
    assert "fit-001-step-00000000" in found
    assert "to do: make room or mend the folder" in found
    paths = sorted((tmp_path / "a").glob("fit*"))
    assert int(paths[-1].name[-9:]) >= 3  # that of step 4 may have been in flight
    for path in paths:
        read(path)
    again = training(tmp_path / "a")
    again.fit(steps=20, resume=True)
    whole = training(tmp_path / "whole")
    whole.fit(steps=20)
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


@pytest.mark.fault("the folder removed between two saves", "made again")
def test_a_folder_that_is_removed_between_two_saves_is_made_again(tmp_path):
    trainer = training(tmp_path / "a", every=4)
    trainer.fit(steps=2)
    trainer.on("step_end")(lambda trainer: trainer.step == 3 and shutil.rmtree(tmp_path / "a"))
    trainer.fit(steps=6)
    names = sorted(path.name for path in (tmp_path / "a").glob("fit*"))
    assert [int(name[13:22]) for name in names] == [4, 8, 8]
    assert read(tmp_path / "a" / names[-1]).state["position"]["step"] == 8


@pytest.mark.fault("a full disk", "Retained 1, Message 1")
def test_saving_by_hand_over_an_older_one_keeps_it_where_the_disk_is_full(tmp_path):
    trainer = training(tmp_path / "a")
    trainer.save(tmp_path / "hand")
    before = {path.name: path.read_bytes() for path in (tmp_path / "hand").iterdir()}

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        try:
            trainer.save(tmp_path / "hand")
        except OSError as error:
            return f"{error} {error.__notes__}"

    assert "hand" in in_child(save)
    assert {path.name: path.read_bytes() for path in (tmp_path / "hand").iterdir()} == before
    trainer.load(tmp_path / "hand")
