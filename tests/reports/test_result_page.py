"""The page of an evaluation: whole, escaped, alone, and the same each time."""

import re

import numpy as np
import pytest

from align_keras.evaluation import rank_of_best_positive, shared_positives
from align_keras.protocols.paper_results import paper_figures
from align_keras.reports.result_page import write_result_page
from align_keras.reports.result_tables import MetricSlice, split_slices
from tests.helpers.browser import chromium
from tests.helpers.pages import Page, gray_image

EVIL = "<script>alert('&\"')</script>"


def retrieval(count=24, seed=0):
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(count, 6))
    texts = images + draw.normal(size=(count, 6))
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
    f"{metric}[{group}]{part}": value
    for metric in ("i2t/recall_at_1", "t2i/recall_at_1")
    for group in ("animals", f"odd [{EVIL}]/low")
    for part, value in {"": 0.5, "/low": 0.25, "/high": 0.75, "/items": 12.0}.items()
}
METRICS = {
    "i2t/recall_at_1": 0.5,
    "i2t/chance_recall_at_1": 0.001,
    "t2i/recall_at_1": float("nan"),
    "pictures": 5000.0,
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
    assert [own.name for own in path.parent.iterdir()] == ["page.html"]
    return content


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_it_loads_nothing_and_escapes_everything(content, page):
    outside = re.sub(r'src="data:[^"]*"', "", content)
    assert not re.search(r"//|@import|url\(", outside)
    assert "<script" not in content
    (policy,) = (own for own in page.attributes("meta") if "http-equiv" in own)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for words in (f"runs/{EVIL}", f"odd [{EVIL}]/low", f"class 3 {EVIL}"):
        assert words in page.words
    assert any(own.get("alt", "").endswith(EVIL) for own in page.attributes("img"))


def test_it_can_be_read_without_seeing_it(page):
    assert page.attributes("html") == [{"lang": "en"}]
    assert all("alt" in own for own in page.attributes("img"))
    assert all("scope" in own for own in page.attributes("th"))
    drawn = [own for own in page.attributes("svg") if "role" in own]
    assert len(drawn) == 4  # Two metrics by group, a matrix, bars by class.
    assert all(own["role"] == "img" and own["aria-label"] for own in drawn)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    labels = [own["aria-labelledby"] for own in page.attributes("section")]
    identifiers = [own["id"] for _, own in page.elements if "id" in own]
    assert labels == identifiers and len(set(identifiers)) == len(identifiers)


def test_metrics_stand_beside_the_papers(page):
    table = page.text.split("chance (mark)")[1].split("Table 8")[0].split()
    assert (
        table
        == (
            "image → text, recall at 1, % 50.0 0.10 58.6 77.0 58.4 "
            "text → image, recall at 1, % – 45.6 59.9 37.8 pictures 5,000"
        ).split()
    )
    assert "B3 + BERT-mini, CC3M" in page.words


def test_slices(page):
    table = page.text.split("All groups as a table")[1].split("Confusion matrix")[0]
    assert "image → text, recall at 1 animals 50.0 % 25.0 % to 75.0 % 12" in table
    assert table.count("to 75.0 %") == 4


def test_confusions(page):
    """Every fourth of 36 pictures went to the next class."""
    labels = [own["aria-label"] for own in page.attributes("svg") if "role" in own]
    assert "Confusion matrix: 27 of 36 are on the diagonal" in labels
    table = page.text.split("The most frequent confusions")[1].split("Accuracy by")[0]
    assert f"class 0 {EVIL} class 1 {EVIL} 1 33.3 %" in table
    assert table.count("33.3 %") == 9
    bars = page.text.split("All classes as a table")[1]
    assert f"class 0 {EVIL} 66.7 % 3" in bars and f"class 2 {EVIL} 66.7 % 3" in bars
    assert f"class 3 {EVIL} 66.7 % 3" not in bars


def test_hits_misses_and_the_right_answer(content, page):
    found = retrieval()
    for direction in ("i2t", "t2i"):
        section = content.split(f'id="{direction}"')[1].split("</section>")[0]
        groups = dict(
            zip(
                re.findall(r"<h3 class=\"above\">(\w+)", section),
                section.split('<h3 class="above">')[1:],
                strict=True,
            )
        )
        ranks = found["ranks"][direction]
        assert list(groups) == ["Found", "Missed", "Worst"]
        for name, group in groups.items():
            queries = group.split("<article")[1:]
            assert queries
            for query in queries:
                answers = re.findall(r"<li( class=\"[^\"]*\")?>", query)
                right = [
                    number for number, own in enumerate(answers) if "is-right" in own
                ]
                place = int(re.search(r"place (\d+) of 24", query)[1])
                if name == "Found":
                    assert len(answers) == 5 and right[0] + 1 == place
                else:
                    # The right one is behind the five, marked as such.
                    assert right == [5] and "is-right answer" in answers[5]
                    assert place > 5
        worst = re.findall(r"place (\d+) of", groups["Worst"])
        assert [int(own) - 1 for own in worst] == sorted(ranks)[::-1][:4]


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 1000])
def test_any_number_of_classes_stays_readable(tmp_path, classes):
    content = write(tmp_path / "page.html", classification=classification(classes))
    page = Page(content)
    (matrix,) = (own for own in page.attributes("svg") if own.get("class") == "matrix")
    assert float(matrix["width"]) <= 900
    charts = [own for own in page.attributes("svg") if "bars" in own.get("class", "")]
    assert len(charts) == (2 if classes > 40 else 1)
    assert (f"Of {classes:,} classes it shows 20" in page.text) == (classes > 20)
    # Every class is in the table, whatever the charts leave out.
    table = page.text.split("All classes as a table")[1]
    assert table.count("class ") == classes
    assert len(content) < 500_000


def test_without_anything_but_metrics(tmp_path):
    page = Page(write(tmp_path / "page.html", protocol="simlex", metrics={}))
    for heading in ("By group", "Confusion matrix", "Text → image"):
        assert heading not in page.words


def test_the_same_results_give_the_same_page(tmp_path, content):
    again = write(
        tmp_path / "again.html",
        slices=SLICES,
        retrieval=retrieval(),
        classification=classification(12),
    )
    assert again == content


def test_a_failure_leaves_the_old_page(tmp_path):
    path = tmp_path / "page.html"
    before = write(path)
    with pytest.raises(UnicodeEncodeError):
        write(path, facts={"model": "\udcff"})
    assert path.read_text(encoding="utf-8") == before
    assert [own.name for own in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("group", ["x]/low", "[y]", "", "/items"])
def test_groups_may_have_any_name(group):
    slices = {f"m[{group}]{part}": 1.0 for part in ("", "/low", "/high", "/items")}
    assert split_slices(slices) == [MetricSlice("m", group, 1.0, 1.0, 1.0, 1)]


@pytest.mark.ci
def test_the_table_fits_a_telephone(tmp_path):
    metrics = {
        f"{way}/{name}": value
        for way in ("i2t", "t2i")
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
        content, visible = page.evaluate(
            "(() => {const t = document.querySelector('.scroll');"
            "return [t.scrollWidth, t.clientWidth]})()"
        )
    assert content <= visible
