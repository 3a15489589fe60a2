"""In what order a loader reads, and which samples, in words: what a run that goes on is to find again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ignition.data import digest_of
from ignition.keyed import iterates_in_own_way
from ignition.tensor_loader import TensorLoader

__all__ = ["ORDER", "SAMPLES", "beginning_of", "choice_of", "order_of"]

ORDER, SAMPLES = "order of train_loader", "samples of train_loader"
"""What a checkpoint calls the two."""

_DEEPEST = 5  # data sets in data sets


def order_of(loader: Any) -> str:
    """In what order a loader reads, as far as it is known. It costs next to nothing.

    Example:
        >>> import torch
        >>> order_of(TensorLoader(torch.zeros(4), batch_size=2, shuffle=True))
        'shuffled by TensorLoader'
        >>> order_of(DataLoader([1, 2, 3], batch_size=2))
        'in order'
    """
    if isinstance(loader, TensorLoader):
        return "shuffled by TensorLoader" if loader.shuffle else "in order"
    if not isinstance(loader, DataLoader):
        return "in order" if isinstance(loader, (list, tuple)) else f"by {type(loader).__qualname__}"
    if isinstance(loader.dataset, IterableDataset):
        return f"by {type(loader.dataset).__qualname__}"
    words = _words(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    return f"{words}, {type(loader).__qualname__}" if iterates_in_own_way(loader) else words


def _words(sampler: Any) -> str:
    kind: Any = type(sampler)
    if kind is BatchSampler:
        return _words(sampler.sampler)
    if kind is SequentialSampler or (kind is DistributedSampler and not sampler.shuffle):
        return "in order"
    if kind is RandomSampler:
        return f"shuffled by RandomSampler{' with replacement' if sampler.replacement else ''}"
    if kind is DistributedSampler:
        return f"shuffled by DistributedSampler, seed {sampler.seed}"
    return "by indices that are given" if isinstance(sampler, (list, np.ndarray, Tensor)) else f"by {kind.__qualname__}"


def choice_of(loader: Any) -> str:
    """Which samples of its data a loader reads, where indices choose them, as a digest; empty where none do.

    It looks at the indices of each `Subset`, also inside other data sets, and at those (and the weights) in samplers of
    torch's; not at the data. A million indices in a list take a tenth of a second, so this is for once a fit.

    Example:
        >>> from torch.utils.data import random_split
        >>> loaders = [DataLoader(part) for part in random_split(range(100), [80, 20])]
        >>> choice_of(loaders[0]).split(", ")[0], choice_of(DataLoader(range(100)))
        ('80 of a Subset', '')
    """
    if not isinstance(loader, DataLoader):
        return ""
    found = list(_choices(loader.dataset, 0))
    sampler: Any = loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else loader.sampler
    if type(sampler) is SubsetRandomSampler:
        found.append(("a SubsetRandomSampler", sampler.indices))
    elif type(sampler) is WeightedRandomSampler:
        found.append(("a WeightedRandomSampler", sampler.weights))
    elif isinstance(sampler, (list, np.ndarray, Tensor)):
        found.append(("a list", sampler))
    digest = hashlib.blake2b(digest_size=4)
    for _, values in found:
        digest.update(_bytes(values))
    words = " and ".join(f"{len(values)} of {what}" for what, values in found)
    return f"{words}, {digest.hexdigest()}" if found else ""


def beginning_of(loader: Any) -> str:
    """A digest of what a loader's data begin with, where that is at hand: of lists of batches, and of tensors.

    Example:
        >>> beginning_of([torch.zeros(2)]) == beginning_of([torch.zeros(2), torch.ones(2)])
        True
    """
    data = getattr(loader, "dataset", loader)
    while isinstance(data, Subset):
        data = data.dataset
    if isinstance(data, (TensorDataset, TensorLoader)):
        return digest_of([one[:1] for one in data.tensors if one.layout is torch.strided]).hex()[:16]
    # One of the user's own may draw as it is asked, or read much.
    return digest_of(loader[0]).hex()[:16] if type(loader) in (list, tuple) and loader else ""


def _choices(dataset: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST or not isinstance(dataset, Dataset):
        return
    if isinstance(dataset, Subset):
        yield "a Subset", dataset.indices
    for value in getattr(dataset, "__dict__", {}).values():  # of a class that wraps it, and of torch's ConcatDataset
        for part in value if isinstance(value, (list, tuple)) and len(value) <= 64 else [value]:
            yield from _choices(part, depth + 1)


def _bytes(values: Any) -> bytes:
    if isinstance(values, range):
        values = np.arange(values.start, values.stop, values.step)
    elif isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # a list of lists of unlike lengths
        return b""
    if array.dtype.kind in "iub":
        array = array.astype(np.int64)  # the same of a list, an array and a tensor
    return array.tobytes() if array.dtype.kind in "if" else b""
