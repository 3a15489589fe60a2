"""What a batch counts: weights that were given, checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ignition.errors import ArgumentError
from ignition.weighing import NOTHING, check_weight, not_zero


@pytest.mark.parametrize(
    ("weight", "number"),
    [(3, 3.0), (0, 0.0), (2.5, 2.5), (np.float32(2), 2.0), (np.int64(4), 4.0), (torch.tensor(5), 5.0)],
)
def test_a_weight_is_a_number_of_0_or_more(weight, number):
    checked = check_weight(weight)
    assert checked == number
    assert isinstance(checked, float)


@pytest.mark.parametrize(
    "weight",
    [-1, float("inf"), float("nan"), True, "3", None, 1j, torch.ones(2), torch.tensor(1j), torch.tensor(-2.0)],
)
def test_anything_else_is_refused(weight):
    with pytest.raises(ArgumentError, match="optimize was given the weight"):
        check_weight(weight)


def test_a_tensor_is_described_by_its_shape():
    with pytest.raises(ArgumentError, match=r"shape \(2, 3\) and type torch.float32"):
        check_weight(torch.ones(2, 3))


def test_what_weighs_nothing_is_divided_by_one():
    assert [not_zero(weight) for weight in (0, 0.0, 2, 0.5)] == [1, 1, 2, 0.5]
    assert not_zero(torch.tensor(0.0)).item() == 1
    assert not_zero(torch.tensor(3.0)).item() == 3


def test_nothing_is_a_zero_that_is_told_from_others():
    assert NOTHING == 0
    assert NOTHING is not float(NOTHING)
    assert not NOTHING
