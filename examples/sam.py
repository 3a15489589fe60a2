"""SAM takes two gradients for each step, the second from weights moved uphill: elsewhere it needs an optimizer that
wraps another one, a closure, and the manual mode. Here `train_fn` writes the two passes down, and ends them with a
plain `optimizer.step()`, which clipping, schedules and averages see as the one step that it is.

    python examples/sam.py

Sharpness-aware minimization (Foret et al. 2021, arXiv:2010.01412) on scikit-learn's handwritten digits, where four in
ten labels were drawn at random: as in the paper's section 3.3, it does not learn the wrong ones by heart.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ignition import TensorLoader, Trainer, crossentropy_loss, evaluate_on_batch, seed_everything

NOISE = 0.4


def make_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    train, test = order[:1000], order[1000:]
    redrawn = torch.rand(len(train), generator=generator) < NOISE
    train_labels = torch.where(redrawn, torch.randint(10, (len(train),), generator=generator), labels[train])
    return images[train], train_labels, images[test], labels[test]


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def train(radius: float, epochs: int) -> Trainer:
    seed_everything(0)
    train_x, train_y, test_x, test_y = make_data()
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parameters = list(model.parameters())

    def train_fn(model, x, y, radius):
        optimizer.zero_grad()
        loss = crossentropy_loss(model(x), y)
        loss.backward()

        start = [parameter.detach().clone() for parameter in parameters]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(radius * parameter.grad / norm)

        optimizer.zero_grad()
        crossentropy_loss(model(x), y).backward()
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
        optimizer.step()
        return {"loss": loss, "norm": norm}

    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    train_loader = TensorLoader(train_x, train_y, batch_size=50, shuffle=True)
    test_loader = TensorLoader(test_x, test_y, batch_size=len(test_x))
    trainer = Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader)
    trainer.hyper = {"radius": radius}
    trainer.fit(epochs=epochs)
    return trainer


def main(epochs: int = 40, radius: float = 0.5) -> tuple[Trainer, Trainer]:
    plain, aware = train(0.0, epochs), train(radius, epochs)
    print(
        f"With SAM the network reads {aware.history.last['val_acc']:.1%} of the digits right, "
        f"without it {plain.history.last['val_acc']:.1%}."
    )
    return plain, aware


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains on digits with wrong labels, with and without SAM.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: 40)")
    parser.add_argument("--radius", type=float, default=0.5, help="how far uphill the second pass is (default: 0.5)")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.radius)
