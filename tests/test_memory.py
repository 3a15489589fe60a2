"""Objects are given back what they held, to the bit, and stay the same objects."""

from __future__ import annotations

import random
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from torch import nn

from ignition.errors import ArgumentError
from ignition.memory import Memory


def test_a_tensor_keeps_its_identity_and_gets_back_values_gradient_and_flag():
    parameter = nn.Parameter(torch.randn(3))
    parameter.grad = gradient = torch.ones(3)
    values, memory_place = parameter.detach().clone(), parameter.data_ptr()
    memory = Memory([parameter])
    parameter.data.mul_(2)
    parameter.grad.zero_()
    parameter.grad = None
    parameter.requires_grad_(False)
    memory.restore()
    assert torch.equal(parameter, values)
    assert parameter.data_ptr() == memory_place
    assert parameter.grad is gradient
    assert gradient.tolist() == [1, 1, 1]
    assert parameter.requires_grad


def test_the_sign_of_zero_and_nan_come_back():
    tensor = torch.tensor([-0.0, float("nan"), 1.0])
    memory = Memory([tensor])
    tensor.zero_()
    memory.restore()
    assert tensor.view(torch.int32).tolist() == torch.tensor([-0.0, float("nan"), 1.0]).view(torch.int32).tolist()


@pytest.mark.parametrize(
    "change",
    [lambda one: one.half(), lambda one: one.double(), lambda one: setattr(one.weight, "data", torch.ones(9, 9))],
)
def test_a_tensor_whose_data_was_exchanged_has_its_own_again(change):
    layer = nn.Linear(2, 2)
    weight, place = layer.weight.detach().clone(), layer.weight.data_ptr()
    memory = Memory([layer])
    change(layer)
    memory.restore()
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, weight)
    assert layer.weight.data_ptr() == place


def test_an_expanded_and_a_sparse_tensor_come_back():
    expanded = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    sparse = torch.eye(3).to_sparse()
    memory = Memory([expanded, sparse])
    expanded[:, :1].zero_()
    sparse.mul_(5)
    memory.restore()
    assert expanded.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert torch.equal(sparse.to_dense(), torch.eye(3))


def test_a_module_gets_back_buffers_modes_attributes_and_hooks():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.calls, self.seen = 0, []
            self.register_buffer("cache", torch.zeros(2), persistent=False)

        def forward(self, x):
            self.calls += 1
            self.seen.append(x)
            self.cache = torch.ones(2)
            self.new = "attribute"
            return self.norm(x)

    model = Counting()
    cache, seen = model.cache, model.seen
    memory = Memory([model])
    model(torch.randn(4, 2))
    model.register_forward_hook(lambda *_: None)
    model.eval()
    memory.restore()
    assert (model.calls, model.seen, model.training, model.norm.training) == (0, [], True, True)
    assert model.seen is seen
    assert model.cache is cache
    assert not hasattr(model, "new")
    assert not model._forward_hooks
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_an_optimizer_goes_on_as_it_would_have(kind):
    def run(with_detour):
        parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = kind([parameter], lr=0.1)

        def steps(count):
            for _ in range(count):

                def closure():
                    optimizer.zero_grad()
                    loss = (parameter**4).sum()
                    loss.backward()
                    return loss

                optimizer.step(closure)

        steps(2)
        if with_detour:
            memory = Memory([parameter, optimizer])
            optimizer.param_groups[0]["lr"] = 5
            steps(3)
            memory.restore()
            memory.restore()  # any number of times
        steps(2)
        return parameter.tolist()

    assert run(True) == run(False)


def test_containers_stay_the_same_objects_and_get_back_their_items_in_order():
    inner = [1]
    containers = [{"a": inner}, OrderedDict(a=1, b=2), [inner, (inner,)], {1, 2}, deque([1, 2], maxlen=2)]
    memory = Memory([containers])
    inner.append(2)
    containers[0]["b"] = 1
    containers[1].move_to_end("a")
    containers[2].clear()
    containers[3].add(3)
    containers[4].append(3)
    memory.restore()
    assert containers == [{"a": [1]}, OrderedDict(a=1, b=2), [[1], ([1],)], {1, 2}, deque([1, 2])]
    assert containers[0]["a"] is inner
    assert list(containers[1]) == ["a", "b"]


def test_generators_and_arrays_come_back():
    own = [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]
    array = np.ones(3)
    memory = Memory([own, array])

    def draws():
        return [torch.rand(1, generator=own[0]).item(), own[1].random(), own[2].rand(), own[3].random()]

    first = draws()
    array[:] = 5
    memory.restore()
    assert draws() == first
    assert array.tolist() == [1, 1, 1]


def test_what_contains_itself_is_remembered_once():
    loop: list[object] = [1]
    loop.append(loop)
    memory = Memory([loop])
    loop.pop()
    memory.restore()
    assert loop[1] is loop


def test_a_lazy_parameter_is_refused_with_what_to_do():
    with pytest.raises(ArgumentError, match="run one batch through the model first"):
        Memory([nn.LazyLinear(3)])


def test_classes_and_modules_of_python_are_left_alone():
    memory = Memory([])
    for value in (nn.Linear, np):
        memory.add_attributes(value)
    np.new_in_this_test = 1
    memory.restore()
    assert np.new_in_this_test == 1
    del np.new_in_this_test


def test_a_lazy_parameter_that_may_be_there_has_no_values_again():
    module = nn.LazyLinear(3)
    kind = type(module.weight)
    memory = Memory([module], lazy=True)
    memory.restore()
    module.load_state_dict({"weight": torch.ones(3, 2), "bias": torch.zeros(3)})
    memory.restore()
    assert type(module.weight) is kind
    module.load_state_dict({"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
    assert module.weight.shape == (3, 4)
