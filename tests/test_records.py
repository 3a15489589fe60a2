import csv
import io
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ignition.errors import ArgumentError
from ignition.records import column_order, decode, encode, read_json, scalar, table, write_csv


def test_columns_come_in_the_order_that_a_person_reads():
    names = [
        "data_seconds",
        "seconds",
        "lambd",
        "lr_G",
        "lr",
        "val_ema_loss",
        "val_loss",
        "train_loss",
        "step",
        "epoch",
    ]
    assert sorted(names, key=column_order) == [
        *("epoch", "step", "train_loss", "val_loss", "val_ema_loss", "lr_G", "lr", "lambd", "seconds", "data_seconds")
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (Fraction(1, 2), 0.5),
        (0.0, 0.0),
        (True, True),
        (math.inf, math.inf),
    ],
)
def test_a_number_becomes_a_plain_one(given, kept):
    value = scalar("val_loss", given)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize("value", ["cosine", None, False, 3, 2.5, ""])
def test_a_hyperparameter_may_be_any_plain_value(value):
    assert scalar("schedule", value) == value


@pytest.mark.parametrize("column", ["train_loss", "val_loss", "lr", "lr_G", "seconds", "data_seconds"])
@pytest.mark.parametrize("value", ["0.5", None])
def test_what_is_measured_must_be_a_number(column, value):
    with pytest.raises(ArgumentError, match=column):
        scalar(column, value)


@pytest.mark.parametrize("value", [torch.tensor(1.0), np.zeros(2), [1.0], (0.9, 0.999), {"a": 1}, 1j, object(), b"x"])
@pytest.mark.parametrize("column", ["lambd", "val_loss"])
def test_what_is_no_scalar_is_refused_by_name(column, value):
    with pytest.raises(ArgumentError, match=rf"'{column}' is .*{type(value).__name__}"):
        scalar(column, value)


@pytest.mark.parametrize("value", [1.0, -1, True, "1", None, math.nan])
@pytest.mark.parametrize("column", ["epoch", "step"])
def test_epoch_and_step_are_whole_numbers(column, value):
    with pytest.raises(ArgumentError, match="whole number"):
        scalar(column, value)


def test_a_column_is_named_by_a_string():
    with pytest.raises(ArgumentError, match="named by 3"):
        scalar(3, 1.0)


@pytest.mark.parametrize(
    "value", [0.1, 0.0, -0.0, 1e-320, math.inf, -math.inf, 7, True, None, "", "inf", "none", "null"]
)
def test_a_value_comes_back_from_json_with_its_type(value):
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back_from_json_as_nan():
    assert encode(math.nan) is None
    assert math.isnan(decode(None))


@pytest.mark.parametrize("value", [{}, {"is": "everything"}, {"is": ["inf"]}, {"is": "inf", "and": 1}])
def test_an_object_that_stands_for_no_value_is_refused(value):
    with pytest.raises(ArgumentError, match="no value of a record"):
        decode(value)


def test_a_table_is_aligned_and_shows_what_is_missing():
    rows = [{"epoch": 9, "val_loss": 0.123456, "name": "a"}, {"epoch": 10, "val_loss": math.nan, "on": True}]
    assert table(["epoch", "val_loss", "name", "on"], rows).split("\n") == [
        "epoch  val_loss  name    on",
        "    9    0.1235     a     -",
        "   10       nan     -  True",
    ]


def test_a_table_that_is_too_wide_ends_in_dots():
    columns = [f"val_metric_{index}" for index in range(30)]
    lines = table(columns, [dict.fromkeys(columns, 0.5)], width=60).split("\n")
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= 60
    assert lines[0].endswith("...")


def test_a_table_that_just_fits_is_whole():
    columns = ["aaaa", "bbbb"]
    assert table(columns, [{}], width=10).split("\n")[0] == "aaaa  bbbb"
    assert table(columns, [{}], width=9).split("\n")[0] == "aaaa  ..."


def test_csv_leaves_empty_what_is_not_there():
    file = io.StringIO()
    rows = [{"a": math.nan, "b": 'x,"y"'}, {"a": 0.0, "b": None}, {"a": math.inf}]
    write_csv(file, ["a", "b"], rows)
    read = list(csv.reader(io.StringIO(file.getvalue())))
    assert read == [["a", "b"], ["", 'x,"y"'], ["0.0", ""], ["inf", ""]]


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "[-Infinity]", "[" * 100_000, "\x80", '{"a": 1} b'])
def test_what_is_no_strict_json_is_refused_by_the_name_of_the_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArgumentError, match=r"a\.json is no JSON"):
        read_json(path)


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")
