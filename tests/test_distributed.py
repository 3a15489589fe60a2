"""Which process this is, how the processes find one another, and what they tell one another."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
import torch
from processes import free_port, run_processes
from small import net, raised, read, write

from ignition import distributed, predict, predict_on_batch
from ignition.errors import ProcessError

LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_the_first_of_one_and_waits_for_nobody():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    with distributed.main_first():
        pass
    assert not torch.distributed.is_initialized()


def test_one_process_tells_itself_what_it_has():
    assert distributed.sum_of([1.5, 2]) == [1.5, 2]
    assert distributed.max_of([1.5, 2]) == [1.5, 2]
    assert distributed.gather_texts("é") == ["é"]
    assert distributed.text_of_main("x") == "x"
    assert distributed.store() is None


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8, 3)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}, (5, 6, 2)),
        # A batch script that calls python itself: one process, whatever was reserved.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1, 0)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1, 0)),
        # torchrun inside a SLURM step: torchrun counts.
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "0", "WORLD_SIZE": "4"}, (0, 4, 0)),
        ({"RANK": "1"}, (0, 1, 0)),
    ],
)  # fmt: skip
def test_a_launcher_says_which_process_this_is_before_there_is_a_group(monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == place
    assert distributed.is_main() == (place[0] == 0)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-07,11]", "gpu03"),
        ("gpu[3,5]", "gpu3"),
        ("rack-1-n[001-004]-ib", "rack-1-n001-ib"),
        ("a.example.org", "a.example.org"),
        ("login,gpu[1-2]", "login"),
    ],
)
def test_the_processes_of_a_slurm_step_meet_on_its_first_machine(monkeypatch, nodes, host):
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert distributed._slurm_address() == f"{host}:1234"


def test_two_steps_of_a_job_meet_at_two_ports(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    ports = []
    for step in ("0", "1"):
        monkeypatch.setenv("SLURM_STEP_ID", step)
        ports.append(int(distributed._slurm_address().rpartition(":")[2]))
    assert ports[0] != ports[1]
    assert all(1024 < port < 65536 for port in ports)


def test_processes_that_have_parted_do_nothing_more_together(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed._state, "left", True)
    with pytest.raises(ProcessError, match="have parted"):
        distributed.barrier()


def tell(folder):
    """Everything that three processes tell one another."""
    number = distributed.rank()
    before = [number, distributed.world_size(), torch.distributed.is_initialized()]
    if number == 1:
        time.sleep(0.2)
    with distributed.main_first():
        order = sorted(os.listdir(folder))  # what was there when the block ran
        if distributed.is_main():
            time.sleep(0.2)
            open(os.path.join(folder, "downloaded"), "w").close()
    text = "äöü" * number  # none at all in the first
    tensor = torch.full((2,), float(number))
    distributed.broadcast(tensor, source=2)
    parts = distributed.gather_to_main(bytes([number]) * number)
    distributed.barrier()
    write(folder, {
        "before": before, "group": torch.distributed.get_backend(), "found": "downloaded" in order,
        "sum": distributed.sum_of([number, 0.1]), "max": distributed.max_of([number, -number]),
        "texts": distributed.gather_texts(text), "main": distributed.text_of_main(f"of {number}"),
        "tensor": tensor.tolist(), "parts": parts and [list(part) for part in parts],
        "second": raised(distributed.start),
    })  # fmt: skip


@pytest.mark.slow
def test_three_processes_tell_one_another_everything(tmp_path):
    run_processes(tell, 3, tmp_path, folder=tmp_path)
    results = read(tmp_path, 3)
    assert [one["before"] for one in results] == [[0, 3, False], [1, 3, False], [2, 3, False]]
    assert [one["found"] for one in results] == [False, True, True]
    for one in results:
        assert one["sum"] == pytest.approx([3, 0.3])
        assert one["max"] == [2, 0]
        assert one["texts"] == ["", "äöü", "äöüäöü"]
        assert one["main"] == "of 0"
        assert one["tensor"] == [2.0, 2.0]
        assert one["second"] == "nothing"
    assert [one["parts"] for one in results] == [[[], [1], [2, 2]], None, None]


def begin_by_slurm(folder):
    """The processes know of SLURM's variables alone."""
    os.environ["SLURM_PROCID"] = os.environ.pop("RANK")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        del os.environ[name]
    joined = predict(net(), predict_on_batch, [(torch.ones(2, 4) * place,) for place in range(3)])
    write(folder, [distributed.rank(), distributed.world_size(), torch.distributed.is_initialized(), joined.shape[0]])


@pytest.mark.slow
def test_slurms_variables_are_enough(tmp_path):
    variables = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "7"}
    run_processes(begin_by_slurm, 2, tmp_path, folder=tmp_path, environment=variables)
    assert read(tmp_path, 2) == [[0, 2, True, 6], [1, 2, True, 6]]


def begin_by_hand(folder, port):
    """A script that has made its group itself, without any variable of a launcher."""
    number = int(os.environ["RANK"])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    group = torch.distributed.group.WORLD
    joined = predict(net(), predict_on_batch, [(torch.ones(2, 4) * place,) for place in range(3)])
    distributed.close()
    kept = torch.distributed.group.WORLD is group
    write(folder, [distributed.rank(), distributed.world_size(), kept, joined.shape[0]])
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_group_that_the_script_has_made_is_used_and_kept(tmp_path):
    run_processes(begin_by_hand, 2, tmp_path, free_port(), folder=tmp_path)
    assert read(tmp_path, 2) == [[0, 2, True, 6], [1, 2, True, 6]]


class Store:
    """What a store says of so many processes that have come."""

    def __init__(self, come, left=None):
        self.come, self.left = come, left

    def add(self, key, number):
        return self.come

    def check(self, keys):
        return self.left is not None

    def get(self, key):
        return self.left


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (Store(1, b"2"), "process 2 has left the script before it met the others"),
        (Store(2), "only 2 of 3 processes have come to one another within 0:00:00"),
    ],
)
def test_others_are_not_waited_for_without_end(monkeypatch, store, said):
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(0))
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ProcessError, match=said):
        distributed._meet_all(store)
    distributed._meet_all(Store(3, b"2"))
