"""evaluate and predict without a Trainer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ignition import evaluate, evaluate_on_batch, predict, predict_on_batch
from ignition.errors import ArgumentError, BatchError, FunctionError, HyperparameterError, MetricError

x, y = torch.randn(21, 4), torch.arange(21) % 3
batches = [(x[start : start + 8], y[start : start + 8]) for start in (0, 8, 16)]


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))


def test_the_means_are_those_over_all_samples(model):
    metrics = evaluate(model, evaluate_on_batch, batches, progress=False)
    outputs = model.eval()(x)
    assert metrics["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, y).item(), abs=1e-6)
    assert metrics["acc"] == pytest.approx((outputs.argmax(1) == y).float().mean().item())


def test_modes_gradients_and_buffers_are_left_as_they_were(model):
    model[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def eval_fn(model, x, y):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"loss": model(x).sum()}

    evaluate(model, eval_fn, batches, progress=False)
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_can_be_turned_on_inside_the_function(model):
    def eval_fn(model, x, y):
        with torch.enable_grad():
            inputs = x.clone().requires_grad_()
            model(inputs).sum().backward()
        return {"sensitivity": inputs.grad.abs().mean()}

    assert evaluate(model, eval_fn, batches, progress=False)["sensitivity"] > 0


def test_max_steps_ends_it_early_and_hyperparameters_reach_the_function_by_name(model):
    seen = []

    def eval_fn(model, x, y, scale=1.0):
        seen.append((len(x), scale))

    evaluate(model, eval_fn, batches, max_steps=2, hyper={"scale": 3.0, "other": 1}, progress=False)
    assert seen == [(8, 3.0), (8, 3.0)]


def test_predictions_are_in_the_order_of_the_data_whatever_their_nesting(model):
    def pred_fn(model, x):
        outputs = model(x)
        return {"logits": outputs, "best": (outputs.argmax(1),)}

    predicted = predict(model, pred_fn, batches)
    expected = model.eval()(x).detach()
    assert torch.allclose(predicted["logits"], expected, atol=1e-6)
    assert torch.equal(predicted["best"][0], expected.argmax(1))
    assert not predicted["logits"].requires_grad
    assert predict(model, predict_on_batch, batches, max_steps=1).shape == (8, 3)


def test_nothing_is_printed_where_there_is_no_terminal(model, capsys):
    evaluate(model, evaluate_on_batch, batches)
    predict(model, predict_on_batch, batches, progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("function", [evaluate, predict])
@pytest.mark.parametrize(
    ("arguments", "settings", "error"),
    [
        (("model", evaluate_on_batch, batches), {}, ArgumentError),
        ((nn.Identity(), batches, evaluate_on_batch), {}, ArgumentError),
        ((nn.Identity(), evaluate_on_batch, 3), {}, ArgumentError),
        ((nn.Identity(), evaluate_on_batch, batches), {"batch_axis": "0"}, ArgumentError),
        ((nn.Identity(), evaluate_on_batch, batches), {"max_steps": 0}, ArgumentError),
        ((nn.Identity(), evaluate_on_batch, batches), {"device": "nowhere"}, ArgumentError),
        ((nn.Identity(), evaluate_on_batch, []), {}, BatchError),
        ((nn.Identity(), lambda model, x, y, z: None, batches), {}, FunctionError),
        ((nn.Identity(), evaluate_on_batch, batches), {"batch_axis": 5}, BatchError),
    ],
)
def test_what_cannot_be_run_is_one_clear_error(function, arguments, settings, error):
    with pytest.raises(error, match=r"(?s)expected: .*to do: "):
        function(*arguments, **settings)


def test_what_a_function_returns_must_be_metrics_or_what_can_be_joined(model):
    with pytest.raises(MetricError, match="shape"):
        evaluate(model, lambda model, x, y: {"loss": model(x)}, batches, progress=False)
    with pytest.raises(FunctionError, match="predict function returned"):
        predict(model, lambda model, x: "text", batches)
    with pytest.raises(HyperparameterError, match="epoch"):
        evaluate(model, lambda model, x, y, epoch=0: None, batches, hyper={"epoch": 1}, progress=False)


def test_a_metric_without_weight_is_nan(model):
    metrics = evaluate(model, lambda model, x, y: {"none": (np.float32(1), 0)}, batches, progress=False)
    assert math.isnan(metrics["none"])
