"""Bar charts, line charts and confusion matrices as inline SVG.

The colors are in report.css.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from align_keras.evaluation.class_metrics import as_labels
from align_keras.reports.page_template import page_template, percent, text_width

# Horizontal range of bars, and edges of line charts, in pixels of the view box. The
# template charts.html.j2 contains the same numbers.
_BAR_RANGE = (132, 266)
_PLOT_LEFT = 52
_PLOT_RIGHT = 324
_PLOT_TOP = 14
_PLOT_BOTTOM = 204
# Possible maxima of the scale of bars. A small maximum makes small values visible.
_BAR_MAXIMA = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Points per line. More points would enlarge the file without a visible difference.
_MAX_POINTS = 400
# Vertical distance of the labels of lines in pixels.
_LABEL_HEIGHT = 14
# Minimum distance of ticks as a fraction of the axis, which leaves room for labels.
_TICK_GAP = 0.15
# Pixels. Longer names of classes are shortened.
_MAX_NAME_WIDTH = 150
# Number of classes of a confusion matrix. More classes would be illegible.
_DRAWN_CLASSES = 20
# Opacity of the darkest cell. The contrast of its number is still above 4.5.
_MAX_OPACITY = 0.52
_MIN_OPACITY = 0.06

Labels = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Bar:
    """Bar of a bar chart.

    Attributes:
        label: name of the bar.
        value: number in [0, 1], or NaN.
        count: number of items whose mean is the value, or None.
        low: lower end of the interval of the value, or None.
        high: upper end of the interval of the value, or None.
    """

    label: str
    value: float
    count: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """True if the bar has a finite interval."""
        return self.low is not None and math.isfinite(self.low)


def extremes(bars: Iterable[Bar], max_bars: int = 40) -> tuple[list[Bar], int]:
    """Returns the bars with the lowest and the highest values.

    Args:
        bars: Bars with NaN are ignored.
        max_bars: number of bars to return.

    Returns:
        Bars in ascending order of their values, and the number of omitted bars.
    """
    ordered = sorted(
        (bar for bar in bars if not math.isnan(bar.value)),
        key=lambda bar: (bar.value, -(bar.count or 0), bar.label),
    )
    omitted = len(ordered) - max_bars
    if omitted <= 0:
        return ordered, 0
    lowest = (max_bars + 1) // 2
    return ordered[:lowest] + ordered[len(ordered) - max_bars + lowest :], omitted


def bar_chart(bars: Sequence[Bar], *, title: str, value_name: str = "value") -> Markup:
    """Draws horizontal bars with their intervals and numbers.

    The scale starts at 0 and ends at 100 % or, if all values are small, earlier.

    Args:
        bars: `Bar` of each row.
        title: title for screen readers.
        value_name: heading of the column of values.
    """
    numbers = [n for bar in bars for n in (bar.value, bar.high) if n is not None]
    largest = max((n for n in numbers if not math.isnan(n)), default=0.0)
    maximum = next((maximum for maximum in _BAR_MAXIMA if largest <= maximum), 1.0)
    start, end = _BAR_RANGE

    def x(value: float) -> float:
        fraction = 0.0 if math.isnan(value) else min(max(value / maximum, 0.0), 1.0)
        return start + fraction * (end - start)

    values = ", ".join(f"{bar.label} {percent(bar.value)}" for bar in bars)
    has_counts = any(bar.count is not None for bar in bars)
    label = f"{title}: {values}"
    return _draw("bars", bars, x, maximum, label, value_name, has_counts)


def _draw(macro: str, *arguments: Any) -> Markup:
    """Returns the SVG that a macro of charts.html.j2 renders."""
    return getattr(page_template("charts.html.j2").module, macro)(*arguments)


@dataclasses.dataclass(frozen=True)
class Series:
    """Line of a line chart.

    Attributes:
        label: name of the line.
        points: (x, y) pairs in ascending order of x.
        style: number of the color in the style sheet, from 1 to 6.
    """

    label: str
    points: tuple
    style: int = 1


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Returns about `count` equidistant round numbers that cover [low, high]."""
    # A range that is only a rounding error would lead to meaningless ticks.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    min_step = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(min_step))
    step = next(
        unit * power for unit in (1, 2, 5, 10) if unit * power >= min_step * 0.999
    )
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    # Rounding to twelve digits removes errors such as 3 * 0.1 = 0.30000000000000004.
    return [float(f"{tick * step:.12g}") for tick in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns at most 400 points, which are means of consecutive points."""
    chunk_size = math.ceil(len(points) / _MAX_POINTS)
    if chunk_size <= 1:
        return list(points)
    chunks = [
        points[start : start + chunk_size]
        for start in range(0, len(points), chunk_size)
    ]
    return [
        (
            sum(x for x, _ in chunk) / len(chunk),
            sum(y for _, y in chunk) / len(chunk),
        )
        for chunk in chunks
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
    """Draws lines with labeled axes.

    Args:
        series: `Series` of each line. Lines without points are ignored.
        title: title for screen readers.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        y_format: format of values.
        tick_format: format of the ticks of the vertical axis.
        from_zero: the vertical axis starts at 0.
    """
    series = [line for line in series if len(line.points)]
    thinned_points = [thinned(line.points) for line in series]
    # The axis must start at the first step and end at the last step. The thinned points
    # are means and start later.
    xs = [x for line in series for x, _ in line.points]
    ys = [y for points in thinned_points for _, y in points]
    scale = _Scale(xs, [0.0, *ys] if from_zero else ys)
    last_heights = [scale.y(points[-1][1]) for points in thinned_points]
    heights = _separate_labels(last_heights)
    last_values = [y_format.format(line.points[-1][1]) for line in series]
    # A single line is labeled with its last value, since the title names it.
    names = [line.label for line in series] if len(series) > 1 else last_values
    label = ", ".join(
        f"{line.label} ends at {value}"
        for line, value in zip(series, last_values, strict=True)
    )
    return _draw(
        "lines",
        scale,
        list(zip(series, thinned_points, heights, names, strict=True)),
        f"{title}: {label}",
        x_label,
        y_label,
        y_format,
        tick_format,
    )


class _Scale:
    """Conversion of data to pixels of the view box of a line chart.

    Args:
        xs: horizontal coordinates of all points.
        ys: vertical coordinates of all points.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_low, self.x_high = min(xs), max(xs)
        self.x_ticks = _ticks_with_ends(self.x_low, self.x_high)
        if self.x_low == self.x_high:
            self.x_low -= 1
        self.y_ticks = nice_ticks(min(ys), max(ys))

    def x(self, value: float) -> float:
        fraction = (value - self.x_low) / (self.x_high - self.x_low)
        return _PLOT_LEFT + fraction * (_PLOT_RIGHT - _PLOT_LEFT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        fraction = (value - low) / (high - low)
        return _PLOT_BOTTOM - fraction * (_PLOT_BOTTOM - _PLOT_TOP)


def _ticks_with_ends(low: float, high: float) -> list[float]:
    """Returns the two ends of an axis and round numbers between them."""
    if low == high:
        return [high]
    gap = _TICK_GAP * (high - low)
    between = [
        tick
        for tick in nice_ticks(low, high, count=5)
        if low + gap <= tick <= high - gap
    ]
    return [low, *between, high]


def _separate_labels(heights: Sequence[float]) -> list[float]:
    """Moves labels up so that they neither overlap nor lie below the plot."""
    order = sorted(range(len(heights)), key=lambda number: -heights[number])
    separated = list(heights)
    previous: float = _PLOT_BOTTOM + _LABEL_HEIGHT
    for number in order:
        separated[number] = min(heights[number], previous - _LABEL_HEIGHT)
        previous = separated[number]
    return separated


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Number of items of one class that were classified as another class.

    Attributes:
        label: number of the correct class.
        prediction: number of the predicted class.
        count: number of items.
        share: `count` divided by the number of items of the correct class.
    """

    label: int
    prediction: int
    count: int
    share: float


def confusion_matrix(
    labels: Labels, predictions: Labels, classes: int, subset: Labels | None = None
) -> np.ndarray:
    """Counts items by their correct classes (rows) and predicted classes (columns).

    Args:
        labels: numbers of the correct classes.
        predictions: numbers of the predicted classes.
        classes: number of classes.
        subset: numbers of the classes to include, or None for all.

    Returns:
        int array (classes, classes). With a subset of n classes, the shape is
        (n, n + 1), and the last column counts predictions outside the subset.
    """
    labels, predictions = _as_label_arrays(labels, predictions, classes)
    if subset is None:
        return confusion_matrix(labels, predictions, classes, range(classes))[:, :-1]
    count = len(subset)
    position = np.full(classes, count)
    position[subset] = np.arange(count)
    flat = np.bincount(
        position[labels] * (count + 1) + position[predictions],
        minlength=(count + 1) ** 2,
    )
    return flat.reshape(count + 1, count + 1)[:count]


def _as_label_arrays(
    labels: Labels, predictions: Labels, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels and predictions to int64 arrays of classes in [0, classes)."""
    labels = as_labels("labels", labels, len(labels), classes)
    return labels, as_labels("predictions", predictions, len(labels), classes)


def most_confused(
    labels: Labels, predictions: Labels, classes: int, max_pairs: int = 20
) -> list[Confusion]:
    """Returns the most frequent confusions in descending order of their counts.

    Args:
        labels: numbers of the correct classes.
        predictions: numbers of the predicted classes.
        classes: number of classes.
        max_pairs: maximum number of confusions.
    """
    labels, predictions = _as_label_arrays(labels, predictions, classes)
    items = np.bincount(labels, minlength=classes)
    wrong = labels != predictions
    # A whole confusion matrix of many classes would be large, so pairs are counted.
    pairs, counts = np.unique(
        labels[wrong] * classes + predictions[wrong], return_counts=True
    )
    rows, columns = np.divmod(pairs, classes)
    shares = counts / items[rows]
    order = np.lexsort((columns, rows, -shares, -counts))[:max_pairs]
    return [
        Confusion(int(row), int(column), int(count), float(share))
        for row, column, count, share in zip(
            rows[order], columns[order], counts[order], shares[order], strict=True
        )
    ]


def classes_to_draw(labels: Labels, predictions: Labels, classes: int) -> np.ndarray:
    """Returns the classes that a confusion matrix should include, in ascending order.

    The classes of the most frequent confusions come first. The most frequent classes
    fill the remaining rows of the matrix.

    Args:
        labels: numbers of the correct classes.
        predictions: numbers of the predicted classes.
        classes: number of classes.
    """
    if classes <= _DRAWN_CLASSES:
        return np.arange(classes)
    selected: dict[int, None] = {}
    max_pairs = _DRAWN_CLASSES * _DRAWN_CLASSES
    for pair in most_confused(labels, predictions, classes, max_pairs):
        both_classes = {pair.label: None, pair.prediction: None}
        if len(selected | both_classes) <= _DRAWN_CLASSES:
            selected |= both_classes
    items = np.bincount(np.asarray(labels), minlength=classes)
    for label in np.argsort(-items, kind="stable").tolist():
        if len(selected) == _DRAWN_CLASSES:
            break
        selected[label] = None
    return np.array(sorted(selected))


def confusion_chart(matrix: np.ndarray, names: Sequence[str], *, title: str) -> Markup:
    """Draws a confusion matrix of at most about 20 classes.

    The opacity of a cell grows with its fraction of the row.

    Args:
        matrix: int array that `confusion_matrix` returns.
        names: names of the classes in the rows.
        title: title for screen readers.
    """
    rows, columns = matrix.shape
    column_names = [*names, "other classes"][:columns]
    widths = [min(text_width(name), _MAX_NAME_WIDTH) for name in column_names]
    margin = round(max(widths)) + 12
    items = matrix.sum(axis=1)
    cells = []
    for row, column in np.ndindex(rows, columns):
        count = int(matrix[row, column])
        share = count / max(int(items[row]), 1)
        prediction = "correct" if row == column else f"predicted {column_names[column]}"
        note = f"{names[row]}, {prediction}: {count:,} of {items[row]:,} ({share:.1%})"
        cells.append(
            {
                "row": row,
                "column": column,
                "count": count,
                "note": note,
                "opacity": _MIN_OPACITY + (_MAX_OPACITY - _MIN_OPACITY) * share,
            }
        )
    correct = int(np.trace(matrix))
    label = f"{title}: {correct:,} of {int(items.sum()):,} predictions are correct"
    return _draw("confusion", cells, names, column_names, margin, label)
