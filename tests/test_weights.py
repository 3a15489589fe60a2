"""Weights copied, put back and written, read back with plain torch and safetensors."""

from __future__ import annotations

import copy
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ignition.errors import ArgumentError
from ignition.weights import check_fit, check_weights, copy_weights, restore_weights, write_weights

ENDINGS = [".pt", ".safetensors"]


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def trained() -> nn.Sequential:
    model = convolutional()
    model(torch.randn(6, 1, 5, 5))  # makes the lazy layer, and moves the running means
    return model


class Tied(nn.Module):
    """A language model's way: the output layer has the weights of the embedding; one weight lies transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.output = nn.Linear(3, 7, bias=False)
        self.output.weight = self.embedding.weight
        self.transposed = nn.Parameter(torch.randn(4, 5).t())
        self.part = nn.Parameter(torch.randn(100)[:5])
        self.register_buffer("bfloat", torch.randn(2).bfloat16())
        self.register_buffer("scalar", torch.tensor(5))
        self.register_buffer("empty", torch.empty(0, 2))
        self.register_buffer("hidden", torch.ones(1), persistent=False)


def load(path: Path) -> Any:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    return safetensors.torch.load_file(path)


def assert_same(state: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert list(state) == list(reference) or set(state) == set(reference)
    for name, value in reference.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


# Copies


def test_copied_weights_are_those_of_the_model_and_do_not_follow_it() -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())

    weights = copy_weights(model)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(1)

    assert_same(weights[""], before)
    assert all(not tensor.requires_grad and tensor.device.type == "cpu" for tensor in weights[""].values())


def test_restored_weights_are_the_copied_ones_with_buffers() -> None:
    models = {"G": trained(), "D": Tied()}
    before = copy.deepcopy({name: model.state_dict() for name, model in models.items()})
    weights = copy_weights(models)
    for model in models.values():
        for tensor in model.state_dict().values():
            tensor.add_(1)

    restore_weights(models, weights)

    for name, model in models.items():
        assert_same(model.state_dict(), before[name])
    assert models["D"].output.weight is models["D"].embedding.weight


def test_tied_weights_are_one_copy_and_equal_ones_are_two() -> None:
    model = Tied()
    other = copy.deepcopy(model)
    state = copy_weights([model, other, model])

    assert state["0"]["output.weight"] is state["0"]["embedding.weight"]
    assert state["2"]["output.weight"] is state["0"]["output.weight"]
    assert state["1"]["output.weight"] is not state["0"]["output.weight"]


def test_the_names_in_a_compiled_model_are_those_of_the_plain_one() -> None:
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    weights = copy_weights(compiled)

    assert list(weights[""]) == ["weight", "bias"]
    with torch.no_grad():
        model.weight.zero_()
    restore_weights(compiled, weights)
    assert torch.equal(model.weight, weights[""]["weight"])


def test_extra_state_is_copied_too() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.seen = [1]

        def get_extra_state(self) -> Any:
            return {"seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    model = Counting()
    weights = copy_weights(model)
    model.seen.append(2)
    restore_weights(model, weights)

    assert model.seen == [1]


@pytest.mark.parametrize("model", [nn.LazyLinear(3), nn.Linear(2, 2, device="meta")], ids=["lazy", "meta"])
def test_weights_without_values_are_refused(model: nn.Module) -> None:
    with pytest.raises(ArgumentError, match="'weight' has no values yet"):
        copy_weights({"": model})


def test_weights_of_other_models_are_not_restored() -> None:
    weights = copy_weights({"G": nn.Linear(2, 2)})

    with pytest.raises(ArgumentError, match=r"models 'G'(.|\n)*'G', 'D'"):
        restore_weights({"G": nn.Linear(2, 2), "D": nn.Linear(2, 2)}, weights)
    with pytest.raises(RuntimeError, match="size mismatch"):
        restore_weights({"G": nn.Linear(2, 3)}, weights)


# Files


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make", [trained, Tied])
def test_a_file_loads_strictly_into_a_plain_model(ending: str, make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    path = tmp_path / "deep" / "folder" / f"model{ending}"
    write_weights(model, path)
    state = load(path)
    assert_same(state, model.state_dict())

    torch.manual_seed(99)
    plain = make()
    plain.load_state_dict(state, strict=True)
    assert_same(plain.state_dict(), model.state_dict())
    assert os.listdir(path.parent) == [path.name]


def test_a_pt_file_keeps_the_versions_of_modules() -> None:
    model = trained()

    assert copy_weights(model)[""]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]


def test_a_view_of_a_large_tensor_does_not_bring_all_of_it_to_the_file(tmp_path: Path) -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1_000_000)[:5])

    write_weights(Part(), tmp_path / "model.pt")

    assert (tmp_path / "model.pt").stat().st_size < 10_000


@pytest.mark.parametrize("structure", ["dict", "list", "tuple", "list of one"])
def test_several_models_are_named_in_one_file(structure: str, tmp_path: Path) -> None:
    first, second = nn.Linear(2, 3), Tied()
    models: Any = {
        "dict": {"G": first, "D": second},
        "list": [first, second],
        "tuple": (first, second),
        "list of one": [first],
    }[structure]
    names = {"dict": ["G", "D"], "list of one": ["0"]}.get(structure, ["0", "1"])

    write_weights(models, tmp_path / "models.pt")
    write_weights(models, tmp_path / "models.safetensors")
    from_torch = load(tmp_path / "models.pt")
    flat = load(tmp_path / "models.safetensors")

    assert list(from_torch) == names
    for name, model in zip(names, [first, second], strict=False):
        assert_same(from_torch[name], model.state_dict())
        own = {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}
        assert_same(own, model.state_dict())
    with safetensors.safe_open(tmp_path / "models.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "models": str(names).replace("'", '"')}


def test_the_metadata_of_an_only_model_says_no_more_than_the_format(tmp_path: Path) -> None:
    write_weights(nn.Linear(2, 2), tmp_path / "model.safetensors")

    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_has_the_permissions_of_a_file_that_open_makes(ending: str, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_weights(nn.Linear(2, 2), tmp_path / f"model{ending}")

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", f"model{ending}")]
    assert modes[0] == modes[1]


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "best.pt").symlink_to(tmp_path / "disk" / "best.pt")
    write_weights(nn.Linear(2, 2), tmp_path / "best.pt")

    assert (tmp_path / "best.pt").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["best.pt"]


# What goes wrong


@contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """No file can be written beyond `size` bytes: what a full disk does to a large file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("room", [0, 1000, 70_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(ending: str, room: int, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    old, new = nn.Linear(2, 2), nn.Linear(200, 200)
    write_weights(old, path)

    with pytest.raises(OSError, match="File too large") as caught, disk_full_beyond(room):
        write_weights(new, path)

    assert f"{path} could not be written" in caught.value.__notes__[0]
    assert_same(load(path), old.state_dict())
    assert os.listdir(tmp_path) == [path.name]
    write_weights(new, path)
    assert_same(load(path), new.state_dict())


def test_a_folder_of_that_name_is_an_error_that_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()

    with pytest.raises(OSError, match="directory"):
        write_weights(nn.Linear(2, 2), tmp_path / "model.pt")
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("ending", ["", ".pth", ".bin", ".PT", "pt"])
def test_another_ending_is_refused(ending: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"one of \.pt, \.safetensors"):
        write_weights(nn.Linear(2, 2), tmp_path / f"model{ending}")
    assert os.listdir(tmp_path) == []


class Holding(nn.Module):
    """A module with one buffer, or with extra state."""

    def __init__(self, buffer: Tensor | None = None, extra: Any = None) -> None:
        super().__init__()
        self.register_buffer("held", buffer)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra


class Unknown:
    """A class that torch.load has not heard of."""


def test_extra_state_of_plain_values_goes_to_pt_and_not_to_safetensors(tmp_path: Path) -> None:
    model = Holding(extra={"seen": [1, 2.5, "a", None]})
    write_weights(model, tmp_path / "model.pt")

    assert load(tmp_path / "model.pt") == {"_extra_state": {"seen": [1, 2.5, "a", None]}}
    with pytest.raises(ArgumentError, match=r"'G\._extra_state'(.|\n)*is a dict(.|\n)*write to a \.pt"):
        check_weights({"G": model}, ".safetensors")


@pytest.mark.parametrize("extra", [Unknown(), {"in": [Unknown()]}, lambda: None], ids=["object", "inside", "lambda"])
def test_extra_state_that_torch_would_not_load_is_refused(extra: Any) -> None:
    with pytest.raises(ArgumentError, match=r"'_extra_state'(.|\n)*weights_only=True"):
        check_weights(Holding(extra=extra), ".pt")


@pytest.mark.parametrize(
    "buffer", [torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()], ids=["complex128", "sparse"]
)
def test_tensors_that_safetensors_has_not_are_refused_there_and_kept_in_pt(buffer: Tensor, tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("held", buffer)

    with pytest.raises(ArgumentError, match=r"'held'(.|\n)*safetensors cannot hold(.|\n)*write to a \.pt"):
        check_weights(Model(), ".safetensors")
    write_weights(Model(), tmp_path / "model.pt")
    assert torch.equal(load(tmp_path / "model.pt")["held"].to_dense(), buffer.to_dense())


@pytest.mark.parametrize("name", ["", "G.x"])
def test_a_name_that_would_not_be_clear_in_safetensors_is_refused(name: str) -> None:
    models = {name: nn.Linear(2, 2), "D": nn.Linear(2, 2)}

    with pytest.raises(ArgumentError, match="no dot"):
        check_weights(models, ".safetensors")
    check_weights(models, ".pt")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lazy_model_passes_the_check_before_training(ending: str) -> None:
    check_weights(convolutional(), ending)


@pytest.mark.gpu
@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_on_an_accelerator_are_written_as_cpu_tensors(ending: str, tmp_path: Path) -> None:
    model = Tied().to(torch.accelerator.current_accelerator())
    write_weights(model, tmp_path / f"model{ending}")

    state = load(tmp_path / f"model{ending}")
    assert {value.device.type for value in state.values()} == {"cpu"}
    assert_same(state, {name: value.cpu() for name, value in model.state_dict().items()})


# Whether weights fit


class Named(nn.Linear):
    """A layer whose extra state is a name that it must have."""

    def get_extra_state(self):
        return "it"

    def set_extra_state(self, state):
        if state != "it":
            raise LookupError(state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights[""].pop("bias"), "has not the names of one model"),
        (lambda weights: weights[""].update(more=torch.zeros(1)), "has not the names of one model"),
        (lambda weights: weights[""].update(bias=torch.zeros(3)), r"has bias of \(\(3,\), torch.float32\)"),
        (lambda weights: weights[""].update(bias=torch.zeros(2).double()), "torch.float64"),
        (lambda weights: weights[""].update(bias=None), "has bias of NoneType"),
        (lambda weights: weights.update(b=weights.pop("")), "is that of the model b, and here is one model"),
        (lambda weights: weights.update({"": None}), "has not the names"),
        (lambda weights: weights[""].update(_extra_state="another"), "cannot be put into one model"),
    ],
)
def test_weights_that_cannot_be_put_back_are_told_before_it(change, words):
    model = Named(3, 2)
    before = copy.deepcopy(model.state_dict())
    weights = {name: dict(state) for name, state in copy_weights(model).items()}
    check_fit(model, weights, "what was kept")
    change(weights)
    with pytest.raises(ArgumentError, match=f"what was kept.*({words})"):
        check_fit(model, weights, "what was kept")
    assert torch.equal(model.weight, before["weight"])
