"""One way through a loader: its first batch looked at and put back, its length held against what came."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from ignition.errors import BatchError, FunctionError, HyperparameterError, IgnitionWarning
from ignition.passes import Pass, Position, meet_first_batch, warn_if_short
from ignition.progress import Progress
from ignition.signature import Signature

CPU = torch.device("cpu")


def of(batches, *, hyper=None, batch_axis=0, length=None, done=0):
    """A pass over some batches, of which some are done."""
    return Pass(
        function=print,
        model=nn.Identity(),
        hyper=hyper or {},
        batches=iter(batches),
        total=length,
        batch_axis=batch_axis,
        take=print,
        shown=dict,
        progress=Progress(False),
        position=Position(epoch=1, batch=done, step=done),
    )


def meet(this, function, device=CPU, items=None):
    meet_first_batch(this, Signature(function, "train_fn"), device, items)
    return this


def one_item(model, x):
    pass


def test_the_first_batch_is_put_back():
    batches = [torch.zeros(2), torch.ones(2), torch.ones(1)]
    this = meet(of(batches), one_item)
    assert all(seen is given for seen, given in zip(this.batches, batches, strict=True))


def test_meeting_reads_one_batch_and_no_more():
    read = []

    def stream():
        for number in range(3):
            read.append(number)
            yield torch.zeros(1)

    meet(of(stream()), one_item)
    assert read == [0]


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2),
        {"x": torch.zeros(2)},
        (torch.zeros(2),),
        [torch.zeros(2)],
        "text",
        object(),
        None,
    ],
)
def test_one_item_or_a_whole_batch_fits_a_function_of_one_item(batch):
    meet(of([batch]), one_item)


def test_a_pass_of_a_known_length_without_a_batch_is_an_error_that_knows_stop_iteration():
    this = of([])
    this.total = 4
    with pytest.raises(BatchError, match=r"(?s)gave no batch, and its length is 4.*to do: look for a StopIteration"):
        meet(this, one_item)


def test_a_pass_without_a_batch_is_an_error_that_knows_generators():
    with pytest.raises(BatchError, match=r"(?s)the loader for train_fn gave no batch.*expected: .*to do: .*generator"):
        meet(of([]), one_item)


def test_a_pass_that_goes_on_may_have_nothing_more():
    assert list(meet(of([], done=3), one_item).batches) == []


@pytest.mark.parametrize("batch", [(torch.zeros(2), torch.zeros(2)), [], ()])
def test_too_many_or_too_few_items_are_an_error(batch):
    with pytest.raises(FunctionError, match=f"cannot take a batch of {len(batch)} items"):
        meet(of([batch]), one_item)


def test_only_as_many_items_as_the_function_receives_are_held_against_it():
    meet(of([(torch.zeros(2), torch.zeros(2))]), one_item, items=1)


def test_a_hyperparameter_where_the_batch_goes_is_an_error():
    with pytest.raises(HyperparameterError, match=r"'x' is a parameter of .* that the batch fills"):
        meet(of([torch.zeros(2)], hyper={"x": 1}), one_item)


@pytest.mark.parametrize(("axis", "fits"), [(0, True), (1, True), (-2, True), (2, False), (-3, False)])
def test_the_first_tensor_must_have_the_batch_axis(axis, fits):
    this = of([{"x": torch.zeros(2, 3)}], batch_axis=axis)
    if fits:
        meet(this, one_item)
        return
    with pytest.raises(BatchError, match=rf"(?s)batch_axis={axis}, .*\(2, 3\).*expected: .*to do: "):
        meet(this, one_item)


def test_batches_that_lie_elsewhere_are_moved_with_all_that_is_in_them():
    batches = [(torch.zeros(2), {"deep": [torch.ones(3)]}, "text")] * 2
    moved = list(meet(of(batches), lambda model, *batch: None, device=torch.device("meta")).batches)
    assert [(x.device.type, deep["deep"][0].device.type, text) for x, deep, text in moved] == [
        ("meta", "meta", "text")
    ] * 2


@pytest.mark.parametrize(("length", "done"), [(None, 3), (3, 3), (3, 4)])
def test_a_pass_of_the_expected_length_is_not_warned_of(length, done):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_short(of([], length=length, done=done))


def test_a_pass_that_ends_early_is_warned_of():
    with pytest.warns(IgnitionWarning, match="after 2 batches, and its length is 3.*StopIteration"):
        warn_if_short(of([], length=3, done=2))


def test_a_pass_that_is_done_lets_go_of_its_loader_at_once():
    def batches():
        yield torch.zeros(2)

    loader = batches()  # as a DataLoader's iterator is, which ends its workers then
    this = meet(of(loader), one_item)
    seen = weakref.ref(loader)
    gc.disable()
    try:
        del this, loader
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("batch", [(), (torch.zeros(2), torch.zeros(2))])
def test_a_later_batch_can_be_checked_as_the_first_one(batch):
    this = meet(of([torch.zeros(2)]), one_item)
    this.check(torch.zeros(2))
    with pytest.raises(FunctionError, match="train_fn"):
        this.check(batch)
