"""The table of faults: what the tests have tried, how often, and what came of it; printed, and written to the docs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->\n"

Row = tuple[str, int, str]


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows of one fault as one: tries are added, and so are the counts in outcomes such as "Equal 3, Retained 3".

    >>> merged([("kill", 1, "Equal 1, no Hang"), ("kill", 4, "Equal 4, no Hang")])
    [('kill', 5, 'Equal 5, no Hang')]
    """
    tries: dict[str, int] = {}
    outcomes: dict[str, dict[str, int]] = {}
    for fault, count, outcome in rows:
        tries[fault] = tries.get(fault, 0) + count
        parts = outcomes.setdefault(fault, {})
        for part in outcome.split(", "):
            match = re.fullmatch(r"(.*) (\d+)", part)
            name, number = (match[1], int(match[2])) if match else (part, 0)
            parts[name] = parts.get(name, 0) + number
    return [
        (fault, tries[fault], ", ".join(f"{name} {number}" if number else name for name, number in parts.items()))
        for fault, parts in sorted(outcomes.items())
    ]


def lines(rows: list[Row]) -> list[str]:
    """As it is printed."""
    return [f"{fault:<66} {tries:>5}  {outcome}" for fault, tries, outcome in rows]


def write(rows: list[Row], page: Path = PAGE) -> None:
    """Puts the table in the place of the one in the page."""
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = ["| fault | tries | outcome |", "| --- | --- | --- |", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    page.write_text(before + BEGIN + "\n".join(table) + "\n" + END + after)
