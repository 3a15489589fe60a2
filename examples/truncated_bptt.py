"""A recurrent network reads streams far longer than a gradient can go back: memory must pass from batch to batch.
Elsewhere that was an option which is gone, or is kept in the module by hand, and lost when a run is resumed.
Here `train_fn` takes the hidden state out of `trainer.state`, and puts it back detached; a new epoch clears it.

    python examples/truncated_bptt.py

Truncated back-propagation through time (Williams and Peng 1990). The streams are random bits, and the network must
repeat each bit `DELAY` steps later: so the first answers of every batch need what only an earlier batch has shown.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignition import Trainer, optimize, seed_everything

DELAY, CHUNK = 6, 8


class Echo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(1, 32, batch_first=True)
        self.answer = nn.Linear(32, 1)

    def forward(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """From bits (streams, time) and the state before them to logits (streams, time) and the state after them."""
        outputs, hidden = self.memory(x.unsqueeze(2), hidden)
        return self.answer(outputs).squeeze(2), hidden


def make_chunks(streams: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Bits (streams, 8), and what they were `DELAY` steps before, one piece of time after the other."""
    bits = torch.randint(2, (streams, length)).float()
    delayed = functional.pad(bits, (DELAY, -DELAY))
    return list(zip(bits.split(CHUNK, dim=1), delayed.split(CHUNK, dim=1), strict=True))


def main(epochs: int = 8, length: int = 800) -> Trainer:
    seed_everything(0)
    train_chunks, test_chunks = make_chunks(64, length), make_chunks(64, 400)
    model = Echo()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        outputs, hidden = model(x, trainer.state["hidden"])
        trainer.state["hidden"] = hidden.detach()  # the memory goes on, and the gradient ends here
        loss = functional.binary_cross_entropy_with_logits(outputs, y)
        optimize(loss, optimizer)
        return {"loss": loss, "acc": ((outputs > 0) == y).float().mean()}

    def eval_fn(model, x, y):
        outputs, trainer.state["eval_hidden"] = model(x, trainer.state["eval_hidden"])
        return {"acc": ((outputs > 0) == y).float().mean()}

    trainer = Trainer(model, optimizer, train_fn, train_chunks, eval_fn, test_chunks, clip_norm=1.0)

    @trainer.on("epoch_begin")
    def at_the_start_of_the_streams(trainer):
        trainer.state["hidden"] = None

    @trainer.on("eval_begin")
    def at_the_start_of_the_test_streams(trainer):
        trainer.state["eval_hidden"] = None

    trainer.fit(epochs=epochs)
    print(
        f"The network repeats {trainer.history.last['val_acc']:.1%} of the bits. Without the memory of earlier batches "
        f"it could not repeat more than {1 - DELAY / CHUNK / 2:.1%}."
    )
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a recurrent network to repeat long streams after a delay.")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the streams (default: 8)")
    main(parser.parse_args().epochs)
