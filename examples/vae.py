"""A VAE's `beta` must rise during the training: elsewhere that is a counter kept in the module, or a callback that
reaches into it. Here `beta` is a parameter of `train_fn`, a schedule supplies it, and history has it as a column;
`eval_fn` does not name it, so it measures the true bound (beta = 1) whatever the training is at.

    python examples/vae.py

A variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114) with an annealed beta (Bowman et al. 2016,
arXiv:1511.06349) on scikit-learn's handwritten digits, each pixel black or white.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from ignition import TensorLoader, Trainer, optimize, seed_everything
from ignition.callbacks import LinearDecay

LATENT = 8


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From images (batch, 64) to what the bound consists of, in nats: reconstruction and divergence (batch,)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        reconstruction = surprise(self.decoder(latent), x)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return reconstruction, divergence


def surprise(logits: Tensor, x: Tensor) -> Tensor:
    """The negative log-likelihood of images (batch, 64), in nats: (batch,)."""
    return functional.binary_cross_entropy_with_logits(logits.expand_as(x), x, reduction="none").sum(dim=1)


def make_data() -> tuple[Tensor, Tensor]:
    images = torch.tensor(load_digits().data > 7).float()  # (1797, 64), 0 or 1
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[:1400], images[1400:]


def main(epochs: int = 60, warmup: int = 20) -> Trainer:
    seed_everything(0)
    train_x, test_x = make_data()
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)

    def train_fn(model, x, beta):
        reconstruction, divergence = (part.mean() for part in model(x))
        optimize(reconstruction + beta * divergence, optimizer)
        return {"reconstruction": reconstruction, "divergence": divergence}

    def eval_fn(model, x):
        reconstruction, divergence = (part.mean() for part in model(x))
        return {"bound": reconstruction + divergence, "divergence": divergence}

    trainer = Trainer(
        model,
        optimizer,
        train_fn,
        TensorLoader(train_x, batch_size=64, shuffle=True),
        eval_fn,
        TensorLoader(test_x, batch_size=len(test_x)),
    )
    trainer.callbacks = [LinearDecay("beta", start_value=0, end_value=1, max_epochs=warmup)]
    trainer.fit(epochs=epochs)

    mean_image = surprise(train_x.mean(dim=0).clamp(1e-4, 1 - 1e-4).logit(), test_x).mean()
    print(
        f"An unseen digit takes {trainer.history.last['val_bound']:.2f} nats, "
        f"{trainer.history.last['val_divergence']:.2f} of them in the code; without a code it takes {mean_image:.2f}."
    )
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a variational autoencoder with an annealed beta on digits.")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images (default: 60)")
    main(parser.parse_args().epochs)
