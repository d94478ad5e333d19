"""Horizontal bars as inline SVG, colored by the style sheet around them."""

import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

_WIDTH, _ROW, _TOP = 380, 22, 20
# Where the scale may end: small values shall be seen too.
_ENDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Where the bars begin and end, and where their values and counts end.
_LEFT, _RIGHT, _VALUE, _COUNT = 132, 266, 336, _WIDTH - 2
# The style sheet's letters, and about how wide they are: the text is cut to fit.
_FONT_SIZE = 12.5
_NARROW, _WIDE = set("fijlrtI.,:;!'|()[]/- "), set("mwMW%@&<>+=~_")


@dataclasses.dataclass(frozen=True)
class Bar:
    """One value between 0 and 1, NaN where there is nothing to measure. `count` are the
    items that it is a mean of, `low` and `high` its interval.
    """

    label: str
    value: float
    count: int | None = None
    low: float | None = None
    high: float | None = None


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


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    value_name: str = "value",
    count_name: str = "items",
) -> Markup:
    """Draws a bar a row, from 0 to at most 100 %, with its interval and its numbers."""
    height = _TOP + _ROW * len(bars) + 4
    largest = max((_largest(bar) for bar in bars), default=1.0)
    end = next((end for end in _ENDS if largest <= end), 1.0)
    parts = [_grid(height, end), _heading(value_name, _VALUE)]
    if any(bar.count is not None for bar in bars):
        parts.append(_heading(count_name, _COUNT))
    for row, bar in enumerate(bars):
        parts.append(_bar(bar, _TOP + _ROW * row, end))
    told = "; ".join(f"{bar.label} {_percent(bar.value)}" for bar in bars)
    return svg("chart bars", _WIDTH, height, f"{title}: {told}", parts)


def svg(
    kind: str, width: int, height: int, label: str, parts: Iterable[str], size: str = ""
) -> Markup:
    """An SVG element of classes of `report.css`, read out as `label`."""
    return Markup(
        f'<svg class="{kind}" {size}viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def text_width(text: str) -> float:
    """About how many pixels a text takes in a chart, rather too many."""
    ems = 0.0
    for letter in text:
        if letter in _NARROW:
            ems += 0.42
        elif unicodedata.east_asian_width(letter) in "WF":
            ems += 1.05
        else:
            ems += 0.88 if letter in _WIDE else 0.72 if letter.isupper() else 0.64
    return _FONT_SIZE * ems


def shortened(text: str, width: float) -> str:
    """The text, or as much of it as fits `width` pixels, with an ellipsis."""
    text = " ".join(text.split())
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - _FONT_SIZE:
        text = text[:-1]
    return text.rstrip() + "…"


def _percent(value):
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _largest(bar):
    """The greatest number of a bar, 0 where it has none."""
    numbers = [number for number in (bar.value, bar.high) if number is not None]
    return max((number for number in numbers if not math.isnan(number)), default=0.0)


def _x(value, end):
    return _LEFT + min(max(value / end, 0.0), 1.0) * (_RIGHT - _LEFT)


def _grid(height, end):
    lines = []
    # The last one ends at its line, for the heading of the values follows.
    for value, anchor in ((0.0, "middle"), (end / 2, "middle"), (end, "end")):
        x = f"{_x(value, end):.1f}"
        lines.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP - 4}" y2="{height}"/>'
            f'<text class="tick {anchor}" x="{x}" y="{_TOP - 8}">'
            f"{100 * value:g} %</text>"
        )
    return "".join(lines)


def _heading(name, x):
    return f'<text class="tick end" x="{x}" y="{_TOP - 8}">{escape(name)}</text>'


def _bar(bar, y, end):
    middle = y + _ROW / 2
    count = "" if bar.count is None else f", {bar.count:,} items"
    interval = ""
    if bar.low is not None and bar.high is not None and math.isfinite(bar.low):
        interval = f", {_percent(bar.low)} to {_percent(bar.high)}"
    note = escape(f"{bar.label}: {_percent(bar.value)}{interval}{count}")
    width = 0.0 if math.isnan(bar.value) else _x(bar.value, end) - _LEFT
    parts = [
        f"<g><title>{note}</title>"
        f'<text class="name end" x="{_LEFT - 8}" y="{middle + 4:.1f}">'
        f"{escape(shortened(bar.label, _LEFT - 10))}</text>"
        f'<rect class="fill" x="{_LEFT}" y="{y + 4}" width="{width:.1f}" '
        f'height="{_ROW - 8}"/>'
    ]
    if interval:
        low, high = _x(bar.low, end), _x(bar.high, end)
        parts.append(
            f'<path class="interval" d="M{low:.1f} {middle - 4:.1f}v8M{low:.1f} '
            f'{middle:.1f}H{high:.1f}M{high:.1f} {middle - 4:.1f}v8"/>'
        )
    parts.append(
        f'<text class="name end" x="{_VALUE}" y="{middle + 4:.1f}">'
        f"{_percent(bar.value)}</text>"
    )
    if bar.count is not None:
        parts.append(
            f'<text class="end" x="{_COUNT}" y="{middle + 4:.1f}">{bar.count:,}</text>'
        )
    return "".join(parts) + "</g>"
