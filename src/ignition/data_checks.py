"""Checks of the data: what goes in, and whether training and test data are apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset

from ignition.check_report import Failed, Skipped
from ignition.check_runs import Material, inputs_of
from ignition.data import batch_weight, iterate
from ignition.device import tensors_in
from ignition.tensor_loader import TensorLoader

__all__ = ["inputs_in_range", "no_shared_samples"]

_LARGEST = 100.0  # of an input: normalised ones are far below, bytes (0 to 255) above
_SAMPLES = 5_000  # of each loader that are compared
_INDICES = 200_000
_SECONDS = 5.0  # for the samples of each loader


def inputs_in_range(material: Material) -> str:
    """No NaN or infinity anywhere in the batches; inputs that are not all zero, and of a size to learn from."""
    ranges = [_range("train_loader", material.train), _range("test_loader", material.test)]
    found = [one for one in ranges if one is not None]
    if not found:
        raise Skipped("no floating-point inputs in the batches")
    return f"from {min(low for low, _ in found):.3g} to {max(high for _, high in found):.3g}"


def _range(role: str, batches: list[Any]) -> tuple[float, float] | None:
    """The smallest and the largest of a loader's floating-point inputs, None without any."""
    for tensor in (tensor for batch in batches for tensor in tensors_in(batch) if tensor.is_floating_point()):
        if not bool(torch.isfinite(tensor).all()):
            raise Failed(
                f"NaN or infinite values in a batch of {role}, in a tensor of shape {tuple(tensor.shape)}: look for "
                "missing values and divisions by zero in the data set and its transforms"
            )
    inputs = [tensor for batch in batches for tensor in tensors_in(inputs_of(batch)) if tensor.is_floating_point()]
    inputs = [tensor for tensor in inputs if tensor.numel()]
    if not inputs:
        return None
    low, high = min(float(one.min()) for one in inputs), max(float(one.max()) for one in inputs)
    if low == high == 0:
        raise Failed(f"all inputs of {role} are zero: look at how the data set reads them, and at what scales them")
    if max(-low, high) > _LARGEST:
        raise Failed(
            f"inputs of {role} from {low:.3g} to {high:.3g}: scale them, to 0..1 or to a mean of 0 and a standard "
            "deviation of 1"
        )
    return low, high


def no_shared_samples(material: Material) -> str:
    """No test sample is in the training data: by its index in a common data set, and by the bytes of its inputs."""
    train_loader, test_loader = material.trainer.train_loader, material.trainer.test_loader
    if test_loader is None:
        raise Skipped("there is no test_loader")
    axis = material.trainer.batch_axis
    common = _places(train_loader) & _places(test_loader)
    if common:
        raise Failed(f"{len(common)} samples are in both loaders, by their index: {_APART}")
    train, test = (list(_fingerprints(loader, axis)) for loader in (train_loader, test_loader))
    seen = f"{len(test)} test and {len(train)} training samples compared"
    known = set(train)
    for samples in (train, test):
        if len(set(samples)) < 0.9 * len(samples):
            raise Skipped("many samples have the same inputs as others of their own set")
    if not known or not test:
        raise Skipped("no samples with inputs that can be compared")
    shared = sum(sample in known for sample in test)
    if shared:
        raise Failed(f"{shared} test samples have the inputs of a training sample ({seen}): {_APART}")
    return seen


_APART = "split the data before it is shuffled, augmented or windowed, or take them out of one of the two"


def _fingerprints(loader: Any, axis: int) -> Iterator[bytes]:
    until = perf_counter() + _SECONDS
    for sample in islice(_samples(loader, axis), _SAMPLES):
        digest = hashlib.blake2b(digest_size=16)
        if _feed(digest, inputs_of(sample)):
            yield digest.digest()
        if perf_counter() > until:
            return


def _feed(digest: Any, value: Any) -> bool:
    """Adds what a value is to a digest; whether it is anything that has a content of its own."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.to(torch.float32).numpy() if value.dtype is torch.bfloat16 else value.numpy()
    if isinstance(value, np.ndarray) or callable(getattr(value, "tobytes", None)):  # an image of PIL has it too
        digest.update(repr((getattr(value, "dtype", ""), getattr(value, "shape", ""))).encode())
        digest.update(value.tobytes())
        return True
    if isinstance(value, (bool, int, float, str, bytes)):
        digest.update(repr(value).encode())
        return True
    if isinstance(value, dict):
        return any([_feed(digest, item) for item in value.values()])
    return isinstance(value, (tuple, list)) and any([_feed(digest, item) for item in value])


def _samples(loader: Any, axis: int) -> Iterator[Any]:
    """The samples of a loader, evenly from its whole where they can be picked."""
    if isinstance(loader, TensorLoader):
        for index in _evenly(range(loader.samples)):
            yield tuple(tensor[index] for tensor in loader.tensors)
    elif _has_indices(loader):
        for index in _evenly(_indices(loader)):
            yield loader.dataset[index]
    else:
        for batch in iterate(loader):
            yield from _rows(batch, axis)


def _evenly(indices: Any) -> Any:
    return indices[:: -(-len(indices) // _SAMPLES) or 1]


def _rows(batch: Any, axis: int) -> Iterator[Any]:
    size = batch_weight(batch, axis)
    tensors = [one for one in tensors_in(inputs_of(batch)) if one.ndim > axis and one.size(axis) == size]
    for row in range(size or 0):
        yield (tuple(tensor.select(axis, row) for tensor in tensors), None)


def _has_indices(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def _indices(loader: Any) -> list[Any]:
    """The indices that a DataLoader asks for in an epoch, each once."""
    batches = loader.batch_sampler
    plain = batches is None or type(batches) is BatchSampler
    order: Iterable[Any] = loader.sampler if plain else chain.from_iterable(batches)
    indices = list(dict.fromkeys(islice(order, _INDICES)))
    try:
        return sorted(indices)
    except TypeError:  # keys of no order
        return indices


def _places(loader: Any) -> set[tuple[int, Any]]:
    """Which samples of which data set a loader reads, through `torch.utils.data.Subset` too."""
    if not _has_indices(loader):
        return set()
    places = set()
    for index in _indices(loader):
        dataset: Any = loader.dataset
        while isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        places.add((id(dataset), index))
    return places
