"""A training is as it was, to the bit and to the object, where a checkpoint cannot be put into it."""

from __future__ import annotations

import pytest
import torch
from crafting import BATCHES, fingerprint, gathering
from torch import nn
from torchdata import nodes

from ignition import Trainer, crossentropy_loss
from ignition.callbacks import Callback
from ignition.errors import CheckpointError
from ignition.rollback import all_or_nothing


class Refusing(Callback):
    """A callback of the user's whose state cannot be taken back, as shows when half of it has been."""

    def __init__(self, error=None):
        self.error, self.values = error, {"seen": [1]}

    def state_dict(self):
        return {"seen": [2, 3]}

    def load_state_dict(self, state):
        self.values["seen"].append(7)
        if self.error is not None:
            raise self.error


@pytest.fixture
def saved(tmp_path):
    trainer = gathering()
    trainer.callbacks = [*trainer.callbacks, Refusing()]
    trainer.fit(steps=7)
    trainer.save(tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyError("no"), AssertionError("no"), ArithmeticError("no")])
def test_a_callback_that_cannot_take_its_state_has_all_put_back_and_is_named(error, saved):
    target = gathering(seed=5)
    callback = Refusing(error)
    target.callbacks = [*target.callbacks, callback]
    target.fit(steps=3)
    before, state, hyper, callback.values = fingerprint(target), target.state, target.hyper, {"seen": [1]}
    weights = dict(target.model.named_parameters())
    group, history = target.optimizer["body"].param_groups[0], target.history
    with pytest.raises(CheckpointError, match=r"load_state_dict of <test_rollback.Refusing(?s:.)*no") as caught:
        target.load(saved)
    assert caught.value.__cause__ is error
    assert str(saved) in str(caught.value)
    assert fingerprint(target) == before
    assert callback.values == {"seen": [1]}
    assert target.state is state
    assert target.hyper is hyper
    assert target.history is history
    assert target.optimizer["body"].param_groups[0] is group
    assert all(weights[name] is one for name, one in target.model.named_parameters())
    assert target.training.fit["number"] == 1


def test_the_training_goes_on_as_if_nothing_had_been_loaded(saved):
    ends = []
    for loads in (False, True):
        target = gathering(seed=5)
        target.callbacks = [*target.callbacks, Refusing(ValueError("no"))]
        target.fit(steps=3)
        if loads:
            with pytest.raises(CheckpointError, match="no"):
                target.load(saved)
        target.fit(steps=4)
        target.history.state_dict()
        for row in target.history._encoded:
            row["seconds"] = row["data_seconds"] = 0.0
        ends.append(fingerprint(target))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("full"), OSError("disk"), UserWarning("hm")])
def test_what_is_not_the_fault_of_the_checkpoint_comes_out_as_it_is_with_all_put_back(error, saved):
    target = gathering(seed=5)
    target.callbacks = [*target.callbacks, Refusing(error)]
    before = fingerprint(target)
    with pytest.raises(type(error)) as caught:
        target.load(saved)
    assert caught.value is error
    assert fingerprint(target) == before


def test_extra_state_that_the_model_cannot_take_leaves_no_weight_changed(tmp_path):
    trainer = gathering()
    trainer.callbacks = []
    trainer.model.get_extra_state = lambda: {"calls": "many"}
    trainer.save(tmp_path / "a")
    target = gathering(seed=5)
    target.callbacks = []
    before = fingerprint(target)
    with pytest.raises(CheckpointError, match="load_state_dict of the model"):
        target.load(tmp_path / "a")
    assert fingerprint(target) == before


def test_layers_that_have_seen_no_batch_have_none_again():
    model = nn.Sequential(nn.LazyLinear(3))
    trainer = Trainer(model, None, lambda model, x, y: crossentropy_loss(model(x), y), BATCHES, progress=False)
    kind = type(model[0].weight)
    with pytest.raises(RuntimeError), all_or_nothing(trainer.training):  # noqa: PT012
        model.load_state_dict({"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)})
        assert model[0].weight.shape == (3, 4)
        raise RuntimeError
    assert type(model[0].weight) is kind
    model.load_state_dict({"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3)})
    assert model(torch.ones(1, 4)).tolist() == [[5.0, 5.0, 5.0]]


class Stream:
    """A loader that keeps its place, and knows a state that it cannot read from."""

    def __init__(self):
        self.place, self.ends = 0, False

    def __iter__(self):
        if self.place == "broken":
            raise LookupError("no such place")
        return self.batches()

    def batches(self):
        while self.place < 5:
            self.place += 1
            yield BATCHES[self.place - 1]
        self.place = 0

    def state_dict(self):
        return {"place": "broken" if self.ends else self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def streaming(stream=None, seed=0):
    torch.manual_seed(seed)
    model, stream = nn.Linear(4, 3), stream or Stream()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Trainer(model, optimizer, train_fn, stream, progress=False), stream


@pytest.mark.filterwarnings("ignore:no record yet")
def test_a_loader_whose_place_cannot_be_read_from_is_where_it_was(tmp_path):
    trainer, stream = streaming()
    trainer.fit(steps=3)
    stream.ends = True
    trainer.save(tmp_path / "a")
    target, place = streaming(seed=5)
    target.fit(steps=2)
    before = fingerprint(target)
    with pytest.raises(CheckpointError, match="no such place"):
        target.load(tmp_path / "a")
    assert place.place == 2
    assert fingerprint(target) == before
    target.fit(steps=1)
    assert place.place == 3


class KnowsItsPlaceLate(Stream):
    """One whose place is there only once it is being read."""

    def __init__(self):
        self.start, self.refuses = 0, False

    def batches(self):
        self.place, self.start = self.start, 0
        self.ends = False
        while self.place < 5:
            self.place += 1
            yield BATCHES[self.place - 1]

    def __iter__(self):
        return self.batches()

    def load_state_dict(self, state):
        self.start = state["place"]
        if self.refuses and state["place"] == 3:
            raise LookupError("no such place")


@pytest.mark.filterwarnings("ignore:no record yet")
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_loader_that_knows_its_place_late_can_be_loaded_into_and_put_back(has_begun, tmp_path):
    trainer, _ = streaming(KnowsItsPlaceLate())
    trainer.fit(steps=3)
    trainer.save(tmp_path / "a")
    target, stream = streaming(KnowsItsPlaceLate(), seed=5)
    if has_begun:
        target.fit(steps=1)
    stream.refuses = True
    before = vars(stream) | {"refuses": False}
    with pytest.raises(CheckpointError, match="no such place"):
        target.load(tmp_path / "a")
    stream.refuses = False
    assert vars(stream) == before
    target.load(tmp_path / "a")
    target.load(tmp_path / "a")
    target.save(tmp_path / "b")  # before it is read
    target.load(tmp_path / "b")
    target.fit(steps=1)
    assert stream.place == 4


@pytest.mark.filterwarnings("ignore:no record yet")
def test_a_pipeline_of_torchdata_goes_on_where_it_was(tmp_path):
    trainer, _ = streaming(nodes.Loader(nodes.SamplerWrapper(BATCHES)))
    trainer.fit(steps=3)
    trainer.save(tmp_path / "a")
    seen = []
    target, _ = streaming(nodes.Loader(nodes.SamplerWrapper(BATCHES)), seed=5)
    target.on("batch_end")(lambda trainer: seen.append(trainer.training.position.batch))
    target.fit(steps=1)
    place = target.training.epoch_start.place(target.train_loader)
    with pytest.raises(LookupError), all_or_nothing(target.training):  # noqa: PT012
        target.load(tmp_path / "a")
        raise LookupError
    assert target.training.epoch_start.place(target.train_loader) == place
    target.fit(epochs=1)
    assert len(seen) == len(BATCHES)


def test_what_is_put_in_whole_stays(saved):
    target = gathering(seed=5)
    target.callbacks = [*target.callbacks, Refusing()]
    with all_or_nothing(target.training):
        target.hyper["scale"] = 0.25
    assert target.hyper == {"scale": 0.25}
    target.load(saved)
    assert target.step == 7
