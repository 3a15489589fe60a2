"""skorch: NeuralNetClassifier. On: bar, loss and accuracy, history, a line each epoch."""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring, ProgressBar
from skorch.helper import predefined_split
from torch import nn

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    net = NeuralNetClassifier(
        model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=LEARNING_RATE,
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=predefined_split(test_set) if test_set else None,  # with it come the test loss and accuracy
        callbacks=[
            EpochScoring("accuracy", name="train_acc", on_train=True, lower_is_better=False),
            ProgressBar(),
        ],
    )
    net.fit(train_set, y=None)
