"""The HTML of a History and a Trainer, read by Python's own parser."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from ignition import History, Trainer, freeze
from ignition.callbacks import EMA, LinearDecay
from ignition.markup import table_html

VOID = {"br", "img"}


class Reader(HTMLParser):
    """The rows of a page's tables, and its text; fails on a tag that is not closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.texts, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [value for _, value in attrs]
        assert tag not in VOID | {"script"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "tr" in self.open:
            self.rows[-1][-1] += data


def history_of(*losses, name="val_loss"):
    history = History()
    for epoch, loss in enumerate(losses, start=1):
        history.append({"epoch": epoch, "step": 10 * epoch, name: loss, "lr": 0.1}, epoch_ended=True)
    return history


def test_a_history_is_a_table_with_its_best_row_marked():
    page = Reader(history_of(0.7, 0.25, 0.5)._repr_html_())
    assert page.rows == [
        ["epoch", "step", "val_loss", "lr"],
        ["1", "10", "0.7000", "0.1000"],
        ["★ 2", "20", "0.2500", "0.1000"],
        ["3", "30", "0.5000", "0.1000"],
    ]
    assert "".join(page.texts).startswith("History: 3 epochs, 3 records; ★ best val_loss 0.2500 in epoch 2")


def test_a_history_without_a_metric_that_can_be_best_marks_nothing():
    page = Reader(history_of(0.7, 0.25, name="train_odd")._repr_html_())
    assert "★" not in "".join(page.texts)
    assert len(page.rows) == 3
    assert "★" not in "".join(Reader(history_of(float("nan"))._repr_html_()).texts)


def test_a_history_without_a_record_says_so():
    assert "".join(Reader(History()._repr_html_()).texts) == "History: no record yet"


def test_a_value_that_a_record_lacks_is_a_dash():
    history = history_of(0.5)
    history.append({"epoch": 2, "step": 20, "train_loss": 0.5, "lr": 0.1}, epoch_ended=False)
    assert Reader(history._repr_html_()).rows[1:] == [
        ["★ 1", "10", "-", "0.5000", "0.1000"],
        ["2", "20", "0.5000", "-", "0.1000"],
    ]


def test_of_a_long_history_the_last_records_are_shown_and_the_best_one():
    losses = [1.0] * 200
    losses[70] = 0.5
    rows = Reader(history_of(*losses)._repr_html_()).rows
    assert len(rows) < 70
    assert [row[0] for row in rows[1:5]] == ["… 70 more …", "★ 71", "… 69 more …", "141"]
    assert rows[-1][0] == "200"


def test_names_and_values_are_shown_letter_by_letter():
    evil = "<script>alert('x')</script>&amp;"
    history = History()
    history.append({"epoch": 1, "step": 1, f"train_{evil}": 1.0, evil: evil}, epoch_ended=True)
    (head, row) = Reader(history._repr_html_()).rows
    assert head == ["epoch", "step", f"train_{evil}", evil]
    assert row[-1] == evil

    trainer = Trainer(nn.ModuleDict(), None, lambda model, x, **hyper: None, [torch.zeros(1)], progress=False)
    trainer.hyper = {"mode": evil}
    assert evil in "".join(Reader(trainer._repr_html_()).texts)


def facts(trainer):
    """The names and values that a Trainer's page has, but for the last record."""
    return {row[0]: row[1] for row in Reader(trainer._repr_html_()).rows if len(row) == 2}


def test_a_trainer_says_what_it_trains_and_how_far_it_is(tiny_model, tiny_loader):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)

    def train_fn(model, x, y, lambd):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    trainer = Trainer(tiny_model, optimizer, train_fn, tiny_loader, device="cpu", progress=False)
    assert facts(trainer) == {
        "model": "Sequential, 67 parameters",
        "optimizer": "SGD, lr 0.1000",
        "device": "cpu",
        "epoch": "0",
        "step": "0",
        "last record": "none yet",
    }
    trainer.hyper = {"lambd": 4.0}
    trainer.callbacks = [LinearDecay("lambd", 4.0, 1.0, max_epochs=4), EMA(0.9)]
    trainer.on("step_end")(lambda trainer: trainer.stop("enough <now>") if trainer.step == 8 else None)
    trainer.fit(epochs=2)
    page = Reader(trainer._repr_html_())
    found = facts(trainer)
    assert found["callbacks"] == "LinearDecay, EMA"
    assert found["hyper"] == "lambd 3.0000"
    assert found["epoch"] == "2, still to be finished"
    assert (found["step"], found["stopped"]) == ("8", "enough <now>")
    assert page.rows[-2][:3] == ["epoch", "step", "train_loss"]
    assert page.rows[-1][:2] == ["1", "6"]


def test_several_models_have_their_names_and_what_is_fixed_is_counted():
    models = {"G": freeze(nn.Linear(2, 3)), "D": nn.LazyLinear(1)}
    optimizers = {"D": torch.optim.Adam(models["D"].parameters(), lr=0.001)}
    trainer = Trainer(models, optimizers, lambda models, x: None, [torch.zeros(1, 2)], device="cpu", progress=False)
    found = facts(trainer)
    assert found["model G"] == "Linear, 9 parameters, 9 of them fixed"
    assert found["model D"] == "LazyLinear, 0 parameters, more with the first batch"
    assert found["optimizer D"] == "Adam, lr 0.0010"


def test_no_colour_but_half_transparent_ones_is_set_so_that_a_theme_keeps_its_own():
    trainer = Trainer(nn.Linear(1, 1), None, lambda model, x: None, [torch.zeros(1)], progress=False)
    for html in (history_of(0.7, 0.25)._repr_html_(), trainer._repr_html_()):
        for style in Reader(html).attributes:
            for rule in style.split(";"):
                name, _, value = rule.partition(":")
                if any(word in name for word in ("color", "background", "border")) and "collapse" not in name:
                    assert "rgba(" in value, style


def test_a_marked_row_that_is_no_index_of_an_empty_table_is_no_matter():
    assert Reader(table_html(["epoch"], [])).rows == [["epoch"]]


@pytest.mark.slow
def test_html_needs_no_matplotlib():
    script = (
        "import sys; from ignition import History; history = History(); "
        "history.append({'epoch': 1, 'step': 1, 'val_loss': 0.5}, epoch_ended=True); history._repr_html_(); "
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
