"""A search over hyperparameters with Optuna, which gives up the trials that fall behind: elsewhere it needs a class for
the trial and a callback of its own. Here the objective is a function that trains, and one line reports and prunes.

    python examples/sweep.py

Each trial trains a small network on scikit-learn's handwritten digits with a learning rate, a width and a dropout that
Optuna chooses. The curves of all trials are drawn into runs/sweep/trials.png, those that were given up in grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ignition import TensorLoader, Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch, seed_everything
from ignition.callbacks import CosineDecay, OptunaPruning

METRIC = "val_loss"


def make_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    return images[train], labels[train], images[test], labels[test]


def make_objective(epochs: int):
    train_x, train_y, test_x, test_y = make_data()

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        width = trial.suggest_int("width", 8, 128, log=True)
        dropout = trial.suggest_float("dropout", 0.0, 0.5)

        seed_everything(0)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

        def train_fn(model, x, y):
            return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

        def eval_fn(model, x, y):
            return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

        train_loader = TensorLoader(train_x, train_y, batch_size=50, shuffle=True)
        test_loader = TensorLoader(test_x, test_y, batch_size=len(test_x))
        trainer = Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader, progress=False)
        trainer.callbacks = [
            CosineDecay("lr", start_value=lr, end_value=0.01 * lr, max_epochs=epochs),
            OptunaPruning(trial, METRIC),
        ]
        return trainer.fit(epochs=epochs).last[METRIC]

    return objective


def draw(study: optuna.Study, path: Path) -> None:
    """The curves of all trials, and beside them where each ended, by its learning rate."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    curves, dots = figure.subplots(1, 2)
    kept = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    for trial in study.trials:
        values = trial.intermediate_values
        style = {"color": "#0072B2", "linewidth": 1.5} if trial in kept else {"color": "0.7", "linewidth": 1.0}
        if trial.number == study.best_trial.number:
            style = {"color": "#D55E00", "linewidth": 2.5, "zorder": 3}
        curves.plot([*values], [*values.values()], **style, marker="o", markersize=3)
    curves.plot([], [], color="#0072B2", label="trained to the end")
    curves.plot([], [], color="0.7", label="given up")
    curves.plot([], [], color="#D55E00", label=f"the best, trial {study.best_trial.number}")
    curves.set(title="Every trial", xlabel="epoch", ylabel=METRIC, yscale="log")

    curves.xaxis.get_major_locator().set_params(integer=True)

    for trials, color in ((study.trials, "0.7"), (kept, "#0072B2"), ([study.best_trial], "#D55E00")):
        last = [trial.intermediate_values[max(trial.intermediate_values)] for trial in trials]
        dots.scatter([trial.params["lr"] for trial in trials], last, color=color, zorder=2)
    dots.set(title="By learning rate", xlabel="lr", ylabel=f"last {METRIC}", xscale="log", yscale="log")
    for axes in (curves, dots):
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(trials: int = 20, epochs: int = 8, folder: Path = Path("runs/sweep")) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    study.optimize(make_objective(epochs), n_trials=trials)
    draw(study, folder / "trials.png")
    pruned = sum(trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials)
    best = ", ".join(f"{name} {value:.3g}" for name, value in study.best_params.items())
    print(
        f"{pruned} of {trials} trials were given up early. The best has {METRIC} {study.best_value:.3f}, with {best}. "
        f"Next, look at {folder}/trials.png."
    )
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Searches for good hyperparameters of a small network.")
    parser.add_argument("--trials", type=int, default=20, help="how many networks to train (default: 20)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training images (default: 8)")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep"), help="where the picture goes")
    arguments = parser.parse_args()
    main(arguments.trials, arguments.epochs, arguments.folder)
