"""Ignition with the two functions written out: each step does what by_hand.py does. On: as in ignition_.py."""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM
from ignition import Trainer


def train(model, train_set, test_set, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None

    def train_fn(model, x, y):
        outputs = model(x)
        loss = cross_entropy(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss, "acc": (outputs.argmax(dim=1) == y).float().mean()}

    def eval_fn(model, x, y):
        outputs = model(x)
        return {"loss": cross_entropy(outputs, y), "acc": (outputs.argmax(dim=1) == y).float().mean()}

    Trainer(model, optimizer, train_fn, train_loader, eval_fn if test_loader else None, test_loader).fit(epochs=epochs)
