"""Keras on torch: compile and fit, the model in its TorchModuleWrapper. On: bar, loss and accuracy, history."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    keras_model = keras.Sequential([keras.layers.TorchModuleWrapper(model)])
    keras_model.compile(
        optimizer=keras.optimizers.SGD(learning_rate=LEARNING_RATE, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None
    keras_model.fit(train_loader, validation_data=test_loader, epochs=epochs)


class Noop(keras.Model):
    """A step of its own, as the guide on custom training steps with torch shows, that does nothing."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.means = [keras.metrics.Mean(name=name) for name in values]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def train_step(self, data):
        for mean in self.means:
            mean.update_state(self.values[mean.name])
        return {mean.name: mean.result() for mean in self.means}


def noop(batches, metrics):
    model = Noop(metrics)
    model.compile()
    model.fit(iter(batches), steps_per_epoch=len(batches))
