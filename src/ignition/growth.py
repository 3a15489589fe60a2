"""What has changed inside a fit that the script, run again, begins without: it could not load its own checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ignition.checkpoint import Content
from ignition.device import tensors_in
from ignition.errors import warn
from ignition.matching import data_size
from ignition.sharing import shared_in
from ignition.structure import key_in, named

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Growth"]


class Growth:
    """What there is as a fit begins, beside which its checkpoints are held.

    Args:
        trainer: As the script made it.
    """

    def __init__(self, trainer: Trainer[Any]) -> None:
        self._groups = _groups(trainer.optimizer)
        self._data = _size(trainer.train_loader)
        self._unset = {
            key_in(name, key_in(path, leaf))
            for name, model in named(trainer.model).items()
            for path, module in model.named_modules()
            for leaf, buffer in module._buffers.items()
            if buffer is None
        }
        every = [
            (key_in(name, key), value)
            for name, model in named(trainer.model).items()
            for key, value in model.state_dict().items()
            if isinstance(value, Tensor)
        ]
        self._lazy = {name for name, value in every if is_lazy(value)}
        self._kinds = _kinds((name, value) for name, value in every if name not in self._lazy)
        self._shared = shared_in(trainer.state, self._parameters(trainer))
        self._told: set[str] = set()
        self._looked: list[int] | None = None  # the copies that were looked at last, by their ids

    def look(self, trainer: Trainer[Any], content: Content) -> None:
        """Warns of what a callback has changed since the fit began: this checkpoint cannot be loaded there.

        Args:
            trainer: As it is now.
            content: What is about to be written; of many processes only the first one has all of it.
        """
        if not content.state:
            return
        self._look_at_state(trainer)
        groups, data = _groups(trainer.optimizer), _size(trainer.train_loader)
        changes = {
            "the parameter groups of the optimizer": f"{self._groups} to {groups}" if groups != self._groups else "",
            "the size of the data": f"{self._data} to {data}" if data != self._data else "",
            "the weights and buffers of the model": self._of_models(content),
        }
        found = [f"{what} ({how})" for what, how in changes.items() if how and what + how not in self._told]
        self._told |= {what + how for what, how in changes.items()}
        if found:
            warn(
                f"{' and '.join(found)} changed inside the fit. The script, run again, begins this fit without that, "
                "and cannot load the checkpoints from here on. Change it between two fits, each with resume=True, or "
                "before the first"
            )

    def _look_at_state(self, trainer: Trainer[Any]) -> None:
        """Warns of what has come to be one object in two places of ``trainer.state``."""
        if not trainer.state:
            return
        for (first, second), what in shared_in(trainer.state, self._parameters(trainer)).items():
            told = f"{first!r} and {second!r}"
            if (first, second) not in self._shared and told not in self._told:
                self._told.add(told)
                warn(
                    f"trainer.state has one {what} at {told} since this fit began: after a resume these are two, and "
                    "what changes one leaves the other. Put it in both places before the fit, or a copy into one"
                )

    def _parameters(self, trainer: Trainer[Any]) -> dict[int, str]:
        if not any(isinstance(one, nn.Parameter) for one in tensors_in(trainer.state)):
            return {}
        return {
            id(one): key_in(name, path)
            for name, model in named(trainer.model).items()
            for path, one in model.named_parameters()
        }

    def _of_models(self, content: Content) -> str:
        whole, parts = content.tensors.get("model", {}), (content.parts or {}).get("model", {})
        before, self._looked = self._looked, [*map(id, whole.values())]
        if self._looked == before and not parts:  # copies in the same memory: the tensors have the form that they had
            return ""
        kinds = _kinds(whole.items())
        if kinds == self._kinds:
            return ""
        names, unset = kinds.keys() | parts.keys(), content.state["unset"]
        known = self._kinds.keys() | self._lazy
        found = {
            "new": [name for name in names if name not in known and name not in self._unset],
            "gone": [name for name in known if name not in names and name not in unset],
            "another shape or type": [name for name in kinds if self._kinds.get(name, kinds[name]) != kinds[name]],
        }
        return "; ".join(f"{what}: {', '.join(sorted(those))}" for what, those in found.items() if those)


def _kinds(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors}


def _groups(optimizer: Any) -> Any:
    groups = {
        name: [len(group["params"]) for group in getattr(one, "param_groups", ())]
        for name, one in named(optimizer).items()
    }
    return groups.get("", groups)


def _size(loader: Any) -> str:
    size = data_size(loader)
    # How many batches samples are in may follow from what a sampler remembers, which comes back.
    known = "batches" if size["samples"] is None else "samples"
    return f"{size[known]} {known}, {size['batch_size']} in a batch"
