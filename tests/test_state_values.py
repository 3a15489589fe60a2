"""Whatever stands in a checkpoint with the right checksums: it is taken as it is, or refused with nothing changed."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import pytest
import torch
from crafting import (
    DELETED,
    WRONG,
    at,
    fingerprint,
    gathering,
    places,
    saved,
    scaled,
    with_tensor,
    with_value,
)

from ignition.callbacks import Callback, SaveModel, TensorBoard
from ignition.checkpoint import read, write
from ignition.errors import ArgumentError, CheckpointError
from ignition.snapshot import apply
from ignition.state_values import check_memory, check_state, is_count, is_number, telling_of

pytestmark = pytest.mark.filterwarnings("ignore:no record yet", "ignore:the checkpoint has the state of a random")

# What may be another value than it was, as a script may have made it so or another run may have come to it; the rest
# has one form alone.
OPEN = {
    "fit.stop_reason", "fit.settings", "fit.options", "fit.epochs", "fit.steps", "optimizers", "callbacks", "extra",
    "metrics", "gradients", "frozen", "state", "hyper", "history", "generators", "means", "pending", "unit", "seed",
    "seconds", "scales", "best",
}  # fmt: skip
OF_THE_USER = {"state", "hyper", "callbacks.LRSchedule"}  # with which the user's own function may fail
MAKERS = {"gathering": gathering, "scaled": scaled}


@pytest.fixture(scope="module", params=MAKERS)
def crafted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return MAKERS[request.param], folder, saved(MAKERS[request.param], folder)


def refusal(call, *arguments):
    """The message with which something is refused; None where it is not."""
    try:
        call(*arguments)
    except CheckpointError as error:
        return str(error)
    return None


class Target:
    """A training that was made anew, and one more wherever the last one has been changed."""

    def __init__(self, make, folder):
        self.make, self.folder, self.count = make, folder, 0
        self.renew()

    def renew(self):
        self.count += 1
        self.trainer = self.make(self.folder / f"target-{self.count}", seed=5)
        self.before = fingerprint(self.trainer)

    def takes(self, content, what, goes_on):
        """Whether it takes a content; if not, that it has refused it in the right way."""
        message = refusal(apply, self.trainer.training, content, "runs/a")
        if message is not None:
            assert "the checkpoint runs/a " in message, what
            assert "to do: " in message, what
            assert fingerprint(self.trainer) == self.before, f"{what}: it has changed something, and {message}"
            return False
        if goes_on:
            self.trainer.fit(steps=1)
        self.renew()
        return True


def is_in(path, names):
    text = ".".join(map(str, path))
    return any(text == name or text.startswith(f"{name}.") for name in names)


def every_wrong_value(content):
    for path in places(content.state):
        for value in (*WRONG, DELETED):
            if value is DELETED or value != at(content.state, path):
                yield path, value


def check_all(target, content, cases):
    taken = 0
    for path, value in cases:
        what = f"{'.'.join(map(str, path))} = {'nothing' if value is DELETED else value!r}"
        inner = with_value(content, path, value)
        if target.takes(inner, what, goes_on=not is_in(path, OF_THE_USER)):
            taken += 1
            same = inner.state == content.state or path[0] in ("data", "processes")
            assert is_in(path, OPEN) or same, f"{what} was taken"
    return taken


@pytest.mark.slow
@pytest.mark.fault("a crafted value with the right checksums", "Message 1, nothing changed")
def test_some_wrong_values_are_refused_with_nothing_changed_or_can_be_trained_with(crafted):
    make, folder, content = crafted
    cases = random.Random(0).sample(list(every_wrong_value(content)), 250)
    assert 0 < check_all(Target(make, folder), content, cases) < 100


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_each_wrong_value_is_refused_with_nothing_changed_or_can_be_trained_with(crafted, part):
    make, folder, content = crafted
    cases = list(every_wrong_value(content))
    random.Random(1).shuffle(cases)
    check_all(Target(make, folder / f"part-{part}"), content, cases[:4000][part::3])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "position", "position.epoch", "position.batch", "position.step", "position.skipped", "position.offset", "fit",
        "fit.number", "fit.start_epoch", "fit.start_step", "fit.ended", "open", "data", "data.batches", "processes",
        "processes.others", "unit", "history", "trained", "frozen", "optimizer_kinds",
        "callbacks.Checkpoint.1.best_name",
    ],
)  # fmt: skip
def test_a_crafted_file_of_right_checksums_is_refused_by_load_with_its_name_and_the_place(path, crafted, tmp_path):
    make, _, content = crafted
    way = places_by_name(content)[path]
    target = make(tmp_path / "runs", seed=5)
    before = fingerprint(target)
    refused = 0
    for value in (*WRONG[:4], *WRONG[6:], DELETED):
        inner = with_value(content, way, value)
        write(tmp_path / "a", inner)
        message = refusal(target.load, tmp_path / "a")
        if message is not None:
            assert str(tmp_path / "a") in message
            assert "to do: " in message
            assert fingerprint(target) == before
            refused += 1
        else:
            target = make(tmp_path / f"runs-{refused}", seed=5)
            before = fingerprint(target)
    assert refused >= 5
    if path == "fit.number":
        write(tmp_path / "a", with_value(content, way, "../../etc"))
        with pytest.raises(
            CheckpointError, match=r"fit.number in state.json is '../../etc'(?s:.)*a whole number, 0 or"
        ):
            target.load(tmp_path / "a")


def places_by_name(content):
    return {".".join(map(str, path)): path for path in places(content.state)}


def test_a_crafted_newest_one_is_an_error_of_fit_and_once_it_is_deleted_the_run_goes_on(tmp_path):
    whole = gathering(tmp_path / "whole")
    whole.fit(epochs=2, resume=True)
    gathering(tmp_path / "a").fit(epochs=1, resume=True)
    newest = sorted((tmp_path / "a").glob("fit-*"))[-1]
    content = read(newest)
    rewritten = with_value(content, ("callbacks", "EMA.1", "updates"), "many")
    write(newest, rewritten)
    trainer = gathering(tmp_path / "a")
    before = fingerprint(trainer)
    for _ in range(2):  # the folder is let go of
        with pytest.raises(
            CheckpointError, match=rf"{newest.name} is broken: callbacks.EMA.1 in state.json(?s:.)*delete"
        ):
            trainer.fit(epochs=2, resume=True)
    assert fingerprint(trainer) == before
    shutil.rmtree(newest)
    trainer = gathering(tmp_path / "a")
    trainer.fit(epochs=2, resume=True)
    assert torch.equal(trainer.model.head.weight, whole.model.head.weight)


@pytest.mark.slow
@pytest.mark.fault("a crafted tensor with the right checksums", "Message 1, nothing changed")
def test_a_tensor_that_is_missing_or_another_is_refused_with_nothing_changed_or_can_be_trained_with(crafted):
    make, folder, content = crafted
    target = Target(make, folder / "tensors")
    for file, tensors in content.tensors.items():
        for name, tensor in tensors.items():
            other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
            cases = {
                "missing": None,
                "misshapen": tensor.new_zeros((*tensor.shape, 2)),
                "empty": tensor.new_zeros(0),
                "of another type": tensor.to(other),
            }
            for kind, changed in cases.items():
                users = name.startswith(("state.", "buffer."))  # such a buffer may have grown since the model was new
                taken = target.takes(with_tensor(content, file, name, changed), f"{name} {kind}", goes_on=not users)
                free = name.startswith(("state.", "buffer.", "gradient.")) or name.endswith(".step")
                assert free or not taken, f"{name} {kind} was taken"


@pytest.mark.parametrize("batch", [6, 10**9])
def test_more_batches_than_an_epoch_has_are_refused(batch, tmp_path):
    content = saved(gathering, tmp_path)
    target = gathering(seed=5)
    before = fingerprint(target)
    with pytest.raises(
        CheckpointError, match=f"position.batch in state.json says that {batch} batches are done of the 5"
    ):
        apply(target.training, with_value(content, ("position", "batch"), batch), "runs/a")
    assert fingerprint(target) == before


# What is told of the values alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("position.step", True, "position.step in state.json is True"),
        ("position.step", 2**60, "a whole number, 0 or more"),
        ("position.skipped", 8, "at most 7, the steps in position"),
        ("fit.start_epoch", 3, "at most 2, the epoch in position"),
        ("fit.start_step", 8, "at most 7, the steps in position"),
        ("position.epoch", 0, "position.epoch in state.json is 0|at most 0"),
        ("seed", 2**63, "from 0 to 2\\*\\*63 - 1"),
        ("seconds", 10**400, "a finite number"),
        ("unit", 0, "above 0"),
        ("history.epoch_ended", [1], "a list of booleans"),
        ("history.records.0.step", 8, "the last step in history in state.json is 8"),
        ("history.records.0.epoch", 4, "the last epoch in history"),
        ("fit.settings.scale", 1, "an object of texts"),
        ("fit.options.accumulate", 1, "an object of texts"),
        ("fit.epochs", "three", "a whole number, 0 or more, or null"),
        ("frozen", [1], "a list of names"),
        ("trained.head.bias", 1, "an object of booleans"),
        ("best", {"metric": "val_loss"}, "best.value in state.json is missing"),
        ("pending", {"epoch_ended": True, "train": {}}, "pending in state.json"),
    ],
)
def test_a_value_out_of_its_range_is_told_with_its_place(path, value, words, tmp_path):
    content = saved(gathering, tmp_path)
    state = copy.deepcopy(content.state)
    by_name = places_by_name(content)
    inner = at(state, by_name[path][:-1]) if path in by_name else state
    inner[by_name[path][-1] if path in by_name else path] = value
    if path == "pending":
        state["open"] = False
    check_state(content.state, "runs/a")
    with pytest.raises(CheckpointError, match=words) as caught:
        check_state(state, "runs/a")
    assert "the checkpoint runs/a is broken" in str(caught.value)
    assert "use another checkpoint, or delete this one" in str(caught.value)


def test_a_checkpoint_of_a_training_that_has_not_begun_is_taken(tmp_path):
    trainer = gathering()
    trainer.save(tmp_path / "a")
    other = gathering(seed=5)
    other.load(tmp_path / "a")
    other.save(tmp_path / "b")  # with the fit that has no number
    other.load(tmp_path / "b")
    assert other.step == 0


@pytest.mark.parametrize(
    ("generator", "change"),
    [
        ("python", lambda state: state["$"][1][1]["$"][1].__setitem__(624, 10**6)),
        ("numpy", lambda state: state["$"][1].__setitem__(2, 10**6)),
        ("numpy", lambda state: state["$"][1].__setitem__(2, -1)),
        ("python", lambda state: state["$"][1].__setitem__(2, "x")),
    ],
)
def test_a_generator_that_would_read_beyond_its_words_is_refused(generator, change, tmp_path):
    content = saved(gathering, tmp_path)
    crafted = copy.deepcopy(content)
    change(crafted.state["generators"][generator])
    target = gathering(seed=5)
    before = fingerprint(target)
    with pytest.raises(CheckpointError, match=f"generators.{generator}"):
        apply(target.training, crafted, "runs/a")
    assert fingerprint(target) == before


@pytest.mark.parametrize(
    ("value", "count", "number"),
    [(0, True, True), (7, True, True), (-1, False, True), (True, False, False), (1.0, False, True), ("1", False, False),
     (float("nan"), False, True), (None, False, False), (2**53 + 1, False, True)],
)  # fmt: skip
def test_counts_and_numbers_are_told_apart_from_what_is_like_them(value, count, number):
    assert is_count(value) is count
    assert is_number(value) is number


# What callbacks check


def test_the_values_of_a_callback_are_checked_by_their_kinds():
    state = {"a": 1, "b": None, "c": "x", "d": [1, 2.5], "e": {}, "f": True, "g": -0.5}
    check_memory("it", state, a="count", b="count or none", c="text", d="numbers", e="object", f="boolean", g="number")
    for name, kind in {
        "a": "text",
        "b": "count",
        "c": "numbers",
        "d": "object",
        "f": "count",
        "missing": "text",
    }.items():
        with pytest.raises(ArgumentError, match=f"the state of 'it' has (no )?{name}"):
            check_memory("it", state, **{name: kind})


def test_an_error_inside_names_the_checkpoint_and_the_place():
    with (
        pytest.raises(
            CheckpointError, match=r"runs/a is broken: callbacks.X in state.json: three(?s:.)*expected: four"
        ),
        telling_of("callbacks.X", "runs/a"),
    ):
        raise ArgumentError("three", "four", "five")
    with pytest.raises(KeyError), telling_of("callbacks.X", "runs/a"):
        raise KeyError("of the user's")


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (SaveModel, "best_value", "x"),
        (SaveModel, "last_path", 7),
        (TensorBoard, "run_id", []),
        (TensorBoard, "recorded", None),
    ],
)
def test_what_writes_files_checks_what_it_knows_of_them(make, name, value, tmp_path):
    callback = make(tmp_path / "model.pt" if make is SaveModel else tmp_path)
    state = callback.state_dict()
    callback.check_state(gathering(), state)
    with pytest.raises(ArgumentError, match=f"has {name}="):
        callback.check_state(gathering(), state | {name: value})


class Choosy(Callback):
    """A callback of the user's that looks at its state before anything is changed."""

    def __init__(self):
        self.loaded = None

    def state_dict(self):
        return {"value": 1}

    def check_state(self, trainer, state):
        if state["value"] != 2:
            raise ValueError("I want a 2")

    def load_state_dict(self, state):
        self.loaded = state["value"]


def test_a_callback_of_the_users_may_refuse_a_state_before_anything_is_changed(tmp_path):
    trainer = gathering()
    trainer.callbacks = [Choosy()]
    trainer.fit(steps=2)
    trainer.save(tmp_path / "a")
    target = gathering(seed=5)
    target.callbacks = [callback] = [Choosy()]
    before = fingerprint(target)
    with pytest.raises(CheckpointError, match="I want a 2"):
        target.load(tmp_path / "a")
    assert fingerprint(target) == before
    assert callback.loaded is None
    assert Path(tmp_path / "a").exists()
