import copy
import math
import threading

import pytest
import torch
from torch import nn

from ignition.errors import ArgumentError
from ignition.optimize import optimize
from ignition.running import Running, running, this_run

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "Nesterov foreach": lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, foreach=True
    ),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    "Adam maximized": lambda parameters: torch.optim.Adam(parameters, lr=0.1, maximize=True, foreach=True),
    "Rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.1),
}


def training():
    return this_run(Running(torch.device("cpu"), training=True))


def evaluating():
    return this_run(Running(torch.device("cpu"), training=False))


def outside():
    return this_run(None)


def network():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def same_parameters(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("where", [outside, training, evaluating])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_equals_the_three_plain_calls_bit_for_bit(kind, where):
    model = network()
    by_hand = copy.deepcopy(model)
    optimizer, plain = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](by_hand.parameters())
    for _ in range(4):
        x = torch.randn(6, 3)
        with where():
            norm = optimize(model(x).square().mean(), optimizer)

        plain.zero_grad()
        by_hand(x).square().mean().backward()
        before_the_step = [parameter.grad.clone() for parameter in by_hand.parameters()]
        plain.step()
        assert same_parameters(model, by_hand)
        assert torch.equal(norm, torch.nn.utils.get_total_norm(before_the_step))


def test_the_norm_is_that_of_all_gradients_as_one_vector():
    model = network()
    norm = optimize(model(torch.randn(6, 3)).square().mean(), OPTIMIZERS["SGD"](model.parameters()))
    by_hand = math.sqrt(sum(float(value) ** 2 for p in model.parameters() for value in p.grad.flatten()))
    assert norm.item() == pytest.approx(by_hand, rel=1e-5)
    assert norm.shape == ()
    assert not norm.requires_grad


def test_the_norm_is_over_the_optimizers_own_parameters():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}], lr=0.1)
    other = nn.Linear(3, 2)
    norm = optimize((model(torch.ones(1, 3)) + other(torch.ones(1, 3))).sum(), optimizer)
    assert norm.item() == pytest.approx(math.sqrt(8))  # six weights and two biases with a gradient of 1 each


def test_sparse_gradients_have_a_norm_too():
    table = nn.Embedding(5, 2, sparse=True)
    norm = optimize(table(torch.tensor([1, 1, 3])).sum(), torch.optim.SparseAdam(list(table.parameters()), lr=0.1))
    assert norm.item() == pytest.approx(math.sqrt(2 * 2**2 + 2 * 1**2))  # row 1 has been seen twice


def test_gradients_from_before_do_not_count():
    model = nn.Linear(3, 1)
    model(torch.ones(1, 3)).sum().backward()
    optimize(model(torch.ones(1, 3)).sum(), OPTIMIZERS["SGD"](model.parameters()))
    assert torch.equal(model.weight.grad, torch.ones(1, 3))


def test_frozen_parameters_of_the_optimizer_stay_as_they_are():
    model = nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    bias = model.bias.clone()
    norm = optimize(model(torch.ones(1, 3)).sum(), OPTIMIZERS["SGD"](model.parameters()))
    assert torch.equal(model.bias, bias)
    assert norm.item() == pytest.approx(math.sqrt(3))


def test_a_loss_with_one_element_may_have_axes():
    model = nn.Linear(3, 1)
    assert optimize(model(torch.ones(1, 3)), OPTIMIZERS["SGD"](model.parameters())).item() == pytest.approx(2.0)


@pytest.mark.parametrize("where", [outside, training])
def test_a_graph_that_is_retained_can_be_gone_through_again(where):
    one, two = (nn.Parameter(torch.tensor(float(value))) for value in (2, 3))
    first, second = (torch.optim.SGD([parameter], lr=0.5) for parameter in (one, two))
    with where():
        hidden = one.exp() + two.exp()  # saves its results, which no step changes
        loss = hidden * 2
        optimize(loss, first, retain_graph=True)
        optimize(loss, second)
        assert one.item() == pytest.approx(2 - math.exp(2))
        assert two.item() == pytest.approx(3 - math.exp(3))
        with pytest.raises(RuntimeError, match="second time"):
            optimize(loss, second)


# Inside a Trainer, and beside it


def two_players():
    """A generator, a discriminator, and a loss that depends on both."""
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    return generator, discriminator, discriminator(generator(torch.ones(4, 2))).mean()


def test_inside_a_trainer_only_the_optimizers_own_parameters_get_gradients():
    generator, discriminator, loss = two_players()
    generator.weight.grad = kept = torch.full((3, 2), 7.0)
    before = copy.deepcopy(generator)
    with training():
        optimize(loss, OPTIMIZERS["SGD"](discriminator.parameters()))
    assert discriminator.weight.grad is not None
    assert generator.weight.grad is kept
    assert torch.equal(kept, torch.full((3, 2), 7.0))
    assert generator.bias.grad is None
    assert same_parameters(generator, before)


@pytest.mark.parametrize("where", [outside, evaluating])
def test_outside_a_train_function_all_parameters_get_gradients(where):
    generator, discriminator, loss = two_players()
    with where():
        optimize(loss, OPTIMIZERS["SGD"](discriminator.parameters()))
    assert all(p.grad is not None for p in [*generator.parameters(), *discriminator.parameters()])


def test_another_thread_is_no_part_of_the_run():
    generator, discriminator, loss = two_players()
    optimizer = OPTIMIZERS["SGD"](discriminator.parameters())
    with training():
        thread = threading.Thread(target=optimize, args=(loss, optimizer))
        thread.start()
        thread.join()
    assert generator.weight.grad is not None


def test_backward_on_the_cpu_is_a_part_of_the_run():
    seen = []
    model = nn.Linear(2, 1)
    model.weight.register_hook(lambda gradient: seen.append(running.get()))
    run = Running(torch.device("cpu"), training=True)
    with this_run(run):
        optimize(model(torch.ones(1, 2)).sum(), OPTIMIZERS["SGD"](model.parameters()))
    assert seen == [run]


def test_parameters_that_the_loss_does_not_reach_get_no_gradient_and_no_step():
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1)
    before = copy.deepcopy(unused)
    with training():
        optimize(used(torch.ones(1, 2)).sum(), OPTIMIZERS["AdamW"]([*used.parameters(), *unused.parameters()]))
    assert unused.weight.grad is None
    assert same_parameters(unused, before)


# Bad input: one error, before anything has changed


@pytest.mark.parametrize("where", [outside, training])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model: model(torch.ones(4, 3)), r"(?s)tensor of shape \(4, 2\).*one element.*mean"),
        (lambda model: model(torch.ones(4, 3))[:0].sum(0), r"shape \(2,\)"),
        (lambda model: model(torch.ones(0, 3)), r"shape \(0, 2\)"),
        (lambda model: model(torch.ones(4, 3)).mean().item(), "(?s)loss is float.*tensor with one element"),
        (lambda model: {"loss": model(torch.ones(4, 3)).mean()}, "loss is dict"),
        (lambda model: None, "loss is NoneType"),
        (lambda model: model(torch.ones(4, 3)).mean().detach(), r"(?s)no graph.*\.item\(\), \.detach\(\).*frozen"),
        (lambda model: torch.tensor(1.0), "no graph"),
    ],
)
def test_a_loss_that_cannot_go_backward_is_an_error(loss, message, where):
    model = network()
    before = copy.deepcopy(model)
    model[0].weight.grad = gradient = torch.ones(5, 3)
    with where(), pytest.raises(ArgumentError, match=message):
        optimize(loss(model), OPTIMIZERS["SGD"](model.parameters()))
    assert same_parameters(model, before)
    assert model[0].weight.grad is gradient


@pytest.mark.parametrize("kind", ["list", "dict", "NoneType", "Linear"])
def test_an_optimizer_that_is_none_is_an_error(kind):
    model = nn.Linear(3, 1)
    sgd = OPTIMIZERS["SGD"](model.parameters())
    wrong = {"list": [sgd], "dict": {"G": sgd}, "NoneType": None, "Linear": model}[kind]
    with pytest.raises(ArgumentError, match=rf"(?s)optimizer is {kind}.*torch\.optim\.Optimizer.*once for each"):
        optimize(model(torch.ones(1, 3)).sum(), wrong)


@pytest.mark.parametrize("where", [outside, training])
def test_an_optimizer_whose_parameters_are_all_frozen_is_an_error(where):
    frozen, trained = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1)
    with where(), pytest.raises(ArgumentError, match=r"(?s)none of the parameters of SGD.*unfreeze"):
        optimize(trained(frozen(torch.ones(1, 3))).sum(), OPTIMIZERS["SGD"](frozen.parameters()))
    assert trained.weight.grad is None
