"""What checks found: one line each, with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Failed", "Outcome", "Report", "Skipped"]


class Failed(Exception):
    """A check found a fault; the text says which, and what to do."""


class Skipped(Exception):
    """A check cannot be made here; the text says why."""


class Outcome(NamedTuple):
    """What came of one check.

    Attributes:
        name: What was checked.
        passed: False where a fault was found. A check that was skipped counts as passed.
        message: What was seen, and what to do; ``"skipped: ..."`` where the check could not be made.
    """

    name: str
    passed: bool
    message: str

    @property
    def verdict(self) -> str:
        """``"passed"``, ``"FAILED"`` or ``"skipped"``."""
        if not self.passed:
            return "FAILED"
        return "skipped" if self.message.startswith("skipped: ") else "passed"


class Report:
    """The outcomes of checks, each a ``(name, passed, message)``; shown and printed as one line each.

    Args:
        outcomes: In the order in which they were made.

    Example:
        >>> report = Report([Outcome("inputs", True, "from 0 to 1"), Outcome("loss", False, "it is NaN")])
        >>> report.passed, [name for name, passed, message in report if not passed]
        (False, ['loss'])
        >>> report
        passed  inputs  from 0 to 1
        FAILED  loss    it is NaN
        1 passed, 1 failed, 0 skipped
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    @property
    def passed(self) -> bool:
        """Whether no check found a fault."""
        return all(outcome.passed for outcome in self._outcomes)

    def __getitem__(self, index: int) -> Outcome:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __repr__(self) -> str:
        width = max((len(outcome.name) for outcome in self._outcomes), default=0)
        lines = []
        for outcome in self._outcomes:
            message = outcome.message.removeprefix("skipped: ").replace("\n", " ")
            lines.append(f"{outcome.verdict:<7} {outcome.name:<{width}}  {message}".rstrip())
        verdicts = [outcome.verdict for outcome in self._outcomes]
        counts = [f"{verdicts.count(verdict)} {verdict.lower()}" for verdict in ("passed", "FAILED", "skipped")]
        return "\n".join([*lines, ", ".join(counts)])
