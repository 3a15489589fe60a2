"""What a captured step takes for granted and what it reads anew: any change of it, and only that, is seen."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from ignition import freeze
from ignition.granted import PLAIN, Granted, NotPlain, Numbers, form_of

CPU = torch.device("cpu")

# Hyperparameters


def test_floats_are_given_as_tensors_and_what_has_changed_is_written_into_the_same_ones():
    numbers = Numbers(CPU)
    first, fixed = numbers.bring({"lambd": 0.5, "noise": np.float32(0.25)})
    assert {name: (value.shape, value.dtype) for name, value in first.items()} == {
        "lambd": ((), torch.float32),
        "noise": ((), torch.float32),
    }
    assert [float(value) for value in first.values()] == [0.5, 0.25]
    first["noise"].fill_(9.0)  # what is written again would not stay
    second, again = numbers.bring({"lambd": 2.0, "noise": np.float32(0.25)})
    assert all(second[name] is first[name] for name in first)
    assert [float(value) for value in second.values()] == [2.0, 9.0]
    assert fixed == again, "nothing in a captured step depends on their values"


@pytest.mark.parametrize("value", [3, True, None, "mean", b"mean"])
def test_what_is_plain_is_given_as_it_is_and_fixed_by_its_value(value):
    given, fixed = Numbers(CPU).bring({"a": value})
    assert given == {"a": value}
    assert type(given["a"]) is type(value)
    assert Numbers(CPU).bring({"a": value})[1] == fixed


def fixed_by(*values):
    numbers = Numbers(CPU)
    return [numbers.bring({"a": value})[1] for value in values]


@pytest.mark.parametrize(("one", "other"), [(1, 2), (1, True), (0, None), ("a", "b"), ("a", b"a"), (1, 1.0), ([], [])])
def test_another_value_or_type_or_object_is_another_step(one, other):
    first, second, again = fixed_by(one, other, one)
    assert first != second
    assert first == again


def test_another_name_is_another_step():
    numbers = Numbers(CPU)
    steps = [numbers.bring(hyper)[1] for hyper in ({"a": 0.5}, {"b": 0.5}, {"a": 0.5, "b": 0.5}, {"a": 1.5}, {})]
    assert len(set(steps)) == 4
    assert steps[0] == steps[3]


def test_objects_are_given_themselves_and_no_two_are_taken_for_one():
    numbers = Numbers(CPU)
    tensor = torch.ones(2)
    assert numbers.bring({"a": tensor})[0]["a"] is tensor
    assert len({numbers.bring({"a": [number]})[1] for number in range(20)}) == 20, "the id of none is used again"


# Models and optimizers


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.last = nn.Linear(3, 1, bias=False)


def move(net, adam):
    net.layers[0].weight.data = net.layers[0].weight.data.clone()


def replace(net, adam):
    net.last.weight = nn.Parameter(net.last.weight.detach().clone())


def remove(net, adam):
    net.layers[0].bias = None


def replace_buffer(net, adam):
    net.layers[1].running_mean = torch.zeros(3)


def evaluate(net, adam):
    net.layers[2].eval()


def halve(net, adam):
    net.half()


def set_option(name, value):
    return lambda net, adam: adam.param_groups[1].update({name: value})


def load(net, adam):
    adam.load_state_dict(adam.state_dict())


def drop_group(net, adam):
    del adam.param_groups[1]


CHANGES = {
    "a tensor elsewhere": (move, "the tensor 'weight' of a layer"),
    "another parameter": (replace, "the tensor 'weight' of a layer"),
    "a parameter less": (remove, "the tensor 'bias' of a layer"),
    "another buffer": (replace_buffer, "the tensor 'running_mean' of a layer"),
    "another type": (halve, "the tensor 'weight' of a layer"),
    "another mode": (evaluate, "the mode of a layer"),
    "frozen": (lambda net, adam: net.last.requires_grad_(False), "what is frozen"),
    "frozen by ours": (lambda net, adam: freeze(net.layers[1]), "the mode of a layer"),
    "another group": (lambda net, adam: adam.add_param_group({"params": []}), None),
    "a group less": (drop_group, "the optimizer's groups"),
    "groups made anew": (load, "the optimizer's groups"),
    "a parameter more": (
        lambda net, adam: adam.param_groups[0]["params"].append(torch.zeros(1)),
        "the optimizer's groups",
    ),
    "a number": (set_option("weight_decay", 0.5), "'weight_decay' of the optimizer"),
    "a pair": (set_option("betas", (0.5, 0.9)), "'betas' of the optimizer"),
    "a tensor for a number": (set_option("eps", torch.tensor(1e-8)), "'eps' of the optimizer"),
    "an equal pair": (set_option("betas", (0.9, 0.999)), None),
    "a learning rate": (set_option("lr", 0.5), None),
    "the elements": (lambda net, adam: nn.init.ones_(net.last.weight), None),
    "what a buffer holds": (lambda net, adam: net.layers[1].running_mean.fill_(3.0), None),
    "gradients": (lambda net, adam: net.last(torch.ones(3)).sum().backward(), None),
}


@pytest.mark.parametrize(("change", "word"), CHANGES.values(), ids=CHANGES)
def test_a_change_of_what_is_granted_is_named_and_nothing_else_is(change, word):
    net = Net()
    adam = torch.optim.Adam([{"params": net.layers.parameters()}, {"params": net.last.parameters()}], lr=0.1)
    granted = Granted([net], [adam])
    assert granted.changed() is None
    change(net, adam)
    assert granted.changed() == word


def test_each_of_several_models_and_optimizers_is_looked_at():
    nets = [Net(), Net()]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    granted = Granted(nets, optimizers)
    optimizers[1].param_groups[0]["momentum"] = 0.5
    assert granted.changed() == "'momentum' of the optimizer"
    nets[1].eval()
    assert granted.changed() == "the mode of a layer"


# Batches


Pair = namedtuple("Pair", "x y")


@dataclass
class Batch:
    x: torch.Tensor


def test_batches_of_one_form_differ_in_the_elements_of_their_tensors_alone():
    def batch(fill):
        return torch.full((4, 2), fill), {"y": [torch.full((4,), int(fill)), "name", None], "n": 3}

    assert form_of(batch(1.0)) == form_of(batch(2.0))
    assert len({form_of(batch(1.0)), form_of(batch(2.0))}) == 1, "it is the key of a dict"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2, 1), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ((torch.zeros(2),), [torch.zeros(2)]),
        ((torch.zeros(2),), (torch.zeros(2), torch.zeros(2))),
        ((torch.zeros(2),), torch.zeros(2)),
        ({"x": torch.zeros(2)}, {"y": torch.zeros(2)}),
        ({"x": 1}, [("x", 1)]),
        ((1,), (2,)),
        ((1,), (True,)),
        ((0.0,), (0,)),
        (("a",), (b"a",)),
        ([[1], 2], [1, [2]]),
    ],
)
def test_what_differs_in_anything_else_has_another_form(one, other):
    assert form_of(one) != form_of(other)
    assert form_of(one) == form_of(one)


@pytest.mark.parametrize("value", [None, True, 1, 0.5, "a", b"a"])
def test_what_is_plain_may_be_in_a_batch(value):
    assert type(value) in PLAIN
    assert form_of((value, [value])) == form_of((value, [value]))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Batch(torch.zeros(2)), "Batch"),
        (Pair(1, 2), "Pair"),
        (OrderedDict(x=1), "OrderedDict"),
        (nn.Parameter(torch.zeros(2)), "Parameter"),
        (np.zeros(2), "ndarray"),
        ({1}, "set"),
        (1j, "complex"),
        (print, "builtin_function_or_method"),
    ],
)
def test_what_may_hold_tensors_out_of_sight_is_refused_by_the_name_of_its_class(value, name):
    for batch in (value, (1, value), [value], {"x": [value]}):
        with pytest.raises(NotPlain, match=f"^{name}$"):
            form_of(batch)
