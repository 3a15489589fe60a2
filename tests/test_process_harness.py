"""The processes of a test end, whatever they do, and what they printed is shown."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from processes import run_processes


def fails_on_one(folder: str) -> None:
    print(f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}", flush=True)
    if os.environ["RANK"] == "1":
        raise ValueError("on purpose")
    time.sleep(30)


def test_a_process_that_fails_ends_the_others_and_all_is_shown(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)process 0 of 2.*exit status 1.*on purpose"):
        run_processes(fails_on_one, 2, tmp_path, folder=tmp_path, patience=0.5)


@pytest.mark.slow
def test_what_takes_too_long_is_ended_and_shown(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import time; print('begun', flush=True); time.sleep(30)")
    where = r"script\.py\", line 1 in <module>"
    with pytest.raises(AssertionError, match=rf"(?s)killed after 1 s.*begun.*{where}.*rank 1.*{where}"):
        run_processes(script, 2, folder=tmp_path, time_limit=1)
