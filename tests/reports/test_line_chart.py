import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.reports.charts import Series, line_chart, nice_ticks, thinned


def draw(*series, **options):
    options = {"title": "T", "x_label": "step", "y_label": "loss"} | options
    return ElementTree.fromstring(str(line_chart(series, **options)))


def texts(svg, kind):
    return [
        element.text
        for element in svg.iter("text")
        if kind in element.get("class").split()
    ]


def polyline(svg, number=0):
    points = list(svg.iter("polyline"))[number].get("points").split()
    return [tuple(map(float, point.split(","))) for point in points]


def test_lines_have_the_scale_of_the_axes():
    svg = draw(Series("loss", ((0, 2.0), (50, 1.0), (100, 0.0))))
    points = polyline(svg)
    # Equal steps in the data are equal distances in the drawing, whose y axis points
    # down.
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0])
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1])
    assert points[0][1] < points[2][1]
    grid = [
        float(element.get("y1"))
        for element in svg.iter("line")
        if "grid" in element.get("class")
    ]
    assert (points[2][1], points[0][1]) == (max(grid), min(grid))
    assert texts(svg, "tick")[:5] == ["0", "0.5", "1", "1.5", "2"]
    assert {"0", "50", "100"} <= set(texts(svg, "middle"))
    assert {"step", "loss"} <= set(texts(svg, "tick"))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # With round numbers only, the single tick would be 50.
        ((10, 91), ["10", "50", "91"]),
        ((160, 1_600), ["160", "500", "1,000", "1,600"]),
        ((1, 2), ["1", "1.5", "2"]),
        ((30, 30), ["30"]),
    ],
)
def test_the_first_and_the_last_step_have_ticks(steps, expected):
    svg = draw(Series("loss", tuple((step, 1.0 / step) for step in steps)))
    ticks = [
        element.text
        for element in svg.iter("text")
        if element.get("class") == "tick middle" and element.get("y") == "222"
    ]
    assert ticks == expected


def test_labels_of_close_lines_do_not_overlap():
    lines = [Series(f"R@{k}", ((0, 0.1), (9, 0.2 + k / 1e4)), 1) for k in range(5)]
    svg = draw(*lines)
    heights = [
        float(element.get("y"))
        for element in svg.iter("text")
        if "label" in element.get("class").split()
    ]
    ordered = sorted(heights)
    assert all(b - a >= 13.9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert 0 < ordered[0] and ordered[-1] < 250
    # The highest line has the highest label.
    assert heights == sorted(heights, reverse=True)


def test_values_are_formatted_and_the_chart_has_an_accessible_name():
    svg = draw(
        Series("R@1", ((1, 0.21), (2, 0.324)), 2),
        Series("R@10", ((1, 0.4), (2, 0.5)), 3),
        title="Recall <t2i>",
        y_format="{:.1%}",
        tick_format="{:.0%}",
        from_zero=True,
    )
    assert texts(svg, "end")[0] == "0%"
    assert svg.get("role") == "img"
    name = "Recall <t2i>: R@1 ends at 32.4%, R@10 ends at 50.0%"
    assert svg.get("aria-label") == name
    assert svg.find(".//circle/title").text == "R@1, 1: 21.0%"
    assert texts(svg, "label") == ["R@1", "R@10"]


def test_a_single_line_is_labeled_with_its_last_value():
    assert texts(draw(Series("training", ((1, 3.0), (2, 1.23456)))), "label") == [
        "1.235"
    ]


@pytest.mark.parametrize("points", [((5, 1.0),), ((5, 0.0),), ((1, 2.0), (9, 2.0))])
def test_single_points_and_constant_values_are_drawn(points):
    svg = draw(Series("loss", points))
    assert len(polyline(svg)) == len(points)
    assert len(list(svg.iter("circle"))) == len(points)


def test_labels_are_escaped():
    svg = line_chart(
        [Series("<b>", ((0, 0.0), (1, 1.0))), Series("&", ((0, 0.0), (1, 2.0)))],
        title='"<script>',
        x_label="<i>",
        y_label="&",
    )
    assert "<b>" not in svg and "<script>" not in svg and "<i>" not in svg
    ElementTree.fromstring(str(svg))


def test_long_histories_are_reduced_to_means():
    points = tuple((step, float(step % 2)) for step in range(10_000))
    svg = draw(Series("loss", points))
    assert len(polyline(svg)) == 400
    assert not list(svg.iter("circle"))
    assert thinned(points)[0] == (12.0, 0.48)
    assert thinned([(0, 4.0)]) == [(0, 4.0)]


@given(
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.floats(0, 1e6, allow_subnormal=False),
)
def test_ticks_cover_the_range(low, extent):
    high = low + extent
    ticks = nice_ticks(low, high)
    tolerance = 1e-6 * max(abs(low), abs(high), extent)
    assert ticks[0] <= low + tolerance and ticks[-1] >= high - tolerance
    assert 2 <= len(ticks) <= 8
    steps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert min(steps) > 0
