"""load_weights: all of a file or what fits of it, and never anything but data."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ignition import Trainer, load_weights
from ignition.callbacks import SaveModel
from ignition.errors import ArgumentError, CheckpointError


def net(classes=3):
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


def equal(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def write(model, path):
    if path.suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_file_that_fits_is_loaded_whole(tmp_path, ending):
    source, target = net(), net()
    report = load_weights(target, write(source, tmp_path / f"a{ending}"))
    assert equal(source, target)
    assert report.loaded == list(source.state_dict())
    assert str(report) == "9 loaded"


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_fits_is_loaded_for_fine_tuning_and_the_rest_is_named(tmp_path, ending):
    source, target = net(classes=3), nn.Sequential(*net(classes=5), nn.Linear(5, 5))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    report = load_weights(target, write(nn.Sequential(*source, nn.Identity()), tmp_path / f"a{ending}"), strict=False)
    assert report.missing == ["3.weight", "3.bias"]
    assert [name.split()[0] for name in report.misshapen] == ["2.weight", "2.bias"]
    assert report.unexpected == []
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name] if name in report.loaded else before[name]), name
    assert "of another shape: 2.weight (3, 8) in the file and (5, 8) in the model" in str(report)


def test_a_file_that_does_not_fit_changes_nothing_and_is_an_error_that_lists_the_names(tmp_path):
    target = net(classes=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"(?s)2\.weight \(3, 8\).*expected: .*to do: .*strict=False"):
        load_weights(target, write(net(classes=3), tmp_path / "a.pt"))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_save_model_wrote_of_several_models_is_loaded(tmp_path, ending):
    models = {"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)}
    trainer = Trainer(models, None, lambda models, x: None, [torch.zeros(1)], progress=False)
    trainer.callbacks = [SaveModel(tmp_path / f"gan{ending}")]
    trainer.fit(epochs=1)
    others = {"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)}
    load_weights(others, tmp_path / f"gan{ending}")
    assert all(equal(models[name], others[name]) for name in models)


def test_a_lazy_model_is_to_see_a_batch_first_and_stays_as_it_is(tmp_path):
    file = write(nn.Linear(4, 3), tmp_path / "a.pt")
    model = nn.LazyLinear(3)
    with pytest.raises(ArgumentError, match=r"(?s)'weight' has no shape yet.*to do: call it once before"):
        load_weights(model, file)
    model(torch.zeros(2, 4))
    assert str(load_weights(model, file)) == "2 loaded"


def test_the_folder_of_a_checkpoint_is_loaded(tmp_path):
    source, target = net(), net()
    trainer = Trainer(source, None, lambda model, x: None, [torch.zeros(1)], progress=False)
    trainer.save(tmp_path / "checkpoint")
    load_weights(target, tmp_path / "checkpoint")
    assert equal(source, target)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    torch.save(Malicious(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"(?s)a\.pt cannot be read.*to do: "):
        load_weights(net(), tmp_path / "a.pt")
    assert os.listdir() == []


@pytest.mark.parametrize(("name", "content"), [("a.pt", b"no"), ("a.safetensors", b"no"), ("b.pt", b"")])
def test_a_file_that_is_something_else_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_weights(net(), tmp_path / name)


def test_other_endings_and_other_things_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        load_weights(net(), tmp_path / "none.pt")
    with pytest.raises(ArgumentError, match=r"a\.bin"):
        load_weights(net(), tmp_path / "a.bin")
    with pytest.raises(ArgumentError, match="model is"):
        load_weights("net", tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="it holds a list"):
        load_weights(net(), tmp_path / "list.pt")
