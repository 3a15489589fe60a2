"""Marks for single cases of a test."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """A case that `make test-quick` leaves out: others of the same test are near enough for every save."""
    return pytest.param(*values, marks=pytest.mark.slow)
