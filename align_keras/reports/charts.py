"""Bars, lines and confusion matrices as inline SVG, colored by the style sheet."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from align_keras.evaluation.class_metrics import as_labels
from align_keras.reports.page_template import page_template, percent, text_width

# Where bars begin and end, and where the plot of lines ends, as in the template.
_BARS = (132, 266)
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 324, 14, 204
# Where the bars' scale may end: small values shall be seen too.
_ENDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# More points than this only make the file larger.
_MOST_POINTS = 400
_LABEL_HEIGHT = 14
# Share of the axis that the label of a tick takes.
_TICK_GAP = 0.15
# Class names beside the matrix are cut to this width.
_WIDEST_NAME = 150
# So that the counts stay readable on the deepest shade (contrast above 4.5).
_DEEPEST = 0.52

Labels = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Bar:
    """A value in [0, 1] or NaN, of how many items it is the mean, and its interval."""

    label: str
    value: float
    count: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether it has an interval that was measured."""
        return self.low is not None and math.isfinite(self.low)


def extremes(bars: Iterable[Bar], most: int = 40) -> tuple[list[Bar], int]:
    """Sorts bars by value and keeps both ends; returns also how many are left out."""
    ordered = sorted(
        (bar for bar in bars if not math.isnan(bar.value)),
        key=lambda bar: (bar.value, -(bar.count or 0), bar.label),
    )
    left_out = len(ordered) - most
    if left_out <= 0:
        return ordered, 0
    lowest = (most + 1) // 2
    return ordered[:lowest] + ordered[len(ordered) - most + lowest :], left_out


def bar_chart(bars: Sequence[Bar], *, title: str, value_name: str = "value") -> Markup:
    """Draws a bar a row, from 0 to at most 100 %, with its interval and its numbers."""
    numbers = [n for bar in bars for n in (bar.value, bar.high) if n is not None]
    largest = max((n for n in numbers if not math.isnan(n)), default=0.0)
    end = next((end for end in _ENDS if largest <= end), 1.0)
    first, last = _BARS

    def x(value):
        share = 0.0 if math.isnan(value) else min(max(value / end, 0.0), 1.0)
        return first + share * (last - first)

    told = "; ".join(f"{bar.label} {percent(bar.value)}" for bar in bars)
    is_counted = any(bar.count is not None for bar in bars)
    return _drawn("bars", bars, x, end, f"{title}: {told}", value_name, is_counted)


def _drawn(macro, *arguments):
    return getattr(page_template("charts.html.j2").module, macro)(*arguments)


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: (x, y) ascending in x, `style` a color's number in the style sheet."""

    label: str
    points: tuple
    style: int = 1


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that cover [low, high], in about `count` steps."""
    # What differs by rounding alone is flat.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    raw = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Twelve digits, so that 3 · 0.1 is 0.3 again.
    return [float(f"{tick * step:.12g}") for tick in range(first, last + 1)]


def thinned(
    points: Sequence[tuple[float, float]], most: int = _MOST_POINTS
) -> list[tuple[float, float]]:
    """Means of runs of equal length, so that at most `most` points stay."""
    run = math.ceil(len(points) / most)
    if run <= 1:
        return list(points)
    runs = [points[start : start + run] for start in range(0, len(points), run)]
    return [
        (sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run))
        for run in runs
    ]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_format: str = "{:.4g}",
    tick_format: str = "{:g}",
    from_zero: bool = False,
) -> Markup:
    """Draws lines over labeled axes; the vertical one may begin at 0."""
    series = [line for line in series if len(line.points)]
    shown = [thinned(line.points) for line in series]
    # The axis names the first and the last step, not the means at the ends.
    xs = [x for line in series for x, _ in line.points]
    ys = [y for points in shown for _, y in points]
    scale = _Scale(xs, [0.0, *ys] if from_zero else ys)
    heights = _spread([scale.y(points[-1][1]) for points in shown])
    ends = [y_format.format(line.points[-1][1]) for line in series]
    # A line that is alone needs no name; its last value says more.
    names = ends if len(series) == 1 else [line.label for line in series]
    told = zip(series, ends, strict=True)
    label = "; ".join(f"{line.label} ends at {end}" for line, end in told)
    return _drawn(
        "lines",
        scale,
        list(zip(series, shown, heights, names, strict=True)),
        f"{title}: {label}",
        x_label,
        y_label,
        y_format,
        tick_format,
    )


class _Scale:
    """From data to the pixels of the view box."""

    def __init__(self, xs, ys):
        self.x_low, self.x_high = min(xs), max(xs)
        self.x_ticks = _ticks_with_ends(self.x_low, self.x_high)
        if self.x_low == self.x_high:
            self.x_low -= 1
        self.y_ticks = nice_ticks(min(ys), max(ys))

    def x(self, value):
        part = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + part * (_RIGHT - _LEFT)

    def y(self, value):
        low, high = self.y_ticks[0], self.y_ticks[-1]
        part = (value - low) / (high - low)
        return _BOTTOM - part * (_BOTTOM - _TOP)


def _ticks_with_ends(low: float, high: float) -> list[float]:
    """The first and the last value, and round numbers between them."""
    if low == high:
        return [high]
    gap = _TICK_GAP * (high - low)
    between = [
        tick
        for tick in nice_ticks(low, high, count=5)
        if low + gap <= tick <= high - gap
    ]
    return [low, *between, high]


def _spread(heights):
    """Moves labels apart that would cover each other, none below the plot."""
    order = sorted(range(len(heights)), key=lambda number: -heights[number])
    placed = list(heights)
    below = _BOTTOM + _LABEL_HEIGHT
    for number in order:
        placed[number] = min(heights[number], below - _LABEL_HEIGHT)
        below = placed[number]
    return placed


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
    """Chooses all classes, or those of the most frequent confusions, filled up with the
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
    """Draws up to about 20 classes: the stronger a cell, the larger its share of the
    row.
    """
    rows, columns = matrix.shape
    across = [*names, "other classes"][:columns]
    margin = round(max(min(text_width(name), _WIDEST_NAME) for name in across)) + 12
    items = matrix.sum(axis=1)
    cells = []
    for row, column in np.ndindex(rows, columns):
        count = int(matrix[row, column])
        share = count / max(int(items[row]), 1)
        verdict = "recognized" if row == column else f"taken for {across[column]}"
        note = f"{names[row]}, {verdict}: {count:,} of {items[row]:,} ({share:.1%})"
        shade = 0.06 + (_DEEPEST - 0.06) * share
        about = {"count": count, "note": note, "shade": shade}
        cells.append({"row": row, "column": column, **about})
    right = int(np.trace(matrix))
    label = f"{title}: {right:,} of {int(items.sum()):,} are on the diagonal"
    return _drawn("confusion", cells, names, across, margin, label)
