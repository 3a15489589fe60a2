"""Which parameters an optimizer is about to move, and the norm of their gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ignition.gradients import total_norm, trained_parameters, with_gradients


def test_the_trained_parameters_are_those_of_all_groups_that_ask_for_gradients():
    first, second, frozen = (nn.Parameter(torch.ones(1)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [first, frozen]}, {"params": [second]}], 0.1)
    assert [id(one) for one in trained_parameters(optimizer)] == [id(first), id(second)]
    second.grad = torch.ones(1)
    assert with_gradients(optimizer) == ([second], [second.grad])


@pytest.mark.parametrize("sparse", [False, True])
def test_the_norm_is_that_of_all_gradients_in_one_row(sparse):
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 2)])
    model[1](model[0](torch.tensor([1, 1, 4]))).square().sum().backward()
    gradients = [one.grad.to_dense().reshape(-1) for one in model.parameters()]
    torch.testing.assert_close(total_norm(list(model.parameters())), torch.cat(gradients).norm())
    assert total_norm([nn.Parameter(torch.ones(1))]).item() == 0
