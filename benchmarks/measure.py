"""Measures one library, in a process of its own: ``python -m benchmarks.measure MODULE RESULT_FILE SECONDS``.

`run.py` starts it in a terminal of its own, with one thread. What a module of benchmarks/peers/ may have:

    train(model, train_set, test_set, epochs)    trains the model, in place
    noop(batches, metrics), noop_...(...)        runs a step that does nothing but return `metrics`
    read_...(x, y)                               reads all batches of two tensors (benchmarks/loading.py)
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType

import torch

from benchmarks import work

FEW_STEPS = 250
DIGITS_EPOCHS = 5
METRICS = {
    "floats": {"loss": 0.5, "acc": 0.9},
    "tensors": {"loss": torch.tensor(0.5), "acc": torch.tensor(0.9)},
}


def main(name: str, result_file: str, seconds: str) -> None:
    torch.manual_seed(0)
    result: dict[str, float | str] = {}
    for measures in (measure_import, measure_digits, measure_tiny, measure_noops, measure_reading):
        try:
            # What is not imported yet is so only in the first of them, which is the one that times it.
            for key, value in measures(name, float(seconds)):
                result[key] = value
        except Exception as error:
            result[measures.__name__.removeprefix("measure_")] = f"{type(error).__name__}: {error}"
        Path(result_file).write_text(json.dumps(result))
