"""The checkpoints in a folder: what their names say is what orders them, and what they must hold."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ignition.checkpoint import Content, OtherVersion, write
from ignition.checkpoint_folder import (
    best_of,
    end_of,
    is_end,
    is_name,
    name_of,
    paths_in,
    place_in,
    read_named,
    to_be_removed,
)
from ignition.errors import CheckpointError

PLACES = st.tuples(st.integers(0, 2000), st.integers(0, 3 * 10**9), st.booleans())


@pytest.mark.parametrize(
    ("fit", "step", "ended", "name"),
    [
        (1, 0, False, "fit-001-step-000000000"),
        (1, 12, True, "fit-001-step-000000012-end"),
        (12, 123456789, False, "fit-012-step-123456789"),
        (1000, 10**9, True, "fit-1000-step-1000000000-end"),
    ],
)
def test_a_name_says_fit_and_step_and_whether_the_fit_ended(fit, step, ended, name):
    assert name_of(fit, step, "-end" if ended else "") == name
    assert place_in(Path("runs", name)) == (fit, step, ended)
    assert is_end(Path("runs", name)) is ended
    assert is_name(name)
    assert not is_name(f"../{name}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "best",
        "fit-1-step-000000001",
        "fit-001-step-1",
        "fit-001-step-000000001-ended",
        "fit-001-step-000000001.old",
        "broken-fit-001-step-000000001",
        ".writing-fit-001-step-000000001",
        "fit-001-step-000000001\n",
        "fit-001-step--00000001",
    ],
)
def test_what_has_another_name_is_no_checkpoint(name, tmp_path):
    assert place_in(Path(name)) == (0, 0, False)
    assert not is_end(Path(name))
    assert not is_name(name)
    if name:
        (tmp_path / name).mkdir()
    assert paths_in(tmp_path) == []


@given(st.lists(PLACES, min_size=2, max_size=6, unique=True))
def test_each_place_has_a_name_of_its_own_that_says_it(places):
    names = [name_of(fit, step, "-end" if ended else "") for fit, step, ended in places]
    assert len(set(names)) == len(names)
    assert [place_in(Path(name)) for name in names] == places


def test_the_checkpoints_of_a_folder_come_by_fit_and_step_whatever_their_times_and_digits(tmp_path):
    names = [
        "fit-001-step-000000002",
        "fit-001-step-000000010",
        "fit-001-step-000000010-end",
        "fit-002-step-000000010",
        "fit-002-step-999999999",
        "fit-002-step-1000000000",
        "fit-999-step-000000001",
        "fit-1000-step-000000000",
    ]
    random.Random(0).shuffle(shuffled := list(names))
    for name in shuffled:
        (tmp_path / name).mkdir()
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in paths_in(tmp_path)] == names
    assert all(path.parent == tmp_path for path in paths_in(tmp_path))


def test_a_folder_that_is_not_there_or_is_a_file_has_none(tmp_path):
    assert paths_in(tmp_path / "missing") == []
    (tmp_path / "file").write_text("")
    assert paths_in(tmp_path / "file") == []


# What it holds


def content(fit=2, step=7, ended=False):
    return Content(
        {"fit": {"number": fit, "ended": ended}, "position": {"step": step}}, {"model": {"a": torch.arange(3)}}
    )


@pytest.mark.parametrize("ended", [True, False])
def test_a_checkpoint_that_is_the_one_of_its_name_is_read(ended, tmp_path):
    path = tmp_path / name_of(2, 7, "-end" if ended else "")
    write(path, content(ended=ended))
    found = read_named(path)
    assert found.state == content(ended=ended).state
    assert found.tensors["model"]["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (content(step=8), "it holds step 8 of fit 2"),
        (content(fit=1), "it holds step 7 of fit 1"),
        (content(ended=True), "it holds step 7 of fit 2, its end"),
        (Content({}), "it holds nothing of a fit"),
        (Content({"fit": None, "position": {"step": 7}}), "it holds nothing of a fit"),
        (Content({"fit": {"number": 2, "ended": False}, "position": {}}), "it holds nothing of a fit"),
        (Content({"fit": {"number": 2, "ended": False}, "position": [7]}), "it holds nothing of a fit"),
    ],
    ids=["another step", "another fit", "its end", "nothing", "no fit", "no step", "a list"],
)
def test_one_that_was_exchanged_for_another_is_broken_and_says_what_it_holds(held, found, tmp_path):
    path = tmp_path / "fit-002-step-000000007"
    write(path, held)
    with pytest.raises(CheckpointError) as caught:
        read_named(path)
    given_, expected, fix = caught.value.args
    assert given_ == f"the checkpoint {path} is broken: {found}"
    assert expected == "what its name says, as Checkpoint wrote it"
    assert "give a folder that was renamed or exchanged its name back" in fix


def test_one_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match="fit-002-step-000000007"):
        read_named(tmp_path / "fit-002-step-000000007")


# What is kept


@pytest.mark.parametrize(
    ("keep", "others", "kept"),
    [
        (1, [], ["fit-001-step-000000008-end", "fit-002-step-000000012"]),
        (2, [], ["fit-001-step-000000008-end", "fit-002-step-000000010", "fit-002-step-000000012"]),
        (1, ["fit-001-step-000000004-end"],
         ["fit-001-step-000000004-end", "fit-001-step-000000008-end", "fit-002-step-000000012"]),
        (4, [], ["fit-001-step-000000008", "fit-001-step-000000008-end", "fit-002-step-000000010",
                 "fit-002-step-000000012"]),
        (9, [], ["fit-001-step-000000004", "fit-001-step-000000008", "fit-001-step-000000008-end",
                 "fit-002-step-000000010", "fit-002-step-000000012"]),
    ],
)  # fmt: skip
def test_the_newest_are_kept_and_of_each_fit_the_last_end(keep, others, kept):
    names = [
        "fit-001-step-000000004", "fit-001-step-000000004-end", "fit-001-step-000000008", "fit-001-step-000000008-end",
        "fit-002-step-000000010", "fit-002-step-000000012",
    ]  # fmt: skip
    paths = [Path("runs", name) for name in names]
    gone = to_be_removed(paths, keep, [None, *(Path("runs", name) for name in others)])
    assert [path.name for path in paths if path not in gone] == kept


def test_the_end_of_a_fit_is_found_among_those_of_others(tmp_path):
    for fit, step, ended in [(1, 4, True), (2, 6, True), (2, 8, True), (3, 9, False)]:
        write(tmp_path / name_of(fit, step, "-end" if ended else ""), content(fit, step, ended))
    path, found = end_of(2, tmp_path / "fit-003-step-000000009")
    assert path.name == "fit-002-step-000000008-end"
    assert found.state["fit"]["number"] == 2


@pytest.mark.parametrize("there", [True, False])
def test_an_end_that_is_lost_is_told_with_the_way_that_works(there, tmp_path):
    newest = tmp_path / "fit-003-step-000000009"
    write(newest, content(3, 9))
    if there:
        (tmp_path / "fit-002-step-000000008-end").mkdir()
    with pytest.raises(CheckpointError) as caught:
        end_of(2, newest)
    found, _, fix = caught.value.args
    assert ("fit-002-step-000000008-end is broken: state.json cannot be read" in found) is there
    assert ("has no checkpoint of the end of fit 2" in found) is not there
    assert f'put trainer.load("{newest}") in the place of fits 2 to 3' in fix


def test_an_end_of_another_release_is_told_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr("ignition.checkpoint.VERSION", 2)
    write(tmp_path / "fit-002-step-000000008-end", content(2, 8, True))
    monkeypatch.undo()
    with pytest.raises(OtherVersion):
        end_of(2, tmp_path / "fit-003-step-000000009")


@pytest.mark.parametrize(("mode", "best"), [("min", (1.0, 4)), ("max", (3.0, 6))])
def test_the_best_checkpoint_is_told_by_the_records_of_the_steps(mode, best):
    paths = [Path("runs") / name_of(1, step) for step in (2, 4, 5, 6)]
    losses = {2: 2.0, 3: 0.5, 4: 1.0, 6: 3.0, 8: float("nan")}
    rows = [{"step": 1}, *({"step": step, "loss": value} for step, value in losses.items())]
    assert best_of(paths, rows, "loss", mode) == (best[0], Path("runs") / name_of(1, best[1]))
    assert best_of(paths, rows, "acc", mode) is None
    assert best_of([], rows, "loss", mode) is None
