"""No library: what one writes oneself. Loss and accuracy are summed and printed each epoch; there is no bar."""

from time import perf_counter

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None
    run_epochs(model, optimizer, train_loader, test_loader, epochs)


def run_epochs(model, optimizer, train_loader, test_loader, epochs):
    for epoch in range(1, epochs + 1):
        model.train()
        loss_sum, accuracy_sum, samples = 0.0, 0.0, 0
        for x, y in train_loader:
            outputs = model(x)
            loss = cross_entropy(outputs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(y)
            accuracy_sum += (outputs.argmax(dim=1) == y).float().mean().item() * len(y)
            samples += len(y)
        print(f"epoch {epoch}: loss {loss_sum / samples:.4f} accuracy {accuracy_sum / samples:.4f}")

        if test_loader is not None:
            model.eval()
            loss_sum, accuracy_sum, samples = 0.0, 0.0, 0
            with torch.no_grad():
                for x, y in test_loader:
                    outputs = model(x)
                    loss_sum += cross_entropy(outputs, y).item() * len(y)
                    accuracy_sum += (outputs.argmax(dim=1) == y).float().mean().item() * len(y)
                    samples += len(y)
            print(f"  test: loss {loss_sum / samples:.4f} accuracy {accuracy_sum / samples:.4f}")


def noop(batches, metrics):
    """The bare loop, from which every cost of a no-op step is counted."""

    def step(model, x, y):
        return metrics

    for batch in batches:
        step(None, *batch)


def noop_minimal_reference(batches, metrics):
    """The least that a loop with metrics and a bar must do: unpack, call, weigh, sum, look at the clock."""

    def step(model, x, y):
        return metrics

    sums, weights, next_draw = {}, 0, 0.0
    bar = tqdm(total=len(batches), mininterval=0, miniters=0)
    for done, batch in enumerate(batches):
        result = step(None, *batch)
        weight = batch[0].size(0)
        for name, value in result.items():
            number = value if type(value) is float else value.item()
            sums[name] = sums.get(name, 0.0) + number * weight
        weights += weight
        now = perf_counter()
        if now >= next_draw:
            next_draw = now + 0.1
            bar.set_postfix({name: total / weights for name, total in sums.items()}, refresh=False)
            bar.update(done - bar.n)
    bar.close()
