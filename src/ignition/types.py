"""The shapes of what users hand in and get back, for annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from torch import Tensor

__all__ = ["Batch", "EvalFn", "MetricObject", "Metrics", "Model", "PredictFn", "Stateful", "TrainFn"]

Model = TypeVar("Model")
"""One ``nn.Module``, or a list, tuple or dict of them."""

Batch: TypeAlias = Any
"""One item of a loader: a tuple or list is unpacked into the function's arguments, anything else passed whole."""

Metrics: TypeAlias = Mapping[str, Any] | Tensor | float | None
"""What a function returns: metrics by name, one scalar (the loss), or nothing."""

TrainFn: TypeAlias = Callable[..., Metrics]
"""``train_fn(model, *batch, **hyper)``"""

EvalFn: TypeAlias = Callable[..., Metrics]
"""``eval_fn(model, *batch)``, and those hyperparameters that it names."""

PredictFn: TypeAlias = Callable[..., Any]
"""``pred_fn(model, *items)``: as many of the batch's items as it has positional parameters."""


@runtime_checkable
class Stateful(Protocol):
    """What can be saved and put back: callbacks, loaders, objects in ``trainer.state``."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...  # noqa: D102


@runtime_checkable
class MetricObject(Protocol):
    """A metric that keeps its own state over the batches, as those of torchmetrics do."""

    def update(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

    def compute(self) -> Any: ...  # noqa: D102

    def reset(self) -> Any: ...  # noqa: D102
