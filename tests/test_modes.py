import copy

import pytest
import torch
from torch import nn

from ignition.errors import ArgumentError, IgnitionWarning
from ignition.modes import (
    evaluation_mode,
    freeze,
    freeze_until,
    modes_of,
    restore_modes,
    training_mode,
    unfreeze,
    warn_of_thawed,
)


def block():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


class Net(nn.Module):
    """A scale of its own, two blocks of which the second is nested deeper, and a head."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.stem = block()
        self.body = nn.ModuleDict({"a": block(), "b": block()})
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body["b"](self.body["a"](self.stem(x * self.scale))))


@pytest.fixture
def net():
    return Net()


def trained(model):
    """The names of the parameters that get gradients."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def in_training(model):
    """The names of the submodules in training mode."""
    return {name for name, module in model.named_modules() if module.training}


def parts_of(model, *starts):
    """The names of the submodules and those of the parameters in some parts of a model."""
    modules = {name for name, _ in model.named_modules() if name.startswith(starts)}
    return modules, {name for name, _ in model.named_parameters() if name.startswith(starts)}


def all_of(model):
    return {name for name, _ in model.named_modules()}, {name for name, _ in model.named_parameters()}


# freeze and unfreeze


def test_a_frozen_model_gets_no_gradients_and_is_in_evaluation_mode(net):
    assert freeze(net) is net
    assert trained(net) == set()
    assert in_training(net) == set()


def test_a_part_can_be_frozen_alone(net):
    assert freeze(net.body["a"]) is net.body["a"]
    modules, parameters = all_of(net)
    frozen_modules, frozen_parameters = parts_of(net, "body.a")
    assert trained(net) == parameters - frozen_parameters
    assert in_training(net) == modules - frozen_modules


def test_what_is_frozen_stays_in_evaluation_mode_while_the_rest_is_trained(net):
    freeze(net.body)
    modules, _ = all_of(net)
    for _ in range(2):
        net.eval()
        training_mode(net)
        assert in_training(net) == modules - parts_of(net, "body")[0]


def test_the_statistics_of_a_frozen_batch_norm_do_not_move(net):
    freeze(net.stem)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for _ in range(3):
        training_mode(net)
        net(torch.randn(8, 4) * 5 + 3)
    moved = {name for name, buffer in net.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {name for name in before if not name.startswith("stem")}


def test_a_frozen_batch_norm_does_not_use_the_statistics_of_a_batch():
    norm = freeze(nn.BatchNorm1d(4))
    training_mode(norm)
    x = torch.randn(8, 4) * 5 + 3
    assert torch.allclose(norm(x), x / (1 + norm.eps) ** 0.5)


def test_a_frozen_dropout_drops_nothing():
    dropout = freeze(nn.Dropout(0.5))
    training_mode(nn.Sequential(dropout))
    x = torch.randn(100)
    assert torch.equal(dropout(x), x)


def test_gradients_still_flow_through_what_is_frozen(net):
    freeze(net.body)
    training_mode(net)
    net(torch.randn(8, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.stem.parameters())
    assert all(parameter.grad is None for parameter in net.body.parameters())


def test_unfreeze_undoes_freeze(net):
    freeze(net)
    assert unfreeze(net) is net
    modules, parameters = all_of(net)
    assert trained(net) == parameters
    assert in_training(net) == modules
    net.eval()
    training_mode(net)
    assert in_training(net) == modules


def test_a_part_of_what_is_frozen_can_be_unfrozen(net):
    freeze(net)
    unfreeze(net.head)
    net.eval()
    training_mode(net)
    assert trained(net) == {"head.weight", "head.bias"}
    assert in_training(net) == {"head"}


def test_freezing_twice_is_freezing_once(net):
    freeze(freeze(net.stem))
    unfreeze(net.stem)
    training_mode(net)
    assert in_training(net) == all_of(net)[0]


def test_a_shared_parameter_is_frozen_wherever_it_is_used():
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    model = nn.Sequential(encoder, decoder)
    freeze(encoder)
    assert trained(model) == {"1.bias"}
    unfreeze(decoder)
    assert trained(model) == {"0.weight", "1.bias"}


def test_integer_parameters_are_left_alone():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    model.scale = nn.Parameter(torch.ones(1))
    assert trained(unfreeze(freeze(model))) == {"scale"}


def test_a_copy_is_frozen_too(net):
    freeze(net.stem)
    other = copy.deepcopy(net)
    training_mode(other)
    assert in_training(other) == all_of(other)[0] - parts_of(other, "stem")[0]
    assert trained(other) == all_of(other)[1] - parts_of(other, "stem")[1]
    unfreeze(other)
    training_mode(net)
    assert "stem" not in in_training(net)


def test_the_mark_is_no_part_of_the_weights(net):
    names = list(net.state_dict())
    freeze(net)
    assert list(net.state_dict()) == names
    Net().load_state_dict(net.state_dict())


@pytest.mark.parametrize("function", [freeze, unfreeze, lambda model: freeze_until(model, "a")])
@pytest.mark.parametrize("model", [None, [nn.Linear(1, 1)], nn.Linear, nn.Parameter(torch.ones(1)), "model"])
def test_what_is_no_module_is_an_error(function, model):
    with pytest.raises(ArgumentError) as caught:
        function(model)
    assert f"was given {type(model).__name__}\n  expected: an nn.Module\n  to do: pass a model or a part" in str(
        caught.value
    )


# freeze_until


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("stem", []),
        ("stem.1", ["stem.0"]),
        ("body", ["stem"]),
        ("body.a", ["stem"]),
        ("body.b", ["stem", "body.a"]),
        ("body.b.2", ["stem", "body.a", "body.b.0", "body.b.1"]),
        ("head", ["stem", "body"]),
    ],
)
@pytest.mark.parametrize("frozen_before", [True, False])
def test_all_before_a_module_is_frozen_and_the_rest_is_not(net, name, frozen, frozen_before):
    if frozen_before:
        freeze(net)
    assert freeze_until(net, name) is net
    modules, parameters = all_of(net)
    frozen_modules, frozen_parameters = set(), {"scale"}
    for part in frozen:
        frozen_modules |= {other for other in modules if other == part or other.startswith(f"{part}.")}
        frozen_parameters |= {other for other in parameters if other.startswith(f"{part}.")}
    for _ in range(2):
        assert trained(net) == parameters - frozen_parameters
        assert in_training(net) == modules - frozen_modules
        net.eval()
        training_mode(net)


def test_it_may_be_a_parameter(net):
    freeze_until(net, "body.b.1.weight")
    _, parameters = all_of(net)
    assert trained(net) == {"body.b.1.weight", "body.b.1.bias", "head.weight", "head.bias"}
    training_mode(net)
    # The batch norm is only frozen in part.
    assert in_training(net) == {"", "body", "body.b", "body.b.1", "body.b.2", "head"}
    freeze_until(net, "scale")
    assert trained(net) == parameters


def test_the_second_parameter_of_a_layer_can_be_the_first_that_is_trained():
    model = freeze_until(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "1.bias")
    assert trained(model) == {"1.bias"}
    assert in_training(model) == {"", "1"}


class Tied(nn.Module):
    """A language model in small, whose output layer has the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize(("name", "frozen"), [("head", ["body.weight", "body.bias"]), ("head.weight", ["body.weight"])])
def test_a_shared_parameter_is_trained_where_the_later_part_is(name, frozen):
    model = freeze_until(Tied(), name)
    assert model.head.weight.requires_grad
    assert not trained(model) & set(frozen)
    assert not model.embedding.training


def test_a_module_that_is_used_again_later_is_trained():
    layer = nn.Linear(2, 2)
    model = freeze_until(nn.Sequential(layer, nn.Linear(2, 2), layer), "2")
    assert trained(model) == {"0.weight", "0.bias"}
    training_mode(model)
    assert in_training(model) == {"", "0"}


@pytest.mark.parametrize("name", ["", "haed", "body.c", "head.weights", None, 3])
def test_a_name_that_is_not_there_is_an_error(net, name):
    freeze(net.body)
    before = trained(net), in_training(net)
    with pytest.raises(ArgumentError) as caught:
        freeze_until(net, name)
    assert f"freeze_until was given the name {name!r}\n  expected: the name of a module or parameter" in str(
        caught.value
    )
    assert (trained(net), in_training(net)) == before


def test_a_name_that_is_nearly_there_is_proposed(net):
    with pytest.raises(ArgumentError, match="to do: did you mean 'head'"):
        freeze_until(net, "haed")
    with pytest.raises(ArgumentError, match=r"to do: see model\.named_modules"):
        freeze_until(net, "classifier")


# Modes


@pytest.mark.parametrize("several", [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}])
def test_each_of_several_models_is_trained(several):
    a, b = block().eval(), freeze(block())
    training_mode(several(a, b))
    assert in_training(a) == all_of(a)[0]
    assert in_training(b) == set()


@pytest.mark.parametrize("several", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}])
def test_each_of_several_models_is_evaluated(several):
    a, b = block(), block()
    b[2].eval()
    with evaluation_mode(several(a, b)):
        assert in_training(a) == in_training(b) == set()
    assert in_training(a) == all_of(a)[0]
    assert in_training(b) == {"", "0", "1"}


def set_modes(model, training):
    for name, module in model.named_modules():
        module.training = name in training


@pytest.mark.parametrize("training", [set(), {""}, {"body.a.1"}, {"", "body", "body.b", "body.b.2", "head"}])
def test_after_an_evaluation_each_submodule_has_the_mode_that_it_had(net, training):
    set_modes(net, training)
    with evaluation_mode(net):
        assert in_training(net) == set()
    assert in_training(net) == training


def test_after_an_exception_each_submodule_has_the_mode_that_it_had(net):
    def evaluate():
        with evaluation_mode(net):
            net.train()
            raise KeyError

    set_modes(net, {"", "head"})
    with pytest.raises(KeyError):
        evaluate()
    assert in_training(net) == {"", "head"}


def test_what_is_frozen_is_still_frozen_after_an_evaluation(net):
    freeze(net.body)
    before = in_training(net), trained(net)
    with evaluation_mode(net):
        pass
    assert (in_training(net), trained(net)) == before


def test_modes_are_kept_for_shared_modules_too():
    shared = nn.Dropout()
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    set_modes(model, {"", "b", "a.0"})
    with evaluation_mode(model):
        pass
    assert in_training(model) == {"", "b", "a.0"}


def test_modes_can_be_put_back_at_any_time(net):
    set_modes(net, {"head"})
    modes = modes_of(net)
    net.train()
    restore_modes(modes)
    assert in_training(net) == {"head"}


class Merging(nn.Linear):
    """A layer that adds its second weight to the first for as long as it is evaluated, as LoRA layers do."""

    def __init__(self):
        super().__init__(2, 2)
        self.delta, self.merged = torch.ones(2, 2), False
        nn.init.ones_(self.weight)  # so that sums are exact

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.delta if mode else self.delta
            self.merged = not mode
        return self


class KeepsStatistics(nn.Sequential):
    """A model that never trains its batch norm, by a `train` of its own."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


def test_a_layer_that_does_more_than_changing_its_mode_is_asked_by_its_method():
    model = nn.Sequential(Merging(), freeze(Merging()))
    assert [layer.merged for layer in model] == [False, True]
    weight = model[0].weight.clone()
    with evaluation_mode(model):
        assert [layer.merged for layer in model] == [True, True]
    assert [layer.merged for layer in model] == [False, True]
    assert torch.equal(model[0].weight, weight)


def test_a_train_method_of_the_users_own_has_its_way():
    model = KeepsStatistics(nn.Linear(4, 4), nn.BatchNorm1d(4))
    training_mode(model)
    assert in_training(model) == {"", "0"}
    with evaluation_mode(model):
        assert in_training(model) == set()
    assert in_training(model) == {"", "0"}


def test_a_train_function_that_thaws_what_is_frozen_is_warned_of(net):
    freeze(net.stem)
    training_mode(net)
    warn_of_thawed(net)  # nothing to warn of
    warn_of_thawed({"a": net, "b": nn.Linear(1, 1).train()})
    net.train()
    with pytest.warns(IgnitionWarning, match=r"has put \d+ frozen modules into training mode \(b\.stem"):
        warn_of_thawed({"a": nn.Linear(1, 1), "b": net})
