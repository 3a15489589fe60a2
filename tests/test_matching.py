"""Whether a checkpoint is that of this model, these optimizers and this data: all that differs is named."""

from __future__ import annotations

import pytest
import torch
from quiet import nothing, numbered, quiet
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ignition import TensorLoader
from ignition.background import Writer
from ignition.checkpoint import Content
from ignition.errors import CheckpointError
from ignition.matching import (
    check_data,
    check_dense,
    check_model,
    check_order_kept,
    check_place,
    checked_optimizers,
    data_size,
)
from ignition.snapshot import capture
from ignition.structure import key_in


@pytest.mark.parametrize(("name", "expected"), [("", "0.weight"), ("G", "G.0.weight"), ("1", "1.0.weight")])
def test_a_tensor_of_one_of_several_models_has_its_name_before_it(name, expected):
    assert key_in(name, "0.weight") == expected


# Tensors


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2),
        torch.zeros(0),
        torch.zeros(()),
        nn.Parameter(torch.zeros(2)),
        nn.Buffer(torch.zeros(2)),
        torch.zeros(3, 2).T[::2],
        *(torch.zeros(2, dtype=kind) for kind in (torch.bool, torch.int8, torch.uint16, torch.complex64)),
        torch.zeros(2).to(torch.float8_e4m3fn),
    ],
    ids=lambda tensor: f"{type(tensor).__name__} {tensor.dtype} {tuple(tensor.shape)}",
)
def test_dense_tensors_of_whole_bytes_can_be_held(tensor):
    check_dense({"other": torch.zeros(1), "a": tensor})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: nn.LazyLinear(3).weight, "that of a lazy module, which has seen no batch yet"),
        (lambda: nn.BatchNorm1d(3, device="meta").running_mean, "torch.strided on the device meta"),
        (lambda: torch.eye(3).to_sparse(), "torch.sparse_coo on the device cpu"),
        (lambda: torch.eye(3).to_sparse_csr(), "torch.sparse_csr on the device cpu"),
        (lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "quantised on the device cpu"),
        (lambda: torch.empty(2, dtype=torch.uint4), "of torch.uint4"),
        (lambda: torch.empty(2, dtype=torch.int3), "of torch.int3"),
        (lambda: torch.empty(2, dtype=torch.bits8), "of torch.bits8"),
    ],
    ids=["lazy", "meta", "sparse", "sparse rows", "quantised", "half a byte", "three bits", "bits"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state", "ignore:.*quantize_per_tensor")
def test_what_a_checkpoint_cannot_hold_is_named_with_its_problem(make, problem):
    tensor = make()
    with pytest.raises(CheckpointError) as caught:
        check_dense({"other": torch.zeros(1), "0.weight": tensor})
    given, expected, fix = caught.value.args
    assert given == f"the tensor 0.weight is {problem}, which a checkpoint cannot hold"
    assert expected == "dense tensors of whole bytes, with content"
    assert "keep it dense" in fix


# Models


def saved(models=None, optimizer=None):
    """What a checkpoint of a training with them holds; by default of a model with the optimizer's parameters."""
    return capture(quiet(nothing, numbered(1), model=models, optimizer=optimizer).training, Writer().copy)


class Mixed(nn.Module):
    """Two layers, a buffer that is kept and one that is not, and a state that is no tensor."""

    def __init__(self, width=3, name="last", buffer=True):
        super().__init__()
        self.first = nn.Linear(2, width)
        setattr(self, name, nn.Linear(width, 1, bias=False))
        if buffer:
            self.register_buffer("scale", torch.ones(1))
        self.register_buffer("seen", torch.ones(1), persistent=False)

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state): ...


def test_a_model_of_the_same_parameters_and_buffers_is_that_of_the_checkpoint():
    content = saved(Mixed())
    check_model(Mixed(), content, "a")
    check_model({"G": Mixed(), "D": nn.Linear(1, 1)}, saved({"G": Mixed(), "D": nn.Linear(1, 1)}), "a")
    check_model([Mixed()], saved((Mixed(),)), "a")


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Mixed(buffer=False), "unexpected: scale"),
        (Mixed(name="head"), "missing: head.weight; unexpected: last.weight"),
        (
            Mixed(width=4),
            "of another shape: first.weight (3, 2) instead of (4, 2), first.bias (3,) instead of (4,), "
            "last.weight (1, 3) instead of (1, 4)",
        ),
        (
            Mixed(width=1, name="head", buffer=False).bfloat16(),
            "missing: head.weight; unexpected: scale, last.weight; of another shape: first.weight (3, 2) instead of "
            "(1, 2), first.bias (3,) instead of (1,); of another type: first.weight torch.float32 instead of "
            "torch.bfloat16, first.bias torch.float32 instead of torch.bfloat16",
        ),
        (Mixed().double(), "of another type: scale torch.float32 instead of torch.float64, "),
        ([Mixed(buffer=False)], "missing: 0.first.weight, 0.first.bias, 0.last.weight; unexpected: "),
    ],
    ids=["a buffer less", "another name", "another width", "all at once", "another type", "a list"],
)
def test_all_that_differs_in_a_model_is_told_at_once(model, found):
    with pytest.raises(CheckpointError) as caught:
        check_model(model, saved(Mixed()), "runs/a")
    given, _, fix = caught.value.args
    assert given.startswith(f"the checkpoint runs/a is that of another model ({found}")
    assert "load_weights(model, path, strict=False)" in fix


def test_a_layer_that_has_seen_no_batch_yet_may_have_any_shape_but_not_another_name():
    check_model(nn.Sequential(nn.LazyLinear(3)), saved(nn.Sequential(nn.Linear(2, 3))), "a")
    with pytest.raises(CheckpointError, match=r"missing: 0.weight, 0.bias; unexpected: 1.weight, 1.bias"):
        check_model(nn.Sequential(nn.LazyLinear(3)), saved(nn.Sequential(nn.ReLU(), nn.Linear(2, 3))), "a")


def test_a_checkpoint_without_a_model_lacks_all_of_it():
    with pytest.raises(CheckpointError, match="missing: weight, bias"):
        check_model(nn.Linear(1, 1), Content({}), "a")


# Data


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(9)


class Keeping(list):
    """Batches that keep their place by themselves."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


@pytest.mark.parametrize(
    ("loader", "batches", "samples", "batch_size"),
    [
        (DataLoader(range(9), 4), 3, 9, 4),
        (DataLoader(range(9), 4, drop_last=True), 2, 9, 4),
        (DataLoader(range(9), batch_sampler=[[1, 2], [3]]), 2, 9, None),
        (DataLoader(range(9), batch_size=None), 9, 9, None),
        (DataLoader(Stream(), 4), None, None, 4),
        (TensorLoader(torch.arange(9), batch_size=4), 3, 9, 4),
        ([1, 2], 2, None, None),
        (iter([1]), None, None, None),
    ],
)
def test_the_size_of_data_is_what_the_loader_says_of_it(loader, batches, samples, batch_size):
    assert data_size(loader) == {"batches": batches, "samples": samples, "batch_size": batch_size}


def then(batches, samples, batch_size, processes=1, kept=False):
    """The state of a checkpoint that was written with such data, by so many processes."""
    data = {"batches": batches, "samples": samples, "batch_size": batch_size}
    return {"data": data, "processes": {"others": [{}] * (processes - 1)}, "loader": {} if kept else None}


@pytest.mark.parametrize("state", [then(4, 9, 4), then(3, 10, 4), then(3, 9, 3), then(None, None, None)])
def test_other_data_is_told_with_both_sizes(state):
    check_data(DataLoader(range(9), 4), then(3, 9, 4), "a")
    with pytest.raises(CheckpointError) as caught:
        check_data(DataLoader(range(9), 4), state, "runs/a")
    data = state["data"]
    assert caught.value.args[0] == (
        f"the checkpoint runs/a was written with a train_loader of {data['batches']} batches and {data['samples']} "
        "samples, and now it has 3 batches and 9 samples"
    )


def test_with_another_number_of_processes_the_samples_alone_have_to_be_the_same():
    check_data(DataLoader(range(12), 6), then(4, 12, 3, processes=2), "a")
    with pytest.raises(CheckpointError, match="4 batches and 13 samples, and now it has 2 batches and 12 samples"):
        check_data(DataLoader(range(12), 6), then(4, 13, 3, processes=2), "a")
    with pytest.raises(CheckpointError, match="4 batches and None samples, and now it has 2 batches"):
        check_data([1, 2], then(4, None, None, processes=2), "a")


def test_as_many_processes_as_there_were_have_to_read_batches_of_the_same_size(monkeypatch):
    monkeypatch.setattr("ignition.matching.distributed.world_size", lambda: 3)
    check_data(DataLoader(range(12), 3), then(4, 12, 3, processes=3), "a")
    with pytest.raises(CheckpointError, match="4 batches and 12 samples, and now it has 2 batches and 12 samples"):
        check_data(DataLoader(range(12), 6), then(4, 12, 3, processes=3), "a")


@pytest.mark.parametrize("kept", [True, False])
def test_a_loader_that_keeps_its_place_and_one_that_does_not_are_no_match(kept):
    loaders = [1, 2], Keeping([1, 2])
    check_data(loaders[kept], then(2, None, None, kept=kept), "a")
    was, now = ("a", "none") if kept else ("no", "one")
    with pytest.raises(CheckpointError, match=f"runs/a has {was} state of the train_loader, and now it is {now} that"):
        check_data(loaders[not kept], then(2, None, None, kept=kept), "runs/a")


# Optimizers


def trained(kind=torch.optim.Adam, groups=1):
    """An optimizer of two parameters in so many groups, after a step."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    parts = [parameters] if groups == 1 else [[one] for one in parameters]
    optimizer = kind([{"params": part} for part in parts])
    for one in parameters:
        one.grad = torch.arange(2.0)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("structure", [lambda one: one, lambda one: [one], lambda one: {"G": one}])
def test_the_states_of_the_same_optimizers_are_given(structure):
    optimizer = trained()
    found = checked_optimizers(structure(trained()), saved(optimizer=structure(optimizer)), "a")
    (state,) = found.values()
    assert state["param_groups"] == optimizer.state_dict()["param_groups"]
    torch.testing.assert_close(state["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
    assert checked_optimizers(None, saved(), "a") == {}


@pytest.mark.parametrize(
    ("written", "here", "message"),
    [
        (trained, lambda: {"G": trained()}, r"is that of the optimizers \[''\], and here are \['G'\]"),
        (lambda: [trained()], lambda: [trained(), trained()], r"of the optimizers \['0'\], and here are \['0', '1'\]"),
        (trained, lambda: None, r"of the optimizers \[''\], and here are \[\]"),
        (trained, lambda: trained(torch.optim.AdamW), "written with Adam, and here is AdamW"),
        (
            lambda: {"G": trained(), "D": trained()},
            lambda: {"G": trained(), "D": trained(torch.optim.SGD)},
            r"written with Adam \(G\), Adam \(D\), and here is Adam \(G\), SGD \(D\)",
        ),
        (trained, lambda: trained(groups=2), r"Adam has groups of \[2\] parameters, here of \[1, 1\]"),
        (lambda: trained(groups=2), trained, r"Adam has groups of \[1, 1\] parameters, here of \[2\]"),
    ],
    ids=["a name", "one more", "none", "a kind", "a kind of two", "more groups", "fewer groups"],
)
def test_other_optimizers_are_told_with_what_was_there_and_what_is(written, here, message):
    content = saved(optimizer=written())
    with pytest.raises(CheckpointError, match=rf"(?s)the checkpoint runs/a.*{message}.*expected: .*to do: "):
        checked_optimizers(here(), content, "runs/a")


def test_more_batches_than_an_epoch_has_are_told_and_its_last_round_may_be_split():
    state = {"processes": {"others": []}, "position": {"batch": 3, "offset": 0}}
    check_place([0, 1, 2], state, "runs/a")
    check_place(iter([0]), state, "runs/a")  # nobody knows how many there are
    with pytest.raises(CheckpointError, match="says that 3 batches are done of the 2 of an epoch"):
        check_place([0, 1], state, "runs/a")
    check_place([0, 1], {"processes": {"others": [{}]}, "position": {"batch": 3, "offset": 1}}, "runs/a")


@pytest.mark.parametrize(("epoch", "batch"), [(2, 1), (2, 0), (0, 3)])
def test_another_order_is_refused_inside_an_epoch_alone(epoch, batch):
    def state(**options):
        return {"order": {"epoch": epoch}, "position": {"batch": batch}, "fit": {"options": options}}

    loader = DataLoader(range(9), 4, shuffle=True)
    check_order_kept(loader, state(), "a")  # of which nothing is known
    check_order_kept(loader, state(**{"order of train_loader": "shuffled by RandomSampler"}), "a")
    if not (epoch and batch):
        check_order_kept(loader, state(**{"order of train_loader": "in order"}), "a")
        return
    with pytest.raises(CheckpointError) as caught:
        check_order_kept(loader, state(**{"order of train_loader": "in order"}), "runs/a")
    assert caught.value.args[0] == (
        "the checkpoint runs/a is from the middle of an epoch that was read in order, and now train_loader reads "
        "shuffled by RandomSampler"
    )
