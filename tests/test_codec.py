"""Nested state comes back from JSON and tensors as it was, and what is crafted is refused."""

import collections
import copy
import enum
import json
import math
import random

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from torch import nn

from ignition.codec import decode, encode, give_back
from ignition.errors import CheckpointError, IgnitionWarning


def there_and_back(value, present=None, objects=None):
    """Through JSON, as a file would hold it."""
    tensors = {}
    text = json.dumps(encode(value, tensors, "it"), allow_nan=False)
    return decode(json.loads(text), {name: one.clone() for name, one in tensors.items()}, present, objects)


def same(first, second):
    """Whether two values are the same in kind and content; NaN is the same as NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and first.requires_grad == second.requires_grad
            and as_bytes(first) == as_bytes(second)
        )
    if isinstance(first, (np.ndarray, np.generic)):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    if isinstance(first, dict):
        return len(first) == len(second) and all(
            same(*keys) and same(first[keys[0]], second[keys[1]]) for keys in zip(first, second, strict=True)
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, (float, complex)):
        return repr(first) == repr(second)
    return first == second


def as_bytes(tensor):
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.complex64, torch.complex128, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16,
    torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip
SHAPES = [(), (0,), (3,), (2, 0, 3), (2, 3)]


@st.composite
def tensors(draw):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 2**31))
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if values.ndim == 2 and draw(st.booleans()):
        values = values.t()
    return values.requires_grad_(draw(st.booleans())) if dtype.is_floating_point or dtype.is_complex else values


plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
)  # fmt: skip
numpy_kinds = (
    numpy_strategies.integer_dtypes() | numpy_strategies.floating_dtypes() | numpy_strategies.complex_number_dtypes()
    | numpy_strategies.boolean_dtypes()
)  # fmt: skip
arrays = numpy_kinds.flatmap(lambda kind: numpy_strategies.arrays(kind, st.sampled_from(SHAPES)))
hashable = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
others = st.sampled_from([torch.bfloat16, torch.float32, torch.device("cpu"), torch.device("cuda", 1)])
sets = st.sets(st.integers()) | st.frozensets(st.integers()) | st.sets(st.frozensets(st.integers(), max_size=2))
leaves = plain | others | sets | arrays | tensors()
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(nested)
def test_any_nesting_comes_back_as_it_was(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64, np.longdouble, np.complex128, np.bool_])
def test_numbers_of_numpy_keep_their_type(dtype):
    value = there_and_back(dtype(1))
    assert type(value) is dtype
    assert value == 1


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 2**70, -1, "$", "\ud800", "\0", b"\xff"]
)
def test_what_json_holds_badly_comes_back(value):
    assert same(there_and_back(value), value)
    assert same(there_and_back({"a": [value]}), {"a": [value]})


@pytest.mark.parametrize(
    "value", [{"$": 1}, {"$": ["tensor", ["a", False]]}, {"$": {"$": []}}, {"a": {"$": None, "b": 2}}]
)
def test_a_key_that_marks_a_kind_is_only_a_key(value):
    assert same(there_and_back(value), value)


def test_keys_that_look_alike_stay_apart():
    value = {1: torch.ones(1), "1": torch.zeros(1), "a.b": torch.tensor(2.0), "a": {"b": torch.tensor(3.0)}}
    assert same(there_and_back(value), value)
    value = {"a.b": torch.tensor(2.0), "a": {"b": torch.tensor(3.0)}, ("a", "b"): torch.tensor(4.0), None: {}}
    assert same(there_and_back(value), value)


def test_one_tensor_in_two_places_stays_one():
    tensor = torch.zeros(2)
    there = {}
    encode([tensor, {"again": tensor}], there, "it")
    assert len(there) == 1
    first, second = there_and_back([tensor, {"again": tensor}])
    assert second["again"] is first
    assert first is not tensor


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    ],
)
def test_a_dense_tensor_lies_in_memory_as_before(tensor):
    back = there_and_back(tensor)
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_a_part_of_a_tensor_comes_back_on_its_own():
    whole = torch.arange(100.0).reshape(10, 10)
    for part in (whole[::2, 3], whole[:, ::3], torch.ones(1).expand(4, 5)):
        back = there_and_back(part)
        assert torch.equal(back, part)
        assert back.untyped_storage().nbytes() == part.numel() * 4


def test_each_decoding_has_tensors_of_its_own():
    held = {}
    code = encode({"a": torch.zeros(2)}, held, "it")
    held = {name: one.clone() for name, one in held.items()}
    decode(code, held)["a"].add_(1)
    assert decode(code, held)["a"].tolist() == [0, 0]


def test_the_state_of_lbfgs_comes_back():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), history_size=3, line_search_fn="strong_wolfe")
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    fresh = torch.optim.LBFGS(nn.Linear(3, 1).parameters()).state_dict()
    assert same(there_and_back(fresh), fresh)
    for _ in range(3):
        optimizer.step(closure)
    state = optimizer.state_dict()
    assert isinstance(state["state"][0]["old_dirs"], list)
    assert same(there_and_back(state), state)


@pytest.mark.parametrize("kind", ["Adam", "Adagrad", "Rprop", "ASGD", "NAdam", "Adafactor", "RMSprop", "SGD"])
def test_the_state_of_an_optimizer_comes_back(kind):
    model = nn.Linear(3, 2)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert same(there_and_back(state), state)


class Colour(enum.IntEnum):
    RED = 3


def test_classes_of_their_own_come_back_as_what_they_are_made_of():
    Point = collections.namedtuple("Point", "x y")
    value = [Colour.RED, Point(1, 2), collections.OrderedDict(a=1), np.str_("a"), nn.Parameter(torch.ones(1))]
    back = there_and_back(value)
    assert back[:4] == [3, (1, 2), {"a": 1}, "a"]
    assert back[4].requires_grad


@pytest.mark.parametrize(
    "value",
    [
        collections.deque([1, (2,)]),
        collections.deque([torch.ones(2)], maxlen=3),
        collections.Counter("hello"),
        collections.Counter({1: 2, (1, 2): 3}),
        collections.OrderedDict([("b", 1), (3, [2.0])]),
        collections.defaultdict(int, {"a": 1, 2: 3}),
        collections.defaultdict(list, a=[torch.ones(1)]),
        collections.defaultdict(None),
        torch.Size([2, 3]),
        (1, [2], {3}, frozenset({4}), {"a": ()}),
    ],
    ids=repr,
)
def test_containers_of_collections_come_back_as_what_they_are(value):
    tensors = {}
    back = decode(json.loads(json.dumps(encode([value], tensors, "it", exact=True))), tensors)[0]
    assert type(back) is type(value)
    assert repr(back) == repr(value)  # with maxlen, the factory, and the order


Point = collections.namedtuple("Point", "x y")


class OwnList(list):
    pass


class Maps(collections.UserDict):
    pass


@pytest.mark.parametrize("value", [Point(1, 2), OwnList([1]), Maps(a=1)])
def test_a_container_of_another_class_is_refused_where_it_has_to_come_back_exactly(value):
    with pytest.raises(CheckpointError, match=rf"(?s)it\.a is a {type(value).__name__}, .*plain.*to do: put dict"):
        encode({"a": value}, {}, "it", exact=True)


class OwnText(str):
    pass


class OwnNumber(float):
    pass


class OwnTensor(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "int"),
        (OwnText("a"), "str"),
        (OwnNumber(1), "float"),
        (torch.ones(1).as_subclass(OwnTensor), "Tensor"),
        ({OwnText("a"): 1}, "str"),
        ([OwnText("a")], "str"),
    ],
)
def test_a_value_of_another_class_is_refused_where_it_has_to_come_back_exactly(value, plain):
    with pytest.raises(CheckpointError, match=rf"(?s)it\.a.* would come back as a plain {plain}.*to do: put its value"):
        encode({"a": value}, {}, "it", exact=True)


def test_a_file_that_numpy_maps_is_refused_where_it_has_to_come_back_exactly(tmp_path):
    mapped = np.memmap(tmp_path / "a", dtype="int8", mode="w+", shape=3)
    assert there_and_back(mapped).tolist() == [0, 0, 0]
    with pytest.raises(CheckpointError, match="it is a memmap"):
        encode(mapped, {}, "it", exact=True)


@pytest.mark.parametrize("present", [True, False])
def test_a_parameter_comes_back_as_one(present):
    tensors, objects, frozen = {}, [], nn.Parameter(torch.ones(2), requires_grad=False)
    value = {"a": nn.Parameter(torch.ones(2)), "b": frozen, "again": frozen}
    encoded = json.loads(json.dumps(encode(value, tensors, "it", exact=True)))
    here = {"a": nn.Parameter(torch.zeros(2)), "b": torch.zeros(2)} if present else None
    back = decode(encoded, tensors, here, objects)
    give_back(objects)
    assert [type(back[name]) for name in value] == [nn.Parameter] * 3
    assert [back[name].requires_grad for name in value] == [True, False, False]
    assert back["b"] is back["again"]
    assert [back[name].tolist() for name in value] == [[1, 1]] * 3
    if present:
        assert back["a"] is here["a"]


def drawn(generators):
    return [
        generators["torch"].initial_seed(), torch.rand(2, generator=generators["torch"]).tolist(),
        generators["numpy"].random(2).tolist(), generators["legacy"].rand(2).tolist(), generators["python"].random(),
    ]  # fmt: skip


def generators_of_each_kind(seed):
    return {
        "torch": torch.Generator().manual_seed(seed),
        "numpy": np.random.default_rng(seed),
        "legacy": np.random.RandomState(seed),
        "python": random.Random(seed),
    }


@pytest.mark.parametrize("present", [True, False])
def test_random_generators_go_on_where_they_were(present):
    value, tensors, objects = generators_of_each_kind(3), {}, []
    drawn(value)
    encoded = json.loads(json.dumps(encode(value, tensors, "it", exact=True)))
    expected = drawn(value)
    here = generators_of_each_kind(5) if present else None
    untouched = [] if here is None else drawn(generators_of_each_kind(5))
    back = decode(encoded, tensors, here, objects)
    if here is not None:
        assert drawn(generators_of_each_kind(5)) == untouched
        assert all(back[name] is here[name] for name in here)
    give_back(objects)
    assert drawn(back) == expected


def test_a_generator_that_has_no_state_is_refused():
    with pytest.raises(CheckpointError, match=r"it is a SystemRandom, which a checkpoint cannot hold"):
        encode(random.SystemRandom(), {}, "it")


@pytest.mark.parametrize("factory", [lambda: 0, Point, torch.zeros])
def test_a_factory_that_no_checkpoint_can_name_is_refused(factory):
    with pytest.raises(CheckpointError, match=r"(?s)it is a defaultdict of .*one of None, int"):
        encode(collections.defaultdict(factory), {}, "it")


def test_what_an_object_makes_of_its_state_is_its_own_affair():
    class Keeping:
        def state_dict(self):
            return {"point": Point(1, 2)}

        def load_state_dict(self, state):
            self.point = state["point"]

    there, objects = Keeping(), []
    encoded = encode({"it": Keeping(), "list": [1]}, {}, "it", exact=True)
    decode(encoded, {}, {"it": there}, objects)
    give_back(objects)
    assert there.point == (1, 2)


class Counter:
    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count, "memory": torch.full((2,), float(self.count))}

    def load_state_dict(self, state):
        self.count = int(state["memory"][0])


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one], lambda one: {"a": ({3: one}, 1)}])
def test_an_object_takes_its_state_back_and_stays(wrap):
    there, objects = Counter(), []
    back = there_and_back(wrap(Counter(7)), wrap(there), objects)
    assert there.count == 0  # nothing is changed until it is asked for
    give_back(objects)
    assert there.count == 7
    assert repr(back) == repr(wrap(there))


def test_an_object_that_is_not_there_is_asked_for():
    for present in (None, 3, Counter, {"a": 1}):
        with pytest.raises(CheckpointError, match="put it there before fit"):
            there_and_back(Counter(), present, [])
    with pytest.raises(CheckpointError, match="put it there before fit"):
        there_and_back([Counter()], [Counter(), Counter()], [])


def test_a_parameter_takes_its_values_back_and_stays():
    here, objects = nn.Parameter(torch.zeros(2)), []
    back = there_and_back({"a": nn.Parameter(torch.ones(2))}, {"a": here}, objects)
    assert back["a"] is here
    give_back(objects)
    assert here.tolist() == [1, 1]
    assert here.requires_grad


def metrics():
    return [
        torchmetrics.MeanMetric(),
        torchmetrics.classification.MulticlassAccuracy(3),
        torchmetrics.classification.BinaryAUROC(),  # keeps lists of tensors
        torchmetrics.MetricCollection(
            [torchmetrics.classification.MulticlassAccuracy(3), torchmetrics.classification.MulticlassPrecision(3)]
        ),
    ]


def batch(metric, index):
    generator = torch.Generator().manual_seed(index)
    if isinstance(metric, torchmetrics.MeanMetric):
        return (torch.rand(4, generator=generator),)
    if isinstance(metric, torchmetrics.classification.BinaryAUROC):
        return torch.rand(6, generator=generator), torch.randint(2, (6,), generator=generator)
    return torch.rand(6, 3, generator=generator), torch.randint(3, (6,), generator=generator)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("used_before", [False, True])
def test_a_metric_goes_on_with_what_it_has_gathered(place, used_before):
    whole, part, fresh = (metrics()[place] for _ in range(3))
    for index in range(4):
        whole.forward(*batch(whole, index))
    for index in range(2):
        part.forward(*batch(part, index))
    if used_before:
        fresh.update(*batch(fresh, 9))
        fresh.compute()
    objects = []
    there_and_back(part, fresh, objects)
    give_back(objects)
    for index in range(2, 4):
        fresh.forward(*batch(fresh, index))
    expected, found = whole.compute(), fresh.compute()
    assert repr(found) == repr(expected)
    assert {name: int(one) for name, one in part.state_dict().items()} == {}  # what was saved is as it was


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        nn.Linear,  # the class
        (number for number in ()),
        np.array([object()]),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype="i4,f8"),
        np.datetime64("2020-01-01"),
        np.ma.masked_array([1, 2], [True, False]),
    ],
)
def test_what_cannot_be_held_is_named(value):
    with pytest.raises(CheckpointError, match=r"(?s)it\.a\.0 is an? .*expected: numbers, strings.*to do: ") as caught:
        encode({"a": [value]}, {}, "it")
    assert type(value).__name__ in str(caught.value)


def test_what_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    mapping = {}
    mapping[1] = (mapping,)
    deep = 1
    for _ in range(3000):
        deep = [deep]
    for value in (loop, mapping, deep):
        with pytest.raises(CheckpointError, match="nested deeper"):
            encode(value, {}, "it")


def test_what_is_just_not_too_deep_comes_back():
    deep = 1
    for index in range(99):
        deep = [deep] if index % 3 else ({index: deep},)[0]
    assert same(there_and_back(deep), deep)


@pytest.mark.parametrize(
    "crafted",
    [
        {"$": None},
        {"$": []},
        {"$": 3},
        {"$": ["tensor"]},
        {"$": ["tensor", ["missing", False, "cpu", None]]},
        {"$": ["tensor", [["a"], False, "cpu", None]]},
        {"$": ["tensor", ["a", "yes", "cpu", None]]},
        {"$": ["tensor", ["a", False, "cpu", [0, 0, 7]]]},
        {"$": ["no such kind", 1]},
        {"$": [["list"], 1]},
        {"$": ["eval", "print(1)"]},
        {"$": ["__class__", 1]},
        {"$": ["float", "1e5"]},
        {"$": ["number", ["|O8", "AAAAAAAAAAA="]]},
        {"$": ["number", ["<f8", ""]]},
        {"$": ["array", ["|O", [1], "AAAAAAAAAAA="]]},
        {"$": ["array", ["i4,O", [1], "AAAAAAAAAAAAAAAA"]]},
        {"$": ["array", ["<f8", [2], "AAAAAAAAAAA="]]},
        {"$": ["array", ["<f8", [1], "not base64!"]]},
        {"$": ["bytes", 3]},
        {"$": ["dtype", "torch.load"]},
        {"$": ["device", "nowhere:1"]},
        {"$": ["dict", [[["unhashable"], 1]]]},
        {"$": ["dict", {"a": 1}]},
        {"$": ["set", [[1]]]},
        {"$": ["complex", [1, 2, 3]]},
        {"$": ["tuple", 3]},
        {"$": ["object", {"state": {}}]},
    ],
)
def test_what_is_crafted_is_refused(crafted):
    tensors = {"a": torch.zeros(2)}
    for value in (crafted, {"x": [crafted]}):
        with pytest.raises(CheckpointError, match=r"(?s)nothing that a checkpoint holds.*to do:|put it there"):
            decode(value, tensors, {"x": [Counter()]} if value is not crafted else Counter(), [])


def test_what_is_nested_without_end_is_refused():
    value = 1
    for _ in range(5000):
        value = {"a": [value]}
    with pytest.raises(CheckpointError, match="nothing that a checkpoint holds"):
        decode(value, {})


def test_tensors_of_an_accelerator_go_to_the_one_that_is_there():
    code = {"$": ["tensor", ["a", False, "cuda", None]]}
    held = {"a": torch.zeros(2)}
    assert decode(code, held).device.type == "cpu"
    assert decode(code, held, device=torch.device("meta")).device.type == "meta"
    code["$"][1][2] = "cpu"  # as Adam's count of steps, which stays where it was
    assert decode(code, held, device=torch.device("meta")).device.type == "cpu"


def test_a_generator_in_two_places_stays_one():
    value = {"a": np.random.default_rng(3), "b": [None]}
    value["b"].append(value["a"])
    expected = copy.deepcopy(value["a"])
    back = there_and_back(value)
    assert back["a"] is back["b"][1]
    assert [back["a"].random(), back["b"][1].random()] == expected.random(2).tolist()

    objects, here = [], {"a": np.random.default_rng(5), "b": [None, np.random.default_rng(6)]}
    back = there_and_back(value, here, objects)
    give_back(objects)
    assert back["a"] is here["a"]
    assert back["b"][1] is here["a"]
    assert back["a"].random() == copy.deepcopy(value["a"]).random()


def test_generators_that_are_alike_stay_apart():
    back = there_and_back([np.random.default_rng(3), np.random.default_rng(3)])
    assert back[0] is not back[1]


@pytest.mark.parametrize("exact", [True, False])
def test_a_number_of_a_class_beside_numpys_is_refused_where_it_must_come_back_exactly(exact):
    value = type("Own", (np.float64,), {})(1.5)
    if exact:
        with pytest.raises(CheckpointError, match="it is a Own, which would come back as a plain float"):
            encode(value, {}, "it", exact=True)
    else:
        assert there_and_back(value) == 1.5


def test_a_tensor_that_backward_would_go_through_is_warned_of_where_it_must_come_back_exactly():
    value = {"hidden": torch.ones(2, requires_grad=True) * 2}
    encode(value, {}, "callback")
    with pytest.warns(IgnitionWarning, match=r"trainer\.state holds 'hidden'"):
        encode(value, {}, "state", exact=True)
    encode({"hidden": value["hidden"].detach(), "leaf": torch.ones(2, requires_grad=True)}, {}, "state", exact=True)


ODD = (None, "x", -1, 1e9, [], {}, [[1]], {"$": ["eval", "1"]}, 2**70, {"$": ["float", "nan"]})


def ways(value, way=()):
    """The way to each value in nested lists and dicts; of a long list, to its first and last."""
    if way:
        yield way
    for key in (
        value if isinstance(value, dict) else {0, len(value) - 1} if isinstance(value, list) and len(value) > 8
        else range(len(value)) if isinstance(value, list) else ()
    ):  # fmt: skip
        yield from ways(value[key], (*way, key))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5])
def test_a_generator_takes_no_state_that_it_cannot_draw_from(kind):
    make = [
        lambda: np.random.default_rng(1), lambda: np.random.RandomState(1), lambda: random.Random(1),
        lambda: np.random.Generator(np.random.Philox(1)), lambda: np.random.Generator(np.random.MT19937(1)),
        lambda: np.random.Generator(np.random.SFC64(1)),
    ][kind]  # fmt: skip
    encoded = json.loads(json.dumps(encode([make()], {}, "state", exact=True)))
    refused = 0
    for way in ways(encoded):
        for value in ODD:
            changed = copy.deepcopy(encoded)
            inner = changed
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = copy.deepcopy(value)
            objects = []
            try:
                found = decode(changed, {}, [make()], objects)
            except CheckpointError:
                refused += 1
                continue
            give_back(objects)
            for one in found:
                if isinstance(one, random.Random):
                    one.gauss(0, 1)
                elif isinstance(one, (np.random.Generator, np.random.RandomState)):
                    one.normal(size=5)  # which numpy may read from outside its memory
    assert refused > 50


@pytest.mark.parametrize(("array", "kind"), [(np.array(["text"]), "<U4"), (np.array([None]), "object")])
def test_an_array_of_what_is_no_number_is_refused_with_its_kind_and_the_way(array, kind):
    with pytest.raises(CheckpointError) as caught:
        encode({"names": array}, {}, "trainer.state", exact=True)
    given, expected, fix = caught.value.args
    assert given == f"trainer.state.names is a ndarray of {kind}, which a checkpoint cannot hold"
    assert "arrays of numbers" in expected
    assert fix == "put it.tolist() there, or keep it elsewhere"
