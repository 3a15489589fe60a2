import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from ignition.errors import ArgumentError
from ignition.optimizers import learning_rates, set_lr, watch_steps


def parameter():
    return nn.Parameter(torch.zeros(1))


def sgd(lr=0.1):
    return torch.optim.SGD([parameter()], lr=lr)


# set_lr


@pytest.mark.parametrize("lr", [0.01, 0, 1, 0.0, np.float64(0.01), np.float32(0.5), np.int64(2)])
def test_the_learning_rate_of_every_group_is_set(lr):
    optimizer = torch.optim.SGD([{"params": [parameter()]}, {"params": [parameter()], "lr": 5.0}], lr=0.1)
    set_lr(optimizer, lr)
    assert [group["lr"] for group in optimizer.param_groups] == [lr, lr]
    assert all(type(group["lr"]) is float for group in optimizer.param_groups)


def test_the_next_step_uses_the_new_learning_rate():
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    set_lr(optimizer, 3.0)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == -3.0


def test_a_learning_rate_that_is_a_tensor_is_set_in_place():
    lr = torch.tensor(0.1)
    weight = parameter()
    optimizer = torch.optim.Adam([weight], lr=lr, capturable=False, foreach=False)
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is lr, "a compiled step reads this very tensor"
    assert lr.item() == 0.5
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf, -math.inf, "0.1", None, True, [0.1], 1j, np.float32("nan")])
def test_a_learning_rate_that_is_none_is_an_error(lr):
    optimizer = sgd()
    with pytest.raises(ArgumentError, match=r"(?s)set_lr was given lr=.*finite number of 0 or more"):
        set_lr(optimizer, lr)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("wrong", [0.1, None, "SGD", [], nn.Linear(1, 1)])
def test_set_lr_takes_one_optimizer(wrong):
    with pytest.raises(ArgumentError, match=r"(?s)set_lr was given .*torch\.optim\.Optimizer"):
        set_lr(wrong, 0.1)


# learning_rates


def test_the_learning_rate_of_one_optimizer_is_the_column_lr():
    optimizer = torch.optim.SGD([{"params": [parameter()], "lr": 5.0}, {"params": [parameter()]}], lr=0.1)
    assert learning_rates(optimizer) == {"lr": 5.0}, "of its first group"


def test_several_optimizers_have_a_column_each():
    assert learning_rates({"G": sgd(0.1), "D": sgd(0.2)}) == {"lr_G": 0.1, "lr_D": 0.2}
    assert learning_rates([sgd(0.1), sgd(0.2)]) == {"lr_0": 0.1, "lr_1": 0.2}
    assert learning_rates((sgd(0.1),)) == {"lr_0": 0.1}


def test_a_learning_rate_that_is_a_tensor_is_read_as_a_number():
    optimizer = torch.optim.Adam([parameter()], lr=torch.tensor(0.5))
    assert learning_rates(optimizer) == {"lr": 0.5}
    assert type(learning_rates(optimizer)["lr"]) is float


def test_without_an_optimizer_there_is_no_learning_rate():
    assert learning_rates(None) == learning_rates([]) == learning_rates({}) == {}


def test_an_optimizer_without_a_learning_rate_has_no_column():
    class Halving(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data /= 2

    class NoOptimizer:
        def step(self): ...

    assert learning_rates([Halving([parameter()]), sgd(), NoOptimizer()]) == {"lr_1": 0.1}


# watch_steps


def hooks():
    """How many hooks torch calls after each step of any optimizer."""
    return len(torch_optimizer._global_optimizer_post_hooks)


def test_every_optimizer_that_steps_is_collected_once():
    one, two, three, idle = sgd(), torch.optim.Adam([parameter()]), sgd(), sgd()
    three.step()
    with watch_steps() as stepped:
        assert stepped == []
        two.step()
        one.step()
        two.step()
    idle.step()
    assert len(stepped) == 2
    assert stepped[0] is two
    assert stepped[1] is one


def test_a_subclass_of_the_users_own_is_seen_too():
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            return None

    mine = Mine([parameter()], lr=0.1)
    with watch_steps() as stepped:
        mine.step()
    assert stepped == [mine]


def test_the_hook_is_gone_afterwards():
    before = hooks()
    with watch_steps():
        assert hooks() == before + 1
    assert hooks() == before


def test_the_hook_is_gone_after_an_error_too():
    before = hooks()
    with pytest.raises(KeyError), watch_steps():
        raise KeyError
    assert hooks() == before


def test_watching_inside_watching_sees_the_same_steps():
    optimizer = sgd()
    with watch_steps() as outer:
        with watch_steps() as inner:
            optimizer.step()
        sgd().step()
    assert inner == [optimizer]
    assert len(outer) == 2
