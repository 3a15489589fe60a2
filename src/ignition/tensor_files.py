"""Tensors as the parts of a safetensors file, and whether a file is as long as it says it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["FOREIGN", "is_whole", "serialised"]

_LONGEST = 100_000_000  # bytes of a header, as safetensors allows it

FOREIGN = {
    str(dtype): dtype for dtype in (torch.complex128, torch.complex32, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2)
}
"""What safetensors cannot hold: kept as bytes, with type and shape in state.json."""

_SAFE = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
}
"""How safetensors calls the types that it holds."""


def serialised(tensors: Mapping[str, Tensor]) -> tuple[list[memoryview], dict[str, Any]]:
    """The tensors as the parts of a safetensors file, and the types and shapes of those that it holds as bytes.

    Not by safetensors' own ``save``: it would copy everything once more, and have Python wait for that, the training
    loop in its thread too. The parts of the tensors are their own memory.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    foreign = {name: [str(one.dtype), list(one.shape)] for name, one in whole.items() if str(one.dtype) in FOREIGN}
    for name in foreign:
        whole[name] = whole[name].reshape(-1).view(torch.uint8)
    # The widest first, as safetensors does it: so each lies where its type can be read in place.
    order = sorted(whole, key=lambda name: (-whole[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, place = [], 0
    for name in order:
        tensor, end = whole[name], place + whole[name].nbytes
        header[name] = {"dtype": _SAFE[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts], foreign


def is_whole(file: BinaryIO, size: int) -> bool:
    """Whether a safetensors file has the size that follows from its header; looks at that alone."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(_LONGEST, size - 8):
        return False
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return max(ends, default=0) == size - 8 - length
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
