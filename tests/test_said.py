"""What a process says of its options is the same text in each, and tells what differs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ignition import DDP, FSDP
from ignition.said import plainly, settings_of


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
