"""Protocols of images and captions: metrics match calculations."""

import shutil

import numpy as np
import pytest

from tests.helpers.oracle_process import needs
from tests.helpers.small_benchmarks import (
    coco_name,
    write_flickr30k,
    write_image,
)
from tests.protocols import small_data
from tests.protocols.small_data import encode_cxc, encode_data, sampled_correlations

align, data, evaluate = small_data.align, small_data.data, small_data.evaluate


def sorted_recalls(scores, is_correct):
    """Returns recall@1, @5 and @10 by sorting.

    Queries without a correct candidate are excluded.
    """
    has_answer = is_correct.any(axis=1)
    order = np.argsort(-scores[has_answer], axis=1)
    is_hit = np.take_along_axis(is_correct[has_answer], order, axis=1)
    return [is_hit[:, :k].any(axis=1).mean() for k in (1, 5, 10)]


def check(metrics, direction, scores, is_correct):
    """Compares the metrics of a direction with recalls by sorting."""
    recalls = sorted_recalls(np.asarray(scores, float), is_correct)
    for k, value in zip((1, 5, 10), recalls, strict=True):
        name = f"{direction}/recall_at_{k}"
        assert metrics[name] == pytest.approx(value), name


def test_recall_on_flickr30k_matches_a_calculation(evaluate, align, data):
    from align_keras.datasets.benchmarks import read_karpathy

    folder = data / "flickr30k"
    flickr30k = read_karpathy(
        folder / "dataset_flickr30k.json", folder / "images", "test"
    )
    images, texts, owners = encode_data(align, flickr30k, flickr30k.captions)
    is_correct = owners == np.arange(8)[:, None]
    metrics = evaluate("retrieval", "--data=flickr30k")["metrics"]
    check(metrics, "i2t", images @ texts.T, is_correct)
    check(metrics, "t2i", texts @ images.T, is_correct.T)
    assert (metrics["images"], metrics["captions"]) == (8, 40)
    assert (metrics["i2t/queries"], metrics["t2i/queries"]) == (8, 40)
    assert (metrics["i2t/candidates"], metrics["t2i/candidates"]) == (40, 8)
    assert metrics["i2t/queries_without_positives"] == 0
    metrics = evaluate("retrieval", "--data=flickr30k", "--split=train")["metrics"]
    assert (metrics["images"], metrics["captions"]) == (2, 10)


def test_coco_is_evaluated_with_five_captions_per_image(evaluate):
    metrics = evaluate("retrieval", "--data=coco")["metrics"]
    assert (metrics["images"], metrics["captions"]) == (6, 30)


def test_a_table_is_evaluated_by_its_columns(evaluate, tmp_path):
    lines = ["image,caption,style"]
    for row in range(6):
        write_image(tmp_path / f"{row}.png", row)
        lines += [f"{row}.png,number {row} {n},{'ab'[row % 2]}" for n in range(1 + row)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines))
    metrics = evaluate("retrieval", f"--data={table}")["metrics"]
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    renamed = tmp_path / "renamed.csv"
    renamed.write_text("\n".join(["bild,satz,style", *lines[1:]]), "utf-16")
    options = ["--image_column=bild", "--caption_column=satz", "--encoding=utf-16"]
    metrics = evaluate("retrieval", f"--data={renamed}", *options)["metrics"]
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    (tmp_path / "5.png").unlink()
    err = evaluate("retrieval", f"--data={table}", fails=True)
    assert "1 of 6 images of pairs.csv" in err
    metrics = evaluate("retrieval", f"--data={table}", "--allow_missing")["metrics"]
    assert (metrics["images"], metrics["captions"]) == (5, 15)
    assert metrics["images_left_out"] == 1
    (tmp_path / "4.png").write_bytes(b"no image")
    metrics = evaluate("retrieval", f"--data={table}", "--allow_missing")["metrics"]
    assert (metrics["images"], metrics["images_left_out"]) == (4, 2)


@pytest.mark.parametrize("protocol", ["retrieval", "cxc_retrieval", "cxc_similarity"])
def test_missing_images_of_coco_are_counted(evaluate, tmp_path, data, protocol):
    name = "coco" if protocol == "retrieval" else "cxc"
    for folder in ("coco", "cxc"):
        shutil.copytree(data / folder, tmp_path / folder)
    (tmp_path / "coco/val2014" / coco_name(2)).unlink()
    metrics = evaluate(
        protocol,
        f"--data={name}",
        f"--data_root={tmp_path}",
        "--allow_missing",
    )["metrics"]
    assert metrics["images_left_out"] == 1


def test_unreadable_images_are_counted_as_missing_images_are(evaluate, tmp_path, data):
    for folder in ("coco", "cxc"):
        shutil.copytree(data / folder, tmp_path / folder)
    arguments = ("cxc_similarity", f"--data_root={tmp_path}")
    path = tmp_path / "coco/val2014" / coco_name(2)
    path.write_bytes(b"no image")
    metrics = evaluate(*arguments)["metrics"]
    assert metrics["images_left_out"] == 1
    path.unlink()
    assert evaluate(*arguments, "--allow_missing")["metrics"] == metrics


def test_recall_on_cxc_matches_a_calculation(evaluate, align, data):
    images, texts, pairs = encode_cxc(align, data)
    is_correct = {
        "t2i": np.zeros((30, 6), bool),
        "t2t": np.zeros((30, 30), bool),
        "i2i": np.zeros((6, 6), bool),
    }
    for name, task in (("t2i", "sits"), ("t2t", "sts"), ("i2i", "sis")):
        for first, second, score in pairs[task]:
            is_correct[name][first, second] |= score >= 3
    metrics = evaluate("cxc_retrieval")["metrics"]
    check(metrics, "t2i", texts @ images.T, is_correct["t2i"])
    check(metrics, "i2t", images @ texts.T, is_correct["t2i"].T)
    for name, rows in (("t2t", texts), ("i2i", images)):
        scores = np.asarray(rows @ rows.T, float)
        np.fill_diagonal(scores, -np.inf)
        check(metrics, name, scores, is_correct[name] | is_correct[name].T)
    assert metrics["i2t/queries"] == 6
    # Captions without ratings are not candidates.
    assert metrics["i2t/candidates"] == 30 and metrics["t2t/candidates"] == 29
    # Four captions of each of the six images have a correct image.
    assert metrics["t2i/queries"] == 24


@pytest.mark.ci
@needs("scipy")
def test_correlation_on_cxc_matches_scipy(evaluate, align, data):
    images, texts, pairs = encode_cxc(align, data)
    metrics = evaluate("cxc_similarity")["metrics"]
    # Each bootstrap sample draws half of the images and one rated caption of each.
    mean, deviation = metrics["sits/spearman"], metrics["sits/spearman_std"]
    correlations = sampled_correlations(images, texts, pairs["sits"], 6)
    # The correlation of three ranks has a standard deviation of about 0.6. The standard
    # error of the mean is about 0.02.
    assert mean == pytest.approx(np.mean(correlations), abs=0.08)
    assert deviation == pytest.approx(np.std(correlations), rel=0.1)
    assert metrics["mean/spearman"] == pytest.approx(
        np.mean([metrics[f"{task}/spearman"] for task in ("sts", "sis", "sits")])
    )


@pytest.mark.ci
@needs("scipy")
def test_correlation_on_simlex_matches_scipy(evaluate, align, data):
    from scipy import stats

    from align_keras.datasets.benchmarks import read_simlex

    metrics = evaluate("simlex")["metrics"]
    pairs = read_simlex(data / "SimLex-999/SimLex-999.txt")
    words = sorted({word for pair in pairs for word in (pair.word1, pair.word2)})
    vectors = dict(zip(words, align.encode_words(words).astype(float), strict=True))

    def cosine(pair):
        first, second = vectors[pair.word1], vectors[pair.word2]
        return first @ second / np.linalg.norm(first) / np.linalg.norm(second)

    def expected(chosen_pairs):
        return stats.spearmanr(
            # Rounding gives equal pairs of words equal cosines.
            [round(cosine(pair), 5) for pair in chosen_pairs],
            [pair.similarity for pair in chosen_pairs],
        ).statistic

    hard = [pair for pair in pairs if pair.is_hard]
    assert metrics["all/spearman"] == pytest.approx(expected(pairs), abs=1e-3)
    assert metrics["hard/spearman"] == pytest.approx(expected(hard), abs=1e-3)
    assert metrics["all/pairs"] == 999
    slices = evaluate("simlex", "--slice_by=part_of_speech")["slices"]
    assert slices["all/spearman[V]"] == pytest.approx(metrics["verbs/spearman"])
    assert slices["all/spearman[V]/low"] < slices["all/spearman[V]"]
    assert slices["all/spearman[V]/items"] == metrics["verbs/pairs"]


@pytest.mark.ci
def test_stamps_are_evaluated_in_four_languages(evaluate, tmp_path, monkeypatch):
    for row, color in enumerate(("red", "green", "blue")):
        path = write_image(tmp_path / f"stamps/shapes/{color}.png", row)
        path.with_suffix(".txt").write_text(
            "The same.\n"
            + "".join(
                f"{language}.utf8={language} {color}\n"
                for language in ("de", "fr", "cs")
            )
        )
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "data")
    )
    metrics = evaluate("multi30k", "--data=stamps")["metrics"]
    assert metrics["images"] == 3
    # All images have the same English caption, so every result is correct.
    assert metrics["en/mean_recall"] == 1.0
    assert metrics["de/mean_recall"] < 1.0
    arguments = ("multi30k", "--data=stamps", "--slice_by=category")
    slices = evaluate(*arguments)["slices"]
    # All images are in one category, so its slice has the overall metrics.
    for name in ("de/mean_recall", "cs/t2i/recall_at_1"):
        assert slices[f"{name}[shapes]"] == pytest.approx(metrics[name])
    assert slices["fr/mean_recall[shapes]/items"] == 3


def test_incomplete_data_sets_are_refused(evaluate, tmp_path):
    (tmp_path / "flickr30k").mkdir()
    write_flickr30k(tmp_path / "flickr30k", dataset="flickr30k")
    root = f"--data_root={tmp_path}"
    assert "1,000 images" in evaluate("retrieval", "--data=flickr30k", root, fails=True)
    assert "Download" in evaluate("simlex", root, fails=True)
