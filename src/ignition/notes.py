"""Notes (PEP 678) on errors of torch that the user's function runs into, where the fix is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["explained"]

_NOTES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        IndexError,
        r"invalid index of a 0-dim tensor",
        "Ignition: loss.data[0] is torch 0.3 of 2018. Return the tensor itself, {'loss': loss}, or its number, "
        "{'loss': loss.item()}.",
    ),
    (
        RuntimeError,
        # Most functions say the first, some the second; convolutions name two types, of which one is the CPU's.
        r"same device"
        r"|is not on the expected device"
        r"|Input type \(torch\.\w+Tensor\) and weight type \((?!torch\.\w+Tensor\))"
        r"|Input type \((?!torch\.\w+Tensor\))[^)]*\) and weight type \(torch\.\w+Tensor\)",
        "Ignition: the Trainer moves its model and the batches; what a function uses besides (a teacher, class "
        "weights) is moved once by yourself: teacher.to(default_device()), or make_var(x) for a single tensor.",
    ),
    (
        RuntimeError,
        r"got mixed torch\.Tensor and DTensor",
        "Ignition: under FSDP the parameters are whole while the module runs that gathers them, the model or a block "
        "of it. Call what is no block inside of the forward of one, or make it one: FSDP(wrap=(Block, nn.Linear)).",
    ),
    (
        RuntimeError,
        r"finished reduction in the prior iteration",
        "Ignition: a trained parameter had no share in the loss of the step before. Where that may be, "
        "strategy=DDP(find_unused_parameters=True). Freeze in on_epoch_begin, in on_record or between two fits: "
        "anywhere else DDP still waits for the gradient.",
    ),
    (
        RuntimeError,
        r"does not require grad and does not have a grad_fn",
        "Ignition: the loss has no graph. Look for .item(), .detach() or torch.no_grad() on the way to it, and for a "
        "frozen model. In an eval function gradients are off unless it says: with torch.enable_grad().",
    ),
)


@contextmanager
def explained() -> Iterator[None]:
    """Lets everything through unchanged, with a note on those errors that have a known fix."""
    try:
        yield
    except Exception as error:
        known = getattr(error, "__notes__", ())  # an evaluation inside a fit has been here already
        for kind, pattern, note in _NOTES:
            if isinstance(error, kind) and re.search(pattern, str(error)) and note not in known:
                error.add_note(note)
        raise
