"""MoCo's second encoder gets no gradient and follows the first, and a queue of its answers outlives the batch:
elsewhere both are buffers of one module, updated in hooks. Here the two encoders are a dict of models, the queue is in
`trainer.state`, both are kept with the rest, and `train_fn` says in its own order who moves when.

    python examples/moco.py

Momentum contrast (He et al. 2020, arXiv:1911.05722) on scikit-learn's handwritten digits, without any label. A linear
classifier that then sees five labels of each digit shows what was learned.
"""

from __future__ import annotations

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from ignition import TensorLoader, Trainer, optimize, seed_everything

QUEUE, TEMPERATURE, MOMENTUM = 512, 0.1, 0.99


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 64))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        """From images (batch, 1, 8, 8) to directions (batch, 32)."""
        return functional.normalize(self.head(self.features(x)), dim=1)


def make_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # (1797, 1, 8, 8), from 0 to 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def augment(x: Tensor) -> Tensor:
    """Each image a little turned, stretched and shifted, and with noise."""
    change = torch.eye(2, 3, device=x.device) + torch.randn(len(x), 2, 3, device=x.device) * 0.15
    moved = functional.grid_sample(x, functional.affine_grid(change, x.shape, align_corners=False), align_corners=False)
    return moved + 0.1 * torch.randn_like(x)


def embed(models, x):
    return functional.normalize(models["encoder"].features(x), dim=1)


def linear_probe(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """The accuracy of a linear classifier that has seen the first five of each digit."""
    few = torch.cat([(labels == digit).nonzero().flatten()[:5] for digit in range(10)])
    classifier = LogisticRegression(C=30, max_iter=2000).fit(features[few].numpy(), labels[few].numpy())
    return classifier.score(test_features.numpy(), test_labels.numpy())


def main(epochs: int = 40) -> Trainer:
    seed_everything(0)
    train_x, train_y, test_x, test_y = make_data()
    encoder = Encoder()
    models = {"encoder": encoder, "follower": copy.deepcopy(encoder).requires_grad_(False)}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.001)

    def train_fn(models, x):
        queries = models["encoder"](augment(x))
        with torch.no_grad():
            pairs = zip(models["follower"].parameters(), models["encoder"].parameters(), strict=True)
            for followed, parameter in pairs:
                followed.lerp_(parameter, 1 - MOMENTUM)
            keys = models["follower"](augment(x))

        queue = trainer.state["queue"]
        same = (queries * keys).sum(dim=1, keepdim=True)
        others = queries @ queue.T
        logits = torch.cat([same, others], dim=1) / TEMPERATURE
        loss = functional.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long, device=x.device))
        optimize(loss, optimizer)
        trainer.state["queue"] = torch.cat([keys, queue])[:QUEUE]
        return {"loss": loss, "acc": (logits.argmax(dim=1) == 0).float().mean()}

    trainer = Trainer(models, optimizer, train_fn, TensorLoader(train_x, batch_size=100, shuffle=True))
    trainer.state["queue"] = functional.normalize(torch.randn(QUEUE, 32, device=trainer.device), dim=1)

    def probe() -> float:
        features, test_features = (trainer.predict(embed, TensorLoader(x, batch_size=500)) for x in (train_x, test_x))
        return linear_probe(features, train_y, test_features, test_y)

    before = probe()
    trainer.fit(epochs=epochs)
    after = probe()
    print(f"With five labels of each digit, a linear classifier reads {after:.1%} of the digits; before the training")
    pixels = linear_probe(train_x.flatten(1), train_y, test_x.flatten(1), test_y)
    print(f"of the encoder it read {before:.1%}, and from the pixels {pixels:.1%}.")
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learns what digits look like without labels, by momentum contrast.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the images (default: 40)")
    main(parser.parse_args().epochs)
