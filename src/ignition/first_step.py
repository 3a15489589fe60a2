"""Whether the right optimizers take the steps: seen in the first step of a fit."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from ignition.errors import OptimizerError, warn
from ignition.structure import named

__all__ = ["check_first_step"]


def check_first_step(optimizer: Any, stepped: list[Optimizer], dependents: list[str]) -> None:
    """Compares the optimizers that took the first step with those that the Trainer knows.

    Args:
        optimizer: The Trainer's: one, several or none.
        stepped: Those that took the step, or left it out for an overflow.
        dependents: What would go wrong in silence if the wrong optimizer stepped, in words.

    Raises:
        OptimizerError: If they are others, and there is something that depends on the steps.
    """
    known = named(optimizer)
    if not all(isinstance(one, Optimizer) for one in known.values()):
        return  # one that is not torch's takes its steps unseen
    strange = [one for one in stepped if all(one is not other for other in known.values())]
    idle = bool(known) and not any(one is other for one in stepped for other in known.values())
    if strange:
        names = ", ".join(type(one).__name__ for one in strange)
        found = f"the first step was taken by an optimizer that the Trainer does not have ({names})"
    elif idle:
        names = ", ".join(type(one).__name__ for one in known.values())
        found = f"the Trainer's optimizer ({names}) took no step in the first call of train_fn"
    else:
        return
    expected = "the optimizer that train_fn steps is the one that was given to Trainer(...)"
    fix = "make the Trainer after the optimizer, with that very object (in a notebook: run the cell again)"
    if dependents:
        raise OptimizerError(f"{found}, on which depends: {', '.join(dependents)}", expected, fix)
    warn(f"{found}; {expected}; {fix}")
