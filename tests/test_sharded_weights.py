"""The weights of sharded models as one process has them: those of the same model that is not sharded, and back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from forked_processes import preloaded, results_of
from meshes import alone, one_of
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ignition.sharded_weights import gather_weights, shard_weights

PLACES = [(count, rank) for count in (1, 2, 3) for rank in range(count)]


class Net(nn.Module):
    """Tied weights, a frozen layer, buffers of which one is not kept, and a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.last, self.tied = nn.Linear(5, 5, bias=False), nn.Linear(5, 5)
        self.tied.weight = self.last.weight
        self.last.weight.requires_grad_(False)
        self.register_buffer("seen", torch.ones(1), persistent=False)
        self.calls = {"forward": [0]}

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.last(self.norm(self.first(x))))

    def get_extra_state(self) -> dict[str, list[int]]:
        return self.calls

    def set_extra_state(self, state: dict[str, list[int]]) -> None:
        self.calls = copy.deepcopy(state)


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def sharded(model: nn.Module, mesh: Any, **options: Any) -> nn.Module:
    """The model, sharded by torch itself, in two groups."""
    if isinstance(model, Net):
        fully_shard(model.first, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def assert_same(found: Any, expected: Any) -> None:
    """Holds that two state dicts are equal, in their order too."""
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert type(found[key]) is Tensor, key
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value


# Gathered


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_the_state_of_each_model_is_that_which_it_had_before_it_was_sharded(shards: bool) -> None:
    structures = [lambda one, other: one, lambda one, other: [one, other], lambda one, other: {"G": one, "D": other}]
    names = [[""], ["0", "1"], ["G", "D"]]
    with alone() as mesh:
        for structure, expected in zip(structures, names, strict=True):
            models = [net(1), nn.Linear(3, 2)]
            plain = copy.deepcopy(models)
            if shards:
                models = [sharded(one, mesh) for one in models]
            weights = gather_weights(structure(*models), keep=True)
            assert list(weights) == expected
            for found, model in zip(weights.values(), plain, strict=False):
                assert_same(found, model.state_dict())
                model.load_state_dict(found)


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_it_shares_nothing_with_the_model(shards: bool) -> None:
    with alone() as mesh:
        model = net(1)
        if shards:
            sharded(model, mesh)
        (before,) = gather_weights(model, keep=True).values()
        kept = copy.deepcopy(before)
        with torch.no_grad():
            for one in (*model.parameters(), *model.buffers()):
                one.zero_()
        model.calls["forward"].append(9)
        assert_same(before, kept)
        assert not any(value.requires_grad for value in before.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_what_is_one_tensor_under_two_names_is_one_copy(shards: bool) -> None:
    with alone() as mesh:
        model, other = net(), nn.Linear(4, 5)
        other.weight = model.first.weight
        models = {"G": sharded(model, mesh)} if shards else {"G": model, "D": other}
        weights = gather_weights(models, keep=True)
        assert weights["G"]["last.weight"] is weights["G"]["tied.weight"]
        assert shards or weights["D"]["weight"] is weights["G"]["first.weight"]
        every = [value for state in weights.values() for value in state.values() if isinstance(value, Tensor)]
        assert len({value.data_ptr() for value in every}) == len(every) - (1 if shards else 2)


def test_the_versions_of_its_modules_come_with_it() -> None:
    with alone() as mesh:
        model = net()
        expected = dict(model.state_dict()._metadata)
        (found,) = gather_weights(sharded(model, mesh), keep=True).values()
        assert type(found) is OrderedDict
        assert {key: value for key, value in found._metadata.items() if key in expected} == expected


def test_who_does_not_want_the_weights_has_none() -> None:
    with alone() as mesh:
        assert gather_weights(net(), keep=False) is None
        assert gather_weights({"G": sharded(net(), mesh)}, keep=False) is None


def test_a_model_that_a_forward_pass_has_left_whole_is_in_parts_again() -> None:
    with alone() as mesh:
        model = sharded(net(), mesh, reshard_after_forward=False)
        expected = model.norm.bias.full_tensor().detach().clone()
        model.eval()(torch.ones(2, 4))
        assert not any(isinstance(one, DTensor) for one in model.parameters())
        (found,) = gather_weights([model], keep=True).values()
        assert all(isinstance(one, DTensor) for one in model.parameters())
        assert torch.equal(found["norm.bias"], expected)


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_a_compiled_model_has_the_names_of_the_model_inside_it(shards: bool) -> None:
    with alone() as mesh:
        model = net(1)
        expected = copy.deepcopy(model.state_dict())
        compiled = torch.compile(model, backend="eager")
        if shards:
            fully_shard(compiled, mesh=mesh, reshard_after_forward=False)
        compiled.eval()(torch.ones(2, 4))
        (found,) = gather_weights(compiled, keep=True).values()
        assert_same(found, expected)
        assert all(isinstance(one, DTensor) is shards for one in compiled.parameters())


# Given back


@pytest.mark.parametrize(("count", "rank"), PLACES)
def test_whole_tensors_become_the_parts_that_a_sharded_model_takes(count: int, rank: int) -> None:
    state = net(1).state_dict()
    state["last.weight"] = state["tied.weight"] = nn.Parameter(state["last.weight"].clone())  # as with keep_vars
    with one_of(count, rank) as mesh:
        model = sharded(net(2), mesh)
        found = shard_weights(state, model.state_dict())
        assert list(found) == list(state)
        model.load_state_dict(found)
        for name, parameter in model.named_parameters():
            chunks = state[name].chunk(count)
            rows = chunks[rank] if rank < len(chunks) else state[name][:0]
            assert isinstance(found[name], DTensor)
            assert not found[name].requires_grad
            assert torch.equal(parameter.to_local(), rows), name
        for name, buffer in model.named_buffers():
            assert name == "seen" or torch.equal(buffer, state[name]), name
        assert model.calls == {"forward": [0]}


def test_torch_itself_takes_no_whole_tensor_for_a_part() -> None:
    with one_of(2) as mesh, pytest.raises(RuntimeError, match="mixed"):
        sharded(net(2), mesh).load_state_dict(net(1).state_dict())


def test_what_is_in_parts_or_no_parameter_of_the_model_stays_as_it_is() -> None:
    with one_of(2) as mesh:
        present = sharded(net(2), mesh).state_dict()
        part, unknown, extra = present["first.weight"], torch.ones(3), {"calls": 3}
        buffer = torch.full((5,), 3.0)
        state = {"first.weight": part, "norm.running_mean": buffer, "unknown": unknown, "_extra_state": extra}
        found = shard_weights(state, present)
        assert list(found) == list(state)
        assert all(found[name] is state[name] for name in state)
        assert shard_weights({}, present) == {}


def test_a_model_that_is_not_sharded_is_given_the_tensors_themselves() -> None:
    state = net(1).state_dict()
    found = shard_weights(state, net(2).state_dict())
    assert all(found[name] is state[name] for name in state)


# In several processes


def trained(model: Any, rows: slice) -> Any:
    """The model after steps on its rows of each batch; those of all processes together are one batch."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1, momentum=0.9)
    for step in range(3):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.eval()(x[rows]).square().mean().backward()  # with the statistics as they are, which are of a batch else
        optimizer.step()
    return model


def together(mesh: Any) -> dict[str, Any]:
    """What each of three processes has of weights that were trained, gathered, and given back to another model."""
    rank = mesh.get_local_rank()
    model = trained(sharded(net(1), mesh), slice(2 * rank, 2 * rank + 2))
    model(torch.ones(2, 4))  # which leaves the outermost group whole
    weights = gather_weights({"G": model, "D": nn.Linear(1, 1)}, keep=rank == 1)
    again = sharded(net(2), mesh)
    everywhere = gather_weights(model, keep=True)[""]
    again.load_state_dict(shard_weights(everywhere, again.state_dict()))
    return {
        "kept": None if weights is None else {name: dict(state) for name, state in weights.items()},
        "everywhere": dict(everywhere),
        "again": dict(gather_weights(again, keep=True)[""]),
        "output": again.eval()(torch.ones(2, 4)).detach(),
    }


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with preloaded() as context:
        yield context


@pytest.fixture(scope="module")
def found(context: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes has found out, by rank."""
    return results_of(context, together, 3, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
def test_weights_that_three_processes_have_trained_are_those_of_one(found: list[dict[str, Any]]) -> None:
    plain = trained(net(1), slice(None))
    expected = plain.state_dict()
    for one in found:
        assert list(one["everywhere"]) == list(expected)
        torch.testing.assert_close(one["everywhere"], dict(expected), rtol=1e-6, atol=1e-6)
        assert one["everywhere"]["last.weight"] is one["everywhere"]["tied.weight"]
        torch.testing.assert_close(one["output"], plain(torch.ones(2, 4)).detach(), rtol=1e-5, atol=1e-5)
    assert not torch.equal(expected["first.weight"], net(1).state_dict()["first.weight"])


@pytest.mark.slow
def test_all_processes_join_them_and_those_keep_them_that_want_to(found: list[dict[str, Any]]) -> None:
    assert [one["kept"] is None for one in found] == [True, False, True]
    kept = found[1]["kept"]
    assert list(kept) == ["G", "D"]
    for one in found:
        assert_same(one["everywhere"], kept["G"])
        assert_same(one["again"], kept["G"])
    assert list(kept["D"]) == ["weight", "bias"]
