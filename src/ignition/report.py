"""Figures and tables for a report, from plain data: a history, or the outputs and targets of a classifier.

`ignition.predict` gives the outputs; what is drawn needs no Trainer. The colours are those of `ignition.plots.PALETTE`
and matplotlib's cividis (Nuñez, Anderton and Renslow, "Optimizing colormaps with consideration for color vision
deficiency", 2018): people who see colours otherwise can tell them apart, on white and on black.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignition import rng
from ignition.data import items_of
from ignition.errors import ArgumentError, IgnitionError, kind_of
from ignition.figures import draw_bars, draw_images, draw_matrix, draw_panels
from ignition.history import History
from ignition.records import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Example",
    "Examples",
    "find_examples",
    "label_counts",
    "plot_confusion",
    "plot_history",
    "plot_label_counts",
]


class Example(NamedTuple):
    """One sample and what a classifier made of it.

    Attributes:
        sample: Its place in the data, from 0 on.
        target: Its class.
        predicted: The class with the largest probability.
        confidence: That probability, from 0 to 1.
    """

    sample: int
    target: int
    predicted: int
    confidence: float


@dataclass(slots=True, frozen=True)
class Examples:
    """Some samples, in order; printed as a table, drawn as images by `plot`.

    Attributes:
        title: What they have in common.
        rows: One `Example` for each.
    """

    title: str
    rows: tuple[Example, ...]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Example:
        return self.rows[place]

    def __repr__(self) -> str:
        """The title, and a row for each."""
        if not self.rows:
            return f"{self.title}: none"
        return f"{self.title}\n{table(Example._fields, [row._asdict() for row in self.rows])}"

    def plot(self, inputs: Any, *, labels: Sequence[str] | None = None, columns: int = 6) -> list[Axes]:
        """Draws them as images, each with its classes and the confidence above it.

        Args:
            inputs: The images of all the data, in the order of the outputs: an array or tensor ``(samples, height,
                width)`` or ``(samples, channels, height, width)`` with 1 or 3 channels, or a data set of such images,
                the first item of each sample. Floats beyond 0 to 1 are brought into it, image by image.
            labels: The names of the classes.
            columns: How many stand side by side.

        Returns:
            The axes, one for each image.

        Raises:
            ArgumentError: If there is no example, the inputs are no images, or `columns` is no integer of 1 or more.
            IgnitionError: matplotlib is not installed.
        """
        images = [_image(inputs, row.sample) for row in self.rows]
        names = [(_name(row.target, labels), _name(row.predicted, labels)) for row in self.rows]
        captions = [
            f"{target}\n{row.confidence:.0%} sure"
            if target == predicted
            else f"{target}, taken for\n{predicted} ({row.confidence:.0%})"
            for row, (target, predicted) in zip(self.rows, names, strict=True)
        ]
        return draw_images(images, captions, title=self.title, columns=columns)


def find_examples(
    outputs: Any, targets: Any, which: Literal["wrong", "right"] = "wrong", *, most: bool = True, count: int = 12
) -> Examples:
    """The samples about which a classifier is most or least sure, among those that it gets wrong or right.

    Args:
        outputs: What it returned, as `ignition.predict` joins it: ``(samples, classes)`` of logits or probabilities
            (rows that sum to 1); for two classes ``(samples,)`` or ``(samples, 1)`` of logits.
        targets: Class numbers ``(samples,)``.
        which: "wrong" or "right".
        most: True for the most confident first, False for the least confident first.
        count: How many at most, 1 or more.

    Returns:
        What was found, in order, with ``plot(inputs)`` for images.

    Raises:
        ArgumentError: If the shapes do not fit, or an argument is out of range.

    Example:
        >>> find_examples([[2.0, 0.0], [0.0, 9.0], [1.0, 0.0]], [1, 1, 1], count=2)
        the most confident of 2 wrong
        sample  target  predicted  confidence
             0       1          0      0.8808
             2       1          0      0.7311
    """
    if which not in ("wrong", "right"):
        raise ArgumentError(f"which={which!r}", "'wrong' or 'right'", 'find_examples(outputs, targets, "wrong")')
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"count={count!r}", "an integer of 1 or more", "count=12")
    probabilities, wanted = _probabilities(outputs, targets)
    confidence, predicted = probabilities.max(dim=1)
    of_kind = torch.nonzero((predicted == wanted) == (which == "right")).flatten()
    order = torch.argsort(confidence[of_kind], descending=most, stable=True)[:count]
    rows = [
        Example(index, int(wanted[index]), int(predicted[index]), float(confidence[index]))
        for index in of_kind[order].tolist()
    ]
    return Examples(f"the {'most' if most else 'least'} confident of {len(of_kind)} {which}", tuple(rows))


def plot_confusion(
    outputs: Any,
    targets: Any,
    *,
    labels: Sequence[str] | None = None,
    normalize: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draws how often each class was taken for which: a row a class, a column a prediction.

    scikit-learn's ``confusion_matrix`` counts.

    Args:
        outputs: As for `find_examples`; also ``(samples, classes, ...)``, and integers ``(samples, ...)``, which are
            predictions themselves.
        targets: Class numbers ``(samples, ...)``.
        labels: The names of the classes.
        normalize: Whether to show shares of each row in the place of counts.
        ax: Where to draw; by default a figure of its own.

    Returns:
        The matplotlib ``Axes``; ``.figure.savefig("confusion.png")`` writes it to a file.

    Raises:
        ArgumentError: If the shapes do not fit, there is no sample, there are fewer labels than classes, or `ax` is no
            ``Axes``.
        IgnitionError: scikit-learn or matplotlib is not installed.
    """
    try:
        from sklearn.metrics import confusion_matrix  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "sklearn":
            raise
        raise IgnitionError(
            "plot_confusion needs scikit-learn, which is not installed",
            "scikit-learn beside Ignition",
            'pip install "torch-ignition[report]"',
        ) from error
    predicted, wanted, classes = _predicted(outputs, targets)
    if labels is not None:
        classes = max(classes, len(labels))
    names = _names(classes, labels)
    counts = confusion_matrix(
        wanted.numpy(), predicted.numpy(), labels=range(classes), normalize="true" if normalize else None
    )
    right = float((predicted == wanted).float().mean())
    return draw_matrix(
        counts.tolist(),
        names,
        title=f"{right:.1%} of {len(wanted):,} right",
        x_label="predicted",
        y_label="target",
        ax=ax,
    )


def label_counts(data: Any) -> dict[int, int]:
    """How many samples each class has.

    Args:
        data: Class numbers (a tensor, array or list); or a data set, the last item of whose samples is the class; or a
            loader, the last item of whose batches are the classes. What is drawn while it is read is put back.

    Returns:
        The number of samples by class, the classes in order; none for a class that is not there.

    Raises:
        ArgumentError: If they are no class numbers, or there is none.

    Example:
        >>> label_counts([2, 0, 2])
        {0: 1, 2: 2}
    """
    states = rng.capture()
    try:
        labels = [_classes(part).flatten() for part in _parts(data)]
    finally:
        rng.restore(states)
    numbers, counts = np.unique(torch.cat([torch.zeros(0, dtype=torch.long), *labels]).numpy(), return_counts=True)
    if not len(numbers):
        raise _no_sample()
    return {int(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def plot_label_counts(data: Any, *, labels: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draws how many samples each class has, classes without any included.

    Args:
        data: As for `label_counts`.
        labels: The names of the classes.
        ax: Where to draw; by default a figure of its own.

    Returns:
        The matplotlib ``Axes``.

    Raises:
        ArgumentError: As `label_counts` does, or if there are fewer labels than classes, or `ax` is no ``Axes``.
        IgnitionError: matplotlib is not installed.
    """
    counts = label_counts(data)
    classes = max(max(counts) + 1, 0 if labels is None else len(labels))
    bars = [counts.get(number, 0) for number in range(classes)]
    return draw_bars(_names(classes, labels), bars, title=f"{sum(bars):,} samples", y_label="samples", ax=ax)


def plot_history(history: History, *, by: Literal["epoch", "step"] = "epoch", columns: int = 2) -> list[Axes]:
    """Draws every metric of a history into small axes of its own, training and evaluation together.

    Args:
        history: ``trainer.history``.
        by: As for `History.plot`.
        columns: How many axes stand side by side.

    Returns:
        The axes, one for each metric; ``axes[0].figure`` is the whole.

    Raises:
        ArgumentError: `history` is no History, `by` is neither, or `columns` is no integer of 1 or more.
        MetricError: A metric holds no numbers, or there is none.
        IgnitionError: matplotlib is not installed.
    """
    if not isinstance(history, History):
        raise ArgumentError(f"history is {kind_of(history)}", "a History", "pass trainer.history")
    panels: dict[str, list[str]] = {}
    for name in history.columns:
        if name.startswith(("train_", "val_")):
            panels.setdefault(re.sub(r"^(train_|val_ema_|val_swa_|val_)", "", name), []).append(name)
    if not panels:
        history.plot()  # raises: there is no metric to draw

    def drawing(names: list[str]) -> Callable[[Axes], object]:
        return lambda ax: history.plot(*names, by=by, ax=ax)

    return draw_panels([drawing(names) for names in panels.values()], columns=columns)


def _probabilities(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    scores, wanted = _tensor(outputs, "outputs").float(), _classes(targets)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores.squeeze(1)
    if scores.ndim == 1:
        scores = torch.stack([torch.zeros_like(scores), scores], dim=1)  # a softmax over 0 and z is the sigmoid of z
    if scores.ndim != 2 or wanted.shape != scores.shape[:1]:
        raise _misfit(scores, wanted, "outputs (samples, classes) and targets (samples,)")
    sums = scores.sum(dim=1)
    if len(scores) and bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return scores, wanted
    return scores.softmax(dim=1), wanted


def _predicted(outputs: Any, targets: Any) -> tuple[Tensor, Tensor, int]:
    """Predictions and targets in one row each, and how many classes there are."""
    scores, wanted = _tensor(outputs, "outputs"), _classes(targets)
    if scores.ndim == wanted.ndim + 1 and scores.shape[1] == 1:
        scores = scores.squeeze(1)
    if scores.shape == wanted.shape:
        predicted, classes = (scores > 0).long() if scores.is_floating_point() else scores.long(), 2
    elif scores.ndim == wanted.ndim + 1 and scores.shape[:1] + scores.shape[2:] == wanted.shape:
        predicted, classes = scores.argmax(dim=1), scores.shape[1]
    else:
        raise _misfit(scores, wanted, "outputs (samples, classes, ...) and targets (samples, ...)")
    if not len(wanted):
        raise _no_sample()
    classes = max(classes, int(wanted.max()) + 1, int(predicted.max()) + 1)
    return predicted.flatten(), wanted.flatten(), classes


def _misfit(outputs: Tensor, targets: Tensor, expected: str) -> ArgumentError:
    return ArgumentError(
        f"the outputs have the shape {tuple(outputs.shape)}, and the targets {tuple(targets.shape)}",
        expected,
        "take both from the same data, in the same order: a loader without shuffle, and its targets",
    )


def _no_sample() -> ArgumentError:
    return ArgumentError("there is no sample", "at least one", "see whether the data or the loader is empty")


def _tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"{name} is {kind_of(value)}", "a tensor or an array", "pass what ignition.predict returned"
        ) from error


def _classes(value: Any) -> Tensor:
    classes = _tensor(value, "targets")
    if classes.numel() and (classes.is_floating_point() or classes.is_complex() or int(classes.min()) < 0):
        raise ArgumentError(
            f"the targets are of {classes.dtype}" if classes.is_floating_point() else "a target is below 0",
            "class numbers: integers from 0 on",
            "pass targets.long() where they are class numbers, and leave out what is ignored",
        )
    return classes.long()


def _parts(data: Any) -> Iterator[Any]:
    """The class numbers in `data`, part by part."""
    if isinstance(data, (Tensor, np.ndarray)) or (isinstance(data, Sequence) and isinstance(next(iter(data), 0), int)):
        yield data
    elif isinstance(data, Dataset) and hasattr(data, "__len__"):
        for index in range(len(data)):
            yield items_of(data[index])[-1]
    elif isinstance(data, Iterable):
        for batch in data:
            yield items_of(batch)[-1]
    else:
        raise ArgumentError(
            f"the data is {kind_of(data)}",
            "class numbers, a data set or a loader",
            "label_counts(train_loader)",
        )


def _names(classes: int, labels: Sequence[str] | None) -> list[str]:
    if labels is not None and len(labels) < classes:
        raise ArgumentError(
            f"there are {len(labels)} labels for {classes} classes", "a name for each class", "name the others too"
        )
    return [_name(number, labels) for number in range(classes)]


def _name(number: int, labels: Sequence[str] | None) -> str:
    return str(number) if labels is None or number >= len(labels) else str(labels[number])


def _image(inputs: Any, index: int) -> np.ndarray[Any, Any]:
    """One sample as matplotlib takes an image: (height, width), or (height, width, 3)."""
    item = inputs[index]
    image = np.asarray(items_of(item)[0] if isinstance(item, (tuple, list)) else item)
    if image.ndim == 3 and image.shape[0] in (1, 3):
        image = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] == 3):
        raise ArgumentError(
            f"an input has the shape {tuple(image.shape)}",
            "images: (height, width), or (channels, height, width) with 1 or 3 channels",
            "print the examples: the table says which they are; reshape flat images with x.reshape(-1, 28, 28)",
        )
    if np.issubdtype(image.dtype, np.floating) and image.size and (image.min() < 0 or image.max() > 1):
        image = (image - image.min()) / ((image.max() - image.min()) or 1)
    return image
