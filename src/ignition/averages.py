"""The averages of a structure of models: made beside them, moved by their weights, saved and taken back."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ignition.buffers import copy_buffers, fit_buffers, load_transient_buffers, transient_buffers
from ignition.errors import ArgumentError
from ignition.strategy import as_sharded
from ignition.structure import like, named
from ignition.weights import check_there

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["AveragedModels"]

_TRANSIENT = "buffer."


class AveragedModels:
    """An AveragedModel for each model of a structure.

    Args:
        average: How one moves, as torch's ``multi_avg_fn``; None for equal shares.
    """

    def __init__(self, average: Callable[..., Any] | None) -> None:
        self._average = average
        self._trainer: weakref.ref[Trainer[Any]] | None = None
        self._sources: list[nn.Module] = []
        self._averaged: Any = None
        self._loaded: dict[str, Any] | None = None

    def prepare(self, trainer: Trainer[Any]) -> bool:
        """Makes the averages of this trainer's models, unless they are there; whether they begin anew."""
        sources = list(named(trainer.model).values())
        known = self._trainer is not None and self._trainer() is trainer
        known = known and list(map(id, sources)) == list(map(id, self._sources))
        if not known:
            sharded = trainer.training.processes.sharded
            for model in sources if sharded is None else ():  # one that is sharded is made without values
                check_there(model)
            names = iter(named(trainer.model))
            self._averaged = like(
                trainer.model,
                lambda model: self._made(model) if sharded is None else sharded.average(next(names), self._made),
            )
            for averaged in named(self._averaged).values():
                averaged.eval()
            self._trainer, self._sources = weakref.ref(trainer), sources
        if self._loaded is None:
            return not known
        self._take(self._loaded)
        self._loaded = None
        return False

    def _made(self, model: nn.Module) -> AveragedModel:
        return AveragedModel(model, multi_avg_fn=self._average)

    def add(self, models: Any) -> None:
        """Takes the weights of the models in; the averages' buffers are those of the models now."""
        for averaged, model in zip(named(self._averaged).values(), named(models).values(), strict=True):
            copy_buffers(averaged.module, model)
            if averaged.n_averaged == 0 or self._average is None:
                averaged.update_parameters(model)  # which copies its count to the accelerator, and waits for that
            else:
                _move(averaged, model, self._average)

    def wholes(self) -> list[dict[str, Any]]:
        """The averages by the models' names, in a list."""
        return [named(self._averaged)]

    def models(self, name: str) -> dict[str, Any]:
        """``{name: the averaged models}``, in the structure of the models; nothing before the first `add`."""
        averages = named(self._averaged)
        if not averages or not all(averaged.n_averaged > 0 for averaged in averages.values()):
            return {}
        return {name: like(self._averaged, lambda averaged: averaged.module)}

    def state_dict(self) -> dict[str, Any]:
        """Copies of the averages and their counts, by the models' names."""
        if self._loaded is not None:
            return self._loaded
        # Copies: the averages go on being changed in place.
        return {
            name: {
                key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                for key, value in _all_of(averaged).items()
            }
            for name, averaged in named(self._averaged).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned, now or when the models are known."""
        self._loaded = dict(state) or None
        if self._loaded is not None and self._averaged is not None:
            self._take(self._loaded)  # and again when a fit begins, which may be another Trainer's

    def _take(self, state: dict[str, Any]) -> None:
        averages = named(self._averaged)
        if averages.keys() != state.keys():
            raise ArgumentError(
                f"an average of {_listed(state)} was loaded, and the Trainer has {_listed(averages)}",
                "the models that it was saved of",
                "make the Trainer with the same structure of models as then",
            )
        for name, averaged in averages.items():
            kept = {key: value for key, value in state[name].items() if not key.startswith(_TRANSIENT)}
            transient = {f"{_TRANSIENT}{key}" for key in transient_buffers(averaged)}
            fit_buffers(averaged, kept, averaged.state_dict().keys() - kept.keys())
            averaged.load_state_dict(as_sharded(kept, averaged))
            load_transient_buffers(averaged, "", {key: state[name][key] for key in transient & state[name].keys()})


def _all_of(averaged: AveragedModel) -> dict[str, Any]:
    """What there is of an average: with `every` its buffers are older than the model's, those of no state dict too."""
    transient = {f"{_TRANSIENT}{name}": one for name, one in transient_buffers(averaged).items() if one is not None}
    return averaged.state_dict() | transient


@torch.no_grad()
def _move(averaged: AveragedModel, model: nn.Module, average: Callable[..., Any]) -> None:
    """Does what ``AveragedModel.update_parameters`` does after the first time, and waits for nothing."""
    alike: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for mine, theirs in zip(averaged.module.parameters(), model.parameters(), strict=True):
        ours, others = alike.setdefault((mine.device, mine.dtype), ([], []))
        ours.append(mine.detach())
        others.append(theirs.detach().to(mine.device))
    for ours, others in alike.values():
        average(ours, others, averaged.n_averaged)
    averaged.n_averaged += 1


def _listed(models: Mapping[str, Any]) -> str:
    return f"the models {', '.join(models)}" if "" not in models else "one model"
