"""Hugging Face's Trainer: save_steps, and train(resume_from_checkpoint=True), which reads and leaves what was done."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points


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


def train(case, model, folder, resume):
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        train_sampling_strategy="random" if case.shuffle else "sequential",
        dataloader_num_workers=case.workers,
        save_strategy="steps",
        save_steps=CHECKPOINT_EVERY,
        seed=SEED,
        full_determinism=True,
        logging_strategy="no",
        report_to="none",
        max_grad_norm=0.0,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = Trainer(
        WithLoss(model), arguments, train_dataset=Dicts(Points(case.augmentation)), optimizers=(optimizer, scheduler)
    )
    trainer.train(resume_from_checkpoint=resume)
