"""A sampler that is begun anew comes to where it was, and what it had given already is given again."""

import zlib
from contextlib import contextmanager
from itertools import islice

import pytest

from ignition.drawn import Drawn, Goal
from ignition.errors import IgnitionWarning


class Sampler:
    """Gives numbers; counts what it is asked for, and how often it has come to its end."""

    def __init__(self, length=6):
        self.length, self.asked, self.ended = length, 0, 0

    def __iter__(self):
        for number in range(self.length):
            self.asked += 1
            yield number
        self.ended += 1


@pytest.mark.parametrize("given", range(8))
@pytest.mark.parametrize("start", range(7))
def test_it_arrives_at_once_when_it_has_been_asked_as_often_and_goes_on(start, given):
    first = Drawn()
    items = first.follow(Sampler())
    for _ in range(given):
        next(items, None)
    assert first.given == given

    sampler, arrived = Sampler(), []
    again = Drawn(Goal(given, first.digest, lambda: arrived.append((sampler.asked, sampler.ended))))
    items = again.follow(sampler, start)
    asked = max(given, start, 1)
    assert arrived == [(min(asked, 6), int(asked == 7))]
    assert list(items) == list(range(6))[start:]
    assert sampler.ended == 1
    assert (again.given, len(arrived)) == (7, 1)


def test_items_are_asked_for_one_by_one():
    sampler = Sampler()
    drawn = Drawn()
    items = drawn.follow(sampler)
    assert sampler.asked == 0
    assert [next(items), next(items)] == [0, 1]
    assert (sampler.asked, drawn.given) == (2, 2)


def test_other_items_than_then_are_named_unless_they_are_not_told():
    first = Drawn()
    assert list(islice(first.follow(Sampler()), 3)) == [0, 1, 2]
    again = Drawn(Goal(first.given, first.digest, lambda: None))
    with pytest.warns(IgnitionWarning, match="gave other samples before the checkpoint"):
        assert list(again.follow(reversed(range(6)))) == [5, 4, 3, 2, 1, 0]
    untold = Drawn(Goal(first.given, first.digest, lambda: None))
    assert list(untold.follow(reversed(range(6)), is_told=False)) == [5, 4, 3, 2, 1, 0]


def test_what_is_passed_over_is_so_inside_of_a_block():
    seen = []

    @contextmanager
    def block():
        seen.append("in")
        yield
        seen.append("out")

    sampler = Sampler()
    assert list(Drawn().follow(sampler, 4, passing=block())) == [4, 5]
    assert seen == ["in", "out"]
    assert list(Drawn().follow(Sampler(), 0, passing=block())) == [0, 1, 2, 3, 4, 5]
    assert seen == ["in", "out"]


def test_of_items_that_look_otherwise_in_each_process_nothing_is_told():
    for _ in range(2):
        drawn = Drawn()
        list(drawn.follow([object(), {"a", "b"}, [object()], 3]))
        assert (drawn.given, drawn.digest) == (5, zlib.crc32(b"3"))
