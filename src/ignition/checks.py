"""A look before the flight: what mostly goes wrong in a training, tried in seconds, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ignition import distributed
from ignition.check_report import Failed, Outcome, Report, Skipped
from ignition.check_runs import Material
from ignition.data_checks import inputs_in_range, no_shared_samples
from ignition.errors import ArgumentError
from ignition.model_checks import (
    evaluation_changes_nothing,
    first_loss,
    frozen_stay,
    outputs_in_range,
    samples_are_independent,
    trained_change,
)
from ignition.training_checks import batch_can_be_overfitted, loader_keeps_up, resumes_to_the_same_bits
from ignition.trial import everything_restored

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["sanity_checks"]

_CHECKS: dict[str, Callable[[Material], str]] = {
    "inputs are in range": inputs_in_range,
    "outputs are in range": outputs_in_range,
    "the first loss is that of guessing": first_loss,
    "trainable parameters change": trained_change,
    "frozen parameters stay": frozen_stay,
    "evaluation changes nothing": evaluation_changes_nothing,
    "samples do not leak into each other": samples_are_independent,
    "a single batch can be overfitted": batch_can_be_overfitted,
    "training and test data are apart": no_shared_samples,
    "the loader keeps up": loader_keeps_up,
    "a resumed training is the same": resumes_to_the_same_bits,
}


def sanity_checks(trainer: Trainer[Any], checks: Iterable[Callable[[Any], Any]] = ()) -> Report:
    """Tries, in seconds and before a long training, what mostly goes wrong; leaves everything as it was.

    Checked is whether

    - inputs are in range: finite, not all zero, no larger than 100, in the first 8 batches of each loader
    - outputs are in range: finite, no larger than 10,000, in one batch
    - the first loss is that of guessing, near ln(classes), for a classifier that has not been trained
    - trainable parameters change, each of them within 10 steps
    - frozen parameters stay, and so do the buffers of what `freeze` froze, in 3 steps
    - evaluation on two batches changes nothing: parameters, gradients, buffers, generators
    - samples do not leak into each other: in evaluation mode an output has no gradient at another sample's input
    - a single batch can be overfitted: the loss falls to half within 200 steps or 10 s
    - training and test data are apart: by index, and by the bytes of the inputs of up to 5,000 samples each,
      as many as 5 s a loader allow
    - the loader keeps up: no more than a third of the time, or 2 ms a batch, is spent waiting for it
    - a resumed training is the same: three steps from a checkpoint, made twice, end in the same bits

    What cannot be checked, such as an evaluation without an `eval_fn`, is skipped, with the reason. Training is the
    Trainer's own loop, not compiled, without its callbacks but for schedules: nothing is saved or logged. Afterwards,
    in every case, models, optimizers, generators, the place in the data, hyperparameters, history, callbacks and
    ``trainer.state`` are as before, to the bit; the copies meanwhile are on the CPU.

    Args:
        trainer: Between two fits.
        checks: Functions of your own, called with the trainer after those above, and allowed to train it. Each returns
            True or None if all is well; False, or a text that says what is wrong and what to do; or
            ``(passed, text)``. What it raises is a fault too. It is listed by its ``__name__``.

    Returns:
        The report: ``report.passed``, and for each check ``(name, passed, message)``. Printed, it is one line a check.

    Raises:
        ArgumentError: If `trainer` is none or is inside a fit, a check is no function, a loader can be read only once,
            or there are several processes.
        BatchError: If the train loader gives no batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from ignition import TensorLoader, Trainer, crossentropy_loss, fit_on_batch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        >>> def train_fn(model, x, y):
        ...     return fit_on_batch(model, x, y, crossentropy_loss, optimizer)
        >>> x = torch.randn(60, 4)
        >>> trainer = Trainer(model, optimizer, train_fn, TensorLoader(x, x[:, :3].argmax(1), batch_size=10))
        >>> def weights_are_small(trainer):
        ...     return trainer.model.weight.abs().max().item() < 1
        >>> report = sanity_checks(trainer, [weights_are_small])
        >>> report.passed, report[-1]
        (True, Outcome(name='weights_are_small', passed=True, message=''))
    """
    own = _checked(trainer, checks)
    if distributed.world_size() > 1:
        raise ArgumentError(
            f"sanity_checks was called in one of {distributed.world_size()} processes",
            expected="one process, in which it tries things out",
            fix="run the script once with python alone, before torchrun",
        )
    outcomes = []
    with everything_restored(trainer) as begin_again:
        material = Material.of(trainer)
        for name, check in [*_CHECKS.items(), *own]:
            begin_again()
            trainer.compile, trainer.training.compiled = False, trainer.model  # to compile it would take minutes
            outcomes.append(_outcome(name, check, material))
    return Report(outcomes)


def _outcome(name: str, check: Callable[[Material], str], material: Material) -> Outcome:
    try:
        return Outcome(name, True, check(material))
    except Skipped as reason:
        return Outcome(name, True, f"skipped: {reason}")
    except Failed as fault:
        return Outcome(name, False, str(fault))
    except Exception as error:
        return Outcome(name, False, f"it raised {type(error).__name__}: {error}")


def _checked(trainer: Any, checks: Any) -> list[tuple[str, Callable[[Material], str]]]:
    if not hasattr(trainer, "training") or not hasattr(trainer, "train_fn"):
        raise ArgumentError(
            f"sanity_checks was given {type(trainer).__name__}", "a Trainer", "pass it: sanity_checks(trainer)"
        )
    own = list(checks) if isinstance(checks, Iterable) else None  # a generator can be read once
    if own is None or not all(callable(check) for check in own):
        raise ArgumentError(
            "checks= was given " + ("what is no function" if own is not None else type(checks).__name__),
            expected="a list of functions of the trainer",
            fix="write sanity_checks(trainer, checks=[my_check])",
        )
    return [(getattr(check, "__name__", repr(check)), _own(check)) for check in own]


def _own(check: Callable[[Any], Any]) -> Callable[[Material], str]:
    def run(material: Material) -> str:
        found = check(material.trainer)
        passed, message = found if isinstance(found, tuple) else (not isinstance(found, str) and found, "")
        if isinstance(found, str):
            message = found
        if passed is None or passed:
            return str(message)
        raise Failed(str(message) or "it returned False")

    return run
