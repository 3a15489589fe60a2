"""The docstrings as they are meant.

An ``Example:`` is a section of code, which griffe calls ``Examples:``; a double colon says that code follows, which
Markdown sees by itself.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the section in each docstring that is read, and halves the double colons."""

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
