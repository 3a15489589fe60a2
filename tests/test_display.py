"""PlotProgress: its pictures are opened with Pillow, and those of a notebook come from a real kernel."""

from __future__ import annotations

import base64
import gc
import io
import os
import sys
import types
import warnings

import matplotlib
import pytest
import torch
from kernel import run_cells
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from ignition import Trainer
from ignition.callbacks import PlotProgress, display
from ignition.errors import ArgumentError, IgnitionError, IgnitionWarning


def make_trainer(*callbacks, **metrics):
    """A Trainer of two batches an epoch, with these metrics."""

    def measure(model, x):
        return metrics or {"loss": 0.5, "acc": 0.25}

    batches = [torch.ones(4, 1) for _ in range(2)]
    trainer = Trainer(nn.Linear(1, 1), None, measure, batches, measure, batches, progress=False)
    trainer.callbacks = list(callbacks)
    return trainer


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set; each drawing takes `drawing` seconds of it."""
    now = types.SimpleNamespace(seconds=100.0, drawing=0.0, figures=[])
    save = Figure.savefig

    def savefig(figure, *arguments, **keywords):
        now.seconds += now.drawing
        now.figures.append([axes.get_title() for axes in figure.axes])
        return save(figure, *arguments, **keywords)

    monkeypatch.setattr(display, "perf_counter", lambda: now.seconds)
    monkeypatch.setattr(Figure, "savefig", savefig)
    return now


def test_outside_a_notebook_the_curves_go_into_a_file(tmp_path):
    path = tmp_path / "new" / "curves.png"
    make_trainer(PlotProgress(path)).fit(epochs=2)
    with Image.open(path) as picture:
        width, height = picture.size
        assert picture.format == "PNG"
        assert width > 2 * height  # two pairs of axes side by side
        assert len(picture.convert("L").getcolors()) > 10
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a.PNG", b"\x89PNG")])
def test_the_ending_says_what_kind_of_file_it_is(tmp_path, name, start):
    make_trainer(PlotProgress(str(tmp_path / name))).fit(epochs=1)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.slow
def test_each_metric_has_its_axes_or_only_those_that_were_asked_for(tmp_path, clock):
    make_trainer(PlotProgress(tmp_path / "a.png")).fit(epochs=1)
    make_trainer(PlotProgress(tmp_path / "a.png", metrics=["val_acc"])).fit(epochs=1)
    assert [len(titles) for titles in clock.figures] == [2, 1]
    make_trainer(PlotProgress(tmp_path / "a.png"), **{f"m{number}": 1.0 for number in range(7)}).fit(epochs=1)
    assert len(clock.figures[-1]) == 7


@pytest.mark.slow
def test_records_that_come_fast_are_drawn_seldom_and_the_last_one_always(tmp_path, clock):
    clock.drawing = 1.0
    plot = PlotProgress(tmp_path / "a.png")
    drawn = []
    trainer = make_trainer(plot)

    @trainer.on("record")
    def pass_time(trainer):
        drawn.append(len(clock.figures))
        clock.seconds += 5.0

    trainer.fit(epochs=9)
    # The first two at once, as the first has matplotlib imported; then each 10 seconds after the end of the last, which
    # took 1; and what is missing at the end.
    assert drawn == [1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len(clock.figures) == 6
    trainer.fit(epochs=1)
    assert len(clock.figures) == 7


def test_what_is_drawn_already_is_not_drawn_again_at_the_end(tmp_path, clock):
    make_trainer(PlotProgress(tmp_path / "a.png")).fit(epochs=1)
    assert len(clock.figures) == 1


def figures():
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), Figure)}


def test_no_figure_is_left_and_pyplot_knows_of_none(tmp_path):
    before = figures()
    make_trainer(PlotProgress(tmp_path / "a.png")).fit(epochs=3)
    assert figures() <= before


def test_an_error_in_the_training_leaves_the_curves_so_far_and_the_next_fit_goes_on(tmp_path, clock):
    path = tmp_path / "a.png"
    trainer = make_trainer(PlotProgress(path))
    broken = True

    @trainer.on("epoch_begin")
    def fail(trainer):
        if broken and trainer.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=5)
    assert len(clock.figures) == 2  # the first record, and what was missing at the end
    broken = False
    trainer.fit(epochs=1)
    assert len(clock.figures) == 3


def test_a_name_that_no_record_has_is_one_warning_and_the_others_are_drawn(tmp_path, clock):
    trainer = make_trainer(PlotProgress(tmp_path / "a.png", metrics=["val_los", "val_loss"]))
    with pytest.warns(IgnitionWarning, match=r"leaves out 'val_los'.*the training goes on") as seen:
        trainer.fit(epochs=3)
    assert len(seen) == 1
    assert [len(titles) for titles in clock.figures] == [1, 1]


def test_a_disk_that_fails_is_one_warning_and_the_next_drawing_tries_again(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) < 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(display.os, "replace", replace)
    with pytest.warns(IgnitionWarning, match="PlotProgress could not draw: .*No space left"):
        make_trainer(PlotProgress(path)).fit(epochs=1)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_training_without_a_metric_has_no_picture_and_goes_on(tmp_path):
    trainer = Trainer(nn.Linear(1, 1), None, lambda model, x: None, [torch.ones(1)], progress=False)
    trainer.callbacks = [PlotProgress(tmp_path / "a.png")]
    with pytest.warns(IgnitionWarning, match="there is no metric to draw"):
        trainer.fit(epochs=2)
    assert len(trainer.history) == 2


def test_without_a_path_and_a_notebook_it_says_that_it_draws_nothing():
    with pytest.warns(IgnitionWarning, match=r"PlotProgress draws nothing here.*PlotProgress\('curves.png'\)"):
        make_trainer(PlotProgress()).fit(epochs=1)


@pytest.mark.parametrize("path", [3, ["val_loss"], b"a.png"])
def test_a_path_that_is_none_is_an_error(path):
    with pytest.raises(ArgumentError, match="as its path"):
        PlotProgress(path)


@pytest.mark.parametrize("metrics", ["val_loss", [], [1], 3])
def test_metrics_that_are_no_names_are_an_error(metrics):
    with pytest.raises(ArgumentError, match="metrics="):
        PlotProgress(metrics=metrics)


@pytest.mark.parametrize("name", ["curves", "curves.txt"])
def test_a_file_that_is_no_picture_is_an_error_before_the_first_batch(tmp_path, name):
    trainer = make_trainer(PlotProgress(tmp_path / name))
    with pytest.raises(ArgumentError, match=r"name it '.*curves\.png'"):
        trainer.fit(epochs=1)
    assert trainer.step == 0


def test_without_matplotlib_the_error_comes_before_the_first_batch(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    trainer = make_trainer(PlotProgress(tmp_path / "a.png"))
    with pytest.raises(IgnitionError, match=r"needs matplotlib(.|\n)*pip install"):
        trainer.fit(epochs=1)
    assert trainer.step == 0


class Missing:
    """A finder for which there is no matplotlib."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")


def test_the_style_that_the_user_has_set_is_kept(tmp_path):
    path = tmp_path / "a.png"
    with matplotlib.rc_context({"figure.facecolor": "#102030"}):
        make_trainer(PlotProgress(path)).fit(epochs=1)
    with Image.open(path) as picture:
        assert picture.convert("RGB").getpixel((1, 1)) == (0x10, 0x20, 0x30)


def test_it_shows_what_it_is():
    assert repr(PlotProgress()) == "PlotProgress()"
    assert repr(PlotProgress("runs/a.png")) == "PlotProgress('runs/a.png')"


@pytest.mark.slow
def test_in_a_kernel_each_fit_has_one_picture_that_is_redrawn_in_its_place(tmp_path, monkeypatch):
    setup = """
import time
from ignition.callbacks import PlotProgress
trainer.callbacks = [PlotProgress("curves.png")]
@trainer.on("record")
def wait(trainer):
    time.sleep(0.3)
"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client, cells = run_cells(
            setup, "history = trainer.fit(epochs=8)", "history = trainer.fit(epochs=1)",
            "import sys; print('matplotlib.pyplot' in sys.modules)", folder=tmp_path, monkeypatch=monkeypatch,
        )  # fmt: skip
    first, second = client.shown("image/png")
    assert 2 <= len(first) < 8
    assert len(second) == 1
    assert len({*first, *second}) == len(first) + 1  # each is another picture
    for encoded in (*first, *second):
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert picture.format == "PNG"
    (shown,) = [output for output in cells[1].outputs if "image/png" in output["data"]]
    assert shown["data"]["text/plain"] == "<curves of 8 records>"
    assert shown["metadata"]["image/png"]["width"] < 1000
    assert cells[3].outputs[0]["text"] == "False\n"
    assert (tmp_path / "curves.png").exists()
