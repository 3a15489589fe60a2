import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignition.errors import ArgumentError
from ignition.ranking import best_index, check_mode, direction, is_better

NAN = float("nan")


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "train_loss",
        "val_loss",
        "val_ema_loss",
        "val_kd_loss",
        "loss_G",
        "val_loss_discriminator",
        "loss_2",
        "mse",
        "val_mae",
        "rmse",
        "error",
        "top5_error",
        "val_mean_squared_error",
        "word_error_rate",
        "perplexity",
        "cross_entropy",
        "nll",
        "negative_log_likelihood",
        "brier_score",
        "neg_loss",
        "acc_loss",
        "log_loss",
    ],
)
def test_what_is_a_loss_or_an_error_is_minimised(name):
    assert direction(name) == "min"


@pytest.mark.parametrize(
    "name",
    [
        "acc",
        "val_acc",
        "val_ema_acc",
        "accuracy",
        "balanced_accuracy",
        "top1",
        "val_top5",
        "top_5",
        "topk",
        "top5_acc",
        "acc@5",
        "recall@10",
        "f1",
        "f1_score",
        "val_f1_macro",
        "roc_auc",
        "mean_iou",
        "precision",
        "recall",
        "mAP50",
        "log_likelihood",
        "neg_acc",
        "train_reward",
    ],
)
def test_what_counts_right_answers_is_maximised(name):
    assert direction(name) == "max"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lr",
        "epoch",
        "lambd",
        "grad_norm",
        "val_score",
        "loss_scale",
        "entropy",
        "val_",
        "top",
        "laptop5",
        "glossary",
        "neg_mean_squared_error",
        "temperature",
        "accept_rate",
        "—",
    ],
)
def test_a_name_that_could_mean_either_has_no_direction(name):
    assert direction(name) is None


@pytest.mark.parametrize("name", [None, 3, b"loss"])
def test_a_metric_that_is_no_string_is_refused(name):
    with pytest.raises(ArgumentError, match="a string"):
        direction(name)


@pytest.mark.parametrize(
    ("value", "than", "mode", "answer"),
    [
        (1.0, 2.0, "min", True),
        (1.0, 2.0, "max", False),
        (2.0, 2.0, "min", False),
        (2.0, 2.0, "max", False),
        (0.0, 0.1, "min", True),
        (NAN, 2.0, "min", False),
        (NAN, NAN, "max", False),
        (2.0, NAN, "min", True),
        (0.0, NAN, "max", True),
        (math.inf, 5.0, "max", True),
        (math.inf, 5.0, "min", False),
    ],
)
def test_better_is_strictly_better_and_nan_never_is(value, than, mode, answer):
    assert is_better(value, than, mode) is answer


@pytest.mark.parametrize("mode", ["best", "", None, "MIN"])
def test_a_mode_is_min_or_max(mode):
    for call in (lambda: is_better(1.0, 2.0, mode), lambda: best_index([], mode), lambda: check_mode(mode)):
        with pytest.raises(ArgumentError, match="'min' or 'max'"):
            call()


@given(st.lists(st.floats() | st.sampled_from([0.0, 1.0, NAN])), st.sampled_from(["min", "max"]))
def test_the_best_of_many_is_what_a_plain_min_or_max_finds(values, mode):
    present = [value for value in values if value == value]
    found = best_index(values, mode)
    if not present:
        assert found is None
    else:
        assert found == values.index({"min": min, "max": max}[mode](present))
