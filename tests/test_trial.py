"""After a trial nothing has happened: the training goes on as it would have without one."""

from __future__ import annotations

import copy
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ignition import Callback, Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch
from ignition.background import Writer
from ignition.callbacks import CSVLogger, LinearDecay, LRSchedule, SaveModel
from ignition.data import drop_workers
from ignition.errors import ArgumentError
from ignition.snapshot import capture
from ignition.trial import everything_restored


def make(data, *, seed=None, loader=None, workers=0, **options):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    if loader is None:
        settings = {"num_workers": workers, "persistent_workers": workers > 0}
        loader = DataLoader(TensorDataset(*data), batch_size=4, shuffle=True, drop_last=True, **settings)
    return Trainer(
        model, optimizer, train_fn, loader, evaluate_on_batch, [tuple(data)], seed=seed, progress=False, **options
    )


def everything(trainer):
    """All that a checkpoint holds, as tensors and as text, but for times."""
    content = capture(trainer.training, Writer().copy)
    state = copy.deepcopy(content.state)
    state["seconds"] = 0
    tensors = {name: one.tolist() for file in content.tensors.values() for name, one in file.items()}
    return repr(state), repr(tensors)


def without_seconds(rows):
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_goes_on_to_the_same_bits_inside_an_epoch(tiny_data, seed, accumulate):
    def run(with_trial):
        trainer = make(tiny_data, seed=seed, accumulate=accumulate)
        trainer.callbacks = [LRSchedule(torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1))]
        trainer.fit(epochs=1)
        trainer.fit(steps=2)
        assert trainer.epoch_open
        if with_trial:
            before = everything(trainer)
            with everything_restored(trainer) as begin_again:
                assert not trainer.epoch_open
                trainer.fit(steps=7)
                begin_again()
                assert len(trainer.history) == 0
                trainer.hyper = {}
                trainer.state["new"] = 1
                trainer.fit(epochs=2)
            assert everything(trainer) == before
        trainer.fit(epochs=2)
        return [one.tolist() for one in trainer.model.state_dict().values()], without_seconds(trainer.history.rows)

    assert repr(run(True)) == repr(run(False))


@pytest.mark.slow
def test_an_open_epoch_keeps_its_lasting_workers(tiny_data):
    def run(with_trial):
        trainer = make(tiny_data, workers=1)
        trainer.fit(steps=2)
        if with_trial:
            with everything_restored(trainer):
                trainer.fit(steps=2)
        trainer.fit(epochs=2)
        weights = [one.tolist() for one in trainer.model.state_dict().values()]
        drop_workers(trainer.train_loader)  # as a part of a cycle that Python frees each would take 5 s to end
        del trainer
        gc.collect()
        return weights

    assert run(True) == run(False)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_put_back_when_something_is_raised(tiny_data, error):
    trainer = make(tiny_data)
    trainer.fit(epochs=1)
    before = everything(trainer)

    def fail(trainer):
        if trainer.step == 9:
            raise error

    def trial():
        with everything_restored(trainer):
            trainer.on("step_end")(fail)
            trainer.fit(epochs=2)

    with pytest.raises(error):
        trial()
    assert everything(trainer) == before
    assert trainer.exception is None
    trainer.fit(epochs=1)  # and the function that failed is gone


def test_callbacks_are_silent_and_files_are_not_written(tiny_data, tmp_path, capsys):
    seen = []

    class Watching(Callback):
        def on_step_end(self, trainer):
            seen.append(trainer.step)

    trainer = make(tiny_data)
    trainer.training.progress._shown = True
    trainer.callbacks = [SaveModel(tmp_path / "a.pt"), CSVLogger(tmp_path / "a.csv"), Watching()]
    trainer.on("step_end")(lambda trainer: seen.append(trainer.step))
    callbacks = list(trainer.callbacks)
    with everything_restored(trainer):
        trainer.fit(epochs=2)
    assert trainer.callbacks == callbacks
    assert not seen
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_schedules_supply_what_the_function_needs_and_count_from_where_they_did(tiny_data):
    trainer = make(tiny_data)

    def train_fn(model, x, y, lambd):
        pass

    trainer.train_fn = train_fn
    trainer.optimizer = None
    trainer.callbacks = [LinearDecay("lambd", 4, 1, 4)]
    trainer.fit(epochs=1)
    with everything_restored(trainer):
        trainer.fit(epochs=2)
        assert trainer.history["lambd"] == [3, 2]
    trainer.fit(epochs=1)
    assert trainer.history["lambd"] == [4, 3]


def test_what_the_functions_hold_on_to_is_put_back(tiny_data):
    teacher = nn.BatchNorm1d(4)
    noise, queue, count = torch.Generator().manual_seed(1), [], 0
    kept = SimpleNamespace(sums={"x": torch.zeros(1)}, counts=[np.zeros(2)], draws=np.random.default_rng(3))
    trainer = make(tiny_data)

    def train_fn(model, x, y):
        nonlocal count
        count += 1
        queue.append(teacher(x) + torch.rand(1, generator=noise))
        trainer.state["last"] = x
        kept.sums["x"].add_(x.sum() + kept.draws.random())
        kept.counts[0] += 1

    trainer.train_fn = train_fn
    deep = (kept.sums["x"].clone(), kept.counts[0].copy(), kept.draws.bit_generator.state)
    before = (copy.deepcopy(teacher.state_dict()), noise.get_state(), list(queue), count, dict(trainer.state), deep)
    with everything_restored(trainer), pytest.warns(UserWarning, match="took no step"):
        trainer.fit(steps=3)
    deep = (kept.sums["x"], kept.counts[0], kept.draws.bit_generator.state)
    after = (teacher.state_dict(), noise.get_state(), list(queue), count, dict(trainer.state), deep)
    assert repr(after) == repr(before)


def test_generators_of_loader_sampler_and_data_set_are_put_back(tiny_data):
    class Noisy(TensorDataset):
        def __init__(self, *tensors):
            super().__init__(*tensors)
            self.noise = np.random.default_rng(0)

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + self.noise.random(), y

    generator = torch.Generator().manual_seed(1)
    trainer = make(
        tiny_data, loader=DataLoader(Noisy(*tiny_data), 4, shuffle=True, drop_last=True, generator=generator)
    )
    trainer.test_loader = trainer.train_loader
    state, noise = generator.get_state(), trainer.train_loader.dataset.noise.bit_generator.state
    with everything_restored(trainer):
        trainer.fit(epochs=1)
    assert torch.equal(generator.get_state(), state)
    assert trainer.train_loader.dataset.noise.bit_generator.state == noise


def test_a_loader_that_keeps_its_place_is_put_back():
    class Stream:
        def __init__(self):
            self.place = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.place += 1
            return torch.full((2, 1), float(self.place))

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]

    stream, seen = Stream(), []
    trainer = Trainer(nn.Identity(), None, lambda model, x: seen.append(x[0, 0].item()), stream, progress=False)
    trainer.fit(steps=2)
    with everything_restored(trainer):
        trainer.fit(steps=3)
    trainer.fit(steps=2)
    assert stream.place == 4
    assert seen[:2] + seen[-2:] == [1, 2, 3, 4]


def test_a_loader_that_can_be_read_only_once_is_refused():
    trainer = Trainer(nn.Identity(), None, lambda model, x: None, iter([torch.zeros(1)]), progress=False)
    with pytest.raises(ArgumentError, match="can be read only once"), everything_restored(trainer):
        pass
    trainer.fit(steps=1)  # nothing was read


def test_it_is_refused_inside_a_fit(tiny_data):
    trainer = make(tiny_data)

    @trainer.on("step_end")
    def look(trainer):
        with everything_restored(trainer):
            pass

    with pytest.raises(ArgumentError, match="inside a fit"):
        trainer.fit(steps=1)


class Experiment:
    """A train function that is a method, with a state of its own."""

    calls = 0

    def __init__(self):
        self.seen, self.parts = [], {"head": nn.BatchNorm1d(4)}

    def train_fn(self, model, x, y):
        self.calls += 1
        self.seen.append(x)
        self.parts["head"](x)

    @classmethod
    def of_class(cls, model, x, y):
        return None


def test_what_the_object_of_a_method_holds_is_put_back(tiny_data):
    experiment, trainer = Experiment(), make(tiny_data)
    trainer.train_fn = experiment.train_fn
    trainer.optimizer = None
    with everything_restored(trainer):
        trainer.fit(steps=3)
        assert experiment.calls == 3
    assert (experiment.calls, experiment.seen) == (0, [])
    assert experiment.parts["head"].num_batches_tracked == 0
    trainer.train_fn = Experiment.of_class
    with everything_restored(trainer):
        trainer.fit(steps=1)


counted = 0


def counting(model, x, y):
    global counted
    counted += 1


def test_a_global_name_is_bound_again_to_what_it_was(tiny_data):
    trainer = make(tiny_data)
    trainer.train_fn, trainer.optimizer = counting, None
    with everything_restored(trainer):
        trainer.fit(steps=3)
        assert counted == 3
    assert counted == 0


def test_a_second_interrupt_while_it_is_put_back_changes_nothing(tiny_data):
    trainer = make(tiny_data)
    weights = [one.tolist() for one in trainer.model.state_dict().values()]
    interrupts = iter([True])

    class Interrupted(list):
        def clear(self):
            super().clear()
            if next(interrupts, False):
                raise KeyboardInterrupt

    trainer.state["queue"] = Interrupted([1, 2])

    def trial():
        with everything_restored(trainer):
            trainer.fit(steps=3)

    with pytest.raises(KeyboardInterrupt):
        trial()
    assert trainer.state["queue"] == [1, 2]
    assert [one.tolist() for one in trainer.model.state_dict().values()] == weights
    assert trainer.step == 0
