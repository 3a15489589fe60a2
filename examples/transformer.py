"""A language model's step is counted in tokens: batches differ in length, and several of them make one step. Elsewhere
the accumulated loss is a mean of means, in which a token of a short batch counts more than one of a long batch.
Here `optimize(loss, optimizer, weight=tokens)` makes a step's gradient the mean over its tokens, in bf16 as well.

    python examples/transformer.py

A small transformer (Vaswani et al. 2017, arXiv:1706.03762; normalized first, as in GPT-2) learns to write Python's
own documentation, which every Python has in `pydoc_data.topics`, character by character.
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from ignition import Trainer, distributed, optimize, seed_everything
from ignition.callbacks import CosineDecay, Warmup

CHARACTERS = 128  # ASCII; 0 stands before each paragraph and after it, and fills batches up
LONGEST, WIDTH = 128, 64


class Transformer(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, WIDTH)
        self.places = nn.Embedding(LONGEST, WIDTH)
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.next = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, text: Tensor) -> Tensor:
        """From characters (batch, time) to logits of the characters after them (batch, time, 128)."""
        time = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(time, device=text.device)
        x = self.characters(text) + self.places(torch.arange(time, device=text.device))
        return self.next(self.blocks(x, mask=mask, is_causal=True))


def make_paragraphs() -> tuple[list[Tensor], list[Tensor]]:
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    paragraphs = [torch.tensor(list(part[: LONGEST - 1])) for part in text.split(b"\n\n") if part.strip()]
    return [part for i, part in enumerate(paragraphs) if i % 10], paragraphs[::10]


def as_batch(paragraphs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Characters (batch, time) and those after them, where the batch is as long as its longest paragraph."""
    padded = nn.utils.rnn.pad_sequence([functional.pad(part, (1, 1)) for part in paragraphs], batch_first=True)
    lengths = torch.tensor([len(part) + 1 for part in paragraphs])
    inputs, targets = padded[:, :-1], padded[:, 1:]
    return inputs, targets.masked_fill(torch.arange(targets.shape[1]) >= lengths.unsqueeze(1), -100)


@torch.no_grad()
def write(model: nn.Module, beginning: str) -> str:
    """How the model goes on after the beginning of a paragraph, drawn character by character."""
    text = torch.tensor([[0, *beginning.encode()]], device=model.next.weight.device)
    while text.shape[1] < LONGEST and text[0, -1]:
        chances = (model(text)[0, -1] / 0.7).softmax(dim=0)
        text = torch.cat([text, torch.multinomial(chances, 1).unsqueeze(0)], dim=1)
    return bytes(text[0].tolist()).decode().strip("\0")


def main(steps: int = 500, precision: str = "bf16", seed: int | None = None) -> Trainer:
    seed_everything(0)
    train_text, test_text = make_paragraphs()
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, weight_decay=0.01)

    def loss_of(model, inputs, targets):
        return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()), (targets >= 0).sum()

    def train_fn(model, inputs, targets):
        loss, tokens = loss_of(model, inputs, targets)
        optimize(loss, optimizer, weight=tokens)
        return {"loss": (loss, tokens)}

    def eval_fn(model, inputs, targets):
        return {"loss": loss_of(model, inputs, targets)}

    trainer = Trainer(
        model,
        optimizer,
        train_fn,
        DataLoader(train_text, batch_size=8 // distributed.world_size(), shuffle=True, collate_fn=as_batch),
        eval_fn,
        DataLoader(test_text, batch_size=32, collate_fn=as_batch),
        precision=precision,
        accumulate=4,
        clip_norm=1.0,
        seed=seed,
    )
    warmup = max(1, steps // 10)
    trainer.callbacks = [Warmup(warmup, then=CosineDecay("lr", 0.005, max_steps=steps - warmup))]
    trainer.fit(steps=steps, eval_every=max(1, steps // 4))
    if distributed.is_main():
        print(f"A character takes {trainer.history.last['val_loss']:.2f} nats. The model writes:")
        print(write(model.eval(), "The "))
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teaches a small transformer to write Python's documentation.")
    parser.add_argument("--steps", type=int, default=500, help="steps, of four batches each (default: 500)")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"], help="(default: bf16)")
    parser.add_argument("--seed", type=int, help="of the texts' order, which then is that of any number of processes")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.precision, arguments.seed)
