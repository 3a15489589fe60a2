"""What a checkpoint holds of a training, and how a training takes it back: all of it, or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ignition import distributed
from ignition.checkpoint import Content
from ignition.codec import decode, encode, give_back, plain_copy
from ignition.data import can_shift
from ignition.errors import CheckpointError
from ignition.gathered_metrics import metric_of, restore_metrics
from ignition.matching import check_data, check_model, check_tensor, checked_optimizers, data_size, is_usual, key_in
from ignition.modes import is_frozen, set_frozen
from ignition.position import Position
from ignition.process_state import gathered, generators_from, means_from, moved_position, own_part, parts_in
from ignition.strategy import as_sharded
from ignition.structure import by_class, named, suffix

if TYPE_CHECKING:
    from ignition.callbacks.base import Callback
    from ignition.training import Training

__all__ = ["apply", "capture", "settings_of"]


def capture(
    training: Training,
    copy_tensors: Callable[[str, dict[str, Tensor]], dict[str, Tensor]],
    at_once: bool = True,
) -> Content | None:
    """Everything from which a training can go on as if it had never stopped.

    Of many processes the first one gets it, and the others None, or their parts of what is sharded; all of them are
    waited for.

    Args:
        training: Between two steps.
        copy_tensors: ``copy_tensors(file, tensors)``: the tensors on the CPU; copies that share no memory with the
            training if that goes on before the content is written.
        at_once: False leaves to `Content.complete` what can be worked out while the training goes on.

    Raises:
        CheckpointError: If there is something in the models, ``trainer.state`` or a callback that a checkpoint
            cannot hold.
    """
    trainer = training.trainer
    training.processes.reshard()
    own_tensors: dict[str, Tensor] = {}
    number, generators = distributed.rank(), _generators(training)
    own = {
        "loader": training.epoch_start.place(trainer.train_loader),
        "means": training.means.state_dict(),
        "state": trainer.state,
    }
    if distributed.world_size() > 1:  # else that can wait, since nobody changes them
        own["generators"] = generators
    mine = {
        name: encode(value, own_tensors, f"process{number}.{name}" if number else name, exact=name == "state")
        for name, value in own.items()
    }
    shared, is_sharded = gathered(mine, own_tensors), training.processes.sharded is not None
    if shared is None and not is_sharded:
        return None
    theirs, their_tensors = shared or ([], {})
    model: dict[str, Tensor] = {}
    optimizers = _Optimizers({name: one.state_dict() for name, one in named(trainer.optimizer).items()}, is_sharded)
    others: dict[str, Tensor] = {**own_tensors, **their_tensors}
    extra: dict[str, Any] = {}
    for name, module in named(trainer.model).items():
        kept = module.state_dict()
        for key, value in kept.items():
            if isinstance(value, Tensor):
                check_tensor(key_in(name, key), value)
                model[key_in(name, key)] = value.detach() if value.requires_grad else value
            else:  # what a module gives by get_extra_state
                extra[key_in(name, key)] = encode(value, others, f"extra.{key_in(name, key)}")
    metrics, buffers, parameters, frozen = _parts_of(trainer.model)
    gradients, unused = training.unused_gradients.of(parameters.items())
    others |= {f"buffer.{name}": one for name, one in buffers.items() if name not in model}
    others |= {f"gradient.{name}": one for name, one in unused.items()}
    state = {
        "position": {name: getattr(training.position, name) for name in Position.__slots__},
        "fit": training.fit | {"stop_reason": trainer.stop_reason},
        "open": training.open_pass is not None,
        "pending": encode(_without_generators(training.pending), others, "pending"),
        "data": data_size(trainer.train_loader),
        "order": training.epoch_start.state(trainer.train_loader, training.epoch_is_read, others),
        "processes": {"others": theirs},
        "unit": training.processes.unit,
        "seed": trainer.seed,
        "hyper": encode(trainer.hyper, others, "hyper"),
        "history": trainer.history.state_dict(),
        "seconds": training.elapsed(),
        "scales": encode(training.scales(), others, "scales"),
        "optimizers": optimizers.encoded,
        "callbacks": {
            name: encode(callback.state_dict(), others, f"callback.{name}")
            for name, callback in by_class(trainer.callbacks)
        },
        "optimizer_kinds": {name: type(one).__name__ for name, one in named(trainer.optimizer).items()},
        "extra": extra,
        "metrics": encode(metrics, others, "metrics"),
        "trained": {name: parameter.requires_grad for name, parameter in parameters.items()},
        "gradients": gradients,
        "frozen": frozen,
        **mine,
    }
    files = {"model": model, "optimizer": optimizers.tensors, "state": others}
    for name, tensor in others.items():
        check_tensor(name, tensor)
    parts = parts_in(files, copy_tensors) if is_sharded else None
    if shared is None:  # the first process has the rest
        return Content({}, {}, parts)
    content = Content(state, {file: copy_tensors(file, tensors) for file, tensors in files.items()}, parts)

    def rest() -> None:
        if "generators" not in state:
            state["generators"] = encode(generators, content.tensors["state"], "generators")
        if optimizers.encoded is None:
            optimizers.complete(content)

    content.rest = rest
    if at_once:
        content.complete()
    return content


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
        check_model(trainer.model, content, source)
        optimizers = checked_optimizers(trainer.optimizer, content, source)
        part = own_part(state, source)
        check_data(trainer.train_loader, state, source)
        device = trainer.device
        objects: list[tuple[Any, Any]] = []
        extra = decode(state["extra"], others, device=device)
        loads = [
            (name, module, _model_state(module, name, content, extra)) for name, module in named(trainer.model).items()
        ]
        metrics = decode(state["metrics"], others, device=device)
        history = state["history"]
        position = moved_position(state, data_size(trainer.train_loader), source, can_shift(trainer.train_loader))
        hyper = decode(state["hyper"], others, trainer.hyper, objects, device)
        user_state = decode(part["state"], others, trainer.state, objects, device)
        callbacks = _checked_callbacks(trainer.callbacks, state["callbacks"], others, device)
        scales, loader = decode(state["scales"], others), decode(part["loader"], others)
        decoded = {
            "pending": decode(state["pending"], others),
            "means": means_from(state, others),
            "position": position,
            "order": decode(state["order"], others),
        }
        training.epoch_start.check(trainer.train_loader, decoded["order"], source)
        generators = generators_from(state, others)
        trained, frozen, gradients = dict(state["trained"]), set(state["frozen"]), set(state["gradients"])
        type(trainer.history)().load_state_dict(history)  # raises where it is none

        for name, module, model_state in loads:
            module.load_state_dict(as_sharded(model_state, module))
            _load_transient_buffers(module, name, others)
            restore_metrics(module, metrics[name])
        for name, parameter in _parameters(trainer.model):
            parameter.requires_grad_(trained.get(name, parameter.requires_grad))
            # In the place of one of a step left half-way.
            parameter.grad = _gradient(parameter, others.get(f"gradient.{name}")) if name in gradients else None
        for name, module in _modules(trainer.model):
            set_frozen(module, name in frozen)
        for name, one in named(trainer.optimizer).items():
            _load_optimizer(one, optimizers[name], training.processes.sharded is not None)
        for callback, callback_state in callbacks:
            callback.load_state_dict(callback_state)
        training.means.reset()  # before the metric objects are given back what they had gathered
        give_back(objects)
        _refill(trainer, "state", user_state)
        _refill(trainer, "hyper", hyper)
        trainer.history.load_state_dict(history)
        trainer.seed = state["seed"]
        training.restore(state | decoded, scales, loader)
        training.processes.unit = state["unit"]
        training.generators.restore(generators)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the checkpoint {source} lacks something that belongs into it, or has it in another form ({error!r})",
            expected="what Ignition wrote, for the same script",
            fix="use another checkpoint",
        ) from error


class _Optimizers:
    """The states of optimizers; while the training waits they are encoded only where that cannot be done after it.

    Attributes:
        encoded: What `encode` makes of them, by name; None if that can wait, since all is plain.
        tensors: Those in them, by the names that they have in the file; if it can wait, by their places.
    """

    def __init__(self, states: dict[str, Any], is_sharded: bool) -> None:
        self.encoded: dict[str, Any] | None = None
        self._plain: dict[int, Tensor] = {}
        try:
            self._states = plain_copy(states, self._plain)
            can_wait = not is_sharded and all(map(is_usual, self._plain.values()))
        except (TypeError, RecursionError):
            can_wait = False
        self.tensors = {str(place): tensor for place, tensor in enumerate(self._plain.values())}
        if not can_wait:
            self.encoded, self.tensors = _encoded_optimizers(states)

    def complete(self, content: Content) -> None:
        """Gives a content that has copies of the tensors the names, and all else that is in the states."""
        content.state["optimizers"], tensors = _encoded_optimizers(self._states)
        copies = dict(zip(self._plain, content.tensors["optimizer"].values(), strict=True))
        content.tensors["optimizer"] = {name: copies[id(tensor)] for name, tensor in tensors.items()}


def _encoded_optimizers(states: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    encoded = {name: encode(state, tensors, f"optimizer{suffix(name)}") for name, state in states.items()}
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    return encoded, tensors


def _refill(trainer: Any, name: str, content: Any) -> None:
    """Gives a dict of the Trainer its content: the same dict, which functions may hold on to."""
    now = getattr(trainer, name)
    if content is now:  # filled already
        return
    if isinstance(now, dict) and isinstance(content, dict):
        now.clear()
        now.update(content)
    else:
        setattr(trainer, name, content)


def _without_generators(pending: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A record that is due; the generators from before its evaluation are the checkpoint's own."""
    return None if pending is None else {name: value for name, value in pending.items() if name != "generators"}


def _parts_of(
    models: Any,
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], dict[str, Tensor], list[str]]:
    """What metrics in the models have gathered, all buffers, all parameters, and which modules are frozen.

    In one way through the modules, since it takes its time, and the training waits.
    """
    metrics: dict[str, dict[str, Any]] = {}
    buffers: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = {}
    frozen: list[str] = []
    for name, model in named(models).items():
        gathered = metrics[name] = {}
        for path, module in model.named_modules():
            if (metric := metric_of(module)) is not None:
                gathered[path] = metric
            if is_frozen(module):
                frozen.append(key_in(name, path))
            for leaf, buffer in module._buffers.items():
                if buffer is not None:
                    buffers[key_in(name, key_in(path, leaf))] = buffer
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    parameters[key_in(name, key_in(path, leaf))] = parameter
    return metrics, buffers, parameters, frozen


def _modules(models: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, model in named(models).items():
        for path, module in model.named_modules():
            yield key_in(name, path), module


def _parameters(models: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name, model in named(models).items():
        for path, parameter in model.named_parameters():
            yield key_in(name, path), parameter


def _checked_callbacks(
    callbacks: list[Callback], saved: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> list[tuple[Callback, dict[str, Any]]]:
    return [(one, decode(saved[name], tensors, device=device)) for name, one in by_class(callbacks) if saved.get(name)]


def _model_state(module: nn.Module, name: str, content: Content, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a model, of tensors of its own."""
    saved = content.tensors.get("model", {})
    return {
        key: saved[key_in(name, key)].clone() if isinstance(value, Tensor) else extra[key_in(name, key)]
        for key, value in module.state_dict().items()
    }


def _gradient(parameter: Tensor, saved: Tensor | None) -> Tensor:
    """A gradient of a parameter's own, between two steps; zero where no step was still to use it."""
    if saved is None:
        return torch.zeros_like(parameter)
    if hasattr(parameter, "device_mesh"):
        from ignition.dtensors import shard_like

        return shard_like(saved, parameter)
    return saved.to(parameter.device, copy=True)


def _load_transient_buffers(module: nn.Module, name: str, others: Mapping[str, Tensor]) -> None:
    prefix = f"buffer.{key_in(name, '')}"
    kept = module.state_dict().keys()
    here = dict(module.named_buffers())
    modules = dict(module.named_modules())
    for key, value in others.items():
        path, _, leaf = key.removeprefix(prefix).rpartition(".")
        full = f"{path}.{leaf}" if path else leaf
        if not key.startswith(prefix) or full in kept or path not in modules:
            continue
        if full in here and here[full].shape == value.shape:
            with torch.no_grad():
                here[full].copy_(value)
        elif hasattr(modules[path], leaf):  # made or grown since the model was new, as a cache of positions is
            near = here.get(full, next(module.parameters(), value))
            setattr(modules[path], leaf, value.to(near.device, copy=True))


def _load_optimizer(optimizer: Any, state: dict[str, Any], is_sharded: bool) -> None:
    if is_sharded:
        from ignition.fsdp import shard_optimizer_state

        state = shard_optimizer_state(optimizer, state)
    exact = copy.copy(state.get("state", {}))
    optimizer.load_state_dict(state)
    # torch gives each entry the type of its parameter; one that had another (a master copy in 32 bits) keeps its own.
    parameters = [one for group in getattr(optimizer, "param_groups", ()) for one in group["params"]]
    for index, entries in exact.items():
        if isinstance(index, int) and index < len(parameters):
            loaded = optimizer.state[parameters[index]]
            for key, value in entries.items():
                if key in loaded:
                    loaded[key] = _as_saved(value, loaded[key])


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


def settings_of(trainer: Any) -> dict[str, str]:
    """What a script has set of hyperparameters and optimizers, as words that can be compared with another run's."""
    settings = {name: repr(value) for name, value in trainer.hyper.items()}
    for name, one in named(trainer.optimizer).items():
        for index, group in enumerate(getattr(one, "param_groups", ())):
            for key, value in group.items():
                if key != "params":
                    settings[f"{type(one).__name__}{suffix(name)}, group {index}, {key}"] = repr(value)
    return settings


def _generators(training: Training) -> dict[str, Any]:
    """The states of all generators: those from before an evaluation that is to be begun anew."""
    kept = None if training.pending is None else training.pending.get("generators")
    return training.generators.capture() if kept is None else kept
