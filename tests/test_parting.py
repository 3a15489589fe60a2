"""When one of several processes fails, none hangs, and each says why."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from ending import end_each
from processes import free_port, run_processes
from small import loader, net, raised, read, samples
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SubsetRandomSampler

from ignition import (
    DDP,
    TensorLoader,
    Trainer,
    distributed,
    evaluate,
    evaluate_on_batch,
    optimize,
    predict,
    sanity_checks,
)
from ignition.callbacks import Checkpoint, TerminateOnNaN
from ignition.errors import ProcessError
from ignition.parting import check_alike, together


class Broken(Exception):
    pass


def fail():
    raise Broken("as it was told")


def of_one():
    return int(os.environ["RANK"]) == 1


def trainer_of(before_step=None, model=None, optimizer=None, names=str, **parts):
    """A small training, in which `before_step` is called with the number of batches seen before."""
    model = net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if optimizer is None else optimizer
    seen = []

    def train_fn(model, x, y):
        if before_step is not None and of_one():
            before_step(len(seen))
        seen.append(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {names("loss"): loss}

    parts = {"train": loader(40), "test": loader(), "eval_fn": evaluate_one, "options": {}, **parts}
    return Trainer(
        model, optimizer, train_fn, parts["train"], parts["eval_fn"], parts["test"], progress=False, **parts["options"]
    )


def with_options(**options):
    trainer_of(options=options).fit(epochs=1)


def with_rates(rate, groups=1, later=None, **settings):
    """A training whose optimizer is set otherwise in one process, from the start or from its third step on."""
    model = net()
    parts = [[one for one in model.parameters()][index::groups] for index in range(groups)]
    optimizer = torch.optim.SGD([{"params": part} for part in parts], rate, **settings)
    trainer = trainer_of(model=model, optimizer=optimizer)

    @trainer.on("step_end")
    def change(trainer):
        if later is not None and of_one() and trainer.step == 3:
            optimizer.param_groups[0]["lr"] = later

    trainer.fit(epochs=1)


def evaluate_one(model, x, y):
    return evaluate_on_batch(model, x, y)


def failing_evaluation(model, x, y):
    if of_one():
        fail()
    return evaluate_on_batch(model, x, y)


def in_event(event, call=fail):
    trainer = trainer_of()

    @trainer.on(event)
    def listener(trainer):
        if of_one():
            call()

    trainer.fit(epochs=2)


class BrokenData(Dataset):
    def __len__(self):
        return 21

    def __getitem__(self, place):
        if place == 12:
            fail()
        return torch.zeros(4), 0


def sampled(count):
    return loader(40, sampler=SubsetRandomSampler(range(count)))


class Uncounted:
    """Batches that nobody can count beforehand: two more in one process."""

    def __iter__(self):
        return iter(list(loader(29))[: 6 + 2 * of_one()])


class OfOnePart:
    """Batches that a class of the user's has parted by itself."""

    def __iter__(self):
        return iter(list(loader(40))[of_one() :: 2])


def with_memory():
    """One process has stepped before: its optimizer remembers something."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    if of_one():
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    trainer_of(model=model, optimizer=optimizer).fit(epochs=1)


def in_the_last_step(everywhere):
    """A parameter has no share in the last loss, in one process or in all."""
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    model.forward = lambda x, both: model["a"](x) + (model["b"](x) if both else 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = []

    def train_fn(model, x, y):
        seen.append(1)
        loss = nn.functional.cross_entropy(model(x, len(seen) < 5 or not (everywhere or of_one())), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    Trainer(model, optimizer, train_fn, loader(40), progress=False).fit(epochs=1)


def unfreezes_between_steps():
    model = net()
    model[0].requires_grad_(False)
    trainer = trainer_of(model=model)
    trainer.on("step_end")(lambda trainer: model[0].requires_grad_(trainer.step >= 2))
    trainer.fit(epochs=1)


def loses_another_connection():
    raise RuntimeError("S3: connection closed by peer, as NCCL and gloo would say")


def waits_at_a_barrier(trainer):
    if of_one():
        distributed.barrier()
    else:
        trainer.fit(epochs=1)


def comes_after_the_others():
    """One process makes its Trainer under ``if is_main()``."""
    distributed.start()
    if of_one():
        trainer_of()
    else:
        evaluate(net(), evaluate_one, loader())


def after(number, call):
    return lambda seen: call() if seen >= number else None


def infinite_loss():
    of_each = [(torch.full((4, 4), value), torch.zeros(4).long()) for value in (0.0, torch.nan)]
    trainer = trainer_of(train=of_each * 3)
    trainer.callbacks = [TerminateOnNaN()]
    trainer.fit(epochs=1)


def other_calls():
    trainer = trainer_of()
    if of_one():
        trainer.fit(epochs=1)
    else:
        trainer.evaluate()


def ends_early():
    trainer = trainer_of()
    trainer.fit(epochs=1)
    if not of_one():
        trainer.fit(epochs=1)


def alone(event):
    """One process measures in an event, as under ``if is_main()``; the other goes on, and waits for it in a step."""
    trainer = trainer_of()
    trainer.on(event)(lambda trainer: trainer.evaluate() if of_one() else None)
    trainer.fit(epochs=2)


def saves_alone(then):
    """One process saves, as under ``if is_main()``; the other goes on with something else."""
    trainer = trainer_of()
    trainer.fit(epochs=1)
    if of_one():
        trainer.save("by-hand")
    else:
        then(trainer)


def saves_alone_in(event):
    trainer = trainer_of()
    trainer.on(event)(lambda trainer: trainer.save("by-hand") if of_one() else None)
    trainer.fit(epochs=2)


def loads_alone():
    trainer = trainer_of()
    trainer.save("checkpoint")
    if of_one():
        trainer.load("checkpoint")
    else:
        trainer.fit(epochs=1)


def leaves_while_the_other_saves():
    trainer = trainer_of()
    trainer.fit(epochs=1)
    if not of_one():
        trainer.save("by-hand")


def outside_of_fit():
    trainer = trainer_of()
    if of_one():
        fail()
    trainer.fit(epochs=1)


def in_main_first(number):
    """One process fails where the others wait for it, before there is a Trainer."""
    with distributed.main_first():
        if distributed.rank() == number:
            fail()
    trainer_of().fit(epochs=1)


def goes_on_after_it():
    trainer = trainer_of()
    first = raised(lambda: trainer.evaluate(loader(21 + 4 * of_one())))
    second = raised(lambda: trainer.fit(epochs=1))
    raise Broken(f"{first} | {second}")


def goes_on_after_the_same():
    """What all raise alike before the first batch parts nobody."""
    trainer = trainer_of()
    trainer.callbacks = [Checkpoint("one"), Checkpoint("two")]
    said = [raised(lambda: trainer.fit(epochs=1)), raised(lambda: trainer.load("nowhere"))]
    trainer.callbacks = []
    said += [raised(lambda: trainer.evaluate([])), raised(lambda: trainer.fit(epochs=1))]
    raise Broken(" | ".join(text.partition(":")[0] for text in said))


def alone_with_it():
    """One process raises before the first batch, and goes on."""
    trainer = trainer_of()
    trainer.callbacks = [Checkpoint("one"), Checkpoint("two")] if of_one() else []
    raised(lambda: trainer.fit(epochs=1))
    trainer.callbacks = []
    trainer.fit(epochs=1)


# What is done: what the process that begins it says, and what the other one says.
BROKEN = "Broken: as it was told"
TOLD = "ProcessError: process 1 ended: Broken: as it was told"
WAITED = "ProcessError: process 1 has waited for the others to evaluate with it, and"
BARRIER = WAITED.replace("evaluate", "meet at barrier or main_first")
SAVES = WAITED.replace("evaluate", "save")
GONE = "ProcessError: another process has died, or has left the script without an error"
TRAINS = GONE.replace("another", "process 0 is about to train, and another")
FAULTS = {
    "the train function": (lambda: trainer_of(after(2, fail)).fit(epochs=2), BROKEN, TOLD),
    "the first batch": (lambda: trainer_of(after(0, fail)).fit(epochs=2), BROKEN, TOLD),
    "the eval function": (lambda: trainer_of(eval_fn=failing_evaluation).fit(epochs=1), BROKEN, TOLD),
    "a step's event": (lambda: in_event("step_end"), BROKEN, TOLD),
    "the first event": (lambda: in_event("train_begin"), BROKEN, TOLD),
    "a record's event": (lambda: in_event("record"), BROKEN, TOLD),
    "the last event": (lambda: in_event("train_end"), BROKEN, TOLD),
    "a data set": (lambda: trainer_of(train=DataLoader(BrokenData(), 4)).fit(epochs=1), BROKEN, TOLD),
    "a sweep": (lambda: trainer_of(after(3, fail)).find_lr(steps=20), BROKEN, TOLD),
    "evaluate": (lambda: evaluate(net(), failing_evaluation, loader(), progress=False), BROKEN, TOLD),
    "predict": (lambda: predict(net(), lambda model, x: fail() if of_one() else model(x), loader()), BROKEN, TOLD),
    "another connection": (
        lambda: trainer_of(after(2, loses_another_connection)).fit(epochs=1), "RuntimeError: S3: connection closed",
        "ProcessError: process 1 ended: RuntimeError: S3: connection closed by peer",
    ),
    "a parameter without a share": (
        lambda: in_the_last_step(everywhere=False), "OptimizerError: b.weight, b.bias had no share in the last loss",
        "ProcessError: process 1 ended: OptimizerError: b.weight, b.bias had no share in the last loss",
    ),
    "a step's event that waits": (
        lambda: in_event("step_end", distributed.barrier), BARRIER, f"ProcessError: process 1 ended: {BARRIER}"
    ),
    "sys.exit": (
        lambda: trainer_of(after(2, sys.exit)).fit(epochs=1), "exit", "ProcessError: process 1 ended: SystemExit: "
    ),
    "a step's event that measures": (lambda: alone("step_end"), WAITED, f"ProcessError: process 1 ended: {WAITED}"),
    "an epoch's event that measures": (lambda: alone("epoch_end"), WAITED, f"ProcessError: process 1 ended: {WAITED}"),
    "a step's event that saves": (lambda: saves_alone_in("step_end"), SAVES, f"ProcessError: process 1 ended: {SAVES}"),
    "a record's event that saves": (lambda: saves_alone_in("record"), SAVES, f"ProcessError: process 1 ended: {SAVES}"),
    "one that ends early, and does not save": (
        leaves_while_the_other_saves, "nothing", "ProcessError: process 0 is about to save, and another process has"
    ),
    "a death": (lambda: trainer_of(after(2, lambda: os._exit(9))).fit(epochs=1), "", GONE),
    "outside of fit": (outside_of_fit, BROKEN, TOLD),
    "the block of main_first": (lambda: in_main_first(1), BROKEN, TOLD),
    "one that ends early": (ends_early, "nothing", TRAINS),
    "a bad argument": (
        lambda: trainer_of(optimizer=3 if of_one() else None), "ArgumentError: optimizer is an int",
        "ProcessError: process 1 ended: ArgumentError: optimizer is an int",
    ),
    "a bad fit": (alone_with_it, "ProcessError: the processes have parted", "ProcessError: the processes have parted"),
    "a loss that is not finite": (
        infinite_loss, "NotFiniteError: 'loss' is nan in step 1", "ProcessError: process 1 ended: NotFiniteError"
    ),
}  # fmt: skip

# What all of them say.
DIFFERENCES = {
    "a loader": (lambda: trainer_of(train=loader(21 + 4 * of_one())).fit(epochs=1), "train_loader is [6, 21] in proc"),
    "a test loader": (lambda: trainer_of(test=loader(21 + 4 * of_one())).fit(epochs=1), "test_loader is [6, 21] in p"),
    "a list": (lambda: trainer_of(train=list(loader(21 + 4 * of_one()))).fit(epochs=1), "train_loader is [6, null]"),
    "a learning rate": (lambda: with_rates(0.1 + 0.1 * of_one()), "optimizer.param_groups[0]['lr'] is 0.1 in proc"),
    "a momentum": (lambda: with_rates(0.1, momentum=0.9 * of_one()), "optimizer.param_groups[0]['momentum'] is 0"),
    "a rate that is changed later": (
        lambda: with_rates(0.1, later=0.5), "optimizer.param_groups[0]['lr'] is 0.1 in process 0 and 0.5 in process 1"
    ),
    "groups": (lambda: with_rates(0.1, groups=1 + of_one()), "optimizer.param_groups[1]['lr'] is null in process 0"),
    "accumulate": (lambda: with_options(accumulate=1 + of_one()), "accumulate is 1 in process 0 and 2 in process 1"),
    "strategy": (lambda: with_options(strategy="fsdp" if of_one() else "ddp"), "train alike: strategy is "),
    "options of a strategy": (lambda: with_options(strategy=DDP(static_graph=of_one())), "train alike: strategy is "),
    "precision": (lambda: with_options(precision="bf16" if of_one() else "fp32"), 'precision is "fp32" in process 0'),
    "clip_norm": (lambda: with_options(clip_norm=1.0 if of_one() else None), "clip_norm is null in process 0 and 1.0"),
    "a seed": (lambda: with_options(seed=3 if of_one() else None), 'seed is "drawn" in process 0 and "given" in proc'),
    "compile": (lambda: with_options(compile={"backend": "eager"} if of_one() else False), "compile is false in proc"),
    "batch_axis": (lambda: with_options(batch_axis=int(of_one())), "batch_axis is 0 in process 0 and 1 in process 1"),
    "options of a sweep": (lambda: trainer_of().find_lr(steps=5 + of_one()), "sweep learning rates alike: steps is 5"),
    "a sweep beside a fit": (
        lambda: trainer_of().find_lr(steps=5) if of_one() else trainer_of().fit(epochs=1),
        "process 0 is about to train, and process 1 to sweep learning rates",
    ),
    "samples in memory": (
        lambda: trainer_of(train=TensorLoader(*samples(21 + of_one()), batch_size=4)).fit(epochs=1),
        "train_samples is [21, 4] in process 0 and [22, 4] in process 1",
    ),
    "samples in a list": (
        lambda: trainer_of(test=list(loader(21 + of_one()))).fit(epochs=1), "test_samples is [21, null] in process 0"
    ),
    "a split of its own": (
        lambda: trainer_of(train=loader(21, sampler=[int(of_one()), *range(1, 21)])).fit(epochs=1),
        'train_indices is "21 of a list',
    ),
    "a split of its own in an evaluation": (
        lambda: trainer_of().evaluate(loader(21, sampler=[int(of_one()), *range(1, 21)])),
        'evaluate alike: indices is "21 of a list',
    ),
    "a split of its own to predict": (
        lambda: predict(net(), lambda model, x: model(x), loader(21, sampler=[int(of_one()), *range(1, 21)])),
        'predict alike: indices is "21 of a list',
    ),
    "samples of a sampler": (lambda: trainer_of(train=sampled(21 + of_one())).fit(epochs=1), "train_samples is [21"),
    "samples of an evaluation": (
        lambda: trainer_of().evaluate(list(loader(21 + of_one()))), "evaluate alike: samples is [21, null] in process 0"
    ),
    "samples to predict": (
        lambda: predict(net(), lambda model, x: model(x), TensorLoader(*samples(21 + of_one()), batch_size=4)),
        "predict alike: samples is [21, 4] in process 0",
    ),
    "numbers in a list": (
        lambda: trainer_of(test=[(samples(4)[0] + of_one(), samples(4)[1])] * 4).fit(epochs=1), 'test_data is "'
    ),
    "numbers in memory": (
        lambda: trainer_of(train=TensorLoader(samples()[0] + of_one(), samples()[1], batch_size=4)).fit(epochs=1),
        'train_data is "',
    ),
    "numbers of an evaluation": (
        lambda: trainer_of().evaluate([(samples(4)[0] + of_one(), samples(4)[1])] * 4), 'evaluate alike: data is "'
    ),
    "an order": (
        lambda: trainer_of(
            train=loader(sampler=DistributedSampler(range(21), 2, int(of_one()), seed=int(of_one())))
        ).fit(epochs=1),
        'train_order is "shuffled by DistributedSampler, seed 0" in process 0',
    ),
    "what an optimizer remembers": (with_memory, 'optimizer_state is {"": [0, 0.0]} in process 0 and {"": [4, '),
    "weights": (
        lambda: evaluate(nn.Linear(4, 3).requires_grad_(False).apply(lambda one: one.bias.fill_(of_one())),
                         evaluate_one, loader()),
        "ProcessError: the model has other weights in process 1 than in process 0",
    ),
    "a parted iterable": (
        lambda: trainer_of(train=OfOnePart()).fit(epochs=1), "OfOnePart, begins with another batch in process 1"
    ),
    "a parameter without a share in all": (
        lambda: in_the_last_step(everywhere=True), "OptimizerError: b.weight, b.bias had no share in the last loss"
    ),
    "parameters that are unfrozen inside an epoch": (
        unfreezes_between_steps, "OptimizerError: parameters were unfrozen inside an epoch"
    ),
    "a barrier": (
        lambda: waits_at_a_barrier(trainer_of()), "process 0 is about to train, and process 1 to meet at barrier or"
    ),
    "a Trainer": (comes_after_the_others, "process 0 is about to evaluate, and process 1 to make a Trainer"),
    "an iterable": (lambda: trainer_of(train=Uncounted()).fit(epochs=1), "more batches in one process than in another"),
    "epochs": (lambda: trainer_of().fit(epochs=1 + of_one()), "epochs is 1 in process 0 and 2 in process 1"),
    "a model": (lambda: trainer_of(model=nn.Linear(4, 3 + of_one())).fit(epochs=1), "model is "),
    "metric names": (
        lambda: trainer_of(names=lambda name: f"{name}{int(of_one())}").fit(epochs=1), "returned 'loss0' in process 0"
    ),
    "calls": (other_calls, "process 0 is about to evaluate, and process 1 to train"),
    "a save": (
        lambda: saves_alone(lambda trainer: trainer.fit(epochs=1)), "process 0 is about to train, and process 1 to save"
    ),
    "a save beside an evaluation": (
        lambda: saves_alone(lambda trainer: trainer.evaluate()), "process 0 is about to evaluate, and process 1 to save"
    ),
    "a load": (loads_alone, "process 0 is about to train, and process 1 to load"),
    "outputs": (lambda: predict(net(), lambda model, x: model(x)[:, : 2 + of_one()], loader()), "outputs is"),
    "an evaluation's loader": (lambda: trainer_of().evaluate(loader(21 + 4 * of_one())), "loader is [6, 21] in proc"),
    "the block of main_first in the first": (lambda: in_main_first(0), "Broken: as it was told"),
    "a second try": (goes_on_after_it, "have parted"),
    "the same error": (goes_on_after_the_same, "Broken: ArgumentError | CheckpointError | BatchError | nothing"),
    "checks": (lambda: sanity_checks(trainer_of()), "sanity_checks was called in one of 2 processes"),
}  # fmt: skip


def end_all(folder, *ports):
    end_each({name: call for name, (call, *_) in (FAULTS | DIFFERENCES).items()}, folder, ports)


@pytest.mark.slow
def test_whatever_one_process_does_the_other_ends_and_says_why(tmp_path):
    names = [*FAULTS, *DIFFERENCES]
    ports = [free_port() for _ in names]
    run_processes(end_all, 2, tmp_path, *ports, folder=tmp_path, time_limit=180, patience=30)
    first, second = read(tmp_path, 2)
    assert [name for name in names if None in (first[name][0], second[name][0])] == []  # nobody hangs
    wrong = {
        name: [first[name], second[name]]
        for name, (_, own, other) in FAULTS.items()
        if not (second[name][1].startswith(own) and first[name][1].startswith(other) and first[name][0] == 1)
    }
    assert wrong == {}
    wrong = {
        name: [first[name], second[name]]
        for name, (_, said) in DIFFERENCES.items()
        if not all(said in one[name][1] and one[name][0] == 1 for one in (first, second))
    }
    assert wrong == {}


# In one process


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[gloo/transport/tcp] Timed out waiting 1800000ms for recv operation", "another process did not come"),
        ("[gloo/transport/tcp] Connection closed by peer", "another process has died"),
    ],
)
def test_one_that_is_late_is_not_taken_for_one_that_died(said, told, monkeypatch):
    monkeypatch.setattr("ignition.parting._SECONDS_FOR_A_WORD", 0.0)
    monkeypatch.setattr("ignition.parting._tell", lambda error: None)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ProcessError, match=f"^{told}"), together():
        raise RuntimeError(said)


def test_in_one_process_an_error_comes_out_as_it_is():
    with pytest.raises(Broken) as caught, together():
        fail()
    assert caught.value.__cause__ is None
    check_alike("train", epochs=1)  # with itself
