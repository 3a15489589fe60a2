"""What a checkpoint holds of a training, and how a training takes it back: all of it, or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ignition import rng
from ignition.checkpoint import Content
from ignition.codec import decode, encode
from ignition.data import length_of
from ignition.errors import CheckpointError
from ignition.modes import is_frozen, set_frozen
from ignition.structure import named, suffix

if TYPE_CHECKING:
    from ignition.callbacks.base import Callback
    from ignition.training import Training

__all__ = ["apply", "capture", "settings_of"]


def capture(training: Training, copy_tensor: Callable[[str, Tensor], Tensor]) -> Content:
    """Everything from which a training can go on as if it had never stopped.

    Args:
        training: Between two steps.
        copy_tensor: ``copy_tensor(name, tensor)``: a copy on the CPU that shares no memory with the training.

    Raises:
        CheckpointError: If there is something in ``trainer.state`` or a callback that a checkpoint cannot hold.
    """
    trainer = training.trainer
    model: dict[str, Tensor] = {}
    optimizers: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, module in named(trainer.model).items():
        for key, value in module.state_dict().items():
            if isinstance(value, Tensor):
                model[_key(name, key)] = value.detach()
            else:  # what a module gives by get_extra_state
                extra[_key(name, key)] = encode(value, others, f"extra.{_key(name, key)}")
        others |= {f"buffer.{_key(name, key)}": buffer for key, buffer in _transient_buffers(module)}
    state = {
        "position": {
            "epoch": training.position.epoch,
            "batch": training.position.batch,
            "step": training.position.step,
            "skipped": training.position.skipped,
        },
        "fit": training.fit,
        "open": training.open_pass is not None,
        "pending": encode(_without_generators(training.pending), others, "pending"),
        "data": _data_size(trainer.train_loader),
        "loader": encode(training.loader_state(), others, "loader"),
        "seed": trainer.seed,
        "hyper": encode(trainer.hyper, others, "hyper"),
        "history": encode(trainer.history.state_dict(), others, "history"),
        "means": encode(training.means.state_dict(), others, "means"),
        "seconds": training.elapsed(),
        "state": encode(trainer.state, others, "state"),
        "scales": encode(training.scales(), others, "scales"),
        "optimizers": {
            name: encode(one.state_dict(), optimizers, f"optimizer{suffix(name)}")
            for name, one in named(trainer.optimizer).items()
        },
        "callbacks": {
            name: encode(callback.state_dict(), others, f"callback.{name}")
            for name, callback in _by_name(trainer.callbacks)
        },
        "extra": extra,
        "trained": {name: parameter.requires_grad for name, parameter in _parameters(trainer.model)},
        "frozen": [name for name, module in _modules(trainer.model) if is_frozen(module)],
        "generators": encode(training.generators(), others, "generators"),
    }
    files = {"model": model, "optimizer": optimizers, "state": others}
    tensors = {
        file: {name: copy_tensor(f"{file}/{name}", tensor) for name, tensor in entries.items()}
        for file, entries in files.items()
    }
    return Content(state, tensors)


def apply(training: Training, content: Content, source: str) -> None:
    """Puts a training where a checkpoint was taken. Everything is checked before anything is changed.

    Args:
        training: Made by the same script.
        content: What `ignition.checkpoint.read` returned; it is not changed, and may be used again.
        source: Where it came from, for messages.

    Raises:
        CheckpointError: If it is a checkpoint of another model, optimizer or data set.
    """
    trainer, state = training.trainer, content.state
    others = content.tensors.get("state", {})
    try:
        _check_model(trainer.model, content, source)
        optimizers = _checked_optimizers(trainer.optimizer, content, source)
        _check_data(trainer.train_loader, state, source)
        generators = decode(state["generators"], others)
        hyper, history = decode(state["hyper"], others), decode(state["history"], others)
        callbacks = _checked_callbacks(trainer.callbacks, state["callbacks"], others)
        scales, loader = decode(state["scales"], others), decode(state["loader"], others)

        for name, module in named(trainer.model).items():
            _load_model(module, name, content, others)
        for name, parameter in _parameters(trainer.model):
            parameter.requires_grad_(state["trained"].get(name, parameter.requires_grad))
        frozen = set(state["frozen"])
        for name, module in _modules(trainer.model):
            set_frozen(module, name in frozen)
        for name, one in named(trainer.optimizer).items():
            _load_optimizer(one, optimizers[name])
        for callback, callback_state in callbacks:
            callback.load_state_dict(callback_state)
        trainer.state = decode(state["state"], others, trainer.state)
        trainer.hyper.clear()
        trainer.hyper.update(hyper)
        trainer.history.load_state_dict(history)
        trainer.seed = state["seed"]
        decoded = {name: decode(state[name], others) for name in ("pending", "means")}
        training.restore(state | decoded, scales, loader)
        rng.restore(generators)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint {source} lacks something that belongs into it ({error!r})") from error


def _without_generators(pending: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A record that is due; the generators from before its evaluation are the checkpoint's own."""
    return None if pending is None else {name: value for name, value in pending.items() if name != "generators"}


def _key(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _modules(models: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, model in named(models).items():
        for path, module in model.named_modules():
            yield _key(name, path), module


def _parameters(models: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name, model in named(models).items():
        for path, parameter in model.named_parameters():
            yield _key(name, path), parameter


def _transient_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that are not in the state dict (``persistent=False``), and yet go on with the training."""
    kept = module.state_dict().keys()
    return ((name, buffer) for name, buffer in module.named_buffers() if name not in kept)


def _by_name(callbacks: list[Callback]) -> Iterator[tuple[str, Callback]]:
    """The callbacks, each under its class's name and its place among those of that class."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        yield f"{name}.{counts[name]}", callback


def _data_size(loader: Any) -> dict[str, int | None]:
    samples = length_of(getattr(loader, "dataset", None))
    return {"batches": length_of(loader), "samples": getattr(loader, "samples", samples)}


def _check_model(models: Any, content: Content, source: str) -> None:
    saved = content.tensors.get("model", {})
    expected = {
        _key(name, key): value
        for name, module in named(models).items()
        for key, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    missing = [name for name in expected if name not in saved]
    unexpected = [name for name in saved if name not in expected]
    misshapen = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in saved and saved[name].shape != value.shape
    ]
    if missing or unexpected or misshapen:
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        raise CheckpointError(
            f"the checkpoint {source} is that of another model ({found})",
            expected="the parameters and buffers of this one",
            fix="make the model as the script did that wrote it, or use another folder; to load a part of the weights "
            "for fine-tuning, use load_weights(model, path, strict=False)",
        )


def _check_data(loader: Any, state: Mapping[str, Any], source: str) -> None:
    now, then = _data_size(loader), state["data"]
    if now != then:
        raise CheckpointError(
            f"the checkpoint {source} was written with a train_loader of {_size(then)}, and now it has {_size(now)}",
            expected="the same data, in batches of the same size, since the place in them is part of the checkpoint",
            fix="use the same loader, or begin anew in another folder with SaveModel's weights",
        )


def _size(size: Mapping[str, Any]) -> str:
    return f"{size['batches']} batches and {size['samples']} samples"


def _checked_optimizers(optimizer: Any, content: Content, source: str) -> dict[str, Any]:
    saved, now = content.state["optimizers"], named(optimizer)
    if saved.keys() != now.keys():
        raise CheckpointError(
            f"the checkpoint {source} is that of the optimizers {list(saved)}, and here are {list(now)}",
            expected="the same optimizers, under the same names",
        )
    states = {name: decode(saved[name], content.tensors.get("optimizer", {})) for name in saved}
    for name, one in now.items():
        groups = [len(group["params"]) for group in states[name].get("param_groups", ())]
        here = [len(group["params"]) for group in getattr(one, "param_groups", ())]
        if groups != here:
            raise CheckpointError(
                f"in the checkpoint {source} {type(one).__name__} has groups of {groups} parameters, here of {here}",
                expected="the same parameter groups as when it was written",
                fix="add them before fit, as the script did",
            )
    return states


def _checked_callbacks(
    callbacks: list[Callback], saved: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[tuple[Callback, dict[str, Any]]]:
    return [(one, decode(saved[name], tensors)) for name, one in _by_name(callbacks) if saved.get(name)]


def _load_model(module: nn.Module, name: str, content: Content, others: Mapping[str, Tensor]) -> None:
    saved, extra = content.tensors.get("model", {}), content.state["extra"]
    state = {
        key: saved[_key(name, key)] if isinstance(value, Tensor) else decode(extra[_key(name, key)], others)
        for key, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    with torch.no_grad():
        for key, buffer in _transient_buffers(module):
            if f"buffer.{_key(name, key)}" in others:
                buffer.copy_(others[f"buffer.{_key(name, key)}"])


def _load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    exact = copy.copy(state.get("state", {}))
    optimizer.load_state_dict(state)
    # torch gives each entry the type of its parameter; one that had another (a master copy in 32 bits) keeps its own.
    parameters = [one for group in getattr(optimizer, "param_groups", ()) for one in group["params"]]
    for index, entries in exact.items():
        if isinstance(index, int) and index < len(parameters):
            loaded = optimizer.state[parameters[index]]
            for key, value in entries.items():
                if (
                    isinstance(value, Tensor)
                    and isinstance(loaded.get(key), Tensor)
                    and loaded[key].dtype != value.dtype
                ):
                    loaded[key] = value.to(loaded[key].device)


def settings_of(trainer: Any) -> dict[str, str]:
    """What a script has set of hyperparameters and optimizers, as words that can be compared with another run's."""
    settings = {name: repr(value) for name, value in trainer.hyper.items()}
    for name, one in named(trainer.optimizer).items():
        for index, group in enumerate(getattr(one, "param_groups", ())):
            for key, value in group.items():
                if key != "params":
                    settings[f"{type(one).__name__}{suffix(name)}, group {index}, {key}"] = repr(value)
    return settings
