import threading
from contextvars import copy_context

import pytest
import torch

from ignition.running import Running, running, this_run

CPU = torch.device("cpu")
OUTER, INNER = Running(CPU, training=True), Running(CPU, training=False)


def test_there_is_no_run_at_first():
    assert running.get() is None


def test_a_run_is_current_inside_the_block_only():
    with this_run(OUTER):
        assert running.get() is OUTER
    assert running.get() is None


def test_the_run_around_is_current_again_after_an_inner_one():
    with this_run(OUTER):
        with this_run(INNER):
            assert running.get() is INNER
        assert running.get() is OUTER


def test_an_exception_ends_a_run():
    with pytest.raises(KeyError), this_run(OUTER):
        raise KeyError
    assert running.get() is None


def test_a_new_thread_does_not_inherit_the_run():
    seen = []
    with this_run(OUTER):
        thread = threading.Thread(target=lambda: seen.append(running.get()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_thread_may_be_given_the_run():
    seen = []
    with this_run(OUTER):
        thread = threading.Thread(target=copy_context().run, args=(lambda: seen.append(running.get()),))
        thread.start()
        thread.join()
    assert seen == [OUTER]


def test_a_run_in_another_thread_is_not_this_one():
    inside, done = threading.Event(), threading.Event()

    def train():
        with this_run(OUTER):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=train)
    thread.start()
    assert inside.wait(10)
    assert running.get() is None
    done.set()
    thread.join()


def test_backward_on_the_cpu_sees_the_run():
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: seen.append(running.get()))
    x.register_post_accumulate_grad_hook(lambda tensor: seen.append(running.get()))
    with this_run(OUTER):
        y.sum().backward()
    assert seen == [OUTER, OUTER]


class Doubled(torch.autograd.Function):
    seen = None

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        Doubled.seen = running.get()
        return 2 * gradient


def test_a_backward_of_the_users_own_sees_the_run():
    with this_run(OUTER):
        Doubled.apply(torch.ones(1, requires_grad=True)).backward()
    assert Doubled.seen is OUTER


def test_a_run_cannot_be_changed():
    with pytest.raises(AttributeError):
        OUTER.training = False
