"""Each snippet of the guide, typed as its reader would type it, on real tensors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from ignition import (
    Trainer,
    crossentropy_loss,
    default_device,
    evaluate,
    evaluate_on_batch,
    fit_on_batch,
    make_var,
)
from ignition.callbacks import Callback, LinearDecay, SaveModel


def eval_fn(model_to_eval, x, y):
    return evaluate_on_batch(model_to_eval, x, y, crossentropy_loss, ["loss", "acc"])


def train_fn_with(optimizer):
    def train_fn(model_to_train, x, y):
        return fit_on_batch(model_to_train, x, y, crossentropy_loss, optimizer)

    return train_fn


@pytest.fixture
def optimizer(tiny_model):
    return torch.optim.SGD(tiny_model.parameters(), lr=0.1)


@pytest.fixture
def trainer(tiny_model, tiny_loader, optimizer):
    return Trainer(tiny_model, optimizer, train_fn_with(optimizer), tiny_loader, eval_fn, tiny_loader, progress=False)


@pytest.fixture
def teacher():
    return nn.Linear(4, 2).to(default_device())


@pytest.fixture
def student():
    return nn.Linear(4, 2)


@pytest.fixture
def inputs(tiny_data):
    """A loader that gives no labels: each batch is one tensor."""
    return DataLoader(tiny_data[0], batch_size=4)


def distance(teacher, student, x):
    with torch.no_grad():
        return torch.mean(torch.sum(0.5 * (teacher.cpu()(x) - student.cpu()(x)) ** 2, dim=1)).item()


def test_evaluate_gives_loss_and_accuracy_over_all_examples(tiny_model, tiny_loader, tiny_data):
    found = evaluate(tiny_model, eval_fn, tiny_loader)
    x, y = tiny_data
    with torch.no_grad():
        outputs = tiny_model.eval()(x)
    assert found == {
        "loss": pytest.approx(functional.cross_entropy(outputs, y).item(), rel=1e-6),
        "acc": pytest.approx((outputs.argmax(1) == y).float().mean().item()),
    }


def test_an_eval_function_of_ones_own_needs_no_labels(teacher, student, inputs, tiny_data):
    def eval_fn(model_to_eval, x):
        x = make_var(x)
        teacher_outputs = teacher.forward(x)
        student_outputs = model_to_eval.forward(x)
        loss = torch.mean(torch.sum(0.5 * (teacher_outputs - student_outputs) ** 2, dim=1))
        return {"loss": loss}

    found = evaluate(student.to(default_device()), eval_fn, inputs)
    assert found == {"loss": pytest.approx(distance(teacher, student, tiny_data[0]), rel=1e-5)}


@pytest.mark.parametrize("returned", [lambda loss: loss, lambda loss: loss.item()], ids=["the tensor", "its number"])
def test_a_student_learns_from_its_teacher(teacher, student, inputs, tiny_data, returned):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02)

    def train_fn(model_to_train, x):
        optimizer.zero_grad()

        x = make_var(x)
        teacher_outputs = teacher.forward(x)
        student_outputs = model_to_train.forward(x)

        loss = torch.mean(torch.sum(0.5 * (teacher_outputs - student_outputs) ** 2, dim=1))
        loss.backward()
        optimizer.step()

        return {"loss": returned(loss)}

    before = distance(teacher, student, tiny_data[0])
    teacher.to(default_device())
    trainer = Trainer(student, optimizer, train_fn, inputs, progress=False)
    trainer.fit(epochs=20)
    assert trainer.history["train_loss"][-1] < before / 10
    assert distance(teacher, student, tiny_data[0]) < before / 10


@pytest.mark.parametrize("role", ["train", "eval"])
def test_code_of_2018_is_told_what_to_return_today(student, inputs, role):
    def of_2018(model, x):
        loss = torch.mean(model.forward(x) ** 2)
        return {"loss": loss.data[0]}

    trainer = Trainer(student, None, of_2018, inputs, progress=False)
    run = {"train": lambda: trainer.fit(epochs=1), "eval": lambda: evaluate(student, of_2018, inputs)}[role]
    with pytest.raises(IndexError, match="0-dim tensor") as caught:
        run()
    (note,) = caught.value.__notes__
    assert "loss.data[0]" in note
    assert "{'loss': loss.item()}" in note
    assert caught.traceback[-1].name == "of_2018"


def test_ten_epochs_make_ten_rows_of_history(trainer):
    trainer.fit(epochs=10)
    history = trainer.history
    assert history.epochs == 10
    assert history["epoch"] == list(range(1, 11))
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= set(history.columns)
    assert history.last["val_acc"] == trainer.evaluate()["acc"]


def test_the_trainer_prints_a_line_an_epoch_unless_told_otherwise(tiny_model, tiny_loader, optimizer, capsys):
    trainer = Trainer(tiny_model, optimizer, train_fn_with(optimizer), tiny_loader, eval_fn, tiny_loader)
    trainer.fit(epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("train_loss" in line and "val_acc" in line for line in lines)


def test_the_history_plots_itself_and_knows_its_best_epoch(trainer):
    trainer.fit(epochs=3)
    for axes, name in (
        (trainer.history.plot_loss(), "loss"),
        (trainer.history.plot_accuracy(), "acc"),
    ):
        drawn = [list(line.get_ydata()) for line in axes.get_lines()]
        assert trainer.history[f"train_{name}"] in drawn
        assert trainer.history[f"val_{name}"] in drawn
    plt.close("all")
    best = trainer.history.best_epoch()
    accuracies = trainer.history["val_acc"]
    assert (best.epoch, best.metric, best.value) == (accuracies.index(max(accuracies)) + 1, "val_acc", max(accuracies))


def test_save_model_leaves_weights_that_load_into_the_model(trainer, tmp_path):
    trainer.callbacks = [SaveModel(tmp_path / "{epoch}.pt")]
    trainer.fit(epochs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt", "2.pt"]
    saved = torch.load(tmp_path / "2.pt", weights_only=True)
    kept = trainer.model.state_dict()
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], tensor.cpu()) for name, tensor in kept.items())


def test_a_hyperparameter_reaches_the_train_function_and_the_callbacks(tiny_model, tiny_loader, optimizer):
    in_function, in_callback = [], []

    def train_fn(model_to_train, x, y, lambd):
        in_function.append(lambd)
        penalty = lambd * sum((weight**2).sum() for weight in model_to_train.parameters())
        return fit_on_batch(
            model_to_train, x, y, lambda outputs, targets: crossentropy_loss(outputs, targets) + penalty, optimizer
        )

    class Look(Callback):
        def on_batch_begin(self, trainer):
            in_callback.append(trainer.hyper["lambd"])

    trainer = Trainer(tiny_model, optimizer, train_fn, tiny_loader, progress=False)
    trainer.hyper = {"lambd": 4.0}
    trainer.callbacks = [Look()]
    trainer.fit(epochs=1)
    assert in_function == in_callback == [4.0] * len(tiny_loader)


def test_linear_decay_takes_lambd_from_four_to_one_in_sixty_epochs():
    seen = []

    def train_fn(model_to_train, x, y, lambd):
        seen.append(lambd)

    loader = DataLoader(TensorDataset(torch.zeros(1, 1), torch.zeros(1)))
    trainer = Trainer(nn.Linear(1, 1), None, train_fn, loader, progress=False)
    trainer.hyper = {"lambd": 4.0}
    trainer.callbacks = [LinearDecay("lambd", start_value=4, end_value=1, max_epochs=60)]
    trainer.fit(epochs=62)
    expected = [4 - 3 * (epoch - 1) / 59 for epoch in range(1, 61)] + [1, 1]
    assert seen == pytest.approx(expected)
    assert trainer.history["lambd"] == pytest.approx(expected)


def test_whatever_the_functions_return_is_logged(tiny_model, tiny_loader):
    def train_fn(model, x, y):
        return {"loss": 1.0, "temperature": 2.0, "of three": y.float().mean()}

    def eval_fn(model, x, y):
        return {"perplexity": 3.0}

    history = Trainer(tiny_model, None, train_fn, tiny_loader, eval_fn, tiny_loader, progress=False).fit(epochs=1)
    last = history.last
    assert {"train_loss": 1.0, "train_temperature": 2.0, "train_of three": 1.0, "val_perplexity": 3.0}.items() <= (
        last.items()
    )
