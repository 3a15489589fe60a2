"""A pass or a step that one process leaves out is an error in all of them; nobody hangs or steps otherwise."""

from __future__ import annotations

import os

import pytest
import torch
from ending import end_each
from processes import free_port, run_processes
from small import loader, read
from torch import nn

from ignition import Trainer, optimize
from ignition.errors import ProcessError
from ignition.roll_call import BACKWARD, END, FORWARD, LEFT_OUT, UPDATE, RollCall, Word

ROUNDS = 5
LAST = ROUNDS - 1


def left_out(what, at, *, plain=False, norm=False, **options):
    """A training in which one process leaves something out in one batch of the epoch.

    Args:
        what: Where the function returns: "all" (before the forward pass), "backward" or "step" (before it).
        at: In which batch, from 0 on.
        plain: Whether the steps are those of a loop written by hand.
        norm: Whether the forward pass exchanges buffers.
        options: Of the Trainer.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5) if norm else nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = []

    def train_fn(model, x, y):
        seen.append(1)
        odd = os.environ["RANK"] == "1" and len(seen) == at + 1
        if odd and what == "all":
            return None
        loss = nn.functional.cross_entropy(model(x), y)
        if odd and what == "backward":
            return {"loss": loss}
        if not plain:
            optimize(loss, optimizer)
            return {"loss": loss}
        optimizer.zero_grad()
        loss.backward()
        if not (odd and what == "step"):
            optimizer.step()
        return {"loss": loss}

    Trainer(model, optimizer, train_fn, loader(8 * ROUNDS), progress=False, **options).fit(epochs=2)


CASES = {
    "all of a batch, with optimize": lambda: left_out("all", 2),
    "all of the last one, with optimize": lambda: left_out("all", LAST),
    "the backward pass, with optimize": lambda: left_out("backward", 0),
    "that of the last one, with optimize": lambda: left_out("backward", LAST),
    "all of a batch": lambda: left_out("all", 2, plain=True),
    "all of the last one": lambda: left_out("all", LAST, plain=True),
    "the backward pass": lambda: left_out("backward", 2, plain=True),
    "that of the last one": lambda: left_out("backward", LAST, plain=True),
    "a step": lambda: left_out("step", 2, plain=True),
    "the last step": lambda: left_out("step", LAST, plain=True),
    "all, with buffers": lambda: left_out("all", 2, norm=True),
    "all of the last one, with buffers": lambda: left_out("all", LAST, norm=True),
    "the backward pass, with buffers": lambda: left_out("backward", LAST, plain=True, norm=True),
    "the end of a window": lambda: left_out("all", 1, accumulate=2),
    "the end of the last window": lambda: left_out("all", LAST, accumulate=2),
    "all, in parts": lambda: left_out("all", 2, strategy="fsdp"),
    "all of the last one, in parts": lambda: left_out("all", LAST, strategy="fsdp"),
    "the backward pass, in parts": lambda: left_out("backward", 2, strategy="fsdp"),
    "that of the last one, in parts": lambda: left_out("backward", LAST, strategy="fsdp", plain=True),
    "a step, in parts": lambda: left_out("step", LAST, strategy="fsdp", plain=True),
    "the middle of a window, in parts": lambda: left_out("all", 2, accumulate=2, strategy="fsdp"),
}


def leave_out(folder, *ports):
    import torch.distributed.fsdp  # noqa: F401 once, and not in each case

    end_each(CASES, folder, ports)


@pytest.mark.slow
def test_what_one_process_leaves_out_is_an_error_in_all_of_them(tmp_path):
    ports = [free_port() for _ in CASES]
    run_processes(leave_out, 2, tmp_path, *ports, folder=tmp_path, time_limit=180, patience=30)
    first, second = read(tmp_path, 2)
    wrong = {
        name: [first[name], second[name]]
        for name in CASES
        if not all("the processes do not take the same steps" in said and status == 1
                   for status, said in (first[name], second[name]))
    }  # fmt: skip
    assert wrong == {}


# In one process


def test_one_process_is_of_one_mind_with_itself():
    calls = RollCall()
    calls.batch += 1
    calls.forward()
    calls.backward()
    assert calls.said_in == 1
    assert calls.say(UPDATE, 1, 2.5).value == 2.5
    calls.step()
    calls.say(END)
    calls.hear()
    assert (calls.batch, calls.steps) == (1, 1)


def test_a_backward_pass_is_announced_once_until_the_next_forward_pass_or_step(monkeypatch):
    calls, said, say = RollCall(), [], RollCall.say
    monkeypatch.setattr(RollCall, "say", lambda calls, kind, *rest: said.append(kind) or say(calls, kind, *rest))
    calls.batch += 1
    for call in (calls.backward, calls.backward, calls.step, calls.backward, calls.forward, calls.backward):
        call()
    assert said == [BACKWARD, BACKWARD, FORWARD, BACKWARD]
    calls.batch += 1
    calls.backward()
    assert said == [BACKWARD, BACKWARD, FORWARD, BACKWARD, BACKWARD]


@pytest.mark.parametrize(
    ("kind", "optimizer", "text"),
    [
        (FORWARD, 0, "begins a forward pass in batch 3 after 1 step"),
        (BACKWARD, 0, "begins a backward pass in batch 3 after 1 step"),
        (UPDATE, 2, "calls optimize in batch 3 for optimizer 2 after 1 step"),
        (LEFT_OUT, 0, "ends batch 3 without a backward pass after 1 step"),
        (END, 0, "has taken all steps up to batch 3 after 1 step"),
    ],
)
def test_what_differs_is_told(monkeypatch, kind, optimizer, text):
    calls = RollCall()
    calls.batch = 3
    calls.step()
    word = calls.say(kind, optimizer)
    (code,) = word.heard()
    monkeypatch.setattr(Word, "heard", lambda word: [code, code + 8 * 64])  # the other has taken another step
    with pytest.raises(ProcessError) as caught:
        calls.hear()
    assert f"process 0 {text}, and process 1 {text.replace('1 step', '2 steps')}" in str(caught.value)
