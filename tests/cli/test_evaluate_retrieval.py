"""`align-keras evaluate` with images and captions, for a small model."""

import json
import shutil

import numpy as np
import pytest

from align_keras.cli.main import main
from tests.cli import evaluate_fixtures
from tests.cli.evaluate_fixtures import check_counts, encode_cxc, encode_data
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.small_benchmarks import (
    coco_name,
    write_flickr30k,
    write_image,
)

align, data, model = (
    evaluate_fixtures.align,
    evaluate_fixtures.data,
    evaluate_fixtures.model,
)
DIRECTIONS_AND_KS = [(direction, k) for direction in ("i2t", "t2i") for k in (1, 5, 10)]


@pytest.fixture
def evaluate(model, data, tmp_path_factory, capsys):
    """Function that runs the command.

    It returns a part of the JSON, or stderr if the command must fail.
    """
    cache = tmp_path_factory.getbasetemp() / "embeddings"

    def run(protocol, *arguments, fails=False, part="metrics"):
        code = main(
            [
                "evaluate",
                protocol,
                f"--model={model}",
                f"--data_root={data}",
                f"--cache={cache}",
                *arguments,
                "--json",
            ]
        )
        captured = capsys.readouterr()
        assert code == (1 if fails else 0), captured.err
        if fails:
            assert "Traceback" not in captured.err
            return captured.err
        result = json.loads(captured.out)
        check_counts(result["metrics"])
        return result[part]

    return run


def sorted_recalls(scores, is_correct):
    """Returns recall@1, @5 and @10 by sorting.

    Queries without a correct candidate are excluded.
    """
    has_answer = is_correct.any(axis=1)
    order = np.argsort(-scores[has_answer], axis=1)
    is_hit = np.take_along_axis(is_correct[has_answer], order, axis=1)
    return [is_hit[:, :k].any(axis=1).mean() for k in (1, 5, 10)]


def recalls_of_clip_benchmark(scores, is_correct):
    """Returns recall@1, @5 and @10 as clip-benchmark computes them."""
    return call_oracle("clip_benchmark_metrics", "recall_at_k", scores, is_correct)


@pytest.fixture(
    params=[
        sorted_recalls,
        pytest.param(
            recalls_of_clip_benchmark,
            marks=[pytest.mark.ci, needs("torch", "clip_benchmark")],
        ),
    ],
    ids=["sorted", "clip_benchmark"],
)
def recalls(request):
    """Function that computes recall in two independent ways."""
    return lambda scores, is_correct: request.param(
        np.asarray(scores, float), is_correct
    )


@pytest.fixture
def check(recalls):
    """Function that compares the metrics of a direction with computed recalls."""

    def compare(metrics, direction, scores, is_correct):
        for k, value in zip((1, 5, 10), recalls(scores, is_correct), strict=True):
            name = f"{direction}/recall_at_{k}"
            assert metrics[name] == pytest.approx(value), name

    return compare


@pytest.mark.ci
def test_recall_on_flickr30k_matches_a_calculation(evaluate, align, data, check):
    from align_keras.datasets.benchmarks import read_karpathy

    folder = data / "flickr30k"
    flickr30k = read_karpathy(
        folder / "dataset_flickr30k.json", folder / "images", "test"
    )
    images, texts, owners = encode_data(align, flickr30k, flickr30k.captions)
    is_correct = owners == np.arange(8)[:, None]
    metrics = evaluate("retrieval", "--data=flickr30k")
    check(metrics, "i2t", images @ texts.T, is_correct)
    check(metrics, "t2i", texts @ images.T, is_correct.T)
    assert (metrics["images"], metrics["captions"]) == (8, 40)
    assert (metrics["i2t/queries"], metrics["t2i/queries"]) == (8, 40)
    assert (metrics["i2t/candidates"], metrics["t2i/candidates"]) == (40, 8)
    assert metrics["i2t/queries_without_positives"] == 0
    metrics = evaluate("retrieval", "--data=flickr30k", "--split=train")
    assert (metrics["images"], metrics["captions"]) == (2, 10)


@pytest.mark.ci
def test_coco_is_evaluated_with_five_captions_per_image(evaluate):
    metrics = evaluate("retrieval", "--data=coco")
    assert (metrics["images"], metrics["captions"]) == (6, 30)


@pytest.mark.ci
def test_a_table_is_evaluated_by_its_columns(evaluate, tmp_path):
    lines = ["image,caption,style"]
    for row in range(6):
        write_image(tmp_path / f"{row}.png", row)
        lines += [f"{row}.png,number {row} {n},{'ab'[row % 2]}" for n in range(1 + row)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines))
    metrics = evaluate("retrieval", f"--data={table}")
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    renamed = tmp_path / "renamed.csv"
    renamed.write_text("\n".join(["bild,satz,style", *lines[1:]]), "utf-16")
    options = ["--image_column=bild", "--caption_column=satz", "--encoding=utf-16"]
    metrics = evaluate("retrieval", f"--data={renamed}", *options)
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    (tmp_path / "5.png").unlink()
    err = evaluate("retrieval", f"--data={table}", fails=True)
    assert "1 of 6 images of pairs.csv are missing" in err
    metrics = evaluate("retrieval", f"--data={table}", "--allow_missing")
    assert (metrics["images"], metrics["captions"]) == (5, 15)
    assert metrics["images_left_out"] == 1
    (tmp_path / "4.png").write_bytes(b"no image")
    metrics = evaluate("retrieval", f"--data={table}", "--allow_missing")
    assert (metrics["images"], metrics["images_left_out"]) == (4, 2)


@pytest.mark.parametrize(
    "protocol",
    [
        "retrieval",
        *(
            pytest.param(name, marks=pytest.mark.ci)
            for name in ("cxc_retrieval", "cxc_similarity")
        ),
    ],
)
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
    )
    assert metrics["images_left_out"] == 1


@pytest.mark.parametrize(
    ("protocol", "num_images"),
    [
        pytest.param("cxc_retrieval", None, marks=pytest.mark.release),
        pytest.param("cxc_similarity", None, marks=pytest.mark.ci),
        pytest.param("multi30k", 999, marks=pytest.mark.release),
    ],
)
def test_unreadable_images_are_counted(evaluate, tmp_path, data, protocol, num_images):
    """Unreadable images are counted as missing images are."""
    for folder in ("coco", "cxc", "multi30k"):
        shutil.copytree(data / folder, tmp_path / folder)
    (tmp_path / "flickr30k/images").mkdir(parents=True)
    for path in (data / "flickr30k/images").iterdir():
        (tmp_path / "flickr30k/images" / path.name).hardlink_to(path)
    arguments = (protocol, f"--data_root={tmp_path}")
    unreadable_paths = [
        tmp_path / "coco/val2014" / coco_name(2),
        tmp_path / "flickr30k/images/1007.jpg",
    ]
    for path in unreadable_paths:
        path.unlink()
        path.write_bytes(b"no image")
    metrics = evaluate(*arguments)
    assert metrics["images_left_out"] == 1
    assert num_images is None or metrics["images"] == num_images
    if protocol != "multi30k":
        for path in unreadable_paths:
            path.unlink()
        assert evaluate(*arguments, "--allow_missing") == metrics


@pytest.mark.ci
def test_missing_images_of_multi30k_are_counted(evaluate, tmp_path, data):
    shutil.copytree(data / "multi30k", tmp_path / "multi30k")
    (names,) = tmp_path.glob("multi30k/**/test_2016_flickr.txt")
    lines = names.read_text().splitlines()
    names.write_text("\n".join([*lines[:7], "absent.jpg", *lines[8:]]) + "\n")
    (tmp_path / "flickr30k").symlink_to(data / "flickr30k")
    metrics = evaluate("multi30k", f"--data_root={tmp_path}", "--allow_missing")
    assert (metrics["images"], metrics["images_left_out"]) == (999, 1)


def test_recall_on_cxc_matches_a_calculation(evaluate, align, data, check):
    images, texts, pairs = encode_cxc(align, data)
    is_correct = {
        "t2i": np.zeros((30, 6), bool),
        "t2t": np.zeros((30, 30), bool),
        "i2i": np.zeros((6, 6), bool),
    }
    for name, task in (("t2i", "sits"), ("t2t", "sts"), ("i2i", "sis")):
        for first, second, score in pairs[task]:
            is_correct[name][first, second] |= score >= 3
    metrics = evaluate("cxc_retrieval")
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
    from scipy import stats

    images, texts, pairs = encode_cxc(align, data)
    metrics = evaluate("cxc_similarity")
    # Each bootstrap sample draws half of the images and one rated caption of each.
    mean, deviation = metrics["sits/spearman"], metrics["sits/spearman_std"]
    rng, correlations = np.random.default_rng(5), []
    for _ in range(1000):
        drawn_rows = rng.choice(6, 3, replace=False)
        chosen = [
            image_pairs[rng.integers(len(image_pairs))]
            for image_pairs in (
                [p for p in pairs["sits"] if p[1] == row] for row in drawn_rows
            )
        ]
        cosines = [float(texts[first] @ images[row]) for first, row, _ in chosen]
        scores = [score for *_, score in chosen]
        if len(set(scores)) == 1 or len(set(cosines)) == 1:
            correlations.append(0.0)
        else:
            correlations.append(stats.spearmanr(cosines, scores).statistic)
    # The correlation of three ranks has a standard deviation of about 0.6. The standard
    # error of the mean is about 0.02.
    assert mean == pytest.approx(np.mean(correlations), abs=0.08)
    assert deviation == pytest.approx(np.std(correlations), rel=0.1)
    assert metrics["mean/spearman"] == pytest.approx(
        np.mean([metrics[f"{task}/spearman"] for task in ("sts", "sis", "sits")])
    )


@pytest.mark.ci
def test_recall_on_multi30k_matches_a_calculation(evaluate, align, data, recalls):
    from align_keras.datasets.benchmarks import read_multi30k

    metrics = evaluate("multi30k")
    assert metrics["images"] == 1000
    multi30k = read_multi30k(data / "multi30k", data / "flickr30k/images")
    images = align.encode_images(multi30k.images[:10])[
        [row if row < 10 else row % 8 for row in range(1000)]
    ]
    texts = align.encode_texts([caption for [caption] in multi30k.captions["fr"]])
    expected = recalls(images @ texts.T, np.eye(1000, dtype=bool))
    for k, value in zip((1, 5, 10), expected, strict=True):
        # Captions that differ by a number have nearly equal embeddings. Rounding may
        # change their order.
        assert metrics[f"fr/i2t/recall_at_{k}"] == pytest.approx(value, abs=0.003)
    for language in ("en", "de", "fr", "cs"):
        values = [
            metrics[f"{language}/{direction}/recall_at_{k}"]
            for direction, k in DIRECTIONS_AND_KS
        ]
        assert metrics[f"{language}/mean_recall"] == pytest.approx(np.mean(values))
        # All images except two have at least a hundred copies with equal scores, which
        # count as wrong.
        assert metrics[f"{language}/t2i/recall_at_10"] <= 0.002


@pytest.mark.ci
@needs("scipy")
def test_correlation_on_simlex_matches_scipy(evaluate, align, data):
    from scipy import stats

    from align_keras.datasets.benchmarks import read_simlex

    metrics = evaluate("simlex")
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
    slices = evaluate("simlex", "--slice_by=part_of_speech", part="slices")
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
    metrics = evaluate("multi30k", "--data=stamps")
    assert metrics["images"] == 3
    # All images have the same English caption, so every result is correct.
    assert metrics["en/mean_recall"] == 1.0
    assert metrics["de/mean_recall"] < 1.0
    arguments = ("multi30k", "--data=stamps", "--slice_by=category")
    slices = evaluate(*arguments, part="slices")
    # All images are in one category, so its slice has the overall metrics.
    for name in ("de/mean_recall", "cs/t2i/recall_at_1"):
        assert slices[f"{name}[shapes]"] == pytest.approx(metrics[name])
    assert slices["fr/mean_recall[shapes]/items"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval"], "--data must be"),
        (
            ["retrieval", "--data=nowhere.csv"],
            "must be flickr30k, coco, .* Received: --data='nowhere.csv'",
        ),
        (
            ["retrieval", "--data=flickr30k", "--split=dev"],
            "split must be one of test, train.*Received: --split='dev'",
        ),
        (
            ["retrieval", "--data=multi30k"],
            "--data must be one of",
        ),
        (
            ["retrieval", "--data=coco", "--image_column=x"],
            "--image-column must be left out for coco, which is no table. Received: "
            "--image-column='x'",
        ),
        (
            ["simlex", "--encoding=utf-16"],
            "--encoding is an option of retrieval. Received: .* with simlex",
        ),
        (
            ["cxc_retrieval", "--split=train"],
            "split must be one of test",
        ),
        (["cxc_similarity", "--data=coco"], "--data must be one of cxc"),
        (["multi30k", "--data=coco"], "--data must be one of multi30k"),
        (
            ["multi30k", "--slice_by=category"],
            "--slice-by",
        ),
        (["multi30k", "--split=val"], "--split is an option of .*with multi30k"),
        (["simlex", "--data=words.txt"], "words.txt"),
        (["simlex", "--split=val"], "--split is an option of .*with simlex"),
    ],
)
def test_wrong_options_print_one_line(evaluate, arguments, message):
    import re

    err = evaluate(*arguments, fails=True)
    assert re.search(message, err.splitlines()[-1]), err


def test_incomplete_data_sets_are_refused(evaluate, tmp_path):
    (tmp_path / "flickr30k").mkdir()
    write_flickr30k(tmp_path / "flickr30k", dataset="flickr30k")
    err = evaluate(
        "retrieval",
        "--data=flickr30k",
        f"--data_root={tmp_path}",
        fails=True,
    )
    assert "must have 1,000 images and 5,000 captions" in err
    err = evaluate("simlex", f"--data_root={tmp_path}", fails=True)
    assert "Download fh295.github.io/SimLex-999.zip" in err
