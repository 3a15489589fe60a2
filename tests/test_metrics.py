import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch

from ignition.errors import ArgumentError
from ignition.metrics import accuracy, topk_accuracy


def random_batch(*shape, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), lambda *target_shape: torch.randint(
        classes, target_shape, generator=generator
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_multi_class_accuracy_is_that_of_scikit_learn(dtype):
    outputs, draw = random_batch(97, 5, classes=5)
    targets = draw(97).to(dtype)
    reference = sklearn.metrics.accuracy_score(targets, outputs.argmax(1))
    assert accuracy(outputs, targets).item() == pytest.approx(reference)


def test_multi_class_accuracy_of_a_dense_prediction_is_the_mean_over_all_places():
    outputs, draw = random_batch(6, 4, 5, 7, classes=4)
    targets = draw(6, 5, 7)
    reference = sklearn.metrics.accuracy_score(targets.flatten(), outputs.argmax(1).flatten())
    assert accuracy(outputs, targets).item() == pytest.approx(reference)


@pytest.mark.parametrize("outputs_shape", [(60,), (60, 1)])
@pytest.mark.parametrize("targets_shape", [(60,), (60, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_binary_accuracy_is_that_of_scikit_learn(outputs_shape, targets_shape, dtype):
    outputs, draw = random_batch(*outputs_shape, classes=2)
    targets = draw(*targets_shape).to(dtype)
    reference = sklearn.metrics.accuracy_score(targets.flatten(), outputs.flatten() > 0)
    assert accuracy(outputs, targets).item() == pytest.approx(reference)


def test_one_logit_for_each_place_is_binary_for_each_place():
    outputs, draw = random_batch(6, 1, 5, 7, classes=2)
    targets = draw(6, 5, 7)
    reference = sklearn.metrics.accuracy_score(targets.flatten(), outputs.flatten() > 0)
    assert accuracy(outputs, targets).item() == pytest.approx(reference)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_multi_label_accuracy_is_the_exact_match_of_scikit_learn(dtype):
    outputs, draw = random_batch(200, 3, classes=2)
    targets = draw(200, 3).to(dtype)
    reference = sklearn.metrics.accuracy_score(targets.long(), (outputs > 0).long())
    assert 0 < reference < 1
    assert accuracy(outputs, targets).item() == pytest.approx(reference)


def test_multi_label_accuracy_with_more_axes_asks_for_all_labels_of_a_sample():
    outputs = torch.tensor([[[1.0, -1.0], [1.0, 1.0]], [[1.0, -1.0], [1.0, 1.0]]])
    targets = torch.tensor([[[1, 0], [1, 1]], [[1, 0], [1, 0]]])
    assert accuracy(outputs, targets).item() == 0.5


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integers_are_predictions_themselves(dtype):
    _, draw = random_batch(0, classes=4)
    predictions, targets = draw(80), draw(80)
    reference = sklearn.metrics.accuracy_score(targets, predictions)
    assert accuracy(predictions.to(dtype), targets).item() == pytest.approx(reference)
    assert accuracy(predictions.to(dtype).unsqueeze(1), targets).item() == pytest.approx(reference)


def test_booleans_are_predictions_themselves():
    probabilities, targets = torch.tensor([0.2, 0.7, 0.4, 0.9]), torch.tensor([0, 1, 1, 1])
    assert accuracy(probabilities > 0.5, targets).item() == 0.75
    assert accuracy(probabilities > 0.5, targets.bool()).item() == 0.75


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2)])
def test_booleans_have_no_largest_class(shape):
    targets = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    with pytest.raises(ArgumentError, match=r"(?s)of torch\.bool.*a number for each class.*pass the logits"):
        accuracy(torch.ones(shape, dtype=torch.bool), targets)


def test_a_logit_of_exactly_0_predicts_0():
    assert accuracy(torch.tensor([0.0, 0.0]), torch.tensor([0, 1])).item() == 0.5


def test_a_class_number_above_1_is_no_positive_label():
    assert accuracy(torch.tensor([5.0, 5.0]), torch.tensor([2, 1])).item() == 0.5
    assert accuracy(torch.tensor([44, 1], dtype=torch.uint8), torch.tensor([300, 1])).item() == 0.5


@pytest.mark.parametrize("shapes", [((0, 3), (0,)), ((0,), (0,)), ((0, 1), (0,)), ((0, 3), (0, 3))])
def test_the_accuracy_of_an_empty_batch_is_nan(shapes):
    outputs, targets = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.long)
    assert accuracy(outputs, targets).isnan()


def test_accuracy_is_a_0d_float_tensor():
    result = accuracy(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.long))
    assert result.shape == ()
    assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_accuracy_with_floating_point_targets_says_what_to_pass(dtype, shape):
    with pytest.raises(ArgumentError, match=r'(?s)targets of torch\.\w+.*long\(\).*"mse"'):
        accuracy(torch.zeros(4, 3), torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ((4, 3), (5,)),
        ((4, 3), (4, 1)),
        ((4, 3), (4, 2)),
        ((4, 3), (3, 4)),
        ((4,), (4, 3)),
        ((4, 3, 5), (4, 3)),
        ((4, 5, 3), (4, 5)),
        ((3,), ()),
        ((), (1,)),
        ((), ()),
        ((4, 3, 2, 2), (4,)),
    ],
)
def test_shapes_that_fit_no_kind_of_accuracy_are_named(outputs, targets):
    with pytest.raises(ArgumentError) as caught:
        accuracy(torch.zeros(outputs), torch.zeros(targets, dtype=torch.long))
    assert f"outputs of shape {outputs} and targets of shape {targets}" in str(caught.value)


@pytest.mark.parametrize("function", [accuracy, topk_accuracy])
@pytest.mark.parametrize(
    ("outputs", "targets", "name"),
    [
        (np.zeros((2, 6)), torch.zeros(2, dtype=torch.long), "outputs that are ndarray"),
        ((torch.zeros(2, 6), None), torch.zeros(2, dtype=torch.long), "outputs that are tuple"),
        (torch.zeros(2, 6), [0, 1], "targets that are list"),
    ],
)
def test_accuracies_are_of_tensors(function, outputs, targets, name):
    with pytest.raises(ArgumentError, match=f"(?s){function.__name__}.*{name}.*expected: a tensor"):
        function(outputs, targets)


@pytest.mark.parametrize("ks", [(1, 5), (5, 1), [1], (2, 3, 7), (3, 3)])
def test_topk_accuracy_is_that_of_scikit_learn(ks):
    outputs, draw = random_batch(83, 7, classes=7)
    targets = draw(83)
    result = topk_accuracy(outputs, targets, ks)
    assert list(result) == list(dict.fromkeys(f"top{k}" for k in ks))
    for k in ks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that k of all classes is always 1
            reference = sklearn.metrics.top_k_accuracy_score(targets, outputs, k=k, labels=range(7))
        assert result[f"top{k}"].item() == pytest.approx(reference)
        assert result[f"top{k}"].shape == ()


def test_top1_is_the_accuracy():
    outputs, draw = random_batch(83, 7, classes=7)
    targets = draw(83)
    assert topk_accuracy(outputs, targets)["top1"] == accuracy(outputs, targets)


def test_topk_accuracy_of_an_empty_batch_is_nan():
    assert topk_accuracy(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))["top5"].isnan()


@pytest.mark.parametrize("ks", [(), (0,), (1, 8), (-1,), (1.0,), (True,), ("1",), "15", 5, None, {1, 5}])
def test_a_k_out_of_range_is_an_error(ks):
    with pytest.raises(ArgumentError, match=r"(?s)ks=.*7 classes.*numbers from 1 to 7"):
        topk_accuracy(torch.zeros(4, 7), torch.zeros(4, dtype=torch.long), ks)


@pytest.mark.parametrize(
    ("outputs", "targets", "dtype"),
    [
        ((4,), (4,), torch.long),
        ((4, 7, 2), (4, 2), torch.long),
        ((4, 7), (5,), torch.long),
        ((4, 7), (4, 1), torch.long),
        ((4, 7), (4, 7), torch.long),
        ((4, 7), (4,), torch.float32),
    ],
)
def test_shapes_that_topk_accuracy_does_not_take_are_named(outputs, targets, dtype):
    with pytest.raises(ArgumentError) as caught:
        topk_accuracy(torch.zeros(outputs), torch.zeros(targets, dtype=dtype))
    for part in (outputs, targets, dtype, "(batch, classes)"):
        assert str(part) in str(caught.value)
