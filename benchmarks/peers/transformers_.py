"""Hugging Face's Trainer: a model that returns its loss, a data set of dicts. On: bar, loss by epoch, test accuracy.

It has no training accuracy. Off: checkpoints, reports, gradient clipping, learning rate decay.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from benchmarks.work import BATCH_SIZE, LEARNING_RATE, MOMENTUM


class WithLoss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        logits = self.model(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Dicts(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return {"x": x, "labels": y}


def compute_metrics(prediction):
    logits, labels = prediction
    return {"accuracy": (logits.argmax(axis=1) == labels).mean().item()}


def train(model, train_set, test_set, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    arguments = TrainingArguments(
        output_dir="transformers",
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        eval_strategy="epoch" if test_set else "no",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        max_grad_norm=0.0,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    Trainer(
        WithLoss(model),
        arguments,
        train_dataset=Dicts(train_set),
        eval_dataset=Dicts(test_set) if test_set else None,
        compute_metrics=compute_metrics,
        optimizers=(optimizer, scheduler),
    ).train()
