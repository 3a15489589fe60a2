import contextlib
import io
import math
import os
import pty
import re
import struct
import sys
import termios
import threading
import types
from fcntl import ioctl

import pytest
import torch

from ignition import Trainer, progress
from ignition.progress import Progress, in_notebook, in_terminal
from ignition.records import number_text

RECORD = {"epoch": 1, "step": 47, "train_loss": 0.9937, "val_acc": 0.5, "lr": 0.1, "seconds": 1.25, "data_seconds": 0.5}


def number(value):
    """A number as the line of a record shows it."""
    return number_text(value)


# Numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0000"),
        (1.0, "1.0000"),
        (0.98765, "0.9877"),
        (-0.5, "-0.5000"),
        (0.05, "0.0500"),
        (0.001, "0.0010"),
        (0.0005, "0.0005"),
        (0.1 * 0.07, "0.0070"),
        (0.00123, "0.00123"),
        (1e-5, "1e-05"),
        (-1.234e-7, "-1.23e-07"),
        (1e-300, "1e-300"),
        (123.456, "123.4560"),
        (1234.567, "1234.57"),
        (-99999.0, "-99999.00"),
        (123456.789, "1.23e+05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (0, "0"),
        (4, "4"),
        (-12345678, "-12345678"),
        (1234567890, "1.23e+09"),
        (True, "True"),
        (False, "False"),
        (None, "None"),
        ("cosine", "cosine"),
        ("", ""),
    ],
)
def test_a_number_is_short_and_shows_its_size(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize("exponent", range(-12, 13))
@pytest.mark.parametrize("digits", [1.0, -1.0, 1.23456, -9.87654])
def test_a_number_is_never_wide_and_never_far_off(exponent, digits):
    value = digits * 10.0**exponent
    assert len(number(value)) <= 9
    assert math.isclose(float(number(value)), value, rel_tol=5e-3)


# In a pipe or a file


def test_a_record_is_one_plain_line(capsys):
    Progress(True).record(RECORD, epochs=10)
    assert capsys.readouterr() == (
        "epoch  1/10  step     47  train_loss 0.9937  val_acc 0.5000  lr 0.1000  1.2 s\n",
        "",
    )


def test_a_text_of_several_lines_does_not_break_the_line_of_a_record(capsys):
    Progress(True).record({**RECORD, "note": "first\nsecond"}, epochs=10)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "note first second" in out


def test_a_record_of_a_fit_by_steps_has_no_last_epoch(capsys):
    Progress(True).record(RECORD, epochs=None)
    assert capsys.readouterr().out.startswith("epoch 1  step     47  train_loss")


def test_the_columns_of_all_records_stand_below_each_other(capsys):
    shown = Progress(True)
    for epoch, loss, lr in [(1, 2.302585, 0.1), (9, 12.5, 1e-5), (10, -1.2345e-6, 0.05), (10, math.nan, 0.00123)]:
        shown.record(RECORD | {"epoch": epoch, "step": 100 * epoch, "train_loss": loss, "lr": lr}, epochs=10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "epoch 10/10  step   1000  train_loss -1.23e-06  val_acc 0.5000  lr 0.0500  1.2 s",
        "epoch 10/10  step   1000  train_loss nan        val_acc 0.5000  lr 0.00123  1.2 s",
    ]
    assert len({line.index("train_loss") for line in lines}) == 1


def test_a_column_that_a_record_lacks_keeps_its_place(capsys):
    shown = Progress(True)
    without = {name: value for name, value in RECORD.items() if name != "val_acc"}
    for record in (without, RECORD, without):
        shown.record(record, epochs=3)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3  step     47  train_loss 0.9937  lr 0.1000  1.2 s",
        "epoch 1/3  step     47  train_loss 0.9937  val_acc 0.5000  lr 0.1000  1.2 s",
        "epoch 1/3  step     47  train_loss 0.9937  val_acc -       lr 0.1000  1.2 s",
    ]


def test_a_hyperparameter_may_be_any_plain_value(capsys):
    Progress(True).record(RECORD | {"mode": "cosine", "hard": False, "limit": None}, epochs=3)
    assert "lr 0.1000  mode cosine  hard False  limit None  1.2 s" in capsys.readouterr().out


def test_a_pipe_gets_no_bar(capsys):
    shown = Progress(True)
    shown.begin("epoch 1/3", total=10)
    assert not shown.is_open
    assert shown.next_draw == math.inf
    shown.say("something")
    shown.end()
    assert capsys.readouterr() == ("something\n", "")


def test_the_lines_of_a_pipe_come_at_once():
    class Pipe(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    with contextlib.redirect_stdout(Pipe()) as pipe:
        Progress(True).record(RECORD, epochs=3)
    assert pipe.flushed.endswith("1.2 s\n")


def test_an_output_that_cannot_be_asked_is_no_terminal(monkeypatch):
    """What users put in the place of the standard output often has `write` and `flush` alone."""

    class Copying:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    output = Copying()
    monkeypatch.setattr(sys, "stdout", output)
    shown = Progress(True)
    shown.begin("epoch 1/3", total=10)
    shown.record(RECORD, epochs=3)
    shown.end()
    assert output.text.startswith("epoch 1/3  step     47")
    assert not in_terminal()


def test_without_an_output_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as in a program without a console
    shown = Progress(True)
    shown.begin("epoch 1/3", total=10)
    shown.record(RECORD, epochs=3)
    shown.end()


def test_progress_can_be_off(capsys):
    shown = Progress(False)
    shown.begin("epoch 1/3", total=10)
    shown.say("something")
    shown.record(RECORD, epochs=3)
    shown.end()
    assert not shown.is_open
    assert capsys.readouterr() == ("", "")


def test_an_end_without_a_beginning_is_nothing():
    Progress(True).end()


# In a terminal


@contextlib.contextmanager
def terminal(columns=100):
    """The standard output as a terminal of that width, inside the block; a list of what it received, after it."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    parts, received = [], []
    reader = threading.Thread(target=read_all, args=(ours, parts))
    reader.start()
    try:
        with open(theirs, "w", encoding="utf-8") as output, contextlib.redirect_stdout(output):
            yield received
    finally:
        reader.join()
        os.close(ours)
    received.append(b"".join(parts).decode())


def read_all(source, parts):
    with contextlib.suppress(OSError):  # what a terminal ends with on Linux
        while part := os.read(source, 65536):
            parts.append(part)


def screen(received):
    """The lines that are left to see, as far as they are made by \\r, \\n and going up a line."""
    lines, row, column = [""], 0, 0
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", received):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[A":
            row -= 1
        elif not piece.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines]


def test_a_terminal_has_a_bar_with_metrics():
    with terminal() as received:
        shown = Progress(True)
        threads = set(threading.enumerate())
        shown.begin("epoch 1/3", total=10, done=2)
        assert shown.is_open
        assert shown.next_draw == 0.0
        shown.draw(5.0, 3, {"loss": 0.5, "acc": 0.25})
        assert 5.0 < shown.next_draw <= 6.0
        shown.draw(6.0, 7, {"loss": 1e-5, "acc": math.nan})
        assert set(threading.enumerate()) == threads  # tqdm's own would redraw, and stay
        shown.end()
        assert not shown.is_open
        assert shown.next_draw == math.inf
    bars = received[0].split("\r")
    assert any(re.match(r"epoch 1/3:  30%\|.* 3/10 .*loss 0\.5000  acc 0\.2500\]$", bar) for bar in bars)
    assert any(re.match(r"epoch 1/3:  70%\|.* 7/10 .*loss 1e-05  acc nan\]$", bar) for bar in bars)
    assert screen(received[0]) == [""]


def test_a_pass_without_a_length_has_a_count():
    with terminal() as received:
        shown = Progress(True)
        shown.begin("epoch 1", total=None)
        shown.draw(5.0, 1234, {"loss": 0.5})
        shown.end()
    assert re.search(r"\repoch 1: 1234it \[.*loss 0\.5000\]", received[0])
    assert screen(received[0]) == [""]


HEADING = "epoch    step  train_loss  val_acc       lr  seconds"


def test_a_terminal_has_the_records_as_a_table():
    with terminal() as received:
        shown = Progress(True)
        for epoch, lr in [(1, 0.1), (2, 0.05), (3, 1e-6)]:
            shown.begin(f"epoch {epoch}/3", total=10)
            shown.draw(5.0, 3, {"loss": 0.5})
            shown.end()
            shown.record(RECORD | {"epoch": epoch, "step": 47 * epoch, "lr": lr}, epochs=3)
    assert screen(received[0]) == [
        HEADING,
        "  1/3      47      0.9937   0.5000   0.1000      1.2",
        "  2/3      94      0.9937   0.5000   0.0500      1.2",
        "  3/3     141      0.9937   0.5000    1e-06      1.2",
        "",
    ]


def test_a_column_that_comes_or_goes_keeps_the_table_in_order():
    without = {name: value for name, value in RECORD.items() if name != "val_acc"}
    with terminal() as received:
        shown = Progress(True)
        for record in (without, RECORD, without):
            shown.record(record, epochs=3)
        shown.record(RECORD, epochs=5)
    assert screen(received[0]) == [
        "epoch    step  train_loss       lr  seconds",
        "  1/3      47      0.9937   0.1000      1.2",
        HEADING,
        "  1/3      47      0.9937   0.5000   0.1000      1.2",
        "  1/3      47      0.9937        -   0.1000      1.2",
        HEADING,  # once more, for another fit
        "  1/5      47      0.9937   0.5000   0.1000      1.2",
        "",
    ]


def test_a_record_that_is_too_wide_is_folded_between_its_values():
    with terminal(columns=len(HEADING) - 1) as received:
        shown = Progress(True)
        for epoch in (1, 2):
            shown.record(RECORD | {"epoch": epoch}, epochs=3)
    assert screen(received[0]) == [
        "epoch 1/3  step     47  train_loss 0.9937",
        "           val_acc 0.5000  lr 0.1000  1.2 s",
        "epoch 2/3  step     47  train_loss 0.9937",
        "           val_acc 0.5000  lr 0.1000  1.2 s",
        "",
    ]


@pytest.mark.parametrize("columns", [1, 10, 20, 30, 40, 50, 51, 80])
def test_a_terminal_of_any_width_is_written_to(columns):
    with terminal(columns) as received:
        shown = Progress(True)
        shown.begin("epoch 1/3", total=10)
        shown.draw(5.0, 3, {"loss": 0.5, "a_long_name_of_a_metric": 0.5})
        shown.record(RECORD, epochs=3)
        shown.end()
    lines = screen(received[0])
    for text in ("0.9937", "0.5000", "0.1000", "1.2", "47"):
        assert text in " ".join(lines)
    if columns >= 30:
        assert max(len(line) for line in lines) <= columns


def test_a_terminal_that_does_not_tell_its_width_has_80_columns(monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda fallback=(80, 24): os.terminal_size((80, 24)))
    with terminal(columns=0) as received:
        Progress(True).record(RECORD | {f"val_{name}": 0.5 for name in "abcd"}, epochs=3)
    assert max(len(line) for line in screen(received[0])) <= 80

    class Console(io.StringIO):
        def isatty(self):
            return True

    with contextlib.redirect_stdout(Console()) as console:
        Progress(True).record(RECORD, epochs=3)
    assert console.getvalue().startswith(HEADING)


def test_a_line_is_said_above_the_bars():
    with terminal() as received:
        shown = Progress(True)
        shown.begin("epoch 1/3", total=10)
        shown.draw(5.0, 3, {"loss": 0.5})
        shown.begin("evaluate", total=5)
        shown.draw(6.0, 2, {"loss": 0.25})
        shown.say("a line between")
        print(end="HERE")
        shown.end()
        shown.end()
    seen = screen(received[0].partition("HERE")[0])
    assert seen[0] == "a line between"
    assert re.match(r"epoch 1/3:  30%\|.*loss 0\.5000\]$", seen[1])
    assert re.match(r"evaluate:  40%\|.*loss 0\.2500\]$", seen[2])


def test_an_evaluation_lies_below_its_epoch_and_leaves_it_as_it_was():
    with terminal() as received:
        shown = Progress(True)
        shown.begin("epoch 1/3", total=10)
        shown.draw(5.0, 3, {"loss": 0.5})
        shown.begin("evaluate", total=5)
        shown.draw(6.0, 5, {"loss": 0.25})
        shown.end()
        assert shown.is_open
        shown.record(RECORD, epochs=3)
        shown.draw(7.0, 4, {"loss": 0.125})
        shown.end()
        assert not shown.is_open
        print("done")
    assert screen(received[0]) == [HEADING, "  1/3      47      0.9937   0.5000   0.1000      1.2", "done", ""]


def test_in_a_terminal_progress_can_be_off():
    with terminal() as received:
        shown = Progress(False)
        shown.begin("epoch 1/3", total=10)
        assert not shown.is_open
        shown.say("something")
        shown.record(RECORD, epochs=3)
        shown.end()
    assert received == [""]


def fit():
    batches = [torch.ones(4, 1) for _ in range(5)]

    def measure(model, x):
        return {"loss": 0.5}

    Trainer(torch.nn.Linear(1, 1), None, measure, batches, measure, batches).fit(epochs=2)


def test_a_whole_fit_is_shown_in_a_terminal():
    with terminal() as received:
        fit()
    assert "\repoch 1/2:   " in received[0]
    assert "\revaluate:   " in received[0]
    heading, *records, end = screen(received[0])
    assert heading.split() == ["epoch", "step", "train_loss", "val_loss", "seconds"]
    assert [record.split()[:4] for record in records] == [
        ["1/2", "5", "0.5000", "0.5000"],
        ["2/2", "10", "0.5000", "0.5000"],
    ]
    assert end == ""


def test_a_whole_fit_is_two_plain_lines_in_a_pipe(capfd):
    fit()
    seen = capfd.readouterr()
    assert seen.err == ""
    assert re.fullmatch(
        r"epoch 1/2  step      5  train_loss 0\.5000  val_loss 0\.5000  \d+\.\d s\n"
        r"epoch 2/2  step     10  train_loss 0\.5000  val_loss 0\.5000  \d+\.\d s\n",
        seen.out,
    )


# In a notebook


def use_shell(monkeypatch, *kinds):
    """Has IPython say that its shell is of the last of some classes, each derived from the one before."""
    kind = object
    for name in kinds:
        kind = type(name, (kind,), {})
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: kind() if kinds else None
    monkeypatch.setitem(sys.modules, "IPython", ipython)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        (["InteractiveShell", "ZMQInteractiveShell"], True),
        (["InteractiveShell", "ZMQInteractiveShell", "Shell"], True),  # Colab's
        (["InteractiveShell", "TerminalInteractiveShell"], False),
        ([], False),
    ],
)
def test_a_notebook_is_recognised_by_its_shell(monkeypatch, kinds, found):
    use_shell(monkeypatch, *kinds)
    assert in_notebook() is found


def test_without_ipython_there_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    assert "IPython" not in sys.modules


def test_a_notebook_without_widgets_has_the_bar_of_a_terminal(monkeypatch, capsys):
    use_shell(monkeypatch, "ZMQInteractiveShell")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    before = set(threading.enumerate())
    shown = Progress(True)
    shown.begin("epoch 1/3", total=10)
    shown.draw(5.0, 3, {"loss": 0.5})
    shown.end()
    assert set(threading.enumerate()) == before
    assert re.search(r"\repoch 1/3:  30%\|.*loss 0\.5000\]", capsys.readouterr().out)
