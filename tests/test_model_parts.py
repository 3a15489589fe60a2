"""The reference is each model's own state_dict, and torch's own ways through modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ignition.model_parts import modules_of, parameters_of, parts_of
from ignition.modes import freeze


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(2)
        self.weight = nn.Parameter(torch.ones(2))
        self.register_parameter("missing", None)
        self.register_buffer("kept", torch.zeros(3))
        self.register_buffer("passing", torch.zeros(1), persistent=False)
        self.register_buffer("unset", None)
        self.nothing = None
        self.register_module("empty", None)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Renamed(nn.Linear):
    def state_dict(self, *args, **kwargs):
        return {f"my.{key}": value for key, value in super().state_dict(*args, **kwargs).items()}


class Added(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}more"] = torch.ones(1)


def tied_modules():
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied_weights():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def without_bias(module, state, prefix, metadata):
    del state[f"{prefix}bias"]


def with_a_hook():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].register_state_dict_post_hook(without_bias)
    return model


def with_a_hook_before():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].register_state_dict_pre_hook(lambda module, prefix, keep_vars: module.running_mean.fill_(5))
    return model


def with_a_function_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2))
    plain = model.state_dict
    model.state_dict = lambda *args, **kwargs: {f"own.{key}": value for key, value in plain(*args, **kwargs).items()}
    return model


def pruned():
    layer = nn.Linear(3, 2)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


MODELS = {
    "layers in layers": lambda: nn.Sequential(
        nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), nn.Linear(2, 1)
    ),
    "buffers": Buffers,
    "tied modules": tied_modules,
    "tied weights": tied_weights,
    "extra state": lambda: nn.Sequential(nn.Linear(2, 2), Extra(2, 2)),
    "state_dict of its own": lambda: Renamed(2, 2),
    "what saves more": lambda: nn.Sequential(Added(2, 2), nn.Linear(2, 2)),
    "a hook": with_a_hook,
    "a hook before": with_a_hook_before,
    "a function of its own": with_a_function_of_its_own,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))),
    "spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2))),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "pruned": pruned,
    "lazy": lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)),
    "recurrent": lambda: nn.LSTM(2, 3, num_layers=2, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "dicts and lists": lambda: nn.ModuleDict(
        {"a": nn.ModuleList([nn.Linear(1, 1)]), "b": nn.ParameterList([torch.ones(2)])}
    ),
    "nothing": nn.Identity,
}


@pytest.mark.parametrize("several", [False, True], ids=["one model", "a dict of models"])
@pytest.mark.parametrize("name", MODELS)
def test_the_state_is_what_state_dict_gives(name, several):
    torch.manual_seed(0)
    model = MODELS[name]()
    models, prefix = ({"first": nn.Linear(1, 1), "second": model}, "second.") if several else (model, "")
    expected = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if several:
        expected = {f"first.{key}": value for key, value in models["first"].state_dict().items()} | expected
    parts = parts_of(models)
    assert list(parts.state) == [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    assert parts.extra == {key: value for key, value in expected.items() if not isinstance(value, torch.Tensor)}
    for key, tensor in parts.state.items():
        if not nn.parameter.is_lazy(tensor) and "more" not in key:
            assert tensor.data_ptr() == expected[key].data_ptr()
            assert torch.equal(tensor, expected[key])
            assert tensor.dtype == expected[key].dtype


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_buffers_are_those_of_the_modules(name):
    model = MODELS[name]()
    parts = parts_of(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert {id(one) for one in parts.parameters.values()} == {id(one) for one in parameters.values()}
    assert all(parameters[key] is one for key, one in parts.parameters.items())
    assert dict(parameters_of(model)).items() <= parts.parameters.items()
    assert parts.buffers.keys() == dict(model.named_buffers()).keys()
    assert [key for key, _ in modules_of(model)] == [key for key, _ in model.named_modules()]


def test_a_function_of_a_module_s_class_that_is_exchanged_is_called(monkeypatch):
    monkeypatch.setattr(nn.Linear, "state_dict", lambda self, **_: {"mine": self.weight}, raising=False)
    assert list(parts_of(nn.Linear(2, 2)).state) == ["mine"]


def test_what_is_none_and_what_is_frozen_is_named():
    model = nn.Sequential(Buffers(), nn.Sequential(nn.Linear(2, 2)))
    freeze(model[1])
    parts = parts_of({"G": model, "D": nn.Linear(1, 1)})
    assert parts.unset == ["G.0.unset"]
    assert parts.frozen == ["G.1", "G.1.0"]
    assert "G.0.passing" in parts.buffers
    assert "G.0.passing" not in parts.state
    assert "G.0.missing" not in parts.parameters


def test_metrics_in_a_model_are_found_by_their_ways():
    torchmetrics = pytest.importorskip("torchmetrics")
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"mean": torchmetrics.MeanMetric()}))
    model[1]["mean"].update(3.0)
    parts = parts_of({"G": model})
    assert list(parts.metrics["G"]) == ["1.mean"]
    assert parts.metrics["G"]["1.mean"]["values"]["mean_value"] == 3
    assert not parametrize.is_parametrized(model)
