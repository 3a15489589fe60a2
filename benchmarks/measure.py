"""Measures one library, in a process of its own: ``python -m benchmarks.measure MODULE RESULT_FILE SECONDS``.

`run.py` starts it, in a terminal of its own. These functions of a module are measured, where it has them:

    train(model, train_set, test_set, epochs)    trains the model, in place
    noop(batches, metrics), noop_...(...)        loops over a step that does nothing but return `metrics`
    read(x, y), read_...(...)                    reads all batches of two tensors

The cost of a step is that of one step more: the difference between a long run and a short one, so that what a
library does once a run does not count.
"""

import gc
import json
import resource
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType

import torch

from benchmarks.work import Batches, digits_data, digits_model, test_accuracy, tiny_data, tiny_model

DIGITS_EPOCHS = 5
SHORT_RUN = 250  # steps
METRICS = {
    "floats": {"loss": 0.5, "acc": 0.9},
    "tensors": {"loss": torch.tensor(0.5), "acc": torch.tensor(0.9)},
}


def main(name: str, result_file: str, seconds: float) -> None:
    result, errors = {}, {}
    measures = {"import": lambda: measure_import(name)}  # first: it times what the others find imported
    for work, measure in (("digits", digits), ("tiny", tiny), ("noop", noops), ("read", reads)):
        measures[work] = lambda measure=measure: measure(import_module(name), seconds)
    for work, measure in measures.items():
        try:
            result.update(measure())
        except Exception as error:  # one work that fails must not take the others with it
            errors[work] = f"{type(error).__name__}: {error}"
        Path(result_file).write_text(json.dumps(result | {"errors": errors}))


def measure_import(name: str) -> dict[str, float]:
    """Milliseconds to import what the module imports, above ``import torch``."""
    started = perf_counter()
    import_module(name)
    return {"import": (perf_counter() - started) * 1e3}


def digits(module: ModuleType, seconds: float) -> dict[str, float]:
    """Seconds of a whole run with evaluation, the accuracy it reached, and the most memory used so far, in MiB."""
    if not hasattr(module, "train"):
        return {}
    train_set, test_set = digits_data()
    module.train(digits_model(), train_set, test_set, 1)  # caches, allocators, imports made late
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
    data = tiny_data(10_000)

    def train(steps: int) -> None:
        module.train(tiny_model(), data_of(steps), None, 1)

    def data_of(steps: int):
        return type(data)(*(tensor[: steps * 32] for tensor in data.tensors))

    return {"tiny": step_cost(train, seconds, most=10_000)}


def noops(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds of a step that does nothing, with metrics that are floats and that are tensors."""
    return {
        f"{name} {kind}": step_cost(lambda steps: function(Batches(steps), metrics), seconds / 2, most=200_000)
        for name, function in functions(module, "noop")
        for kind, metrics in METRICS.items()
    }


def reads(module: ModuleType, seconds: float) -> dict[str, float]:
    """Microseconds to read a batch."""
    x, y = tiny_data(10_000).tensors
    return {
        name: step_cost(lambda steps: function(x[: steps * 32], y[: steps * 32]), seconds / 2, most=10_000)
        for name, function in functions(module, "read")
    }


def functions(module: ModuleType, prefix: str) -> Iterator[tuple[str, Callable]]:
    return ((name, value) for name, value in vars(module).items() if name.split("_")[0] == prefix and callable(value))


def step_cost(run: Callable[[int], None], seconds: float, most: int) -> float:
    """Microseconds that one step more costs, from a run of about `seconds` but no more than `most` steps."""
    run(SHORT_RUN)
    short = timed(run, SHORT_RUN)
    guess = max((timed(run, 4 * SHORT_RUN) - short) / (3 * SHORT_RUN), 1e-8)
    steps = min(max(int(seconds / guess), 4 * SHORT_RUN), most)
    return (timed(run, steps) - timed(run, SHORT_RUN)) / (steps - SHORT_RUN) * 1e6


def timed(function: Callable, *arguments: object) -> float:
    gc.collect()
    started = perf_counter()
    function(*arguments)
    return perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
