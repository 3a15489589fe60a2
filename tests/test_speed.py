"""What the loop may cost, counted and not timed: calls of functions, reads of metrics, tensors kept alive."""

import gc
import sys
import weakref

import pytest
import torch
from fake_device import Accelerator

from ignition import Trainer, crossentropy_loss, evaluate, fit_on_batch, optimize, predict
from ignition.callbacks import Callback, CSVLogger, EarlyStopping, LinearDecay, SaveModel, TimeLimit
from ignition.progress import Progress

STEPS = 200


class Batches:
    """A loader that costs nothing itself."""

    def __init__(self, count=STEPS):
        self.batch = (torch.zeros(32, 16), torch.zeros(32, dtype=torch.long))
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([self.batch] * self.count)


def calls_of(run):
    """How many functions, Python's and C's, are called while `run` runs."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def calls_a_step(make):
    """What each further step calls, whatever a run costs once."""
    make(STEPS)()  # what is imported and resolved at the first run
    return round((calls_of(make(2 * STEPS)) - calls_of(make(STEPS))) / STEPS)


def floats(model, x, y):
    return {"loss": 0.5, "acc": 1.0}


def training(callbacks=(), **settings):
    def make(steps):
        trainer = Trainer(torch.nn.Linear(1, 1), None, floats, Batches(steps), progress=False, **settings)
        trainer.callbacks = list(callbacks)
        return lambda: trainer.fit(epochs=1)

    return make


def test_a_training_step_calls_few_functions():
    # The function itself, the clock twice, the weight of the batch and its size, the means, and the items of a dict.
    assert calls_a_step(training()) <= 9


def test_an_evaluation_step_calls_few_functions():
    model = torch.nn.Linear(1, 1)
    assert calls_a_step(lambda steps: lambda: evaluate(model, floats, Batches(steps), progress=False)) <= 9


def test_a_prediction_step_calls_few_functions():
    model, output = torch.nn.Linear(1, 1), torch.zeros(32)
    assert calls_a_step(lambda steps: lambda: predict(model, lambda model, x: output, Batches(steps))) <= 14


def test_fit_on_batch_calls_few_functions_beside_those_of_the_step_written_out():
    def written_out(model, optimizer, x, y):
        outputs = model(x)
        loss = torch.nn.functional.cross_entropy(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss, "acc": (outputs.argmax(dim=1) == y).float().mean()}

    def ready_made(model, optimizer, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def stepping(step):
        def make(steps):
            layer = torch.nn.Linear(16, 4)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

            def train_fn(model, x, y):
                return step(model, optimizer, x, y)

            trainer = Trainer(layer, optimizer, train_fn, Batches(steps), progress=False)
            return lambda: trainer.fit(epochs=1)

        return make

    assert calls_a_step(stepping(ready_made)) - calls_a_step(stepping(written_out)) <= 40


def test_callbacks_without_a_hook_for_batches_cost_nothing_a_step(tmp_path):
    def function(model, x, y, lambd):
        return {"loss": 0.5, "acc": 1.0}

    def make(steps):
        trainer = Trainer(torch.nn.Linear(1, 1), None, function, Batches(steps), progress=False)
        trainer.callbacks = [
            Callback(),
            LinearDecay("lambd", start_value=1, end_value=0, max_epochs=3),
            SaveModel(tmp_path / "model.pt"),
            EarlyStopping("train_loss", patience=3),
            CSVLogger(tmp_path / "log.csv"),
        ]
        return lambda: trainer.fit(epochs=1)

    assert calls_a_step(make) == calls_a_step(training())


def test_a_callback_with_a_hook_for_steps_is_called_at_each():
    assert calls_a_step(training([TimeLimit(3600)])) > calls_a_step(training())


def test_a_run_of_twenty_epochs_keeps_no_more_tensors_than_one_of_one():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(4)]

    def train_fn(model, x, y):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def eval_fn(model, x, y):
        return {"loss": torch.nn.functional.cross_entropy(model(x), y)}

    def alive():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, batches, progress=False)
    trainer.fit(epochs=1)
    after_one = alive()
    trainer.fit(epochs=19)
    assert alive() == after_one


@pytest.mark.parametrize("settings", [{}, {"accumulate": 4}, {"clip_norm": 1.0}])
def test_no_graph_is_alive_when_the_next_call_begins(settings):
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    alive = []

    def train_fn(model, x, y):
        assert not any(reference() is not None for reference in alive)
        hidden = model(x)
        alive.append(weakref.ref(hidden))
        loss = torch.nn.functional.cross_entropy(hidden, y)
        optimize(loss, optimizer)
        return {"loss": loss}

    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(8)]
    Trainer(layer, optimizer, train_fn, batches, progress=False, **settings).fit(epochs=1)
    assert len(alive) == 8


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_between_two_redraws_no_metric_on_an_accelerator_is_read(kind, monkeypatch):
    with Accelerator() as accelerator:
        waits_at_calls, draws = [], []
        monkeypatch.setattr(Progress, "begin", lambda self, *args: setattr(self, "next_draw", 0.0))
        monkeypatch.setattr(Progress, "draw", lambda self, now, done, means: draws.append((done, accelerator.waits)))

        def function(model, x, y):
            waits_at_calls.append(accelerator.waits)
            loss = accelerator.tensor(float(len(waits_at_calls)))
            return {"loss": loss, "tokens": (loss, accelerator.tensor(3)), "pair": (0.5, accelerator.tensor(2))}

        batches = Batches(30)
        if kind == "train":
            trainer = Trainer(torch.nn.Linear(1, 1), None, function, batches, progress=False)
            trainer.fit(epochs=1)
        else:
            evaluate(torch.nn.Linear(1, 1), function, batches, progress=False)
        # A redraw after each batch here: it reads once for all metrics, and nothing else reads at all.
        first = 2 if kind == "train" else 1  # the first step of a fit is looked at alone, without a redraw
        assert draws == [(done, done - first + 1) for done in range(first, 31)]
        assert waits_at_calls == [0] * (first - 1) + list(range(31 - first))


def test_without_a_bar_metrics_on_an_accelerator_are_read_once_an_epoch():
    with Accelerator() as accelerator:

        def train_fn(model, x, y):
            return {"loss": accelerator.tensor(1.0), "acc": accelerator.tensor(0.5)}

        trainer = Trainer(torch.nn.Linear(1, 1), None, train_fn, Batches(30), progress=False)
        trainer.fit(epochs=3)
        assert accelerator.waits == 3
