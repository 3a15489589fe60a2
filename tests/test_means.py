import gc
import json
import math
import warnings
import weakref
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from fake_device import Accelerator, OnDevice
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from ignition.errors import IgnitionWarning, MetricError
from ignition.means import Means

values = st.floats(-1e6, 1e6)
weights = st.integers(0, 1000)
batches = st.lists(st.tuples(values, weights), min_size=1, max_size=30)


def means_of(*added):
    """The means of (result, weight) pairs."""
    means = Means("train_fn")
    for result, weight in added:
        means.add(result, weight)
    return means


# Weighted means


@given(batches)
def test_a_mean_is_numpys_weighted_average(batches):
    means = means_of(*(({"loss": value}, weight) for value, weight in batches))
    numbers, sizes = zip(*batches, strict=True)
    if any(sizes):
        assert means.compute()["loss"] == pytest.approx(np.average(numbers, weights=sizes), rel=1e-9, abs=1e-6)
    else:
        assert math.isnan(means.compute()["loss"])


@given(st.lists(values, min_size=1, max_size=50), st.integers(1, 8))
def test_the_mean_over_ragged_batches_is_the_mean_over_the_samples(samples, size):
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    means = means_of(*(({"loss": float(np.mean(part))}, len(part)) for part in parts))
    assert means.compute()["loss"] == pytest.approx(np.mean(samples), rel=1e-9, abs=1e-6)


@given(batches, st.data())
def test_merging_any_split_gives_the_mean_of_the_whole(batches, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(batches)), max_size=4)))
    bounds = [0, *cuts, len(batches)]
    merged = Means()
    for start, end in pairwise(bounds):
        merged.merge(means_of(*(({"loss": value}, weight) for value, weight in batches[start:end])))
    numbers, sizes = zip(*batches, strict=True)
    assume(any(sizes))
    assert merged.compute()["loss"] == pytest.approx(np.average(numbers, weights=sizes), rel=1e-9, abs=1e-6)


@given(batches, batches)
def test_means_that_are_saved_and_loaded_go_on_as_if_nothing_had_happened(before, after):
    whole, first = Means(), Means()
    for value, weight in before:
        whole.add({"loss": value, "acc": 1.0}, weight)
        first.add({"loss": value, "acc": 1.0}, weight)
    second = Means()
    second.add({"other": 1.0}, 3)  # is replaced
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    for value, weight in after:
        whole.add({"loss": value}, weight)
        second.add({"loss": value}, weight)
    assert second.state_dict() == whole.state_dict()
    assert list(second.compute()) == ["loss", "acc"]


def test_the_saved_state_is_a_copy():
    means = means_of(({"loss": 1.0}, 2))
    state = means.state_dict()
    assert state == {"loss": [2.0, 2]}
    means.add({"loss": 1.0}, 2)
    assert state == {"loss": [2.0, 2]}
    loaded = Means()
    loaded.load_state_dict(state)
    loaded.add({"loss": 1.0}, 2)
    assert state == {"loss": [2.0, 2]}


def test_the_order_of_the_names_is_saved_where_some_are_those_of_metric_objects():
    metric = torchmetrics.MeanMetric()
    metric.update(2.0)
    whole = means_of(({"first": 1.0, "it": metric, "last": 3.0}, 2))
    loaded = Means()
    loaded.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert loaded.compute() == {"first": 1.0, "last": 3.0}  # the object has not come yet
    loaded.add({"last": 3.0, "it": metric}, 2)
    assert list(loaded.compute().items()) == [("first", 1.0), ("it", 2.0), ("last", 3.0)]
    with pytest.raises(MetricError, match="now as a number and now as a metric object"):
        loaded.add({"it": 1.0}, 2)


def test_merging_leaves_the_other_as_it_was():
    one, other = means_of(({"loss": 1.0}, 1)), means_of(({"loss": 4.0, "acc": 0.5}, 2))
    one.merge(other)
    assert one.compute() == {"loss": 3.0, "acc": 0.5}
    assert other.compute() == {"loss": 4.0, "acc": 0.5}


def test_a_thousand_small_values_are_summed_in_64_bits():
    means = means_of(*[({"loss": torch.tensor(0.1)}, 1)] * 1000)
    assert means.compute()["loss"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_each_mean_is_over_the_batches_that_returned_it():
    means = means_of(({"loss": 1.0}, 1), ({"loss": 3.0, "d_loss": 7.0}, 3), ({"acc": 0.0}, 5), ({"d_loss": 1.0}, 1))
    assert means.compute() == {"loss": 2.5, "d_loss": 5.5, "acc": 0.0}
    assert list(means.compute()) == ["loss", "d_loss", "acc"], "in the order of their first appearance"


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_function_may_return_nothing(nothing):
    means = means_of((nothing, 4), ({"loss": 1.0}, 4), (nothing, None))
    assert means.compute() == {"loss": 1.0}
    assert means.last == {}


@pytest.mark.parametrize(
    "scalar", [2.0, 2, torch.tensor(2.0), np.float32(2), np.array(2.0), nn.Parameter(torch.tensor(2.0))]
)
def test_one_scalar_is_the_loss(scalar):
    assert means_of((scalar, 4), (1.0, 4)).compute() == {"loss": 1.5}


@pytest.mark.parametrize(
    ("metric", "number"),
    [
        (3, 3.0),
        (True, 1.0),
        (False, 0.0),
        (Fraction(1, 4), 0.25),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(-2), -2.0),
        (np.uint8(2), 2.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (np.array(2), 2.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(2), 2.0),
        (torch.tensor(True), 1.0),
        (nn.Parameter(torch.tensor(0.5)), 0.5),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (math.inf, math.inf),
    ],
)
def test_whatever_is_one_real_number_is_a_metric(metric, number):
    means = means_of(({"it": metric}, 1), ({"it": metric}, 3))
    assert means.compute() == {"it": number}
    assert means.last == {"it": number}
    assert type(means.last["it"]) is float


def test_a_mapping_of_any_kind_is_read_as_a_dict():
    class Metrics(dict):
        pass

    assert means_of((Metrics(loss=1.0), 1), (dict(loss=2.0), 1)).compute() == {"loss": 1.5}


def test_a_nan_makes_the_mean_nan_and_a_zero_does_not():
    means = means_of(({"loss": math.nan, "acc": 0.0}, 2), ({"loss": 1.0, "acc": 0.0}, 2))
    assert math.isnan(means.compute()["loss"])
    assert means.compute()["acc"] == 0.0


def test_the_running_means_are_those_so_far():
    means = means_of(({"loss": 1.0}, 1))
    assert means.running() == {"loss": 1.0}
    means.add({"loss": 2.0}, 3)
    assert means.running() == means.compute() == {"loss": 1.75}


def test_reset_forgets_everything_but_the_last():
    means = means_of(({"loss": 1.0, "gone": 2.0}, 1))
    means.reset()
    assert means.compute() == means.running() == means.state_dict() == {}
    assert means.last == {"loss": 1.0, "gone": 2.0}
    means.add({"loss": 5.0}, 1)
    assert means.compute() == {"loss": 5.0}


def test_last_is_what_the_last_batch_returned():
    means = means_of(({"loss": 1.0, "acc": 0.5}, 4), ({"loss": torch.tensor(3.0), "top": (0.25, 2)}, 1))
    assert means.last == {"loss": 3.0, "top": 0.25}


# Pairs of a value and a weight


@given(st.lists(st.tuples(values, st.floats(0, 1e3)), min_size=1, max_size=20))
def test_a_pairs_weight_counts_in_place_of_the_batchs(pairs):
    means = means_of(*(({"loss": pair}, 7) for pair in pairs))
    numbers, sizes = zip(*pairs, strict=True)
    assume(sum(sizes) > 1e-3)
    assert means.compute()["loss"] == pytest.approx(np.average(numbers, weights=sizes), rel=1e-9, abs=1e-5)


@pytest.mark.parametrize(
    "pair",
    [
        (3.0, 2),
        (torch.tensor(3.0), torch.tensor(2)),
        (torch.tensor(3), 2.0),
        (3, torch.tensor(2.0)),
        (np.float32(3), np.int64(2)),
        (torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)),
    ],
)
def test_a_pair_may_be_of_numbers_and_0d_tensors(pair):
    means = means_of(({"loss": pair}, 50), ({"loss": 0.0}, 4))
    assert means.compute() == {"loss": 1.0}


def test_half_precision_pairs_are_weighed_in_full_precision():
    pair = (torch.tensor(3.0, dtype=torch.float16), torch.tensor(50_000))
    assert means_of(({"loss": pair}, 1), ({"loss": pair}, 1)).compute() == {"loss": 3.0}


def test_a_pair_of_weight_0_counts_for_nothing_even_where_it_is_nan():
    means = means_of(({"loss": (math.nan, 0)}, 4), ({"loss": (torch.tensor(math.nan), torch.tensor(0))}, 4))
    assert math.isnan(means.compute()["loss"])
    assert list(means.state_dict().values()) == [[0.0, 0.0]]
    means.add({"loss": 2.0}, 4)
    assert means.compute() == {"loss": 2.0}


@pytest.mark.parametrize("weight", [-1, -0.5, math.nan, math.inf, -math.inf, torch.tensor(-1.0), np.float32("nan")])
def test_a_weight_that_is_none_is_named(weight):
    means = Means("eval_fn")
    with pytest.raises(MetricError, match=r"(?s)eval_fn.*weight.*'acc'.*finite weight of 0 or more"):
        means.add({"acc": (0.5, weight)}, 4)


@pytest.mark.parametrize(
    "pair",
    [("0.5", 1), (0.5, "1"), (0.5, None), (None, 1), (0.5, torch.ones(2)), (torch.ones(2), 1), (0.5, 1j), ([1], 1)],
)
def test_a_pair_of_anything_else_is_no_metric(pair):
    with pytest.raises(MetricError, match="'acc'"):
        Means().add({"acc": pair}, 4)


# What is no metric


@pytest.mark.parametrize("metric", [torch.ones(3), torch.ones(1), torch.ones(2, 3), nn.Parameter(torch.ones(2, 3))])
@pytest.mark.parametrize("weight", [4, 0, None])
@pytest.mark.filterwarnings("ignore::ignition.errors.IgnitionWarning")
def test_a_tensor_with_axes_is_an_error_that_names_metric_and_shape(metric, weight):
    with pytest.raises(MetricError) as caught:
        Means("train_fn").add({"loss": 1.0, "score": metric}, weight)
    message = str(caught.value)
    assert "train_fn" in message
    assert "'score'" in message
    assert str(tuple(metric.shape)) in message
    assert "score" in message.split("to do:")[1]
    assert ".mean()" in message.split("to do:")[1]


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("0.5", "str '0.5'"),
        ([0.5], r"list \[0\.5\]"),
        ((0.5,), "tuple"),
        ((0.5, 1, 2), "tuple"),
        ({"a": 1.0}, "dict"),
        (1j, "complex 1j"),
        (np.complex64(1j), "complex64"),
        (torch.tensor(1j), "complex"),
        (np.ones((2, 3)), r"array of shape \(2, 3\)"),
        (np.array(1j), "complex128"),
        (np.array("a"), "array"),
        (abs, "abs"),
    ],
)
@pytest.mark.parametrize("weight", [4, 0])
def test_what_is_no_number_is_an_error_that_names_the_metric(metric, shown, weight):
    with pytest.raises(MetricError, match=f"(?s)train_fn returned .*{shown}.*'score'.*expected:.*to do:"):
        Means("train_fn").add({"score": metric}, weight)


@pytest.mark.parametrize("later", [1j, torch.tensor(1j), "text", torch.ones(2)])
def test_a_metric_that_was_a_number_before_is_still_looked_at(later):
    means = means_of(({"loss": 1.0}, 4))
    with pytest.raises(MetricError, match="'loss'"):
        means.add({"loss": later}, 4)
    assert means.compute() == {"loss": 1.0}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("loss", "str 'loss'"),
        ([1.0], "list"),
        ((1.0, 2), "tuple"),
        ({1.0}, "set"),
        (1j, "complex"),
        (np.ones(3), r"array of shape \(3,\)"),
        (abs, "abs"),
    ],
)
def test_a_function_that_returns_something_else_is_named(result, shown):
    with pytest.raises(MetricError, match=rf"(?s)eval_fn returned.*{shown}.*expected: a dict"):
        Means("eval_fn").add(result, 4)


def test_a_tensor_with_axes_returned_alone_is_named_as_the_loss():
    with pytest.raises(MetricError, match=r"shape \(8,\) as 'loss'"):
        Means().add(torch.ones(8), 8)


@pytest.mark.parametrize("metric", [1.0, 1, torch.tensor(1.0), (1.0, 2), torchmetrics.MeanMetric()])
def test_a_name_must_be_a_string(metric):
    with pytest.raises(MetricError, match="named 3"):
        Means().add({3: metric}, 1)


@pytest.mark.parametrize("name", ["lo\nss", "loss\n", "lo\rss", "lo\u2028ss"])
def test_a_name_must_be_of_one_line(name):
    with pytest.raises(MetricError, match=r"(?s)named 'lo.*names of one line.*take the line break out"):
        Means().add({name: 1.0}, 1)
    with pytest.raises(MetricError, match=r"(?s)named 'f1_lo.*names of one line"):
        means_of(({"f1": Computes({name: 1.0})}, 4)).compute()


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(MetricError) as caught:
        Means().add({"text": "x" * 10_000}, 1)
    assert len(str(caught.value)) < 500


def test_none_is_a_metric_that_this_batch_has_not():
    means = Means()
    means.add({"loss": 1.0, "norm": None}, 4)
    means.add({"loss": 1.0, "norm": 3.0}, 4)
    means.add({"loss": 1.0, "norm": None}, 4)
    assert means.compute() == {"loss": 1.0, "norm": 3.0}
    assert means.last == {"loss": 1.0}


def test_a_value_that_counts_for_nothing_is_not_remembered():
    means = Means()
    means.add({"loss": 1.0, "centre": (math.nan, 0)}, 4)
    assert means.last == {"loss": 1.0}
    assert math.isnan(means.compute()["centre"])


# Batches without a size, and empty ones


def test_batches_without_a_size_count_1_each_and_say_so_once():
    means = Means("train_fn")
    with pytest.warns(IgnitionWarning, match=r"train_fn.*each counts 1"):
        means.add({"loss": 1.0}, None)
    means.add({"loss": 4.0}, None)  # another warning would be an error
    assert means.compute() == {"loss": 2.5}
    means.reset()
    means.add({"acc": 1.0}, None)
    assert means.compute() == {"acc": 1.0}


def test_pairs_and_metric_objects_need_no_size_of_the_batch():
    metric = torchmetrics.MeanMetric()
    metric.update(1.0)
    means = Means()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means.add({"loss": (1.0, 3), "object": metric}, None)
        means.add({"loss": (5.0, 1)}, None)
        means.add(None, None)
    assert means.compute() == {"loss": 2.0, "object": 1.0}


def test_an_empty_batch_counts_for_nothing_even_where_its_values_are_nan():
    nan = torch.nn.functional.cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert nan.isnan()
    means = means_of(({"loss": 1.0}, 2), ({"loss": nan, "acc": math.nan}, 0), ({"loss": 3.0}, 2))
    assert means.compute()["loss"] == 2.0
    assert math.isnan(means.compute()["acc"]), "no batch with a sample returned it"


def test_a_pair_from_an_empty_batch_keeps_its_own_weight():
    assert means_of(({"loss": (4.0, 3)}, 0), ({"loss": 0.0}, 1)).compute() == {"loss": 3.0}


# Metric objects


def test_a_torchmetrics_object_is_computed_at_the_end_and_reset_after():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator)
    f1 = torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")
    means = Means()
    for epoch in range(2):
        for start in range(0, 50, 8):
            part = slice(start + 0, start + 8)
            f1.update(outputs[part], targets[part])
            means.add({"loss": 1.0, "f1": f1}, len(targets[part]))
            assert means.last["f1"] is f1
            assert means.running() == {"loss": 1.0}, "computing may be costly"
        reference = sklearn.metrics.f1_score(targets, outputs.argmax(1), average="macro")
        assert means.compute() == {"loss": 1.0, "f1": pytest.approx(reference)}, epoch
        means.reset()
        assert f1.update_count == 0


def test_a_collection_of_metrics_gives_one_mean_for_each_of_its_names():
    classes = {"task": "multiclass", "num_classes": 3}
    collection = torchmetrics.MetricCollection(
        {"acc": torchmetrics.Accuracy(**classes, average="micro"), "f1": torchmetrics.F1Score(**classes)}
    )
    outputs, targets = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])
    collection.update(outputs, targets)
    means = means_of(({"val": collection}, 4))
    assert means.compute() == {
        "val_acc": pytest.approx(sklearn.metrics.accuracy_score(targets, outputs)),
        "val_f1": pytest.approx(sklearn.metrics.f1_score(targets, outputs, average="micro")),
    }
    means.reset()
    assert all(metric.update_count == 0 for metric in collection.values())


class Computes:
    """The least that is a metric object."""

    def __init__(self, value):
        self.value = value

    def update(self): ...

    def compute(self):
        return self.value

    def reset(self):
        self.value = 0.0


@pytest.mark.parametrize("value", [2.0, 2, np.float32(2), torch.tensor(2), torch.tensor(2.0, requires_grad=True)])
def test_any_object_with_update_compute_and_reset_is_a_metric(value):
    metric = Computes(value)
    means = means_of(({"it": metric}, 4))
    assert means.compute() == {"it": 2.0}
    assert type(means.compute()["it"]) is float
    assert means.state_dict() == {"it": None}, "it keeps its own state"
    means.load_state_dict({"it": [6.0, 2.0]})
    assert metric.value == 0.0
    assert means.compute() == {"it": 3.0}


@pytest.mark.parametrize("value", [torch.ones(3), [1.0], None, "1", torch.tensor(1j), {"a": torch.ones(2)}])
def test_an_object_that_computes_no_number_is_named(value):
    means = means_of(({"per_class": Computes(value)}, 4))
    with pytest.raises(MetricError, match=r"(?s)'per_class(_a)?'.*expected: one number.*average"):
        means.compute()


def test_another_object_under_one_name_is_an_error_and_no_silent_loss():
    means = means_of(({"f1": Computes(1.0)}, 4))
    with pytest.raises(MetricError, match=r"(?s)another object as 'f1'.*outside the function"):
        means.add({"f1": Computes(1.0)}, 4)
    means.reset()
    means.add({"f1": Computes(2.0)}, 4)  # a new epoch may bring a new one
    assert means.compute() == {"f1": 2.0}


@pytest.mark.parametrize("kinds", [(1.0, Computes(1.0)), (Computes(1.0), 1.0), (Computes(1.0), (1.0, 2))])
def test_a_name_is_a_number_or_an_object_and_not_now_this_and_now_that(kinds):
    means = means_of(({"f1": kinds[0]}, 4))
    with pytest.raises(MetricError, match="'f1' now as a number and now as a metric object"):
        means.add({"f1": kinds[1]}, 4)


# No graph is kept alive


class Watched(torch.autograd.Function):
    """Squares, and saves a tensor that a test can watch die."""

    @staticmethod
    def forward(ctx, x):
        saved = x.clone()
        ctx.save_for_backward(saved)
        Watched.saved = weakref.ref(saved)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (saved,) = ctx.saved_tensors
        return 2 * saved * gradient


@pytest.mark.parametrize("shape", ["alone", "by name", "pair", "weight", "empty batch"])
def test_a_returned_metric_keeps_no_graph_alive(shape):
    means = Means()

    def add():
        loss = Watched.apply(torch.tensor(3.0, requires_grad=True))
        assert loss.requires_grad
        results = {"alone": loss, "pair": {"loss": (loss, 2)}, "weight": {"loss": (1.0, loss)}}
        means.add(results.get(shape, {"loss": loss}), 0 if shape == "empty batch" else 4)

    add()
    gc.collect()
    assert Watched.saved() is None
    assert list(means.last) == ([] if shape == "empty batch" else ["loss"])


# Metrics on an accelerator


def test_the_stand_in_for_an_accelerator_counts_what_waits():
    with Accelerator() as accelerator:
        x = accelerator.tensor([1.0, 2.0])
        assert not x.is_cpu
        total = (x * 2).sum() + 1
        total += torch.zeros((), device=x.device)
        assert accelerator.waits == 0
        assert total.item() == 7.0
        assert accelerator.waits == 1
        assert (x * 2).cpu().tolist() == [2.0, 4.0]
        assert accelerator.waits == 2
        assert total > 3
        assert accelerator.waits == 3
        assert torch.tensor(1.0).to(x).device == x.device
        assert accelerator.waits == 4


def test_metrics_on_an_accelerator_are_summed_without_being_waited_for():
    with Accelerator() as accelerator:
        means = Means()
        for step, weight in enumerate([4, 4, 4, 1]):
            loss = accelerator.tensor(float(step))
            pair = (accelerator.tensor(float(step), dtype=torch.float16), accelerator.tensor(weight * 10_000))
            half_pairs = {"number": (accelerator.tensor(step), weight), "weight": (float(step), pair[1])}
            means.add({"loss": loss, "tokens": pair, **half_pairs}, weight)
        means.add({"loss": accelerator.tensor(math.nan)}, 0)
        assert accelerator.waits == 0
        reference = np.average(range(4), weights=[4, 4, 4, 1])
        assert means.running() == pytest.approx(dict.fromkeys(["loss", "tokens", "number", "weight"], reference))
        assert accelerator.waits == 1, "once for all of them"
        assert means.compute()["loss"] == pytest.approx(reference)
        assert isinstance(means.last["loss"], OnDevice)
        assert means.state_dict()["tokens"] == [pytest.approx(reference * 130_000), 130_000]


def test_one_name_may_come_from_the_cpu_and_from_an_accelerator():
    with Accelerator() as accelerator:
        means = means_of(({"loss": 1.0}, 2), ({"loss": accelerator.tensor(4.0)}, 1))
        assert means.compute() == {"loss": 2.0}
        means = means_of(({"loss": accelerator.tensor(4.0)}, 1), ({"loss": torch.tensor(1.0)}, 2))
        assert means.compute() == {"loss": 2.0}
        whole = means_of(({"loss": 8.0, "acc": accelerator.tensor(True)}, 3))
        whole.merge(means)
        assert whole.compute() == {"loss": 5.0, "acc": 1.0}
        loaded = Means()
        loaded.load_state_dict(means.state_dict())
        loaded.add({"loss": accelerator.tensor(8.0)}, 3)
        assert loaded.compute() == {"loss": 5.0}


@pytest.mark.parametrize("weights_there", [False, True])
def test_sums_on_an_accelerator_go_on_to_the_same_bits(weights_there):
    with Accelerator() as accelerator:

        def add(means, value, weight):
            means.add({"loss": (accelerator.tensor(value), accelerator.tensor(weight) if weights_there else weight)}, 4)

        weights = [2.0**53, 1.0, 1.0]  # (a + b) + c is a, and a + (b + c) is more
        whole, part, again = Means(), Means(), Means()
        for weight in weights:
            add(whole, 1.0, weight)
        add(part, 1.0, weights[0])
        again.load_state_dict(part.state_dict())
        for weight in weights[1:]:
            add(again, 1.0, weight)
        assert again.state_dict() == whole.state_dict()


def test_a_weight_of_0_on_an_accelerator_counts_for_nothing_even_where_the_value_is_nan():
    with Accelerator() as accelerator:
        nan = accelerator.tensor(math.nan)
        means = means_of(({"loss": (nan, accelerator.tensor(0)), "acc": (nan, 0)}, 4), ({"loss": nan, "top": nan}, 0))
        assert all(math.isnan(mean) for mean in means.compute().values())
        assert list(means.compute()) == ["loss", "acc", "top"]
        for name in ("loss", "acc", "top"):
            means.add({name: accelerator.tensor(2.0)}, 3)
        assert means.compute() == {"loss": 2.0, "acc": 2.0, "top": 2.0}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, -math.inf])
def test_a_weight_on_an_accelerator_is_judged_when_it_is_read(weight):
    with Accelerator() as accelerator:
        means = means_of(({"acc": (0.5, accelerator.tensor(3.0))}, 4))
        means.add({"acc": (accelerator.tensor(0.5), accelerator.tensor(weight))}, 4)
        means.add({"acc": (0.5, accelerator.tensor(3.0))}, 4)
        assert accelerator.waits == 0
        with pytest.raises(MetricError, match=r"(?s)weight below 0 or not finite for 'acc'"):
            means.compute()
    with pytest.raises(MetricError, match="weight"), Accelerator() as accelerator:
        Means().add({"acc": (accelerator.tensor(0.5), weight)}, 4)


def test_a_tensor_on_an_accelerator_must_be_a_real_scalar_too():
    with Accelerator() as accelerator:
        with pytest.raises(MetricError, match=r"shape \(2,\) as 'loss'"):
            Means().add({"loss": accelerator.tensor([1.0, 2.0])}, 4)
        with pytest.raises(MetricError, match="complex64 as 'loss'"):
            Means().add({"loss": accelerator.tensor(1j)}, 4)
        assert accelerator.waits == 0


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_real_accelerator_is_waited_for_once():
    device = torch.accelerator.current_accelerator()
    loss = torch.tensor(2.0, device=device, requires_grad=True)
    weight = torch.tensor(3, device=device)
    metrics = {"loss": loss, "pair": (loss, weight), "number": (loss, 2), "weight": (0.5, weight)}
    means = Means()
    means.add(metrics, 4)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        means.add(metrics, 4)
        means.add({**metrics, "new": loss, "new_pair": (loss, weight)}, 1)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert means.compute() == {"loss": 2.0, "pair": 2.0, "number": 2.0, "weight": 0.5, "new": 2.0, "new_pair": 2.0}
