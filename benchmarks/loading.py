"""Reading shuffled batches of tensors in memory, and what loading under a seed of the Trainer's costs."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.work import BATCH_SIZE
from ignition import Trainer
from ignition.tensor_loader import TensorLoader


def read_direct_index(x, y):
    for indices in torch.randperm(len(x)).split(BATCH_SIZE):
        _ = x[indices], y[indices]


def read_tensor_loader(x, y):
    for _ in TensorLoader(x, y, batch_size=BATCH_SIZE, shuffle=True):
        pass


def read_data_loader(x, y):
    for _ in DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=True):
        pass


def fit(loader, seed=None):
    def train_fn(model, x, y):
        return None

    Trainer(nn.Linear(1, 1), None, train_fn, loader, seed=seed).fit(epochs=1)


def read_fit_data_loader(x, y):
    fit(DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=True))


def read_fit_data_loader_seed(x, y):
    fit(DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=True), seed=0)


def read_fit_tensor_loader(x, y):
    fit(TensorLoader(x, y, batch_size=BATCH_SIZE, shuffle=True))


def read_fit_tensor_loader_seed(x, y):
    fit(TensorLoader(x, y, batch_size=BATCH_SIZE, shuffle=True), seed=0)
