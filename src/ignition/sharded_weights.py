"""The weights of sharded models as one process has them: joined tensor by tensor, and given back from whole ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ignition.dtensors import gathered, shard_like
from ignition.structure import named

if TYPE_CHECKING:
    from ignition.weights import Weights

__all__ = ["gather_weights", "shard_weights"]


def gather_weights(models: Any, keep: bool) -> Weights | None:
    """What `ignition.weights.copy_weights` returns for models that are not sharded; all processes must call it.

    One tensor after the other is joined, in every process, and kept by those that want it, on the CPU: the others
    hold no more than one whole tensor at a time.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them; sharded or not. The keys of one from
            ``torch.compile`` are those of the model inside it.
        keep: Whether this process wants them.

    Returns:
        A state dict for each name, of CPU tensors that share no memory with the models, or None. What is the same
        tensor under two names is one copy under both.
    """
    for model in named(models).values():
        for part in model.modules():
            if isinstance(part, FSDPModule):  # which a forward pass may have left whole
                part.reshard()
    copies: dict[int, Tensor | None] = {}
    weights: Weights = {}
    plain = {name: getattr(model, "_orig_mod", model) for name, model in named(models).items()}  # of compiled ones
    states = {name: model.state_dict(keep_vars=True) for name, model in plain.items()}
    for name, state in states.items():
        mine: OrderedDict[str, Any] = OrderedDict()
        for key, value in state.items():
            if not isinstance(value, Tensor):
                mine[key] = copy.deepcopy(value)
                continue
            if id(value) not in copies:
                copies[id(value)] = gathered(value, keep)
            mine[key] = copies[id(value)]
        if hasattr(state, "_metadata"):  # the versions of the modules, which load_state_dict reads
            mine._metadata = state._metadata  # type: ignore[attr-defined]
        weights[name] = mine
    return weights if keep else None


def shard_weights(state: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of whole tensors as one that a sharded model takes: torch copies no whole tensor into a part.

    Args:
        state: The same in all processes; what is sharded in it stays as it is.
        present: The state dict of the model as it is now.
    """
    with torch.no_grad():
        return {
            key: shard_like(value, present[key]) if isinstance(value, Tensor) and key in present else value
            for key, value in state.items()
        }
