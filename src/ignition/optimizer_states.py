"""The states of optimizers: saved, checked, and loaded as exactly as they were saved.

`torch.optim.Optimizer.load_state_dict` looks at the number of parameters alone. A state that lacks something, or has it
in another shape, would be found by the next step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ignition.checkpoint import Content
from ignition.codec import encode
from ignition.matching import are_usual, check_dense
from ignition.plain_copy import plain_copy
from ignition.state_values import is_count, is_number, malformed
from ignition.structure import suffix

__all__ = ["SavedOptimizers", "check_optimizer_state", "load_optimizer_state"]

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_NEEDED = {
    "ASGD": {"step", "eta", "mu", "ax"},
    "Adadelta": {"step", "square_avg", "acc_delta"},
    "Adagrad": {"step", "sum"},
    "Adam": _MOMENTS,
    "AdamW": _MOMENTS,
    "Adamax": {"step", "exp_avg", "exp_inf"},
    "Muon": {"momentum_buffer"},
    "NAdam": {*_MOMENTS, "mu_product"},
    "RAdam": _MOMENTS,
    "RMSprop": {"step", "square_avg"},
    "Rprop": {"step", "prev", "step_size"},
    "SparseAdam": _MOMENTS,
}
"""What torch's optimizers cannot do without, once a parameter has been stepped."""

_OPTIONAL = {
    "amsgrad": {"max_exp_avg_sq"},
    "centered": {"grad_avg"},
    "momentum": {"momentum_buffer"},
}
"""What else they need where a group has an option on; SGD makes its buffer anew."""

_WORDS = {
    "line_search_fn": (None, "strong_wolfe"),
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
}
"""What words torch's optimizers take."""

_SCALARS = {"step", "eta", "mu", "mu_product"}


class SavedOptimizers:
    """The states of optimizers; while the training waits they are encoded only where that cannot be done after it.

    Attributes:
        encoded: What `encode` makes of them, by name; None if that can wait, since all is plain.
        tensors: Those in them, by the names that they have in the file; if it can wait, by their places.
    """

    def __init__(self, optimizers: Mapping[str, Any], is_sharded: bool) -> None:
        self.encoded: dict[str, Any] | None = None
        self._plain: dict[int, Tensor] = {}
        self._states: dict[str, Callable[[], Any]] = {}
        try:
            self._states = {name: _kept(one, self._plain) for name, one in optimizers.items()}
            can_wait = not is_sharded and are_usual(self._plain.values())
        except (TypeError, RecursionError):
            can_wait = False
        self.tensors = {str(place): tensor for place, tensor in enumerate(self._plain.values())}
        if not can_wait:
            states = {name: one.state_dict() for name, one in optimizers.items()}
            self.encoded, self.tensors = _encoded_optimizers(states)

    def complete(self, content: Content) -> None:
        """Gives a content that has copies of the tensors the names, and all else that is in the states."""
        content.state["optimizers"], tensors = _encoded_optimizers(
            {name: state() for name, state in self._states.items()}
        )
        copies = dict(zip(self._plain, content.tensors["optimizer"].values(), strict=True))
        content.tensors["optimizer"] = {name: copies[id(tensor)] for name, tensor in tensors.items()}


def check_optimizer_state(
    optimizer: Any, state: Any, name: str, source: str, to_be: Mapping[Any, Tensor] = MappingProxyType({})
) -> None:
    """Checks that `load_state_dict` of an optimizer can take a state, and that its next step can use it.

    What is in the state of a parameter is known of torch's own optimizers; of others their groups alone are looked at.

    Args:
        optimizer: The one that is there now; it is not changed.
        state: What it is to take.
        name: Its name in the Trainer.
        source: The checkpoint, for messages.
        to_be: For each lazy parameter, which has no shape yet, the one that it will become.

    Raises:
        CheckpointError: If something is missing, or of another kind or shape.
    """
    if not isinstance(optimizer, torch.optim.Optimizer) or not _loads_as_torch_does(optimizer):
        return
    place = f"optimizers.{name}" if name else "optimizers"
    for part, wanted in (("state", dict), ("param_groups", list)):
        if not isinstance(state, dict) or not isinstance(state.get(part), wanted):
            raise malformed(source, place, state, f"the state of an optimizer, with its {part}")
    numbers = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    for index, (group, saved) in enumerate(zip(optimizer.param_groups, state["param_groups"], strict=True)):
        where = f"{place}.param_groups.{index}"
        if not isinstance(saved, dict) or saved.get("params") != numbers[index]:
            raise malformed(source, f"{where}.params", saved, f"the numbers of its parameters: {numbers[index]}")
        _check_options(group, saved, optimizer.defaults, where, source)
    parameters = [(to_be.get(one, one), group) for group in optimizer.param_groups for one in group["params"]]
    groups = [saved for saved in state["param_groups"] for _ in saved["params"]]
    for key, entries in state["state"].items():
        where = f"{place}.state.{key}"
        if type(key) is int and not 0 <= key < len(parameters):
            raise malformed(source, where, entries, f"the state of one of {len(parameters)} parameters")
        if type(key) is int and not isinstance(entries, dict):
            raise malformed(source, where, entries, "an object")
    if type(optimizer).__module__.split(".")[0] == "torch":
        kind = type(optimizer).__name__
        for key, entries in state["state"].items():
            where = f"{place}.state.{key}"
            if type(key) is not int:
                raise malformed(source, f"{place}.state", key, "the numbers of parameters")
            if kind == "LBFGS":
                if not is_count(groups[0].get("history_size")):
                    expected = "a whole number, 0 or more"
                    raise malformed(source, f"{place}.history_size", groups[0].get("history_size"), expected)
                _check_lbfgs(
                    entries,
                    groups[0]["history_size"],
                    sum(one.numel() * (1 + one.is_complex()) for one, _ in parameters),
                    where,
                    source,
                )
            elif entries:
                _check_entries(kind, entries, parameters[key][0], groups[key], where, source)


def load_optimizer_state(optimizer: Any, state: dict[str, Any], is_sharded: bool) -> None:
    """Gives an optimizer its state, with the types in which it was saved.

    Args:
        optimizer: Anything with ``load_state_dict``.
        state: Of whole tensors of its own, for it keeps them.
        is_sharded: Whether its parameters are sharded now.
    """
    if is_sharded:
        from ignition.fsdp import shard_optimizer_state

        state = shard_optimizer_state(optimizer, state)
    exact = copy.copy(state.get("state", {}))
    before = [dict(group) for group in getattr(optimizer, "param_groups", ())]
    optimizer.load_state_dict(state)
    for group, was in zip(getattr(optimizer, "param_groups", ()), before, strict=False):
        for key, value in was.items():  # what a scheduler put there that is new in the script
            group.setdefault(key, value)
    # torch gives each entry the type of its parameter; one that had another (a master copy in 32 bits) keeps its own.
    parameters = [one for group in getattr(optimizer, "param_groups", ()) for one in group["params"]]
    for index, entries in exact.items():
        if isinstance(index, int) and index < len(parameters):
            loaded = optimizer.state[parameters[index]]
            for key, value in entries.items():
                if key in loaded:
                    loaded[key] = _as_saved(value, loaded[key])


def _kept(optimizer: Any, tensors: dict[int, Tensor]) -> Callable[[], Any]:
    """What returns the state of an optimizer as it is now, also when it has gone on; its tensors are not copied.

    Args:
        optimizer: Anything with ``state_dict``.
        tensors: Receives the tensors in its state, by their ids.

    Raises:
        TypeError: If there is anything in it but plain values.
    """
    if not isinstance(optimizer, torch.optim.Optimizer) or not _saves_as_torch_does(optimizer):
        state = plain_copy(optimizer.state_dict(), tensors)
        return lambda: state
    # torch's own takes twice as long to pack the state as to copy what it packs: that can be done later.
    parameters, entries = [*optimizer.state], plain_copy([*optimizer.state.values()], tensors)
    groups = [
        {key: [*value] if key == "params" else plain_copy(value, tensors) for key, value in group.items()}
        for group in optimizer.param_groups
    ]

    def packed() -> Any:
        then = torch.optim.Optimizer.__new__(torch.optim.Optimizer)
        state = dict(zip(parameters, entries, strict=True))
        then.__setstate__({"defaults": {}, "state": state, "param_groups": groups})
        return then.state_dict()

    return packed


def _encoded_optimizers(states: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    encoded = {name: encode(state, tensors, f"optimizer{suffix(name)}") for name, state in states.items()}
    check_dense(tensors)
    return encoded, tensors


def _as_saved(saved: Any, loaded: Any) -> Any:
    """What was saved, where torch has loaded it to."""
    if isinstance(saved, Tensor):
        if not isinstance(loaded, Tensor):
            return saved
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict) and isinstance(loaded, dict):
        return {key: _as_saved(value, loaded.get(key)) for key, value in saved.items()}
    if isinstance(saved, (list, tuple)) and isinstance(loaded, type(saved)) and len(saved) == len(loaded):
        return type(saved)(_as_saved(one, now) for one, now in zip(saved, loaded, strict=True))
    return saved


def _saves_as_torch_does(optimizer: torch.optim.Optimizer) -> bool:
    own = vars(optimizer)
    return (
        type(optimizer).state_dict is torch.optim.Optimizer.state_dict
        and "state_dict" not in own
        and not own.get("_optimizer_state_dict_pre_hooks")
        and not own.get("_optimizer_state_dict_post_hooks")
    )


def _loads_as_torch_does(optimizer: torch.optim.Optimizer) -> bool:
    plain, own = torch.optim.Optimizer, type(optimizer)
    return own.state_dict is plain.state_dict and own.load_state_dict is plain.load_state_dict


def _check_options(
    group: Mapping[str, Any], saved: Mapping[str, Any], defaults: Mapping[str, Any], place: str, source: str
) -> None:
    """Those that are numbers must be there: what torch has come to have since, it fills in, and these are switches."""
    for key, now in group.items():
        if key == "params":
            continue
        if key not in saved:
            if key in defaults and isinstance(now, (int, float, tuple, Tensor)) and not isinstance(now, bool):
                raise malformed(source, place, saved, f"its options, and {key} among them")
        elif not _is_of_kind(saved[key], now):
            raise malformed(source, f"{place}.{key}", saved[key], f"a value such as {now!r}")
        elif key in _WORDS and saved[key] not in _WORDS[key]:
            raise malformed(source, f"{place}.{key}", saved[key], f"one of {', '.join(map(repr, _WORDS[key]))}")
        elif key == "betas" and not all(0 <= float(beta) < 1 for beta in saved[key]):
            raise malformed(source, f"{place}.{key}", saved[key], "numbers from 0 to below 1")


def _is_of_kind(value: Any, now: Any) -> bool:
    if now is None or isinstance(now, (bool, str)):  # an option that is off is None; a script may have changed it
        return value is None or isinstance(value, type(now)) or (now is None and _is_plain(value))
    if _is_scalar(now):
        return _is_scalar(value)
    if isinstance(now, (tuple, list)):
        alike = isinstance(value, type(now)) and len(value) == len(now)
        return alike and all(_is_of_kind(one, here) for one, here in zip(value, now, strict=True))
    return isinstance(value, type(now))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, str)) or _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return is_number(value) or (isinstance(value, Tensor) and value.numel() == 1)


def _check_entries(
    kind: str, entries: Mapping[str, Any], parameter: Tensor, group: Mapping[str, Any], place: str, source: str
) -> None:
    needed = set(_NEEDED.get(kind, ()))
    if kind != "SGD":
        for option, keys in _OPTIONAL.items():
            needed |= keys if group.get(option) else set()
    if kind == "Adafactor":
        needed = {"step", *(("row_var", "col_var") if parameter.ndim > 1 else ("variance",))}
    for key in sorted(needed):
        if key not in entries:
            raise malformed(source, place, sorted(map(str, entries)), f"the memory of {kind}, and {key} in it")
    for key, value in entries.items():
        if key in _SCALARS:
            fits = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
            if kind == "SparseAdam":  # which counts by itself
                fits = is_count(value)
            if not fits or (key == "step" and not 0 <= float(value) < math.inf):
                raise malformed(source, f"{place}.{key}", _described(value), "a number of 0 or more, as a tensor")
        elif key in needed or isinstance(value, Tensor):
            shape = _shape_of(key, parameter)
            if not isinstance(value, Tensor) or value.shape != shape or not _can_be_of(value, parameter):
                expected = f"a tensor of the shape {tuple(shape)} and the type {parameter.dtype}"
                raise malformed(source, f"{place}.{key}", _described(value), expected)
        elif value is not None:
            raise malformed(source, f"{place}.{key}", value, "a tensor, or null")


def _shape_of(key: Any, parameter: Tensor) -> torch.Size:
    """That of the parameter, but of Adafactor's sums over rows and columns."""
    shape = list(parameter.shape)
    if key == "row_var":
        shape[-1] = 1
    elif key == "col_var":
        shape[-2] = 1
    return torch.Size(shape)


def _can_be_of(value: Tensor, parameter: Tensor) -> bool:
    """Whether arithmetic with the parameter can use it: a wider one serves for 16 bits."""
    return value.dtype == parameter.dtype or (parameter.element_size() < 4 and value.dtype == torch.float32)


def _described(value: Any) -> Any:
    return f"a tensor of {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else value


def _check_lbfgs(entries: Mapping[str, Any], history: int, size: int, place: str, source: str) -> None:
    """Its memory is that of all parameters in one row."""

    def fits(value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == (size,) and value.is_floating_point()

    done = entries.get("n_iter", 0)
    for key in ("func_evals", "n_iter"):
        if not is_count(entries.get(key, 0)):
            raise malformed(source, f"{place}.{key}", entries[key], "a whole number, 0 or more")
    for key in ("d", "prev_flat_grad"):
        if done and not fits(entries.get(key)):
            expected = f"a tensor of {size} numbers"
            raise malformed(source, f"{place}.{key}", _described(entries.get(key)), expected)
    for key in ("t", "prev_loss", "H_diag"):
        if done and not _is_scalar(entries.get(key)):
            raise malformed(source, f"{place}.{key}", entries.get(key), "a number")
    lists = [entries.get(key) for key in ("old_dirs", "old_stps", "ro")]
    for key, value in zip(("old_dirs", "old_stps", "ro"), lists, strict=True):
        whole = isinstance(value, list) and all(_is_scalar(one) if key == "ro" else fits(one) for one in value)
        if done and not (whole and len(value or ()) == len(lists[0] or ())):
            raise malformed(source, f"{place}.{key}", value, "a list, as long as old_dirs")
    al = entries.get("al")
    whole = isinstance(al, list) and len(al) == history and all(one is None or _is_scalar(one) for one in al)
    if "al" in entries and not whole:
        raise malformed(source, f"{place}.al", al, f"a list of {history} numbers")
