"""No library and no DataLoader: the loop of by_hand.py over batches indexed directly from the tensors."""

import torch

from benchmarks.peers.by_hand import run_epochs
from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


class Indexed:
    def __init__(self, x, y, shuffle):
        self.x, self.y, self.shuffle = x, y, shuffle

    def __iter__(self):
        count = len(self.x)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        for indices in order.split(BATCH_SIZE):
            yield self.x[indices], self.y[indices]


def train(model, train_set, test_set, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = Indexed(*train_set.tensors, shuffle=True)
    test_loader = Indexed(*test_set.tensors, shuffle=False) if test_set else None
    run_epochs(model, optimizer, train_loader, test_loader, epochs)
