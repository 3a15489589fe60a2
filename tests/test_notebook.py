"""What a notebook shows of a run: by the messages of a real kernel, and with a stand-in for IPython's display."""

from __future__ import annotations

import re
import sys
import types

import ipywidgets
import pytest
from kernel import run_cells

from ignition import notebook
from ignition.notebook import BarWidget, LiveTable, PassBar, Place
from ignition.progress import Progress

WIDGET = "application/vnd.jupyter.widget-view+json"
RECORD = {"epoch": 1, "step": 47, "train_loss": 0.9937, "lr": 0.1, "seconds": 1.25, "data_seconds": 0.5}


class Page:
    """In the place of IPython's display: what stands in each place, and how often it was put there."""

    def __init__(self):
        self.places = []

    def display(self, shown, *, raw, metadata, display_id):
        assert display_id is True
        page, place = self, [shown]
        page.places.append(place)
        return types.SimpleNamespace(update=lambda shown, *, raw, metadata: place.append(shown))

    def tables(self):
        return [place for place in self.places if isinstance(place[0], dict)]

    def widgets(self):
        return [place for place in self.places if isinstance(place[0], ipywidgets.Widget)]


@pytest.fixture
def page(monkeypatch):
    shown = Page()
    display = types.ModuleType("IPython.display")
    display.display = shown.display
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(notebook, "perf_counter", lambda: now.seconds)
    return now


def texts(widget):
    """What a bar shows: its name, how full it is, and the text behind it."""
    return tuple(child.value for child in widget.children)


def test_what_is_shown_in_a_place_takes_the_place_of_what_was_there(page):
    first, second = Place(), Place()
    for text in ("a", "b", "c"):
        first.show({"text/plain": text})
    second.show({"text/plain": "d"})
    assert page.places == [[{"text/plain": "a"}, {"text/plain": "b"}, {"text/plain": "c"}], [{"text/plain": "d"}]]


def test_a_table_grows_in_one_place_and_has_a_column_that_came_late(page, clock):
    records = LiveTable()
    for step, cells in enumerate([{"epoch": "1/2"}, {"epoch": "2/2", "val_loss": "0.5000"}]):
        clock.seconds += step
        records.add(cells)
    ((one, two),) = page.places
    assert one["text/html"].count("<tr>") == 2
    assert two["text/plain"].split() == ["epoch", "val_loss", "1/2", "-", "2/2", "0.5000"]
    assert two["text/html"].count("<tr>") == 3


def test_records_that_come_fast_are_drawn_together(page, clock):
    records = LiveTable()
    for epoch in range(1000):
        records.add({"epoch": str(epoch)})
    assert len(page.places[0]) == 1
    assert records.due <= clock.seconds + 1
    clock.seconds += 1
    records.add({"epoch": "1000"})
    assert len(page.places[0]) == 2
    records.draw()  # nothing is missing
    assert len(page.places[0]) == 2
    assert page.places[0][-1]["text/plain"].split()[-1] == "1000"


def test_a_bar_shows_how_far_its_pass_is(page, clock):
    widget = BarWidget()
    bar = PassBar(widget, "epoch 1/3", 10, 2)
    box = page.places[0][0]
    assert texts(box) == ("epoch 1/3", 0.2, "2/10 [00:00<?, ?it/s]")
    clock.seconds += 2
    bar.set_postfix_str("loss 0.5000", refresh=False)
    bar.update(4)
    assert texts(box) == ("epoch 1/3", 0.6, "6/10 [00:02<00:02,  2.00it/s, loss 0.5000]")
    widget.close()


def test_a_bar_of_a_pass_without_a_length_has_a_count(page, clock):
    widget = BarWidget()
    PassBar(widget, "epoch 1", None, 0).update(7)
    name, value, text = texts(page.places[0][0])
    assert (name, value) == ("epoch 1", 1.0)
    assert text.startswith("7/? [")
    widget.close()


def test_passes_one_after_another_and_inside_each_other_share_one_bar(page, clock):
    shown = Progress(True)
    shown.open()
    shown.begin("epoch 1/2", total=10)
    ((box,),) = page.places
    shown.draw(clock.seconds, 3, {"loss": 0.5})
    clock.seconds += 1
    shown.begin("evaluate", total=5)
    assert texts(box)[0] == "evaluate"
    shown.end()
    clock.seconds += 1
    shown.draw(clock.seconds, 4, {"loss": 0.25})
    assert texts(box)[:2] == ("epoch 1/2", 0.4)
    shown.end()
    assert not shown.is_open
    clock.seconds += 1
    shown.begin("epoch 2/2", total=10)
    assert texts(box)[:2] == ("epoch 2/2", 0.0)
    shown.close()
    assert len(page.widgets()) == 1
    assert page.places[0][1:] == [{"text/html": "", "text/plain": ""}]
    assert all(widget.comm is None for widget in (box, box.layout, *box.children))


def test_passes_that_are_over_at_once_do_not_flood_the_page(page, clock):
    shown = Progress(True)
    shown.open()
    shown.begin("epoch 1", total=1)
    box = page.places[0][0]
    shown.draw(clock.seconds, 1, {})
    for epoch in range(2, 1000):
        shown.begin(f"epoch {epoch}", total=1)
        assert shown.next_draw > clock.seconds
        shown.end()
    assert texts(box)[0] == "epoch 1"
    shown.close()


def test_a_pass_outside_a_fit_takes_its_bar_away(page):
    shown = Progress(True)
    for _ in range(2):
        shown.begin("evaluate", total=5)
        shown.end()
    assert [place[1:] for place in page.places] == [[{"text/html": "", "text/plain": ""}]] * 2


def test_each_fit_has_a_table_of_its_own(page, capsys):
    shown = Progress(True)
    for fit in range(2):
        shown.open()
        for epoch in (1, 2):
            shown.begin("epoch", total=5)
            shown.end()
            shown.record(RECORD | {"epoch": 2 * fit + epoch}, epochs=4)
        shown.close()
    last = [place[-1]["text/plain"] for place in page.tables()]
    assert [re.findall(r"\d/4", text) for text in last] == [["1/4", "2/4"], ["3/4", "4/4"]]
    assert capsys.readouterr() == ("", "")


def test_a_row_that_waits_is_shown_with_the_bar(page, clock):
    shown = Progress(True)
    shown.open()
    for _ in range(2):
        shown.record(RECORD, epochs=None)
    shown.begin("epoch 3", total=5)
    shown.draw(clock.seconds, 1, {})
    assert len(page.tables()[0]) == 1
    clock.seconds += 1
    shown.draw(clock.seconds, 2, {})
    assert len(page.tables()[0]) == 2
    shown.close()
    assert len(page.tables()[0]) == 2


def test_a_notebook_without_ipywidgets_has_a_table_too(page, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    shown = Progress(True)
    shown.open()
    shown.begin("epoch 1/3", total=10)
    shown.draw(5.0, 3, {"loss": 0.5})
    shown.end()
    shown.record(RECORD, epochs=3)
    shown.close()
    seen = capsys.readouterr()
    assert re.search(r"\repoch 1/3:  30%\|.*loss 0\.5000\]", seen.out)
    assert seen.err == ""
    assert len(page.places) == len(page.tables()) == 1


def test_in_a_notebook_progress_can_be_off(page, capsys):
    shown = Progress(False)
    shown.open()
    shown.begin("epoch 1/3", total=10)
    shown.record(RECORD, epochs=3)
    shown.end()
    shown.close()
    assert page.places == []
    assert capsys.readouterr() == ("", "")


# In a real kernel

in_kernel = pytest.mark.slow


def epochs_of(html):
    """The first cells of the rows of a table."""
    return re.findall(r"<tr[^>]*><td[^>]*>([^<]*)</td>", html)


@in_kernel
def test_a_fit_in_a_kernel_has_one_bar_and_one_table_that_is_redrawn_in_its_place(tmp_path, monkeypatch):
    slow = """
import time
@trainer.on("batch_end")
def wait(trainer):
    time.sleep(0.06)
history = trainer.fit(epochs=4)
"""
    client, (fit, evaluated) = run_cells(slow, "trainer.evaluate();", folder=tmp_path, monkeypatch=monkeypatch)
    for_fit, for_evaluation = client.shown(WIDGET)
    assert len(for_fit) == len(for_evaluation) == 2  # the bar, and then nothing in its place
    assert for_fit[1] == for_evaluation[1] == ""
    (records,) = client.shown("text/html")
    assert [epochs_of(html) for html in records] == [
        [f"{epoch}/4" for epoch in range(1, last + 1)] for last in range(1, 5)
    ]
    names = [data["data"]["state"]["value"] for data in client.kinds("comm_msg") if "value" in data["data"]["state"]]
    assert {"epoch 1/4", "epoch 4/4", "evaluate"} <= set(names)
    opened, closed = ({content["comm_id"] for content in client.kinds(f"comm_{what}")} for what in ("open", "close"))
    assert opened == closed
    assert client.kinds("stream") == []
    assert [sorted(output["data"]) for output in fit.outputs] == [["text/html", "text/plain"]] * 2
    assert epochs_of(fit.outputs[1]["data"]["text/html"]) == ["1/4", "2/4", "3/4", "4/4"]
    assert [output["data"]["text/html"] for output in evaluated.outputs] == [""]


@in_kernel
def test_an_interrupted_cell_leaves_no_bar_and_a_whole_table_and_the_next_cell_goes_on(tmp_path, monkeypatch):
    interrupted = """
import os, signal
from ignition.callbacks import PlotProgress
plain = train_fn
def train_fn(model, x, y):
    if trainer.step == 13:
        os.kill(os.getpid(), signal.SIGINT)  # what the stop button does
    return plain(model, x, y)
trainer.train_fn = train_fn
trainer.callbacks = [PlotProgress()]
trainer.fit(epochs=5)
"""
    client, cells = run_cells(
        interrupted, "trainer.train_fn = plain; history = trainer.fit(epochs=2)", "trainer.history", "trainer",
        folder=tmp_path, monkeypatch=monkeypatch, allow_errors=True,
    )  # fmt: skip
    assert [output["output_type"] for output in cells[0].outputs][-1] == "error"
    assert cells[0].outputs[-1]["ename"] == "KeyboardInterrupt"
    assert [place[-1] for place in client.shown(WIDGET)] == ["", ""]
    opened, closed = ({content["comm_id"] for content in client.kinds(f"comm_{what}")} for what in ("open", "close"))
    assert opened == closed
    records = [place[-1] for place in client.shown("text/html")]
    assert [epochs_of(html) for html in records] == [["1/5", "2/5"], ["3/4", "4/4"]]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert [output["data"]["text/plain"] for output in pictures] == ["<curves of 2 records>", "<curves of 4 records>"]
    assert "History</b>: 4 epochs, 4 records" in cells[2].outputs[0]["data"]["text/html"]
    assert "Linear, 15 parameters" in cells[3].outputs[0]["data"]["text/html"]


@in_kernel
def test_a_kernel_without_ipywidgets_shows_a_bar_of_text_and_says_nothing_of_it(tmp_path, monkeypatch):
    hide = "import sys; sys.modules['ipywidgets'] = None"
    client, _ = run_cells(hide, "history = trainer.fit(epochs=2)", folder=tmp_path, monkeypatch=monkeypatch)
    assert {content["name"] for content in client.kinds("stream")} == {"stdout"}
    assert "epoch 2/2" in "".join(content["text"] for content in client.kinds("stream"))
    (records,) = client.shown("text/html")
    assert epochs_of(records[-1]) == ["1/2", "2/2"]


@in_kernel
def test_in_a_kernel_nothing_heavy_is_imported_before_it_is_needed(tmp_path, monkeypatch):
    look = """
import sys
trainer._repr_html_(), trainer.history._repr_html_()
print([name for name in ("matplotlib", "ipywidgets", "pandas", "sklearn") if name in sys.modules])
"""
    _, (cell,) = run_cells(look, folder=tmp_path, monkeypatch=monkeypatch)
    assert cell.outputs[0]["text"] == "[]\n"
