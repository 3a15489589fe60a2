"""What a callback is: a class with one method for each event, all of them optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["EVENTS", "Callback"]

EVENTS = (
    "train_begin",
    "train_end",
    "epoch_begin",
    "epoch_end",
    "batch_begin",
    "batch_end",
    "step_end",
    "eval_begin",
    "eval_end",
    "record",
    "exception",
)
"""The names that `Trainer.on` takes; the method of a `Callback` is the name with ``on_`` before it."""


class Callback:
    """Base of all callbacks. Override the events that you need; an event nobody overrides costs nothing.

    The order in which the events come is written in `ignition.loop.fit`. Everything that a callback may read
    or change hangs on the trainer: ``trainer.model``, ``.optimizer``, ``.hyper``, ``.state``, ``.history``,
    ``.epoch`` (1-based), ``.step`` (steps finished), ``.batch_metrics`` (what the train function last returned).

    What an event raises ends the fit, unchanged; `on_train_end` of all callbacks comes then too.

    A callback that remembers something from event to event returns it from `state_dict` (numbers, strings,
    None, tensors, and lists and dicts of them) and takes it back in `load_state_dict`.

    Example:
        >>> class PrintLoss(Callback):
        ...     def on_record(self, trainer):
        ...         print(trainer.epoch, trainer.history.last["train_loss"])
    """

    order: ClassVar[int] = 0
    """Callbacks run by rising order, and in the order of the list where it is equal. Schedules have -1."""

    main_only: ClassVar[bool] = False
    """Whether of many processes the first one alone calls it, as it prints or writes; it must not wait for others."""

    needs_updates: bool = False
    """Whether it asks `Trainer.updated` which optimizers really took a step; the Trainer then watches them."""

    def prepare(self, trainer: Trainer[Any]) -> None:
        """Before the model is wrapped or compiled, for what must see the user's: once a fit, and in `Trainer.load`."""

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Once at the start of a fit; not of one whose checks fail, or which is passed over as finished."""

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Once at the end of a fit that has begun, in every case, after `on_exception` when something was raised."""

    def on_epoch_begin(self, trainer: Trainer[Any]) -> None:
        """Before the first batch of an epoch; not again when a fit goes on inside an epoch."""

    def on_epoch_end(self, trainer: Trainer[Any]) -> None:
        """After the record of an epoch."""

    def on_batch_begin(self, trainer: Trainer[Any]) -> None:
        """Before each call of the train function."""

    def on_batch_end(self, trainer: Trainer[Any]) -> None:
        """After each call of the train function; its metrics are in ``trainer.batch_metrics``."""

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        """After each step; ``trainer.step`` counts it already."""

    def on_eval_begin(self, trainer: Trainer[Any]) -> None:
        """Before an evaluation by the trainer."""

    def on_eval_end(self, trainer: Trainer[Any]) -> None:
        """After an evaluation by the trainer, before its record is written."""

    def on_record(self, trainer: Trainer[Any]) -> None:
        """After a record was written; it is ``trainer.history.last``."""

    def on_exception(self, trainer: Trainer[Any]) -> None:
        """When something was raised; it is ``trainer.exception``, and goes on after `on_train_end`."""

    def columns_needed(self) -> tuple[str, ...]:
        """The columns of history that it cannot do without; a name that no record has is an error before it is written.

        One that begins with ``val_`` is an error before the first batch where nothing is evaluated.
        """
        return ()

    def check_columns(self, columns: list[str]) -> None:
        """Looks at the columns that history will have, before each record is written; what it raises ends the fit.

        Args:
            columns: Their names.
        """

    def averaged(self) -> dict[str, Any]:
        """Models that it makes of the trainer's, by name: each is evaluated and saved beside the trainer's own."""
        return {}

    def averages(self) -> list[dict[str, Any]]:
        """The ``AveragedModel`` of each model by name, for each average that it keeps: sharded with the model."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback. Nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Looks, before anything of a checkpoint is put back, whether `load_state_dict` can take it; changes nothing.

        Args:
            trainer: The one that goes on from the checkpoint.
            state: What `state_dict` returned when it was written.

        Raises:
            ArgumentError: If it cannot; by default every state will do.
        """
