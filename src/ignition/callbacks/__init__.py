"""Callbacks that come with Ignition."""

from ignition.callbacks.averaging import EMA, SWA
from ignition.callbacks.base import Callback
from ignition.callbacks.checkpointing import Checkpoint
from ignition.callbacks.display import PlotProgress
from ignition.callbacks.logging import CSVLogger
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.callbacks.mlflow_run import MLflow
from ignition.callbacks.profiling import Profile
from ignition.callbacks.pruning import OptunaPruning
from ignition.callbacks.saving import SaveModel
from ignition.callbacks.schedule import Schedule
from ignition.callbacks.schedules import CosineAnneal, CosineDecay, ExponentialDecay, LinearDecay, StepDecay
from ignition.callbacks.stopping import EarlyStopping, TerminateOnNaN, TimeLimit
from ignition.callbacks.tensorboard_folder import TensorBoard
from ignition.callbacks.wandb_run import WandB
from ignition.callbacks.warmup import Warmup

__all__ = [
    "EMA",
    "SWA",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CosineAnneal",
    "CosineDecay",
    "EarlyStopping",
    "ExponentialDecay",
    "LRSchedule",
    "LinearDecay",
    "MLflow",
    "OptunaPruning",
    "PlotProgress",
    "Profile",
    "SaveModel",
    "Schedule",
    "StepDecay",
    "TensorBoard",
    "TerminateOnNaN",
    "TimeLimit",
    "WandB",
    "Warmup",
]
