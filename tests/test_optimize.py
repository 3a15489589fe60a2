import copy
import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from ignition import Trainer
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
    to_do = "call optimize once for each optimizer" if kind in ("list", "dict") else "pass the object that torch made"
    with pytest.raises(ArgumentError, match=rf"(?s)optimizer is {kind}.*torch\.optim\.Optimizer.*to do: {to_do}"):
        optimize(model(torch.ones(1, 3)).sum(), wrong)


@pytest.mark.parametrize("where", [outside, training])
def test_an_optimizer_whose_parameters_are_all_frozen_is_an_error(where):
    frozen, trained = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1)
    with where(), pytest.raises(ArgumentError, match=r"(?s)none of the parameters of SGD.*unfreeze"):
        optimize(trained(frozen(torch.ones(1, 3))).sum(), OPTIMIZERS["SGD"](frozen.parameters()))
    assert trained.weight.grad is None


def test_lbfgs_is_told_to_step_by_its_closure():
    model = nn.Linear(3, 1)
    with pytest.raises(ArgumentError, match=r"(?s)LBFGS.*expected: .*to do: call optimizer\.step\(closure\)"):
        optimize(model(torch.ones(1, 3)).sum(), torch.optim.LBFGS(model.parameters()))


@pytest.mark.parametrize("where", [outside, training, evaluating])
@pytest.mark.parametrize(
    "weight", [-1, -0.5, math.inf, math.nan, torch.tensor(-1), torch.ones(1), torch.tensor(1j), "4", [4], True]
)
def test_a_weight_that_is_none_is_an_error(weight, where):
    model = nn.Linear(3, 1)
    before = copy.deepcopy(model)
    message = "(?s)optimize was given the weight .*expected: a finite number of 0 or more, or a 0-d tensor.*to do: "
    with where(), pytest.raises(ArgumentError, match=message):
        optimize(model(torch.ones(1, 3)).sum(), OPTIMIZERS["SGD"](model.parameters()), weight=weight)
    assert same_parameters(model, before)
    assert model.weight.grad is None


@pytest.mark.parametrize("where", [outside, training, evaluating])
@pytest.mark.parametrize(
    "weight", [0, 3, 2.5, np.int64(3), np.float32(2), torch.tensor(3), torch.tensor(2.5, requires_grad=True)]
)
def test_where_nothing_is_accumulated_a_weight_changes_nothing(weight, where):
    models = [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, settings in zip(models, ({}, {"weight": weight}), strict=True):
        with where():
            optimize(model(torch.ones(2, 3)).square().mean(), OPTIMIZERS["SGD"](model.parameters()), **settings)
    assert same_parameters(*models)


# Beside the windows of a Trainer


def accumulating(model, optimizer, train_fn, eval_fn, accumulate):
    batches = [(torch.full((2, 3), float(number)),) for number in range(1, 5)]
    return Trainer(
        model, optimizer, train_fn, batches, eval_fn, batches[:1], accumulate=accumulate, device="cpu", progress=False
    )


@pytest.mark.parametrize("beside", ["in an evaluation", "in another Trainer"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_optimized_beside_a_window_is_no_part_of_it(beside, accumulate):
    side = nn.Linear(3, 1)
    side_optimizer = OPTIMIZERS["SGD"](side.parameters())

    def adapt():
        with torch.enable_grad():
            return optimize(side(torch.ones(1, 3)).sum(), side_optimizer)

    def other_fit():
        batches = [(torch.ones(1, 3),)]
        Trainer(side, side_optimizer, lambda model, x: adapt(), batches, device="cpu", progress=False).fit(epochs=1)

    models, called = [network(), network()], []
    models[1].load_state_dict(models[0].state_dict())
    for model, extra in zip(models, (None, beside), strict=True):
        optimizer = OPTIMIZERS["AdamW"](model.parameters())

        def train_fn(model, x, optimizer=optimizer, extra=extra):
            optimize(model(x).square().mean(), optimizer)
            if extra == "in another Trainer":
                called.append(other_fit())

        def eval_fn(model, x, extra=extra):
            if extra == "in an evaluation":
                called.append(adapt())

        accumulating(model, optimizer, train_fn, eval_fn, accumulate).fit(epochs=2)
    assert same_parameters(*models)
    assert called
    assert side.weight.grad is not None
