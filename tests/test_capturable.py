"""Optimizers while a step of theirs is captured, on tensors that only pass for ones on a GPU; none is needed."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ignition.capturable import CapturableOptimizers, why_not

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ALL = [
    kind
    for name, kind in sorted(vars(torch.optim).items())
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
]


@pytest.fixture
def gpu():
    """Inside it tensors may be on a GPU that is not there: they have types, shapes and places, and no elements."""
    with FakeTensorMode():
        yield


def parameter(device=CPU, dtype=torch.float32):
    return nn.Parameter(torch.zeros(3, device=device, dtype=dtype), requires_grad=dtype.is_floating_point)


def stepped(kind, *parameters, steps=1, **options):
    """An optimizer that has taken steps, each with a gradient of ones."""
    optimizer = kind(parameters, **options)
    for one in parameters:
        one.grad = torch.ones_like(one)
    for _ in range(steps):
        optimizer.step()
    return optimizer


# Which can be captured


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not torch.optim.SGD], ids=lambda kind: kind.__name__)
def test_those_of_torch_that_have_the_option_can_be_captured_and_the_others_are_named(kind):
    one = nn.Parameter(torch.zeros(2, 2))  # a matrix, which Muon asks for
    has_option = "capturable" in inspect.signature(kind).parameters
    assert (why_not([kind([one], lr=0.1)]) is None) is has_option
    if not has_option:
        assert why_not([kind([one], lr=0.1)]).startswith(f"{kind.__name__} has no capturable step (SGD and Adam's kin")


def test_there_are_optimizers_of_either_kind():
    assert {"capturable" in inspect.signature(kind).parameters for kind in ALL} == {True, False}
    assert torch.optim.SGD in ALL


@pytest.mark.usefixtures("gpu")
def test_sgd_can_be_captured_where_it_can_be_fused():
    there = [parameter(CUDA), parameter(CUDA, torch.float16)]
    assert why_not([torch.optim.SGD(there)]) is None
    for other in (parameter(CPU), parameter(CUDA, torch.int64)):
        assert why_not([torch.optim.SGD([*there, other])]).startswith("SGD has no capturable step")
        assert why_not([torch.optim.SGD([{"params": there}, {"params": [other]}])]).startswith("SGD has no")


class OwnSGD(torch.optim.SGD):
    """One of the user's, whose step may be another."""


class Own:
    """An optimizer that is not torch's."""


@pytest.mark.usefixtures("gpu")
def test_the_first_that_cannot_be_captured_is_named():
    adam, own = torch.optim.Adam([parameter(CUDA)]), OwnSGD([parameter(CUDA)])
    assert why_not([]) is None
    assert why_not([adam, adam]) is None
    assert why_not([adam, own, Own()]).startswith("OwnSGD has no capturable step")
    assert why_not([adam, Own(), own]).startswith("Own has no capturable step")


# What they are inside the block, and what they are seen to be


def options(optimizer):
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def test_a_step_inside_the_block_is_that_of_the_learning_rate_which_the_group_has():
    one = parameter()
    optimizer = torch.optim.SGD([one], lr=0.5)
    one.grad = torch.ones(3)
    optimizers, expected = CapturableOptimizers([optimizer], CPU), 0.0
    for lr in (0.5, 0.25, 0.25, 2.0):
        optimizer.param_groups[0]["lr"] = lr
        optimizers.bring_rates()
        with optimizers.capturable():
            optimizer.step()
        expected -= lr
        assert one.tolist() == [expected] * 3
        assert optimizer.param_groups[0]["lr"] == lr


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_groups_are_capturable_inside_the_block_and_afterwards_what_they_were(kind):
    optimizer = kind([{"params": [parameter(CUDA)]}, {"params": [parameter(CUDA)], "lr": 0.5}], lr=0.1)
    optimizers, before = CapturableOptimizers([optimizer], CUDA), options(optimizer)
    optimizers.bring_rates()
    inside = {"capturable": True} if kind is torch.optim.Adam else {"fused": True, "foreach": False}
    with optimizers.capturable():
        for group in optimizer.param_groups:
            assert {name: group[name] for name in inside} == inside
            assert (group["lr"].device, group["lr"].dtype, group["lr"].shape) == (CUDA, torch.float32, ())
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first is not second
    assert options(optimizer) == before
    with optimizers.capturable():
        assert optimizer.param_groups[0]["lr"] is first, "a captured step goes on to read the same tensor"


def test_they_are_what_they_were_after_an_exception_too():
    optimizer = torch.optim.Adam([parameter()], lr=0.1)
    optimizers, before = CapturableOptimizers([optimizer], CPU), options(optimizer)
    optimizers.bring_rates()
    with pytest.raises(ZeroDivisionError), optimizers.capturable():
        raise ZeroDivisionError
    assert options(optimizer) == before


def test_what_the_function_sets_inside_the_block_stays():
    optimizer = torch.optim.Adam([parameter()], lr=0.1)
    optimizers = CapturableOptimizers([optimizer], CPU)
    optimizers.bring_rates()
    with optimizers.capturable():
        optimizer.param_groups[0].update(lr=0.25, betas=(0.5, 0.9))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["capturable"]) == (0.25, (0.5, 0.9), False)


def test_only_a_rate_that_has_changed_is_written():
    optimizer = torch.optim.SGD([{"params": [parameter()]}, {"params": [parameter()], "lr": 0.5}], lr=0.25)
    optimizers = CapturableOptimizers([optimizer], CPU)
    optimizers.bring_rates()
    with optimizers.capturable():
        rates = [group["lr"] for group in optimizer.param_groups]
    assert [float(rate) for rate in rates] == [0.25, 0.5]
    for rate in rates:
        rate.fill_(9.0)  # what is written again would not stay
    optimizer.param_groups[1]["lr"] = 0.125
    optimizers.bring_rates()
    assert [float(rate) for rate in rates] == [9.0, 0.125]


@pytest.mark.usefixtures("gpu")
def test_a_rate_that_is_on_the_gpu_already_is_the_users_own_tensor():
    there = torch.full((), 0.1, device=CUDA)
    optimizer = torch.optim.Adam([parameter(CUDA)])
    optimizer.param_groups[0]["lr"] = there
    optimizers = CapturableOptimizers([optimizer], CUDA)
    optimizers.bring_rates()
    with optimizers.capturable():
        assert optimizer.param_groups[0]["lr"] is there


def test_a_rate_that_is_a_tensor_on_the_cpu_is_read_and_stays_the_users_tensor():
    here = torch.tensor(0.25)
    optimizer = torch.optim.SGD([parameter()], lr=here)
    optimizers = CapturableOptimizers([optimizer], CPU)
    optimizers.bring_rates()
    with optimizers.capturable():
        inside = optimizer.param_groups[0]["lr"]
        assert inside is not here
        assert float(inside) == 0.25
    assert optimizer.param_groups[0]["lr"] is here


# The numbers of their steps


def places(optimizer):
    return {state["step"].device for state in optimizer.state.values()}


@pytest.mark.usefixtures("gpu")
def test_the_numbers_of_steps_are_on_the_gpu_inside_the_block_and_are_given_back():
    optimizer = stepped(torch.optim.Adam, parameter(CUDA), parameter(CUDA))
    optimizers = CapturableOptimizers([optimizer], CUDA)
    assert places(optimizer) == {CPU}
    with optimizers.capturable():
        assert places(optimizer) == {CUDA}
        optimizer.step()
    assert places(optimizer) == {CUDA}, "the next step finds them there"
    optimizers.give_back()
    assert places(optimizer) == {CPU}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("option", ["capturable", "fused"])
def test_what_the_user_made_capturable_or_fused_keeps_its_numbers_there(option):
    optimizer = stepped(torch.optim.Adam, parameter(CUDA), **{option: True})
    optimizers = CapturableOptimizers([optimizer], CUDA)
    with optimizers.capturable():
        optimizer.step()
    optimizers.give_back()
    assert places(optimizer) == {CUDA}


@pytest.mark.usefixtures("gpu")
def test_torch_is_silent_of_steps_that_are_not_captured_yet():
    optimizer = torch.optim.Adam([parameter(CUDA)], capturable=True)
    CapturableOptimizers([optimizer], CUDA)
    assert optimizer._warned_capturable_if_run_uncaptured


# What a capture that failed has left


def test_states_are_those_of_each_parameter_by_name():
    one, other = parameter(), parameter()
    adam, sgd = stepped(torch.optim.Adam, one), stepped(torch.optim.SGD, other, lr=0.1, momentum=0.9)
    states = CapturableOptimizers([adam, sgd], CPU).states()
    names = {(id(one), name) for name in ("step", "exp_avg", "exp_avg_sq")} | {(id(other), "momentum_buffer")}
    assert set(states) == names
    assert states[id(other), "momentum_buffer"] is sgd.state[other]["momentum_buffer"]


def test_what_is_new_since_is_forgotten_and_what_was_replaced_is_back():
    one, other = parameter(), parameter()
    adam = stepped(torch.optim.Adam, one, steps=2)
    adam.add_param_group({"params": [other]})
    other.grad = torch.ones(3)
    optimizers = CapturableOptimizers([adam], CPU)
    kept, before = dict(adam.state[one]), optimizers.states()
    adam.step()
    adam.state[one]["exp_avg"] = torch.full((3,), 7.0)
    adam.state[one]["more"] = torch.zeros(1)
    optimizers.forget_new(before)
    assert list(adam.state) == [one], "what the other parameter has was made since"
    assert adam.state[one].keys() == kept.keys()
    assert all(adam.state[one][name] is value for name, value in kept.items())
