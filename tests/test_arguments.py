"""What may be handed in, and what is refused with a word on what belongs there."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ignition import Trainer
from ignition.arguments import (
    check_batch_axis,
    check_count,
    check_evaluation,
    check_hyper,
    check_loader,
    check_model,
    check_not_empty,
    check_optimizer,
)
from ignition.errors import ArgumentError, BatchError, IgnitionWarning


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


class Own:
    """An optimizer that is not torch's."""

    def step(self):
        pass


class Indexed:
    """The oldest way to be iterable."""

    def __getitem__(self, index):
        if index == 2:
            raise IndexError
        return torch.zeros(1)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


def function(model, x):
    return None


@pytest.mark.parametrize("model", [nn.Identity(), [nn.Identity()], (nn.Identity(), nn.ReLU()), {"G": nn.Identity()}])
def test_one_model_or_several_are_a_model(model):
    check_model(model)


@pytest.mark.parametrize("model", [None, nn.Identity, [], {}, function, [nn.Identity(), None], {"G": 1}])
def test_what_is_no_module_is_no_model(model):
    with pytest.raises(ArgumentError, match=r"(?s)^model is .*expected: an nn\.Module.*to do: "):
        check_model(model)


@pytest.mark.parametrize("optimizer", [None, sgd(), [sgd(), Own()], (sgd(),), {"G": sgd(), "D": Own()}, Own(), []])
def test_none_one_or_several_that_step_are_an_optimizer(optimizer):
    check_optimizer(optimizer)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, nn.Identity(), 0.1, "adam", function, [sgd(), None], {"G": 1}])
def test_what_takes_no_step_is_no_optimizer(optimizer):
    with pytest.raises(ArgumentError, match=r"(?s)^optimizer.* is .*expected: a torch\.optim\.Optimizer.*to do: "):
        check_optimizer(optimizer)


def test_the_error_for_one_of_several_optimizers_names_it():
    with pytest.raises(ArgumentError, match=r"optimizer\[D\] is None"):
        check_optimizer({"G": sgd(), "D": None})


def test_an_optimizer_class_is_answered_with_how_to_make_one():
    with pytest.raises(ArgumentError, match=r"make one: Adam\(model\.parameters\(\)"):
        check_optimizer(torch.optim.Adam)


@pytest.mark.parametrize(
    "loader", [[], (1, 2), iter([1]), (x for x in [1]), DataLoader([1, 2]), Indexed(), {1: 2}, np.zeros(3)]
)
def test_any_iterable_is_a_loader(loader):
    check_loader(loader, "train_loader")


@pytest.mark.parametrize(
    "loader", [None, 3, "data.csv", b"", function, nn.Sequential(), DataLoader, sgd(), torch.zeros(2)]
)
def test_what_gives_no_batches_is_no_loader(loader):
    with pytest.raises(ArgumentError, match=r"(?s)^train_loader is .*expected: an iterable of batches.*to do: "):
        check_loader(loader, "train_loader")


def test_a_tensor_as_a_loader_is_answered_with_a_data_loader():
    with pytest.raises(ArgumentError, match="with a DataLoader"):
        check_loader(torch.zeros(3), "loader")


@pytest.mark.parametrize("loader", [[1], iter([]), DataLoader([1]), DataLoader(Stream())])
def test_a_loader_that_may_have_a_batch_is_not_called_empty(loader):
    check_not_empty(loader, "train_loader")


@pytest.mark.parametrize("loader", [[], DataLoader(range(3), batch_size=4, drop_last=True)])
def test_a_loader_that_knows_of_no_batch_is_empty(loader):
    with pytest.raises(BatchError, match=r"(?s)^test_loader is empty.*expected: .*drop_last"):
        check_not_empty(loader, "test_loader")


def test_neither_eval_function_nor_loader_is_fine():
    assert check_evaluation(None, None) is None


def test_an_eval_function_with_a_loader_gives_its_signature():
    assert check_evaluation(function, [1]) is None


@pytest.mark.parametrize(
    ("eval_fn", "test_loader", "given"),
    [
        (function, None, "an eval_fn and no test_loader"),
        (None, [1], "a test_loader and no eval_fn"),
        ([1], function, "eval_fn is a list"),
        (function, 3, "test_loader is an int"),
        (None, 3, "test_loader is an int"),
    ],
)
def test_an_eval_function_and_its_loader_come_together(eval_fn, test_loader, given):
    with pytest.raises(ArgumentError, match=f"(?s){given}.*expected: .*to do: "):
        check_evaluation(eval_fn, test_loader)


@pytest.mark.parametrize("count", [None, 1, 10**9])
def test_a_count_is_none_or_a_positive_integer(count):
    check_count(count, "steps")


@pytest.mark.parametrize("count", [0, -1, 1.0, 2.5, True, "3", float("inf"), torch.tensor(3)])
def test_nothing_else_is_a_count(count):
    with pytest.raises(ArgumentError, match=r"(?s)^steps=.*expected: an integer of 1 or more.*to do: "):
        check_count(count, "steps")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_batch_axis_is_an_integer(axis):
    check_batch_axis(axis)


@pytest.mark.parametrize("axis", [None, True, 0.0, "0", (0,)])
def test_nothing_else_is_a_batch_axis(axis):
    with pytest.raises(ArgumentError, match=r"(?s)^batch_axis=.*expected: an integer.*to do: "):
        check_batch_axis(axis)


def test_hyperparameters_are_a_mapping():
    check_hyper({"lambd": 1}, "hyper")


@pytest.mark.parametrize("hyper", [None, 4.0, ["lambd"], "lambd", {"lambd"}])
def test_nothing_else_is_hyperparameters(hyper):
    with pytest.raises(ArgumentError, match=r"(?s)^hyper is .*expected: a dict.*to do: "):
        check_hyper(hyper, "hyper")


# Optimizers that train what is not the model's


class Margin(nn.Module):
    """A loss that has parameters of its own."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 4))
        self.scale = nn.Parameter(torch.ones(()))


def quiet(model, optimizer):
    return Trainer(model, optimizer, function, [torch.zeros(1)], device="cpu", progress=False)


@pytest.mark.parametrize(
    ("structure", "name"), [(lambda o: o, "SGD"), (lambda o: [o], "SGD '0'"), (lambda o: {"G": o}, "SGD 'G'")]
)
def test_an_optimizer_of_parameters_that_are_not_the_models_is_warned_of_with_a_list_of_them(structure, name):
    model, loss = nn.Linear(2, 1), Margin()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    message = (
        rf"^{re.escape(name)} trains 2 of its 4 parameters that are not the model's \(shapes: \(3, 4\), \(\)\); they "
        "are neither moved nor saved; give the Trainer every module that is trained"
    )
    with pytest.warns(IgnitionWarning, match=message) as caught:
        quiet(model, structure(optimizer))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet({"model": model, "loss": loss}, structure(optimizer))


def test_a_stale_optimizer_is_warned_of_in_the_line_that_makes_the_trainer():
    stale = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    with pytest.warns(IgnitionWarning, match=r"SGD trains 2 of its 2 parameters.*in a notebook") as caught:
        Trainer(nn.Linear(2, 1), stale, function, [torch.zeros(1)], device="cpu", progress=False)
    assert caught[0].filename == __file__


def test_parameters_that_have_names_are_listed_by_them():
    optimizer = torch.optim.SGD(Margin().named_parameters(), lr=0.1)
    with pytest.warns(IgnitionWarning, match=r"shapes: centres \(3, 4\), scale \(\)\)"):
        quiet(nn.Linear(2, 1), optimizer)


def test_no_more_than_ten_are_listed():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(number)) for number in range(12)], lr=0.1)
    with pytest.warns(IgnitionWarning, match=r"12 of its 12 parameters .*\(8,\), \(9,\), \.\.\.\)"):
        quiet(nn.Linear(2, 1), optimizer)


def test_each_optimizer_is_warned_of():
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [sgd(), torch.optim.SGD(models[1].parameters(), lr=0.1), torch.optim.Adam(Margin().parameters())]
    with pytest.warns(IgnitionWarning) as caught:
        quiet(models, optimizers)
    assert [str(warning.message).partition(" trains")[0] for warning in caught] == ["SGD '0'", "Adam '2'"]


def tied():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def with_trained_buffer():
    model = nn.Linear(2, 1)
    model.register_buffer("prompt", torch.zeros(2, requires_grad=True))
    return model


@pytest.mark.parametrize("make", [tied, with_trained_buffer, lambda: nn.LazyLinear(3)])
def test_an_optimizer_of_the_models_own_is_not_warned_of(make):
    model = make()
    optimizer = torch.optim.SGD([*model.parameters(), *model.buffers()], lr=0.1)
    quiet(model, optimizer)
    quiet([nn.Identity(), model], [optimizer, Own()])
    quiet(model, torch.optim.SGD([{"params": [one]} for one in model.parameters()], lr=0.1))
    quiet(model, None)
