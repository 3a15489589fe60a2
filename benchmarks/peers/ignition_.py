"""Ignition: the two functions of its README. On: bar, loss and accuracy, history, a line each epoch."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM
from ignition import Callback, Trainer, crossentropy_loss, evaluate, evaluate_on_batch, fit_on_batch


def train(model, train_set, test_set, epochs):
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None
    fit(model, train_loader, test_loader, epochs)


def fit(model, train_loader, test_loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    Trainer(model, optimizer, train_fn, train_loader, eval_fn if test_loader else None, test_loader).fit(epochs=epochs)


def noop(batches, metrics, callbacks=()):
    def train_fn(model, x, y):
        return metrics

    trainer = Trainer(nn.Linear(1, 1), None, train_fn, batches)
    trainer.callbacks = callbacks
    trainer.fit(epochs=1)


def noop_five_callbacks(batches, metrics):
    """Five callbacks, none of which overrides a hook of a batch."""
    noop(batches, metrics, [EpochCounter() for _ in range(5)])


class EpochCounter(Callback):
    epochs = 0

    def on_epoch_end(self, trainer):
        self.epochs += 1


def noop_evaluate(batches, metrics):
    def eval_fn(model, x, y):
        return metrics

    evaluate(nn.Linear(1, 1), eval_fn, batches)
