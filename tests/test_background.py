"""The thread beside the training: one job at a time, copies of its own, failures raised where they are asked for."""

import threading

import pytest
import torch

from ignition.background import Writer
from ignition.errors import CheckpointError


def nothing():
    pass


def test_a_job_runs_on_another_thread_and_is_waited_for():
    writer, threads = Writer(), []
    writer.start(lambda: threads.append(threading.current_thread()), wake=nothing)
    writer.finish()
    assert threads[0] is not threading.main_thread()
    writer.start(lambda: threads.append(threading.current_thread()), wake=nothing)
    writer.finish()
    assert threads[1] is threads[0]
    writer.free()
    assert not threads[0].is_alive()


def test_a_copy_shares_no_memory_with_what_it_is_of_and_its_memory_is_used_again():
    writer, weight = Writer(), torch.ones(3)
    first = writer.copy("model", {"weight": weight})["weight"]
    weight.fill_(2)
    assert first.tolist() == [1, 1, 1]
    assert writer.copy("model", {"weight": weight})["weight"] is first
    assert first.tolist() == [2, 2, 2]
    assert writer.copy("model", {"weight": torch.ones(4)})["weight"] is not first
    assert writer.copy("model", {"weight": torch.ones(4, dtype=torch.int8)})["weight"].dtype is torch.int8
    assert writer.copy("model", {}) == {}


def test_the_memory_of_what_was_not_copied_again_is_given_back():
    writer = Writer()
    once = writer.copy("model", {"once": torch.ones(1)})["once"]
    other = writer.copy("state", {"other": torch.ones(1)})["other"]
    writer.copy("model", {})
    assert writer.copy("model", {"once": torch.ones(1)})["once"] is not once
    assert writer.copy("state", {"other": torch.ones(1)})["other"] is other
    writer.free()
    assert writer.copy("state", {"other": torch.ones(1)})["other"] is not other


def test_a_thread_that_cannot_be_had_is_an_error_and_nobody_waits_for_it(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer, done = Writer(), []
    with pytest.raises(RuntimeError, match="start new thread"):
        writer.start(lambda: done.append(1), wake=nothing)
    writer.finish()
    monkeypatch.undo()
    writer.start(lambda: done.append(2), wake=nothing)
    writer.finish()
    assert done == [2]
    writer.free()


def test_a_failure_wakes_the_loop_and_is_raised_once_with_its_cause():
    writer, woken = Writer(), []
    cause = OSError(28, "No space left on device")

    def job():
        raise cause

    writer.start(job, wake=lambda: woken.append(True))
    with pytest.raises(CheckpointError, match=r"(?s)No space left.*expected: .*to do: ") as caught:
        writer.finish()
    assert caught.value.__cause__ is cause
    assert woken == [True]
    writer.raise_failure()
    writer.finish()
    writer.free()


def test_the_next_job_can_run_after_one_that_failed():
    writer, done = Writer(), []
    writer.start(lambda: 1 / 0, wake=nothing)
    with pytest.raises(CheckpointError):
        writer.finish()
    writer.start(lambda: done.append(1), wake=nothing)
    writer.finish()
    assert done == [1]
    writer.free()


def test_an_error_that_says_what_to_do_is_raised_as_it_is():
    writer = Writer()
    cause = CheckpointError("a number is too long", "a shorter one", "shorten it")

    def job():
        raise cause

    writer.start(job, wake=nothing)
    with pytest.raises(CheckpointError, match=r"^a number is too long") as caught:
        writer.finish()
    assert caught.value is cause
    writer.free()


def test_what_comes_afterwards_comes_at_once_or_after_the_job_that_runs():
    writer, go_on, seen = Writer(), threading.Event(), []
    writer.afterwards(lambda: seen.append("none has run"))

    def job():
        go_on.wait(10)
        seen.append("the job")

    writer.start(job, wake=nothing)
    writer.afterwards(lambda: seen.append("after it"))
    assert seen == ["none has run"]
    writer.free()  # as a fit does that is left while it waits
    go_on.set()
    writer.finish()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.startswith("ignition-checkpoint"):
            thread.join(10)
    assert seen == ["none has run", "the job", "after it"]
    writer.afterwards(lambda: seen.append("at once"))
    assert seen[-1] == "at once"
