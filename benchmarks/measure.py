"""Measures one library, in a process of its own: ``python -m benchmarks.measure MODULE RESULT_FILE SECONDS``.

`run.py` starts it, in a terminal of its own. These functions of a module are measured, where it has them:

    train(model, train_set, test_set, epochs)    trains the model, in place
    noop(batches, metrics), noop_...(...)        loops over a step that does nothing but return `metrics`
    read(x, y), read_...(...)                    reads all batches of two tensors
    predict_...(batches)                         predicts all batches
    measure_...()                                returns figures by name that it has measured itself

The cost of a step is that of one step more: the difference between a long run and a short one, so that what a
library does once a run does not count.
"""

import gc
import json
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import TensorDataset

from benchmarks.work import BATCH_SIZE, Batches, digits_data, digits_model, test_accuracy, tiny_data, tiny_model

DIGITS_EPOCHS = 5
SHORT_RUN = 100  # steps
MOST_BATCHES = 10_000  # that there are data for
METRICS = {
    "floats": {"loss": 0.5, "acc": 0.9},
    "tensors": {"loss": torch.tensor(0.5), "acc": torch.tensor(0.9)},
}


def main(name: str, result_file: str, seconds: float) -> None:
    errors: dict[str, str] = {}
    result: dict[str, Any] = {"errors": errors}
    try:
        gc.collect()  # else one library or another would pay for looking through what torch has made
        started = perf_counter()
        module = import_module(name)
        result["import"] = (perf_counter() - started) * 1e3  # ms, for what the module imports above torch
        measures = [digits, tiny, noops, reads, predictions, others]
    except Exception as error:
        errors["import"] = f"{type(error).__name__}: {error}"
        measures = []
    for measure in measures:
        try:
            result |= measure(module, seconds)
        except Exception as error:  # what fails must not take the rest with it
            errors[measure.__name__] = f"{type(error).__name__}: {error}"
        Path(result_file).write_text(json.dumps(result))  # each time: the process may be killed for taking too long
    Path(result_file).write_text(json.dumps(result))


def digits(module: ModuleType, seconds: float) -> dict[str, float]:
    """Seconds of a whole run with evaluation, the accuracy it reached, and the most memory used so far, in MiB."""
    if not hasattr(module, "train"):
        return {}
    train_set, test_set = digits_data()
    module.train(digits_model(), train_set, test_set, 1)  # what only a first run does
    torch.manual_seed(0)
    model = digits_model()
    took = timed(module.train, model, train_set, test_set, DIGITS_EPOCHS)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"digits": took, "accuracy": test_accuracy(model, test_set), "memory": memory}


def tiny(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds of a step of the tiny classifier."""
    if not hasattr(module, "train"):
        return {}
    x, y = tiny_data(MOST_BATCHES)

    def arguments(steps: int) -> tuple:
        samples = steps * BATCH_SIZE
        return tiny_model(), TensorDataset(x[:samples], y[:samples]), None, 1

    return {"tiny": step_cost(module.train, arguments, seconds, MOST_BATCHES)}


def noops(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds of a step that does nothing, with metrics that are floats and that are tensors."""
    return {
        f"{name} {kind}": step_cost(partial(function, metrics=metrics), lambda steps: (Batches(steps),), seconds / 2)
        for name, function in functions(module, "noop")
        for kind, metrics in METRICS.items()
    }


def reads(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds to read a batch."""
    x, y = tiny_data(MOST_BATCHES)

    def arguments(steps: int) -> tuple:
        return x[: steps * BATCH_SIZE], y[: steps * BATCH_SIZE]

    return {
        name: step_cost(function, arguments, seconds / 2, MOST_BATCHES) for name, function in functions(module, "read")
    }


def predictions(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds to predict a batch."""
    return {
        name: step_cost(function, lambda steps: (Batches(steps),), seconds / 2, MOST_BATCHES)
        for name, function in functions(module, "predict")
        if function.__module__ == module.__name__
    }


def others(module: ModuleType, seconds: float) -> dict[str, float]:
    """What the module measures itself."""
    return {name: figure for _, function in functions(module, "measure") for name, figure in function().items()}


def functions(module: ModuleType, prefix: str) -> Iterator[tuple[str, Callable]]:
    return ((name, value) for name, value in vars(module).items() if name.split("_")[0] == prefix)


def step_cost(function: Callable, arguments: Callable[[int], tuple], seconds: float, most: int = 200_000) -> float:
    """Microseconds that one step more costs.

    Args:
        function: What runs the steps.
        arguments: What it is called with, for a number of steps.
        seconds: About how long the long run takes.
        most: The most steps that it has.
    """

    def run(steps: int) -> float:
        return timed(function, *arguments(steps))

    run(SHORT_RUN)  # what only a first run does
    gc.collect()
    short = run(SHORT_RUN)
    guess = max((run(4 * SHORT_RUN) - short) / (3 * SHORT_RUN), 1e-8)
    steps = min(max(int(seconds / guess), 4 * SHORT_RUN), most)
    return (run(steps) - run(SHORT_RUN)) / (steps - SHORT_RUN) * 1e6


def timed(function: Callable, *arguments: object) -> float:
    started = perf_counter()
    function(*arguments)
    return perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
