"""Checks of what a user hands in, each with an error that says what belongs there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import TensorDataset

from ignition.data import length_of
from ignition.errors import ArgumentError, BatchError, kind_of, warn
from ignition.signature import TRAINER_CALL, Signature, check_names
from ignition.structure import named
from ignition.window import UpdateRules

__all__ = [
    "check_batch_axis",
    "check_compile",
    "check_count",
    "check_evaluation",
    "check_hyper",
    "check_idle",
    "check_loader",
    "check_measurable",
    "check_model",
    "check_model_and_optimizer",
    "check_not_empty",
    "check_optimizer",
    "check_parts",
    "check_rules",
    "checked_hyper",
]

_ORDER = f"check the order: {TRAINER_CALL}"


def check_model(model: Any, fix: str = _ORDER) -> None:
    """Raises ArgumentError if `model` is no module and no structure of modules; `fix` is what to do then."""
    modules = named(model)
    if not modules or not all(isinstance(module, nn.Module) for module in modules.values()):
        raise ArgumentError(
            f"model is {_what(model)}", expected="an nn.Module, or a list, tuple or dict of them", fix=fix
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises ArgumentError if `optimizer` is neither None nor something that takes steps, or a structure of those."""
    for name, one in named(optimizer).items():
        if isinstance(one, (type, nn.Module, LRScheduler)) or not callable(getattr(one, "step", None)):
            raise ArgumentError(
                f"optimizer{f'[{name}]' if name else ''} is {_what(one)}",
                expected="a torch.optim.Optimizer, a list, tuple or dict of them, or None",
                fix=f"make one: {one.__name__}(model.parameters(), ...)" if isinstance(one, type) else _ORDER,
            )


def check_model_and_optimizer(model: Any, optimizer: Any) -> None:
    """Checks what the Trainer is made of, in the name of the line that makes it.

    Raises ArgumentError as `check_model` and `check_optimizer` do. Warns where an optimizer trains what belongs to none
    of the models: it may be a stale one, or a module may have been left out.
    """
    check_model(model)
    check_optimizer(optimizer)
    known = {id(one) for module in named(model).values() for one in (*module.parameters(), *module.buffers())}
    for name, one in named(optimizer).items():
        if not isinstance(one, Optimizer):
            continue
        every = [
            (parameter, label)
            for group in one.param_groups
            for parameter, label in zip(group["params"], group.get("param_names") or repeat(""), strict=False)
        ]
        strange = [
            f"{label} {tuple(parameter.shape)}".strip() for parameter, label in every if id(parameter) not in known
        ]
        if strange:
            listed = ", ".join(strange[:10]) + (", ..." if len(strange) > 10 else "")
            warn(
                f"{type(one).__name__}{f' {name!r}' if name else ''} trains {len(strange)} of its {len(every)} "
                f"parameters that are not the model's (shapes: {listed}); they are neither moved nor saved; give the "
                'Trainer every module that is trained, such as {"model": model, "loss": loss_module}, or make the '
                "optimizer anew where it was made for another model (in a notebook: run that cell again)"
            )


def check_parts(
    model: Any, optimizer: Any, train_fn: Any, train_loader: Any, eval_fn: Any, test_loader: Any, batch_axis: Any
) -> None:
    """Raises ArgumentError if something that a Trainer is made of is wrong."""
    check_model_and_optimizer(model, optimizer)
    Signature(train_fn, "train_fn")
    check_loader(train_loader, "train_loader")
    check_evaluation(eval_fn, test_loader)
    check_batch_axis(batch_axis)


def check_loader(loader: Any, name: str, fix: str = _ORDER) -> None:
    """Raises ArgumentError if `loader` is nothing that gives batches; `fix` is what to do then."""
    iterable = isinstance(loader, Iterable) or hasattr(loader, "__getitem__")
    unbatched = isinstance(loader, (torch.Tensor, TensorDataset))
    if not iterable or unbatched or isinstance(loader, (str, bytes, type, nn.Module, Optimizer)):
        raise ArgumentError(
            f"{name} is {_what(loader)}",
            expected="an iterable of batches: a DataLoader, a list of batches, a generator, ...",
            fix="put it into batches with a DataLoader" if unbatched else fix,
        )


def check_not_empty(loader: Any, name: str) -> None:
    """Raises BatchError if `loader` knows that it has no batch."""
    if length_of(loader) == 0:
        raise BatchError(
            f"{name} is empty",
            expected="at least one batch",
            fix="see whether the data set is empty, or drop_last leaves nothing of it",
        )


def check_evaluation(eval_fn: Any, test_loader: Any) -> None:
    """Raises ArgumentError if one of the two is wrong, or comes without the other."""
    if eval_fn is not None:
        Signature(eval_fn, "eval_fn")
    if test_loader is not None:
        check_loader(test_loader, "test_loader")
    if (eval_fn is None) is not (test_loader is None):
        given = "a test_loader and no eval_fn" if eval_fn is None else "an eval_fn and no test_loader"
        raise ArgumentError(f"there is {given}", expected="both, or neither", fix=_ORDER)


def checked_hyper(hyper: Any) -> dict[str, Any]:
    """A copy of ``trainer.hyper`` as it is set. Raises as `check_hyper` and `check_names` do."""
    check_hyper(hyper, "trainer.hyper")
    check_names(hyper)
    return dict(hyper)


def check_idle(is_fitting: bool, call: str) -> None:
    """Raises ArgumentError if a Trainer trains; `call` is what cannot be called then."""
    if is_fitting:
        raise ArgumentError(
            f"{call} was called inside a fit", "a Trainer that is not training", f"call {call} before fit, or after it"
        )


def check_measurable(eval_signature: Signature | None, loader: Any, max_steps: Any) -> None:
    """Raises ArgumentError if a Trainer cannot evaluate on `loader`."""
    if eval_signature is None or loader is None:
        raise ArgumentError(
            f"this Trainer has no {'eval_fn' if eval_signature is None else 'test_loader'}",
            expected="an eval_fn and a loader",
            fix=f"make it with {TRAINER_CALL}, or call evaluate(model, eval_fn, loader)",
        )
    check_loader(loader, "loader", "check the order: trainer.evaluate(loader)")
    check_count(max_steps, "max_steps")


def check_hyper(hyper: Any, name: str) -> None:
    """Raises ArgumentError if `hyper` is no mapping."""
    if not isinstance(hyper, Mapping):
        raise ArgumentError(
            f"{name} is {_what(hyper)}",
            expected="a dict of hyperparameters by name",
            fix=f'for example {name} = {{"lambd": 4.0}}',
        )


def check_count(count: Any, name: str) -> None:
    """Raises ArgumentError if `count` is neither None nor an integer of 1 or more."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
        raise ArgumentError(
            f"{name}={count!r}", expected="an integer of 1 or more", fix=f"pass one, such as {name}=10, or leave it out"
        )


def check_batch_axis(batch_axis: Any) -> None:
    """Raises ArgumentError if `batch_axis` is no integer."""
    if isinstance(batch_axis, bool) or not isinstance(batch_axis, Integral):
        raise ArgumentError(
            f"batch_axis={batch_axis!r}",
            expected="an integer: the axis along which the samples of a batch lie",
            fix="leave it out for batches of shape (batch, ...), and pass batch_axis=1 for (time, batch, ...)",
        )


def check_compile(compile: Any) -> bool | str | Mapping[str, Any]:
    """What `compile` says. Raises ArgumentError if it is no boolean, mapping of options or "step"."""
    if isinstance(compile, (bool, Mapping)) or compile == "step":
        return compile  # type: ignore[no-any-return]
    raise ArgumentError(
        f"compile={compile!r}",
        expected='True, False, "step", or a dict of options of torch.compile',
        fix='for example compile=True, or compile={"mode": "max-autotune"}',
    )


def check_rules(accumulate: Any, clip_norm: Any, precision: str) -> UpdateRules:
    """How steps are taken. Raises ArgumentError if `accumulate` or `clip_norm` is out of range."""
    if accumulate is None:
        raise ArgumentError("accumulate=None", expected="an integer of 1 or more", fix="leave it out, or pass 1")
    check_count(accumulate, "accumulate")
    if clip_norm is not None and (
        isinstance(clip_norm, bool) or not isinstance(clip_norm, (int, float)) or not 0 < clip_norm < float("inf")
    ):
        raise ArgumentError(
            f"clip_norm={clip_norm!r}", expected="a finite number above 0, or None", fix="clip_norm=1.0"
        )
    return UpdateRules(accumulate, clip_norm, scaled=precision == "fp16")


def _what(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, (list, tuple, dict)):
        items = named(value).values()
        return f"{kind_of(value)} of {', '.join(sorted({type(item).__name__ for item in items})) or 'nothing'}"
    return f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)
