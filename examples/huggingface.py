"""A Hugging Face model takes a dict and computes its own loss: elsewhere that is a loop of its own, with a data set
object and arguments by the dozen, or an adapter to (x, y). Here a dict is a batch like any other: it is passed whole,
moved as it is and counted by its samples, and `train_fn` is `model(**batch)` and `optimize`.

    python examples/huggingface.py

A tiny BERT (Devlin et al. 2019, arXiv:1810.04805), built from a configuration so that nothing is downloaded, learns to
tell English from Python: comments from statements, both out of Python's standard library.
"""

from __future__ import annotations

import argparse
import ast
import collections
import dataclasses
import inspect
import logging
import random
import statistics
import tarfile
import threading
import typing

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from ignition import Trainer, accuracy, optimize, seed_everything
from ignition.callbacks import LinearDecay, Warmup

MODULES = [argparse, collections, dataclasses, inspect, logging, random, statistics, tarfile, threading, typing]
SHORTEST, LONGEST = 16, 48


def make_lines(size: int) -> dict[str, int]:
    """Lines of text, half of them English (0) and half Python (1), in an order of their own."""
    english, python = [], []
    for module in MODULES:
        source = inspect.getsource(module)
        english += [line.strip()[2:] for line in source.splitlines() if line.strip().startswith("# ")]
        tree = ast.walk(ast.parse(source))
        python += [ast.unparse(node) for node in tree if isinstance(node, (ast.Assign, ast.Call, ast.Return))]
    shuffle, labelled = random.Random(0), []
    for label, lines in enumerate((english, python)):
        usable = sorted({line[:LONGEST] for line in lines if len(line) >= SHORTEST and line.isascii()})
        labelled += [(line, label) for line in shuffle.sample(usable, size // 2)]
    shuffle.shuffle(labelled)
    return dict(labelled)


def encode(line: str, label: int) -> dict[str, torch.Tensor]:
    """What the model takes by name: characters (48,), which of them are there (48,), and the label."""
    characters = torch.tensor(list(line.encode().ljust(LONGEST, b"\0")))
    return {"input_ids": characters, "attention_mask": (characters > 0).long(), "labels": torch.tensor(label)}


def make_model() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=128,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=LONGEST,
            num_labels=2,
        )
    )


def main(epochs: int = 3, lines: int = 3000) -> Trainer:
    seed_everything(0)
    samples = [encode(line, label) for line, label in make_lines(lines).items()]
    test_size = len(samples) // 10
    train_loader = DataLoader(samples[test_size:], batch_size=32, shuffle=True)
    test_loader = DataLoader(samples[:test_size], batch_size=256)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

    def train_fn(model, batch):
        outputs = model(**batch)
        optimize(outputs.loss, optimizer)
        return {"loss": outputs.loss, "acc": accuracy(outputs.logits, batch["labels"])}

    def eval_fn(model, batch):
        outputs = model(**batch)
        return {"loss": outputs.loss, "acc": accuracy(outputs.logits, batch["labels"])}

    trainer = Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader, clip_norm=1.0)
    steps = epochs * len(train_loader)
    warmup = steps // 10
    trainer.callbacks = [Warmup(warmup, then=LinearDecay("lr", 0.001, 0, max_steps=steps - warmup))]
    trainer.fit(epochs=epochs)
    print(f"Of {test_size} lines that it has not seen, the model knows {trainer.history.last['val_acc']:.1%}.")
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a tiny BERT to tell English from Python.")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the lines (default: 3)")
    main(parser.parse_args().epochs)
