"""What compile=True gains on the CPU, and where it loses; what compiling takes; how often it happens.

It needs a C++ compiler. A hyperparameter changes at each step, and must not have anything compiled anew.
"""

import shutil
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.work import tiny_model
from ignition import Trainer, crossentropy_loss, optimize

STEPS = 20


class Gated(nn.Module):
    """A block as language models have it: much that is done element by element, which a compiler does at one go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.into, self.back = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        normed = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6) * self.scale
        return x + self.back(nn.functional.silu(self.gate(normed)) * torch.tanh(self.into(normed)))


def large_model() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), *(Gated(64) for _ in range(6)), nn.Linear(64, 4))


MODELS = {"large": (large_model, 8192), "small": (tiny_model, 32)}  # and how many samples a batch has


def measure_compiling() -> dict[str, float]:
    """Milliseconds of a step, milliseconds until the first step has ended, and how many graphs were compiled."""
    if shutil.which("c++") is None:
        raise RuntimeError("there is no C++ compiler, which torch.compile needs on the CPU")
    figures = {}
    for size, (make, samples) in MODELS.items():
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("inductor")
        eager, compiled = times(make(), samples, False), times(make(), samples, {"backend": counter})
        figures |= {
            f"eager {size}": 1e3 * median(eager[2:]),
            f"compiled {size}": 1e3 * median(compiled[2:]),
            f"compiling {size}": 1e3 * (compiled[0] - eager[0]),
            f"graphs {size}": counter.frame_count,
        }
    return figures


def times(model: nn.Module, samples: int, compile: bool | dict) -> list[float]:
    """Seconds of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(samples, 16), torch.randint(4, (samples,))
    took: list[float] = []

    def train_fn(model, x, y, scale):
        started = perf_counter()
        optimize(scale * crossentropy_loss(model(x), y), optimizer)
        took.append(perf_counter() - started)

    trainer = Trainer(model, optimizer, train_fn, [(x, y)] * STEPS, device="cpu", compile=compile, progress=False)
    trainer.hyper = {"scale": 1.0}

    @trainer.on("batch_end")
    def _(trainer):
        trainer.hyper["scale"] *= 0.9

    trainer.fit(epochs=1)
    return took
