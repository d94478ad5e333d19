"""Line charts as inline SVG, colored by the style sheet around them."""

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from align_keras.reports.bar_chart import svg

_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 56, 14, 46
# More points than this only make the file larger.
_MOST_POINTS = 400
# Up to here each point gets a dot with its numbers.
_MOST_DOTS = 40
_LABEL_HEIGHT = 14


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: (x, y) ascending in x, `style` a color's number in the style sheet."""

    label: str
    points: tuple
    style: int = 1
    dashed: bool = False


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
    xs = [x for points in shown for x, _ in points]
    ys = [y for points in shown for _, y in points]
    scale = _Scale(xs, [0.0, *ys] if from_zero else ys)
    parts = [_axes(scale, x_label, y_label, tick_format)]
    ends = []
    for line, points in zip(series, shown, strict=True):
        parts.append(_line(scale, line, points, y_format))
        ends.append((line, scale.y(points[-1][1])))
    right = _WIDTH - _RIGHT
    for (line, _), height in zip(ends, _spread([end for _, end in ends]), strict=True):
        # A line that is alone needs no name; its last value says more.
        alone = len(series) == 1
        label = y_format.format(line.points[-1][1]) if alone else line.label
        parts.append(
            f'<text class="label s{line.style}" x="{right + 8}" '
            f'y="{height + 4:.1f}">{escape(label)}</text>'
        )
    last = "; ".join(
        f"{line.label} ends at {y_format.format(line.points[-1][1])}" for line in series
    )
    return svg("chart", _WIDTH, _HEIGHT, f"{title}: {last}", parts)


class _Scale:
    """From data to the pixels of the view box."""

    def __init__(self, xs, ys):
        self.x_low, self.x_high = min(xs), max(xs)
        if self.x_low == self.x_high:
            self.x_low -= 1
        # Ticks inside the data's range: the line reaches both ends.
        ticks = nice_ticks(self.x_low, self.x_high, count=5)
        self.x_ticks = [tick for tick in ticks if self.x_low <= tick <= self.x_high]
        self.y_ticks = nice_ticks(min(ys), max(ys))

    def x(self, value):
        part = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value):
        low, high = self.y_ticks[0], self.y_ticks[-1]
        part = (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale, x_label, y_label, tick_format):
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in scale.y_ticks:
        y = scale.y(tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="{left - 7}" y="{y + 4:.1f}">'
            f"{escape(tick_format.format(tick))}</text>"
        )
    for tick in scale.x_ticks:
        x = scale.x(tick)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" '
            f'y2="{bottom + 4}"/><text class="tick middle" x="{x:.1f}" '
            f'y="{bottom + 18}">{tick:,g}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="tick middle" x="{(left + right) / 2}" y="{_HEIGHT - 6}">'
        f"{escape(x_label)}</text>"
        f'<text class="tick middle" transform="translate(12 {(_TOP + bottom) / 2}) '
        f'rotate(-90)">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _line(scale, series, points, y_format):
    places = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
    dashed = " dashed" if series.dashed else ""
    parts = [f'<polyline class="line s{series.style}{dashed}" points="{places}"/>']
    if len(points) <= _MOST_DOTS and not series.dashed:
        for x, y in points:
            note = escape(f"{series.label}, {x:,g}: {y_format.format(y)}")
            parts.append(
                f'<circle class="dot s{series.style}" cx="{scale.x(x):.1f}" '
                f'cy="{scale.y(y):.1f}" r="3.5"><title>{note}</title></circle>'
            )
    return "".join(parts)


def _spread(heights):
    """Moves labels apart that would cover each other, none below the plot."""
    order = sorted(range(len(heights)), key=lambda number: -heights[number])
    placed = list(heights)
    below = _HEIGHT - _BOTTOM + _LABEL_HEIGHT
    for number in order:
        placed[number] = min(heights[number], below - _LABEL_HEIGHT)
        below = placed[number]
    return placed
