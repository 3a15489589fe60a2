"""Ignition: you write two plain functions for one batch, Ignition runs the loop."""

from ignition import callbacks, distributed, errors, report
from ignition.callbacks.base import Callback
from ignition.checks import sanity_checks
from ignition.device import default_device, make_var
from ignition.errors import IgnitionError, IgnitionWarning
from ignition.evaluation import evaluate, predict
from ignition.history import History
from ignition.metrics import accuracy, topk_accuracy
from ignition.modes import freeze, freeze_until, unfreeze
from ignition.optimize import optimize
from ignition.optimizers import set_lr
from ignition.pretrained import load_weights
from ignition.rng import seed_everything
from ignition.steps import crossentropy_loss, evaluate_on_batch, fit_on_batch, predict_on_batch
from ignition.strategy import DDP, FSDP
from ignition.summary import summary
from ignition.tensor_loader import TensorLoader
from ignition.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "DDP",
    "FSDP",
    "Callback",
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
