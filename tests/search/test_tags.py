"""Tags of images: choice, calibration, tables and the column of an index."""

import csv
import json

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.embedders.label_thresholds import LabelThresholds, calibrate_thresholds
from align_keras.search.image_index import Index
from align_keras.search.index.database import RebuiltIndexError
from align_keras.search.query.query import Query
from align_keras.search.tags import (
    tag_images,
    write_tags_column,
    write_tags_table,
)
from tests.helpers.color_towers import GOLDEN, image_bytes


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("red\n\nblue\nred blue\n")
    return path


@pytest.fixture
def thresholds(tmp_path):
    path = tmp_path / "thresholds.json"
    LabelThresholds(0.6).write(path)
    return path


def test_calibration_finds_the_highest_f1():
    rng = np.random.default_rng(0)
    is_correct = rng.random((60, 3)) < 0.3
    scores = rng.normal(0, 0.1, (60, 3)) + is_correct * [0.3, 0.1, 0.0]
    labels = ["a", "b", "c"]
    correct = [[labels[i] for i in np.flatnonzero(row)] for row in is_correct]
    chosen = calibrate_thresholds(scores, labels, correct)

    def f1(limits):
        hits = ((scores >= limits) & is_correct).sum()
        return 2 * hits / ((scores >= limits).sum() + is_correct.sum())

    best = max(f1(limit) for limit in scores.ravel())
    assert f1(chosen.default) == pytest.approx(best)
    by_label = np.array([chosen.by_label[label] for label in labels])
    assert f1(by_label) > best
    # No other threshold of a single label is better.
    for column in range(3):
        for limit in scores[:, column]:
            changed = by_label.copy()
            changed[column] = limit
            assert f1(changed) <= f1(by_label) + 1e-9


def test_rare_labels_have_the_default_threshold():
    scores = np.linspace(0.9, 0, 10)[:, None] * [1, 0.5]
    correct = [["a", "b"]] * 4 + [["a"]] * 3 + [[]] * 3
    chosen = calibrate_thresholds(scores, ["a", "b"], correct)
    assert set(chosen.by_label) == {"a"}


@pytest.mark.ci
def test_tags_are_in_the_table_and_in_conditions(
    photos, labels, thresholds, tmp_path, capsys
):
    index, table = tmp_path / "index", tmp_path / "tags.jsonl"
    options = ["--labels", str(labels), "--thresholds", str(thresholds)]
    command = ["tag", str(photos), *options, "--index", str(index), "--out", str(table)]
    assert main([*command, "--model", str(GOLDEN)]) == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    tags = {row["image"].rsplit("/", 1)[1]: row["tags"] for row in rows}
    assert tags == {
        "red.png": ["red", "red blue"],
        "blue.jpg": ["blue", "red blue"],
        "green.png": [],
    }
    opened = Index.open(index)
    for condition, names in (
        ("tags like '%blue'", {"red.png", "blue.jpg"}),
        ("tags = 'red; red blue'", {"red.png"}),
        ("tags = ''", {"green.png"}),
    ):
        hits = opened.query(Query(where=condition))
        assert {hit.columns["name"] for hit in hits} == names
    # An update keeps the tags, and the next command replaces them.
    opened.add()
    assert len(opened.query(Query(where="tags is null"))) == 0
    labels.write_text("green\n")
    csv_table = tmp_path / "tags.csv"
    command = ["tag", "--index", str(index), *options, "--out", str(csv_table)]
    assert main(command) == 0
    assert len(Index.open(index).query(Query(where="tags like '%red%'"))) == 0
    with open(csv_table, newline="") as file:
        assert [row["tags"] for row in csv.DictReader(file)].count("green") == 1
    out = capsys.readouterr().out
    assert "2 of 3 images" in out and "green?" not in out


def test_every_image_has_a_best_label_and_its_score(photos, labels, tmp_path, capsys):
    command = ["tag", str(photos), "--labels", str(labels), "--model", str(GOLDEN)]
    assert main([*command, "--thresholds", "0.6"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[-1]: line for line in out.splitlines() if "photos/" in line}
    model = load_model(GOLDEN)
    texts = model.encode_texts(["red", "blue", "red blue"])
    for path, line in lines.items():
        score = (model.encode_images([path]) @ texts.T).max()
        assert line.startswith(f"{score:.3f}")
        assert ("?" in line) == (score < 0.6)
    assert len(lines) == 3
    assert main([*command, "--thresholds", "0.6", "--index", str(tmp_path / "i")]) == 0
    assert (
        lines.items()
        <= {
            line.split()[-1]: line for line in capsys.readouterr().out.splitlines()
        }.items()
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_table_has_the_scores_of_untagged_images(photos, labels, tmp_path, suffix):
    images = tag_images(Index.build(tmp_path / "i", [photos], GOLDEN), ["red"], 0.99)
    write_tags_table(images, tmp_path / f"tags{suffix}")
    text = (tmp_path / f"tags{suffix}").read_text()
    rows = (
        list(csv.DictReader(text.splitlines()))
        if suffix == ".csv"
        else [json.loads(line) for line in text.splitlines()]
    )
    assert [row["best_label"] for row in rows] == ["red"] * 3
    scores = [float(row["best_score"]) for row in rows]
    assert scores == pytest.approx([image.best_score for image in images], abs=1e-5)
    assert sum(not row["tags"] for row in rows) == 2


def test_tags_are_not_written_to_an_index_that_was_built_again(photos, tmp_path):
    index = Index.build(tmp_path / "index", [photos], GOLDEN)
    images = tag_images(index, ["red", "blue"], 0.6)
    (photos / "green.png").rename(photos / "a.png")
    Index.rebuild(tmp_path / "index", model=GOLDEN).store.close()
    with pytest.raises(RebuiltIndexError, match="was built again"):
        write_tags_column(index, images)
    index = Index.open(tmp_path / "index")
    assert "tags" not in index.store.tables.columns
    write_tags_column(index, tag_images(index, ["red", "blue"], 0.6))
    [hit] = index.latest("tags = 'red'")
    assert hit.path == str(photos / "red.png")


def test_the_table_names_the_copies_of_images(tmp_path):
    model = load_model(GOLDEN)
    contents = [image_bytes("red"), image_bytes("blue")]
    embeddings = model.encode_images(contents)
    index = Index.from_embeddings(
        embeddings, ["a", "b"], images=contents, folder=tmp_path / "index", model=model
    )
    files = [hit.file for hit in sorted(index.latest(), key=lambda hit: hit.id)]
    tagged = tag_images(index, ["red", "blue"], 0.6)
    assert [image.path for image in tagged] == files
    index = Index.from_embeddings(embeddings, ["a", "b"], model=model)
    tagged = tag_images(index, ["red", "blue"], 0.6)
    assert [image.path for image in tagged] == ["a", "b"]


@pytest.mark.ci
def test_calibrated_thresholds_are_of_the_model(photos, labels, tmp_path):
    table, file = photos / "known.csv", tmp_path / "new.json"
    table.write_text("image,labels\nred.png,red\nItaly/blue.jpg,blue\ngreen.png,\n")
    command = ["tag", "--labels", str(labels), "--model", str(GOLDEN)]
    command += ["--calibrate", str(table), "--thresholds", str(file)]
    assert main(command) == 0
    model = load_model(GOLDEN)
    thresholds = LabelThresholds.read(file)
    images = [photos / "red.png", photos / "green.png"]
    assert model.classify(images, ["red", "blue"], thresholds) == [["red"], []]
    assert thresholds.model == model.fingerprint
    other = LabelThresholds(0.5, model="other")
    with pytest.raises(ValueError, match="another model .other"):
        model.classify(images, ["red"], other)


def test_the_shipped_model_has_thresholds_and_a_text_weight():
    model = load_model("align_small_en")
    assert model.text_weight == 1.0
    assert model.label_thresholds() == LabelThresholds(0.37)
