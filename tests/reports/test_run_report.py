import re

import numpy as np
import pytest

from align_keras.reports.examples import ExampleHit, ExampleQuery
from align_keras.reports.run_report import installed_versions, write_report
from tests.helpers.pages import Page, gray_image

# Text that would break the page if it were not escaped.
EVIL = "<script>alert('&\"')</script>"


FULL = {
    "title": f"A run {EVIL}",
    "parameters": {"task": {"model": {"name": EVIL}}, "trainer": {"train_steps": 300}},
    "metrics": {
        "t2i/recall_at_1": 0.125,
        "t2i/chance_recall_at_1": 0.005,
        "t2i/recall_at_10": 0.5,
        "t2i/chance_recall_at_10": 0.05,
        "i2t/recall_at_10": 0.625,
        "i2t/chance_recall_at_10": 0.4,
        "i2t/queries": 1402.0,
        "i2t/candidates": 7000.0,
        "loss": float("nan"),
    },
    "history": [
        {"step": 100, "loss": 4.0, "pairs_per_second": 300.0},
        {"step": 200, "loss": 2.0},
        {"step": 200, "t2i/recall_at_10": 0.4, "i2t/recall_at_10": 0.3},
        {"step": 300, "t2i/recall_at_10": 0.5, "i2t/recall_at_10": 0.625},
    ],
    "text_queries": [
        ExampleQuery(
            f"query {EVIL}",
            (
                ExampleHit(f"correct {EVIL}", 0.75, True, gray_image(10)),
                ExampleHit("wrong", 0.5, False, gray_image(200)),
            ),
            rank=1,
            total=1402,
        ),
        ExampleQuery("second query", (ExampleHit("c", 0.2, False, b"?"),), rank=17),
    ],
    "image_queries": [
        ExampleQuery(
            f"image query {EVIL}",
            (
                ExampleHit(f"answer {EVIL}", 0.5, True),
                ExampleHit("wrong answer", 0.4, False),
            ),
            rank=1,
            total=9,
            image=gray_image(60),
            neighbors=(ExampleHit("neighbor", 0.3, False, gray_image(90)),),
        )
    ],
    "data_notes": {
        "icons": {
            "kept": 900,
            "dropped": {f"empty caption {EVIL}": 100},
            "examples": {f"empty caption {EVIL}": f"a.png {EVIL}"},
            "notes": {"fonts": EVIL},
        }
    },
    "next_steps": [f'align-keras search "{EVIL}"', "tensorboard"],
    "command": f"align-keras quickstart {EVIL}",
    "findings": [
        {"step": 200, "problem": f"Problem {EVIL}.", "remedy": f"Remedy {EVIL}."}
    ],
}
EMPTY = {
    "title": "Empty",
    "parameters": {},
    "metrics": {},
    "history": [],
    "text_queries": [],
    "image_queries": [],
    "data_notes": {},
    "next_steps": [],
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report.html"
    write_report(path, **FULL)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_the_report_has_no_external_resources(content, page):
    without_data_uris = re.sub(r'src="data:[^"]*"', "", content)
    assert not re.search(r"//|@import|url\(", without_data_uris)
    sources = [element["src"] for element in page.attributes("img")]
    assert len(sources) == 5
    assert all(source.startswith("data:image/") for source in sources)
    assert {element["href"] for element in page.attributes("link")} == {"data:,"}
    (policy,) = (
        element for element in page.attributes("meta") if "http-equiv" in element
    )
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_all_text_is_escaped(content, page):
    assert page.attributes("script") == []
    assert "<script" not in content
    for words in (
        f"A run {EVIL}",
        f"query {EVIL}",
        f"correct {EVIL}",
        f"image query {EVIL}",
        f"answer {EVIL}",
        f"empty caption {EVIL}",
        f"a.png {EVIL}",
        f'align-keras search "{EVIL}"',
        f"align-keras quickstart {EVIL}",
        f"Problem {EVIL}.",
        f"Remedy {EVIL}.",
    ):
        assert words in page.words
    # The two other occurrences are the value of a parameter and a note.
    assert page.words.count(EVIL) == 2
    assert f"correct {EVIL}" in [element["alt"] for element in page.attributes("img")]


def test_the_table_lists_recalls_and_chance(page):
    table = page.text.split("Recall (bar), chance (mark)")[1].split("Other metrics")[0]
    assert table.split("→") == [
        " text ",
        " image 1 12.5 % 0.50 % 25× 10 50.0 % 5.00 % 10× image ",
        " text 10 62.5 % 40.00 % 1.6× ",
    ]
    assert "1,402 queries among 7,000" in page.text
    other_metrics = page.text.split("Other metrics")[1].split("Training")[0]
    counts = ["i2t/queries", "1,402", "i2t/candidates", "7,000"]
    assert other_metrics.split() == ["Name", "Value", *counts, "loss", "nan"]


def test_tiles_show_the_smallest_and_the_largest_k(content):
    tiles = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd><dd>(.*?)</dd>", content)
    assert tiles == [
        ("text → image, recall at 1", "12.5 %", "25× chance"),
        ("text → image, recall at 10", "50.0 %", "10× chance"),
        ("image → text, recall at 10", "62.5 %", "1.6× chance"),
    ]


def test_correct_answers_have_a_border_a_check_mark_and_a_word(content, page):
    items = re.findall(r"<li( class=\"is-correct\")?>(.*?)</li>", content, re.DOTALL)
    items = {
        re.search(r'title="([^"]*)"', body)[1]: (bool(css_class), body)
        for css_class, body in items
        if "title=" in body
    }
    assert len(items) == 6
    for caption, (has_border, body) in items.items():
        is_correct = caption.startswith(("correct", "answer"))
        assert has_border == is_correct
        assert ('class="check"' in body) == is_correct
        assert ('<span class="hidden">Correct: </span>' in body) == is_correct
        assert 'class="score num">0.' in body
    assert "Rank of the first correct image: 1 of 1,402" in page.words
    assert "Rank of the first correct image: 17" in page.words


def test_the_report_is_accessible(page):
    assert page.attributes("html") == [{"lang": "en"}]
    assert all("alt" in element for element in page.attributes("img"))
    assert all("scope" in element for element in page.attributes("th"))
    charts = [
        element for element in page.attributes("svg") if element.get("class") == "chart"
    ]
    assert len(charts) == 3
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert charts[0]["aria-label"] == "Training loss by step: training ends at 2"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    labels = [element["aria-labelledby"] for element in page.attributes("section")]
    identifiers = [
        attributes["id"] for _, attributes in page.elements if "id" in attributes
    ]
    assert labels == identifiers and len(set(identifiers)) == len(identifiers)


def test_the_report_lists_data_versions_and_parameters(page):
    assert "900 pairs kept (90.0 %)" in page.text
    assert f"numpy {np.__version__}" in page.words
    assert "task.model.name" in page.words
    assert "trainer.train_steps" in page.words


def test_light_and_dark_colors_have_enough_contrast(content):
    style = content.split("<style>")[1].split("</style>")[0]
    light, dark = (
        {name: value for name, value in re.findall(r"(--[\w-]+): (#\w+)", rules)}
        for rules in style.split("@media (prefers-color-scheme: dark)")[:2]
    )
    assert light.keys() == dark.keys()
    for colors in (light, dark):
        series = [f"--s{number}" for number in range(1, 7)]
        for name in ("--ink", "--muted", "--correct", *series):
            assert contrast(colors[name], colors["--page"]) >= 4.5
        assert contrast(colors["--muted"], colors["--surface"]) >= 4.5
        assert contrast(colors["--on-correct"], colors["--correct"]) >= 4.5
    used = set(re.findall(r"var\((--[\w-]+)\)", style))
    assert used <= light.keys()


def contrast(first, second):
    """Returns the contrast ratio of two colors as WCAG 2 defines it."""

    def luminance(color):
        levels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (
            level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4
            for level in levels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_an_empty_run_has_a_report(tmp_path):
    write_report(tmp_path / "report.html", **EMPTY)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "has not evaluated" in page.text and "has not logged" in page.text
    for heading in ("Text → images", "Data", "Next steps"):
        assert heading not in page.words


def test_a_failure_does_not_change_an_existing_report(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, **EMPTY)
    content_before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(path, **{**EMPTY, "metrics": None})
    with pytest.raises(UnicodeEncodeError):
        write_report(path, **{**EMPTY, "title": "\udcff"})
    assert path.read_bytes() == content_before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_reports_of_the_same_run_are_equal(tmp_path, content):
    write_report(tmp_path / "second.html", **FULL)
    assert (tmp_path / "second.html").read_text(encoding="utf-8") == content


def test_installed_versions_include_python_and_numpy():
    versions = installed_versions()
    assert list(versions)[0] == "python"
    assert versions["numpy"] == np.__version__
