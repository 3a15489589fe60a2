"""The averages of a structure of models: they move by the weights, and come back as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ignition import Trainer
from ignition.averages import AveragedModels
from ignition.errors import ArgumentError


class Centred(nn.Module):
    """Takes off a mean, which its first batch sets and others replace."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("mean", None)

    def forward(self, x):
        self.mean = x.mean(0) if self.mean is None else 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)


def trainer_of(model):
    optimizer = torch.optim.SGD([*nn.ModuleList(model if isinstance(model, list) else [model]).parameters()], 0.1)
    return Trainer(model, optimizer, lambda model, x: None, [torch.ones(2, 4)], progress=False)


def change(model):
    """Another value for each weight and buffer."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor += torch.rand_like(tensor) if tensor.is_floating_point() else 1


@pytest.mark.parametrize("average", [get_ema_multi_avg_fn(0.8), None], ids=["moving", "equal shares"])
@pytest.mark.parametrize("several", [False, True])
def test_the_averages_are_those_of_torch(average, several):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(1 + several)]
    averages, theirs = AveragedModels(average), [AveragedModel(model, multi_avg_fn=average) for model in models]
    trainer = trainer_of(models if several else models[0])
    assert averages.prepare(trainer)
    assert averages.models("ema") == {}
    for _ in range(4):
        averages.add(trainer.model)
        for one, model in zip(theirs, models, strict=True):
            one.update_parameters(model)
            change(model)
    found = averages.models("ema")["ema"]
    for one, other in zip(theirs, found if several else [found], strict=True):
        torch.testing.assert_close(other.state_dict(), one.module.state_dict())
    assert not averages.prepare(trainer)  # they are there


def test_a_buffer_that_the_model_sets_later_is_the_averages_too():
    model = Centred()
    trainer, averages = trainer_of(model), AveragedModels(get_ema_multi_avg_fn(0.8))
    averages.prepare(trainer)
    averages.add(model)
    assert averages.models("ema")["ema"].mean is None
    before = averages.state_dict()
    for value in (1.0, 2.0):
        model(torch.full((2, 4), value))
        averages.add(model)
        mean = averages.models("ema")["ema"].mean
        assert torch.equal(mean, model.mean)
        assert mean is not model.mean
    after = averages.state_dict()

    fresh, again = trainer_of(Centred()), AveragedModels(get_ema_multi_avg_fn(0.8))
    again.load_state_dict(after)
    again.prepare(fresh)
    torch.testing.assert_close(again.models("ema")["ema"].state_dict(), averages.models("ema")["ema"].state_dict())
    again.load_state_dict(before)  # from before the buffer was set
    assert again.models("ema")["ema"].mean is None


def test_what_is_saved_is_not_changed_by_the_next_step():
    model = nn.Linear(4, 2)
    averages = AveragedModels(None)
    averages.prepare(trainer_of(model))
    averages.add(model)
    saved = averages.state_dict()
    kept = {name: value.clone() for name, value in saved[""].items()}
    change(model)
    averages.add(model)
    torch.testing.assert_close(saved[""], kept, rtol=0, atol=0)


def test_a_lazy_model_has_no_average_yet():
    with pytest.raises(ArgumentError, match=r"(?s)'0.weight' has no values yet.*to do: call a lazy model once"):
        AveragedModels(None).prepare(trainer_of(nn.Sequential(nn.LazyLinear(2))))


def test_the_average_of_other_models_is_refused():
    averages = AveragedModels(None)
    averages.load_state_dict({"G": {}, "D": {}})
    with pytest.raises(ArgumentError, match="an average of the models G, D was loaded, and the Trainer has one model"):
        averages.prepare(trainer_of(nn.Linear(4, 2)))


class Counting(nn.Module):
    """Has a buffer that its state dict leaves out, and one that it sets."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1), persistent=False)
        self.register_buffer("mean", None, persistent=False)

    def forward(self, x):
        self.calls += 1
        self.mean = x.mean(0)
        return self.linear(x - self.mean) * self.calls


def test_buffers_that_no_state_dict_has_are_those_of_the_last_average_and_not_of_the_model_now():
    model = Counting()
    averages = AveragedModels(get_ema_multi_avg_fn(0.8))
    averages.prepare(trainer_of(model))
    model(torch.full((2, 4), 1.0))
    averages.add(model)
    saved = averages.state_dict()
    model(torch.full((2, 4), 2.0))  # a step that the average leaves out

    again = AveragedModels(get_ema_multi_avg_fn(0.8))
    again.load_state_dict(saved)
    again.prepare(trainer_of(copy.deepcopy(model)))
    found = again.models("ema")["ema"]
    assert found.calls.item() == 1
    assert torch.equal(found.mean, torch.ones(4))
    averages.models("ema")["ema"].calls += 5
    assert found.calls.item() == 1
    assert saved[""]["buffer.module.calls"].item() == 1


def test_only_buffers_are_taken_from_what_a_state_calls_buffers():
    model = Counting()
    averages = AveragedModels(None)
    averages.prepare(trainer_of(model))
    averages.add(model)
    state = averages.state_dict()
    state[""] |= {"buffer.module.forward": torch.ones(1), "buffer.module.linear.weight": torch.ones(2, 4)}
    averages.load_state_dict(state)
    found = averages.models("ema")["ema"]
    assert callable(found.forward)
    assert torch.equal(found.linear.weight, model.linear.weight)
