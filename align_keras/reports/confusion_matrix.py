"""Which classes are taken for which, counted and drawn as inline SVG."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from align_keras.evaluation.classification import as_labels
from align_keras.reports.bar_chart import shortened, svg, text_width

_CELL = 30
# Class names beside the matrix are cut to this width.
_WIDEST_NAME = 150
# So that the counts stay readable on the deepest shade (contrast above 4.5).
_DEEPEST = 0.52

Labels = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often a class was taken for another, and the share of the class's items."""

    label: int
    prediction: int
    count: int
    share: float


def confusion_matrix(
    labels: Labels, predictions: Labels, classes: int, chosen: Labels | None = None
) -> np.ndarray:
    """Counts the items of each class (rows) by what they were taken for (columns). Of
    the `chosen` classes alone (n, n + 1), with a last column of all other predictions.
    """
    labels, predictions = _checked(labels, predictions, classes)
    if chosen is None:
        return confusion_matrix(labels, predictions, classes, range(classes))[:, :-1]
    count = len(chosen)
    place = np.full(classes, count)
    place[chosen] = np.arange(count)
    flat = np.bincount(
        place[labels] * (count + 1) + place[predictions], minlength=(count + 1) ** 2
    )
    return flat.reshape(count + 1, count + 1)[:count]


def _checked(labels, predictions, classes):
    labels = as_labels("labels", labels, len(labels), classes)
    return labels, as_labels("predictions", predictions, len(labels), classes)


def most_confused(
    labels: Labels, predictions: Labels, classes: int, most: int = 20
) -> list[Confusion]:
    """Finds the pairs of classes that are confused most often, the first most."""
    labels, predictions = _checked(labels, predictions, classes)
    items = np.bincount(labels, minlength=classes)
    wrong = labels != predictions
    # Pairs and not the whole matrix, which is large with many classes.
    pairs, counts = np.unique(
        labels[wrong] * classes + predictions[wrong], return_counts=True
    )
    rows, columns = np.divmod(pairs, classes)
    shares = counts / items[rows]
    order = np.lexsort((columns, rows, -shares, -counts))[:most]
    return [
        Confusion(int(row), int(column), int(count), float(share))
        for row, column, count, share in zip(
            rows[order], columns[order], counts[order], shares[order], strict=True
        )
    ]


def classes_to_draw(
    labels: Labels, predictions: Labels, classes: int, most: int = 20
) -> np.ndarray:
    """Chooses the classes of a matrix that is too large to be drawn whole. All classes
    where they are few, else those of the most frequent confusions, filled up with the
    most frequent classes; ascending.
    """
    if classes <= most:
        return np.arange(classes)
    chosen: dict[int, None] = {}
    for pair in most_confused(labels, predictions, classes, most * most):
        both = {pair.label: None, pair.prediction: None}
        if len(chosen | both) <= most:
            chosen |= both
    items = np.bincount(np.asarray(labels), minlength=classes)
    for label in np.argsort(-items, kind="stable").tolist():
        if len(chosen) == most:
            break
        chosen[label] = None
    return np.array(sorted(chosen))


def confusion_chart(matrix: np.ndarray, names: Sequence[str], *, title: str) -> Markup:
    """Draws a confusion matrix: the stronger a cell, the larger its share of the row.
    Up to about 20 classes are readable.
    """
    rows, columns = matrix.shape
    across = [*names, "other classes"][:columns]
    margin = round(max(min(text_width(name), _WIDEST_NAME) for name in across)) + 12
    width, height = margin + columns * _CELL + 2, margin + rows * _CELL + 2
    parts = []
    for number, name in enumerate(names):
        y = margin + (number + 0.5) * _CELL + 4
        parts.append(_label(name, f'class="name end" x="{margin - 8}" y="{y:.1f}"'))
    for number, name in enumerate(across):
        x = margin + (number + 0.5) * _CELL + 4
        place = f'class="name" transform="translate({x:.1f} {margin - 8}) rotate(-90)"'
        parts.append(_label(name, place))
    items = matrix.sum(axis=1)
    for row, column in np.ndindex(rows, columns):
        x, y = margin + column * _CELL, margin + row * _CELL
        taken_for = None if row == column else across[column]
        parts.append(
            _cell(x, y, int(matrix[row, column]), items[row], names[row], taken_for)
        )
    right = int(np.trace(matrix))
    label = f"{title}: {right:,} of {int(items.sum()):,} are on the diagonal"
    size = f'width="{width}" height="{height}" '
    return svg("matrix", width, height, label, parts, size)


def _label(name, place):
    full = f"<title>{escape(name)}</title>"
    return f"<text {place}>{full}{escape(shortened(name, _WIDEST_NAME))}</text>"


def _cell(x, y, count, items, name, taken_for):
    """A square with its count; `taken_for` is None for right answers."""
    if not count:
        kind = "empty" if taken_for is not None else "empty right"
        return (
            f'<rect class="{kind}" x="{x + 1}" y="{y + 1}" '
            f'width="{_CELL - 2}" height="{_CELL - 2}"/>'
        )
    share = count / items
    kind = "right" if taken_for is None else "wrong"
    verdict = "recognized" if taken_for is None else f"taken for {taken_for}"
    note = escape(f"{name}, {verdict}: {count:,} of {items:,} ({share:.1%})")
    shade = 0.06 + (_DEEPEST - 0.06) * share
    return (
        f'<g><title>{note}</title><rect class="{kind}" x="{x + 1}" y="{y + 1}" '
        f'width="{_CELL - 2}" height="{_CELL - 2}" fill-opacity="{shade:.2f}"/>'
        f'<text class="name middle" x="{x + _CELL / 2}" y="{y + _CELL / 2 + 4}">'
        f"{count if count < 10_000 else f'{count // 1000}k'}</text></g>"
    )
