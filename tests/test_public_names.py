"""The public names, pinned: a change here is a change for users. Each of them says what it is."""

from __future__ import annotations

import inspect
import operator
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
    "FSDP": "wrap=None precision=None reduce_precision=None reshard_after_forward=True sync_batch_norm=False",
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


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_argument_is_described(name):
    found = called(name)
    doc = inspect.getdoc(found)
    arguments = [argument for argument in inspect.signature(found).parameters if argument != "self"]
    missing = [argument for argument in arguments if f"    {argument}: " not in doc]
    assert not missing or "\n" not in doc  # one line says it all, or names the function that does


def test_the_version_is_that_of_the_distribution():
    assert ignition.__version__ == version("torch-ignition")
