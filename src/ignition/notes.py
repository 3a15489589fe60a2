"""Notes (PEP 678) on errors of torch that the user's function runs into, where the fix is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["explained"]

_NOTES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        IndexError,
        "invalid index of a 0-dim tensor",
        "Ignition: loss.data[0] is torch 0.3 of 2018. Return the tensor itself, {'loss': loss}, or its number, "
        "{'loss': loss.item()}.",
    ),
    (
        RuntimeError,
        "Expected all tensors to be on the same device",
        "Ignition: the Trainer moves its model and the batches; what a function uses besides (a teacher, class "
        "weights) is moved once by yourself: teacher.to(default_device()), or make_var(x) for a single tensor.",
    ),
    (
        RuntimeError,
        "does not require grad and does not have a grad_fn",
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
        for kind, text, note in _NOTES:
            if isinstance(error, kind) and text in str(error) and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        raise
