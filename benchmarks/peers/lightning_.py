"""Lightning: a LightningModule and its Trainer. On: bar, loss and accuracy by epoch.

Off: what the others lack (logger, checkpoints, model summary, sanity check).
"""

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


class Classifier(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.measure(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.measure(batch, "val")

    def measure(self, batch, phase):
        x, y = batch
        outputs = self.model(x)
        loss = cross_entropy(outputs, y)
        accuracy = (outputs.argmax(dim=1) == y).float().mean()
        values = {f"{phase}_loss": loss, f"{phase}_acc": accuracy}
        self.log_dict(values, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def trainer(epochs):
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[TQDMProgressBar()],  # what it takes by itself where the package rich is not installed
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def train(model, train_set, test_set, epochs):
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE) if test_set else None
    trainer(epochs).fit(Classifier(model), train_loader, test_loader)


class Noop(L.LightningModule):
    """Manual optimization: Lightning leaves the step to the module, and the module does nothing."""

    def __init__(self, metrics):
        super().__init__()
        self.metrics = metrics
        self.layer = nn.Linear(1, 1)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.log_dict(self.metrics, prog_bar=True, on_step=False, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


def noop(batches, metrics):
    trainer(1).fit(Noop(metrics), batches)
