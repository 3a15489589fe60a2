"""Ignite: create_supervised_trainer and its evaluator. On: bar, loss and accuracy, a line each epoch."""

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers.tqdm_logger import ProgressBar
from ignite.metrics import Accuracy, Average, Loss
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


def train(model, train_set, test_set, epochs):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)

    trainer = create_supervised_trainer(
        model,
        optimizer,
        criterion,
        output_transform=lambda x, y, y_pred, loss: {"loss": loss.item(), "y_pred": y_pred, "y": y},
    )
    Average(output_transform=lambda output: output["loss"]).attach(trainer, "loss")
    Accuracy().attach(trainer, "accuracy")  # takes y_pred and y from the output
    bar = ProgressBar()
    bar.attach(trainer, output_transform=lambda output: {"loss": output["loss"]})

    if test_set:
        test_loader = DataLoader(test_set, batch_size=BATCH_SIZE)
        evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(criterion)})
        ProgressBar().attach(evaluator)

    @trainer.on(Events.EPOCH_COMPLETED)
    def log_epoch(engine):
        bar.log_message(f"epoch {engine.state.epoch}: {engine.state.metrics}")
        if test_set:
            evaluator.run(test_loader)
            bar.log_message(f"  test: {evaluator.state.metrics}")

    trainer.run(train_loader, max_epochs=epochs)


def noop(batches, metrics):
    trainer = Engine(lambda engine, batch: metrics)
    for name in metrics:
        Average(output_transform=lambda output, name=name: output[name]).attach(trainer, name)
    ProgressBar().attach(trainer)
    trainer.run(batches, max_epochs=1)
