"""What processes write of a sharded tensor is read by any number of them, and only when every byte is as written."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_processes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ignition.checkpoint import Content, abandon, begin, finish, folder_of, read
from ignition.dtensors import Part, span
from ignition.errors import CheckpointError
from ignition.tensor_parts import Parts, joined, read_parts, write_part

TYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64,
         torch.complex128, torch.float16)  # fmt: skip
SHAPES = {"long": (7, 5), "short": (2,), "one": (1, 3, 2), "even": (6, 1), "empty_rows": (4, 0)}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return made | {str(dtype): (10 * torch.randn(5, 3, generator=generator)).to(dtype) for dtype in TYPES}


def split(whole: dict[str, Tensor], rank: int, count: int) -> dict[str, Part]:
    parts = {}
    for name, tensor in whole.items():
        start, length = span(len(tensor), rank, count)
        parts[name] = Part(tensor[start : start + length].clone(), start, tuple(tensor.shape))
    return parts


def written(folder: Path, count: int, kind: str = "model") -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    described = joined([write_part(folder, kind, rank, count, split(tensors(), rank, count)) for rank in range(count)])
    return json.loads(json.dumps(described))


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_what_some_processes_wrote_is_read_whole_by_one_to_the_bit(count: int, tmp_path: Path) -> None:
    described = written(tmp_path, count)
    found = read_parts(tmp_path, described)
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert len(list(tmp_path.iterdir())) == count
    assert found["long"].is_contiguous()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("others", [1, 2, 3, 5])
def test_each_process_reads_its_rows_from_no_more_files_than_hold_them(count: int, others: int, tmp_path: Path) -> None:
    described = written(tmp_path, count)
    for rank in range(others):
        with Parts(tmp_path, described) as parts:
            for name, tensor in tensors().items():
                start, length = span(len(tensor), rank, others)
                assert torch.equal(parts.rows(name, start, length), tensor[start : start + length]), name
            opened = parts.opened
        if count == others:
            assert opened in ([f"model-{rank + 1:05}-of-{count:05}.safetensors"], [])
    with Parts(tmp_path, described) as parts:
        parts.rows("long", 0, 1)
        assert parts.opened == [f"model-00001-of-{count:05}.safetensors"]


def test_safetensors_itself_reads_the_files(tmp_path: Path) -> None:
    written(tmp_path, 2)
    halves = [load_file(tmp_path / f"model-0000{part}-of-00002.safetensors")["long"] for part in (1, 2)]
    assert torch.equal(torch.cat(halves), tensors()["long"])


def test_chosen_tensors_are_read_alone(tmp_path: Path) -> None:
    assert [*read_parts(tmp_path, written(tmp_path, 2), names=["short"])] == ["short"]


@pytest.mark.parametrize("place", [0, 8, 400, -1])
def test_a_changed_byte_is_found_before_anything_of_the_file_is_used(place: int, tmp_path: Path) -> None:
    described = written(tmp_path, 2)
    file = tmp_path / "model-00002-of-00002.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with Parts(tmp_path, described) as parts:
        assert torch.equal(parts.rows("long", 0, 4), tensors()["long"][:4])  # of the other file
        with pytest.raises(CheckpointError, match=r"00002-of-00002.* not as it was written"):
            parts.rows("long")


def test_a_file_that_is_missing_cut_off_or_exchanged_is_named(tmp_path: Path) -> None:
    described = written(tmp_path / "a", 2)
    written(tmp_path / "b", 2, "optimizer")
    file = tmp_path / "a" / "model-00001-of-00002.safetensors"
    kept = file.read_bytes()
    for change in (
        lambda: file.unlink(),
        lambda: file.write_bytes(kept[:-10]),
        lambda: file.write_bytes(b""),
        lambda: save_file({"long": torch.zeros(4, 5)}, file),
    ):
        change()
        with pytest.raises(CheckpointError, match="model-00001-of-00002"):
            read_parts(tmp_path / "a", described)
        file.write_bytes(kept)
    assert torch.equal(read_parts(tmp_path / "a", described)["long"], tensors()["long"])


def changed(described: dict[str, Any], change: Any) -> dict[str, Any]:
    again = copy.deepcopy(described)
    change(again)
    return again


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("files"),
        lambda d: d.pop("tensors"),
        lambda d: d["files"].pop(),
        lambda d: d["files"].append(d["files"][0]),
        lambda d: d["files"][0].update(name="../model-00001-of-00002.safetensors"),
        lambda d: d["files"][0].update(name="/etc/passwd"),
        lambda d: d["files"][0].update(name=7),
        lambda d: d["files"][0]["rows"].update(long=[0, 3]),
        lambda d: d["files"][0]["rows"].update(long=[1, 4]),
        lambda d: d["files"][0]["rows"].update(long=[0, -4]),
        lambda d: d["files"][0]["rows"].update(long="ab"),
        lambda d: d["tensors"]["long"].update(shape=[8, 5]),
        lambda d: d["tensors"]["long"].update(shape=[]),
        lambda d: d["tensors"]["long"].update(shape=[7, 6]),
        lambda d: d["tensors"]["long"].update(dtype="torch.float64"),
        lambda d: d["tensors"]["long"].update(dtype="torch.load"),
        lambda d: d["tensors"].update(more={"dtype": "torch.float32", "shape": [2]}),
    ],
)
def test_a_description_that_does_not_fit_the_files_is_no_checkpoint(change: Any, tmp_path: Path) -> None:
    described = written(tmp_path, 2)
    with pytest.raises(CheckpointError):
        read_parts(tmp_path, changed(described, change))


def test_processes_that_hold_other_tensors_or_leave_rows_out_are_named(tmp_path: Path) -> None:
    whole = tensors()
    first = write_part(tmp_path, "model", 0, 2, split(whole, 0, 2))
    less = write_part(tmp_path, "model", 1, 2, split({"long": whole["long"]}, 1, 2))
    with pytest.raises(CheckpointError, match="process 1 holds parts of other tensors"):
        joined([first, less])
    twice = write_part(tmp_path, "model", 1, 2, split(whole, 0, 2))
    with pytest.raises(CheckpointError, match="the parts of long are not its 7 rows"):
        joined([first, twice])


def test_a_checkpoint_gets_its_name_when_all_parts_are_in_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "step-5"
    for step in (1, 2):  # the second replaces the first
        folder = begin(path)
        described = written(folder, 3)
        assert path.exists() == (step == 2)
        finish(path, Content({"step": step, "sharded": {"model": described}}, {"model": {}, "optimizer": {}}))
        content = read(path)
        assert content.state["step"] == step
        found = read_parts(folder_of(path), content.state["sharded"]["model"])
        assert torch.equal(found["long"], tensors()["long"])
        assert [one.name for one in path.parent.iterdir()] == ["step-5"]
    folder = begin(path)
    written(folder, 3)
    abandon(path)
    assert [one.name for one in path.parent.iterdir()] == ["step-5"]
    assert read(path).state["step"] == 2


def test_what_lies_aside_is_found_where_a_writer_died(tmp_path: Path) -> None:
    path = tmp_path / "a"
    described = written(begin(path), 2)
    finish(path, Content({"sharded": described}, {}))
    shutil.move(path, tmp_path / ".replaced-a")
    assert torch.equal(read_parts(folder_of(path), read(path).state["sharded"])["long"], tensors()["long"])


# With real processes, models and optimizers


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 1), nn.Linear(1, 5)])
        self.last = nn.Linear(5, 5)
        self.again = nn.Linear(5, 5)
        self.again.weight = self.last.weight
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(self.again(self.last(x)))


def trained(steps: int) -> tuple[Any, Any, Any, int, int]:
    import torch.distributed as dist
    from test_fsdp import Options

    from ignition.fsdp import broadcast_buffers, shard

    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    mesh = dist.init_device_mesh("cpu", (count,))
    shard(model, optimizer, Options(), mesh)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    broadcast_buffers(model, mesh)
    return model, optimizer, mesh, rank, count


def memory(optimizer: Any) -> dict[str, Tensor]:
    return {f"{i}.{key}": value for i, one in optimizer.state_dict()["state"].items() for key, value in one.items()}


def writing(path: str, results: str) -> None:
    import torch.distributed as dist
    from test_fsdp import end

    from ignition.dtensors import is_sharded, part_of
    from ignition.sharded_weights import gather_weights
    from ignition.weights import copy_weights

    model, optimizer, _, rank, count = trained(3)
    folder = Path(path)
    partial = folder.parent / f".writing-{folder.name}"
    if rank == 0:
        assert begin(folder) == partial
    dist.barrier()
    kinds = {"model": dict(model.state_dict()), "optimizer": memory(optimizer)}
    mine = {
        kind: write_part(partial, kind, rank, count, {k: part_of(v) for k, v in one.items() if is_sharded(v)})
        for kind, one in kinds.items()
    }
    every: list[Any] = [None] * count
    dist.all_gather_object(every, mine)
    if rank == 0:
        described = {kind: joined([one[kind] for one in every]) for kind in kinds}
        rest = {kind: {k: v for k, v in one.items() if not is_sharded(v)} for kind, one in kinds.items()}
        finish(folder, Content({"sharded": described}, rest))
    weights = gather_weights(model, keep=rank == 0)
    assert (weights is None) == (rank != 0)
    gathered = {key: value.full_tensor() if is_sharded(value) else value for key, value in kinds["optimizer"].items()}
    if weights is not None:
        plain = Tied()
        assert weights[""].keys() == copy_weights(plain)[""].keys()
        assert weights[""]["last.weight"] is weights[""]["again.weight"]
        plain.load_state_dict(weights[""])
        saved = {f"model.{key}": value.clone() for key, value in weights[""].items()}
        save_file(saved | {f"optimizer.{key}": value for key, value in gathered.items()}, results)
    end()


def reading(path: str, results: str, report: str) -> None:
    from test_fsdp import end

    from ignition.dtensors import is_sharded
    from ignition.fsdp import shard_optimizer_state
    from ignition.sharded_weights import shard_weights

    model, optimizer, mesh, rank, _ = trained(1)
    expected = load_file(results)
    content = read(Path(path))
    described = content.state["sharded"]
    found = {kind: read_parts(Path(path), described[kind], mesh) | content.tensors[kind] for kind in described}
    assert all(
        is_sharded(value) for key, value in found["model"].items() if not key.startswith("norm.running") and value.ndim
    )
    model.load_state_dict(found["model"])
    state = optimizer.state_dict()
    again = {i: {key: found["optimizer"][f"{i}.{key}"] for key in one} for i, one in state["state"].items()}
    optimizer.load_state_dict({**state, "state": again})

    def check() -> None:
        for kind, now in (("model", dict(model.state_dict())), ("optimizer", memory(optimizer))):
            assert sorted(now) == sorted(key.removeprefix(f"{kind}.") for key in expected if key.startswith(f"{kind}."))
            for key, value in now.items():
                whole = value.full_tensor() if is_sharded(value) else value
                assert torch.equal(whole, expected[f"{kind}.{key}"]), (kind, key)

    check()
    # The same from whole tensors, as one process wrote them
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for value in memory(optimizer).values():
            value.zero_()
    whole = {key.removeprefix("model."): value for key, value in expected.items() if key.startswith("model.")}
    model.load_state_dict(shard_weights(whole, model.state_dict()))
    again = {i: {key: expected[f"optimizer.{i}.{key}"] for key in one} for i, one in state["state"].items()}
    optimizer.load_state_dict(shard_optimizer_state(optimizer, {**state, "state": again}))
    check()
    optimizer.zero_grad()
    model(torch.ones(4, 5)).square().mean().backward()
    optimizer.step()
    Path(f"{report}-{rank}").write_text("good")
    end()


@pytest.mark.slow
def test_two_processes_write_and_three_two_and_one_read_the_same_bits(tmp_path: Path) -> None:
    path, results = tmp_path / "step-3", tmp_path / "expected.safetensors"
    run_processes(writing, 2, path, results, folder=tmp_path / "out")
    expected, content = load_file(results), read(path)
    for kind, described in content.state["sharded"].items():
        found = read_parts(path, described) | content.tensors[kind]
        assert sorted(found) == sorted(key.removeprefix(f"{kind}.") for key in expected if key.startswith(f"{kind}."))
        for key, value in found.items():
            assert torch.equal(value, expected[f"{kind}.{key}"]), (kind, key)
    for count in (3, 2, 1):
        run_processes(reading, count, path, results, tmp_path / f"by-{count}", folder=tmp_path / "out")
        assert len(list(tmp_path.glob(f"by-{count}-*"))) == count
