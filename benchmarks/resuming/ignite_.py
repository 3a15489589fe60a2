"""Ignite: its DeterministicEngine, made for this, and its Checkpoint, which keeps the engine's generators too."""

import numpy as np
import torch
from ignite.engine import Events
from ignite.engine.deterministic import DeterministicEngine
from ignite.handlers import Checkpoint, DiskSaver, global_step_from_engine
from ignite.utils import manual_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points

# Of which the state of numpy's generator is made, which the engine keeps; nothing else is loaded but plain values.
OF_NUMPY = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, np.dtypes.UInt32DType]


def train(case, model, folder, resume):
    manual_seed(SEED)
    train_loader = DataLoader(Points(case.augmentation), BATCH_SIZE, shuffle=case.shuffle, num_workers=case.workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def step(engine, batch):
        model.train()
        x, y = batch
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = DeterministicEngine(step)
    parts = {"trainer": trainer, "model": model, "optimizer": optimizer}
    save = Checkpoint(
        parts,
        DiskSaver(folder, require_empty=False),
        n_saved=None,
        global_step_transform=global_step_from_engine(trainer, Events.ITERATION_COMPLETED),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=CHECKPOINT_EVERY), save)
    if resume:
        path = folder / f"checkpoint_{CHECKPOINT_EVERY}.pt"
        with torch.serialization.safe_globals(OF_NUMPY):
            Checkpoint.load_objects(parts, torch.load(path, weights_only=True))
    trainer.run(train_loader, max_epochs=EPOCHS)
