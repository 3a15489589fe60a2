"""Teaches a small network to answer as another one does: training without labels.

    python examples/teacher_student.py

The teacher is a fixed random network. The loader gives inputs only, and the teacher's outputs take the labels' place,
so the functions for one batch are written by hand here. It takes a few seconds.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader

from ignition import Trainer, default_device, make_var, seed_everything


def main(epochs: int = 20) -> None:
    seed_everything(0)
    # A tensor is a data set of its rows: each batch is one tensor (batch, 10).
    train_loader = DataLoader(torch.randn(2000, 10), batch_size=50, shuffle=True)
    test_loader = DataLoader(torch.randn(500, 10), batch_size=50)

    # The Trainer moves its own model, the student, to the accelerator if there is one; the teacher is ours to move.
    teacher = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5)).requires_grad_(False).to(default_device())
    student = nn.Sequential(nn.Linear(10, 50), nn.Tanh(), nn.Linear(50, 5))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)

    def distance(model, x):
        x = make_var(x)
        teacher_outputs = teacher.forward(x)
        student_outputs = model.forward(x)
        return torch.mean(torch.sum(0.5 * (teacher_outputs - student_outputs) ** 2, dim=1))

    def train_fn(model, x):
        optimizer.zero_grad()
        loss = distance(model, x)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def eval_fn(model, x):
        return {"loss": distance(model, x)}

    trainer = Trainer(student, optimizer, train_fn, train_loader, eval_fn, test_loader)
    losses = trainer.fit(epochs=epochs)["val_loss"]
    print(f"The student's distance from its teacher fell from {losses[0]:.4f} to {losses[-1]:.4f}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a small network to answer as another one does.")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the inputs (default: 20)")
    main(parser.parse_args().epochs)
