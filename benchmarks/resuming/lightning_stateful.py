"""Lightning: the same, with torchdata's StatefulDataLoader, whose state Lightning saves and puts back."""

from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.resuming import lightning_


def train(case, model, folder, resume):
    lightning_.train(case, model, folder, resume, StatefulDataLoader)
