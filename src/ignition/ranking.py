"""Which of two values of a metric is the better one, and what a metric's name tells about it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from ignition.errors import ArgumentError, kind_of

__all__ = ["Mode", "best_index", "check_mode", "direction", "is_better"]

Mode: TypeAlias = Literal["min", "max"]

_MINIMISED = re.compile(
    r"(loss|error|err|mse|mae|rmse|msle|rmsle|mape|smape|nll|ce|bce|cross_?entropy|log_?loss|perplexity|ppl|bpc|bpd|bpb"
    r"|kl|kld|kl_divergence|wer|cer|eer|fid|ece|brier|regret|neg(ative)?_log_likelihood)\d*"
)
_MAXIMISED = re.compile(
    r"(acc|accuracy|exact_match|f1|fbeta|auc|auroc|auprc|iou|miou|dice|jaccard|precision|prec|recall|sensitivity"
    r"|specificity|ap|map|mrr|ndcg|hits|bleu|rouge|rougel|meteor|psnr|ssim|r2|kappa|mcc|log_likelihood|rewards?|returns?"
    r"|top_?k)\d*|top_?\d+"
)
_QUALIFIER = re.compile(
    r"score|rate|mean|avg|average|macro|micro|weighted|total|at|generator|discriminator|real|fake|student|teacher|\d+|[a-z]"
)


def direction(metric: str) -> Mode | None:
    """Whether less or more of a metric is better, as its name tells: "min", "max", or None where it does not tell.

    What counts is how the name ends: ``val_loss``, ``loss_G`` and ``word_error_rate`` are minimised,
    ``train_acc``, ``top5``, ``f1_macro`` and ``mAP50`` maximised. A name that could mean either has None.

    Raises:
        ArgumentError: `metric` is no string.

    Example:
        >>> direction("val_ema_loss"), direction("top5"), direction("loss_scale")
        ('min', 'max', None)
    """
    if not isinstance(metric, str):
        raise ArgumentError(
            f"a metric is named by {kind_of(metric)}",
            "a string, such as 'val_loss'",
            "pass the name of a column of history as text",
        )
    words = re.findall(r"[a-z0-9]+", metric.lower())
    while words:
        for start in range(len(words)):
            name = "_".join(words[start:])
            mode: Mode | None = "min" if _MINIMISED.fullmatch(name) else "max" if _MAXIMISED.fullmatch(name) else None
            if mode is not None:
                # A negated error is maximised, but the loss on negative samples is not.
                negated = not {"neg", "negative"}.isdisjoint(words[:start])
                return None if negated and not name.startswith(("loss", "acc")) else mode
        if not _QUALIFIER.fullmatch(words.pop()):
            return None
    return None


def check_mode(mode: object) -> None:
    """Refuses what is neither "min" nor "max" with an `ArgumentError`."""
    if mode not in ("min", "max"):
        raise ArgumentError(
            f"mode is {mode!r}", "'min' or 'max'", "pass mode='min' where less is better, and mode='max' where more is"
        )


def is_better(value: float, than: float, mode: Mode) -> bool:
    """Whether `value` is strictly better than another. NaN is never better, and every number is better than NaN.

    Raises:
        ArgumentError: `mode` is neither "min" nor "max".

    Example:
        >>> is_better(0.1, 0.2, "min"), is_better(float("nan"), 0.2, "min"), is_better(0.0, float("nan"), "max")
        (True, False, True)
    """
    check_mode(mode)
    if math.isnan(value):
        return False
    return math.isnan(than) or (value < than if mode == "min" else value > than)


def best_index(values: Sequence[float], mode: Mode) -> int | None:
    """Where the best of some values is: the first of equals, None where all are NaN or there is none.

    Raises:
        ArgumentError: `mode` is neither "min" nor "max".

    Example:
        >>> best_index([float("nan"), 3.0, 1.0, 1.0], "min")
        2
    """
    check_mode(mode)
    best = None
    for index, value in enumerate(values):
        if is_better(value, math.nan if best is None else values[best], mode):
            best = index
    return best
