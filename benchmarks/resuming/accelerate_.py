"""Accelerate: save_state and load_state, which keep the generators, and skip_first_batches for the place in the epoch.

With its seedable sampler, which its documentation asks for where a run is to be reproduced.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points


def train(case, model, folder, resume):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    set_seed(SEED)
    train_loader = DataLoader(Points(case.augmentation), BATCH_SIZE, shuffle=case.shuffle, num_workers=case.workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)

    step, first_epoch, skipped = 0, 0, 0
    if resume:
        accelerator.load_state(folder / f"step_{CHECKPOINT_EVERY}")
        step = CHECKPOINT_EVERY
        first_epoch, skipped = divmod(step, len(train_loader))
    for epoch in range(first_epoch, EPOCHS):
        model.train()
        train_loader.set_epoch(epoch)
        resuming = resume and epoch == first_epoch
        batches = accelerator.skip_first_batches(train_loader, skipped) if resuming else train_loader
        for x, y in batches:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if step % CHECKPOINT_EVERY == 0:
                accelerator.save_state(folder / f"step_{step}")
