"""Whether all processes take the same steps: who leaves a pass out says so, and waits for the others to say the same.

A forward or backward pass that exchanges something waits for all processes. Where one of them leaves it out, the others
would wait without end, or the gradients of different batches would be taken together. What travels between the
processes anyway (the weights of `optimize`) also says what each is about to do, so the error comes at once. A plain
step under DDP says nothing, since that would cost more than all else here: its error comes when the one that has left
it out has waited for the others long enough.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

import torch
import torch.distributed as dist

from ignition import distributed
from ignition.errors import ProcessError

__all__ = ["BACKWARD", "END", "FORWARD", "LEFT_OUT", "UPDATE", "RollCall", "Word"]

FORWARD: Final = 1
BACKWARD: Final = 2
UPDATE: Final = 3
LEFT_OUT: Final = 4
END: Final = 5

_DOES = {
    FORWARD: "begins a forward pass in batch {}",
    BACKWARD: "begins a backward pass in batch {}",
    UPDATE: "calls optimize in batch {}",
    LEFT_OUT: "ends batch {} without a backward pass",
    END: "has taken all steps up to batch {}",
}
# What a word is made of, each below its number, so that it is exact in 64 bits of floating point.
_KINDS, _OPTIMIZERS, _STEPS, _BATCHES = 8, 64, 2**20, 2**20


class Word:
    """What a process has said, on its way to the others; `value` is the sum of theirs once it has been heard."""

    def __init__(self, code: int, value: float) -> None:
        self.value = value
        self._said = torch.tensor([[code, value]], dtype=torch.float64)
        self._work = None
        size = distributed.world_size()
        if size > 1:  # gathered, not summed: half as many messages
            mine, self._said = self._said, torch.empty(size, 2, dtype=torch.float64)
            self._work = dist.all_gather(list(self._said), mine[0], group=distributed.steps_group(), async_op=True)

    def heard(self) -> list[int]:
        """What each process has said. Waits for all of them."""
        if self._work is not None:
            try:
                self._work.wait()
            finally:
                self.drop()
        codes, values = zip(*self._said.tolist(), strict=True)
        self.value = sum(values)
        return [int(code) for code in codes]

    def drop(self) -> None:
        """Lets go of the exchange: while it is there its connections stay open, and others wait for this process."""
        self._work = None


class RollCall:
    """What the processes say to one another in a fit.

    Attributes:
        batch: The number of the batch in the fit, from 1 on; whoever begins a batch counts it.
        steps: How many steps were begun in the fit.
        said_in: The last batch in which this process has said anything of a backward pass.
    """

    def __init__(self) -> None:
        self.batch = self.steps = self.said_in = 0
        self._announced: tuple[int, int] | None = None  # in which batch and step a backward pass is to come, or runs
        self._open: list[tuple[int, Word]] = []  # with the batch in which it was said

    def left_out(self) -> None:
        """A batch has ended without a backward pass. Waits for all processes, and ten minutes at most.

        Raises:
            ProcessError: If they do not say the same.
        """
        try:
            with distributed.meeting(distributed.steps_group()) if distributed.world_size() > 1 else nullcontext():
                self.say(LEFT_OUT)
                self.hear()
        except RuntimeError as error:
            if isinstance(error, ProcessError) or "timed out" not in str(error).lower():
                raise
            raise _different(
                f"process {distributed.rank()} has ended batch {self.batch} without a backward pass, and has waited "
                "for the others to do so"
            ) from error

    def forward(self) -> None:
        """A forward pass is about to begin, which exchanges something."""
        self._announced = None
        self.say(FORWARD)

    def backward(self) -> None:
        """A backward pass begins, or goes on: what is said once."""
        if self._announced != (self.batch, self.steps):
            self.say(BACKWARD)

    def step(self) -> None:
        """Counts a step. A plain one waits for nobody: an error comes one step later then.

        Raises:
            ProcessError: If the processes have not said the same in the batches before.
        """
        if self._open:
            self.hear(earlier=True)
        self.steps += 1

    def say(self, kind: int, optimizer: int = 0, value: float = 0.0) -> Word:
        """Says what is about to be done, and goes on at once."""
        code = self.batch % _BATCHES
        for number, limit in ((self.steps, _STEPS), (optimizer, _OPTIMIZERS), (kind, _KINDS)):
            code = code * limit + number % limit
        if kind in (BACKWARD, UPDATE):
            self.said_in = self.batch
            self._announced = self.batch, self.steps
        word = Word(code, value)
        self._open.append((self.batch, word))
        return word

    def forget(self) -> None:
        """Gives up what is on its way."""
        while self._open:
            self._open.pop()[1].drop()

    def hear(self, earlier: bool = False) -> None:
        """Looks at all that was said since the last time. Waits for all processes.

        Args:
            earlier: Leave out what was said in this batch, which may still be on its way.

        Raises:
            ProcessError: If they do not say the same.
        """
        while self._open and not (earlier and self._open[0][0] == self.batch):
            _, word = self._open.pop(0)
            codes = word.heard()
            other = next((number for number, code in enumerate(codes) if code != codes[0]), None)
            if other is not None:
                raise _different(f"process 0 {_described(codes[0])}, and process {other} {_described(codes[other])}")


def _different(what: str) -> ProcessError:
    return ProcessError(
        f"the processes do not take the same steps: {what}",
        expected="the same forward passes, backward passes and steps in every process, batch by batch",
        fix="decide in all processes alike whether to leave something out; what one of them has to leave out is to "
        "count nothing: optimize(loss, optimizer, weight=0)",
    )


def _described(code: int) -> str:
    rest, kind = divmod(code, _KINDS)
    rest, optimizer = divmod(rest, _OPTIMIZERS)
    batch, steps = divmod(rest, _STEPS)
    which = f" for optimizer {optimizer}" if optimizer else ""
    return f"{_DOES[kind].format(batch)}{which} after {steps} step{'' if steps == 1 else 's'}"
