"""Ignition: a Checkpoint and resume=True, with an ordinary DataLoader."""

import torch
from torch.utils.data import DataLoader

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points
from ignition import Trainer, crossentropy_loss, fit_on_batch, seed_everything
from ignition.callbacks import Checkpoint


def train(case, model, folder, resume, loader=DataLoader):
    seed_everything(SEED)
    train_loader = loader(Points(case.augmentation), BATCH_SIZE, shuffle=case.shuffle, num_workers=case.workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    trainer = Trainer(model, optimizer, train_fn, train_loader, progress=False)
    trainer.callbacks = [Checkpoint(folder, every=CHECKPOINT_EVERY)]
    trainer.fit(epochs=EPOCHS, resume=True)
