import copy
import csv
import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ignition.history
from ignition.errors import ArgumentError, IgnitionError, MetricError
from ignition.history import Best, History, direction, is_better

NAN = float("nan")
NAMES = ["train_loss", "val_loss", "val_acc", "val_ema_acc", "lr", "lr_G", "seconds", "data_seconds"]


def history_of(*records, epoch_ended=True):
    """A history of records that name only what matters: epoch and step count up where they are left out."""
    history = History()
    for number, record in enumerate(records, start=1):
        history.append({"epoch": number, "step": 10 * number} | record, epoch_ended=epoch_ended)
    return history


def curves(axes):
    return {c.get_label().split(" (")[0]: c for c in axes.get_lines() if not c.get_label().startswith("_")}


def stars(axes):
    return [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in axes.get_lines() if mark.get_marker() == "*"]


def same(one, other):
    """Whether two values are the same in value and type, NaN included."""
    return type(one) is type(other) and (one == other or (one != one and other != other))


def assert_equal(one, other):
    assert one.columns == other.columns
    assert one.epochs == other.epochs
    assert len(one) == len(other)
    for row, twin in zip(one.rows, other.rows, strict=True):
        assert list(row) == list(twin)
        assert all(same(row[name], twin[name]) for name in row)


@st.composite
def histories(draw):
    history = History()
    numbers = st.floats() | st.integers(-(2**70), 2**70)
    epoch = step = 0
    for _ in range(draw(st.integers(0, 5))):
        step += draw(st.integers(1, 1000))
        epoch += draw(st.integers(0, 2))
        record = draw(st.dictionaries(st.sampled_from(NAMES), numbers))
        record |= draw(
            st.dictionaries(st.text().map("hyper {}".format), numbers | st.text() | st.booleans() | st.none())
        )
        history.append(record | {"epoch": epoch, "step": step}, epoch_ended=draw(st.booleans()))
    return history


# Columns and rows


def test_a_record_without_the_metric_is_nan():
    history = history_of({"train_loss": 1.0}, {"train_loss": 0.5, "val_loss": 0.0}, {"lambd": "warm"})
    assert history["epoch"] == [1, 2, 3]
    assert history["step"] == [10, 20, 30]
    assert [value for value in history["val_loss"] if value == value] == [0.0]
    assert math.isnan(history["val_loss"][0])
    assert math.isnan(history["train_loss"][2])
    assert history["lambd"][2] == "warm"
    assert all(len(history[column]) == len(history) == 3 for column in history.columns)


def test_a_column_is_in_the_history_once_a_record_has_it():
    history = history_of({"train_loss": 1.0}, {"val_loss": NAN})
    assert "train_loss" in history
    assert "val_loss" in history
    assert "val_acc" not in history
    assert 3 not in history
    assert ["train_loss"] not in history


def test_columns_have_one_order_however_the_records_are_written():
    record = {
        "seconds": 1,
        "lambd": 4.0,
        "lr": 0.1,
        "val_loss": 1,
        "train_loss": 1,
        "step": 5,
        "epoch": 1,
        "data_seconds": 0,
    }
    history = history_of(record)
    columns = ("epoch", "step", "train_loss", "val_loss", "lr", "lambd", "seconds", "data_seconds")
    assert history.columns == columns
    assert tuple(history.last) == columns
    history.append({"epoch": 2, "step": 9, "train_acc": 0.5}, epoch_ended=True)
    assert history.columns == (*columns[:3], "train_acc", *columns[3:])


def test_an_empty_history_is_empty():
    history = History()
    assert (len(history), history.epochs, history.columns, history.rows, history.last) == (0, 0, (), (), {})
    assert history.best_epoch() is None
    assert history.best_epoch("val_loss") is None
    assert repr(history) == "History: no record yet"
    for read in (lambda: history["val_loss"], lambda: history.latest("val_loss"), history.plot_loss, history.plot):
        with pytest.raises(MetricError, match=r"no record yet|no metric"):
            read()


def test_epochs_counts_finished_epochs_and_not_records():
    history = history_of({"epoch": 1}, {"epoch": 1}, epoch_ended=False)
    assert history.epochs == 0
    history.append({"epoch": 1, "step": 30}, epoch_ended=True)
    assert (history.epochs, len(history)) == (1, 3)
    history.append({"epoch": 2, "step": 40}, epoch_ended=False)
    history.end_epoch()
    history.end_epoch()
    assert (history.epochs, len(history)) == (2, 4)


def test_an_epoch_cannot_end_before_the_first_record():
    with pytest.raises(ArgumentError, match="without a record"):
        History().end_epoch()


def test_what_is_read_is_a_copy():
    history = history_of({"val_loss": 1.0})
    history["val_loss"].append(5.0)
    history.last["val_loss"] = 5.0
    with pytest.raises(TypeError):
        history.rows[0]["val_loss"] = 5.0
    rows = history.rows
    history.append({"epoch": 2, "step": 20}, epoch_ended=True)
    assert len(rows) == 1
    assert history["val_loss"][0] == 1.0


def test_the_last_record_has_only_what_it_has():
    history = history_of({"val_loss": 1.0}, {"train_loss": 0.0})
    assert history.last == {"epoch": 2, "step": 20, "train_loss": 0.0}


def test_a_history_is_not_iterated_as_it_could_mean_rows_or_columns():
    with pytest.raises(TypeError, match="not iterable"):
        list(history_of({}))


def test_an_unknown_column_lists_those_there_are_and_names_the_near():
    history = history_of({"train_loss": 1.0, "val_loss": 1.0, "val_acc": 0.5})
    with pytest.raises(
        MetricError, match=r"(?s)no record has 'val_los'.*epoch, step, train_loss, val_loss.*'val_loss'"
    ):
        history["val_los"]
    with pytest.raises(MetricError, match=r"did you mean 'train_loss' or 'val_loss'\?"):
        history["loss"]


def test_a_metric_of_an_evaluation_that_never_was_says_how_to_have_one():
    with pytest.raises(MetricError, match="eval_fn and a test_loader"):
        history_of({"train_loss": 1.0}).latest("val_loss")


@pytest.mark.parametrize("column", [0, -1, slice(2), None, ["val_loss"]])
def test_a_column_is_asked_for_by_a_string(column):
    history = history_of({"val_loss": 1.0})
    for read in (history.__getitem__, history.latest, history.plot):
        with pytest.raises(ArgumentError, match="named by"):
            read(column)


def test_the_latest_value_is_that_of_the_last_record():
    history = history_of({"val_acc": 0.5, "on": None}, {"val_acc": 0.0})
    assert history.latest("val_acc") == 0.0
    history.append({"epoch": 3, "step": 30}, epoch_ended=True)
    assert math.isnan(history.latest("val_acc"))
    assert math.isnan(history.latest("on"))


def test_the_latest_value_of_words_is_refused():
    with pytest.raises(MetricError, match="'warm', no number"):
        history_of({"mood": "warm"}).latest("mood")


# Appending


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"epoch": 2, "step": 20}, "step 20 after one of step 20"),
        ({"epoch": 2, "step": 19}, "step 19 after one of step 20"),
        ({"epoch": 1, "step": 30}, "epoch 1 after one of epoch 2"),
        ({"epoch": 3}, "epoch and step"),
        ({"step": 30}, "epoch and step"),
        ({}, "epoch and step"),
        ({"epoch": 3, "step": 30.0}, "whole number"),
        ({"epoch": 3, "step": 30, "val_loss": [1.0]}, "val_loss"),
        ({"epoch": 3, "step": 30, "val_loss": "low"}, "val_loss"),
        ({"epoch": 3, "step": 30, 7: 1.0}, "named by 7"),
        ([("epoch", 3)], "a record is a list"),
    ],
)
def test_a_record_that_is_wrong_changes_nothing(record, message):
    history = history_of({"val_loss": 1.0}, {"val_loss": 2.0})
    before = history.state_dict()
    with pytest.raises(ArgumentError, match=message):
        history.append(record, epoch_ended=True)
    assert history.state_dict() == before


def test_a_record_is_copied():
    record = {"epoch": 1, "step": 1, "val_loss": 1.0}
    history = History()
    history.append(record, epoch_ended=True)
    record["val_loss"] = 9.0
    assert history["val_loss"] == [1.0]


# The best epoch


def test_the_best_epoch_is_that_of_the_first_known_metric():
    record = {"train_loss": 1.0, "train_acc": 0.1, "val_loss": 3.0, "val_acc": 0.0}
    later = {"train_loss": 0.5, "train_acc": 0.9, "val_loss": 2.0, "val_acc": 0.0}
    for metric, best in [
        ("val_acc", Best(1, 10, "val_acc", 0.0)),
        ("val_loss", Best(2, 20, "val_loss", 2.0)),
        ("train_acc", Best(2, 20, "train_acc", 0.9)),
        ("train_loss", Best(2, 20, "train_loss", 0.5)),
    ]:
        history = history_of(record, later)
        assert history.best_epoch() == history.best_epoch(metric) == best
        del record[metric], later[metric]
    with pytest.raises(MetricError, match=r"(?s)val_acc or val_loss.*epoch, step, val_x"):
        history_of({"val_x": 1.0}).best_epoch()


def test_the_mode_wins_over_the_name():
    history = history_of({"val_loss": 1.0}, {"val_loss": 2.0})
    assert history.best_epoch("val_loss", mode="max").epoch == 2


def test_a_name_without_a_direction_needs_a_mode():
    history = history_of({"val_x": 1.0}, {"val_x": 2.0})
    with pytest.raises(ArgumentError, match="mode='min'"):
        history.best_epoch("val_x")
    assert history.best_epoch("val_x", "max") == Best(2, 20, "val_x", 2.0)


def test_a_metric_that_was_always_nan_has_no_best_epoch():
    assert history_of({"val_loss": NAN}, {}).best_epoch() is None


@pytest.mark.parametrize("history", [History(), history_of({"val_loss": 1.0})])
def test_a_best_epoch_that_cannot_be_is_refused(history):
    with pytest.raises(ArgumentError, match="mode is 'best'"):
        history.best_epoch("val_loss", mode="best")


@pytest.mark.parametrize(("metric", "error"), [("val_acc", MetricError), ("mood", MetricError), (3, ArgumentError)])
def test_the_best_epoch_of_what_is_no_metric_is_refused(metric, error):
    with pytest.raises(error):
        history_of({"val_loss": 1.0, "mood": "warm"}).best_epoch(metric, mode="min")


@given(st.lists(st.none() | st.floats() | st.integers(0, 2), min_size=1), st.sampled_from(["min", "max"]))
def test_the_best_epoch_is_what_a_plain_min_or_max_finds(values, mode):
    history = history_of({"val_x": NAN}, *({} if value is None else {"val_x": value} for value in values))
    pairs = [(value, number) for number, value in enumerate(values, start=2) if value is not None and value == value]
    best = history.best_epoch("val_x", mode)
    if not pairs:
        assert best is None
    else:
        value, number = {"min": min, "max": max}[mode](pairs, key=lambda pair: pair[0])
        assert best == (number, 10 * number, "val_x", value)


# Plots


def test_plot_loss_draws_whichever_losses_there_are():
    record = {"train_loss": 1.0, "val_loss": 2.0, "train_acc": 0.5}
    axes = history_of(record, record | {"val_loss": 1.5}).plot_loss()
    assert {name: list(curve.get_ydata()) for name, curve in curves(axes).items()} == {
        "train_loss": [1.0, 1.0],
        "val_loss": [2.0, 1.5],
    }
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Loss", "epoch", "loss")
    assert stars(axes) == [(2, 1.5)]
    alone = history_of({"train_loss": 1.0}, {"train_loss": 2.0}).plot_loss()
    assert list(curves(alone)) == ["train_loss"]
    assert stars(alone) == [(1, 1.0)]


@pytest.mark.parametrize("name", ["acc", "accuracy"])
def test_plot_accuracy_marks_the_highest(name):
    axes = history_of(
        {f"train_{name}": 0.1, f"val_{name}": 0.3}, {f"train_{name}": 0.2, f"val_{name}": 0.0}
    ).plot_accuracy()
    assert list(curves(axes)) == [f"train_{name}", f"val_{name}"]
    assert stars(axes) == [(1, 0.3)]
    assert (axes.get_title(), axes.get_ylabel()) == ("Accuracy", "accuracy")


def test_a_plot_of_what_is_not_there_lists_the_columns():
    history = history_of({"train_x": 1.0})
    for draw in (history.plot_loss, history.plot_accuracy, lambda: history.plot("train_x", "val_x")):
        with pytest.raises(MetricError, match="epoch, step, train_x"):
            draw()
    with pytest.raises(MetricError, match="no metric to draw"):
        history_of({"lambd": 1.0}).plot()
    with pytest.raises(MetricError, match="no number"):
        history_of({"mood": "warm"}).plot("mood")


def test_plot_without_names_draws_every_metric_into_one_pair_of_axes():
    axes = history_of(
        {"train_loss": 1.0, "val_loss": 2.0, "val_acc": 0.5, "lr": 0.1, "lambd": 4, "seconds": 1.0}
    ).plot()
    assert list(curves(axes)) == ["train_loss", "val_loss", "val_acc"]
    assert len(axes.figure.axes) == 1
    assert (axes.get_title(), axes.get_ylabel()) == ("Metrics", "value")


def test_plot_draws_columns_by_name():
    history = history_of({"lambd": 4, "on": True, "val_x": 1.0}, {"lambd": 3, "on": None})
    axes = history.plot("lambd", "on", "lambd")
    assert {name: list(curve.get_ydata()) for name, curve in curves(axes).items()} == {"lambd": [4, 3], "on": [1]}
    assert stars(axes) == []
    assert (history.plot("val_x").get_title(), history.plot("val_x").get_ylabel()) == ("x", "x")


def test_what_was_not_measured_in_each_record_is_joined():
    axes = history_of({"val_loss": 3.0}, {"train_loss": 1.0}, {"val_loss": 1.0}).plot_loss()
    assert list(curves(axes)["val_loss"].get_xdata()) == [1, 3]


def test_the_step_is_below_the_curves_where_epochs_have_several_records():
    records = [{"epoch": 1, "val_loss": 1.0}, {"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.7}]
    for by in ("epoch", "step"):
        axes = history_of(*records).plot_loss(by=by)
        assert axes.get_xlabel() == "step"
        assert list(curves(axes)["val_loss"].get_xdata()) == [10, 20, 30]
        assert stars(axes) == [(20, 0.5)]


def test_the_step_is_below_the_curves_where_it_is_asked_for():
    axes = history_of({"val_acc": 1.0}, {"val_acc": 0.5}).plot_accuracy(by="step")
    assert axes.get_xlabel() == "step"
    assert list(curves(axes)["val_acc"].get_xdata()) == [10, 20]


def test_a_plot_goes_into_the_axes_that_are_given():
    history = history_of({"val_loss": 1.0, "val_acc": 0.5})
    axes = history.plot_loss()
    assert history.plot_accuracy(ax=axes) is axes
    assert history.plot("val_loss", ax=axes) is axes
    with pytest.raises(ArgumentError, match="matplotlib Axes"):
        history.plot_loss(ax=axes.figure)


@pytest.mark.parametrize("by", ["time", None, 1])
def test_a_plot_is_by_epoch_or_step(by):
    history = history_of({"val_loss": 1.0, "val_acc": 0.5})
    for draw in (history.plot_loss, history.plot_accuracy, history.plot):
        with pytest.raises(ArgumentError, match="'epoch' or 'step'"):
            draw(by=by)


# Export


def test_a_frame_has_the_columns_of_the_history():
    history = history_of({"val_loss": 0.5, "mood": "warm"}, {"train_loss": 1.0})
    frame = history.to_frame()
    assert tuple(frame.columns) == history.columns
    assert frame["step"].tolist() == [10, 20]
    assert frame["val_loss"].isna().tolist() == [False, True]
    assert frame["mood"][0] == "warm"
    assert History().to_frame().empty


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(IgnitionError, match="pip install pandas"):
        History().to_frame()


def test_csv_has_a_line_a_record_and_nothing_for_nan(tmp_path):
    history = history_of({"val_loss": 0.1 + 0.2}, {"val_acc": 0.0, "mood": "a,b"})
    history.to_csv(tmp_path / "runs" / "history.csv")
    with (tmp_path / "runs" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"epoch": "1", "step": "10", "val_loss": "0.30000000000000004", "val_acc": "", "mood": ""},
        {"epoch": "2", "step": "20", "val_loss": "", "val_acc": "0.0", "mood": "a,b"},
    ]


@pytest.mark.slow
@given(history=histories())
def test_json_gives_back_every_value(history, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "history.json"
    history.to_json(path)
    assert_equal(History.from_json(str(path)), history)


@pytest.mark.slow
@given(history=histories())
def test_a_state_is_plain_and_gives_back_every_value(history):
    state = json.loads(json.dumps(history.state_dict(), allow_nan=False))
    other = history_of({"val_loss": 1.0})
    other.load_state_dict(state)
    assert_equal(other, history)
    assert_equal(copy.deepcopy(history), history)


def test_a_state_is_a_copy():
    history = history_of({"val_loss": 1.0})
    state = history.state_dict()
    other = History()
    other.load_state_dict(state)
    state["records"][0]["val_loss"] = 9.0
    state["epoch_ended"][0] = False
    other.append({"epoch": 2, "step": 20}, epoch_ended=True)
    assert (history["val_loss"], history.epochs) == (other["val_loss"][:1], 1) == ([1.0], 1)
    assert history.state_dict()["records"][0]["val_loss"] == 1.0


def test_a_state_that_was_asked_for_before_grows_with_the_history_and_is_replaced_with_it():
    history, other = history_of({"val_loss": 1.0}), history_of({"val_loss": 2.0}, {"val_loss": 3.0})
    history.state_dict()
    history.append({"epoch": 2, "step": 20, "val_loss": 4.0}, epoch_ended=True)
    assert [record["val_loss"] for record in history.state_dict()["records"]] == [1.0, 4.0]
    history.load_state_dict(other.state_dict())
    assert history.state_dict() == other.state_dict()
    assert other.epochs == 2


def test_json_is_strict_with_a_record_a_line(tmp_path):
    path = tmp_path / "history.json"
    history_of({"val_loss": NAN}, {"val_loss": math.inf}).to_json(path)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    state = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert [record["val_loss"] for record in state["records"]] == [None, {"is": "inf"}]


def broken(**changes):
    return history_of({"val_loss": 1.0}, {"val_loss": 2.0}).state_dict() | changes


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "is no history"),
        (None, "is no history"),
        ({"epochs": 3}, "is no history"),
        (broken(format="other"), "is no history"),
        (broken(version=2), "version 2"),
        (broken(version=None), "version None"),
        (broken(records={}), "broken history"),
        (broken(epoch_ended=[True]), "broken history"),
        (broken(epoch_ended=None), "broken history"),
        (broken(records=[1, 2]), "its record 1"),
        (broken(records=[{"epoch": 1, "step": 10}] * 2), "its record 2"),
        (broken(records=[{"epoch": 1, "step": 10}, {"epoch": 2, "step": 20, "val_loss": [1]}]), "its record 2"),
        (broken(records=[{"epoch": 1, "step": 10, "x": {"is": "exit()"}}, {}]), "its record 1"),
    ],
)
def test_what_is_no_history_is_refused_and_changes_nothing(tmp_path, state, message):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(state))
    with pytest.raises(ArgumentError, match=rf"other\.json .*{message}"):
        History.from_json(path)
    history = history_of({"val_loss": 7.0})
    with pytest.raises(ArgumentError, match=message):
        history.load_state_dict(state)
    assert history["val_loss"] == [7.0]


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "history.json").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ArgumentError, match=r"history\.json is no JSON"):
        History.from_json(tmp_path / "history.json")


def test_repr_is_a_table_of_the_last_records():
    history = history_of(*({"val_loss": 1 / number} for number in range(1, 12)))
    assert repr(history).split("\n") == [
        "History: 11 epochs, 11 records",
        "epoch  step  val_loss",
        "    7    70    0.1429",
        "    8    80     0.125",
        "    9    90    0.1111",
        "   10   100       0.1",
        "   11   110   0.09091",
    ]
    assert repr(history_of({})).startswith("History: 1 epoch, 1 record\n")


def test_history_hands_on_what_callbacks_use():
    assert direction("val_loss") == "min"
    assert is_better(1.0, 2.0, "min")
    assert set(ignition.history.__all__) >= {"Best", "History", "direction", "is_better", "scalar"}


def test_before_the_first_record_the_way_to_one_is_said():
    with pytest.raises(MetricError, match=r"(?s)no record yet.*expected: .*eval_every.*to do: .*fit\(epochs=1\)"):
        History().plot_loss()
