"""Slices by the columns of a table of metadata."""

import functools
import json

import numpy as np
import pytest

from align_keras import datasets
from align_keras.datasets import benchmarks
from align_keras.protocols.class_protocols import labeled_images
from align_keras.protocols.fine_tuning_protocols import ClassificationData
from align_keras.protocols.protocol import Request
from align_keras.runs.card_facts import read_evaluation
from tests.helpers.oracle_process import needs
from tests.helpers.small_benchmarks import coco_name, write_image
from tests.helpers.small_run import COLORS, SHAPES, draw
from tests.protocols import small_data

# Fixtures that other tests of the command also use.
align, data, evaluate = small_data.align, small_data.data, small_data.evaluate
imagenet_r, shapes = small_data.imagenet_r, small_data.shapes


@pytest.fixture
def slice_by_location(tmp_path):
    """Function that writes a table of locations and returns the options to use it."""

    def write(locations, name="metadata.csv"):
        separator = "\t" if name.endswith("tsv") else ","
        lines = [("id", "location"), *locations.items()]
        path = tmp_path / name
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
        return f"--metadata={path}", "--slice_by=location"

    return write


def check_slices(slices, direction, ranks, groups):
    """Compares the recalls of each group with a calculation from ranks.

    Args:
        slices: dict of the metrics of the groups.
        direction: str, prefix of the metrics, such as "t2i".
        ranks: rank of the best correct row of each query, or -1 to exclude the query.
        groups: group of each query.
    """
    ranks, groups = np.asarray(ranks), np.asarray(groups)
    for group in set(groups[ranks >= 0]):
        group_ranks = ranks[(groups == group) & (ranks >= 0)]
        for k in (1, 5, 10):
            name = f"{direction}/recall_at_{k}[{group}]"
            assert slices[name] == pytest.approx(np.mean(group_ranks < k)), name
            assert slices[f"{name}/items"] == len(group_ranks)
            assert slices[f"{name}/low"] <= slices[name] <= slices[f"{name}/high"]


def compute_ranks(scores, is_correct):
    """Returns the number of wrong rows before the best correct row of each query.

    Queries without a correct row have the rank -1.
    """
    best = np.where(is_correct, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = (np.where(is_correct, -np.inf, scores) >= best).sum(axis=1)
    return np.where(is_correct.any(axis=1), ranks, -1)


def test_slices_of_flickr30k_match_a_calculation(
    evaluate, slice_by_location, align, data, capsys
):
    # Two of eight images have no row in the table. The row of an unknown image is
    # ignored.
    locations = {f"{1000 + row}.jpg": "in" if row % 2 else "out" for row in range(6)}
    arguments = slice_by_location(locations | {"9.jpg": "up"}, "metadata.tsv")
    result = evaluate("retrieval", "--data=flickr30k", *arguments)
    assert capsys.readouterr().err.count("2 of 8 images have no row in ") == 1
    folder = data / "flickr30k"
    flickr30k = benchmarks.read_karpathy(
        folder / "dataset_flickr30k.json", folder / "images", "test"
    )
    images, texts, owners = small_data.encode_data(align, flickr30k, flickr30k.captions)
    is_correct = owners == np.arange(8)[:, None]
    groups = np.array(["out", "in"] * 3 + ["(none)"] * 2)
    scores = images @ texts.T
    check_slices(result["slices"], "i2t", compute_ranks(scores, is_correct), groups)
    check_slices(
        result["slices"], "t2i", compute_ranks(scores.T, is_correct.T), groups[owners]
    )
    assert result["slices"]["t2i/recall_at_1[(none)]/items"] == 10
    assert not [name for name in result["slices"] if "[up]" in name]


def test_slices_of_cxc_retrieval_match_a_calculation(
    evaluate, slice_by_location, align, data
):
    groups = np.array(["in", "in", "out", "out", "out", "in"])
    arguments = slice_by_location(
        {coco_name(row): group for row, group in enumerate(groups)}
    )
    result = evaluate("cxc_retrieval", *arguments)
    assert result["slice_by"] == "location"
    # The model card can read the printed result.
    path = data / "report.json"
    path.write_text(json.dumps(result))
    assert read_evaluation(path, result["model"]) == result
    images, texts, pairs = small_data.encode_cxc(align, data)
    # Captions without ratings are not candidates.
    owners = np.repeat(np.arange(6), 5)
    is_correct = {
        "t2i": np.zeros((30, 6), bool),
        "t2t": np.zeros((30, 30), bool),
        "i2i": np.zeros((6, 6), bool),
    }
    for name, task in (("t2i", "sits"), ("t2t", "sts"), ("i2i", "sis")):
        for first, second, score in pairs[task]:
            is_correct[name][first, second] |= score >= 3
    slices, scores = result["slices"], texts @ images.T
    check_slices(
        slices, "t2i", compute_ranks(scores, is_correct["t2i"]), groups[owners]
    )
    check_slices(slices, "i2t", compute_ranks(scores.T, is_correct["t2i"].T), groups)
    for name, rows, row_groups in (
        ("t2t", texts, groups[owners]),
        ("i2i", images, groups),
    ):
        scores = rows @ rows.T
        # A query is not its own candidate.
        np.fill_diagonal(scores, -np.inf)
        check_slices(
            slices,
            name,
            compute_ranks(scores, is_correct[name] | is_correct[name].T),
            row_groups,
        )
    # 24 captions have a correct image, 12 of them in this group.
    assert slices["t2i/recall_at_5[in]/items"] == 12


@pytest.mark.ci
@needs("scipy")
def test_slices_of_cxc_similarity_match_a_calculation(
    evaluate, slice_by_location, align, data, tmp_path
):
    groups = np.array(["in", "in", "in", "in", "out", "out"])
    arguments = slice_by_location(
        {coco_name(row): group for row, group in enumerate(groups)}
    )
    page = tmp_path / "page.html"
    result = evaluate("cxc_similarity", *arguments, f"--html={page}")
    images, texts, pairs = small_data.encode_cxc(align, data)
    # Each bootstrap sample draws two of the four images of the group.
    correlations = small_data.sampled_correlations(images, texts, pairs["sits"], 4)
    slices = result["slices"]
    # Samples are 1, -1 or 0, so that the standard error of each mean is about 0.03.
    assert slices["sits/spearman[in]"] == pytest.approx(np.mean(correlations), abs=0.13)
    assert slices["sits/spearman[in]/items"] == 4
    low, high = (slices[f"sits/spearman[in]/{end}"] for end in ("low", "high"))
    assert (low, high) == pytest.approx(tuple(np.percentile(correlations, (2.5, 97.5))))
    tasks = [slices[f"{task}/spearman[in]"] for task in ("sts", "sis", "sits")]
    assert slices["mean/spearman[in]"] == pytest.approx(np.mean(tasks))
    # A bootstrap sample has half of the items of a group. The group has two images, and
    # a sample of one image has no correlation. Samples of captions are large enough.
    assert "sts/spearman[out]" in slices and "sits/spearman[out]" not in slices
    page_text = page.read_text(encoding="utf-8")
    label = "captions (STS), Spearman correlation"
    assert f'<th scope="row">{label}</th><td>out</td>' in page_text


def test_a_user_table_is_joined_with_the_metadata(
    evaluate, slice_by_location, tmp_path
):
    lines = ["image,caption,style"]
    for row in range(4):
        write_image(tmp_path / f"images/{row}.png", row)
        lines.append(f"images/{row}.png,number {row},ink")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines))
    arguments = slice_by_location(
        {f"images/{row}.png": "ab"[row % 2] for row in range(4)}
    )
    result = evaluate("retrieval", f"--data={table}", *arguments)
    assert result["slices"]["i2t/recall_at_1[b]/items"] == 2
    # The columns of the data are available together with those of the metadata.
    result = evaluate("retrieval", f"--data={table}", arguments[0], "--slice_by=style")
    assert result["slices"]["i2t/recall_at_1[ink]/items"] == 4


def test_slices_of_class_folders_match_the_classes(evaluate, slice_by_location, shapes):
    """A metadata column with the class gives the slices of the column `class`."""
    locations = {
        f"{shape}/{color}.png": shape for shape in SHAPES for color in COLORS[6:]
    }
    arguments = slice_by_location(locations)
    result = evaluate("zero_shot", f"--data={shapes}", *arguments)
    expected = evaluate("zero_shot", f"--data={shapes}", "--slice_by=class")
    assert result["slices"] == expected["slices"] and result["slices"]


@pytest.mark.ci
@needs("clip_benchmark")
def test_metadata_of_tfds_is_matched_by_file_name(
    evaluate, slice_by_location, imagenet_r
):
    del imagenet_r
    data_options = (
        "--data=imagenet_r",
        "--classes=clip:imagenet1k",
        "--templates=none",
    )
    result = evaluate(
        "zero_shot", *data_options, *slice_by_location({"0": "in", "2": "in"})
    )
    assert result["slices"]["zero_shot/top_1[in]/items"] == 2
    assert result["slices"]["zero_shot/top_1[(none)]/items"] == 1


def test_metadata_of_tfds_without_file_names_is_matched_by_row(
    slice_by_location, tmp_path, monkeypatch
):
    data = benchmarks.LabeledImages([b""] * 12, np.zeros(12, np.int64), ["a"])
    monkeypatch.setattr(benchmarks, "read_tfds_classification", lambda *_: data)
    path = slice_by_location({"11": "in", "0": "out"})[0].partition("=")[2]
    labeled_data = labeled_images(Request("cifar", metadata=path))
    assert labeled_data.columns["location"] == ["out", *[""] * 10, "in"]


@pytest.mark.ci
def test_metadata_of_stamps_is_matched_by_id(
    evaluate, slice_by_location, tmp_path, monkeypatch
):
    kinds = dict(
        zip(COLORS[:4], ("animals", "animals", "plants", "plants"), strict=True)
    )
    for row, (color, kind) in enumerate(kinds.items()):
        path = tmp_path / "stamps" / kind / f"{color}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(color, SHAPES[row]).save(path)
        path.with_suffix(".txt").write_text(f"A {color} thing.\n")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    build = functools.partial(datasets.open_corpus, data_dir=tmp_path / "data")
    monkeypatch.setattr(datasets, "open_corpus", build)
    arguments = slice_by_location(
        {f"{kinds[color]}/{color}": "in" for color in COLORS[:3]}
    )
    for protocol, metric in (("retrieval", "i2t/recall"), ("zero_shot", "zero_shot/t")):
        split = ("--split=all",) if protocol == "zero_shot" else ()
        result = evaluate(protocol, "--data=stamps", *split, *arguments)
        sizes = {
            size
            for name, size in result["slices"].items()
            if name.startswith(metric) and name.endswith("[in]/items")
        }
        assert sizes == {3}


def test_training_images_need_no_metadata(slice_by_location, shapes, tmp_path):
    path = slice_by_location({"bar/brown.png": "in"})[0].partition("=")[2]
    request = Request(str(shapes), metadata=path)
    split = ClassificationData(request)
    assert split.read("", "train").columns == {}
    assert "in" in split.read("", "test").columns["location"]
