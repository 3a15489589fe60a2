"""Tensors in parts: what each process has of one, told by torch.chunk, and what they are together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from forked_processes import preloaded, results_of
from meshes import one_of
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from ignition.dtensors import copy_into, from_part, gathered, is_sharded, part_of, shard_like, span, total_norm
from ignition.errors import ArgumentError

SHAPES = {"long": (7, 5), "short": (2,), "one": (1, 3, 2), "even": (6, 1), "empty rows": (4, 0), "none": (0, 2)}
PLACES = [(count, rank) for count in (1, 2, 3, 5) for rank in range(count)]


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return made | {"numbers": torch.arange(5), "half": torch.randn(4, 2, generator=generator).bfloat16()}


def rows_of(tensor: Tensor, count: int, rank: int) -> Tensor:
    """The chunk of one process; torch.chunk makes as many as have rows."""
    chunks = tensor.chunk(count)
    return chunks[rank] if rank < len(chunks) else tensor[:0]


def spread(tensor: Tensor, mesh: Any, count: int, rank: int) -> DTensor:
    """A tensor as torch spreads it, without the others to send it."""
    rows = rows_of(tensor, count, rank).clone()
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride())


# What one process has of a tensor


def test_rows_are_spread_as_chunks_of_torch() -> None:
    for length in range(12):
        for count in range(1, 6):
            chunks = [len(one) for one in torch.arange(length).chunk(count)] if length else []
            expected = chunks + [0] * (count - len(chunks))
            spans = [span(length, rank, count) for rank in range(count)]
            assert [found for _, found in spans] == expected
            assert [start for start, found in spans if found] == [
                sum(expected[:i]) for i, e in enumerate(expected) if e
            ]


def test_a_process_without_rows_begins_where_the_tensor_ends() -> None:
    assert [span(4, rank, 5) for rank in range(5)] == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0)]
    assert [span(6, rank, 4) for rank in range(4)] == [(0, 2), (2, 2), (4, 2), (6, 0)]
    assert [span(0, rank, 2) for rank in range(2)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("count", "rank"), PLACES)
def test_the_part_of_a_process_is_its_chunk_and_where_it_begins(count: int, rank: int) -> None:
    with one_of(count, rank) as mesh:
        for name, tensor in tensors().items():
            part = part_of(spread(tensor, mesh, count, rank))
            rows = rows_of(tensor, count, rank)
            assert type(part.rows) is Tensor
            assert torch.equal(part.rows, rows), name
            assert part.rows.dtype == tensor.dtype
            assert torch.equal(part.rows, tensor[part.start : part.start + len(rows)]), name
            assert part.shape == tuple(tensor.shape)


def test_rows_are_a_copy_unless_they_are_asked_for_as_they_are_and_never_part_of_a_graph() -> None:
    with one_of(2) as mesh:
        tensor = spread(torch.arange(8.0).view(4, 2), mesh, 2, 0).requires_grad_()
        kept, here = part_of(tensor), part_of(tensor, copy=False)
        assert not kept.rows.requires_grad
        assert not here.rows.requires_grad
        assert here.rows.data_ptr() == tensor.to_local().data_ptr()
        with torch.no_grad():
            tensor.to_local().zero_()
        assert kept.rows.tolist() == [[0, 1], [2, 3]]
        assert here.rows.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("placements", "shape", "mesh_shape"),
    [
        ([Replicate()], (4, 2), (2,)),
        ([Shard(1)], (4, 2), (2,)),
        ([Replicate()], (), (2,)),
        ([Replicate(), Shard(0)], (4, 2), (1, 2)),
        ([Shard(0), Shard(0)], (4, 2), (1, 2)),
    ],
    ids=["whole", "columns", "a number", "a grid", "twice"],
)
def test_what_is_split_in_another_way_is_refused(placements: Any, shape: Any, mesh_shape: Any) -> None:
    with one_of(2, 0, *mesh_shape) as mesh:
        tensor = DTensor.from_local(torch.ones(shape), mesh, placements, run_check=False)
        assert not is_sharded(tensor)
        with pytest.raises(ArgumentError) as caught:
            part_of(tensor)
        given, expected, fix = caught.value.args
        assert f"is spread as {tensor.placements}" in given
        assert str(tuple(tensor.shape)) in given
        assert expected == "one that is split along its first dimension, as fully_shard does it"
        assert "strategy=FSDP" in fix


def test_parts_of_other_lengths_than_chunks_are_refused() -> None:
    with one_of(2) as mesh:
        tensor = DTensor.from_local(torch.ones(3, 2), mesh, [Shard(0)], run_check=False, shape=(4, 2), stride=(2, 1))
        with pytest.raises(ArgumentError, match=r"a tensor of shape \(4, 2\) is spread as"):
            part_of(tensor)


def test_a_parameter_in_parts_is_sharded_and_a_plain_tensor_is_not() -> None:
    with one_of(2) as mesh:
        tensor = spread(torch.ones(4, 2), mesh, 2, 0)
        assert is_sharded(tensor)
        assert is_sharded(nn.Parameter(tensor))
    for other in (torch.ones(4, 2), nn.Parameter(torch.ones(1)), torch.ones(()), None, "rows"):
        assert not is_sharded(other)


# A tensor of which one process makes its part


@pytest.mark.parametrize(("count", "rank"), PLACES)
def test_a_whole_tensor_is_sharded_like_another_by_taking_its_chunk(count: int, rank: int) -> None:
    with one_of(count, rank) as mesh:
        for name, tensor in tensors().items():
            like = spread(torch.zeros(tensor.shape), mesh, count, rank)
            found = shard_like(tensor, like)
            assert is_sharded(found)
            assert (found.device_mesh, found.shape, found.dtype) == (mesh, tensor.shape, tensor.dtype)
            assert found.stride() == torch.empty(tensor.shape).stride()
            assert torch.equal(found.to_local(), rows_of(tensor, count, rank)), name


def test_it_has_memory_of_its_own_in_the_order_of_its_rows_and_no_graph() -> None:
    with one_of(2) as mesh:
        image = torch.arange(4.0 * 3 * 2 * 2).view(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
        found = shard_like(image, spread(torch.zeros(4, 3, 2, 2), mesh, 2, 0))
        assert found.to_local().is_contiguous()
        assert not found.requires_grad
        with torch.no_grad():
            image.zero_()
        assert found.to_local().flatten().tolist() == list(range(24))


def test_what_is_sharded_already_or_has_no_sharded_model_is_given_back_as_it_is() -> None:
    with one_of(2) as mesh:
        whole, sharded = torch.ones(4, 2), spread(torch.ones(4, 2), mesh, 2, 0)
        assert shard_like(whole, torch.zeros(4, 2)) is whole
        assert shard_like(sharded, torch.zeros(4, 2)) is sharded
        assert shard_like(sharded, spread(torch.zeros(4, 2), mesh, 2, 0)) is sharded


@pytest.mark.parametrize(("count", "rank"), PLACES)
def test_a_tensor_is_made_of_the_rows_of_a_process(count: int, rank: int) -> None:
    with one_of(count, rank) as mesh:
        for name, tensor in tensors().items():
            rows = rows_of(tensor, count, rank)
            made = from_part(rows.clone(), iter(tensor.shape), mesh)
            assert is_sharded(made)
            assert (made.device_mesh, made.shape, made.dtype) == (mesh, tensor.shape, tensor.dtype)
            assert made.stride() == tensor.stride()
            assert torch.equal(made.to_local(), rows), name
            again = part_of(made)
            assert torch.equal(again.rows, rows)
            assert again.shape == tensor.shape


def test_rows_in_another_order_are_put_in_that_of_the_whole() -> None:
    with one_of(2) as mesh:
        made = from_part(torch.arange(6.0).view(3, 2).T, (4, 3), mesh)
        assert made.to_local().is_contiguous()
        assert made.to_local().tolist() == [[0, 2, 4], [1, 3, 5]]


# Without sharded tensors


def test_a_whole_tensor_is_copied_to_the_cpu_by_those_that_want_it() -> None:
    tensor = torch.ones(2, requires_grad=True)
    kept = gathered(tensor, keep=True)
    assert gathered(tensor, keep=False) is None
    with torch.no_grad():
        tensor.zero_()
    assert kept.tolist() == [1, 1]
    assert not kept.requires_grad


def test_values_are_written_into_a_parameter_in_place() -> None:
    target = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    before = target.data_ptr()
    copy_into(target, torch.tensor([1.0, 2.0], requires_grad=True))
    assert target.tolist() == [1, 2]
    assert target.data_ptr() == before
    assert target.is_leaf
    assert target.grad_fn is None
    with pytest.raises(RuntimeError, match="size"):
        copy_into(target, torch.zeros(3))


def embedding_gradient() -> Tensor:
    """A sparse gradient, with a row that has been looked up twice."""
    embedding = nn.Embedding.from_pretrained(torch.arange(12.0).view(6, 2), freeze=False, sparse=True)
    embedding(torch.tensor([1, 4, 4])).square().sum().backward()
    return embedding.weight.grad


def test_the_norm_of_plain_gradients_is_that_of_all_their_numbers() -> None:
    plain, sparse = [torch.randn(3, 2), torch.randn(5), torch.tensor(2.0)], embedding_gradient()
    for gradients in (plain, [sparse], [*plain, sparse]):
        numbers = torch.cat([one.to_dense().flatten() for one in gradients])
        torch.testing.assert_close(total_norm(iter(gradients)), numbers.norm())
    assert total_norm([]).item() == 0


# Together


def together(mesh: Any) -> dict[str, Any]:
    """What one of several processes finds out, with torch's own way to spread a tensor."""
    count, rank = mesh.size(), mesh.get_local_rank()
    results: dict[str, Any] = {}
    for name, tensor in tensors().items():
        given = distribute_tensor(tensor, mesh, [Shard(0)])
        part = part_of(given)
        assert part.start == min(sum(len(one) for one in tensor.chunk(count)[:rank]), len(tensor))
        before = given.to_local().clone()
        kept = gathered(given, keep=rank == count - 1)
        results[f"gathered {name}"] = None if kept is None else kept.clone()
        if kept is not None:
            kept.zero_()
        results[f"left alone {name}"] = torch.equal(given.to_local(), before)
        results[f"made {name}"] = from_part(part.rows, part.shape, mesh).full_tensor()
        if rank == 0:  # without a word to the others, who would not answer
            from_part(part.rows, part.shape, mesh)
            shard_like(tensor, given)

        own, whole = distribute_tensor(torch.zeros_like(tensor), mesh, [Shard(0)]), torch.zeros_like(tensor)
        place = own.to_local().data_ptr()
        copy_into(own, given)
        results[f"sharded into sharded {name}"] = own.full_tensor()
        own.zero_()
        copy_into(own, tensor)
        results[f"whole into sharded {name}"] = own.full_tensor()
        assert own.to_local().data_ptr() == place
        copy_into(whole, given)
        results[f"sharded into whole {name}"] = whole

    parameter = nn.Parameter(distribute_tensor(torch.zeros(7, 5), mesh, [Shard(0)]))
    copy_into(parameter, tensors()["long"].requires_grad_())
    assert parameter.is_leaf
    results["parameter"] = parameter.detach().full_tensor()

    floats = [tensors()[name] for name in ("long", "short", "one", "even")]
    sharded = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in floats]
    plain = [torch.arange(3.0), embedding_gradient()]
    norms = {"both": [*sharded, *plain], "sharded": sharded, "plain": plain, "one by one": [plain[0], sharded[1]]}
    results["norms"] = {name: total_norm(gradients) for name, gradients in norms.items()}
    assert all(type(norm) is Tensor for norm in results["norms"].values())
    return results


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with preloaded() as context:
        yield context


@pytest.fixture(scope="module", params=[1, 3])
def found(request: Any, context: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has found out, by rank."""
    return results_of(context, together, request.param, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
def test_those_that_want_it_have_a_copy_of_the_whole_and_the_others_nothing(found: list[dict[str, Any]]) -> None:
    for name, tensor in tensors().items():
        *others, last = (one[f"gathered {name}"] for one in found)
        assert others == [None] * (len(found) - 1)
        assert last.dtype == tensor.dtype
        assert torch.equal(last, tensor), name
        assert all(one[f"left alone {name}"] for one in found), "the copy shares memory with the part"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sharded into sharded", "whole into sharded", "sharded into whole"])
def test_values_are_written_from_and_into_tensors_in_parts(found: list[dict[str, Any]], how: str) -> None:
    for name, tensor in tensors().items():
        for one in found:
            assert torch.equal(one[f"{how} {name}"], tensor), name
    assert all(torch.equal(one["parameter"], tensors()["long"]) for one in found)


@pytest.mark.slow
def test_tensors_of_which_each_process_made_its_part_are_whole_together(found: list[dict[str, Any]]) -> None:
    for name, tensor in tensors().items():
        assert all(torch.equal(one[f"made {name}"], tensor) for one in found), name


@pytest.mark.slow
def test_the_norm_over_parts_and_plain_gradients_is_that_of_all_their_numbers(found: list[dict[str, Any]]) -> None:
    sharded = [tensors()[name].flatten() for name in ("long", "short", "one", "even")]
    plain = [torch.arange(3.0), embedding_gradient().to_dense().flatten()]
    expected = {
        "both": torch.cat([*sharded, *plain]).norm(),
        "sharded": torch.cat(sharded).norm(),
        "plain": torch.cat(plain).norm(),
        "one by one": torch.cat([plain[0], sharded[1]]).norm(),
    }
    for one in found:
        assert one["norms"] == found[0]["norms"]
        torch.testing.assert_close(one["norms"], expected)
