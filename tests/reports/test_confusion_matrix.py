"""Confusions against scikit-learn, and their drawing."""

import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from align_keras.reports.charts import (
    Confusion,
    classes_to_draw,
    confusion_chart,
    confusion_matrix,
    most_confused,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs

EVIL = "<script>&\"'</script>"


def answers(classes, items, seed=0):
    """Labels, and predictions of which many go to the next class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, items)
    near = (labels + draw.integers(0, 3, items)) % classes
    return labels, np.where(draw.random(items) < 0.8, near, draw.integers(0, classes))


@pytest.mark.ci
@needs("sklearn")
@pytest.mark.parametrize("classes, items", [(2, 9), (7, 200), (300, 2000)])
def test_counts_against_scikit_learn(classes, items):
    from sklearn import metrics

    labels, predictions = answers(classes, items)
    expected = metrics.confusion_matrix(labels, predictions, labels=np.arange(classes))
    actual = confusion_matrix(labels, predictions, classes)
    np.testing.assert_array_equal(actual, expected)
    # A part of it, with everything else in the last column.
    chosen = np.arange(0, classes, 2)
    part = confusion_matrix(labels, predictions, classes, chosen)
    np.testing.assert_array_equal(part[:, :-1], expected[np.ix_(chosen, chosen)])
    np.testing.assert_array_equal(part.sum(axis=1), expected[chosen].sum(axis=1))
    # The most frequent confusions are its largest entries off the diagonal.
    wrong = expected - np.diag(np.diag(expected))
    found = most_confused(labels, predictions, classes, most=5)
    assert [own.count for own in found] == sorted(wrong[wrong > 0])[::-1][:5]
    for own in found:
        assert own.count == expected[own.label, own.prediction]
        assert own.share == own.count / expected[own.label].sum()


def test_order_of_equal_confusions():
    labels = [0, 0, 0, 0, 1, 1, 2, 2]
    predictions = [1, 0, 0, 0, 0, 1, 1, 0]
    found = most_confused(labels, predictions, 3)
    assert found == [
        Confusion(1, 0, 1, 0.5),
        Confusion(2, 0, 1, 0.5),
        Confusion(2, 1, 1, 0.5),
        Confusion(0, 1, 1, 0.25),
    ]
    assert most_confused([0, 1], [0, 1], 2) == []


def test_many_classes_are_those_that_are_confused():
    labels = np.repeat(np.arange(1000), 3)
    predictions = labels.copy()
    predictions[labels == 700] = 12
    predictions[labels == 5] = 999
    chosen = classes_to_draw(labels, predictions, 1000, most=6)
    assert set(chosen.tolist()) >= {5, 12, 700, 999}
    assert len(chosen) == 6 and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(classes_to_draw([0], [1], 4, most=4), range(4))


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 1], [0], "`predictions` must contain one integer for each of 2 images"),
        ([0, 2], [0, 0], r"`labels` must be in \[0, 2\).*Received: 2"),
        ([0, 1], [0, -1], r"`predictions` must be in \[0, 2\).*Received: -1"),
        ([0.5, 1], [0, 0], "`labels` must contain one integer.*float64"),
    ],
)
def test_wrong_answers_are_refused(labels, predictions, message):
    for function in (confusion_matrix, most_confused):
        with pytest.raises(InputError, match=message):
            function(labels, predictions, 2)


def draw(matrix, names, title="T"):
    return ElementTree.fromstring(
        str(confusion_chart(np.array(matrix), names, title=title))
    )


def test_cells_show_counts_and_shares():
    svg = draw([[3, 1], [0, 4]], ["cat", "dog"])
    assert svg.get("aria-label") == "T: 7 of 8 are on the diagonal"
    cells = list(svg.iter("rect"))
    assert [own.get("class") for own in cells] == ["right", "wrong", "empty", "right"]
    shades = [float(own.get("fill-opacity", 0)) for own in cells]
    assert shades[3] > shades[0] > shades[1] > shades[2] == 0
    notes = [own.text for own in svg.iter("title")]
    assert "cat, taken for dog: 1 of 4 (25.0%)" in notes
    assert "dog, recognized: 4 of 4 (100.0%)" in notes
    # Rows go down, columns across.
    places = [(float(own.get("x")), float(own.get("y"))) for own in cells]
    assert places[0][1] == places[1][1] < places[2][1]
    assert places[0][0] == places[2][0] < places[1][0]


def test_a_last_column_for_other_classes():
    svg = draw([[3, 1, 2], [0, 4, 0]], ["cat", "dog"])
    assert "cat, taken for other classes: 2 of 6 (33.3%)" in [
        own.text for own in svg.iter("title")
    ]
    width, height = float(svg.get("width")), float(svg.get("height"))
    assert width == height + 30


def test_names_are_escaped_and_fit():
    names = [EVIL, "W" * 50]
    svg = draw([[1, 0], [0, 0]], names, title=EVIL)
    assert svg.get("aria-label").startswith(EVIL)
    assert not list(svg.iter("script"))
    assert set(names) <= {own.text for own in svg.iter("title")}
    assert float(svg.get("width")) < 240


def test_text_is_readable_on_the_deepest_shade():
    """Contrast of the ink on the strongest cells, on light and on dark pages."""
    module = sys.modules[confusion_matrix.__module__]
    # A cell that holds a whole row of the matrix has the deepest shade.
    [cell, _] = draw([[1, 0], [0, 1]], ["cat", "dog"]).iterfind(
        ".//rect[@class='right']"
    )
    opacity = float(cell.get("fill-opacity"))
    style = pathlib.Path(module.__file__).with_name("report.css").read_text()
    for part in style.split("@media (prefers-color-scheme: dark)")[:2]:
        colors = dict(re.findall(r"--([\w-]+): #(\w{6})", part))
        rgb = {
            name: np.array([int(value[start : start + 2], 16) for start in (0, 2, 4)])
            for name, value in colors.items()
        }
        for name in ("right", "s2"):
            deepest = opacity * rgb[name] + (1 - opacity) * rgb["page"]
            light, dark = sorted((luminance(rgb["ink"]), luminance(deepest)))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(rgb):
    levels = np.asarray(rgb) / 255
    linear = np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])
