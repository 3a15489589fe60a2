"""Accelerate: save_state and load_state, which keep the generators and, with use_stateful_dataloader, the place."""

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points


def train(case, model, folder, resume):
    configuration = DataLoaderConfiguration(use_stateful_dataloader=True)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration)
    set_seed(SEED)
    train_loader = DataLoader(Points(case.augmentation), BATCH_SIZE, shuffle=case.shuffle, num_workers=case.workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)

    step, first_epoch = 0, 0
    if resume:
        accelerator.load_state(folder / f"step_{CHECKPOINT_EVERY}")
        step = CHECKPOINT_EVERY
        first_epoch = step // (len(train_loader.dataset) // BATCH_SIZE)
    for _ in range(first_epoch, EPOCHS):
        model.train()
        for x, y in train_loader:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if step % CHECKPOINT_EVERY == 0:
                accelerator.save_state(folder / f"step_{step}")
