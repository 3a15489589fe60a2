"""The pages of Markdown in the project: their blocks of code, and a way to run them as a reader would.

What stands between two fences is a block, and a comment on the line above it is its mark:

    (none)              a python block runs, in the page's order, in one namespace; a sh block is read
    output              what the block before it prints; the numbers with a decimal point may differ
    file: train.py      a python block that is a file of its own; it runs as one, by itself
    docstring: a.b      a part of the docstring of ``a.b``, word for word
    before: keras       what the block of another library begins with: runs, and is put before that block
    other: keras        a script of another library; runs where that library is
    foreign: not run    code of another library, or of another time, that is no whole script
    torchrun            commands that need torchrun
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """What stands between two fences, with the line that it begins at and the mark above it."""

    language: str
    mark: str | None
    line: int
    text: str

    @property
    def kind(self) -> str | None:
        """The mark up to its colon."""
        return None if self.mark is None else self.mark.partition(":")[0]

    @property
    def about(self) -> str:
        """The mark after its colon."""
        return (self.mark or "").partition(": ")[2]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["mark"], text.count("\n", 0, found.start("text")) + 1, found["text"])
        for found in FENCE.finditer(text)
    ]


def shape(text: str) -> list[list[str]]:
    """A text as the words of its lines, with a # for what a training measures, which differs between machines."""
    return [re.sub(r"\d+\.\d+(e[-+]\d+)?|\d+e[-+]\d+", "#", line).split() for line in text.splitlines()]


def run_in_order(page: Path, printed: Callable[[], str]) -> int:
    """Runs the python blocks of a page that have no mark, and compares what they print with what the page says.

    Args:
        page: The page.
        printed: Gives what has been printed since it was last asked.

    Returns:
        How many blocks ran.
    """
    namespace: dict[str, object] = {"__name__": "page"}
    ran, said = 0, ""
    for block in blocks(page):
        if block.language == "python" and block.kind in (None, "before"):
            # As many empty lines before it as the page has: a traceback names the right line.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            ran, said = ran + 1, printed()
        elif block.kind == "output":
            assert shape(said) == shape(block.text), f"{page.name}, line {block.line}, but printed:\n{said}"
    return ran
