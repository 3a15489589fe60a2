"""A parameter that its model has no more: what describes it can be asked for, and all else is an error."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ignition.errors import OptimizerError
from ignition.stale_parameters import StaleParameter, retire


@pytest.fixture
def stale():
    """The weight and the bias of a layer that has others now, one of them under two names."""
    layer = nn.Linear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    retire([("layer.weight", layer.weight), ("layer.bias", layer.bias), ("tied.weight", layer.weight)])
    return [layer.weight, layer.bias]


@pytest.mark.parametrize(
    "use",
    [
        lambda one: nn.utils.clip_grad_norm_(one, 0.1),
        lambda one: sum((part**2).sum() for part in one),
        lambda one: torch.optim.SGD(one, 0.1),
        lambda one: torch._foreach_norm(one),
        lambda one: one[0].grad,
        lambda one: one[0].data,
        lambda one: one[0].detach(),
        lambda one: one[0].item(),
        lambda one: repr(one[0]),
        lambda one: nn.functional.linear(torch.ones(1, 3), one[0]),
        copy.deepcopy,
    ],
)
def test_to_use_one_is_an_error_that_names_it(stale, use):
    with pytest.raises(OptimizerError, match=r"the parameter layer\.weight is used as it was before FSDP"):
        use(stale)


def test_an_optimizer_that_has_one_can_neither_step_nor_clear_its_gradients():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    retire(layer.named_parameters())
    for call in (optimizer.step, optimizer.zero_grad):
        with pytest.raises(OptimizerError, match="the parameter weight is used"):
            call()


def test_what_describes_one_is_as_it_was(stale):
    weight = stale[0]
    assert type(weight) is StaleParameter
    assert isinstance(weight, nn.Parameter)
    assert weight.shape == (2, 3)
    assert (weight.numel(), weight.dim(), weight.size(1), weight.dtype) == (6, 2, 3, torch.float32)
    assert weight.requires_grad
    assert weight.device.type == "cpu"
    assert {weight: 1}[weight] == 1


def test_its_values_are_let_go_of():
    layer = nn.Linear(1000, 1000)
    (weight, _), storage = layer.parameters(), layer.weight.untyped_storage()
    assert storage.nbytes() == 4_000_000
    retire([("weight", weight)])
    with torch._C.DisableTorchFunctionSubclass():
        assert weight.untyped_storage().nbytes() == 4
