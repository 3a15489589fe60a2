"""A GAN has two models and two optimizers, and its penalty takes a gradient of a gradient: elsewhere, a manual mode.
Here models and optimizers are two dicts, and `train_fn` writes down both updates, one after the other: `optimize`
gives each loss's gradient to its own optimizer alone, clipping and schedules stay on, and one call is one step.

    python examples/gan.py

Non-saturating GAN (Goodfellow et al. 2014) with the gradient penalty R1 (Mescheder et al. 2018, arXiv:1801.04406).
The data are points in eight clusters on a circle, made in place.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignition import TensorLoader, Trainer, optimize, seed_everything
from ignition.callbacks import LinearDecay

NOISE, CLUSTERS, SPREAD, PENALTY = 8, 8, 0.1, 0.025


def make_centres() -> Tensor:
    angles = torch.arange(CLUSTERS) * 2 * math.pi / CLUSTERS
    return 2 * torch.stack([angles.cos(), angles.sin()], dim=1)  # (8, 2)


def make_points(samples: int) -> Tensor:
    return make_centres()[torch.randint(CLUSTERS, (samples,))] + SPREAD * torch.randn(samples, 2)


def make_models() -> dict[str, nn.Module]:
    def network(inputs: int, outputs: int) -> nn.Module:
        hidden = [nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)]
        return nn.Sequential(*hidden, nn.Linear(64, outputs))

    return {"G": network(NOISE, 2), "D": network(2, 1)}


def make_optimizers(models: dict[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.Adam(model.parameters(), lr=0.003, betas=(0.0, 0.9)) for name, model in models.items()}


def steepness(discriminator: nn.Module, points: Tensor) -> Tensor:
    """The mean squared slope of a discriminator at some points: a 0-d tensor that can itself be differentiated."""
    points = points.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)
    return slope.square().sum(dim=1).mean()


def quality(points: Tensor) -> dict[str, Tensor | float]:
    """The share of the points that lie near a cluster's centre, and how many of the clusters they reach."""
    distances, nearest = torch.cdist(points, make_centres().to(points.device)).min(dim=1)
    near = distances < 3 * SPREAD
    return {"near": near.float().mean(), "clusters": len(nearest[near].unique())}


def main(epochs: int = 25, samples: int = 25_600) -> Trainer:
    seed_everything(0)
    models = make_models()
    optimizers = make_optimizers(models)
    points = make_points(samples)

    def train_fn(models, real):
        fake = models["G"](torch.randn(len(real), NOISE, device=real.device))

        on_real, on_fake = models["D"](real), models["D"](fake.detach())
        loss_d = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        slope = steepness(models["D"], real)
        norm_d = optimize(loss_d + PENALTY * slope, optimizers["D"])

        loss_g = functional.softplus(-models["D"](fake)).mean()
        norm_g = optimize(loss_g, optimizers["G"])
        return {"loss_D": loss_d, "loss_G": loss_g, "slope": slope, "norm_D": norm_d, "norm_G": norm_g}

    def eval_fn(models, noise):
        return quality(models["G"](noise))

    trainer = Trainer(
        models,
        optimizers,
        train_fn,
        TensorLoader(points, batch_size=256, shuffle=True),
        eval_fn,
        TensorLoader(torch.randn(2000, NOISE), batch_size=2000),
        clip_norm=1.0,
    )
    trainer.callbacks = [LinearDecay("lr", 0.003, 0.0001, max_epochs=epochs, optimizer=name) for name in optimizers]
    trainer.fit(epochs=epochs)

    drawn, normal = trainer.history.last, quality(points.mean() + points.std() * torch.randn(2000, 2))
    print(
        f"Of the generator's points {drawn['val_near']:.0%} lie near a cluster, and they reach "
        f"{drawn['val_clusters']:.0f} of {CLUSTERS}. Of a normal distribution's, {normal['near']:.0%} do."
    )
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a GAN with gradient penalty eight clusters on a circle.")
    parser.add_argument("--epochs", type=int, default=25, help="passes over the points (default: 25)")
    main(parser.parse_args().epochs)
