"""What a process says of its options is the same text in each, and tells what differs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ignition import DDP, FSDP
from ignition.said import memory_of, plainly, settings_of, sum_of_all, weights_of


def large(module):
    return True


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, None),
        (True, True),
        ("bf16", "bf16"),
        (float("nan"), "nan"),
        (np.float32(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.zeros(2, 3), "a tensor of shape (2, 3)"),
        ((1, [2.5]), [1, [2.5]]),
        (large, "large"),
        (nn.Linear, "Linear"),
        (nn.Tanh(), "Tanh"),
        (torch.device("cpu"), "cpu"),
    ],
)
def test_a_value_is_said_without_what_differs_from_process_to_process(value, said):
    assert plainly(value) == said
    json.dumps(plainly(value), allow_nan=False)


def test_strategies_are_told_apart_by_their_options():
    every = [DDP(), FSDP(), DDP(static_graph=True), FSDP(wrap=large), FSDP(wrap=nn.Linear), FSDP(precision="bf16")]
    texts = [json.dumps(plainly(one)) for one in every]
    assert len(set(texts)) == len(every)
    assert not any("0x" in text for text in texts)


def test_settings_are_named_by_where_they_stand():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    adam = torch.optim.Adam([{"params": parameters[:1], "lr": torch.tensor(0.5)}, {"params": parameters[1:2]}], lr=0.1)
    sgd = torch.optim.SGD(parameters[2:], 0.2, momentum=0.9)
    found = settings_of({"A": adam, "B": sgd})
    assert found["optimizer['A'].param_groups[0]['lr']"] == 0.5
    assert found["optimizer['A'].param_groups[1]['betas']"] == [0.9, 0.999]
    assert found["optimizer['B'].param_groups[0]['momentum']"] == 0.9
    assert not any("params'" in name for name in found)
    assert settings_of(None) == settings_of(object()) == {}


def test_what_tensors_hold_adds_up_to_the_same_wherever_it_is_the_same():
    parts = [torch.tensor([1.5, -2.0]), torch.tensor([1 + 2j]).conj(), torch.tensor([True, True]), torch.ones(2).half()]
    parts += [torch.tensor([1.0, 0.0, 2.0]).to_sparse(), nn.Parameter(torch.ones(3))]
    assert sum_of_all(parts) == -0.5 - 1 + 2 + 2 + 3 + 3
    assert sum_of_all([]) == 0
    assert sum_of_all([torch.zeros(2, dtype=torch.float8_e4m3fn)]) == 0  # torch does not add these up


def test_what_models_and_optimizers_hold_is_said_by_their_names():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    assert weights_of({"net": model, "other": len}) == {"net": sum_of_all(model.parameters())}
    assert memory_of({"one": optimizer}) == {"one": [0, 0.0]}
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    count, total = memory_of(optimizer)[""]
    assert count == 2
    # Two parameters at step 1; the gradients of three numbers are 1, of which a tenth and a thousandth are kept.
    assert total == pytest.approx(2 + 3 * 0.1 + 3 * 0.001, abs=1e-6)
    assert memory_of(None) == {}
