import re

import numpy as np
import pytest

from align_keras.reports.examples import ExampleHit, ExampleQuery
from align_keras.reports.report import installed_versions, write_report
from tests.helpers.pages import Page, gray_image

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
                ExampleHit(f"right {EVIL}", 0.75, True, gray_image(10)),
                ExampleHit("wrong", 0.5, False, gray_image(200)),
            ),
            rank=1,
            total=1402,
        ),
        ExampleQuery("lost", (ExampleHit("other", 0.25, False, b"broken"),), rank=17),
    ],
    "image_queries": [
        ExampleQuery(
            f"own {EVIL}",
            (
                ExampleHit(f"answer {EVIL}", 0.5, True),
                ExampleHit("no answer", 0.4, False),
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
    assert [own.name for own in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_it_loads_nothing(content, page):
    outside = re.sub(r'src="data:[^"]*"', "", content)
    assert not re.search(r"//|@import|url\(", outside)
    sources = [own["src"] for own in page.attributes("img")]
    assert len(sources) == 5
    assert all(own.startswith("data:image/") for own in sources)
    assert {own["href"] for own in page.attributes("link")} == {"data:,"}
    (policy,) = (own for own in page.attributes("meta") if "http-equiv" in own)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_all_text_is_escaped(content, page):
    assert page.attributes("script") == []
    assert "<script" not in content
    # Each place that a user's text can reach shows it as it was written.
    for words in (
        f"A run {EVIL}",
        f"query {EVIL}",
        f"right {EVIL}",
        f"own {EVIL}",
        f"answer {EVIL}",
        f"empty caption {EVIL}",
        f"a.png {EVIL}",
        f'align-keras search "{EVIL}"',
        f"align-keras quickstart {EVIL}",
    ):
        assert words in page.words
    assert page.words.count(EVIL) == 2  # a parameter's value and a note
    assert f"right {EVIL}" in [own["alt"] for own in page.attributes("img")]


def test_metrics_table(page):
    table = page.text.split("Recall (bar), chance (mark)")[1].split("Other numbers")[0]
    assert table.split("→") == [
        " text ",
        " image 1 12.5 % 0.50 % 25× 10 50.0 % 5.00 % 10× image ",
        " text 10 62.5 % 40.00 % 1.6× ",
    ]
    assert "Image → text: 1,402 queries among 7,000 candidates." in page.text
    other = page.text.split("Other numbers")[1].split("Training")[0]
    counts = ["i2t/queries", "1,402", "i2t/candidates", "7,000"]
    assert other.split() == ["Name", "Value", *counts, "loss", "nan"]


def test_tiles_show_the_smallest_and_the_largest_k(content):
    tiles = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd><dd>(.*?)</dd>", content)
    assert tiles == [
        ("text → image, recall at 1", "12.5 %", "25× chance"),
        ("text → image, recall at 10", "50.0 %", "10× chance"),
        ("image → text, recall at 10", "62.5 %", "1.6× chance"),
    ]


def test_right_answers_are_marked_by_border_check_and_word(content, page):
    items = re.findall(r"<li( class=\"is-right\")?>(.*?)</li>", content, re.DOTALL)
    items = {
        re.search(r'title="([^"]*)"', body)[1]: (bool(mark), body)
        for mark, body in items
        if "title=" in body
    }
    assert len(items) == 6
    for caption, (marked, body) in items.items():
        right = caption.startswith(("right", "answer"))
        assert marked == right
        assert ('class="check"' in body) == right
        assert ('<span class="hidden">Right: </span>' in body) == right
        assert 'class="score num">0.' in body
    assert "First right image: place 1 of 1,402" in page.words
    assert "First right image: place 17" in page.words


def test_accessibility(page):
    assert page.attributes("html") == [{"lang": "en"}]
    assert all("alt" in own for own in page.attributes("img"))
    assert all("scope" in own for own in page.attributes("th"))
    charts = [own for own in page.attributes("svg") if own.get("class") == "chart"]
    assert len(charts) == 3
    assert all(own["role"] == "img" and own["aria-label"] for own in charts)
    assert charts[0]["aria-label"] == "Training loss by step: training ends at 2"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    labels = [own["aria-labelledby"] for own in page.attributes("section")]
    identifiers = [own["id"] for _, own in page.elements if "id" in own]
    assert labels == identifiers and len(set(identifiers)) == len(identifiers)


def test_data_steps_and_setup(page):
    assert "900 pairs kept (90.0 %)." in page.text
    assert f"numpy {np.__version__}" in page.words
    assert "task.model.name" in page.words
    assert "trainer.train_steps" in page.words


def test_light_and_dark_colors(content):
    style = content.split("<style>")[1].split("</style>")[0]
    light, dark = (
        {name: value for name, value in re.findall(r"(--[\w-]+): (#\w+)", part)}
        for part in style.split("@media (prefers-color-scheme: dark)")[:2]
    )
    assert light.keys() == dark.keys()
    for colors in (light, dark):
        for name in ("--ink", "--muted", "--right", *(f"--s{n}" for n in range(1, 7))):
            assert contrast(colors[name], colors["--page"]) >= 4.5
        assert contrast(colors["--muted"], colors["--surface"]) >= 4.5
        assert contrast(colors["--on-right"], colors["--right"]) >= 4.5
    used = set(re.findall(r"var\((--[\w-]+)\)", style))
    assert used <= light.keys()


def contrast(first, second):
    """Contrast ratio of WCAG 2."""

    def luminance(color):
        levels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (
            own / 12.92 if own <= 0.04045 else ((own + 0.055) / 1.055) ** 2.4
            for own in levels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_an_empty_run_has_a_report(tmp_path):
    write_report(tmp_path / "report.html", **EMPTY)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Nothing was evaluated in this run." in page.words
    assert "No history was logged." in page.words
    for heading in ("Text → images", "Data", "What to run next"):
        assert heading not in page.words


def test_a_failure_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, **EMPTY)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(path, **{**EMPTY, "metrics": None})
    with pytest.raises(UnicodeEncodeError):
        write_report(path, **{**EMPTY, "title": "\udcff"})
    assert path.read_bytes() == before
    assert [own.name for own in tmp_path.iterdir()] == ["report.html"]


def test_the_same_run_gives_the_same_report(tmp_path, content):
    write_report(tmp_path / "again.html", **FULL)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == content


def test_installed_versions():
    versions = installed_versions()
    assert list(versions)[0] == "python"
    assert versions["numpy"] == np.__version__
