"""Poutyne: its Model. On: bar, loss and accuracy, history, a line each epoch."""

import torch
from poutyne import Model
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None
    poutyne_model = Model(model, optimizer, "cross_entropy", batch_metrics=["accuracy"])
    poutyne_model.fit_generator(train_loader, test_loader, epochs=epochs)
