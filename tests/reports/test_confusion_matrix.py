"""Counts of confusions, compared with scikit-learn, and the drawn matrix."""

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


def random_predictions(classes, items, seed=0):
    """Returns random labels and predictions. Many confuse a class with the next one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, items)
    near = (labels + rng.integers(0, 3, items)) % classes
    return labels, np.where(rng.random(items) < 0.8, near, rng.integers(0, classes))


@pytest.mark.ci
@needs("sklearn")
@pytest.mark.parametrize("classes, items", [(7, 200), (300, 2000)])
def test_counts_equal_those_of_scikit_learn(classes, items):
    from sklearn import metrics

    labels, predictions = random_predictions(classes, items)
    expected = metrics.confusion_matrix(labels, predictions, labels=np.arange(classes))
    actual = confusion_matrix(labels, predictions, classes)
    np.testing.assert_array_equal(actual, expected)
    # The last column of a subset counts all predictions outside the subset.
    subset = np.arange(0, classes, 2)
    matrix = confusion_matrix(labels, predictions, classes, subset)
    np.testing.assert_array_equal(matrix[:, :-1], expected[np.ix_(subset, subset)])
    np.testing.assert_array_equal(matrix.sum(axis=1), expected[subset].sum(axis=1))
    # The most frequent confusions are the largest entries off the diagonal.
    wrong = expected - np.diag(np.diag(expected))
    confusions = most_confused(labels, predictions, classes, max_pairs=5)
    counts = [confusion.count for confusion in confusions]
    assert counts == sorted(wrong[wrong > 0])[::-1][:5]
    for confusion in confusions:
        row = expected[confusion.label]
        assert confusion.count == row[confusion.prediction]
        assert confusion.share == confusion.count / row.sum()


def test_equal_confusions_are_sorted_by_share_and_class():
    labels = [0, 0, 0, 0, 1, 1, 2, 2]
    predictions = [1, 0, 0, 0, 0, 1, 1, 0]
    assert most_confused(labels, predictions, 3) == [
        Confusion(1, 0, 1, 0.5),
        Confusion(2, 0, 1, 0.5),
        Confusion(2, 1, 1, 0.5),
        Confusion(0, 1, 1, 0.25),
    ]
    assert most_confused([0, 1], [0, 1], 2) == []


def test_the_most_confused_of_many_classes_are_drawn():
    labels = np.repeat(np.arange(1000), 3)
    predictions = labels.copy()
    predictions[labels == 700] = 12
    predictions[labels == 5] = 999
    classes = classes_to_draw(labels, predictions, 1000)
    assert set(classes.tolist()) >= {5, 12, 700, 999}
    assert len(classes) == 20 and (np.diff(classes) > 0).all()
    np.testing.assert_array_equal(classes_to_draw([0], [1], 4), range(4))


@pytest.mark.parametrize("function", [confusion_matrix, most_confused])
def test_invalid_labels_are_refused(function):
    with pytest.raises(InputError, match="predictions"):
        function([0, 1], [0, -1], 2)


def draw(matrix, names, title="T"):
    return ElementTree.fromstring(
        str(confusion_chart(np.array(matrix), names, title=title))
    )


def test_cells_show_counts_and_shares():
    svg = draw([[3, 1], [0, 4]], ["cat", "dog"])
    assert svg.get("aria-label") == "T: 7 of 8 predictions are correct"
    cells = list(svg.iter("rect"))
    assert [cell.get("class") for cell in cells] == [
        "correct",
        "wrong",
        "empty",
        "correct",
    ]
    opacities = [float(cell.get("fill-opacity", 0)) for cell in cells]
    assert opacities[3] > opacities[0] > opacities[1] > opacities[2] == 0
    notes = [element.text for element in svg.iter("title")]
    assert "cat, predicted dog: 1 of 4 (25.0%)" in notes
    assert "dog, correct: 4 of 4 (100.0%)" in notes
    # The cells are drawn row by row.
    xs = [float(cell.get("x")) for cell in cells]
    ys = [float(cell.get("y")) for cell in cells]
    assert ys[0] == ys[1] < ys[2]
    assert xs[0] == xs[2] < xs[1]


def test_the_last_column_counts_other_classes():
    svg = draw([[3, 1, 2], [0, 4, 0]], ["cat", "dog"])
    assert "cat, predicted other classes: 2 of 6 (33.3%)" in [
        element.text for element in svg.iter("title")
    ]
    width, height = float(svg.get("width")), float(svg.get("height"))
    assert width == height + 30


def test_names_are_escaped_and_shortened():
    names = [EVIL, "W" * 50]
    svg = draw([[1, 0], [0, 0]], names, title=EVIL)
    assert svg.get("aria-label").startswith(EVIL)
    assert not list(svg.iter("script"))
    assert set(names) <= {element.text for element in svg.iter("title")}
    assert float(svg.get("width")) < 240


def test_counts_are_readable_on_the_darkest_cells():
    """Checks the contrast of text and cells on light and dark pages."""
    module = sys.modules[confusion_matrix.__module__]
    # A cell with all items of its row has the maximum opacity.
    [cell, _] = draw([[1, 0], [0, 1]], ["cat", "dog"]).iterfind(
        ".//rect[@class='correct']"
    )
    opacity = float(cell.get("fill-opacity"))
    style = pathlib.Path(module.__file__).with_name("report.css").read_text()
    for color_scheme in style.split("@media (prefers-color-scheme: dark)")[:2]:
        colors = dict(re.findall(r"--([\w-]+): #(\w{6})", color_scheme))
        rgb = {
            name: np.array([int(value[start : start + 2], 16) for start in (0, 2, 4)])
            for name, value in colors.items()
        }
        for name in ("correct", "s2"):
            background = opacity * rgb[name] + (1 - opacity) * rgb["page"]
            luminances = (luminance(rgb["ink"]), luminance(background))
            assert (max(luminances) + 0.05) / (min(luminances) + 0.05) >= 4.5


def luminance(rgb):
    levels = np.asarray(rgb) / 255
    linear = np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])
