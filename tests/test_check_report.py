"""A report of checks: one line each, and what they come to."""

from __future__ import annotations

from ignition.check_report import Outcome, Report


def test_each_check_is_a_line_with_its_verdict_and_the_counts_come_last():
    report = Report(
        [
            Outcome("a", True, "fine"),
            Outcome("longer", False, "wrong:\ndo this"),
            Outcome("b", True, "skipped: no data"),
        ]
    )
    assert str(report).splitlines() == [
        "passed  a       fine",
        "FAILED  longer  wrong: do this",
        "skipped b       no data",
        "1 passed, 1 failed, 1 skipped",
    ]
    assert str(report) == repr(report)


def test_it_passes_unless_a_check_failed():
    assert Report([]).passed
    assert Report([Outcome("a", True, "skipped: no data")]).passed
    assert not Report([Outcome("a", True, ""), Outcome("b", False, "")]).passed


def test_it_is_read_as_triples():
    report = Report([Outcome("a", True, "fine")])
    assert [(name, passed, message) for name, passed, message in report] == [("a", True, "fine")]
    assert report[0].verdict == "passed"
    assert len(report) == 1
