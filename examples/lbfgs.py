"""L-BFGS evaluates the loss many times in one step, by a closure: elsewhere the closure is the loop's own, or the
optimizer is simply not taken. Here `train_fn` is a plain function, so it hands its closure to a plain
`optimizer.step(closure)`; one call is one step, however often the closure was called in it.

    python examples/lbfgs.py

Limited-memory BFGS (Liu and Nocedal 1989) fits a regularized logistic regression to scikit-learn's handwritten digits,
all of them in one batch. scikit-learn's own solver says where the minimum is.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from ignition import Trainer, seed_everything

PENALTY = 0.001


def make_data() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)  # (1797, 64), (1797,)


def objective(model: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y) + PENALTY / 2 * model.weight.square().sum()


def least_objective(x: Tensor, y: Tensor) -> float:
    """Where scikit-learn's solver arrives."""
    solved = LogisticRegression(C=1 / (PENALTY * len(x)), tol=1e-6, max_iter=1000).fit(x.numpy(), y.numpy())
    model = nn.Linear(64, 10)
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(solved.coef_))
        model.bias.copy_(torch.as_tensor(solved.intercept_))
        return objective(model, x, y).item()


def main(steps: int = 10) -> Trainer:
    seed_everything(0)
    x, y = make_data()
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def train_fn(model, x, y):
        calls = 0

        def closure():
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = objective(model, x, y)
            loss.backward()
            return loss

        return {"loss": optimizer.step(closure), "calls": calls}

    def eval_fn(model, x, y):
        return {"loss": objective(model, x, y)}

    trainer = Trainer(model, optimizer, train_fn, [(x, y)], eval_fn, [(x, y)])
    trainer.fit(steps=steps)
    print(
        f"After {trainer.step} steps the loss is {trainer.history.last['val_loss']:.5f}; "
        f"scikit-learn arrives at {least_objective(x, y):.5f}."
    )
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fits a logistic regression to digits with L-BFGS.")
    parser.add_argument("--steps", type=int, default=10, help="steps of ten iterations each (default: 10)")
    main(parser.parse_args().steps)
