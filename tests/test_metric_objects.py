"""What metric objects need where several processes compute them; see `test_reading` for the processes themselves."""

from __future__ import annotations

import pytest
import torch
import torchmetrics

from ignition import metric_objects


class Alone:
    """A metric object that knows of no other process."""

    def __init__(self):
        self.count = 1

    def update(self): ...

    def compute(self):
        return self.count

    def reset(self):
        self.count = 0


def auroc():
    return torchmetrics.classification.MulticlassAUROC(3)


@pytest.mark.parametrize(
    ("metric", "does"),
    [
        (torchmetrics.MeanMetric(), True),
        (torchmetrics.MetricCollection({"mean": torchmetrics.MeanMetric(), "auroc": auroc()}), True),
        (torchmetrics.MetricCollection({"auroc": auroc()}), True),
        (Alone(), False),
    ],
)
def test_torchmetrics_objects_and_collections_of_them_synchronise_themselves(metric, does):
    assert metric_objects.synchronises(metric) is does


@pytest.mark.parametrize("collected", [False, True])
def test_a_metric_that_is_emptied_has_counted_nothing_and_knows_types_and_shapes(collected):
    metric = auroc()
    used = torchmetrics.MetricCollection({"auroc": metric}) if collected else metric
    used.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    metric_objects.empty(used)
    assert [(one.shape, one.dtype) for one in metric.preds] == [((0, 3), torch.float32)]
    assert [(one.shape, one.dtype) for one in metric.target] == [((0,), torch.int64)]
    assert metric.update_count == 0
    used.reset()
    assert metric.preds == metric.target == []


def test_a_metric_that_keeps_sums_or_is_not_of_torchmetrics_is_reset():
    mean, alone = torchmetrics.MeanMetric(), Alone()
    mean.update(2.0)
    metric_objects.empty(mean)
    metric_objects.empty(alone)
    assert (float(mean.weight), alone.count) == (0.0, 0)
