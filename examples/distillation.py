"""A teacher answers while a student learns: elsewhere both go into one module, and the teacher into its checkpoints,
its modes and its devices. Here the teacher is a variable that `train_fn` sees, and stays as you left it, without
gradients and in evaluation mode; batches need no labels, and the student alone is trained, scheduled and saved.

    python examples/distillation.py

Distillation (Hinton et al. 2015, arXiv:1503.02531) on scikit-learn's handwritten digits. As in the paper's section 3
the student is never shown one of the digits, and learns to read it all the same, from the teacher's doubts on others.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from ignition import TensorLoader, Trainer, crossentropy_loss, fit_on_batch, freeze, optimize, seed_everything

TEMPERATURE, UNSEEN = 10.0, 7


def make_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # (1797, 1, 8, 8), from 0 to 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def make_teacher() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 10),
    )


def make_student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train_teacher(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    teacher = make_teacher()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.003)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    Trainer(teacher, optimizer, train_fn, TensorLoader(images, labels, batch_size=32, shuffle=True)).fit(epochs)
    freeze(teacher)
    return teacher.eval()


def main(epochs: int = 40, teacher_epochs: int = 10) -> Trainer:
    seed_everything(0)
    train_x, train_y, test_x, test_y = make_data()
    teacher = train_teacher(train_x, train_y, teacher_epochs)
    student = make_student()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.003)

    def train_fn(model, x):
        with torch.no_grad():
            wanted = functional.softmax(teacher(x) / TEMPERATURE, dim=1)
        answers = functional.log_softmax(model(x) / TEMPERATURE, dim=1)
        loss = TEMPERATURE**2 * functional.kl_div(answers, wanted, reduction="batchmean")
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        right, unseen = model(x).argmax(dim=1) == y, y == UNSEEN
        return {"acc": right.float().mean(), "unseen": (right[unseen].float().mean(), unseen.sum())}

    trainer = Trainer(
        student,
        optimizer,
        train_fn,
        TensorLoader(train_x[train_y != UNSEEN], batch_size=32, shuffle=True),
        eval_fn,
        TensorLoader(test_x, test_y, batch_size=len(test_x)),
    )
    trainer.fit(epochs=epochs)
    last = trainer.history.last
    print(
        f"The student reads {last['val_acc']:.1%} of the digits right, and of the {UNSEEN}s, none of which it was ever "
        f"shown, {last['val_unseen']:.1%}."
    )
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a small network digits from the answers of a larger one.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the student's images (default: 40)")
    main(parser.parse_args().epochs)
