"""Tensors become the bytes that safetensors reads, and a file of another length is known by its header alone."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import safetensors.torch
import torch

from ignition.tensor_files import FOREIGN, is_whole, serialised


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b.c": torch.arange(4),
        "turned": torch.randn(2, 3, generator=generator).t(),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(True),
        "half": torch.randn(3, generator=generator).bfloat16(),
    }


def written(given: dict[str, torch.Tensor]) -> bytes:
    return b"".join(bytes(part) for part in serialised(given)[0])


def test_safetensors_reads_what_is_written() -> None:
    found = safetensors.torch.load(written(tensors()))
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", [dtype for dtype in FOREIGN.values() if dtype.is_complex])
def test_a_type_that_safetensors_lacks_is_bytes_with_a_word_about_them(dtype: torch.dtype) -> None:
    tensor = torch.ones(2, 3, dtype=torch.complex64).to(dtype)
    parts, foreign = serialised({"a": tensor})
    assert foreign == {"a": [str(dtype), [2, 3]]}
    found = safetensors.torch.load(b"".join(bytes(part) for part in parts))["a"]
    assert torch.equal(found.view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("given", [tensors(), {}, {"a": torch.zeros(0)}], ids=["some", "none", "an empty one"])
@pytest.mark.parametrize("writer", ["ours", "safetensors"])
def test_a_file_has_the_length_that_follows_from_its_header(given: Any, writer: str) -> None:
    whole = {name: one.contiguous() for name, one in given.items()}
    data = written(given) if writer == "ours" else safetensors.torch.save(whole)
    assert is_whole(io.BytesIO(data), len(data))
    assert not is_whole(io.BytesIO(data), len(data) - 1)
    assert not is_whole(io.BytesIO(data), len(data) + 1)


@pytest.mark.parametrize(
    "header",
    [
        None, [], 3, "a", {"a": 3}, {"a": {}}, {"a": {"data_offsets": []}}, {"a": {"data_offsets": [0, "x"]}},
        {"a": {"data_offsets": [0, None]}},
    ],
)  # fmt: skip
def test_another_header_is_that_of_no_whole_file(header: Any) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"0" * 8
    assert not is_whole(io.BytesIO(data), len(data))


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 100, b"\xff" * 100, b"\x08" + b"\0" * 7 + b"[" * 8])
def test_bytes_that_are_no_header_are_that_of_no_whole_file(data: bytes) -> None:
    assert not is_whole(io.BytesIO(data), len(data))
