"""Figures and tables for a report: what is drawn is read from the axes, and compared with scikit-learn's numbers."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from sklearn.metrics import accuracy_score, confusion_matrix
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ignition import History, TensorLoader, report
from ignition.errors import ArgumentError, IgnitionError, MetricError


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture
def outputs():
    return torch.randn(60, 4) * 3


@pytest.fixture
def targets():
    return torch.randint(4, (60,))


def rows(axes):
    return axes.images[0].get_array().tolist()


def texts(axes):
    """The text of each cell by row and column."""
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}


def png(axes):
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", dpi=30)
    return file.getvalue()


def test_the_confusion_matrix_is_scikit_learns(outputs, targets):
    axes = report.plot_confusion(outputs, targets)
    predicted = outputs.argmax(1)
    expected = confusion_matrix(targets, predicted).tolist()
    assert rows(axes) == expected
    assert texts(axes) == {(r, c): str(n) for r, row in enumerate(expected) for c, n in enumerate(row) if n}
    assert axes.get_title() == f"{accuracy_score(targets, predicted):.1%} of 60 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "target")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]


def test_normalized_its_rows_are_shares(outputs, targets):
    axes = report.plot_confusion(outputs.numpy(), targets.tolist(), labels=list("abcd"), normalize=True)
    expected = confusion_matrix(targets, outputs.argmax(1), normalize="true")
    np.testing.assert_allclose(rows(axes), expected)
    assert texts(axes)[1, 2] == f"{expected[1, 2]:.2f}"
    assert [label.get_text() for label in axes.get_xticklabels()] == list("abcd")


def test_a_class_that_does_not_occur_has_its_row():
    axes = report.plot_confusion(torch.eye(5)[:3], torch.tensor([0, 1, 2]))
    assert rows(axes) == np.diag([1, 1, 1, 0, 0]).tolist()
    axes = report.plot_confusion(torch.tensor([0, 1]), torch.tensor([1, 1]), labels=["a", "b", "c"])
    assert rows(axes) == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_two_classes_may_come_as_one_logit(shape):
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0, 1.0, -0.1])
    targets = torch.tensor([1, 1, 0, 0, 1, 0])
    assert rows(report.plot_confusion(logits.reshape(shape), targets)) == confusion_matrix(targets, logits > 0).tolist()


def test_each_pixel_of_a_segmentation_counts():
    outputs, targets = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    expected = confusion_matrix(targets.flatten(), outputs.argmax(1).flatten())
    assert rows(report.plot_confusion(outputs, targets)) == expected.tolist()


def test_many_classes_have_colours_and_no_numbers():
    axes = report.plot_confusion(torch.eye(50), torch.arange(50))
    assert not len(axes.texts)
    assert len(axes.get_xticks()) < 30
    png(axes)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_cells_are_legible_whatever_the_style(style):
    with pyplot.style.context(style):
        axes = report.plot_confusion(torch.eye(2)[torch.tensor([0, 0, 0, 0, 1])], torch.tensor([0, 0, 0, 1, 1]))
    colours = {axes_text.get_text(): axes_text.get_color() for axes_text in axes.texts}
    assert colours == {"3": "black", "1": "white"}  # cividis: 3 of 3 is yellow, 1 of 3 blue


def test_it_is_drawn_where_it_is_asked_to_be(outputs, targets):
    _, given = pyplot.subplots()
    assert report.plot_confusion(outputs, targets, ax=given) is given
    _, given = pyplot.subplots()
    assert report.plot_label_counts(targets, ax=given) is given


@pytest.mark.parametrize(
    ("outputs", "targets", "match"),
    [
        (torch.randn(3, 2), torch.zeros(4, dtype=torch.long), "shape"),
        (torch.randn(3, 2, 2), torch.zeros(3, dtype=torch.long), "shape"),
        (torch.randn(3, 2), torch.zeros(3), "float32"),
        (torch.randn(3, 2), torch.tensor([0, -1, 1]), "below 0"),
        ("abc", torch.zeros(3, dtype=torch.long), "outputs is a str"),
        (torch.randn(3, 2), object(), "targets is an object"),
    ],
)
@pytest.mark.parametrize("function", [report.plot_confusion, report.find_examples])
def test_what_does_not_fit_is_refused(function, outputs, targets, match):
    with pytest.raises(ArgumentError, match=match):
        function(outputs, targets)


def test_an_empty_prediction_has_no_confusion():
    with pytest.raises(ArgumentError, match="no sample"):
        report.plot_confusion(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_labels_for_some_classes_only_are_refused(outputs, targets):
    with pytest.raises(ArgumentError, match="3 labels for 4 classes"):
        report.plot_confusion(outputs, targets, labels=["a", "b", "c"])
    with pytest.raises(ArgumentError, match="1 labels for 4 classes"):
        report.plot_label_counts(targets, labels=["a"])


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch, outputs, targets):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(IgnitionError, match=r'pip install "torch-ignition\[report\]"'):
        report.plot_confusion(outputs, targets)


@pytest.mark.parametrize("which", ["wrong", "right"])
@pytest.mark.parametrize("most", [True, False])
def test_the_examples_are_those_that_numpy_sorts_first(outputs, targets, which, most):
    found = report.find_examples(outputs, targets, which, most=most, count=5)
    exponents = np.exp(outputs.double().numpy())
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    confidence, predicted = shares.max(axis=1), shares.argmax(axis=1)
    of_kind = np.flatnonzero((predicted == targets.numpy()) == (which == "right"))
    order = of_kind[np.argsort(-confidence[of_kind] if most else confidence[of_kind])][:5]
    assert [row.sample for row in found] == order.tolist()
    assert [row.predicted for row in found] == predicted[order].tolist()
    assert [row.target for row in found] == targets[order].tolist()
    np.testing.assert_allclose([row.confidence for row in found], confidence[order], rtol=1e-5)
    assert found.title == f"the {'most' if most else 'least'} confident of {len(of_kind)} {which}"


def test_probabilities_are_taken_as_they_are(outputs, targets):
    found = report.find_examples(outputs.softmax(1), targets)
    assert [row.sample for row in found] == [row.sample for row in report.find_examples(outputs, targets)]
    assert found[0].confidence == pytest.approx(outputs.softmax(1)[found[0].sample].max().item())


def test_one_logit_has_the_confidence_of_a_sigmoid():
    (row,) = report.find_examples(torch.tensor([[-2.0], [3.0]]), torch.tensor([1, 1]))
    assert row == report.Example(0, 1, 0, pytest.approx(torch.sigmoid(torch.tensor(2.0)).item()))


def test_examples_are_a_table():
    found = report.find_examples([[2.0, 0.0], [0.0, 9.0]], [1, 1])
    assert repr(found).splitlines()[1].split() == ["sample", "target", "predicted", "confidence"]
    assert repr(found).splitlines()[2].split() == ["0", "1", "0", "0.8808"]
    assert len(found) == 1
    nothing = report.find_examples([[0.0, 9.0]], [1])
    assert repr(nothing) == "the most confident of 0 wrong: none"
    with pytest.raises(ArgumentError, match="no image"):
        nothing.plot(torch.zeros(1, 2, 2))


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 1, 5, 5), (2, 3, 5, 5)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_examples_are_drawn_with_their_classes(shape, wrapped):
    images = torch.rand(shape)
    found = report.find_examples([[2.0, 0.0], [0.0, 9.0]], [1, 0])
    inputs = TensorDataset(images, torch.tensor([1, 0])) if wrapped else images
    axes = found.plot(inputs, labels=["cat", "dog"], columns=1)
    assert [one.get_title() for one in axes] == ["cat, taken for\ndog (100%)", "dog, taken for\ncat (88%)"]
    assert axes[0].figure.get_suptitle() == "the most confident of 2 wrong"
    expected = images[1].squeeze(0) if shape[1] != 3 else images[1].permute(1, 2, 0)
    np.testing.assert_allclose(axes[0].images[0].get_array(), expected)
    png(axes[0])


def test_right_examples_name_one_class():
    found = report.find_examples([[0.0, 9.0]], [1], "right")
    assert found.plot(torch.rand(1, 4, 4))[0].get_title() == "1\n100% sure"


def test_normalised_images_are_brought_into_range():
    found = report.find_examples([[0.0, 9.0]], [0])
    (axes,) = found.plot(torch.linspace(-2, 2, 48).reshape(1, 3, 4, 4))
    shown = axes.images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)


def test_inputs_that_are_no_images_are_refused():
    found = report.find_examples([[0.0, 9.0]], [0])
    with pytest.raises(ArgumentError, match=r"shape \(7,\)"):
        found.plot(torch.rand(1, 7))
    with pytest.raises(ArgumentError, match=r"shape \(2, 5, 5\)"):
        found.plot([(torch.rand(2, 5, 5), 1)])
    with pytest.raises(ArgumentError, match="columns=0"):
        found.plot(torch.rand(1, 4, 4), columns=0)


@pytest.mark.parametrize("arguments", [{"which": "bad"}, {"count": 0}, {"count": 1.5}, {"count": True}])
def test_examples_that_cannot_be_found_are_refused(outputs, targets, arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        report.find_examples(outputs, targets, **arguments)


class Labelled(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.rand(2), self.labels[index]


SOURCES = {
    "tensor": torch.tensor([3, 0, 3, 1, 3]),
    "array": np.array([3, 0, 3, 1, 3]),
    "list": [3, 0, 3, 1, 3],
    "data set": Labelled([3, 0, 3, 1, 3]),
    "loader": DataLoader(Labelled([3, 0, 3, 1, 3]), batch_size=2, shuffle=True),
    "tensor loader": TensorLoader(torch.rand(5, 2), torch.tensor([3, 0, 3, 1, 3]), batch_size=2),
    "batches": [(torch.rand(2, 2), torch.tensor([3, 0])), (torch.rand(3, 2), torch.tensor([3, 1, 3]))],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_labels_are_counted_wherever_they_are_and_nothing_is_drawn_from_the_generators(kind):
    before = torch.get_rng_state()
    assert report.label_counts(SOURCES[kind]) == {0: 1, 1: 1, 3: 3}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_bars_are_the_counts_empty_classes_included():
    axes = report.plot_label_counts(SOURCES["list"], labels=["a", "b", "c", "d", "e"])
    assert [bar.get_height() for bar in axes.patches] == [1, 1, 0, 3, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c", "d", "e"]
    assert [text.get_text() for text in axes.texts] == ["1", "1", "0", "3", "0"]
    assert (axes.get_title(), axes.get_ylabel()) == ("5 samples", "samples")


def test_many_classes_stand_beside_their_bars():
    axes = report.plot_label_counts(torch.arange(30))
    assert [bar.get_width() for bar in axes.patches] == [1] * 30
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("data", [3, [(torch.rand(2, 2), torch.rand(2))], [torch.rand(3)]])
def test_what_holds_no_class_numbers_is_refused(data):
    with pytest.raises(ArgumentError):
        report.label_counts(data)


def test_there_must_be_labels_to_count():
    with pytest.raises(ArgumentError, match="no sample"):
        report.label_counts([])


@pytest.fixture
def history():
    history = History()
    for epoch in (1, 2, 3):
        record = {
            "train_loss": 3.0 / epoch,
            "val_loss": 4.0 / epoch,
            "val_ema_loss": 5.0 / epoch,
            "train_acc": epoch / 4,
        }
        history.append({"epoch": epoch, "step": 10 * epoch, "lr": 0.1, **record}, epoch_ended=True)
    return history


@pytest.mark.parametrize(("by", "xs"), [("epoch", [1, 2, 3]), ("step", [10, 20, 30])])
def test_each_metric_of_a_history_has_its_own_axes(history, by, xs):
    loss, acc = report.plot_history(history, by=by)
    curves = {line.get_label().split()[0]: line for line in loss.get_lines() if line.get_label()[0] != "_"}
    assert list(curves) == ["train_loss", "val_loss", "val_ema_loss"]
    for name, curve in curves.items():
        assert (list(curve.get_xdata()), list(curve.get_ydata())) == (xs, history[name])
    assert (loss.get_ylabel(), acc.get_ylabel(), acc.get_xlabel()) == ("loss", "acc", by)
    assert loss.figure is acc.figure
    assert f"val_loss (best 1.333 at {by} {xs[-1]})" in [text.get_text() for text in loss.get_legend().get_texts()]
    png(loss)


def test_a_history_without_metrics_is_refused(history):
    with pytest.raises(MetricError):
        report.plot_history(History())
    with pytest.raises(ArgumentError, match="columns"):
        report.plot_history(history, columns=0)
    with pytest.raises(ArgumentError, match="by"):
        report.plot_history(history, by="hour")


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_text_has_the_colour_of_the_style(style, history, targets):
    with pyplot.style.context(style):
        drawn = [report.plot_label_counts(targets), *report.plot_history(history)]
        expected = pyplot.rcParams["text.color"]
    for axes in drawn:
        assert axes.title.get_color() == expected
        assert all(text.get_color() == expected for text in axes.texts)
