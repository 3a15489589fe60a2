import traceback

import pytest
import torch
from torch import nn

from ignition.notes import explained


def notes_of(function, *arguments):
    """The notes that `explained` puts on what a function raises."""
    with pytest.raises(Exception) as caught, explained():  # noqa: PT011
        function(*arguments)
    return getattr(caught.value, "__notes__", [])


def fail(error):
    raise error


def test_code_of_2018_gets_the_fix():
    (note,) = notes_of(lambda: torch.tensor(1.0).data[0])
    assert "loss.data[0]" in note
    assert "{'loss': loss}" in note
    assert "{'loss': loss.item()}" in note


@pytest.mark.parametrize(
    "message",
    [
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "Expected all tensors to be on the same device, but got mat1 is on cuda:0, different from other tensors on cpu",
        "Input and parameter tensors are not at the same device, found input tensor at cuda:0 and parameter tensor at "
        "cpu",
        "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
        "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same or input should be "
        "a MKLDNN tensor and weight is a dense tensor",
        "Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
        "Tensor on device cpu is not on the expected device meta!",
    ],
)
def test_tensors_on_two_devices_get_the_fix(message):
    (note,) = notes_of(fail, RuntimeError(message))
    assert ".to(default_device())" in note
    assert "make_var" in note


def test_what_torch_says_of_two_devices_is_recognised():
    (note,) = notes_of(nn.LSTM(2, 2, device="meta"), torch.zeros(3, 2))
    assert ".to(default_device())" in note


@pytest.mark.parametrize(
    "message",
    [
        "Input type (torch.cuda.HalfTensor) and weight type (torch.cuda.FloatTensor) should be the same",
        "Input type (torch.DoubleTensor) and weight type (torch.FloatTensor) should be the same",
        "Input type (double) and bias type (float) should be the same",
        "mat1 and mat2 shapes cannot be multiplied (3x2 and 3x2)",
    ],
)
def test_other_errors_of_torch_get_no_note(message):
    assert notes_of(fail, RuntimeError(message)) == []


def test_a_loss_without_a_graph_gets_the_fix():
    (note,) = notes_of(lambda: torch.tensor(1.0).backward())
    assert ".item()" in note
    assert ".detach()" in note
    assert "torch.enable_grad()" in note


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError])
def test_the_kind_of_the_error_counts_too(kind):
    assert notes_of(fail, kind("invalid index of a 0-dim tensor")) == []


def test_an_error_comes_out_as_it_went_in():
    error = IndexError("invalid index of a 0-dim tensor")
    with pytest.raises(IndexError) as caught, explained():
        fail(error)
    assert caught.value is error
    assert error.__cause__ is None
    assert error.args == ("invalid index of a 0-dim tensor",)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"


def test_a_note_is_there_once_however_many_runs_are_around():
    with pytest.raises(IndexError) as caught, explained(), explained(), explained():
        torch.tensor(1.0).data[0]
    assert len(caught.value.__notes__) == 1


def test_the_users_own_notes_stay():
    error = IndexError("invalid index of a 0-dim tensor")
    error.add_note("in batch 3")
    assert notes_of(fail, error)[0] == "in batch 3"


def test_the_note_is_printed_with_the_error():
    with pytest.raises(IndexError) as caught, explained():
        torch.tensor(1.0).data[0]
    assert "loss.data[0] is torch 0.3 of 2018" in "".join(traceback.format_exception(caught.value))


def test_what_ends_the_process_passes_through():
    with pytest.raises(KeyboardInterrupt), explained():
        raise KeyboardInterrupt


def test_without_an_error_nothing_happens():
    with explained():
        pass


def test_a_part_of_a_sharded_model_that_is_called_by_itself_gets_the_fix():
    (note,) = notes_of(fail, RuntimeError("aten.addmm.default got mixed torch.Tensor and DTensor, need to convert all"))
    assert "FSDP(wrap=(Block, nn.Linear))" in note
