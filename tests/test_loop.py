"""The loop: what the functions receive, in which order the events come, and what happens when something is raised."""

from __future__ import annotations

import inspect
import re
import textwrap
import weakref
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass

import pytest
import torch
from small import InOrder
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from ignition import TensorLoader, Trainer, crossentropy_loss, evaluate, fit_on_batch, freeze, loop, optimize, predict
from ignition.callbacks import EMA, LinearDecay
from ignition.callbacks.base import EVENTS, Callback
from ignition.errors import BatchError, FunctionError, IgnitionWarning


def quiet(train_fn, loader, *evaluation, model=None, optimizer=None, **settings):
    """A silent Trainer on the CPU, by default of a model without parameters."""
    model = nn.Identity() if model is None else model
    return Trainer(model, optimizer, train_fn, loader, *evaluation, device="cpu", progress=False, **settings)


def nothing(model, *batch):
    """A train or eval function that does nothing."""


def numbered(*sizes):
    """Batches (size,) of ones, twos, threes, ..."""
    return [torch.full((size,), float(number)) for number, size in enumerate(sizes, start=1)]


def first_value(model, x):
    return {"loss": x[0]}


class Listener(Callback):
    """Calls a function with the name of each event."""

    def __init__(self, listen):
        self.listen = listen


for _event in EVENTS:
    setattr(Listener, f"on_{_event}", lambda self, trainer, _event=_event: self.listen(_event))


# What the functions receive

Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Graph:
    nodes: Tensor


X, Y = torch.zeros(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    "batch",
    [(X, Y), [X, Y], Pair(X, Y), (X,), ({"ids": X}, [Y, Y]), (X, None, "text")],
    ids=["tuple", "list", "named tuple", "of one", "nested", "mixed"],
)
@pytest.mark.parametrize("phase", ["train", "evaluate", "predict"])
def test_a_tuple_or_list_is_unpacked(batch, phase):
    assert all(one is other for one, other in zip(received(batch, phase), batch, strict=True))


@pytest.mark.parametrize(
    "batch",
    [X, {"x": X, "y": Y}, OrderedDict(x=X), Graph(X)],
    ids=["tensor", "dict", "mapping", "object"],
)
@pytest.mark.parametrize("phase", ["train", "evaluate", "predict"])
def test_all_else_is_passed_whole(batch, phase):
    (whole,) = received(batch, phase)
    assert whole is batch


def received(batch, phase):
    """The items that a function is called with for a batch."""
    seen = []

    def function(model, *items):
        seen.append(items)
        return X if phase == "predict" else None

    if phase == "train":
        quiet(function, [batch]).fit(epochs=1)
    else:
        {"evaluate": evaluate, "predict": predict}[phase](nn.Identity(), function, [batch])
    (items,) = seen
    return items


@pytest.mark.parametrize(
    "loader",
    [
        [X, X],
        (X, X),
        iter([X, X]),
        (x for x in [X, X]),
        {"not": X, "values": X}.values(),
        DataLoader(torch.zeros(4, 3), batch_size=2),
    ],
    ids=lambda loader: type(loader).__name__,
)
def test_any_iterable_is_a_loader(loader):
    trainer = quiet(lambda model, x: x.sum(), loader)
    trainer.fit(epochs=1)
    assert trainer.step == 2
    assert trainer.history["train_loss"] == [0.0]


def test_what_has_only_getitem_is_a_loader():
    class Two:
        def __getitem__(self, index):
            return [X, X][index]

    assert quiet(nothing, Two()).fit(epochs=2)["step"] == [2, 4]


class Stream(IterableDataset):
    """Ones without end."""

    def __iter__(self):
        while True:
            yield torch.ones(3)


@pytest.mark.parametrize("endless", [iter(Stream()), DataLoader(Stream(), batch_size=2)], ids=["generator", "loader"])
def test_a_stream_without_end_is_trained_on_by_steps(endless):
    trainer = quiet(lambda model, x: x.mean(), endless, first_value, numbered(2))
    history = trainer.fit(steps=7, eval_every=3)
    assert history["step"] == [3, 6]
    assert history["val_loss"] == [1.0, 1.0]
    assert history.epochs == 0
    assert (trainer.epoch, trainer.step) == (1, 7)


# Means


def test_the_mean_over_a_ragged_epoch_is_the_mean_over_its_samples():
    batches = numbered(4, 4, 1)
    expected = (4 * 1 + 4 * 2 + 1 * 3) / 9
    history = quiet(first_value, batches, first_value, batches).fit(epochs=1)
    assert history["train_loss"] == history["val_loss"] == [expected]
    assert evaluate(nn.Identity(), first_value, batches) == {"loss": expected}


def test_another_batch_axis_weighs_by_that_axis():
    batches = [torch.full((5, 3), 1.0), torch.full((5, 1), 2.0)]

    def mean(model, x):
        return x.mean()

    history = quiet(mean, batches, mean, batches, batch_axis=1).fit(epochs=1)
    assert history["train_loss"] == history["val_loss"] == [(3 * 1 + 1 * 2) / 4]
    assert evaluate(nn.Identity(), mean, batches, batch_axis=1) == {"loss": 1.25}


def test_a_batch_weighs_what_it_was_before_the_function_changed_it():
    batches = [[torch.ones(3)], [torch.ones(1)]]

    def train_fn(model, x):
        x.resize_(7)
        batches[0].clear()
        return {"loss": 1.0}

    assert quiet(train_fn, batches).fit(epochs=1)["train_loss"] == [1.0]


def test_a_pair_brings_its_own_weight_and_keys_may_come_and_go():
    results = [{"a": (1.0, 1)}, {"a": (4.0, 2), "b": 5.0}, {"b": 7.0}, None, 2.0]

    def train_fn(model, x):
        return results[int(x[0]) - 1]

    last = quiet(train_fn, numbered(9, 1, 3, 1, 1)).fit(epochs=1).last
    assert last["train_a"] == (1 * 1 + 4 * 2) / 3
    assert last["train_b"] == (5 * 1 + 7 * 3) / 4
    assert last["train_loss"] == 2.0


def test_batches_without_a_tensor_count_one_each_and_that_is_said_once():
    def train_fn(model, number):
        return {"loss": float(number)}

    with pytest.warns(IgnitionWarning, match="each counts 1") as caught:
        history = quiet(train_fn, [1, 2, 6]).fit(epochs=2)
    assert len(caught) == 1
    assert history["train_loss"] == [3.0, 3.0]


def test_no_graph_of_a_returned_metric_outlives_its_call():
    weight = nn.Parameter(torch.ones(3))
    alive = []

    def train_fn(model, x):
        alive.append([graph() for graph in graphs if graph() is not None])
        hidden = weight * x
        graphs.append(weakref.ref(hidden))
        loss = (hidden**2).sum()
        return {"loss": loss, "pair": (loss * 1, 2)}

    graphs = []
    trainer = quiet(train_fn, [torch.ones(3)] * 4)
    trainer.fit(epochs=1)
    assert alive == [[]] * 4
    assert [graph() for graph in graphs] == [None] * 4
    assert trainer.batch_metrics["loss"] == 3.0


def test_the_batch_metrics_are_what_the_function_returned_last():
    seen = []
    trainer = quiet(first_value, numbered(4, 1))
    trainer.on("batch_end")(lambda trainer: seen.append(dict(trainer.batch_metrics)))
    trainer.fit(epochs=1)
    assert seen == [{"loss": 1.0}, {"loss": 2.0}]


# Hyperparameters


def test_hyperparameters_reach_the_train_function_and_those_it_names_the_eval_function():
    trained, evaluated = [], []

    def train_fn(model, x, lambd, *, beta):
        trained.append((lambd, beta))

    def eval_fn(model, x, beta=None, gamma=3):
        evaluated.append((beta, gamma))

    trainer = quiet(train_fn, numbered(1), eval_fn, numbered(1))
    trainer.hyper = {"lambd": 4.0, "beta": 0.5}
    trainer.fit(epochs=1)
    assert trained == [(4.0, 0.5)]
    assert evaluated == [(0.5, 3)]


def test_keyword_arguments_receive_every_hyperparameter():
    seen = []
    trainer = quiet(
        lambda model, x, **hyper: seen.append(hyper), numbered(1), lambda model, x, **hyper: seen.append(hyper), [X]
    )
    trainer.hyper = {"a": 1, "b": "text"}
    trainer.fit(epochs=1)
    assert seen == [{"a": 1, "b": "text"}] * 2


@pytest.mark.parametrize("way", ["entry", "whole"])
def test_a_hyperparameter_changed_by_a_callback_counts_from_the_next_batch_on(way):
    seen = []

    def double(trainer):
        if way == "entry":
            trainer.hyper["lambd"] *= 2
        else:
            trainer.hyper = {"lambd": trainer.hyper["lambd"] * 2}

    trainer = quiet(lambda model, x, lambd: seen.append(lambd), numbered(1, 1, 1))
    trainer.hyper = {"lambd": 1}
    trainer.on("batch_end")(double)
    history = trainer.fit(epochs=2)
    assert seen == [1, 2, 4, 8, 16, 32]
    assert history["lambd"] == [8, 64]


# The order of events


def documented_events(epochs, batches, eval_every):
    """The events that the docstring of `loop.fit` tells for so many epochs, walked through line by line."""
    block = re.search(r"come in this order::\n\n(.*?)\n\n", inspect.getdoc(loop.fit), re.DOTALL)[1]
    lines = [line.split("#")[0].rstrip() for line in textwrap.dedent(block).splitlines()]
    events, step, recorded = [], 0, None

    def run(lines):
        nonlocal step, recorded
        while lines:
            line, *lines = lines
            if line.startswith("for each"):
                body = []
                while lines and lines[0].startswith(" "):
                    body.append(lines.pop(0))
                for _ in range({"for each epoch:": epochs, "for each batch:": batches}[line]):
                    run(textwrap.dedent("\n".join(body)).splitlines())
                continue
            condition, chain = re.fullmatch(r"(?:\((.*)\))?\s*(.*)", line).groups()
            parts = chain.split(" -> ")
            if condition == "eval_every" and step % eval_every != 0:
                continue
            if "record" in parts:
                if recorded == step:  # "A step that has a record already gets no second one."
                    continue
                recorded = step
            for part in parts:
                if part.startswith("train_fn"):
                    step += 1
                if part not in ("metrics", "record"):
                    events.append("train_fn" if part.startswith("train_fn") else part)

    run(lines)
    return events


@pytest.mark.parametrize(("batches", "eval_every"), [(4, 3), (3, 3), (2, 1), (2, 100)])
def test_the_events_come_in_the_order_of_the_docstring(batches, eval_every):
    seen = []
    trainer = quiet(
        lambda model, x: seen.append("train_fn"),
        [X] * batches,
        lambda model, x: seen.append("evaluate"),
        [X],
    )
    trainer.callbacks = [Listener(lambda event: seen.append(f"on_{event}"))]
    trainer.fit(epochs=2, eval_every=eval_every)
    assert seen == documented_events(2, batches, eval_every)


def test_the_docstring_names_every_event():
    assert set(re.findall(r"\bon_(\w+)", loop.fit.__doc__)) == set(EVENTS)


def test_what_a_callback_reads_is_up_to_date_at_each_event():
    seen = []
    trainer = quiet(first_value, numbered(1, 1))
    listener = Listener(lambda event: seen.append((event, trainer.epoch, trainer.step, len(trainer.history))))
    trainer.callbacks = [listener]
    trainer.fit(epochs=1)
    assert seen == [
        ("train_begin", 0, 0, 0),
        ("epoch_begin", 1, 0, 0),
        ("batch_begin", 1, 0, 0),
        ("batch_end", 1, 0, 0),
        ("step_end", 1, 1, 0),
        ("batch_begin", 1, 1, 0),
        ("batch_end", 1, 1, 0),
        ("step_end", 1, 2, 0),
        ("record", 1, 2, 1),
        ("epoch_end", 1, 2, 1),
        ("train_end", 1, 2, 1),
    ]


def test_a_fit_that_goes_on_inside_an_epoch_begins_no_second_one():
    seen = []
    trainer = quiet(nothing, numbered(1, 1, 1))
    trainer.callbacks = [Listener(seen.append)]
    trainer.fit(steps=2)
    assert seen.count("epoch_begin") == 1
    assert "epoch_end" not in seen
    trainer.fit(epochs=1)
    assert (seen.count("epoch_begin"), seen.count("epoch_end"), seen.count("train_end")) == (1, 1, 2)


@pytest.mark.parametrize(
    ("fits", "bars"),
    [
        ([{"epochs": 2}], [(0, 3), (0, 3)]),
        ([{"steps": 5}], [(0, 3), (0, 2)]),
        ([{"steps": 2}, {"steps": 2}], [(0, 2), (2, 3), (0, 1)]),
        ([{"steps": 2}, {"epochs": 1}], [(0, 2), (2, 3)]),
    ],
)
def test_a_bar_goes_from_where_the_epoch_stands_to_where_it_or_the_fit_ends(fits, bars, monkeypatch):
    begun = []
    monkeypatch.setattr(
        "ignition.progress.Progress.begin", lambda self, name, total, done=0: begun.append((done, total))
    )
    trainer = quiet(nothing, numbered(1, 1, 1))
    for goal in fits:
        trainer.fit(**goal)
    assert begun == bars


# What is raised


class Broken(Exception):
    """What the tests raise."""


def raise_at(event, error):
    def listen(name):
        if name == event:
            raise error

    return Listener(listen)


@pytest.mark.parametrize("event", [event for event in EVENTS if event not in ("exception", "train_end")])
def test_whatever_a_callback_raises_is_told_to_all_and_then_goes_on(event):
    seen, error = [], Broken()
    trainer = quiet(first_value, numbered(1, 1), first_value, numbered(1))
    trainer.callbacks = [raise_at(event, error), Listener(seen.append)]
    trainer.on("exception")(lambda trainer: seen.append(trainer.exception))
    with pytest.raises(Broken) as caught:
        trainer.fit(epochs=2)
    assert caught.value is error
    assert seen[-3:] == ["exception", error, "train_end"]
    assert seen.count("train_end") == seen.count("exception") == 1


@pytest.mark.parametrize("kind", [Broken, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["train_fn", "eval_fn", "train_loader", "test_loader"])
def test_whatever_a_function_or_loader_raises_comes_out_as_it_is(where, kind):
    error, seen = kind("by the user"), []

    def users(name):
        def function(model, x):
            if name == where:
                raise error

        return function

    def batches(name):
        class Loader:
            def __iter__(self):
                yield X
                if name == where:
                    raise error

        return Loader()

    trainer = quiet(users("train_fn"), batches("train_loader"), users("eval_fn"), batches("test_loader"))
    trainer.callbacks = [Listener(seen.append)]
    with pytest.raises(kind) as caught:
        trainer.fit(epochs=1)
    assert caught.value is error is trainer.exception
    assert caught.traceback[-1].path.samefile(__file__)
    assert not hasattr(error, "__notes__")
    assert seen[-2:] == ["exception", "train_end"]


def test_a_callback_that_raises_while_another_error_is_handled_stops_neither_the_others_nor_the_error():
    seen, error = [], Broken("first")

    def train_fn(model, x):
        raise error

    trainer = quiet(train_fn, numbered(1))
    trainer.callbacks = [
        raise_at("exception", ValueError("second")),
        raise_at("train_end", KeyboardInterrupt("third")),
        Listener(seen.append),
    ]
    with pytest.raises(Broken) as caught:
        trainer.fit(epochs=1)
    assert seen[-2:] == ["exception", "train_end"]
    assert ["second" in note or "third" in note for note in caught.value.__notes__] == [True, True]


def test_an_error_at_the_end_of_a_fit_comes_out_after_all_were_called():
    seen, error = [], Broken("first")
    trainer = quiet(nothing, numbered(1))
    trainer.callbacks = [
        raise_at("train_end", error),
        raise_at("train_end", ValueError("second")),
        Listener(seen.append),
    ]
    with pytest.raises(Broken) as caught:
        trainer.fit(epochs=1)
    assert caught.value is error
    assert seen[-2:] == ["epoch_end", "train_end"]
    assert any("second" in note for note in error.__notes__)


def test_a_fit_after_one_that_was_broken_off_begins_the_same_epoch_anew():
    broken, seen = [True], []

    def train_fn(model, x):
        if broken and x[0] == 2:
            raise Broken
        return first_value(model, x)

    trainer = quiet(train_fn, numbered(1, 1, 1))
    trainer.callbacks = [Listener(seen.append)]
    with pytest.raises(Broken):
        trainer.fit(epochs=1)
    broken.clear()
    history = trainer.fit(epochs=1)
    assert trainer.exception is None
    assert history["epoch"] == [1]
    assert history["train_loss"] == [2.0]  # the mean of 1, 2, 3, without what the broken epoch had added
    assert seen.count("epoch_begin") == 2


# StopIteration, which a for loop would take for the end of its iterable


def stop_iteration(*_):
    raise StopIteration("by mistake")


@pytest.mark.parametrize("functions", [(stop_iteration, nothing), (nothing, stop_iteration)], ids=["train", "eval"])
def test_a_function_that_raises_stop_iteration_ends_no_epoch_in_silence(functions):
    train_fn, eval_fn = functions
    trainer = quiet(train_fn, numbered(1, 1), eval_fn, numbered(1))
    with pytest.raises(StopIteration, match="by mistake") as caught:
        trainer.fit(epochs=1)
    assert caught.traceback[-1].name == "stop_iteration"
    assert trainer.history.epochs == 0


@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_that_raises_stop_iteration_ends_no_epoch_in_silence(event):
    def train_fn(model, x):
        if event == "exception":
            raise Broken

    trainer = quiet(train_fn, numbered(1, 1), nothing, numbered(1))
    trainer.callbacks = [raise_at(event, StopIteration("by mistake"))]
    with pytest.raises(Broken if event == "exception" else StopIteration):
        trainer.fit(epochs=1)


@pytest.mark.parametrize("run", [evaluate, predict])
def test_stop_iteration_in_an_evaluation_or_a_prediction_comes_out(run):
    with pytest.raises(StopIteration, match="by mistake"):
        run(nn.Identity(), lambda model, x: stop_iteration(), numbered(1, 1))


class Ending(Dataset):
    """Twelve samples of which the sixth cannot be had."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 5:
            raise StopIteration
        return torch.ones(())


def test_a_data_set_that_raises_stop_iteration_is_warned_of():
    loader = DataLoader(Ending(), batch_size=2)
    with pytest.warns(IgnitionWarning, match="after 2 batches, and its length is 6"):
        assert quiet(nothing, loader).fit(epochs=1)["step"] == [2]
    with pytest.warns(IgnitionWarning, match="after 2 batches, and its length is 6"):
        evaluate(nn.Identity(), nothing, loader)


def test_a_data_set_that_raises_stop_iteration_is_warned_of_under_a_seed_too():
    with pytest.warns(IgnitionWarning, match="after 2 batches, and its length is 6"):
        quiet(nothing, DataLoader(Ending(), batch_size=2), seed=0).fit(epochs=1)


def test_a_generator_that_raises_stop_iteration_is_an_error():
    def batches():
        yield X
        stop_iteration()

    with pytest.raises(RuntimeError, match="StopIteration"):
        quiet(nothing, batches()).fit(epochs=1)


# Evaluation and prediction


class Modes(nn.Module):
    """Three parts, of which one is in evaluation mode by the user's own wish."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.kept = nn.BatchNorm1d(3), nn.Dropout(), nn.Dropout()
        self.kept.eval()

    def now(self):
        return [module.training for module in self.modules()]


@pytest.mark.parametrize("run", [evaluate, predict])
@pytest.mark.parametrize("structure", [lambda m: m, lambda m: [m, nn.Identity()], lambda m: {"G": m}])
def test_gradients_are_off_and_every_submodule_evaluates_and_gets_its_mode_back(run, structure):
    module, seen = Modes(), []
    before = module.now()

    def function(model, x):
        seen.append((any(module.now()), torch.is_grad_enabled()))
        return x if run is predict else {}

    run(structure(module), function, [X])
    assert seen == [(False, False)]
    assert module.now() == before
    with pytest.raises(StopIteration):
        run(structure(module), stop_iteration, [X])
    assert module.now() == before
    assert torch.is_grad_enabled()


def test_an_eval_function_may_turn_gradients_on():
    def eval_fn(model, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad((model(x) ** 2).sum(), x)
        return {"slope": slope.mean()}

    assert evaluate(nn.Identity(), eval_fn, [torch.full((2,), 3.0)]) == {"slope": 6.0}


def test_an_evaluation_stops_after_max_steps():
    assert evaluate(nn.Identity(), first_value, numbered(1, 1, 1), max_steps=2) == {"loss": 1.5}
    with pytest.warns(IgnitionWarning, match="after 1 batches, and its length is 2"):
        evaluate(nn.Identity(), nothing, DataLoader(Ending(), batch_size=4), max_steps=2)


def test_an_evaluation_takes_the_hyperparameters_that_the_function_names():
    def eval_fn(model, x, lambd):
        return {"loss": lambd}

    assert evaluate(nn.Identity(), eval_fn, [X], hyper={"lambd": 4.0, "other": 1}) == {"loss": 4.0}


@pytest.mark.parametrize("run", [evaluate, predict])
def test_an_empty_loader_is_an_error(run):
    with pytest.raises(BatchError, match="gave no batch"):
        run(nn.Identity(), nothing, [])


@pytest.mark.parametrize("source", [list, iter], ids=["with length", "without"])
def test_predictions_are_joined_in_any_nesting_in_the_order_of_the_data(source):
    batches = [torch.arange(4.0), torch.arange(4.0, 8.0), torch.arange(8.0, 9.0)]

    def pred_fn(model, x):
        return {"double": 2 * x, "both": (x, [x.long()]), "pair": Pair(x, -x)}

    found = predict(nn.Identity(), pred_fn, source(batches))
    whole = torch.arange(9.0)
    assert torch.equal(found["double"], 2 * whole)
    assert torch.equal(found["both"][0], whole)
    assert torch.equal(found["both"][1][0], whole.long())
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["pair"].y, -whole)


def test_predictions_have_no_graph():
    model = nn.Linear(3, 2)
    found = predict(model, lambda model, x: torch.enable_grad()(model)(x), [X])
    assert not found.requires_grad
    assert found.device.type == "cpu"


def test_a_predict_function_receives_as_many_items_as_it_has_parameters_to_fill():
    labelled = [(X, Y)]
    assert torch.equal(predict(nn.Identity(), lambda model, x: x, labelled), X)
    assert torch.equal(predict(nn.Identity(), lambda model, x, scale=2: scale * x, labelled), 2 * X)
    assert torch.equal(predict(nn.Identity(), lambda model, x, y: y, labelled), Y)
    assert torch.equal(predict(nn.Identity(), lambda model, *items: items[-1], labelled), Y)


def test_predict_stops_after_max_steps():
    assert predict(nn.Identity(), lambda model, x: x, numbered(2, 2, 2), max_steps=2).tolist() == [1, 1, 2, 2]


def test_what_cannot_be_joined_is_an_error():
    with pytest.raises(FunctionError, match=r"(?s)returned float.*expected: a tensor"):
        predict(nn.Identity(), lambda model, x: 3.0, [X])


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA alone says when it is waited for")
@pytest.mark.parametrize("device", ["cpu", "cuda"], ids=["batches from the CPU", "batches that are there"])
def test_between_two_records_nothing_waits_for_the_gpu(device):
    x, y = torch.randn(80, 4, device=device), torch.arange(80, device=device) % 3
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y, scale):
        metrics = fit_on_batch(model, x, y, lambda outputs, y: scale * crossentropy_loss(outputs, y), optimizer)
        return {**metrics, "pair": (metrics["loss"], y.ge(1).sum())}

    loader = TensorLoader(x, y, batch_size=8, shuffle=True) if device == "cuda" else DataLoader(TensorDataset(x, y), 8)
    trainer = Trainer(model, optimizer, train_fn, loader, clip_norm=1.0, progress=False)
    seen = []

    class Watch(LinearDecay):
        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            if trainer.step in (12, 18):
                torch.cuda.set_sync_debug_mode("error" if trainer.step == 12 else "default")
            seen.append(trainer.batch_metrics["loss"])

    trainer.callbacks = [Watch("scale", start_value=2, end_value=1, max_steps=20), EMA(0.9)]
    try:
        trainer.fit(epochs=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 20
    assert all(loss.is_cuda for loss in seen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            seen[-1].item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# A step limit at the end of an epoch


class OwnLength(DataLoader):
    """A class of the user's that works its length out."""

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)


class Counted:
    """An iterable of the user's with a length, which may be wrong."""

    def __init__(self, batches, length):
        self.batches, self.length = batches, length

    def __iter__(self):
        yield from self.batches

    def __len__(self):
        return self.length


class CountedStream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10.0).split(1))

    def __len__(self):
        return 10


DATA = TensorDataset(torch.arange(10.0))
WITH_A_LENGTH = {
    "plain": lambda: DataLoader(DATA, 4),
    "own sampler": lambda: DataLoader(DATA, 4, sampler=InOrder(10)),
    "own batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(InOrder(10), 4, False)),
    "own class": lambda: OwnLength(DATA, 4),
    "own iterable": lambda: Counted([[torch.ones(2)]] * 3, 3),
    "deque": lambda: deque([[torch.ones(2)]] * 3),
    "stream with a length": lambda: DataLoader(CountedStream(), 4),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", WITH_A_LENGTH)
def test_a_limit_of_steps_at_the_end_of_an_epoch_ends_the_epoch_too(kind, accumulate):
    loader = WITH_A_LENGTH[kind]()
    steps = -(-len(loader) // accumulate)
    ended = []
    trainer = quiet(nothing, loader, accumulate=accumulate)
    trainer.on("epoch_end")(lambda trainer: ended.append(trainer.epoch))
    for epoch in (1, 2):
        trainer.fit(steps=steps)
        assert (trainer.history["epoch"], ended, trainer.epoch_open) == ([*range(1, epoch + 1)],) * 2 + (False,)
    trainer.fit(epochs=1)
    assert trainer.step == 3 * steps


def test_a_loader_that_has_more_than_it_says_gives_all_of_it():
    seen = []
    trainer = quiet(lambda model, x: seen.append(int(x)), Counted(torch.arange(5.0).split(1), 3))
    trainer.fit(steps=3)
    assert trainer.epoch_open
    trainer.fit(epochs=1)
    assert seen == [0, 1, 2, 3, 4]
    assert trainer.history.epochs == 1


def test_an_iterator_keeps_the_batch_that_a_fit_looked_at_and_could_not_train_on():
    seen = []
    trainer = quiet(lambda model: None, iter(torch.arange(4.0).split(1)))
    for _ in range(2):
        with pytest.raises(FunctionError):
            trainer.fit(epochs=1)
    trainer.train_fn = lambda model, x: seen.append(int(x))
    trainer.fit(epochs=1)
    assert seen == [0, 1, 2, 3]


def test_another_iterator_begins_with_its_own_first_batch():
    seen = []
    trainer = quiet(lambda model: None, iter(torch.arange(4.0).split(1)))
    with pytest.raises(FunctionError):
        trainer.fit(epochs=1)
    trainer.train_fn, trainer.train_loader = lambda model, x: seen.append(int(x)), iter(torch.arange(7.0, 9.0).split(1))
    trainer.fit(epochs=1)
    assert seen == [7, 8]


def test_model_train_in_the_train_function_is_warned_of_where_something_is_frozen():
    model = nn.Sequential(freeze(nn.BatchNorm1d(2)), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)

    def train_fn(model, x):
        model.train()
        optimize(model(x).mean(), optimizer)

    with pytest.warns(
        IgnitionWarning, match=r"put 1 frozen modules into training mode \(0\).*leave model.train\(\) out"
    ):
        quiet(train_fn, [torch.ones(3, 2)], model=model, optimizer=optimizer).fit(epochs=1)


@pytest.mark.parametrize(
    "loader",
    [lambda: DataLoader(DATA, 4, shuffle=True), lambda: TensorLoader(torch.ones(4, 1), batch_size=2, shuffle=True)],
)
def test_predictions_of_what_shuffles_are_warned_of(loader):
    with pytest.warns(IgnitionWarning, match="asked for a loader that shuffles"):
        predict(nn.Identity(), lambda model, x: model(x), loader())


def test_an_eval_function_is_tried_before_the_training_where_the_sampler_is_the_users_own():
    sampler = InOrder(10)
    loader = DataLoader(DATA, 4, sampler=sampler)
    calls = []
    trainer = quiet(lambda model, x: calls.append(x), [torch.ones(2)], lambda model: None, loader)
    with pytest.raises(FunctionError, match="eval_fn"):
        trainer.fit(epochs=1)
    assert calls == []


class Remembering(InOrder):
    """Has another order in each pass."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([*range(self.passes, self.size), *range(self.passes)])


def test_what_a_sampler_remembers_is_as_if_nobody_had_looked():
    sampler, first = Remembering(10), []
    trainer = quiet(
        nothing, [torch.ones(2)], lambda model, x: first.append(int(x[0])), DataLoader(DATA, 4, sampler=sampler)
    )
    trainer.fit(epochs=2)
    assert first[::3] == [1, 2]
