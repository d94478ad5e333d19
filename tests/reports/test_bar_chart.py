"""Lengths, intervals, labels and scales of bar charts."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from align_keras.reports.charts import Bar, bar_chart, extremes
from align_keras.reports.page_template import shortened, text_width

EVIL = "<script>&\"'</script>"


def draw(*bars, **options):
    return ElementTree.fromstring(str(bar_chart(bars, **({"title": "T"} | options))))


def widths(svg):
    return [float(element.get("width")) for element in svg.iter("rect")]


def test_lengths_are_proportional_to_the_values():
    svg = draw(Bar("a", 0.25), Bar("b", 0.5), Bar("c", 1.0), Bar("d", 0.0))
    quarter, half, whole, zero = widths(svg)
    assert (half, whole, zero) == (
        pytest.approx(2 * quarter, abs=0.2),
        pytest.approx(4 * quarter, abs=0.2),
        0,
    )
    grid = [float(element.get("x1")) for element in svg.iter("line")]
    starts = [float(element.get("x")) for element in svg.iter("rect")]
    assert set(starts) == {grid[0]} and grid[2] - grid[0] == whole


def test_intervals_have_the_scale_of_the_bars():
    svg = draw(Bar("a", 0.5, 12, 0.25, 1.0))
    (path,) = (element.get("d") for element in svg.iter("path"))
    grid = [float(element.get("x1")) for element in svg.iter("line")]
    low = float(path[1:].split(" ")[0])
    assert low == pytest.approx((grid[0] + grid[1]) / 2, abs=0.1)
    assert f"H{grid[2]:.1f}" in path
    (note,) = (element.text for element in svg.iter("title"))
    assert note == "a: 50.0 %, 25.0 % to 100.0 %, 12 items"


def test_text_is_escaped_and_readable_for_screen_readers():
    svg = draw(Bar(EVIL, 0.5, 3), title=f"Accuracy {EVIL}", value_name="share")
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == f"Accuracy {EVIL}: {EVIL} 50.0 %"
    assert not list(svg.iter("script"))
    texts = [element.text for element in svg.iter("text")]
    assert {"share", "items", "50.0 %", "3"} <= set(texts)


def test_a_value_of_nan_has_no_bar():
    svg = draw(Bar("a", math.nan, 0, math.nan, math.nan))
    assert widths(svg) == [0]
    assert "–" in [element.text for element in svg.iter("text")]
    assert not list(svg.iter("path"))
    assert draw().get("aria-label") == "T: "


@pytest.mark.parametrize("text", ["W" * 60, "あ" * 60, "i" * 200, "a b " * 40])
def test_long_names_are_shortened_to_the_width(text):
    short = shortened(text, 120)
    assert short.endswith("…") and text.startswith(short[:-1])
    assert 60 < text_width(short) < 135
    assert shortened(" cat\n dog ", 120) == "cat dog"


def test_extremes_returns_the_lowest_and_highest_bars():
    bars = [Bar(str(number), number / 10, 1) for number in (3, 9, 1, 5, 7)]
    extreme_bars, omitted = extremes(bars, max_bars=3)
    assert ([bar.label for bar in extreme_bars], omitted) == (["1", "3", "9"], 2)
    # Equal values are sorted by descending count, then by name.
    bars = [Bar("b", 0.5, 1), Bar("a", 0.5, 1), Bar("c", 0.5, 2)]
    extreme_bars, omitted = extremes(bars)
    assert ([bar.label for bar in extreme_bars], omitted) == (["c", "a", "b"], 0)
    assert extremes([Bar("a", math.nan)]) == ([], 0)


@pytest.mark.parametrize(
    "values, end",
    [((0.0, 0.0), 2), ((0.03, 0.01), 5), ((0.2, 0.21), 50), ((1.2,), 100)],
)
def test_the_scale_makes_small_values_visible(values, end):
    svg = draw(*(Bar("a", value) for value in values))
    ticks = [
        element.text for element in svg.iter("text") if "tick" in element.get("class")
    ][:3]
    assert ticks == ["0 %", f"{end / 2:g} %", f"{end} %"]
    grid = [float(element.get("x1")) for element in svg.iter("line")]
    whole = grid[2] - grid[0]
    for value, width in zip(values, widths(svg), strict=True):
        expected = min(100 * value / end, 1) * whole
        assert width == pytest.approx(expected, abs=0.1)
    # The scale covers intervals too.
    svg = draw(Bar("a", 0.01, 5, 0.0, 0.4))
    assert "50 %" in [element.text for element in svg.iter("text")]
