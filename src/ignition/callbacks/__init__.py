"""Callbacks that come with Ignition."""

from ignition.callbacks.base import Callback
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.callbacks.schedule import Schedule
from ignition.callbacks.schedules import CosineAnneal, CosineDecay, ExponentialDecay, LinearDecay, StepDecay
from ignition.callbacks.warmup import Warmup

__all__ = [
    "Callback",
    "CosineAnneal",
    "CosineDecay",
    "ExponentialDecay",
    "LRSchedule",
    "LinearDecay",
    "Schedule",
    "StepDecay",
    "Warmup",
]
