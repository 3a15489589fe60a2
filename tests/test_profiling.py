"""Profile writes a trace of its steps and prints the operations; it harms no fit, however that ends."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ignition import Trainer, crossentropy_loss, fit_on_batch
from ignition.callbacks import Profile
from ignition.errors import ArgumentError


def trainer_of(tiny_data, train_fn=None, progress=True):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def plain(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    return Trainer(model, optimizer, train_fn or plain, [tuple(tiny_data)] * 10, progress=progress)


def events_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def count(path, name):
    return sum(event.get("name", "").startswith(name) and event.get("ph") == "X" for event in events_of(path))


@pytest.mark.slow
def test_the_trace_has_the_steps_and_their_operations_and_the_table_names_them(tiny_data, tmp_path, capsys):
    trainer = trainer_of(tiny_data)
    callback = Profile(steps=3, folder=tmp_path / "new" / "trace", wait=2, warmup=1, top=4)
    trainer.callbacks = [callback]
    trainer.fit(epochs=1)
    assert callback.path == tmp_path / "new" / "trace" / "steps-4-6.json"
    assert {event["name"] for event in events_of(callback.path) if "ProfilerStep" in event.get("name", "")} == {
        "ProfilerStep#3",
        "ProfilerStep#4",
        "ProfilerStep#5",
    }
    assert count(callback.path, "aten::addmm") == 3
    lines = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("profile of 3 steps: "))
    assert lines[start + 1].split() == ["share", "ms/step", "calls", "operation"]
    rows = [line.split() for line in lines[start + 2 : start + 6]]
    assert all(row[0].endswith("%") and int(row[2]) % 3 == 0 for row in rows)
    shares = [float(row[0].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert lines[start + 6].endswith("for ui.perfetto.dev or chrome://tracing")


def test_it_records_once_and_later_fits_are_left_alone(tiny_data, tmp_path, capsys):
    trainer = trainer_of(tiny_data)
    trainer.callbacks = [Profile(steps=1, folder=tmp_path)]
    trainer.fit(steps=6)
    trainer.fit(steps=6)
    assert [path.name for path in tmp_path.iterdir()] == ["steps-4-4.json"]
    assert capsys.readouterr().out.count("profile of 1 step:") == 1


def test_a_fit_that_ends_earlier_is_recorded_as_far_as_it_went(tiny_data, tmp_path):
    trainer = trainer_of(tiny_data)
    trainer.callbacks = [Profile(steps=100, folder=tmp_path)]
    trainer.fit(steps=5)
    assert trainer.callbacks[0].path == tmp_path / "steps-4-5.json"
    assert count(tmp_path / "steps-4-5.json", "aten::addmm") == 2


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_fit_too_short_says_so_and_the_next_one_is_recorded(tiny_data, tmp_path, capsys, steps):
    trainer = trainer_of(tiny_data)
    trainer.callbacks = [Profile(steps=1, folder=tmp_path)]
    trainer.fit(steps=steps)
    assert f"no profile: the fit ended after {steps} step" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    trainer.fit(steps=4)
    assert trainer.callbacks[0].path.name == f"steps-{steps + 4}-{steps + 4}.json"


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_closes_it_and_comes_out_unchanged(tiny_data, tmp_path, at, error):
    calls = []

    def train_fn(model, x, y):
        calls.append(0)
        if len(calls) == at + 1:
            raise error("stop")
        model(x)

    trainer = trainer_of(tiny_data, train_fn)
    trainer.optimizer = None
    trainer.callbacks = [Profile(steps=3, folder=tmp_path)]
    with pytest.raises(error, match="stop"):
        trainer.fit(epochs=1)
    assert torch.autograd._profiler_enabled() is False
    assert [path.name for path in tmp_path.iterdir()] == (["steps-4-4.json"] if at == 4 else [])
    trainer.callbacks = [Profile(steps=1, folder=tmp_path)]  # another one can be opened
    trainer.fit(steps=5)
    assert trainer.callbacks[0].path is not None


def test_it_prints_nothing_without_progress(tiny_data, tmp_path, capfd):
    trainer = trainer_of(tiny_data, progress=False)
    trainer.callbacks = [Profile(steps=1, folder=tmp_path)]
    trainer.fit(steps=6)
    assert capfd.readouterr().out == ""
    assert trainer.callbacks[0].path.exists()


def test_the_training_is_the_same_with_and_without_it(tiny_data, tmp_path):
    def run(callbacks):
        torch.manual_seed(0)
        trainer = trainer_of(tiny_data, progress=False)
        trainer.callbacks = callbacks
        trainer.fit(epochs=1)
        return trainer.model.weight.tolist(), torch.rand(1).item()

    assert run([Profile(steps=2, folder=tmp_path)]) == run([])


@pytest.mark.parametrize("given", [{"steps": 0}, {"steps": True}, {"wait": -1}, {"warmup": 0}, {"top": 1.5}])
def test_numbers_that_are_none_are_refused(given):
    with pytest.raises(ArgumentError, match=f"Profile was given {next(iter(given))}="):
        Profile(**given)


def test_a_folder_that_cannot_be_made_fails_before_the_first_step(tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    trainer = trainer_of(tiny_data)
    trainer.callbacks = [Profile(folder=tmp_path / "file" / "trace")]
    with pytest.raises(OSError, match="file"):
        trainer.fit(epochs=1)
    assert trainer.step == 0
