"""Prediction with the tiny classifier and with a function that does nothing, by hand and by Ignition."""

import torch

from benchmarks.work import BATCH_SIZE, tiny_model
from ignition import predict, predict_on_batch

OUTPUT = torch.zeros(BATCH_SIZE, 4)


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
    outputs = []
    for _ in batches:
        outputs.append(OUTPUT)
    return torch.cat(outputs)


def predict_nothing_copied_by_hand(batches):
    return copied(batches, lambda x: OUTPUT)


def predict_nothing_ignition(batches):
    return predict(tiny_model(), lambda model, x: OUTPUT, batches)


def copied(batches, model):
    """By hand as `predict` does it: each output is copied at once into one result for all."""
    result, at = torch.empty(BATCH_SIZE * len(batches), 4), 0
    with torch.no_grad():
        for x, _ in batches:
            output = model(x)
            result[at : at + len(output)] = output
            at += len(output)
    return result
