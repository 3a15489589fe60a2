"""A state that an optimizer could not go on with is refused before it has it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from ignition.checkpoint import Content
from ignition.codec import decode
from ignition.errors import CheckpointError
from ignition.optimizer_states import SavedOptimizers, check_optimizer_state, load_optimizer_state

OPTIMIZERS = {
    "ASGD": {}, "Adadelta": {}, "Adafactor": {}, "Adagrad": {}, "Adam": {}, "AdamW": {"amsgrad": True}, "Adamax": {},
    "LBFGS": {"max_iter": 3}, "NAdam": {}, "RAdam": {}, "RMSprop": {"momentum": 0.9, "centered": True}, "Rprop": {},
    "SGD": {"momentum": 0.9}, "Muon": {}, "SparseAdam": {},
}  # fmt: skip


def stepped(kind, steps=2, dtype=torch.float32):
    """An optimizer that has taken some steps, on a matrix and, where it can, a vector."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 4, dtype=dtype))]
    if kind not in ("Muon", "SparseAdam"):
        parameters.append(nn.Parameter(torch.randn(5, dtype=dtype)))
    optimizer = getattr(torch.optim, kind)(parameters, **OPTIMIZERS[kind])

    def closure():
        for one in parameters:
            one.grad = 2 * one.detach()
            if kind == "SparseAdam":
                one.grad = one.grad.to_sparse(1)
        return sum(one.detach().pow(2).sum() for one in parameters)

    for _ in range(steps):
        closure()
        optimizer.step(closure)
    return optimizer, closure


kinds = pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if hasattr(torch.optim, kind)])


@kinds
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_state_of_each_optimizer_is_its_own(kind, steps):
    optimizer, _ = stepped(kind, steps)
    state = copy.deepcopy(optimizer.state_dict())
    fresh, closure = stepped(kind, 0)
    check_optimizer_state(fresh, state, "", "runs/a")
    check_optimizer_state(optimizer, state, "", "runs/a")
    load_optimizer_state(fresh, copy.deepcopy(state), False)
    closure()
    fresh.step(closure)


def saved(optimizers, meanwhile):
    """The states in a checkpoint that was taken before something was done, and completed after it."""
    taken = SavedOptimizers(optimizers, False)
    content = Content({}, {"optimizer": {name: one.clone() for name, one in taken.tensors.items()}})
    meanwhile()
    if taken.encoded is None:
        taken.complete(content)
    else:
        content.state["optimizers"] = taken.encoded
    return taken, decode(content.state["optimizers"], content.tensors["optimizer"])


@kinds
def test_a_state_is_kept_as_it_was_while_the_optimizer_goes_on(kind):
    optimizer, closure = stepped(kind)
    if kind != "LBFGS":  # which takes one alone
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.5})
    before = copy.deepcopy(optimizer.state_dict())

    def go_on():
        closure()
        optimizer.step(closure)
        for group in optimizer.param_groups:
            group["new"] = 1
        optimizer.param_groups[0]["params"].reverse()

    _, found = saved({"": optimizer}, go_on)
    torch.testing.assert_close(found[""], before, rtol=0, atol=0)


def doubled(optimizer, state):
    return {**state, "more": [2 * group["lr"] for group in state["param_groups"]]}


def test_what_state_dict_gives_in_another_way_is_what_is_saved():
    hooked, before, exchanged, own = (stepped("Adam")[0] for _ in range(4))
    hooked.register_state_dict_post_hook(doubled)
    before.register_state_dict_pre_hook(lambda optimizer: optimizer.param_groups[0].update(seen=True))
    exchanged.state_dict = lambda: {"only": torch.ones(2), "step": 3}
    own.__class__ = type("Own", (torch.optim.Adam,), {"state_dict": lambda self: {"own": [1, (2,)]}})
    optimizers = {"hooked": hooked, "before": before, "exchanged": exchanged, "own": own}
    expected = {name: copy.deepcopy(one.state_dict()) for name, one in optimizers.items()}
    taken, found = saved(optimizers, lambda: None)
    assert taken.encoded is None
    assert expected["hooked"]["more"] == [2e-3]
    assert expected["before"]["param_groups"][0]["seen"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def crafted(state):
    """Each state with one thing in it that is missing, or of another kind or shape."""
    for key, entries in state["state"].items():
        for name, value in entries.items():
            others = ["missing", "x", []]
            if isinstance(value, torch.Tensor):
                others += [value.new_zeros((*value.shape, 2)), value.to(torch.int32)]
                others += [value[:1]] if value.ndim else []
            for other in others:
                changed = copy.deepcopy(state)
                if isinstance(other, str) and other == "missing":
                    del changed["state"][key][name]
                else:
                    changed["state"][key][name] = other
                yield f"{key}.{name} {other!r:.20}", changed
    for name in state["param_groups"][0]:
        for other in ("missing", "x", {}, [1], -1):
            changed = copy.deepcopy(state)
            if other == "missing":
                del changed["param_groups"][0][name]
            else:
                changed["param_groups"][0][name] = other
            yield f"group {name} {other!r}", changed


@pytest.mark.slow
@kinds
def test_what_is_missing_or_of_another_shape_is_refused_or_can_be_gone_on_with(kind):
    optimizer, _ = stepped(kind)
    refused = []
    for what, state in crafted(optimizer.state_dict()):
        fresh, closure = stepped(kind, 0)
        before = copy.deepcopy(fresh.state_dict())
        try:
            check_optimizer_state(fresh, state, "G", "runs/a")
        except CheckpointError as error:
            refused.append(str(error))
            assert str(fresh.state_dict()) == str(before), what
            continue
        load_optimizer_state(fresh, copy.deepcopy(state), False)
        closure()
        fresh.step(closure)
    assert len(refused) > 20
    assert all("the checkpoint runs/a is broken: optimizers.G" in message for message in refused)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("state"), "optimizers in state.json"),
        (lambda state: state.update(param_groups=state["param_groups"][0]), "with its param_groups"),
        (lambda state: state["param_groups"][0].update(params=[1, 0]), "the numbers of its parameters"),
        (lambda state: state["state"].update({7: {}}), "the state of one of 2 parameters"),
        (lambda state: state["state"].update({"0": {}}), "the numbers of parameters"),
        (lambda state: state["state"].update({0: []}), "an object"),
        (lambda state: state["state"][0].pop("exp_avg_sq"), "the memory of Adam, and exp_avg_sq in it"),
        (lambda state: state["state"][1].update(exp_avg=torch.zeros(4)), r"a tensor of the shape \(5,\)"),
        (lambda state: state["state"][0].update(step=torch.tensor(-1.0)), "a number of 0 or more"),
        (lambda state: state["param_groups"][0].pop("lr"), "its options, and lr among them"),
        (lambda state: state["param_groups"][0].update(betas=(0.9, 1.0)), "from 0 to below 1"),
        (lambda state: state["param_groups"][0].update(amsgrad=[1]), "a value such as False"),
    ],
)
def test_the_error_says_what_is_there_and_what_should_be(change, words):
    optimizer, _ = stepped("Adam")
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=words):
        check_optimizer_state(optimizer, state, "", "runs/a")


def test_moments_in_more_bits_than_their_parameter_are_taken_and_others_not():
    optimizer, _ = stepped("Adam", dtype=torch.bfloat16)
    for dtype, fits in {torch.float32: True, torch.float64: False, torch.bfloat16: True}.items():
        state = copy.deepcopy(optimizer.state_dict())
        state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].to(dtype)
        if fits:
            check_optimizer_state(optimizer, state, "", "runs/a")
        else:
            with pytest.raises(CheckpointError, match=r"the type torch.bfloat16"):
                check_optimizer_state(optimizer, state, "", "runs/a")


class Own(torch.optim.SGD):
    """An optimizer of the user's, of whose memory nobody else knows anything."""


class OwnState:
    """What is no optimizer of torch's, and takes any state."""

    def __init__(self):
        self.state = None

    def load_state_dict(self, state):
        self.state = state


def test_of_an_optimizer_of_the_users_the_groups_alone_are_looked_at():
    optimizer = Own([nn.Parameter(torch.zeros(2))], lr=0.1)
    state = optimizer.state_dict() | {"state": {0: {"whatever": [1, "x"]}}}
    check_optimizer_state(optimizer, state, "", "runs/a")
    state["param_groups"][0].pop("lr")
    with pytest.raises(CheckpointError, match="lr among them"):
        check_optimizer_state(optimizer, state, "", "runs/a")
    other = OwnState()
    check_optimizer_state(other, "anything", "", "runs/a")
    load_optimizer_state(other, {"a": 1}, False)
    assert other.state == {"a": 1}


def test_what_a_scheduler_has_put_into_the_groups_that_is_new_in_the_script_stays():
    optimizer, _ = stepped("SGD")
    state = copy.deepcopy(optimizer.state_dict())
    fresh, closure = stepped("SGD", 0)
    scheduler = OneCycleLR(fresh, max_lr=0.5, total_steps=9)
    load_optimizer_state(fresh, state, False)
    assert fresh.param_groups[0]["max_lr"] == 0.5
    fresh.step(closure)
    scheduler.step()
