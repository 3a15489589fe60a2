"""Prediction with the tiny classifier and with functions that do nothing, by hand and by Ignition."""

from itertools import cycle

import torch

from benchmarks.work import BATCH_SIZE, tiny_model
from ignition import predict, predict_on_batch

OUTPUTS = [torch.zeros(BATCH_SIZE, 4) for _ in range(200)]  # as a model's: each has its own memory


def predict_by_hand(batches):
    model, outputs = tiny_model().eval(), []
    with torch.no_grad():
        for x, _ in batches:
            outputs.append(model(x))
    return torch.cat(outputs)


def predict_copied_by_hand(batches):
    model = tiny_model().eval()
    return copied(batches, model)


def predict_ignition(batches):
    return predict(tiny_model(), predict_on_batch, batches)


def predict_nothing_by_hand(batches):
    outputs, given = [], cycle(OUTPUTS)
    for _ in batches:
        outputs.append(next(given))
    return torch.cat(outputs)


def predict_nothing_copied_by_hand(batches):
    given = cycle(OUTPUTS)
    return copied(batches, lambda x: next(given))


def predict_nothing_ignition(batches):
    given = cycle(OUTPUTS)
    return predict(tiny_model(), lambda model, x: next(given), batches)


def predict_same_by_hand(batches):
    outputs = []
    for _ in batches:
        outputs.append(OUTPUTS[0])
    return torch.cat(outputs)


def predict_same_copied_by_hand(batches):
    return copied(batches, lambda x: OUTPUTS[0])


def predict_same_ignition(batches):
    return predict(tiny_model(), lambda model, x: OUTPUTS[0], batches)


def copied(batches, model):
    """Each output is copied at once into one result for all."""
    result, at = torch.empty(BATCH_SIZE * len(batches), 4), 0
    with torch.no_grad():
        for x, _ in batches:
            output = model(x)
            result[at : at + len(output)] = output
            at += len(output)
    return result
