"""What checks are made of: the first batches, short runs on them, and the calls of a model that are noted."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from quiet import WithoutLength, first_value, nothing, numbered, quiet
from torch import nn

from ignition import TensorLoader, Trainer, optimize
from ignition.check_report import Skipped
from ignition.check_runs import (
    Call,
    Material,
    first_outputs,
    forwards,
    inputs_of,
    labels_of,
    listed,
    parameters_of,
    train_on,
)
from ignition.errors import BatchError


class Counted:
    """Batches [1.], [2.], [3.], ...; it knows how many of them have been read."""

    def __init__(self, count):
        self.count, self.read = count, 0

    def __iter__(self):
        for batch in numbered(*[1] * self.count):
            self.read += 1
            yield batch


# The first batches


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (7, 7), (8, 8), (9, 8), (100, 8)])
def test_the_first_eight_batches_of_each_loader_are_the_material_and_no_more_are_read(count, expected):
    train, test = Counted(count), Counted(count + 1)
    trainer = quiet(nothing, train, nothing, test)
    material = Material.of(trainer)
    assert material.trainer is trainer
    assert [batch.item() for batch in material.train] == list(range(1, expected + 1))
    assert [batch.item() for batch in material.test] == list(range(1, min(count + 1, 8) + 1))
    assert (train.read, test.read) == (expected, min(count + 1, 8))


def test_without_a_test_loader_there_are_no_test_batches():
    assert Material.of(quiet(nothing, numbered(1, 1))).test == []


def test_the_batches_are_on_the_device_of_the_model():
    trainer = Trainer(nn.Linear(1, 1), None, nothing, [torch.ones(1)], nothing, [torch.ones(1)], progress=False,
                      device="meta")  # fmt: skip
    material = Material.of(trainer)
    assert [batch.device.type for batch in (*material.train, *material.test)] == ["meta", "meta"]


def test_under_a_seed_the_batches_are_the_same_each_time_and_those_of_an_evaluation():
    def shuffled():
        return TensorLoader(torch.arange(12.0), batch_size=4, shuffle=True)

    def trainer():
        return quiet(nothing, shuffled(), lambda model, x: evaluated.extend(x.tolist()), shuffled(), seed=5)

    evaluated, found = [], [Material.of(trainer()) for _ in range(2)]
    trainer().evaluate()
    for name in ("train", "test"):
        first, again = ([x for (batch,) in getattr(one, name) for x in batch.tolist()] for one in found)
        assert first == again
        assert sorted(first) == list(range(12))
    assert first == evaluated


@pytest.mark.parametrize(("loader", "message"), [([], "train_loader is empty"), (WithoutLength([]), "gave no batch")])
def test_without_a_batch_to_train_on_there_is_nothing_to_check(loader, message):
    with pytest.raises(BatchError, match=rf"{message}[\s\S]*at least one[\s\S]*drop_last"):
        Material.of(quiet(nothing, loader))


# Short runs


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("batches", "steps"), [(1, 1), (1, 5), (3, 1), (3, 3), (3, 4), (2, 7)])
def test_it_trains_for_so_many_steps_on_the_batches_again_and_again(batches, steps, accumulate):
    weight = nn.Parameter(torch.zeros(()))
    optimizer, seen = torch.optim.SGD([weight], lr=1.0), []

    def train_fn(model, x):
        seen.append(x.item())
        optimize(weight * x.sum(), optimizer)

    trainer = quiet(train_fn, numbered(1), optimizer=optimizer, accumulate=accumulate)
    train_on(trainer, numbered(*[1] * batches), steps)
    expected = list(itertools.islice(itertools.cycle(range(1, batches + 1)), steps * accumulate))
    assert seen == expected
    assert trainer.step == steps
    assert weight.item() == pytest.approx(-sum(expected) / accumulate)


def test_each_time_a_batch_is_a_copy_that_the_function_may_change():
    class Text:
        words = ("a",)

    seen, batches = [], [(torch.ones(2), {"y": torch.ones(1)}, Text())]

    def train_fn(model, x, labels, text):
        seen.append((x.tolist(), labels["y"].item(), text.words))
        x.zero_()
        labels["y"] += 1
        text.words = ()

    train_on(quiet(train_fn, numbered(1)), batches, 3)
    assert seen == [([1.0, 1.0], 1.0, ("a",))] * 3
    ((x, labels, text),) = batches
    assert (x.tolist(), labels["y"].item(), text.words) == ([1.0, 1.0], 1.0, ("a",))


@pytest.mark.parametrize(
    "make",
    [lambda: 2 * torch.ones(1, requires_grad=True), lambda: (torch.ones(1), (number for number in range(3)))],
    ids=["with a graph", "with an iterator"],
)
def test_what_cannot_be_copied_is_handed_over_as_it_is(make):
    seen, batch = [], make()
    train_on(quiet(lambda model, *items: seen.append(items), numbered(1)), [batch], 2)
    for items in seen:
        assert all(one is other for one, other in zip(items, batch if type(batch) is tuple else [batch], strict=True))
    assert len(seen) == 2


def test_without_batches_the_train_loader_is_read_as_it_is():
    loader, seen = Counted(3), []
    trainer = quiet(lambda model, x: seen.append(x.item()), loader)
    train_on(trainer, None, 5)
    assert seen == [1, 2, 3, 1, 2]
    assert trainer.train_loader is loader


def never(*given):
    raise AssertionError("called")


def test_nothing_is_evaluated_where_the_train_loader_ends():
    trainer = quiet(first_value, numbered(1, 1), never, numbered(1))
    train_on(trainer, None, 5)
    assert trainer.step == 5


def test_only_the_given_functions_are_called_and_there_is_no_record():
    trainer, called = quiet(first_value, numbered(1)), []
    for event in ("train_begin", "batch_end", "record"):
        trainer.on(event)(never)
    train_on(
        trainer,
        numbered(1),
        3,
        batch_begin=lambda given: called.append(("begin", given.step)),
        step_end=lambda given: called.append(("end", given.step)),
    )
    assert called == [("begin", 0), ("end", 1), ("begin", 1), ("end", 2), ("begin", 2), ("end", 3)]
    assert len(trainer.history) == 0


# Calls of a model


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x, times=2):
        return self.inner(x) * times


def silent(model):
    return quiet(nothing, numbered(1), model=model)


def test_each_call_of_a_model_is_noted_with_what_went_in_and_came_out():
    models = {"G": Doubling(), "D": nn.Identity()}
    x = torch.ones(1)
    with forwards(silent(models)) as calls:
        first = models["G"](x)
        second = models["D"].forward(first)
        third = models["G"].forward(x, times=3)
        Doubling()(x)  # not one of the trainer's
    assert [first.item(), second.item(), third.item()] == [2, 2, 3]
    assert [call.model for call in calls] == [models["G"], models["D"], models["G"]]
    assert calls[0].args[0] is x
    assert [call.kwargs for call in calls] == [{}, {}, {"times": 3}]
    assert all(call.output is output for call, output in zip(calls, (first, second, third), strict=True))


def test_only_the_first_twenty_calls_are_kept_and_the_later_ones_work():
    model = Doubling()
    with forwards(silent(model)) as calls:
        outputs = [model(torch.tensor(float(number))).item() for number in range(30)]
    assert outputs == [2 * number for number in range(30)]
    assert [call.output.item() for call in calls] == outputs[:20]


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_afterwards_each_model_has_the_forward_that_it_had(error):
    plain, patched = Doubling(), Doubling()
    patched.forward = own = lambda x: x + 1
    ending = nullcontext() if error is None else pytest.raises(error)
    with ending, forwards(silent([plain, patched])) as calls:
        assert patched(torch.ones(1)).item() == 2
        if error is not None:
            raise error
    assert len(calls) == 1
    plain(torch.ones(1))
    patched(torch.ones(1))
    assert len(calls) == 1
    assert "forward" not in vars(plain)
    assert patched.forward is own


def test_a_model_under_two_names_is_noted_once_a_call():
    model = Doubling()
    with forwards(silent({"student": model, "teacher": model})) as calls:
        model(torch.ones(1))
    assert [call.model for call in calls] == [model]
    assert "forward" not in vars(model)


# What is input, what is label


class Sample(NamedTuple):
    image: int
    mask: int
    label: int


@pytest.mark.parametrize(
    ("batch", "inputs", "labels"),
    [
        (7, (7,), None),
        ((7,), (7,), None),
        ([7], [7], None),
        ((7, 8), (7,), 8),
        ([7, 8], [7], 8),
        ((7, None), (7,), None),
        ((7, 8, 9), (7, 8), 9),
        (Sample(7, 8, 9), (7, 8), 9),
        ({"x": 7, "label": 8}, {"x": 7}, 8),
        ({"Labels": 8, "x": 7}, {"x": 7}, 8),
        ({"x": 7, "TARGET": 8}, {"x": 7}, 8),
        ({"x": 7, "targets": 8, "z": 9}, {"x": 7, "z": 9}, 8),
        ({"x": 7, "y": 8}, {"x": 7}, 8),
        ({"x": 7, "y": 8, "label": 9}, {"x": 7}, 8),
        ({"x": 7, 0: 8}, {"x": 7, 0: 8}, None),
        ({"x": 7, "label_weights": 8}, {"x": 7, "label_weights": 8}, None),
        ({}, {}, None),
    ],
    ids=str,
)
def test_labels_come_last_or_have_the_name_of_one(batch, inputs, labels):
    assert inputs_of(batch) == inputs
    assert labels_of(batch) == labels


def test_what_a_batch_holds_is_looked_at_and_not_changed():
    batch = {"x": 7, "y": 8}
    inputs_of(batch)
    labels_of(batch)
    assert batch == {"x": 7, "y": 8}


# Parameters


def test_parameters_are_named_as_in_their_model_with_its_name_before_them_where_there_are_several():
    one, other = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, bias=False)), nn.Linear(1, 1)
    one[0].requires_grad_(False)
    other.bias.requires_grad_(False)
    assert list(parameters_of(one, True)) == ["1.weight"]
    assert list(parameters_of(one, False)) == ["0.weight", "0.bias"]
    assert list(parameters_of({"G": one, "D": other}, True)) == ["G.1.weight", "D.weight"]
    assert list(parameters_of([one, other], False)) == ["0.0.weight", "0.0.bias", "1.bias"]
    assert parameters_of([one, other], False)["1.bias"] is other.bias


def test_a_parameter_that_two_layers_share_is_one():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].weight = model[0].weight
    assert list(parameters_of(model, True)) == ["0.weight"]


# Outputs


def call(output):
    return Call(None, (), {}, output)


def test_the_outputs_are_the_floating_point_tensors_wherever_they_lie_apart_from_their_graphs():
    x = torch.ones(2, requires_grad=True)
    first, second, third = 2 * x, torch.zeros(1, dtype=torch.float16), torch.tensor(3.0)
    calls = [call(first), call({"ids": torch.arange(2), "more": [second, None]}), call((torch.ones(1) > 0, third))]
    found = first_outputs(calls)
    assert [tensor.tolist() for tensor in found] == [[2, 2], [0], 3]
    assert not any(tensor.requires_grad for tensor in found)
    assert first.requires_grad


@pytest.mark.parametrize("calls", [[], [call(None)], [call(torch.arange(3)), call({"a": torch.ones(2) > 0})]])
def test_without_such_an_output_a_check_of_them_is_skipped(calls):
    with pytest.raises(Skipped, match="do not call the model's forward, or it returns no floating-point tensor"):
        first_outputs(calls)


# Names in words


@pytest.mark.parametrize(
    ("names", "most", "words"),
    [
        ([], 5, ""),
        (["a"], 5, "a"),
        (list("abcde"), 5, "a, b, c, d, e"),
        (list("abcdef"), 5, "a, b, c, d, e and 1 more"),
        (list("abcdefgh"), 2, "a, b and 6 more"),
    ],
)
def test_of_many_names_the_first_are_listed_and_the_rest_counted(names, most, words):
    assert listed(names, most) == words


def test_five_names_are_listed_unless_more_are_asked_for():
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
