"""HTML page of an evaluation."""

import re

import numpy as np
import pytest

from align_keras.evaluation import rank_of_best_positive, shared_positives
from align_keras.protocols.paper_results import paper_figures
from align_keras.reports.result_page import write_result_page
from align_keras.reports.result_tables import MetricSlice, split_slices
from tests.helpers.browser import chromium
from tests.helpers.pages import Page, gray_image

# Text that would break the page if it were not escaped.
EVIL = "<script>alert('&\"')</script>"


def retrieval(count=24, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 6))
    texts = images + rng.normal(size=(count, 6))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    captions = [f"caption {row} {EVIL}" for row in range(count)]
    positives = shared_positives(list(range(count)), captions)
    return {
        "image_embeddings": images.astype(np.float32),
        "text_embeddings": texts.astype(np.float32),
        "images": [gray_image(10 * row) for row in range(count)],
        "captions": captions,
        "caption_image_index": np.arange(count),
        "positives": positives,
        "ranks": {
            "i2t": rank_of_best_positive(images, texts, positives.image_to_text),
            "t2i": rank_of_best_positive(texts, images, positives.text_to_image),
        },
    }


def classification(classes):
    labels = np.repeat(np.arange(classes), 3)
    predictions = labels.copy()
    predictions[::4] = (predictions[::4] + 1) % classes
    names = [f"class {row} {EVIL}" for row in range(classes)]
    return {"labels": labels, "predictions": predictions, "class_names": names}


SLICES = {
    f"{metric}[{group}]{suffix}": value
    for metric in ("i2t/recall_at_1", "t2i/recall_at_1")
    for group in ("animals", f"odd [{EVIL}]/low")
    for suffix, value in {"": 0.5, "/low": 0.25, "/high": 0.75, "/items": 12.0}.items()
}
METRICS = {
    "i2t/recall_at_1": 0.5,
    "i2t/chance_recall_at_1": 0.001,
    "t2i/recall_at_1": float("nan"),
    "images": 5000.0,
}


def write(path, **options):
    arguments = {
        "protocol": "retrieval",
        "data": "coco",
        "facts": {"model": f"runs/{EVIL}"},
        "metrics": METRICS,
    }
    arguments |= options
    if "figures" not in arguments:
        names = arguments["protocol"], arguments["data"]
        arguments["figures"] = paper_figures(*names)
    write_result_page(path, **arguments)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    content = write(
        path, slices=SLICES, retrieval=retrieval(), classification=classification(12)
    )
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    return content


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_the_page_has_no_external_resources_and_escapes_text(content, page):
    without_data_uris = re.sub(r'src="data:[^"]*"', "", content)
    assert not re.search(r"//|@import|url\(", without_data_uris)
    assert "<script" not in content
    (policy,) = (
        element for element in page.attributes("meta") if "http-equiv" in element
    )
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for words in (f"runs/{EVIL}", f"odd [{EVIL}]/low", f"class 3 {EVIL}"):
        assert words in page.words
    assert any(
        element.get("alt", "").endswith(EVIL) for element in page.attributes("img")
    )


def test_the_page_is_accessible(page):
    assert page.attributes("html") == [{"lang": "en"}]
    assert all("alt" in element for element in page.attributes("img"))
    assert all("scope" in element for element in page.attributes("th"))
    charts = [element for element in page.attributes("svg") if "role" in element]
    # The charts are two metrics by group, a confusion matrix and accuracies by class.
    assert len(charts) == 4
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    labels = [element["aria-labelledby"] for element in page.attributes("section")]
    identifiers = [
        attributes["id"] for _, attributes in page.elements if "id" in attributes
    ]
    assert labels == identifiers and len(set(identifiers)) == len(identifiers)


def test_the_table_compares_metrics_with_the_paper(page):
    table = page.text.split("chance (mark)")[1].split("Table 8")[0].split()
    assert (
        table
        == (
            "image → text, recall at 1, % 50.0 0.10 58.6 77.0 58.4 "
            "text → image, recall at 1, % – 45.6 59.9 37.8 images 5,000"
        ).split()
    )
    assert "B3 + BERT-mini, CC3M" in page.words


def test_slices_have_a_table(page):
    table = page.text.split("All groups as a table")[1].split("Confusion matrix")[0]
    assert "image → text, recall at 1 animals 50.0 % 25.0 % to 75.0 % 12" in table
    assert table.count("to 75.0 %") == 4


def test_confusions_have_a_matrix_and_a_table(page):
    # `classification` predicts the next class for every fourth of 36 images.
    labels = [
        element["aria-label"] for element in page.attributes("svg") if "role" in element
    ]
    assert "Confusion matrix: 27 of 36 predictions are correct" in labels
    table = page.text.split("Most frequent confusions")[1].split("Accuracy by")[0]
    assert f"class 0 {EVIL} class 1 {EVIL} 1 33.3 %" in table
    assert table.count("33.3 %") == 9
    bars = page.text.split("All classes as a table")[1]
    assert f"class 0 {EVIL} 66.7 % 3" in bars and f"class 2 {EVIL} 66.7 % 3" in bars
    assert f"class 3 {EVIL} 66.7 % 3" not in bars


def test_examples_show_hits_ranks_and_the_correct_answer(content, page):
    ranks = retrieval()["ranks"]
    for direction in ("i2t", "t2i"):
        section = content.split(f'id="{direction}"')[1].split("</section>")[0]
        groups = dict(
            zip(
                re.findall(r"<h3 class=\"subheading\">(\w+)", section),
                section.split('<h3 class="subheading">')[1:],
                strict=True,
            )
        )
        assert list(groups) == ["Successes", "Failures", "Worst"]
        for name, group in groups.items():
            queries = group.split("<article")[1:]
            assert queries
            for query in queries:
                items = re.findall(r"<li( class=\"[^\"]*\")?>", query)
                correct_positions = [
                    position
                    for position, css_class in enumerate(items)
                    if "is-correct" in css_class
                ]
                rank = int(re.search(r"correct \w+: (\d+) of 24", query)[1])
                if name == "Successes":
                    assert len(items) == 5 and correct_positions[0] + 1 == rank
                else:
                    # The correct answer follows the five hits.
                    assert correct_positions == [5]
                    assert "is-correct answer" in items[5]
                    assert rank > 5
        worst_ranks = re.findall(r"correct \w+: (\d+) of", groups["Worst"])
        assert [int(rank) - 1 for rank in worst_ranks] == sorted(ranks[direction])[
            ::-1
        ][:4]


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 1000])
def test_the_page_is_readable_with_any_number_of_classes(tmp_path, classes):
    content = write(tmp_path / "page.html", classification=classification(classes))
    page = Page(content)
    (matrix,) = (
        element
        for element in page.attributes("svg")
        if element.get("class") == "matrix"
    )
    assert float(matrix["width"]) <= 900
    charts = [
        element
        for element in page.attributes("svg")
        if "bars" in element.get("class", "")
    ]
    assert len(charts) == (2 if classes > 40 else 1)
    assert (f"has the 20 of {classes:,} classes" in page.text) == (classes > 20)
    # The table has all classes, including those that the charts omit.
    table = page.text.split("All classes as a table")[1]
    assert table.count("class ") == classes
    assert len(content) < 500_000


def test_sections_without_data_are_omitted(tmp_path):
    page = Page(write(tmp_path / "page.html", protocol="simlex", metrics={}))
    for heading in ("By group", "Confusion matrix", "Text → image"):
        assert heading not in page.words


def test_pages_of_the_same_results_are_equal(tmp_path, content):
    second_page = write(
        tmp_path / "second.html",
        slices=SLICES,
        retrieval=retrieval(),
        classification=classification(12),
    )
    assert second_page == content


def test_a_failure_does_not_change_an_existing_page(tmp_path):
    path = tmp_path / "page.html"
    content_before = write(path)
    with pytest.raises(UnicodeEncodeError):
        write(path, facts={"model": "\udcff"})
    assert path.read_text(encoding="utf-8") == content_before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("group", ["x]/low", "[y]", "", "/items"])
def test_groups_may_have_any_name(group):
    suffixes = ("", "/low", "/high", "/items")
    slices = {f"m[{group}]{suffix}": 1.0 for suffix in suffixes}
    assert split_slices(slices) == [MetricSlice("m", group, 1.0, 1.0, 1.0, 1)]


@pytest.mark.ci
def test_the_table_fits_the_screen_of_a_phone(tmp_path):
    metrics = {
        f"{direction}/{name}": value
        for direction in ("i2t", "t2i")
        for name, value in (
            ("recall_at_1", 0.0009),
            ("chance_recall_at_1", 0.0018),
            ("recall_at_10", 0.0123),
            ("chance_recall_at_10", 0.0179),
            ("queries", 1402.0),
            ("queries_without_positives", 0.0),
            ("candidates", 1402.0),
        )
    }
    path = tmp_path / "page.html"
    write_result_page(
        path,
        protocol="retrieval",
        data="stamps",
        facts={},
        metrics=metrics,
        figures={},
    )
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(path.as_uri())
        content_width, visible_width = page.evaluate(
            "(() => {const table = document.querySelector('.scroll');"
            "return [table.scrollWidth, table.clientWidth]})()"
        )
    assert content_width <= visible_width
