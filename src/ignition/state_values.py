"""Whether the values in a checkpoint's state.json are of the kinds and in the ranges that a training has.

A checksum says that nobody has changed a file since; it says nothing of who has written it. So each value is looked at
before anything of a training is changed.
"""

from __future__ import annotations

import math
import random
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ignition.checkpoint import broken
from ignition.errors import ArgumentError, CheckpointError, IgnitionError
from ignition.position import Position
from ignition.records import scalar

__all__ = [
    "check_decoded",
    "check_gradient",
    "check_memory",
    "check_metrics",
    "check_names",
    "check_order",
    "check_samplers",
    "check_state",
    "is_count",
    "is_number",
    "malformed",
    "telling_of",
]

_LARGEST = 2**53
"""What any reader of JSON can hold exactly; no training counts as far."""


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 0 or more."""
    return type(value) is int and 0 <= value <= _LARGEST


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can be; NaN and infinities are."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def check_memory(owner: object, state: Mapping[str, Any], **kinds: str) -> None:
    """Checks plain values in the state of a callback, for its ``check_state``.

    Args:
        owner: The callback, for messages.
        state: What it is to take back.
        kinds: For each key "boolean", "count", "number", "text", "numbers" or "object"; with " or none" behind it, None
            will do too.

    Raises:
        ArgumentError: If a key is missing, or its value is of another kind.
    """
    for name, words in kinds.items():
        kind = _KINDS[words.removesuffix(" or none")]
        kind = _or_none(kind) if words.endswith(" or none") else kind
        if name not in state or not kind.fits(state[name]):
            found = f"{name}={reprlib.repr(state[name])}" if name in state else f"no {name}"
            raise ArgumentError(f"the state of {owner!r} has {found}", f"{name}: {kind.words}", "use another state")


@contextmanager
def telling_of(place: str, source: str) -> Iterator[None]:
    """Has errors of Ignition's inside the block name the checkpoint, and the place in its state.json."""
    try:
        yield
    except CheckpointError:
        raise
    except IgnitionError as error:
        found, expected, _ = error.args
        raise _with_expected(_broken(source, f"{place} in state.json: {found}"), expected) from error


def malformed(source: str, place: str, value: Any, expected: str) -> CheckpointError:
    """The error that names a value of a checkpoint that is none.

    Args:
        source: The checkpoint.
        place: Where in state.json it is, such as "position.step".
        value: What is there.
        expected: What should be.
    """
    return _with_expected(_broken(source, f"{place} in state.json is {reprlib.repr(value)}"), expected)


def _broken(source: str, what: str) -> CheckpointError:
    """What `ignition.checkpoint.broken` returns, of a checkpoint of which the name is known."""
    return broken(source, what)  # type: ignore[arg-type]  # a name is enough


def _with_expected(error: CheckpointError, expected: str) -> CheckpointError:
    given, _, fix = error.args
    return CheckpointError(given, expected, fix)


class _Kind(NamedTuple):
    words: str
    fits: Callable[[Any], bool]


def _or_none(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is str for one in value)


def _is_dict_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(type(one) is kind for one in value.values())


_ANY = _Kind("anything", lambda value: True)
_NUMBER = _Kind("a number", is_number)
_COUNT = _Kind("a whole number, 0 or more", is_count)
_BOOLEAN = _Kind("true or false", lambda value: type(value) is bool)
_TEXT = _Kind("a text", lambda value: type(value) is str)
_DICT = _Kind("an object", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_SECONDS = _Kind("a finite number, 0 or more", lambda value: is_number(value) and 0 <= value < math.inf)
_UNIT = _Kind("a finite number above 0", lambda value: is_number(value) and 0 < value < math.inf)
_SEED = _Kind("a whole number from 0 to 2**63 - 1", lambda value: type(value) is int and 0 <= value < 2**63)

_OWN = {"loader": _ANY, "means": _DICT, "state": _ANY, "generators": _DICT}  # what each process has
_STATE = {
    "position": _DICT, "fit": _DICT, "open": _BOOLEAN, "pending": _or_none(_DICT), "data": _DICT, "processes": _DICT,
    "order": _DICT, "test_order": _DICT, "unit": _or_none(_UNIT), "seed": _or_none(_SEED), "hyper": _DICT,
    "history": _DICT, "seconds": _SECONDS, "scales": _DICT, "optimizers": _DICT, "callbacks": _DICT, "extra": _DICT,
    "metrics": _DICT, "optimizer_kinds": _Kind("an object of texts", _is_dict_of(str)),
    "trained": _Kind("an object of booleans", _is_dict_of(bool)),
    "gradients": _Kind("a list of names", _is_texts), "frozen": _Kind("a list of names", _is_texts),
    "unset": _Kind("a list of names", _is_texts), **_OWN,
}  # fmt: skip
_POSITION = dict.fromkeys(Position.__slots__, _COUNT)
_DATA = dict.fromkeys(("batches", "samples", "batch_size"), _or_none(_COUNT))
_NO_FIT = {"number": _COUNT, "stop_reason": _or_none(_TEXT)}
_FIT = _NO_FIT | {
    "start_epoch": _COUNT, "start_step": _COUNT, "ended": _BOOLEAN,
    "settings": _Kind("an object of texts", _is_dict_of(str)),
}  # fmt: skip
_FIT_LATER = {  # not in the first checkpoints that were written
    "options": _FIT["settings"], "epochs": _or_none(_COUNT), "steps": _or_none(_COUNT)
}  # fmt: skip
_BEST = {"metric": _TEXT, "value": _NUMBER}
_SCALE = {
    "scale": _UNIT, "growth_factor": _UNIT, "backoff_factor": _UNIT, "growth_interval": _COUNT,
    "_growth_tracker": _COUNT,
}  # fmt: skip
_NUMBERS = _Kind("a list of numbers", lambda value: isinstance(value, list) and all(map(is_number, value)))
_KINDS = {
    "boolean": _BOOLEAN, "count": _COUNT, "number": _NUMBER, "numbers": _NUMBERS, "object": _DICT, "text": _TEXT
}  # fmt: skip


def check_state(state: Mapping[str, Any], source: str) -> None:
    """Checks what can be told of the values alone: their kinds and ranges, and whether they fit one another.

    Raises:
        CheckpointError: If one is none that a training has.
    """
    _check_fields(state, _STATE, "", source)
    position, fit = state["position"], state["fit"]
    _check_fields(position, _POSITION, "position.", source)
    _check_fields(fit, _FIT if fit.get("number") != 0 else _NO_FIT, "fit.", source)
    _check_fields(fit, {name: kind for name, kind in _FIT_LATER.items() if name in fit}, "fit.", source)
    _check_fields(state["data"], _DATA, "data.", source)
    _check_fields(state["processes"], {"others": _LIST}, "processes.", source)
    for index, other in enumerate(state["processes"]["others"]):
        _check_fields(other, _OWN, f"processes.others.{index}.", source)
    if state.get("best") is not None:
        _check_fields(state["best"], _BEST, "best.", source)
    _check_most(position, "skipped", position["step"], "position.", "the steps", source)
    if fit["number"]:
        _check_most(fit, "start_epoch", position["epoch"], "fit.", "the epoch", source)
        _check_most(fit, "start_step", position["step"], "fit.", "the steps", source)
    if state["open"] and not position["epoch"]:
        raise malformed(source, "position.epoch", 0, "1 or more, since an epoch is open")
    if state["pending"] is not None and not state["open"]:
        raise malformed(source, "pending", state["pending"], "null, since no epoch is open")
    _check_history(state["history"], position, source)


def _check_fields(values: Any, kinds: Mapping[str, _Kind], place: str, source: str) -> None:
    if not isinstance(values, dict):
        raise malformed(source, place.rstrip("."), values, _DICT.words)
    for name, kind in kinds.items():
        if name not in values:
            raise _with_expected(_broken(source, f"{place}{name} in state.json is missing"), kind.words)
        if not kind.fits(values[name]):
            raise malformed(source, f"{place}{name}", values[name], kind.words)


def _check_most(values: Mapping[str, Any], name: str, most: int, place: str, what: str, source: str) -> None:
    if values[name] > most:
        raise malformed(source, f"{place}{name}", values[name], f"at most {most}, {what} in position")


def _check_history(history: Mapping[str, Any], position: Mapping[str, int], source: str) -> None:
    """That the next record can come: what else is in a history it checks by itself."""
    records, ended = history.get("records"), history.get("epoch_ended")
    if not isinstance(ended, list) or not all(type(one) is bool for one in ended):
        raise malformed(source, "history.epoch_ended", ended, "a list of booleans")
    last = records[-1] if isinstance(records, list) and records else {}
    # An epoch that was given up after a record of its middle is counted no more.
    for name, most in {"step": position["step"], "epoch": position["epoch"] + 1}.items():
        value: Any = last.get(name, 0) if isinstance(last, dict) else None
        if not is_count(value) or value > most:
            raise malformed(source, f"the last {name} in history", value, f"a whole number of {most} at most")


# What has been decoded


def check_decoded(
    pending: Any, means: Any, scales: Any, loader: Any, generators: Any, optimizers: Iterable[str], source: str
) -> None:
    """Checks what is in a checkpoint as `ignition.codec.encode` writes it, of what the library itself reads.

    Raises:
        CheckpointError: If something in it is none that a training has.
    """
    _check_pending(pending, source)
    _check_means(means, source)
    _check_scales(scales, optimizers, source)
    _check_loader(loader, source)
    _check_generators(generators, source)


def check_gradient(name: str, saved: Tensor | None, parameter: Tensor, source: str) -> None:
    """Checks a gradient that a step is still to use."""
    if saved is not None and saved.shape != parameter.shape:
        raise malformed(source, f"gradient.{name}", saved.shape, f"a gradient of the shape {tuple(parameter.shape)}")


def _check_pending(pending: Any, source: str) -> None:
    """Checks a record that is due."""
    if pending is None:
        return
    _check_fields(pending, {"epoch_ended": _BOOLEAN, "train": _DICT}, "pending.", source)
    for name, value in pending["train"].items():
        if not isinstance(name, str) or not name.startswith("train_") or not is_number(value):
            raise malformed(source, f"pending.train.{name}", value, "a number, under a name that begins with train_")
        scalar(name, value)


def _check_means(means: Any, source: str) -> None:
    """Checks the sums of an epoch: ``{name: [sum, weight]}``, or None for a metric object."""
    if not isinstance(means, dict):
        raise malformed(source, "means", means, "an object")
    for name, entry in means.items():
        fits = entry is None or (isinstance(entry, list) and len(entry) == 2 and all(map(is_number, entry)))
        if not isinstance(name, str) or not fits or (entry is not None and entry[1] < 0):
            raise malformed(source, f"means.{name}", entry, "a sum and a weight of 0 or more, or null")


def _check_scales(scales: Any, optimizers: Iterable[str], source: str) -> None:
    """Checks the scales of the losses."""
    known = {"", *optimizers}
    for name, scale in scales.items() if isinstance(scales, dict) else [("", scales)]:
        if name not in known:
            raise malformed(source, "a name in scales", name, f"the name of an optimizer: {', '.join(known)}")
        _check_fields(scale, _SCALE, f"scales.{name}.", source)


def check_names(names: Iterable[str], known: Iterable[str], place: str, source: str, all_of_them: bool = False) -> None:
    """Checks that names are those of something in the models; with `all_of_them`, that none is missing."""
    names, known = list(names), set(known)
    for name in names:
        if name not in known:
            raise malformed(source, f"a name in {place}", name, "one that the models have")
    missing = sorted(known.difference(names)) if all_of_them else []
    if missing:
        raise _with_expected(_broken(source, f"{place}.{missing[0]} in state.json is missing"), "all of the models'")


def check_metrics(gathered: Any, here: Mapping[str, Mapping[str, Any]], source: str) -> None:
    """Checks what torchmetrics' metrics in the models have gathered.

    Args:
        gathered: By the model's name and the metric's place in it.
        here: The same, of the models that are there now.
        source: The checkpoint.
    """
    check_names(gathered, here, "metrics", source, all_of_them=True)
    for model, metrics in gathered.items():
        place = f"metrics.{model}"
        _check_fields(metrics, {}, f"{place}.", source)
        check_names(metrics, here[model], place, source, all_of_them=True)
        for path, one in metrics.items():
            _check_fields(one, {"values": _DICT, "count": _COUNT}, f"{place}.{path}.", source)
            now = here[model][path]["values"]
            check_names(one["values"], now, f"{place}.{path}.values", source, all_of_them=True)
            for name, value in one["values"].items():
                if not _is_alike(value, now[name]):
                    kind = f"a tensor of {now[name].dtype}" if isinstance(now[name], Tensor) else "a list of tensors"
                    raise malformed(source, f"{place}.{path}.values.{name}", value, f"{kind}, as the metric has it")


def _is_alike(value: Any, now: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, Tensor) for part in parts):
        return False
    if isinstance(value, Tensor) and isinstance(now, Tensor):
        return value.dtype == now.dtype and value.ndim == now.ndim
    return isinstance(now, list)  # what is gathered in a list may be one tensor, once it has been computed


def _check_loader(place: Any, source: str) -> None:
    """Checks the place of a loader that keeps it by itself; what it is made of is the loader's."""
    if place is not None:
        kinds = {"state": _ANY, "generator": _ANY} | ({"ended": _BOOLEAN} if "ended" in place else {})
        _check_fields(place, kinds, "loader.", source)
        if place["generator"] is not None:
            _try(torch.Generator().set_state, place["generator"], "loader.generator", source)


def check_order(order: Any, source: str) -> None:
    """Checks what the order of the epoch follows from; what samplers remember is made of what they like."""
    kinds = {"keyed": _BOOLEAN, "epoch": _COUNT, "memory": _DICT, "now": _DICT, "generators": _or_none(_DICT)}
    _check_fields(order, kinds, "order.", source)
    _check_fields(order["now"], {"given": _COUNT, "digest": _COUNT, "memory": _DICT}, "order.now.", source)
    check_samplers(order["memory"], "order.memory", source)
    check_samplers(order["now"]["memory"], "order.now.memory", source)
    if order["generators"] is not None:
        _check_fields(order["generators"], {"from": _DICT, "until": _DICT}, "order.generators.", source)
        for name, states in order["generators"].items():
            _check_fields(states, {"": _ANY}, f"order.generators.{name}.", source)
            for holder, state in states.items():
                _try(torch.Generator().set_state, state, f"order.generators.{name}.{holder}", source)


def check_samplers(memory: Mapping[str, Any], place: str, source: str) -> None:
    """Checks that there is a value by each name that samplers remember; what it is is theirs."""
    for path, values in memory.items():
        _check_fields(values, {}, f"{place}.{path}.", source)


def _check_generators(states: Any, source: str) -> None:
    """Checks the states of the generators, on others that nobody uses."""
    place = "generators."
    _check_fields(states, dict.fromkeys(("python", "numpy", "torch"), _ANY), place, source)
    _try(random.Random().setstate, states["python"], f"{place}python", source)
    if states["python"][2] is not None and type(states["python"][2]) is not float:
        raise malformed(source, f"{place}python", states["python"][2], "the second of two normal numbers, or null")
    numpy = np.random.RandomState(type(np.random.get_bit_generator())())  # type: ignore[attr-defined]  # not in its stubs
    _try(numpy.set_state, states["numpy"], f"{place}numpy", source)
    if isinstance(states["numpy"], (tuple, list)):
        _check_numpy_place(states["numpy"][2], f"{place}numpy", source)
    _try(torch.Generator().set_state, states["torch"], f"{place}torch", source)
    for name, state in states.items():
        if name == "kept":
            _check_kept(state, source)
        elif name not in ("python", "numpy", "torch"):
            if not isinstance(state, list) or not all(isinstance(one, Tensor) for one in state):
                raise malformed(source, f"{place}{name}", state, "a list of tensors")
            for one in state if _is_available(name) else ():
                _try(torch.Generator(name).set_state, one, f"{place}{name}", source)


def _check_kept(kept: Any, source: str) -> None:
    _check_fields(kept, {}, "generators.kept.", source)
    for place, one in kept.items():
        if not isinstance(place, str) or not isinstance(one, tuple) or len(one) != 2 or not isinstance(one[0], str):
            raise malformed(source, f"generators.kept.{place}", one, "the kind of a generator, and its state")
        inner = one[1].get("state") if isinstance(one[1], dict) else None
        if isinstance(inner, dict) and "pos" in inner:
            _check_numpy_place(inner["pos"], f"generators.kept.{place}", source)


def _check_numpy_place(value: Any, place: str, source: str) -> None:
    """Beyond the words of a Mersenne twister, numpy would read whatever lies there."""
    if not isinstance(value, (int, np.integer)) or not 0 <= value <= 624:
        raise malformed(source, place, value, "a place among the 624 words of the generator")


def _is_available(name: str) -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type == name


def _try(call: Callable[[Any], object], state: Any, place: str, source: str) -> None:
    try:
        call(state)
    except Exception as error:
        raise malformed(source, place, state, "the state of a generator") from error
