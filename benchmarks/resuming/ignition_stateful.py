"""Ignition: the same, with torchdata's StatefulDataLoader, whose own state Ignition saves and puts back."""

from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.resuming import ignition_


def train(case, model, folder, resume):
    ignition_.train(case, model, folder, resume, StatefulDataLoader)
