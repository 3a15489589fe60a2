"""What a checkpoint holds of a training, and how a training takes it back: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ignition import distributed
from ignition.buffers import fit_buffers, is_unset, load_transient_buffers
from ignition.checkpoint import Content
from ignition.codec import decode, encode, give_back
from ignition.data import can_shift
from ignition.errors import CheckpointError, ProcessError
from ignition.gathered_metrics import restore_metrics
from ignition.lazy_modules import set_sizes
from ignition.matching import (
    check_data,
    check_dense,
    check_model,
    check_order_kept,
    check_place,
    checked_optimizers,
    data_size,
)
from ignition.model_parts import modules_of, parameters_of, parts_of
from ignition.modes import set_frozen
from ignition.optimizer_states import SavedOptimizers, check_optimizer_state, load_optimizer_state
from ignition.position import Position
from ignition.process_state import gathered, generators_from, means_from, moved_position, own_part, parts_in
from ignition.rollback import all_or_nothing
from ignition.state_values import (
    check_decoded,
    check_gradient,
    check_metrics,
    check_names,
    check_order,
    check_samplers,
    check_state,
    malformed,
    telling_of,
)
from ignition.strategy import as_sharded
from ignition.structure import by_class, key_in, named

if TYPE_CHECKING:
    from ignition.callbacks.base import Callback
    from ignition.training import Training

__all__ = ["apply", "capture"]


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
    parts = parts_of(trainer.model)
    check_dense(parts.state)
    optimizers = SavedOptimizers(named(trainer.optimizer), is_sharded)
    others: dict[str, Tensor] = {**own_tensors, **their_tensors}
    gradients, unused = training.unused_gradients.of(parts.parameters.items())
    epoch = 0 if training.epoch_is_read else training.position.epoch
    others |= {f"buffer.{name}": one for name, one in parts.buffers.items() if name not in parts.state}
    others |= {f"gradient.{name}": one for name, one in unused.items()}
    state = {
        "position": {name: getattr(training.position, name) for name in Position.__slots__},
        "fit": training.fit | {"stop_reason": trainer.stop_reason},
        "open": training.open_pass is not None,
        "pending": encode(_without_generators(training.pending), others, "pending"),
        "data": data_size(trainer.train_loader),
        "order": training.epoch_start.state(trainer.train_loader, epoch, others),
        "test_order": training.evaluation_start.state(trainer.test_loader, others),
        "processes": {"others": theirs},
        "unit": training.processes.unit,
        "seed": trainer.seed,
        "hyper": encode(trainer.hyper, others, "hyper"),
        "history": trainer.history.state_dict(),
        "seconds": training.clock.seconds,
        "scales": encode(training.scales(), others, "scales"),
        "optimizers": optimizers.encoded,
        "callbacks": {
            name: encode(callback.state_dict(), others, f"callback.{name}")
            for name, callback in by_class(trainer.callbacks)
        },
        "optimizer_kinds": {name: type(one).__name__ for name, one in named(trainer.optimizer).items()},
        "extra": {name: encode(value, others, f"extra.{name}") for name, value in parts.extra.items()},
        "metrics": encode(parts.metrics, others, "metrics"),
        "trained": {name: training.processes.is_trained(one) for name, one in parts.parameters.items()},
        "gradients": gradients,
        "frozen": parts.frozen,
        "unset": parts.unset,
        **mine,
    }
    files = {"model": parts.state, "optimizer": optimizers.tensors, "state": others}
    check_dense(others)
    shards = parts_in(files, copy_tensors) if is_sharded else None
    if shared is None:  # the first process has the rest
        return Content({}, {}, shards)
    content = Content(state, {file: copy_tensors(file, tensors) for file, tensors in files.items()}, shards)

    def rest() -> None:
        if "generators" not in state:
            state["generators"] = encode(generators, content.tensors["state"], "generators")
        if optimizers.encoded is None:
            optimizers.complete(content)

    content.rest = rest
    if at_once:
        content.complete()
    return content


def apply(training: Training, content: Content, source: str, then: Callable[[], object] | None = None) -> None:
    """Puts a training where a checkpoint was taken: all of it, or nothing where that cannot be done.

    Everything is checked before anything is changed; what shows only as it is changed has all of it put back.

    Args:
        training: Made by the same script.
        content: What `ignition.checkpoint.read` returned; it is not changed, and may be used again.
        source: Where it came from, for messages.
        then: What is to be done with it in place; what that raises is unchanged, and undone too.

    Raises:
        CheckpointError: If it is a checkpoint of another model, optimizer or data set, or has something in it that no
            training has.
    """
    doing, is_in = "", False
    try:
        put_in = _checked(training, content, source)
        with all_or_nothing(training):
            for place, put in put_in:
                doing = place
                put()
            if then is not None:
                is_in = True
                then()
    except CheckpointError as error:
        found, expected, fix = error.args
        if is_in or source in found:
            raise
        raise CheckpointError(f"in the checkpoint {source} {found}", expected, fix) from error
    except (ProcessError, Warning, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_in:
            raise
        raise CheckpointError(
            f"the checkpoint {source} lacks something that belongs into it, or has it in another form"
            f"{doing and f', as showed in {doing}'} ({error!r})",
            expected="what Ignition wrote, for the same script",
            fix="use another checkpoint",
        ) from error


def _checked(training: Training, content: Content, source: str) -> list[tuple[str, Callable[[], object]]]:
    """What is to be done to put a training where a checkpoint was taken, and where: no user's name for it is empty."""
    trainer, state = training.trainer, content.state
    others, device = content.tensors.get("state", {}), trainer.device
    check_state(state, source)
    check_model(trainer.model, content, source)
    optimizers = checked_optimizers(trainer.optimizer, content, source)
    saved = content.tensors.get("model", {})
    to_be = {one: saved[name] for name, one in parameters_of(trainer.model) if is_lazy(one) and name in saved}
    for name, one in named(trainer.optimizer).items():
        check_optimizer_state(one, optimizers[name], name, source, to_be)
    part = own_part(state, source)
    check_data(trainer.train_loader, state, source)
    check_place(trainer.train_loader, state, source)
    objects: list[tuple[Any, Any]] = []
    extra = decode(state["extra"], others, device=device)
    loads = [
        (name, module, _model_state(module, name, content, extra)) for name, module in named(trainer.model).items()
    ]
    metrics = decode(state["metrics"], others, device=device)
    position = moved_position(state, data_size(trainer.train_loader), source, can_shift(trainer.train_loader))
    hyper = decode(state["hyper"], others, trainer.hyper, objects, device)
    user_state = decode(part["state"], others, trainer.state, objects, device)
    callbacks = _checked_callbacks(trainer, state["callbacks"], others, source)
    scales, loader = decode(state["scales"], others), decode(part["loader"], others)
    pending, means, generators = (
        decode(state["pending"], others), means_from(state, others), generators_from(state, others)
    )  # fmt: skip
    order = decode(state["order"], others)
    check_decoded(pending, means, scales, loader, generators, named(trainer.optimizer), source)
    check_order(order, source)
    test_order = decode(state["test_order"], others)
    check_samplers(test_order, "test_order", source)
    training.epoch_start.check(trainer.train_loader, order, source)
    check_order_kept(trainer.train_loader, state, source)
    _check_names(trainer.model, state, metrics, others, source, to_be)
    trained, frozen, gradients = state["trained"], set(state["frozen"]), set(state["gradients"])
    with telling_of("history", source):
        type(trainer.history)().load_state_dict(state["history"])  # raises where it is none

    def put_models() -> None:
        for name, module, model_state in loads:
            fit_buffers(module, model_state, {one.removeprefix(key_in(name, "")) for one in state["unset"]})
            module.load_state_dict(as_sharded(model_state, module))
            set_sizes(module)
            load_transient_buffers(module, name, others)
            restore_metrics(module, metrics[name])
        for name, parameter in parameters_of(trainer.model):
            parameter.requires_grad_(trained[name])
            # In the place of one of a step left half-way.
            parameter.grad = _gradient(parameter, others.get(f"gradient.{name}")) if name in gradients else None
        for name, module in modules_of(trainer.model):
            set_frozen(module, name in frozen)

    def put_training() -> None:
        training.means.reset()  # before the metric objects are given back what they had gathered
        give_back(objects)
        _refill(trainer, "state", user_state)
        _refill(trainer, "hyper", hyper)
        trainer.history.load_state_dict(state["history"])
        trainer.seed = state["seed"]
        decoded = {"pending": pending, "means": means, "position": position, "generators": generators}
        decoded |= {"order": order, "test_order": test_order}
        training.processes.unit = state["unit"]
        training.restore(state | decoded, scales, loader)

    is_sharded = training.processes.sharded is not None
    return [
        ("load_state_dict of the model", put_models),
        *(
            (
                f"load_state_dict of {type(one).__name__}",
                partial(load_optimizer_state, one, optimizers[name], is_sharded),
            )
            for name, one in named(trainer.optimizer).items()
        ),
        *((f"load_state_dict of {one!r}", partial(one.load_state_dict, its_own)) for one, its_own in callbacks),
        ("", put_training),
    ]


def _check_names(
    models: Any,
    state: Mapping[str, Any],
    metrics: Any,
    others: Mapping[str, Tensor],
    source: str,
    to_be: Mapping[Any, Tensor],
) -> None:
    """That what is kept by the names of parts of the models is that of parts which are there, and of their shape."""
    parts = parts_of(models)
    parameters = parts.parameters
    check_metrics(metrics, parts.metrics, source)
    check_names(state["trained"], parameters, "trained", source, all_of_them=True)
    check_names(state["gradients"], parameters, "gradients", source)
    check_names(state["frozen"], [name for name, _ in modules_of(models)], "frozen", source)
    for name in state["gradients"]:
        parameter = parameters[name]
        check_gradient(name, others.get(f"gradient.{name}"), to_be.get(parameter, parameter), source)
    check_names(state["extra"], parts.extra, "extra", source, all_of_them=True)


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


def _checked_callbacks(
    trainer: Any, saved: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
) -> list[tuple[Callback, dict[str, Any]]]:
    """The callbacks that have a state in the checkpoint, each with its own; one that is new begins anew."""
    states = [
        (name, one, decode(saved.get(name, {}), tensors, device=trainer.device))
        for name, one in by_class(trainer.callbacks)
    ]
    for name, one, state in states:
        if not isinstance(state, dict):
            raise malformed(source, f"callbacks.{name}", state, "an object")
        if state:
            with telling_of(f"callbacks.{name}", source):
                one.check_state(trainer, state)
    return [(one, state) for _, one, state in states if state]


def _model_state(module: nn.Module, name: str, content: Content, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a model, of tensors of its own, with the buffers that it sets only later."""
    saved, unset, prefix = content.tensors.get("model", {}), content.state["unset"], key_in(name, "")
    here = {key: value for key, value in module.state_dict().items() if key_in(name, key) not in unset}
    later = [key for key in saved if key.startswith(prefix) and is_unset(module, key.removeprefix(prefix))]
    return {
        **{
            key: saved[key_in(name, key)].clone() if isinstance(value, Tensor) else extra[key_in(name, key)]
            for key, value in here.items()
        },
        **{key.removeprefix(prefix): saved[key].clone() for key in later},
    }


def _gradient(parameter: Tensor, saved: Tensor | None) -> Tensor:
    """A gradient of a parameter's own, between two steps; zero where no step was still to use it."""
    if saved is None:
        return torch.zeros_like(parameter)
    if hasattr(parameter, "device_mesh"):
        from ignition.dtensors import shard_like

        return shard_like(saved, parameter)
    return saved.to(parameter.device, copy=True)


def _generators(training: Training) -> dict[str, Any]:
    """The states of all generators: those from before an evaluation that is to be begun anew."""
    kept = None if training.pending is None else training.pending.get("generators")
    return training.generators.capture() if kept is None else kept
