"""What the functions hold on to and no checkpoint does is named in a warning."""

from functools import partial

import pytest
import torch
import torchmetrics
from torch import nn

from ignition import Trainer, crossentropy_loss, freeze
from ignition.callbacks import EarlyStopping, LRSchedule
from ignition.captured import warn_of_captured
from ignition.errors import IgnitionWarning

model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def trainer_of(train_fn, eval_fn=None, state=None):
    batches = [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))]
    trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, eval_fn and batches, progress=False)
    trainer.state = state or {}
    return trainer


def holding(captured):
    def train_fn(model, x, y):
        return captured

    return train_fn


class Remembering:
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class RememberingLoader(list, Remembering):
    pass


@pytest.mark.parametrize(
    ("captured", "words"),
    [
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), "the optimizer 'captured' of train_fn"),
        (nn.Linear(2, 2), "the module 'captured' of train_fn"),
        (nn.BatchNorm1d(2, affine=False), "the module 'captured' of train_fn"),
        (torchmetrics.MeanMetric(), "the metric 'captured' of train_fn"),
        (torch.optim.lr_scheduler.StepLR(optimizer, 1), "the scheduler 'captured' of train_fn"),
        (torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "the scheduler 'captured' of train_fn"),
        (torch.amp.GradScaler("cpu"), "the gradient scaler 'captured' of train_fn"),
        (Remembering(), "the Remembering 'captured' of train_fn"),
    ],
)
def test_what_changes_in_training_and_belongs_to_nobody_is_named(captured, words):
    with pytest.warns(IgnitionWarning, match=words):
        warn_of_captured(trainer_of(holding(captured)))
    warn_of_captured(trainer_of(holding(captured), state={"it": captured}))  # and no warning: it is covered


@pytest.mark.parametrize(
    "captured",
    [model, optimizer, freeze(nn.Linear(2, 2)), nn.Linear(2, 2).eval(), nn.CrossEntropyLoss(), 3, "a", {}, {1}, dict],
)
def test_what_is_covered_or_does_not_change_is_not_named(captured):
    warn_of_captured(trainer_of(holding(captured)))


def test_what_a_callback_or_a_loader_is_or_holds_is_covered():
    scheduler, loader = torch.optim.lr_scheduler.StepLR(optimizer, 1), RememberingLoader([1])
    for captured, callback in ((scheduler, LRSchedule(scheduler)), (own := EarlyStopping("val_loss", patience=1), own)):
        trainer = trainer_of(holding(captured))
        trainer.callbacks = [callback]
        warn_of_captured(trainer)
    trainer = trainer_of(holding(loader))
    trainer.train_loader = loader
    warn_of_captured(trainer)


def from_globals(model, x, y):
    return crossentropy_loss(loose(model(x)), y)


loose = nn.Linear(3, 3)


class Function:
    def __init__(self):
        self.head = nn.Linear(2, 2)

    def __call__(self, model, x, y):
        return None

    def method(self, model, x, y):
        return None


def with_head(head, model, x, y):
    return None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (from_globals, "loose"),
        (Function(), "head"),
        (Function().method, "head"),
        (partial(with_head, nn.Linear(2, 2)), "0"),
        (lambda model, x, y: loose, "loose"),
    ],
)
def test_it_is_found_wherever_a_function_keeps_it(function, name):
    with pytest.warns(IgnitionWarning, match=f"the module '{name}'"):
        warn_of_captured(trainer_of(function))


def test_the_eval_function_is_looked_at_too():
    with pytest.warns(IgnitionWarning, match="of eval_fn"):
        warn_of_captured(trainer_of(lambda model, x, y: None, holding(torchmetrics.MeanMetric())))
