"""What a schedule sees of a training: a stand-in for a Trainer that runs the events, and optimizers to move."""

from __future__ import annotations

import math

import torch

from ignition.callbacks.schedule import bind_schedules


class StandIn:
    """The part of a Trainer that a schedule sees."""

    def __init__(self, optimizer=None, hyper=None):
        self.optimizer = optimizer
        self.hyper = {} if hyper is None else hyper
        self.epoch = 0
        self.step = 0
        self.epoch_open = False

    @property
    def updates(self):
        return self.step

    def fit(self, schedules, epochs=None, *, steps=math.inf, batches=3, parameters=("lambd",), read=None):
        """Runs the events in the loop's order; what `read` sees at each step (default: the hyper's lambd)."""
        read = read or (lambda: self.hyper["lambd"])
        bind_schedules(schedules, self, parameters)
        seen = []
        last = math.inf if epochs is None else self.epoch - self.epoch_open + epochs
        self.left = getattr(self, "left", 0) if self.epoch_open else 0
        while self.epoch_open or self.epoch < last:
            if not self.epoch_open:
                self.epoch, self.left, self.epoch_open = self.epoch + 1, batches, True
                for schedule in schedules:
                    schedule.on_epoch_begin(self)
            while self.left:
                if len(seen) == steps:
                    return seen
                for schedule in schedules:
                    schedule.on_batch_begin(self)
                seen.append(read())
                self.step, self.left = self.step + 1, self.left - 1
            self.epoch_open = False
            if len(seen) == steps:
                return seen
        return seen


def weights(*sizes):
    return [torch.nn.Parameter(torch.zeros(size)) for size in sizes]


def sgd(*lrs, **options):
    return torch.optim.SGD([{"params": weights(2), "lr": lr} for lr in lrs], **options)


def lrs(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]
