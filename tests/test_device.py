import types
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ignition.device import as_device, default_device, device_of, make_var, move, move_model, tensors_in
from ignition.errors import ArgumentError
from ignition.running import Running, this_run

CPU, META = torch.device("cpu"), torch.device("meta")  # meta: a second device that every machine has


# The devices there are


def test_the_default_device_is_the_accelerator_or_the_cpu():
    device = default_device()
    if torch.accelerator.is_available():
        assert device.type == torch.accelerator.current_accelerator().type
        assert device == torch.empty(0, device=device).device
    else:
        assert device == CPU


@pytest.mark.parametrize("name", ["cpu", CPU])
def test_a_device_may_be_given_by_name(name):
    assert as_device(name) == CPU


def test_auto_is_the_default_device():
    assert as_device("auto") == default_device()


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99", None, [], 3.5])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(ArgumentError) as caught:
        as_device(name)
    assert str(caught.value).startswith(f"device={name!r} cannot be used here (")
    assert 'expected: "auto" or a device that this machine has' in str(caught.value)
    assert f'to do: pass device="auto", which is {default_device()} here' in str(caught.value)


# Models


def test_the_device_of_a_model_is_that_of_its_first_parameter():
    assert device_of(nn.Linear(1, 1)) == CPU
    assert device_of(nn.Linear(1, 1, device="meta")) == META
    assert device_of({"G": nn.Linear(1, 1, device="meta"), "D": nn.Linear(1, 1)}) == META


def test_a_buffer_counts_where_there_is_no_parameter():
    model = nn.Module()
    model.register_buffer("mean", torch.zeros(1, device="meta"))
    assert device_of(model) == META
    assert device_of([nn.ReLU(), model]) == META


def test_a_model_without_tensors_is_on_the_cpu():
    assert device_of(nn.ReLU()) == CPU
    assert device_of(None) == CPU


def devices(*modules):
    return {tensor.device for module in modules for tensor in (*module.parameters(), *module.buffers())}


def test_a_model_is_moved_in_place():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    move_model(model, None, META)
    assert devices(model) == {META}


def test_a_model_that_is_there_keeps_its_very_tensors():
    model = nn.Linear(1, 1)
    before = [tensor.data_ptr() for tensor in model.parameters()]
    move_model(model, None, CPU)
    assert [tensor.data_ptr() for tensor in model.parameters()] == before


@pytest.mark.parametrize("there", ["G", "D"])
def test_each_of_several_models_is_moved(there):
    models = {name: nn.Linear(1, 1, device="meta" if name == there else "cpu") for name in ("G", "D")}
    move_model(models, None, META)
    assert devices(*models.values()) == {META}


def test_a_part_that_was_left_behind_is_moved():
    model = nn.Sequential(nn.Linear(1, 1, device="meta"), nn.Linear(1, 1))
    move_model(model, None, META)
    assert devices(model) == {META}


@pytest.mark.gpu
def test_the_state_of_an_optimizer_follows_its_model():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    averages = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    move_model(model, optimizer, default_device())
    assert devices(model) == {default_device()}
    for name, parameter in model.named_parameters():
        assert optimizer.state[parameter]["exp_avg"].device == default_device()
        assert torch.equal(optimizer.state[parameter]["exp_avg"].cpu(), averages[name])


# make_var


@pytest.fixture
def on_cpu():
    with this_run(Running(CPU, training=True)):
        yield


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "dtype",
    [
        *("float16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    ],
)
def test_an_array_keeps_its_type(dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    tensor = make_var(array)
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.tolist() == array.tolist()


@pytest.mark.usefixtures("on_cpu")
def test_an_array_is_shared():
    array = np.zeros(2)
    make_var(array)[0] = 5
    assert array[0] == 5


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "array",
    [
        read_only(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[::-1],
        np.arange(12).reshape(3, 4)[::-1, ::-2],
        np.arange(6)[::2],
        np.arange(6).reshape(2, 3).T,
        np.broadcast_to(np.float32(3), (2, 3)),
        np.arange(3, dtype=">i4"),
        np.arange(3, dtype=">f8")[::-1],
        np.array(2.5),
        np.zeros((0, 3), dtype=np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
    ],
    ids=str,
)
def test_any_layout_of_an_array_is_taken(array):
    tensor = make_var(array)
    assert tensor.dtype == torch.as_tensor(np.zeros(1, dtype=array.dtype.newbyteorder("="))).dtype
    assert tensor.shape == array.shape
    assert tensor.tolist() == array.tolist()


@pytest.mark.usefixtures("on_cpu")
def test_a_read_only_array_cannot_be_changed_through_the_tensor():
    array = read_only(np.zeros(2))
    make_var(array)[0] = 5
    assert array.tolist() == [0, 0]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (3, torch.int64),
        (2.5, torch.float32),
        (True, torch.bool),
        (1j, torch.complex64),
        (np.float64(2.5), torch.float64),
        (np.float32(2.5), torch.float32),
        (np.int16(2), torch.int16),
        (np.bool_(True), torch.bool),
        ([1, 2], torch.int64),
        ([[1.0, 2], [3, 4]], torch.float32),
        ((1.5, 2.0), torch.float32),
        (range(3), torch.int64),
        ([], torch.float32),
        ([np.float64(1), np.float64(2)], torch.float64),
        ([torch.tensor(1.0), torch.tensor(2.0)], torch.float32),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_and_lists_become_tensors(x, dtype):
    tensor = make_var(x)
    assert isinstance(tensor, Tensor)
    assert tensor.dtype == dtype
    assert tensor.tolist() == (np.asarray(x).tolist())


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 3),
        nn.Parameter(torch.ones(2)),
        torch.ones(3, dtype=torch.int8)[::2],
        torch.ones(2, requires_grad=True) * 2,
        torch.ones(4).to_sparse(),
    ],
    ids=["plain", "parameter", "strided", "with a graph", "sparse"],
)
def test_a_tensor_that_is_there_comes_back_itself(x):
    assert make_var(x) is x
    assert make_var(x, dtype=x.dtype) is x


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("x", [np.ones(2), 1, [1, 0], torch.ones(2), torch.ones(2, dtype=torch.bool)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64])
def test_a_type_may_be_asked_for(x, dtype):
    assert make_var(x, dtype).dtype == dtype
    assert make_var(x, dtype=dtype).tolist() == np.asarray(x).tolist()


@pytest.mark.usefixtures("on_cpu")
def test_the_graph_of_a_tensor_stays():
    x = torch.ones(2, requires_grad=True)
    make_var(x, dtype=torch.float64).sum().backward()
    assert x.grad.tolist() == [1, 1]


@pytest.mark.parametrize("x", [np.ones(2), 1.0, [1, 2], torch.ones(2)], ids=["array", "number", "list", "tensor"])
def test_the_device_is_that_of_the_run(x):
    with this_run(Running(META, training=False)):
        assert make_var(x).device == META
        with this_run(Running(CPU, training=False)):
            assert make_var(x).device == CPU
        assert make_var(x, dtype=torch.float64).device == META


def test_outside_a_run_the_device_is_the_default():
    assert make_var([1.0]).device == default_device()


@pytest.mark.parametrize(
    "x",
    [
        *(None, "a", ["a"], b"a", {"a": 1}, {1, 2}, object(), [[1, 2], [3]], 2**70, [None]),
        *(np.array(["a"]), np.array([object()]), np.array([1, "a"], dtype=object), np.datetime64("2020-01-01")),
        [torch.zeros(2), torch.zeros(2)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_an_error(x):
    with pytest.raises(ArgumentError) as caught:
        make_var(x)
    assert str(caught.value).startswith(f"make_var was given {type(x).__name__}: ")
    assert "expected: a number, a nested list of numbers, a numpy array of numbers, or a tensor" in str(caught.value)
    assert "to do: make one of those of it first" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", np.float32, torch.ones(1)])
@pytest.mark.parametrize("x", [1.0, torch.ones(1)])
def test_a_wrong_type_is_an_error(x, dtype):
    with pytest.raises(ArgumentError, match=r"make_var was given dtype=[\s\S]*expected: a torch.dtype[\s\S]*to do: "):
        make_var(x, dtype=dtype)


# Moving batches


class Pair(NamedTuple):
    x: Any
    y: Any


class TaggedList(list):
    tag = None


class TaggedDict(dict):
    tag = None


class Twins(tuple):
    """A tuple of a class of its own, without names."""


@dataclass
class Sample:
    x: Tensor
    name: str = "a"


@dataclass(frozen=True, slots=True)
class FrozenSample:
    x: Tensor
    inner: Any = None


@dataclass
class Cached:
    x: Tensor
    cache: Tensor = field(init=False, repr=False)


def on_meta(x):
    return isinstance(x, Tensor) and x.device == META


@pytest.fixture
def x():
    return torch.arange(6.0).reshape(2, 3)


def test_a_tensor_is_moved_with_its_shape_and_type(x):
    moved = move(x.int(), META)
    assert on_meta(moved)
    assert (moved.shape, moved.dtype) == (x.shape, torch.int32)


def test_what_is_there_already_is_not_copied(x):
    assert move(x, CPU) is x
    assert move([x], CPU)[0] is x


@pytest.mark.parametrize(
    "value", [None, 3, 2.5, "text", b"bytes", True, np.ones(2), torch.float32, object, Tensor, nn.Linear(1, 1), {1, 2}]
)
def test_all_else_stays_the_object_that_it_is(value):
    assert move(value, META) is value
    assert move((value,), META)[0] is value


@pytest.mark.parametrize("kind", [tuple, list, Twins, TaggedList])
def test_sequences_keep_their_class(kind, x):
    moved = move(kind([x, "a", kind([x])]), META)
    assert type(moved) is kind
    assert type(moved[2]) is kind
    assert on_meta(moved[0])
    assert moved[1] == "a"
    assert on_meta(moved[2][0])


def test_a_named_tuple_keeps_its_names(x):
    moved = move(Pair(x, {"y": Pair(x, 1)}), META)
    assert type(moved) is Pair
    assert on_meta(moved.x)
    assert on_meta(moved.y["y"].x)
    assert moved.y["y"].y == 1


def test_what_torch_returns_by_name_is_moved(x):
    moved = move(x.max(dim=0), META)
    assert type(moved) is torch.return_types.max
    assert on_meta(moved.values)
    assert on_meta(moved.indices)


@pytest.mark.parametrize("kind", [dict, OrderedDict, TaggedDict, UserDict, types.MappingProxyType])
def test_mappings_keep_their_class_and_their_order(kind, x):
    moved = move(kind({"b": x, "a": 1, "c": {"d": x}}), META)
    assert type(moved) is kind
    assert list(moved) == ["b", "a", "c"]
    assert on_meta(moved["b"])
    assert moved["a"] == 1
    assert on_meta(moved["c"]["d"])


def test_a_default_dict_keeps_its_default(x):
    moved = move(defaultdict(list, a=x), META)
    assert type(moved) is defaultdict
    assert on_meta(moved["a"])
    assert moved["other"] == []


def test_a_counter_is_moved_too():
    assert move(Counter("aab"), META) == Counter("aab")


@pytest.mark.parametrize(("kind", "items"), [(TaggedList, [1]), (TaggedDict, {"a": 1})])
def test_an_object_keeps_what_it_holds_besides_its_items(kind, items):
    value = kind(items)
    value.tag = "mine"
    assert move(value, META).tag == "mine"


class Record(MutableMapping):
    """A mapping that keeps its items in a dict of its own, which a shallow copy shares."""

    def __init__(self, items):
        self.items_ = items

    def __getitem__(self, name):
        return self.items_[name]

    def __setitem__(self, name, value):
        self.items_[name] = value

    def __delitem__(self, name):
        del self.items_[name]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


class Row(Mapping):
    """A mapping that is not made from a dict."""

    def __init__(self, *, x):
        self.x = x

    def __getitem__(self, name):
        return vars(self)[name]

    def __iter__(self):
        return iter(vars(self))

    def __len__(self):
        return len(vars(self))


def test_a_mapping_of_any_other_class_reads_the_same(x):
    moved = move(Record({"x": x}), META)
    assert type(moved) is Record
    assert on_meta(moved["x"])
    moved = move(Row(x=x), META)
    assert list(moved) == ["x"]
    assert on_meta(moved["x"])


@pytest.mark.parametrize("kind", [Sample, FrozenSample, Cached])
def test_a_dataclass_is_moved_field_by_field(kind, x):
    moved = move(kind(x), META)
    assert type(moved) is kind
    assert on_meta(moved.x)


def test_a_dataclass_may_hold_anything(x):
    moved = move(FrozenSample(x, inner=[Sample(x, "b")]), META)
    assert on_meta(moved.inner[0].x)
    assert moved.inner[0].name == "b"
    assert move(Sample, META) is Sample


@pytest.mark.parametrize(
    "make",
    [
        lambda x: [x],
        lambda x: TaggedList([x]),
        lambda x: {0: x},
        lambda x: TaggedDict({0: x}),
        lambda x: UserDict({0: x}),
        lambda x: Record({0: x}),
        lambda x: defaultdict(list, {0: x}),
    ],
)
def test_what_was_given_is_not_changed(make, x):
    value = make(x)
    move(value, META)
    assert value[0] is x
    assert len(value) == 1


def test_a_dataclass_that_was_given_is_not_changed(x):
    for value in (Sample(x), FrozenSample(x)):
        move(value, META)
        assert value.x is x


def test_a_packed_sequence_moves_itself():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    moved = move((packed, "a"), META)[0]
    assert type(moved) is PackedSequence
    assert on_meta(moved.data)
    assert moved.batch_sizes.tolist() == [2, 2, 1]  # which torch keeps on the CPU


class Graph:
    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Graph(self.x.to(device))


class InPlace(Graph):
    def to(self, device):
        self.x = self.x.to(device)


class Encoding(UserDict):
    """Like a tokenizer's batch: a dict with a `to` that changes it and returns it."""

    def to(self, device):
        self.data = {name: value.to(device) for name, value in self.data.items()}
        self.asked = device
        return self


def test_an_object_that_can_move_is_asked_to(x):
    moved = move({"graph": Graph(x)}, META)["graph"]
    assert type(moved) is Graph
    assert on_meta(moved.x)


def test_an_object_that_moves_in_place_is_kept(x):
    graph = InPlace(x)
    assert move(graph, META) is graph
    assert on_meta(graph.x)


def test_a_tokenizers_batch_is_asked_to_move_itself(x):
    moved = move((Encoding(ids=x), x), META)[0]
    assert type(moved) is Encoding
    assert on_meta(moved["ids"])
    assert moved.asked == META


def test_an_error_of_an_objects_own_move_comes_out():
    class Stuck:
        def to(self, device):
            raise KeyError("stuck")

    with pytest.raises(KeyError, match="stuck"):
        move([Stuck()], META)


# Finding tensors


def test_tensors_are_found_depth_first():
    a, b, c, d = (torch.full((1,), float(i)) for i in range(4))
    nesting = ("a", {"x": [1, a], "y": Pair(b, None)}, FrozenSample(c, inner=UserDict(z=d)))
    assert [tensor.item() for tensor in tensors_in(nesting)] == [0, 1, 2, 3]


def test_a_subclass_of_tensor_is_a_tensor():
    parameter = nn.Parameter(torch.ones(1))
    assert list(tensors_in([parameter])) == [parameter]


def test_a_packed_sequence_holds_tensors():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    assert next(iter(tensors_in(packed))) is packed.data


@pytest.mark.parametrize("value", [None, 3, "text", b"", [], {}, (), np.ones(2), deque(), Sample, nn.Linear(1, 1)])
def test_what_holds_no_tensor_gives_none(value):
    assert list(tensors_in(value)) == []


def test_a_field_that_is_not_set_holds_nothing(x):
    assert list(tensors_in(Cached(x))) == [x]
