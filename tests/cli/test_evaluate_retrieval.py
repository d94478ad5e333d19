"""The protocols between pictures and texts, end to end with a tiny model."""

import json
import shutil

import numpy as np
import pytest

from align_keras.cli.main import main
from tests.cli import evaluated
from tests.cli.evaluated import check_counts, cxc_parts, embeddings
from tests.helpers.oracle_process import ask, needs
from tests.helpers.small_benchmarks import (
    coco_name,
    write_flickr30k,
    write_picture,
)

align, data, model = evaluated.align, evaluated.data, evaluated.model
WAYS = [(way, k) for way in ("i2t", "t2i") for k in (1, 5, 10)]


@pytest.fixture
def evaluate(model, data, tmp_path_factory, capsys):
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


def sorted_recalls(scores, right):
    """Recall at 1, 5, 10 of the queries that have any answer, by sorting."""
    kept = right.any(axis=1)
    order = np.argsort(-scores[kept], axis=1)
    found = np.take_along_axis(right[kept], order, axis=1)
    return [found[:, :k].any(axis=1).mean() for k in (1, 5, 10)]


def recalls_of_clip_benchmark(scores, right):
    return ask("clip_benchmark_metrics", "recall_at_k", scores, right)


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
    return lambda scores, right: request.param(np.asarray(scores, float), right)


@pytest.fixture
def check(recalls):
    def compare(metrics, direction, scores, right):
        for k, value in zip((1, 5, 10), recalls(scores, right), strict=True):
            name = f"{direction}/recall_at_{k}"
            assert metrics[name] == pytest.approx(value), name

    return compare


@pytest.mark.ci
def test_flickr30k(evaluate, align, data, check):
    from align_keras.datasets.benchmarks import read_karpathy

    folder = data / "flickr30k"
    own = read_karpathy(folder / "dataset_flickr30k.json", folder / "images", "test")
    images, texts, owners = embeddings(align, own, own.captions)
    right = owners == np.arange(8)[:, None]
    metrics = evaluate("retrieval", "--data=flickr30k")
    check(metrics, "i2t", images @ texts.T, right)
    check(metrics, "t2i", texts @ images.T, right.T)
    assert (metrics["images"], metrics["captions"]) == (8, 40)
    assert (metrics["i2t/queries"], metrics["t2i/queries"]) == (8, 40)
    assert (metrics["i2t/candidates"], metrics["t2i/candidates"]) == (40, 8)
    assert metrics["i2t/queries_without_positives"] == 0
    metrics = evaluate("retrieval", "--data=flickr30k", "--split=train")
    assert (metrics["images"], metrics["captions"]) == (2, 10)


@pytest.mark.ci
def test_coco_takes_five_captions_a_picture(evaluate):
    metrics = evaluate("retrieval", "--data=coco")
    assert (metrics["images"], metrics["captions"]) == (6, 30)


@pytest.mark.ci
def test_a_table_by_its_columns(evaluate, tmp_path):
    lines = ["image,caption,style"]
    for row in range(6):
        write_picture(tmp_path / f"{row}.png", row)
        lines += [f"{row}.png,number {row} {n},{'ab'[row % 2]}" for n in range(1 + row)]
    table = tmp_path / "own.csv"
    table.write_text("\n".join(lines))
    metrics = evaluate("retrieval", f"--data={table}")
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    renamed = tmp_path / "renamed.csv"
    renamed.write_text("\n".join(["bild,satz,style", *lines[1:]]), "utf-16")
    own = ["--image_column=bild", "--caption_column=satz", "--encoding=utf-16"]
    metrics = evaluate("retrieval", f"--data={renamed}", *own)
    assert (metrics["images"], metrics["captions"]) == (6, 21)
    (tmp_path / "5.png").unlink()
    told = evaluate("retrieval", f"--data={table}", fails=True)
    assert "1 of 6 images of own.csv are missing" in told
    metrics = evaluate("retrieval", f"--data={table}", "--allow_missing")
    assert (metrics["images"], metrics["captions"]) == (5, 15)
    assert metrics["images_left_out"] == 1
    (tmp_path / "4.png").write_bytes(b"no picture")
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
def test_missing_pictures_of_coco_are_counted(evaluate, tmp_path, data, protocol):
    name = "coco" if protocol == "retrieval" else "cxc"
    for own in ("coco", "cxc"):
        shutil.copytree(data / own, tmp_path / own)
    (tmp_path / "coco/val2014" / coco_name(2)).unlink()
    metrics = evaluate(
        protocol,
        f"--data={name}",
        f"--data_root={tmp_path}",
        "--allow_missing",
    )
    assert metrics["images_left_out"] == 1


@pytest.mark.parametrize(
    ("protocol", "pictures"),
    [
        pytest.param("cxc_retrieval", None, marks=pytest.mark.release),
        pytest.param("cxc_similarity", None, marks=pytest.mark.ci),
        pytest.param("multi30k", 999, marks=pytest.mark.release),
    ],
)
def test_pictures_that_are_none_are_counted(
    evaluate, tmp_path, data, protocol, pictures
):
    """As if their files weren't there."""
    for own in ("coco", "cxc", "multi30k"):
        shutil.copytree(data / own, tmp_path / own)
    (tmp_path / "flickr30k/images").mkdir(parents=True)
    for path in (data / "flickr30k/images").iterdir():
        (tmp_path / "flickr30k/images" / path.name).hardlink_to(path)
    arguments = (protocol, f"--data_root={tmp_path}")
    broken = [
        tmp_path / "coco/val2014" / coco_name(2),
        tmp_path / "flickr30k/images/1007.jpg",
    ]
    for path in broken:
        path.unlink()
        path.write_bytes(b"no picture")
    found = evaluate(*arguments)
    assert found["images_left_out"] == 1
    assert pictures is None or found["images"] == pictures
    if protocol != "multi30k":
        for path in broken:
            path.unlink()
        assert evaluate(*arguments, "--allow_missing") == found


@pytest.mark.ci
def test_missing_pictures_of_multi30k_are_counted(evaluate, tmp_path, data):
    shutil.copytree(data / "multi30k", tmp_path / "multi30k")
    (names,) = tmp_path.glob("multi30k/**/test_2016_flickr.txt")
    lines = names.read_text().splitlines()
    names.write_text("\n".join([*lines[:7], "absent.jpg", *lines[8:]]) + "\n")
    (tmp_path / "flickr30k").symlink_to(data / "flickr30k")
    metrics = evaluate("multi30k", f"--data_root={tmp_path}", "--allow_missing")
    assert (metrics["images"], metrics["images_left_out"]) == (999, 1)


def test_cxc_retrieval(evaluate, align, data, check):
    images, texts, pairs = cxc_parts(align, data)
    right = {
        "t2i": np.zeros((30, 6), bool),
        "t2t": np.zeros((30, 30), bool),
        "i2i": np.zeros((6, 6), bool),
    }
    for name, task in (("t2i", "sits"), ("t2t", "sts"), ("i2i", "sis")):
        for first, second, score in pairs[task]:
            right[name][first, second] |= score >= 3
    metrics = evaluate("cxc_retrieval")
    check(metrics, "t2i", texts @ images.T, right["t2i"])
    check(metrics, "i2t", images @ texts.T, right["t2i"].T)
    for name, rows in (("t2t", texts), ("i2i", images)):
        scores = np.asarray(rows @ rows.T, float)
        np.fill_diagonal(scores, -np.inf)
        check(metrics, name, scores, right[name] | right[name].T)
    assert metrics["i2t/queries"] == 6
    # The unrated captions aren't candidates.
    assert metrics["i2t/candidates"] == 30 and metrics["t2t/candidates"] == 29
    # Four of five captions a picture, and two whose score with the next is 2 at most.
    assert metrics["t2i/queries"] == 24


@pytest.mark.ci
@needs("scipy")
def test_cxc_similarity(evaluate, align, data):
    from scipy import stats

    images, texts, pairs = cxc_parts(align, data)
    metrics = evaluate("cxc_similarity")
    # Each picture was rated with ten captions: half of the pictures are drawn.
    ours = metrics["sits/spearman"], metrics["sits/spearman_std"]
    rng, plain = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = rng.choice(6, 3, replace=False)
        chosen = [
            own[rng.integers(len(own))]
            for own in ([p for p in pairs["sits"] if p[1] == row] for row in drawn)
        ]
        cosines = [float(texts[first] @ images[row]) for first, row, _ in chosen]
        scores = [score for *_, score in chosen]
        if len(set(scores)) == 1 or len(set(cosines)) == 1:
            plain.append(0.0)
        else:
            plain.append(stats.spearmanr(cosines, scores).statistic)
    # Three ranks: the deviation is about 0.6, the mean's 0.02.
    assert ours[0] == pytest.approx(np.mean(plain), abs=0.08)
    assert ours[1] == pytest.approx(np.std(plain), rel=0.1)
    assert metrics["mean/spearman"] == pytest.approx(
        np.mean([metrics[f"{task}/spearman"] for task in ("sts", "sis", "sits")])
    )


@pytest.mark.ci
def test_multi30k(evaluate, align, data, recalls):
    from align_keras.datasets.benchmarks import read_multi30k

    metrics = evaluate("multi30k")
    assert metrics["images"] == 1000
    own = read_multi30k(data / "multi30k", data / "flickr30k/images")
    images = align.encode_images(own.images[:10])[
        [row if row < 10 else row % 8 for row in range(1000)]
    ]
    texts = align.encode_texts([caption for [caption] in own.captions["fr"]])
    expected = recalls(images @ texts.T, np.eye(1000, dtype=bool))
    for k, value in zip((1, 5, 10), expected, strict=True):
        # Captions that differ by a number lie so near that rounding may swap them.
        assert metrics[f"fr/i2t/recall_at_{k}"] == pytest.approx(value, abs=0.003)
    for language in ("en", "de", "fr", "cs"):
        ways = [metrics[f"{language}/{way}/recall_at_{k}"] for way, k in WAYS]
        assert metrics[f"{language}/mean_recall"] == pytest.approx(np.mean(ways))
        # All pictures but two have a hundred copies, which tie: none is found.
        assert metrics[f"{language}/t2i/recall_at_10"] <= 0.002


@pytest.mark.ci
@needs("scipy")
def test_simlex(evaluate, align, data):
    from scipy import stats

    from align_keras.datasets.benchmarks import read_simlex

    metrics = evaluate("simlex")
    pairs = read_simlex(data / "SimLex-999/SimLex-999.txt")
    words = sorted({word for pair in pairs for word in (pair.word1, pair.word2)})
    vectors = dict(zip(words, align.encode_words(words).astype(float), strict=True))

    def cosine(pair):
        first, second = vectors[pair.word1], vectors[pair.word2]
        return first @ second / np.linalg.norm(first) / np.linalg.norm(second)

    def expected(chosen):
        return stats.spearmanr(
            # Equal pairs tie, whatever the last bits of their vectors.
            [round(cosine(pair), 5) for pair in chosen],
            [pair.similarity for pair in chosen],
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
def test_stamps_in_four_languages(evaluate, tmp_path, monkeypatch):
    for row, color in enumerate(("red", "green", "blue")):
        path = write_picture(tmp_path / f"stamps/shapes/{color}.png", row)
        path.with_suffix(".txt").write_text(
            "The same.\n"
            + "".join(f"{way}.utf8={way} {color}\n" for way in ("de", "fr", "cs"))
        )
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    monkeypatch.setattr(
        "align_keras.datasets.benchmarks.stamps_captions_by_language.__defaults__",
        (str(tmp_path / "data"),),
    )
    metrics = evaluate("multi30k", "--data=stamps")
    assert metrics["images"] == 3
    # One English caption of all three: whatever is found is right.
    assert metrics["en/mean_recall"] == 1.0
    assert metrics["de/mean_recall"] < 1.0
    arguments = ("multi30k", "--data=stamps", "--slice_by=category")
    slices = evaluate(*arguments, part="slices")
    # One category, and so the same numbers.
    for name in ("de/mean_recall", "cs/t2i/recall_at_1"):
        assert slices[f"{name}[shapes]"] == pytest.approx(metrics[name])
    assert slices["fr/mean_recall[shapes]/items"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval"], "--data must be set for retrieval"),
        (
            ["retrieval", "--data=nowhere.csv"],
            "must be flickr30k, coco, .* Received: --data='nowhere.csv'",
        ),
        (
            ["retrieval", "--data=flickr30k", "--split=dev"],
            "split must be one of test, train.*received 'dev'",
        ),
        (
            ["retrieval", "--data=multi30k"],
            "--data must be captioned images. .* Evaluate it by the protocol multi30k",
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
        (["cxc_similarity", "--data=coco"], "--data must be cxc"),
        (["multi30k", "--data=coco"], "must be multi30k or stamps"),
        (
            ["multi30k", "--slice_by=category"],
            "must be one of none, the columns of this data",
        ),
        (["multi30k", "--split=val"], "--split is an option of .*with multi30k"),
        (["simlex", "--data=words.txt"], "no readable words.txt"),
        (["simlex", "--split=val"], "--split is an option of .*with simlex"),
    ],
)
def test_mistakes_take_one_line(evaluate, arguments, message):
    import re

    told = evaluate(*arguments, fails=True)
    assert re.search(message, told.splitlines()[-1]), told


def test_wrong_counts_of_the_papers_set(evaluate, tmp_path):
    (tmp_path / "flickr30k").mkdir()
    write_flickr30k(tmp_path / "flickr30k", dataset="flickr30k")
    told = evaluate(
        "retrieval",
        "--data=flickr30k",
        f"--data_root={tmp_path}",
        fails=True,
    )
    assert "must have 1,000 images and 5,000 captions" in told
    told = evaluate("simlex", f"--data_root={tmp_path}", fails=True)
    assert "Download fh295.github.io/SimLex-999.zip" in told
