"""Ignition over its TensorLoader, for data in memory. On: as in ignition_.py."""

from benchmarks.peers.ignition_ import fit
from benchmarks.work import BATCH_SIZE
from ignition.tensor_loader import TensorLoader


def train(model, train_set, test_set, epochs):
    train_loader = TensorLoader(*train_set.tensors, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = TensorLoader(*test_set.tensors, batch_size=BATCH_SIZE) if test_set else None
    fit(model, train_loader, test_loader, epochs)
