"""A summary counts and shows what a model is made of, and changes nothing of it."""

from __future__ import annotations

import builtins
import copy

import pytest
import torch
from torch import nn

from ignition import freeze, summary
from ignition.errors import ArgumentError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def line_of(text, layer):
    return next(line for line in str(text).splitlines() if layer in line)


def test_layers_are_shown_with_shapes_parameters_and_what_is_frozen():
    model = Net()
    freeze(model.features)
    found = summary(model, torch.zeros(2, 3, 6, 6))
    assert line_of(found, "Conv2d").split()[-10:] == [
        "[2,",
        "3,",
        "6,",
        "6]",
        "[2,",
        "8,",
        "6,",
        "6]",
        "(224)",
        "False",
    ]
    assert line_of(found, "(head)").split()[-6:] == ["[2,", "8]", "[2,", "5]", "45", "True"]
    assert line_of(found, "Net (Net)").split()[-1] == "Partial"
    assert str(found).splitlines()[-1] == "285 parameters, 45 trained, 240 frozen; 0.00 MB with buffers"
    assert str(found) == repr(found)
    assert "Units." not in str(found)


def test_the_numbers_are_those_counted_by_hand():
    model = Net()
    model.tied = model.head  # counted once
    found = summary(model)
    assert found.parameters == 3 * 8 * 9 + 8 + 8 + 8 + 8 * 5 + 5
    assert found.trainable == found.parameters
    assert found.bytes == 4 * (285 + 8 + 8) + 8  # running mean and variance, and a 64-bit count


def test_memory_is_shown_in_megabytes():
    found = summary(nn.Linear(1000, 500), torch.zeros(250, 1000))
    assert line_of(found, "Input size (MB)") == "Input size (MB): 1.00"
    assert line_of(found, "Forward/backward") == "Forward/backward pass size (MB): 1.00"  # 250 x 500, there and back
    assert line_of(found, "Params size (MB)") == "Params size (MB): 2.00"
    assert str(found).splitlines()[-1] == "500,500 parameters, 500,500 trained, 0 frozen; 2.00 MB with buffers"


@pytest.mark.parametrize("given", [{"input": torch.ones(2, 3, 6, 6)}, {"input_size": (2, 3, 6, 6)}, {}])
def test_nothing_is_changed(given):
    model = Net()
    model.features[1].eval()
    model.head.calls = 0
    model.head.register_forward_pre_hook(lambda module, args: setattr(module, "calls", module.calls + 1))
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    generator = torch.get_rng_state()
    summary(model, **given)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.head.calls == 0


def test_nothing_is_changed_when_the_model_cannot_be_called():
    model = Net()
    model.train()
    with pytest.raises(RuntimeError):
        summary(model, torch.zeros(2, 7))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_several_arguments_and_named_ones_are_handed_on():
    bilinear = nn.Bilinear(2, 3, 4)
    for given in ((torch.zeros(5, 2), torch.zeros(5, 3)), {"input1": torch.zeros(5, 2), "input2": torch.zeros(5, 3)}):
        assert "[5, 4]" in line_of(summary(bilinear, given), "Bilinear")


def test_several_models_have_a_table_each_and_one_sum():
    shared = nn.Linear(2, 2)
    models = {"G": nn.Sequential(shared), "D": nn.Sequential(shared, nn.Linear(2, 1))}
    found = summary(models, {"G": torch.zeros(1, 2), "D": torch.zeros(3, 2)})
    assert list(found.tables) == ["G", "D"]
    assert found.parameters == 6 + 3
    assert "[3, 1]" in str(found)
    assert [line for line in str(found).splitlines() if line in ("G", "D")] == ["G", "D"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "pass a model"),
        (({"a": nn.Linear(1, 1)}, torch.zeros(1, 1)), "input has Tensor, and the models are"),
        (([nn.Linear(1, 1)], [torch.zeros(1, 1)] * 2), "in the same structure"),
        ((nn.LazyLinear(1),), "run one batch through the model first"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        summary(*arguments)


def test_two_inputs_and_a_bad_depth_are_refused():
    with pytest.raises(ArgumentError, match="leave one out"):
        summary(nn.Linear(1, 1), torch.zeros(1, 1), input_size=(1, 1))
    with pytest.raises(ArgumentError, match="depth=0"):
        summary(nn.Linear(1, 1), depth=0)


def test_a_missing_torchinfo_is_an_error_that_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torchinfo":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ArgumentError, match=r'pip install "torch-ignition\[summary\]"'):
        summary(nn.Linear(1, 1))
