"""What counts as something with a state and as a metric with memory, and annotations that tools can read."""

from __future__ import annotations

import collections
import typing
from collections.abc import Mapping

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from ignition import Callback, Trainer, types
from ignition.callbacks import EMA
from ignition.types import MetricObject, Metrics, Stateful


def with_methods(*names):
    """An object of a class of its own, which has these methods and no others."""
    return type("Own", (), {name: lambda self, *given: None for name in names})()


# What has a state

WITH_STATE = ("state_dict", "load_state_dict")


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's use of torch
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(1, 1),
        lambda: torch.optim.SGD(nn.Linear(1, 1).parameters()),
        lambda: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(nn.Linear(1, 1).parameters()), 1),
        lambda: torch.amp.GradScaler("cpu"),
        lambda: torchmetrics.MeanMetric(),
        lambda: StatefulDataLoader([1]),
        lambda: Callback(),
        lambda: EMA(0.9),
        lambda: with_methods(*WITH_STATE),
    ],
    ids=["module", "optimizer", "scheduler", "scaler", "metric", "loader", "callback", "average", "of one's own"],
)
def test_what_can_be_saved_and_put_back_has_a_state_whatever_its_class(make):
    assert isinstance(make(), Stateful)


@pytest.mark.parametrize(
    "value",
    [
        *(with_methods(name) for name in WITH_STATE),
        with_methods(),
        torch.Generator(),
        torch.utils.data.DataLoader([1]),
        torch.zeros(1),
        collections.OrderedDict(state_dict=1, load_state_dict=2),
        print,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_lacks_one_of_the_two_methods_has_none(value):
    assert not isinstance(value, Stateful)


# What is a metric with memory

OF_METRICS = ("update", "compute", "reset")


@pytest.mark.parametrize(
    "value",
    [
        torchmetrics.MeanMetric(),
        torchmetrics.MetricCollection({"mean": torchmetrics.MeanMetric()}),
        with_methods(*OF_METRICS),
    ],
    ids=["one", "a collection", "of one's own"],
)
def test_a_metric_object_is_one_by_its_three_methods(value):
    assert isinstance(value, MetricObject)


@pytest.mark.parametrize(
    "value",
    [
        *(with_methods(*OF_METRICS[:place], *OF_METRICS[place + 1 :]) for place in range(3)),
        {"update": 1, "compute": 2, "reset": 3},
        torch.zeros(1),
        1.0,
    ],
    ids=["no update", "no compute", "no reset", "dict", "tensor", "float"],
)
def test_what_lacks_one_of_the_three_is_none(value):
    assert not isinstance(value, MetricObject)


def test_neither_can_be_made_by_itself():
    for kind in (Stateful, MetricObject):
        with pytest.raises(TypeError, match="Protocol"):
            kind()


# Annotations


def test_a_function_may_return_metrics_by_name_a_scalar_or_nothing():
    assert set(typing.get_args(Metrics)) == {Mapping[str, typing.Any], Tensor, float, type(None)}


def test_tools_that_read_annotations_need_none_of_our_imports():
    def annotated(train_fn: types.TrainFn, eval_fn: types.EvalFn, pred_fn: types.PredictFn) -> types.Metrics: ...

    found = typing.get_type_hints(annotated)
    assert found["return"] == Metrics
    assert typing.get_args(found["train_fn"]) == typing.get_args(found["eval_fn"]) == (..., Metrics)
    assert typing.get_args(found["pred_fn"]) == (..., typing.Any)
    assert typing.get_type_hints(Trainer.__init__)["train_fn"] == found["train_fn"]
