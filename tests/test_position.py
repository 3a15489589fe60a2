"""Where a run is: what each of its numbers counts, told from the batches that a function was called with."""

from __future__ import annotations

import copy

import pytest
import torch
from quiet import nothing, numbered, quiet

from ignition import optimize
from ignition.position import Position

NAMES = ["epoch", "batch", "step", "skipped", "offset", "shift"]  # as checkpoints have them


def test_a_run_begins_before_its_first_epoch_with_nothing_done():
    assert [getattr(Position(), name) for name in NAMES] == [0, 0, 0, 0, 0, 0]
    assert quiet(nothing, numbered(1)).training.position == Position()


def test_it_has_the_names_of_a_checkpoint_and_takes_no_other():
    assert list(Position.__slots__) == NAMES
    place = Position(1, 2, 3, 4, 5, 6)
    assert [getattr(place, name) for name in NAMES] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(AttributeError, match="steps"):
        place.steps = 4  # a wrong name in a state that is put back would else be lost without a word
    with pytest.raises(TypeError, match="steps"):
        Position(steps=4)


def test_two_are_the_same_where_all_numbers_are_and_a_copy_goes_its_own_way():
    place = Position(2, 3, 13)
    other = copy.copy(place)
    assert other == place
    assert other is not place
    for name in NAMES:
        setattr(other, name, 99)
        assert other != place
        setattr(other, name, getattr(place, name))
    other.step += 1
    assert place.step == 13


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("steps", range(1, 8))
def test_it_says_which_epoch_which_batch_of_it_and_how_many_steps(steps, accumulate):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, calls = torch.optim.SGD([parameter], lr=0.1), []

    def train_fn(model, x):
        calls.append(int(x[0]))
        optimize(parameter.sum(), optimizer)

    # By hand: windows of so many batches, the last one of an epoch with what is left of its five.
    windows = [batches for _ in range(9) for batches in torch.arange(1, 6).split(accumulate)][:steps]
    read = torch.cat(windows).tolist()
    trainer = quiet(train_fn, numbered(1, 1, 1, 1, 1), optimizer=optimizer, accumulate=accumulate)
    trainer.fit(steps=steps)
    assert calls == read
    assert trainer.training.position == Position(epoch=read.count(1), batch=read[-1], step=steps)
