"""Which modules are sharded on their own, and what cannot be sharded: found before anything is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fsdp import Block, Options, net
from torch import nn

from ignition.errors import ArgumentError
from ignition.fsdp_plan import check_model, check_optimizer, check_types, forward_methods, groups


class Wide(nn.Sequential):
    """A block with large blocks inside."""


def test_blocks_are_the_elements_of_lists_and_large_ones_inside_them() -> None:
    assert groups(net()) == ["blocks.0", "blocks.1", "blocks.2"]
    assert groups(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))) == ["0", "2"]
    assert groups(nn.Linear(2, 3)) == []
    with torch.device("meta"):
        large = nn.Sequential(Wide(nn.Linear(1000, 1000), nn.Linear(10, 10)), nn.ModuleList([nn.Linear(2, 2)]))
    assert groups(large) == ["0.0", "1.0", "0"]  # the inner ones first


def test_blocks_are_chosen_by_class_or_by_a_function() -> None:
    assert groups(net(), nn.LayerNorm) == [f"blocks.{index}.norm" for index in range(3)]
    assert sorted(groups(net(), (Block, nn.LayerNorm))) == sorted([*groups(net(), Block), *groups(net(), nn.LayerNorm)])
    assert groups(net(), lambda module: isinstance(module, nn.Linear) and module.in_features == 5) == ["first"]


def test_what_shares_a_parameter_with_the_outside_is_no_group_of_its_own() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))})
    assert groups(model) == ["blocks.0", "blocks.1"]
    model["blocks"][0][0].weight = model["blocks"][0][1].weight  # both inside
    assert groups(model) == ["blocks.0", "blocks.1"]
    assert groups(model, nn.Linear) == ["blocks.1.0", "blocks.1.1"]
    model["blocks"][0][0].bias = model["blocks"][1][0].bias
    assert groups(model) == []


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.Conv2d, "no module"),
        (nn.ModuleList, "never called"),
        (lambda module: False, "no module"),
        ("Block", "wrap='Block'"),
        (int, "wrap="),
        ((), "wrap="),
        ((Block, "Block"), "wrap="),
    ],
)
def test_a_wrap_that_names_no_modules_is_an_error(wrap: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        groups(net(), wrap)


def test_methods_that_compute_are_those_that_the_user_wrote() -> None:
    assert forward_methods(net()) == {"encode": False, "described": False, "forward": True}
    assert forward_methods(net(), ("encode",))["encode"]
    assert forward_methods(nn.TransformerEncoderLayer(4, 2)) == {"forward": True}


def test_what_cannot_be_sharded_is_named_before_anything_is_changed() -> None:
    model = net()
    check_model({"a": model, "b": net()})
    with pytest.raises(ArgumentError, match=r"share the parameter first\.weight"):
        check_model([model, model])
    model.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ArgumentError, match=r"a\.temperature has no dimension"):
        check_model({"a": model})
    with pytest.raises(ArgumentError, match="has no values yet"):
        check_model(nn.LazyLinear(3))
    with torch.device("meta"), pytest.raises(ArgumentError, match="has no values yet"):
        check_model(nn.Linear(2, 3))


def test_optimizers_that_need_whole_parameters_are_named() -> None:
    layer = nn.Linear(3, 2)
    names = {id(one): name for name, one in layer.named_parameters()}
    for kind in (torch.optim.LBFGS, torch.optim.Adafactor):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}_G cannot step"):
            check_optimizer({"G": kind(layer.parameters())}, names)
    with pytest.raises(ArgumentError, match="fused=True"):
        check_optimizer(torch.optim.SGD(layer.parameters(), lr=0.1, fused=True), names)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    check_optimizer([optimizer, None], names)
    optimizer.state[layer.weight]["rows"] = torch.zeros(2, 1)
    with pytest.raises(ArgumentError, match="keeps as 'rows' for weight is a tensor of shape"):
        check_optimizer(optimizer, names)
    check_optimizer(optimizer, {})  # where the parameter is not to be sharded, it does not matter
    optimizer.state[layer.weight]["rows"] = [torch.zeros(2, 3)]
    with pytest.raises(ArgumentError, match="keeps as 'rows' for weight is a list"):
        check_optimizer(optimizer, names)


@pytest.mark.parametrize("precision", ["int8", torch.int64, torch.float32, 16])
def test_a_precision_that_there_is_not_is_an_error(precision: Any) -> None:
    from ignition.fsdp import check

    with pytest.raises(ArgumentError, match="precision="):
        check(net(), None, Options(precision=precision))


def test_parameters_that_are_gathered_together_have_one_type() -> None:
    model = net()
    check_types(model, groups(model))
    model.blocks[1].double()
    check_types(model, groups(model))  # a block of its own
    model.blocks[1].norm.float()
    with pytest.raises(ArgumentError, match=r"blocks\.1\.\S+ \(torch\.float\d+\) and blocks\.1\.\S+ \(torch.float"):
        check_types(model, groups(model))
    model.blocks[1].norm.requires_grad_(False)
    check_types(model, groups(model))


def test_what_is_in_no_block_has_one_type_too() -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 3), "last": nn.Linear(3, 2).double()})
    with pytest.raises(ArgumentError, match=r"first\.weight \(torch\.float32\) and last\.weight \(torch\.float64\)"):
        check_types(model, groups(model))
    check_types(model, groups(model, lambda module: module is model["first"]))
