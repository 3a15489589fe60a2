"""One object, or a list, tuple or dict of them: read the same way everywhere by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["by_class", "key_in", "like", "named", "suffix"]


def named(objects: Any) -> dict[str, Any]:
    """The objects by name: ``{"": it}`` for one, ``{"0": ..., "1": ...}`` for a list or tuple, a dict as it is.

    None is no object: ``named(None)`` is empty.

    Example:
        >>> named([10, 20])
        {'0': 10, '1': 20}
        >>> named(10)
        {'': 10}
    """
    if objects is None:
        return {}
    if isinstance(objects, Mapping):
        return {str(name): value for name, value in objects.items()}
    if isinstance(objects, (list, tuple)):
        return {str(index): value for index, value in enumerate(objects)}
    return {"": objects}


def like(objects: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with `change` applied to each object.

    Example:
        >>> like({"G": 1, "D": 2}, str)
        {'G': '1', 'D': '2'}
    """
    if objects is None:
        return None
    if isinstance(objects, Mapping):
        return {name: change(value) for name, value in objects.items()}
    if isinstance(objects, (list, tuple)):
        changed = [change(value) for value in objects]
        return type(objects)(*changed) if hasattr(objects, "_fields") else type(objects)(changed)
    return change(objects)


def suffix(name: str) -> str:
    """How a name of `named` is put behind another word: ``""`` for the only one, else ``"_name"``."""
    return f"_{name}" if name else ""


def by_class(objects: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Objects, each under its class's name and its place among those of that class."""
    counts: dict[str, int] = {}
    for one in objects:
        name = type(one).__name__
        counts[name] = counts.get(name, 0) + 1
        yield f"{name}.{counts[name]}", one


def key_in(name: str, key: str) -> str:
    """The name of a part of one of several objects: of the only one its own."""
    return f"{name}.{key}" if name else key
