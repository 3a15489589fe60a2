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
    assert not threads[0].is_alive()


def test_a_copy_shares_no_memory_with_what_it_is_of_and_its_memory_is_used_again():
    writer, weight = Writer(), torch.ones(3)
    first = writer.copy("weight", weight)
    weight.fill_(2)
    assert first.tolist() == [1, 1, 1]
    assert writer.copy("weight", weight) is first
    assert first.tolist() == [2, 2, 2]
    assert writer.copy("weight", torch.ones(4)) is not first


def test_the_memory_of_what_was_not_copied_again_is_given_back():
    writer = Writer()
    once = writer.copy("once", torch.ones(1))
    writer.start(nothing, wake=nothing)
    writer.finish()
    writer.copy("other", torch.ones(1))
    writer.start(nothing, wake=nothing)
    writer.finish()
    assert writer.copy("once", torch.ones(1)) is not once
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


def test_the_next_job_can_run_after_one_that_failed():
    writer, done = Writer(), []
    writer.start(lambda: 1 / 0, wake=nothing)
    with pytest.raises(CheckpointError):
        writer.finish()
    writer.start(lambda: done.append(1), wake=nothing)
    writer.finish()
    assert done == [1]
