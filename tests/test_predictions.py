import weakref
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ignition.errors import FunctionError
from ignition.predictions import Predictions

Detection = namedtuple("Detection", ["boxes", "scores"])


def joined(outputs, axis=0, batches=None):
    predictions = Predictions(axis, batches)
    for output in outputs:
        predictions.add(output)
    return predictions.result()


def randoms(sizes, *shape, dtype=torch.float32):
    return [torch.randn(size, *shape).to(dtype) for size in sizes]


SIZES = [4, 4, 4, 1]
LENGTHS_100 = pytest.mark.parametrize("batches", [None, 100], ids=["unknown length", "known length"])
LENGTHS = pytest.mark.parametrize("batches", [None, 4], ids=["unknown length", "known length"])


@LENGTHS
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
def test_tensors_are_joined_in_the_order_of_the_data(batches, shape, dtype):
    outputs = randoms(SIZES, *shape, dtype=dtype)
    result = joined(outputs, batches=batches)
    assert torch.equal(result, torch.cat(outputs))
    assert result.dtype == dtype


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(0, 25), st.integers(-2, 1))
def test_any_sizes_and_any_promised_length_give_what_cat_gives(sizes, promised, axis):
    outputs = [torch.randn((size, 3) if axis in (0, -2) else (3, size)) for size in sizes]
    assert torch.equal(joined(outputs, axis, promised or None), torch.cat(outputs, axis))


@LENGTHS
def test_any_nesting_is_kept(batches):
    logits, states, masks = randoms(SIZES, 3), randoms(SIZES, 2, 2), randoms(SIZES, dtype=torch.bool)
    outputs = [
        {"logits": logit, "more": [state, (mask, {"again": logit})], "nothing": ()}
        for logit, state, mask in zip(logits, states, masks, strict=True)
    ]
    result = joined(outputs, batches=batches)
    assert list(result) == ["logits", "more", "nothing"]
    assert type(result["more"]) is list
    assert type(result["more"][1]) is tuple
    assert result["nothing"] == ()
    assert torch.equal(result["logits"], torch.cat(logits))
    assert torch.equal(result["more"][0], torch.cat(states))
    assert torch.equal(result["more"][1][0], torch.cat(masks))
    assert torch.equal(result["more"][1][1]["again"], torch.cat(logits))


@LENGTHS
def test_named_tuples_are_kept(batches):
    boxes, scores = randoms(SIZES, 4), randoms(SIZES)
    result = joined([Detection(*pair) for pair in zip(boxes, scores, strict=True)], batches=batches)
    assert type(result) is Detection
    assert torch.equal(result.boxes, torch.cat(boxes))
    assert torch.equal(result.scores, torch.cat(scores))


def test_what_torch_itself_returns_is_kept():
    outputs = randoms(SIZES, 5)
    result = joined([output.topk(2) for output in outputs])
    assert type(result) is torch.return_types.topk
    assert torch.equal(result.values, torch.cat(outputs).topk(2).values)
    assert torch.equal(result.indices, torch.cat(outputs).topk(2).indices)


def test_any_mapping_is_read_as_a_dict():
    outputs = randoms(SIZES, 2)
    result = joined([OrderedDict(a=output) for output in outputs])
    assert result.keys() == {"a"}
    assert torch.equal(result["a"], torch.cat(outputs))


@LENGTHS
@pytest.mark.parametrize("axis", [1, -2])
def test_outputs_are_joined_along_the_batch_axis(batches, axis):
    outputs = [torch.randn(7, size, 3) for size in SIZES]
    assert torch.equal(joined(outputs, axis, batches), torch.cat(outputs, axis))


def test_a_negative_axis_is_counted_from_the_end_of_each_tensor():
    outputs = [(torch.randn(size), torch.randn(3, size)) for size in SIZES]
    first, second = joined(outputs, -1)
    assert torch.equal(first, torch.cat([output[0] for output in outputs]))
    assert torch.equal(second, torch.cat([output[1] for output in outputs], dim=1))


def test_batches_may_grow_and_be_empty():
    outputs = randoms([0, 3, 0, 100, 7], 2)
    assert torch.equal(joined(outputs, batches=5), torch.cat(outputs))
    assert torch.equal(joined(outputs[:1]), torch.empty(0, 2))


@pytest.mark.parametrize("promised", [1, 2, 4, 50])
def test_a_loader_may_give_more_or_less_than_it_promised(promised):
    outputs = randoms(SIZES, 3)
    assert torch.equal(joined(outputs, batches=promised), torch.cat(outputs))


@LENGTHS
def test_predictions_have_no_graph_and_are_copies(batches):
    model = nn.Linear(3, 2)
    buffer = torch.zeros(4, 2)
    predictions = Predictions(0, batches)
    expected = []
    for step in range(4):
        output = model(torch.ones(4, 3))
        predictions.add({"output": output, "same": buffer.fill_(step)})
        expected.append(output.detach())
    result = predictions.result()
    assert not result["output"].requires_grad
    assert torch.equal(result["output"], torch.cat(expected))
    assert result["same"][::4, 0].tolist() == [0, 1, 2, 3]
    assert result["output"].device == torch.device("cpu")


def into_one_buffer(buffer):
    return buffer


def into_a_part_of_a_buffer(buffer):
    return buffer[:4]


def into_a_detached_buffer(buffer):
    return buffer.detach()


def into_memory_of_numpy(buffer):
    return torch.from_numpy(buffer.numpy())


@LENGTHS_100
@pytest.mark.parametrize(
    "view", [into_one_buffer, into_a_part_of_a_buffer, into_a_detached_buffer, into_memory_of_numpy]
)
def test_a_function_may_write_into_the_same_memory_for_each_batch(batches, view):
    buffer = torch.zeros(4, 2)
    predictions = Predictions(0, batches)
    for step in range(100):
        buffer.fill_(step)
        predictions.add(view(buffer))
    assert predictions.result()[:, 0].tolist() == [step for step in range(100) for _ in range(4)]


@LENGTHS_100
def test_a_function_may_change_what_it_returned_before(batches):
    predictions, last = Predictions(0, batches), torch.zeros(2)
    for step in range(100):
        output = last.mul_(0) + step  # the output before becomes 0
        predictions.add(output)
        last = output
    assert predictions.result()[::2].tolist() == list(range(100))


@LENGTHS_100
def test_numpy_may_write_into_a_tensor_that_is_returned_each_time(batches):
    array = np.zeros(2, dtype=np.float32)
    output, predictions = torch.from_numpy(array), Predictions(0, batches)
    for step in range(100):
        array[:] = step
        predictions.add(output)
    assert predictions.result()[::2].tolist() == list(range(100))


@LENGTHS_100
def test_outputs_made_in_inference_mode_may_be_changed(batches):
    predictions = Predictions(0, batches)
    with torch.inference_mode():
        output = torch.zeros(2)
        for step in range(100):
            predictions.add(output.fill_(step))
    assert predictions.result()[::2].tolist() == list(range(100))


@LENGTHS_100
def test_the_same_tensor_may_be_returned_each_time(batches):
    output = torch.randn(2, 3)
    assert torch.equal(joined([output] * 100, batches=batches), output.repeat(100, 1))


@LENGTHS_100
def test_a_function_may_take_turns_with_a_few_buffers(batches):
    buffers = [torch.zeros(2, 3) for _ in range(5)]
    predictions = Predictions(0, batches)
    for step in range(100):
        predictions.add(buffers[step % 5].fill_(step))
    assert predictions.result()[::2, 0].tolist() == list(range(100))


@LENGTHS_100
@pytest.mark.parametrize("axis", [0, 1])
def test_many_outputs_of_any_size_are_joined_in_the_order_of_the_data(batches, axis):
    outputs = [torch.randn(3, 3 + index % 4 // 3 + index // 70 * 50) for index in range(200)]
    outputs = [output.T.contiguous() if axis == 0 else output for output in outputs]
    assert torch.equal(joined(outputs, axis, batches), torch.cat(outputs, axis))


def test_a_result_that_was_looked_at_can_grow():
    outputs = randoms([4] * 100, 3)
    predictions = Predictions(0, None)
    for index, output in enumerate(outputs):
        predictions.add(output)
        assert torch.equal(predictions.result(), torch.cat(outputs[: index + 1]))


def test_few_outputs_are_held_and_no_graph_of_them():
    model = nn.Linear(3, 2)
    predictions, outputs, graphs = Predictions(0, 1000), [], []
    for _ in range(1000):
        output = model(torch.ones(4, 3))
        outputs.append(weakref.ref(output.detach_()))
        predictions.add(output)
        hidden = model(torch.ones(4, 3))
        graphs.append(weakref.ref(hidden))
        predictions.add(hidden * hidden)
        del output, hidden
        assert sum(one() is not None for one in outputs) <= 64
        assert graphs[-1]() is None


def test_no_large_output_is_held():
    predictions = Predictions(0, 100)
    for _ in range(100):
        output = torch.zeros(1024, 300)
        held = weakref.ref(output)
        predictions.add(output)
        del output
        assert held() is None


def test_an_output_that_has_grown_large_is_no_longer_held():
    predictions = Predictions(0, None)
    outputs = [torch.randn(4 if index < 50 else 300_000) for index in range(60)]
    for output in outputs:
        predictions.add(output)
    held = weakref.ref(outputs[-1])
    expected = torch.cat(outputs)
    del outputs, output
    assert held() is None
    assert torch.equal(predictions.result(), expected)


def test_transposed_and_conjugated_outputs_are_joined_by_value():
    outputs = [torch.randn(3, size, dtype=torch.complex64).T.conj() for size in SIZES]
    assert torch.equal(joined(outputs), torch.cat(outputs))


def test_a_subclass_of_tensor_is_joined_as_a_tensor():
    outputs = randoms(SIZES, 2)
    result = joined([nn.Parameter(output) for output in outputs])
    assert type(result) is Tensor
    assert torch.equal(result, torch.cat(outputs))


def test_a_known_length_needs_no_more_memory_than_the_result():
    result = joined(randoms([4, 4, 4], 3), batches=3)
    assert result.untyped_storage().nbytes() == 12 * 3 * 4


# Bad input


@pytest.mark.parametrize("changed", [lambda output: output, lambda output: output[:1], Tensor.detach])
def test_an_output_that_is_changed_after_all_is_an_error(changed):
    predictions, outputs = Predictions(0, None), randoms([4] * 50, 3)
    for output in outputs:
        predictions.add(output)
    changed(outputs[-1]).fill_(0)
    with pytest.raises(FunctionError, match=r"(?s)changed in place.*expected: .*to do: .*clone"):
        predictions.result()


def test_outputs_that_change_after_many_batches_are_an_error():
    with pytest.raises(FunctionError, match=r"(?s)torch.float64 of shape \(4, 3\).*axis 0 alone"):
        joined([*randoms([4] * 50, 3), torch.zeros(4, 3, dtype=torch.float64)])


@LENGTHS
@pytest.mark.parametrize(
    "second",
    [
        torch.zeros(4, 3, dtype=torch.float64),
        torch.zeros(4, 3, dtype=torch.int32),
        torch.zeros(4, 2),
        torch.zeros(4, 3, 1),
        torch.zeros(4),
        torch.zeros(()),
    ],
)
def test_outputs_that_change_dtype_or_shape_are_an_error(second, batches):
    with pytest.raises(FunctionError) as caught:
        joined([torch.zeros(4, 3), second], batches=batches)
    message = str(caught.value)
    assert "predict function" in message
    assert f"{second.dtype} of shape {tuple(second.shape)}" in message
    assert "torch.float32 and shape" in message
    assert "axis 0 alone" in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(4), [torch.zeros(4)]),
        ([torch.zeros(4)], torch.zeros(4)),
        ([torch.zeros(4)], [torch.zeros(4), torch.zeros(4)]),
        ({"a": torch.zeros(4)}, {"b": torch.zeros(4)}),
        ({"a": torch.zeros(4)}, {"a": torch.zeros(4), "b": torch.zeros(4)}),
        ({"a": torch.zeros(4)}, [torch.zeros(4)]),
        (torch.zeros(4), None),
        (torch.zeros(4), 1.0),
    ],
)
def test_another_nesting_than_for_the_first_batch_is_an_error(first, second):
    with pytest.raises(FunctionError, match=rf"(?s)returned {type(second).__name__} in another nesting.*the same"):
        joined([first, second])


@pytest.mark.parametrize("output", [torch.tensor(1.0), {"mean": torch.tensor(1.0)}, [torch.ones(2), torch.tensor(1)]])
def test_a_scalar_has_no_batch_axis(output):
    with pytest.raises(FunctionError, match=r"(?s)tensor of shape \(\).*an axis 0"):
        joined([output])


@pytest.mark.parametrize("axis", [1, -2])
def test_a_tensor_without_the_batch_axis_is_an_error(axis):
    with pytest.raises(FunctionError, match=rf"(?s)tensor of shape \(4,\).*an axis {axis}"):
        joined([(torch.zeros(3, 4), torch.zeros(4))], axis)


@pytest.mark.parametrize("output", [None, 1.0, "text", {1, 2}, object(), [torch.ones(2), "text"], {"a": None}])
def test_what_is_no_tensor_is_an_error(output):
    with pytest.raises(
        FunctionError, match=r"(?s)predict function returned (NoneType|float|str|set|object)\n.*expected"
    ):
        joined([output])
