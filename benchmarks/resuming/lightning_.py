"""Lightning: seed_everything, a ModelCheckpoint, and fit(ckpt_path=...), with an ordinary DataLoader."""

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.resuming.work import BATCH_SIZE, CHECKPOINT_EVERY, EPOCHS, LEARNING_RATE, MOMENTUM, SEED, Points


class Classifier(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.model(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def train(case, model, folder, resume, loader=DataLoader):
    L.seed_everything(SEED, workers=True)
    train_loader = loader(Points(case.augmentation), BATCH_SIZE, shuffle=case.shuffle, num_workers=case.workers)
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=CHECKPOINT_EVERY, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[checkpoint],
        deterministic=True,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = folder / f"step={CHECKPOINT_EVERY}.ckpt" if resume else None
    trainer.fit(Classifier(model), train_loader, ckpt_path=path, weights_only=True)
