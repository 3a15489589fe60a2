"""Accelerate: the loop of by_hand.py over what `prepare` returns. On: a bar of tqdm, loss and accuracy by epoch."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
    if test_set:
        test_loader = accelerator.prepare(DataLoader(test_set, batch_size=BATCH_SIZE))

    for epoch in range(1, epochs + 1):
        model.train()
        loss_sum, accuracy_sum, samples = 0.0, 0.0, 0
        for x, y in tqdm(train_loader, disable=not accelerator.is_main_process):
            outputs = model(x)
            loss = cross_entropy(outputs, y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            loss_sum += loss.item() * len(y)
            accuracy_sum += (outputs.argmax(dim=1) == y).float().mean().item() * len(y)
            samples += len(y)
        accelerator.print(f"epoch {epoch}: loss {loss_sum / samples:.4f} accuracy {accuracy_sum / samples:.4f}")

        if test_set:
            model.eval()
            loss_sum, accuracy_sum, samples = 0.0, 0.0, 0
            with torch.no_grad():
                for x, y in tqdm(test_loader, disable=not accelerator.is_main_process):
                    outputs, y = accelerator.gather_for_metrics((model(x), y))
                    loss_sum += cross_entropy(outputs, y).item() * len(y)
                    accuracy_sum += (outputs.argmax(dim=1) == y).float().mean().item() * len(y)
                    samples += len(y)
            accelerator.print(f"  test: loss {loss_sum / samples:.4f} accuracy {accuracy_sum / samples:.4f}")
