"""The public names, pinned: a change here is a change for users. Each of them says what it is."""

from __future__ import annotations

import inspect
import operator
import re
import types
from importlib.metadata import version

import pytest
import torch
from torch import nn

import ignition
from ignition import Callback, History, Trainer, callbacks
from ignition.callbacks.base import EVENTS

NAMES = [
    "Callback",
    "DDP",
    "FSDP",
    "History",
    "IgnitionError",
    "IgnitionWarning",
    "TensorLoader",
    "Trainer",
    "accuracy",
    "callbacks",
    "crossentropy_loss",
    "default_device",
    "distributed",
    "errors",
    "evaluate",
    "evaluate_on_batch",
    "fit_on_batch",
    "freeze",
    "freeze_until",
    "load_weights",
    "make_var",
    "optimize",
    "predict",
    "predict_on_batch",
    "report",
    "sanity_checks",
    "seed_everything",
    "set_lr",
    "summary",
    "topk_accuracy",
    "unfreeze",
]

DISTRIBUTED = ["barrier", "is_main", "main_first", "rank", "world_size"]

CALLBACKS = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CosineAnneal",
    "CosineDecay",
    "EMA",
    "EarlyStopping",
    "ExponentialDecay",
    "LRSchedule",
    "LinearDecay",
    "MLflow",
    "OptunaPruning",
    "PlotProgress",
    "Profile",
    "SWA",
    "SaveModel",
    "Schedule",
    "StepDecay",
    "TensorBoard",
    "TerminateOnNaN",
    "TimeLimit",
    "WandB",
    "Warmup",
]

REPORT = [
    "Example",
    "Examples",
    "find_examples",
    "label_counts",
    "plot_confusion",
    "plot_history",
    "plot_label_counts",
]

ERRORS = [
    "ArgumentError",
    "BatchError",
    "CheckpointError",
    "FunctionError",
    "HyperparameterError",
    "IgnitionError",
    "IgnitionWarning",
    "MetricError",
    "NotFiniteError",
    "OptimizerError",
    "ProcessError",
]

TRAINER = [
    "averaged",
    "batch_axis",
    "batch_metrics",
    "callbacks",
    "compile",
    "device",
    "epoch",
    "epoch_open",
    "eval_fn",
    "evaluate",
    "exception",
    "find_lr",
    "fit",
    "history",
    "hyper",
    "load",
    "model",
    "on",
    "optimizer",
    "predict",
    "save",
    "seed",
    "state",
    "step",
    "stop",
    "stop_reason",
    "test_loader",
    "train_fn",
    "train_loader",
    "training",
    "training_batches",
    "updated",
    "updates",
]

HISTORY = [
    "append",
    "best_epoch",
    "columns",
    "end_epoch",
    "epochs",
    "from_json",
    "last",
    "latest",
    "load_state_dict",
    "plot",
    "plot_accuracy",
    "plot_loss",
    "rows",
    "state_dict",
    "to_csv",
    "to_frame",
    "to_json",
]

CALLBACK = sorted(
    [
        "averaged",
        "averages",
        "check_columns",
        "check_state",
        "columns_needed",
        *(f"on_{event}" for event in EVENTS),
        "load_state_dict",
        "main_only",
        "needs_updates",
        "order",
        "prepare",
        "state_dict",
    ]
)

SIGNATURES = {
    "Trainer": (
        "model optimizer train_fn train_loader eval_fn=None test_loader=None * batch_axis=0 device='auto' "
        "precision='fp32' accumulate=1 clip_norm=None strategy='auto' compile=False seed=None progress=True"
    ),
    "Trainer.fit": "self epochs=None * steps=None eval_every=None max_eval_steps=None resume=False",
    "Trainer.evaluate": "self loader=None * max_steps=None",
    "Trainer.find_lr": "self start_lr=1e-06 end_lr=10 steps=100 * metric='loss' optimizer=None smoothing=0.9",
    "Trainer.predict": "self pred_fn loader",
    "Trainer.stop": "self reason",
    "Trainer.on": "self event",
    "evaluate": "model eval_fn loader * batch_axis=0 max_steps=None hyper=None device=None progress=True",
    "predict": "model pred_fn loader * batch_axis=0 max_steps=None device=None progress=False",
    "fit_on_batch": "model x y loss_fn optimizer metrics=('loss', 'acc')",
    "evaluate_on_batch": "model x y loss_fn=crossentropy_loss metrics=('loss', 'acc')",
    "predict_on_batch": "model x",
    "optimize": "loss optimizer * weight=None retain_graph=False",
    "crossentropy_loss": "outputs targets",
    "accuracy": "outputs targets",
    "topk_accuracy": "outputs targets ks=(1, 5)",
    "make_var": "x dtype=None",
    "default_device": "",
    "seed_everything": "seed",
    "freeze": "model",
    "unfreeze": "model",
    "freeze_until": "model name",
    "set_lr": "optimizer lr",
    "sanity_checks": "trainer checks=()",
    "summary": "model input=None * input_size=None depth=3",
    "DDP": (
        "find_unused_parameters=False static_graph=False broadcast_buffers=True bucket_cap_mb=None "
        "sync_batch_norm=False"
    ),
    "FSDP": "wrap=None precision=None reshard_after_forward=True methods=() sync_batch_norm=False",
    "callbacks.Profile": "steps=5 * folder='profile' wait=2 warmup=1 top=10",
    "callbacks.LinearDecay": ("name start_value end_value max_epochs=None * max_steps=None optimizer=None group=None"),
    "callbacks.Schedule": "name fn * every='epoch' optimizer=None group=None",
    "callbacks.LRSchedule": "torch_scheduler every='epoch' monitor=None",
}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (ignition, NAMES),
        (callbacks, CALLBACKS),
        (ignition.errors, ERRORS),
        (ignition.report, REPORT),
        (ignition.distributed, DISTRIBUTED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_names_of_a_module_are_these(module, names):
    assert sorted(module.__all__) == names
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("module", [ignition, callbacks], ids=lambda module: module.__name__)
def test_nothing_else_lies_open(module):
    there = {name for name, value in vars(module).items() if not isinstance(value, types.ModuleType)}
    assert {name for name in there if not name.startswith("_")} <= set(module.__all__)


def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def test_the_attributes_of_a_trainer_are_these():
    trainer = Trainer(nn.Identity(), None, lambda model, x: None, [torch.zeros(1)], progress=False)
    assert public(trainer) == TRAINER


def test_the_attributes_of_a_history_are_these():
    assert public(History()) == HISTORY


def test_the_attributes_of_a_callback_are_these():
    assert public(Callback()) == CALLBACK


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items())
def test_the_arguments_of_what_is_called_are_these(name, expected):
    assert " ".join(shown(inspect.signature(called(name)))) == expected


def called(name):
    return operator.attrgetter(name)(ignition)


def shown(signature):
    """The parameters as words, a star before those that are given by name only."""
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            yield "*"
        default = parameter.default
        if default is parameter.empty:
            yield parameter.name
        else:
            yield f"{parameter.name}={getattr(default, '__name__', None) or repr(default)}"


def documented():
    """Each public function and class, and the public methods and properties of those classes, by name."""
    found = {}
    for module in (ignition, callbacks, ignition.errors, ignition.report, ignition.distributed):
        for name in module.__all__:
            found[name] = getattr(module, name)
    for name, kind in [(name, value) for name, value in found.items() if isinstance(value, type)]:
        for member in dir(kind):
            value = inspect.getattr_static(kind, member)
            is_own = any(member in vars(base) for base in kind.__mro__ if base.__module__.startswith("ignition"))
            if is_own and not member.startswith("_") and isinstance(value, (types.FunctionType, property, classmethod)):
                found[f"{name}.{member}"] = getattr(kind, member)
    return found


def test_each_public_thing_says_what_it_is():
    first_lines = {name: (inspect.getdoc(value) or "").partition("\n")[0] for name, value in documented().items()}
    assert {name: line for name, line in first_lines.items() if not line.endswith((".", ":"))} == {}


def at_length():
    """What is documented in more than a line: one line says it all, or names the function that does."""
    return {name: value for name, value in documented().items() if "\n" in (inspect.getdoc(value) or "")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, value in at_length().items() if callable(value)])
def test_each_argument_and_each_result_is_described(name):
    found = documented()[name]
    doc = inspect.getdoc(found)
    arguments = [argument for argument in inspect.signature(found).parameters if argument != "self"]
    is_method, is_result = "." in name, isinstance(found, type) and issubclass(found, (tuple, Warning))
    if not is_result and (not is_method or "\nArgs:" in doc):
        assert [argument for argument in arguments if not re.search(rf"^    \*?{argument}: ", doc, re.M)] == []
    if isinstance(found, types.FunctionType) and not is_method and found.__annotations__["return"] != "None":
        assert "\nReturns:" in doc


BATCH = (torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))


def loss_of(model, x, y):
    return {"loss": model(x).sum()}


def trainer_of(train_fn=loss_of, loader=(BATCH,), eval_fn=None, **hyper):
    trainer = Trainer(nn.Linear(4, 3), None, train_fn, loader, eval_fn, eval_fn and [BATCH], progress=False)
    trainer.hyper = hyper
    return trainer


WRONG = {
    "accuracy": [lambda: ignition.accuracy(None, BATCH[1]), lambda: ignition.accuracy(BATCH[0], BATCH[0])],
    "topk_accuracy": [lambda: ignition.topk_accuracy(*BATCH, ks=(9,))],
    "freeze": [lambda: ignition.freeze(None)],
    "unfreeze": [lambda: ignition.unfreeze([nn.Identity()])],
    "freeze_until": [
        lambda: ignition.freeze_until(nn.Linear(1, 1), None),
        lambda: ignition.freeze_until(nn.Linear(1, 1), ["bias"]),
        lambda: ignition.freeze_until(nn.Linear(1, 1), "nowhere"),
    ],
    "set_lr": [lambda: ignition.set_lr(None, 0.1)],
    "seed_everything": [lambda: ignition.seed_everything(-1)],
    "optimize": [
        lambda: ignition.optimize(1.0, torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)),
        lambda: ignition.optimize(nn.Linear(1, 1)(torch.zeros(1)), None),
    ],
    "fit_on_batch": [lambda: ignition.fit_on_batch(nn.Identity(), *BATCH, None, None)],
    "evaluate_on_batch": [lambda: ignition.evaluate_on_batch(nn.Identity(), *BATCH, metrics=["nothing"])],
    "crossentropy_loss": [lambda: ignition.crossentropy_loss(torch.zeros(2, 3), torch.tensor([0, 3]))],
    "make_var": [lambda: ignition.make_var("x"), lambda: ignition.make_var(1.0, dtype="float")],
    "load_weights": [
        lambda: ignition.load_weights(nn.Identity(), None),
        lambda: ignition.load_weights(nn.Identity(), "nowhere.pt"),
        lambda: ignition.load_weights(None, "nowhere.pt"),
    ],
    "evaluate": [
        lambda: ignition.evaluate(None, loss_of, [BATCH]),
        lambda: ignition.evaluate(nn.Linear(4, 3), loss_of, [], progress=False),
        lambda: ignition.evaluate(nn.Linear(4, 3), loss_of, [BATCH], batch_axis=2, progress=False),
        lambda: ignition.evaluate(nn.Linear(4, 3), lambda model: 0.0, [BATCH], progress=False),
        lambda: ignition.evaluate(nn.Linear(4, 3), loss_of, [BATCH], hyper={"y": 1}, progress=False),
        lambda: ignition.evaluate(nn.Linear(4, 3), lambda model, x, y: "", [BATCH], progress=False),
    ],
    "predict": [
        lambda: ignition.predict(nn.Linear(4, 3), None, [BATCH]),
        lambda: ignition.predict(nn.Linear(4, 3), ignition.predict_on_batch, []),
        lambda: ignition.predict(nn.Linear(4, 3), ignition.predict_on_batch, [BATCH], batch_axis=2),
        lambda: ignition.predict(nn.Linear(4, 3), lambda model, x: None, [BATCH]),
    ],
    "sanity_checks": [lambda: ignition.sanity_checks(None), lambda: ignition.sanity_checks(trainer_of(loader=[]))],
    "summary": [lambda: ignition.summary(None), lambda: ignition.summary(nn.Identity(), depth=0)],
    "TensorLoader": [
        lambda given=given: ignition.TensorLoader(*given, batch_size=2) for given in ([], [None], [BATCH])
    ],
    "Trainer": [lambda: trainer_of(train_fn=[BATCH]), lambda: trainer_of(epoch=1)],
    "Trainer.fit": [
        lambda: trainer_of().fit(),
        lambda: trainer_of(lambd=1.0).fit(1),
        lambda: trainer_of(lambda model: None).fit(1),
        lambda: trainer_of(loader=[]).fit(1),
        lambda: trainer_of(lambda model, x, y: "").fit(1),
    ],
    "Trainer.evaluate": [
        lambda: trainer_of().evaluate(),
        lambda: trainer_of(eval_fn=loss_of).evaluate([]),
        lambda: trainer_of(eval_fn=lambda model: 0.0).evaluate(),
        lambda: trainer_of(eval_fn=loss_of, y=1).evaluate(),
        lambda: trainer_of(eval_fn=lambda model, x, y: "").evaluate(),
    ],
    "Trainer.predict": [
        lambda: trainer_of().predict([BATCH], ignition.predict_on_batch),
        lambda: trainer_of().predict(ignition.predict_on_batch, []),
        lambda: trainer_of().predict(lambda model, x: None, [BATCH]),
    ],
    "Trainer.find_lr": [
        lambda: trainer_of().find_lr(start_lr=-1),
        lambda: trainer_of(loader=[]).find_lr(),
    ],
    "Trainer.save": [lambda: trainer_of().save(None)],
    "Trainer.load": [lambda: trainer_of().load(None), lambda: trainer_of().load("nowhere")],
    "Trainer.on": [lambda: trainer_of().on("sunday")],
    "History.plot": [lambda: History().plot("loss"), lambda: History().plot(by="day")],
    "History.best_epoch": [lambda: History().best_epoch("loss", mode="up")],
    "History.to_csv": [lambda: History().to_csv(None), lambda: History().to_csv("/dev/null/history.csv")],
    "History.to_json": [lambda: History().to_json(None), lambda: History().to_json("/dev/null/history.json")],
    "History.from_json": [lambda: History.from_json(None), lambda: History.from_json("nowhere.json")],
    "History.append": [lambda: History().append({}, epoch_ended=True)],
    "report.plot_history": [
        lambda: ignition.report.plot_history(None),
        lambda: ignition.report.plot_history(History()),
    ],
    "report.find_examples": [lambda: ignition.report.find_examples(*BATCH, which="both")],
    "report.plot_confusion": [lambda: ignition.report.plot_confusion(BATCH[0], BATCH[0])],
    "report.label_counts": [lambda: ignition.report.label_counts(None)],
}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in WRONG.items() for call in calls])
def test_what_bad_input_raises_stands_in_the_docstring(name, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as raised:  # noqa: PT011 (which one it may be is what is asked)
        call()
    said = inspect.getdoc(called(name)).partition("\nRaises:\n")[2].partition("\nExample:")[0]
    kinds = {
        word
        for line in said.splitlines()
        if (head := re.match(r"    ([\w, ]+):", line))
        for word in head[1].split(", ")
    }
    assert kinds & {kind.__name__ for kind in type(raised.value).__mro__ if kind is not Exception}


def test_the_version_is_that_of_the_distribution():
    assert ignition.__version__ == version("torch-ignition")
