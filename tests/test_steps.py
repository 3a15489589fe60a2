import copy

import pytest
import sklearn.metrics
import torch
from torch import nn
from torch.nn import functional

from ignition.errors import ArgumentError
from ignition.metrics import topk_accuracy
from ignition.running import Running, this_run
from ignition.steps import crossentropy_loss, evaluate_on_batch, fit_on_batch, predict_on_batch


@pytest.fixture
def batch():
    """Inputs (12, 4) and class numbers (12,) of 3 classes."""
    return torch.randn(12, 4), torch.randint(3, (12,))


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def equal(one, other):
    """Whether two state_dicts are equal bit for bit."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


# crossentropy_loss


def test_crossentropy_is_the_mean_negative_log_probability_of_the_class(batch):
    outputs, targets = torch.randn(12, 3), batch[1]
    reference = sklearn.metrics.log_loss(targets, outputs.double().softmax(1), labels=[0, 1, 2])
    assert crossentropy_loss(outputs, targets).item() == pytest.approx(reference, rel=1e-5)


def test_crossentropy_takes_class_probabilities_and_dense_targets():
    outputs, targets = torch.randn(5, 3, 2, 2), torch.randint(3, (5, 2, 2))
    probabilities = functional.one_hot(targets, 3).movedim(-1, 1).float()
    assert crossentropy_loss(outputs, targets).shape == ()
    assert crossentropy_loss(outputs, probabilities).item() == pytest.approx(crossentropy_loss(outputs, targets).item())


# fit_on_batch


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a run"])
@pytest.mark.parametrize(
    "make_optimizer",
    [
        sgd,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True),
    ],
    ids=["SGD", "Nesterov", "AdamW"],
)
def test_fit_on_batch_equals_the_loop_written_by_hand_bit_for_bit(model, make_optimizer, inside):
    batches = [(torch.randn(size, 4), torch.randint(3, (size,))) for size in (8, 8, 8, 3)]
    by_hand = copy.deepcopy(model)
    optimizer = make_optimizer(by_hand)
    losses = []
    torch.manual_seed(7)
    for x, y in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(by_hand(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    optimizer = make_optimizer(model)
    torch.manual_seed(7)
    run = Running(torch.device("cpu"), training=True) if inside else None
    with this_run(run):
        results = [fit_on_batch(model, x, y, crossentropy_loss, optimizer)["loss"].item() for x, y in batches]
    assert results == losses
    assert equal(model, by_hand)


def test_fit_on_batch_measures_the_outputs_before_the_step(batch):
    model = nn.Linear(4, 3)
    before = evaluate_on_batch(model, *batch)
    result = fit_on_batch(model, *batch, crossentropy_loss, sgd(model))
    assert list(result) == ["loss", "acc"]
    assert torch.equal(result["loss"], before["loss"])
    assert torch.equal(result["acc"], before["acc"])
    assert not torch.equal(evaluate_on_batch(model, *batch)["loss"], before["loss"])


def test_outputs_that_share_memory_with_the_parameters_are_measured_before_the_step():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.value.view(3)

    model = Constant()
    result = fit_on_batch(model, None, torch.zeros(3), functional.mse_loss, sgd(model), ["loss", "mse"])
    assert result["mse"].item() == result["loss"].item() == 1.0


@pytest.mark.parametrize(
    ("names", "outputs", "targets"),
    [
        (["acc", "top5"], torch.randn(8, 6), torch.randint(6, (8,))),
        (["acc"], torch.randn(8, 1), torch.randint(2, (8,))),
        (["acc"], torch.randn(8, 3), torch.randint(2, (8, 3))),
        (["mse", "mae"], torch.randn(8, 3), torch.randn(8, 3, requires_grad=True)),
    ],
    ids=["multi-class", "binary", "multi-label", "regression"],
)
def test_no_metric_of_a_name_keeps_a_graph(names, outputs, targets):
    scale = torch.ones(1, requires_grad=True)
    metrics = evaluate_on_batch(lambda x: x * scale, outputs, targets, lambda outputs, targets: outputs.mean(), names)
    assert [metric.grad_fn for metric in metrics.values()] == [None] * len(names)
    assert not any(metric.requires_grad for metric in metrics.values())


@pytest.mark.parametrize("function", [fit_on_batch, evaluate_on_batch])
def test_metrics_are_0d_tensors_without_a_graph(model, batch, function):
    seen = []

    def keeps_graph(outputs, targets):
        seen.append(torch.is_grad_enabled())
        return outputs.mean() + targets.sum()

    metrics = {"mean": keeps_graph, "acc": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()}
    optimizer = [sgd(model)] if function is fit_on_batch else []
    result = function(model, *batch, crossentropy_loss, *optimizer, metrics=metrics)
    assert list(result) == ["loss", "mean", "acc"]
    for metric in result.values():
        assert metric.shape == ()
        assert not metric.requires_grad
        assert metric.grad_fn is None
    assert seen == [False]


def test_a_loss_of_one_element_is_returned_as_a_0d_tensor(model, batch):
    def loss_fn(outputs, targets):
        return functional.cross_entropy(outputs, targets).view(1, 1)

    assert fit_on_batch(model, *batch, loss_fn, sgd(model))["loss"].shape == ()
    assert evaluate_on_batch(model, *batch, loss_fn)["loss"].shape == ()


# evaluate_on_batch and predict_on_batch


def test_evaluate_on_batch_gives_loss_and_accuracy_by_default(batch):
    model = nn.Linear(4, 3)
    x, y = batch
    result = evaluate_on_batch(model, x, y)
    outputs = model(x).detach()
    log_loss = sklearn.metrics.log_loss(y, outputs.double().softmax(1), labels=[0, 1, 2])
    assert list(result) == ["loss", "acc"]
    assert result["loss"].item() == pytest.approx(log_loss, rel=1e-5)
    assert result["acc"].item() == pytest.approx(sklearn.metrics.accuracy_score(y, outputs.argmax(1)))


def test_evaluate_on_batch_leaves_the_model_as_it_was(batch):
    model = nn.Linear(4, 3)
    before = copy.deepcopy(model)
    evaluate_on_batch(model, *batch, crossentropy_loss, ["loss", "acc"])
    assert equal(model, before)
    assert model.weight.grad is None


def test_predict_on_batch_is_what_the_model_returns(batch):
    model = nn.Linear(4, 3)
    assert torch.equal(predict_on_batch(model, batch[0]), model(batch[0]))


def test_inputs_may_be_any_object_that_the_model_takes():
    class OfDict(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x["a"])

    model, y = OfDict(), torch.tensor([0, 1])
    assert list(fit_on_batch(model, {"a": torch.ones(2, 4)}, y, crossentropy_loss, sgd(model))) == ["loss", "acc"]
    assert predict_on_batch(model, {"a": torch.ones(2, 4)}).shape == (2, 3)


# Metrics by name and by mapping


def test_metrics_by_name_are_those_asked_for_in_that_order():
    model, x, y = nn.Linear(4, 7), torch.randn(9, 4), torch.randint(7, (9,))
    result = evaluate_on_batch(model, x, y, crossentropy_loss, ["top5", "acc", "loss"])
    assert list(result) == ["top5", "acc", "loss"]
    outputs = model(x).detach()
    assert result["top5"].item() == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(y, outputs, k=5, labels=range(7))
    )
    assert result["top5"] == topk_accuracy(outputs, y)["top5"]
    assert list(evaluate_on_batch(model, x, y, metrics="acc")) == ["acc"]
    assert list(evaluate_on_batch(model, x, y, metrics=(name for name in ["loss"]))) == ["loss"]
    assert evaluate_on_batch(model, x, y, metrics=()) == {}


def test_mse_and_mae_are_those_of_scikit_learn():
    model, x, y = nn.Linear(4, 2), torch.randn(9, 4), torch.randn(9, 2)
    outputs = model(x).detach()
    result = fit_on_batch(model, x, y, functional.mse_loss, sgd(model), ["loss", "mse", "mae"])
    assert result["mse"].item() == pytest.approx(sklearn.metrics.mean_squared_error(y, outputs), rel=1e-5)
    assert result["mae"].item() == pytest.approx(sklearn.metrics.mean_absolute_error(y, outputs), rel=1e-5)
    assert result["loss"] == result["mse"]


def test_a_mapping_gives_metrics_of_ones_own_besides_the_loss(batch):
    model = nn.Linear(4, 3)
    metrics = {"largest": lambda outputs, targets: outputs.max(), "number": lambda outputs, targets: len(targets)}
    result = evaluate_on_batch(model, *batch, crossentropy_loss, metrics)
    assert list(result) == ["loss", "largest", "number"]
    assert result["largest"] == model(batch[0]).max()
    assert result["number"] == 12
    own_loss = evaluate_on_batch(model, *batch, crossentropy_loss, {"loss": lambda outputs, targets: 5.0})
    assert own_loss == {"loss": 5.0}


# Bad input: one error, and the model as it was


def calls(model, x, y, loss_fn=crossentropy_loss, metrics=("loss", "acc")):
    """Both functions, ready to be called with the same arguments."""
    return [
        lambda: fit_on_batch(model, x, y, loss_fn, sgd(model), metrics),
        lambda: evaluate_on_batch(model, x, y, loss_fn, metrics),
    ]


def refused(both, message, model):
    before = copy.deepcopy(model)
    for call in both:
        with pytest.raises(ArgumentError, match=message):
            call()
    assert equal(model, before)


@pytest.mark.parametrize("names", [["loss", "f1"], ["accuracy"], "f1", [torch.nn.functional.mse_loss], [None]])
def test_an_unknown_metric_is_an_error_that_lists_those_there_are(batch, names):
    model = nn.Linear(4, 3)
    refused(
        calls(model, *batch, metrics=names), "(?s)unknown name.*loss, acc, top5, mse, mae.*to do: pass a mapping", model
    )


@pytest.mark.parametrize("metrics", [None, 5, torch.nn.functional.mse_loss])
def test_metrics_that_are_no_names_are_an_error(batch, metrics):
    model = nn.Linear(4, 3)
    refused(calls(model, *batch, metrics=metrics), "(?s)metrics is.*expected: names", model)


def test_a_mapping_without_functions_is_an_error(batch):
    model = nn.Linear(4, 3)
    refused(calls(model, *batch, metrics={"good": max, "bad": "acc"}), r"\['bad'\]", model)


def test_an_unknown_metric_is_seen_before_the_model_is_called(batch):
    def model(x):
        raise RuntimeError("called")

    with pytest.raises(ArgumentError, match="unknown name"):
        evaluate_on_batch(model, *batch, crossentropy_loss, ["f1"])


@pytest.mark.parametrize("wrong", [["loss", "acc"], "loss", None, 1.0])
def test_a_loss_function_that_is_none_is_an_error(batch, wrong):
    model = nn.Linear(4, 3)
    refused(calls(model, *batch, loss_fn=wrong), "(?s)loss_fn is.*expected: a function.*places", model)


def test_loss_function_and_optimizer_in_each_others_place_are_an_error(batch):
    model = nn.Linear(4, 3)
    with pytest.raises(ArgumentError, match="loss_fn is SGD"):
        fit_on_batch(model, *batch, sgd(model), crossentropy_loss)


def test_a_loss_that_is_a_class_is_to_be_made_an_object_of(model, batch):
    with pytest.raises(ArgumentError, match=r"(?s)the class CrossEntropyLoss.*make an object .*CrossEntropyLoss\(\)"):
        evaluate_on_batch(model, *batch, nn.CrossEntropyLoss)


def test_accuracy_with_floating_point_targets_says_what_to_pass():
    model = nn.Linear(4, 3)
    both = calls(model, torch.randn(5, 4), torch.rand(5, 3).softmax(1))
    refused(both, r'(?s)accuracy was given targets of torch\.float32.*long\(\).*"mse"', model)


@pytest.mark.parametrize("metric", ["mse", "mae"])
@pytest.mark.parametrize("shape", [(5,), (5, 2), (1, 5), (1, 1)])
def test_mse_and_mae_never_compare_each_output_with_each_target(metric, shape):
    model = nn.Linear(4, 1)

    def loss_fn(outputs, targets):
        return outputs.mean()

    both = calls(model, torch.randn(5, 4), torch.randn(shape), loss_fn, [metric])
    refused(both, rf"(?s)\(5, 1\).*{str(shape)[1:-1]}.*one shape.*squeeze", model)


@pytest.mark.parametrize("metric", ["acc", "mse", "mae", "top5"])
def test_a_named_metric_of_outputs_that_are_no_tensor_is_an_error(metric):
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    model = Two(4, 6)

    def loss_fn(outputs, targets):
        return outputs[0].mean()

    refused(calls(model, torch.randn(5, 4), torch.zeros(5), loss_fn, [metric]), "outputs that are tuple", model)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"), r"shape \(12,\)"),
        (lambda outputs, targets: functional.cross_entropy(outputs, targets).item(), "loss is float"),
        (lambda outputs, targets: functional.cross_entropy(outputs.detach(), targets), "no graph"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_an_error(batch, loss_fn, message):
    model = nn.Linear(4, 3)
    refused(calls(model, *batch, loss_fn)[:1], message, model)


def test_a_loss_function_may_return_a_number_where_nothing_is_trained(batch):
    assert evaluate_on_batch(nn.Linear(4, 3), *batch, lambda outputs, targets: 2.5, ["loss"]) == {"loss": 2.5}


def test_an_error_in_the_users_own_metric_comes_out_unchanged(batch):
    model = nn.Linear(4, 3)
    before = copy.deepcopy(model)

    def broken(outputs, targets):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit_on_batch(model, *batch, crossentropy_loss, sgd(model), {"broken": broken})
    assert equal(model, before)
