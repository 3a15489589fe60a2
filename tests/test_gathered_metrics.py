"""What a metric in a model has gathered is found and put back; that it then goes on is in test_codec."""

import torch
import torchmetrics
from torch import nn

from ignition.gathered_metrics import metric_of, metrics_in, restore_metrics


def model():
    return nn.ModuleDict({"layer": nn.Linear(2, 2), "mean": torchmetrics.MeanMetric()})


def test_only_metrics_are_found_by_the_way_to_them():
    assert list(metrics_in(model())) == ["mean"]
    assert metric_of(nn.Linear(2, 2)) is None
    assert metric_of(torchmetrics.MeanMetric) is None


def test_what_was_gathered_is_put_back_and_what_was_computed_is_forgotten():
    whole, fresh = model(), model()
    whole["mean"].update(torch.tensor([1.0, 2.0]))
    fresh["mean"].update(torch.tensor([9.0]))
    fresh["mean"].compute()
    restore_metrics(fresh, metrics_in(whole))
    assert fresh["mean"].compute().item() == 1.5


def test_a_metric_that_is_there_no_more_is_passed_over():
    whole = model()
    whole["mean"].update(torch.ones(2))
    restore_metrics(nn.ModuleDict({"layer": nn.Linear(2, 2)}), metrics_in(whole))
