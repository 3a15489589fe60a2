"""Whole steps as CUDA graphs: a train function is captured once for each shape of batch, and replayed.

The guide on speed says what that asks of a function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ignition.capturable import CapturableOptimizers, why_not
from ignition.device import tensors_in
from ignition.errors import kind_of, warn
from ignition.granted import PLAIN, Granted, NotPlain, Numbers, form_of
from ignition.optimizers import watch_steps
from ignition.side_effects import SideEffects
from ignition.structure import named

if TYPE_CHECKING:
    from ignition.training import Training

__all__ = ["StepGraphs", "step_graphs"]

_MOST_SHAPES = 8  # whose graphs are kept: each holds memory
_MOST_CHANGES = 16  # of what a graph takes for granted, before it is given up


def step_graphs(training: Training) -> StepGraphs | None:
    """The graphs of a fit's steps; None where ``compile="step"`` was not asked for, or cannot be: then it warns."""
    trainer, rules = training.trainer, training.rules
    if trainer.compile != "step":
        return None
    optimizers = list(named(trainer.optimizer).values())
    modules = [part for one in named(trainer.model).values() for part in one.modules()]
    reason = None
    if training.device.type != "cuda":
        reason = f"the model is on {training.device}, and only CUDA has graphs"
    elif training.processes.many:
        reason = "many processes train together"
    elif rules.accumulate > 1:
        reason = f"accumulate={rules.accumulate}, whose steps are not all alike"
    elif rules.scaled:
        reason = 'precision="fp16", whose scaler looks at each gradient (precision="bf16" needs none)'
    elif any(getattr(part, "sparse", False) for part in modules):
        reason = "the model has sparse gradients"
    else:
        reason = why_not(optimizers)
    if reason is not None:
        _warn_of_eager(reason)
        return None
    return StepGraphs(training, optimizers)


class StepGraphs:
    """Called in the place of a train function, it replays what the function does on the accelerator.

    The first call runs the function. For each shape of batch, the next one runs it on a stream of its own and looks
    what it does besides; the one after captures and replays it, and from then on it is replayed alone. All of these
    are real steps, one for each batch, and all of them compute alike: with hyperparameters as tensors, and with
    optimizers that could be captured. So a training that is resumed, and steps eagerly again at first, goes on to the
    same bits.
    """

    def __init__(self, training: Training, optimizers: list[Optimizer]) -> None:
        self._training = training
        self._function = training.train_signature.function
        self._models = list(named(training.trainer.model).values())
        self._optimizers = CapturableOptimizers(optimizers, training.device)
        self._known = optimizers
        self._numbers = Numbers(training.device)
        self._stream = _stream_of(training.device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[Any, _Graph] = {}
        self._looked_at: set[Any] = set()
        self._granted: Granted | None = None
        self._changes = 0
        self._has_run = self._is_eager = self._has_told = False

    def __call__(self, model: Any, *batch: Any, **hyper: Any) -> Any:
        """Takes the step of one batch."""
        given, fixed = self._numbers.bring(hyper)
        self._optimizers.bring_rates()
        if self._is_eager:
            return self._run(model, batch, given)
        if self._granted is not None:
            changed = self._granted.changed()
            if changed is not None:
                self._begin_anew(changed)
        try:
            key = fixed, form_of(batch)
        except NotPlain as error:
            self._give_up(f"the batch holds {error}: it is captured with tensors in tuples, lists and dicts")
            return self._run(model, batch, given)
        graph = self._graphs.get(key)
        if graph is not None:
            return self._replay(graph, batch)
        if not self._has_run:  # the first step of a fit makes what is made once: states, caches
            self._has_run = True
            return self._run(model, batch, given)
        if key not in self._looked_at:
            return self._look(key, model, batch, given)
        if len(self._graphs) == _MOST_SHAPES:
            return self._run(model, batch, given)
        return self._capture(key, model, batch, given)

    def close(self) -> None:
        """Lets go of the graphs, and of what the optimizers have had for them."""
        self._graphs.clear()
        self._optimizers.give_back()

    def _run(self, model: Any, batch: tuple[Any, ...], given: dict[str, Any]) -> Any:
        with self._optimizers.capturable():
            try:
                return self._function(model, *batch, **given)
            except TypeError as error:
                tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
                if tensors:
                    error.add_note(
                        f'compile="step" passes the hyperparameters {", ".join(tensors)} as 0-d tensors, which a '
                        "captured step can read anew"
                    )
                raise

    def _look(self, key: Any, model: Any, batch: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Runs the function on the stream of the captures, and finds out what stands against one."""
        trainer = self._training.trainer
        if self._looked_at and not self._has_told:
            self._has_told = True
            self._training.progress.say(
                f'compile="step": a batch of another shape runs eagerly, and is captured when its shape comes again; '
                f"{_MOST_SHAPES} shapes at most"
            )
        self._looked_at.add(key)
        parts = {
            f"model.{place}.{name}": part
            for place, one in named(trainer.model).items()
            for name, part in one.named_modules()
        }
        effects = SideEffects({"train_fn": self._function, "trainer.state": trainer.state, **parts})
        working = torch.cuda.current_stream(self._training.device)
        self._stream.wait_stream(working)
        with torch.cuda.stream(self._stream), _noting_waits() as waits, watch_steps(trainer.optimizer) as stepped:
            result = self._run(model, batch, given)
        working.wait_stream(self._stream)
        strange = [type(one).__name__ for one in stepped if all(one is not other for other in self._known)]
        changed = effects.found()
        reason = _why_no_result(result)
        if strange:
            reason = f"it steps an optimizer that the Trainer does not have ({strange[0]})"
        elif changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            reason = f"it changes {', '.join(changed[:3])}{more}, which a replayed step would not: a step is replayed "
            reason += "on the GPU alone, without Python"
        elif waits:
            reason = f"it waits for the GPU ({waits[0]}), as .item(), .cpu(), a mask as an index or `if tensor:` do"
        if reason is not None:
            self._give_up(reason)
        return result

    def _capture(self, key: Any, model: Any, batch: tuple[Any, ...], given: dict[str, Any]) -> Any:
        inputs = _changed(batch, Tensor.clone)
        gradients, states = self._gradients(), self._optimizers.states()
        drawn = torch.cuda.get_rng_state(self._training.device)  # waits, once for each capture
        granted = self._granted or Granted(self._models, self._known)
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer stream is the current one again also where the inner one has no end. The loader's threads may go
            # on meanwhile: their calls are not taken for a part of the step.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._training.device)),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = _changed(self._run(model, inputs, given), Tensor.detach)
            replaced = granted.changed()
            if replaced is None and not _is_same(states, self._optimizers.states()):
                replaced = "the optimizer's state"
            reason = None if replaced is None else f"it makes {replaced} anew"
        except (
            Exception
        ) as error:  # whatever it was: the step is taken eagerly, and raises it again if it is the user's
            reason = f"it could not be captured ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        if reason is not None:
            self._put_back(gradients)
            self._optimizers.forget_new(states)
            _leave_capture(self._training.device, self._pool, drawn)
            self._give_up(reason)
            return self._run(model, batch, given)
        self._granted = granted
        window = self._training.window
        updated = [] if window is None else list(window.updated)
        self._graphs[key] = captured = _Graph(graph, list(tensors_in(inputs)), result, self._gradients(), updated)
        return self._replay(captured, batch)

    def _replay(self, captured: _Graph, batch: tuple[Any, ...]) -> Any:
        for held, new in zip(captured.inputs, tensors_in(batch), strict=True):
            held.copy_(new)
        self._put_back(captured.gradients)  # where something else has put others
        captured.graph.replay()
        if self._training.window is not None:
            self._training.window.updated[:] = captured.updated
        return _changed(captured.result, Tensor.clone)  # the next replay writes into the same memory

    def _begin_anew(self, changed: str) -> None:
        """Forgets graphs that take for granted what is so no more."""
        self._graphs.clear()
        self._looked_at.clear()
        self._granted = None
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            self._give_up(f"{changed} changes again and again, and is fixed in a captured step")

    def _give_up(self, reason: str) -> None:
        self._graphs.clear()
        self._is_eager = True
        _warn_of_eager(reason)

    def _gradients(self) -> list[tuple[Tensor, Tensor | None]]:
        models, optimizers = self._training.trainer.model, self._known
        owners = [*(one.parameters() for one in named(models).values()), *map(_parameters_of, optimizers)]
        parameters = {id(parameter): parameter for owner in owners for parameter in owner}
        return [(parameter, parameter.grad) for parameter in parameters.values()]

    @staticmethod
    def _put_back(gradients: list[tuple[Tensor, Tensor | None]]) -> None:
        for parameter, gradient in gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient


@dataclass(slots=True, eq=False)
class _Graph:
    """One captured step.

    Attributes:
        graph: What is replayed.
        inputs: The tensors that it reads the batch from.
        result: What the function returned, where it is written anew.
        gradients: Those that it writes, by parameter.
        updated: The optimizers that it steps, for the window.
    """

    graph: Any
    inputs: list[Tensor]
    result: Any
    gradients: list[tuple[Tensor, Tensor | None]]
    updated: list[Optimizer]


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _changed(item, change) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change) for item in value)
    return value


def _why_no_result(result: Any) -> str | None:
    """Why a function's result cannot come out of a replay; None where it can."""
    for name, value in result.items() if isinstance(result, Mapping) else [("loss", result)]:
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, (Tensor, *PLAIN)):
                return f"it returns {name!r}, {kind_of(part)}, which Python would have to update"
    return None


def _is_same(states: dict[Any, Any], others: dict[Any, Any]) -> bool:
    return states.keys() == others.keys() and all(others[place] is value for place, value in states.items())


def _parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


@cache
def _stream_of(device: torch.device) -> Any:
    """One stream for all captures: each has a workspace of its own for matrix products, and keeps it."""
    streams: Any = torch.cuda
    return streams.Stream(device)


def _leave_capture(device: torch.device, pool: Any, state: Tensor) -> None:
    """Does what torch leaves undone where a capture fails: memory, and random numbers from where they were."""
    with suppress(RuntimeError):  # it was left in order
        torch._C._cuda_endAllocateToPool(device.index, pool)
    fresh = torch.Generator(device)  # the default one takes itself to be captured still
    fresh.set_state(state)
    torch.cuda.default_generators[device.index].graphsafe_set_state(fresh.graphsafe_get_state())


@contextmanager
def _noting_waits() -> Iterator[list[str]]:
    """Collects, inside the ``with`` block, the places at which Python waits for the accelerator."""
    places: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(mode or "warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for one in caught:
        if "synchronizing CUDA operation" in str(one.message):
            places.append(f"{one.filename}, line {one.lineno}")
        elif not str(one.message).startswith("Synchronization debug mode"):  # what it says of itself
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, source=one.source)


def _warn_of_eager(reason: str) -> None:
    warn(f'compile="step": train_fn runs eagerly, since {reason}')
