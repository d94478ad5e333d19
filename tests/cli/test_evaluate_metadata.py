"""`align-keras evaluate --metadata`, end to end with a tiny model."""

import functools
import json
import re

import numpy as np
import pytest

from align_keras import datasets
from align_keras.cli.main import main
from align_keras.datasets import benchmarks
from align_keras.protocols.class_protocols import labeled_images
from align_keras.protocols.fine_tuning_protocols import ClassificationData
from align_keras.protocols.protocol import Request
from align_keras.protocols.run_protocol import PROTOCOLS
from align_keras.runs.about_run import read_evaluation
from tests.cli import evaluated
from tests.helpers.oracle_process import needs
from tests.helpers.small_benchmarks import coco_name, write_picture
from tests.helpers.small_run import COLORS, SHAPES, draw

# The fixtures of the protocols' own tests.
align, data, model = evaluated.align, evaluated.data, evaluated.model
imagenet_r, shapes = evaluated.imagenet_r, evaluated.shapes


@pytest.fixture
def evaluate(model, data, tmp_path_factory, capsys):
    """Runs the command; returns its JSON, or its code if it fails, and its stderr."""
    cache = tmp_path_factory.getbasetemp() / "embeddings"

    def run(protocol, *arguments):
        code = main(
            ["evaluate", protocol, f"--model={model}", "--json"]
            + [f"--data_root={data}", f"--cache={cache}", *map(str, arguments)]
        )
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return (code or json.loads(captured.out)), captured.err

    return run


@pytest.fixture
def by_place(tmp_path):
    """Writes a table; returns the arguments that slice by its column `place`."""

    def write(places, name="metadata.csv"):
        separator = "\t" if name.endswith("tsv") else ","
        lines = [("id", "place"), *places.items()]
        path = tmp_path / name
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
        return f"--metadata={path}", "--slice_by=place"

    return write


def check(slices, direction, ranks, groups):
    """Compares with recall of ranks, -1 for a query that doesn't count."""
    ranks, groups = np.asarray(ranks), np.asarray(groups)
    for group in set(groups[ranks >= 0]):
        own = ranks[(groups == group) & (ranks >= 0)]
        for k in (1, 5, 10):
            name = f"{direction}/recall_at_{k}[{group}]"
            assert slices[name] == pytest.approx(np.mean(own < k)), name
            assert slices[f"{name}/items"] == len(own)
            assert slices[f"{name}/low"] <= slices[name] <= slices[f"{name}/high"]


def ranks_of(scores, right):
    """Wrong rows before each query's best right one, -1 where nothing is right."""
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    wrong = (np.where(right, -np.inf, scores) >= best).sum(axis=1)
    return np.where(right.any(axis=1), wrong, -1)


@pytest.mark.ci
def test_flickr30k(evaluate, by_place, align, data):
    # Two of eight have no row; a row of another picture is of no account.
    places = {f"{1000 + row}.jpg": "in" if row % 2 else "out" for row in range(6)}
    arguments = by_place(places | {"9.jpg": "up"}, "metadata.tsv")
    found, told = evaluate("retrieval", "--data=flickr30k", *arguments)
    assert told.count("2 of 8 images have no row in ") == 1
    folder = data / "flickr30k"
    own = benchmarks.read_karpathy(
        folder / "dataset_flickr30k.json", folder / "images", "test"
    )
    images, texts, owners = evaluated.embeddings(align, own, own.captions)
    right = owners == np.arange(8)[:, None]
    groups = np.array(["out", "in"] * 3 + ["(none)"] * 2)
    scores = images @ texts.T
    check(found["slices"], "i2t", ranks_of(scores, right), groups)
    check(found["slices"], "t2i", ranks_of(scores.T, right.T), groups[owners])
    assert found["slices"]["t2i/recall_at_1[(none)]/items"] == 10
    assert not [name for name in found["slices"] if "[up]" in name]


@pytest.mark.ci
def test_cxc_retrieval(evaluate, by_place, align, data):
    groups = np.array(["in", "in", "out", "out", "out", "in"])
    arguments = by_place({coco_name(row): own for row, own in enumerate(groups)})
    found, told = evaluate("cxc_retrieval", *arguments)
    assert found["slice_by"] == "place"
    # What is printed is what a model card takes.
    path = data / "report.json"
    path.write_text(json.dumps(found))
    assert read_evaluation(path, found["model"]) == found
    assert "no row" not in told
    images, texts, pairs = evaluated.cxc_parts(align, data)
    # The unrated captions aren't candidates.
    owners = np.repeat(np.arange(6), 5)
    right = {
        "t2i": np.zeros((30, 6), bool),
        "t2t": np.zeros((30, 30), bool),
        "i2i": np.zeros((6, 6), bool),
    }
    for name, task in (("t2i", "sits"), ("t2t", "sts"), ("i2i", "sis")):
        for first, second, score in pairs[task]:
            right[name][first, second] |= score >= 3
    slices, scores = found["slices"], texts @ images.T
    check(slices, "t2i", ranks_of(scores, right["t2i"]), groups[owners])
    check(slices, "i2t", ranks_of(scores.T, right["t2i"].T), groups)
    for name, rows, own in (("t2t", texts, groups[owners]), ("i2i", images, groups)):
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)  # A query doesn't find itself.
        check(slices, name, ranks_of(scores, right[name] | right[name].T), own)
    # 12 of the 24 captions with a right picture.
    assert slices["t2i/recall_at_5[in]/items"] == 12


@pytest.mark.ci
@needs("scipy")
def test_cxc_similarity(evaluate, by_place, align, data, tmp_path):
    from scipy import stats

    groups = np.array(["in", "in", "in", "in", "out", "out"])
    arguments = by_place({coco_name(row): own for row, own in enumerate(groups)})
    page = tmp_path / "page.html"
    found, told = evaluate("cxc_similarity", *arguments, f"--html={page}")
    images, texts, pairs = evaluated.cxc_parts(align, data)
    # Pairs whose picture is indoors: two of four pictures are drawn a sample.
    rng, plain = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = rng.choice(4, 2, replace=False)
        chosen = [
            own[rng.integers(len(own))]
            for own in ([p for p in pairs["sits"] if p[1] == row] for row in drawn)
        ]
        cosines = [float(texts[first] @ images[row]) for first, row, _ in chosen]
        scores = [score for *_, score in chosen]
        constant = len(set(scores)) == 1 or len(set(cosines)) == 1
        plain.append(0.0 if constant else stats.spearmanr(cosines, scores).statistic)
    slices = found["slices"]
    # Values are 1, -1 and 0: the standard error of both means is about 0.03.
    assert slices["sits/spearman[in]"] == pytest.approx(np.mean(plain), abs=0.13)
    assert slices["sits/spearman[in]/items"] == 4
    low, high = (slices[f"sits/spearman[in]/{end}"] for end in ("low", "high"))
    assert (low, high) == pytest.approx(tuple(np.percentile(plain, (2.5, 97.5))))
    tasks = [slices[f"{task}/spearman[in]"] for task in ("sts", "sis", "sits")]
    assert slices["mean/spearman[in]"] == pytest.approx(np.mean(tasks))
    # Two pictures are too few to draw half of; their captions aren't.
    assert "sts/spearman[out]" in slices and "sits/spearman[out]" not in slices
    assert "3 metrics of groups have too few items" in told
    assert "sis/spearman[out], sits/spearman[out], mean/spearman[out]" in told
    shown = page.read_text(encoding="utf-8")
    label = "captions (STS), Spearman correlation"
    assert f'<th scope="row">{label}</th><td>out</td>' in shown


@pytest.mark.ci
def test_a_group_of_all_has_the_metrics(evaluate, by_place):
    arguments = by_place({coco_name(row): "all" for row in range(6)})
    for protocol in ("cxc_retrieval", "cxc_similarity"):
        found, _ = evaluate(protocol, *arguments)
        sliced = [name for name in found["slices"] if name.endswith("[all]")]
        assert len(sliced) == (12 if protocol == "cxc_retrieval" else 4)
        for name in sliced:
            whole = found["metrics"][name.removesuffix("[all]")]
            assert found["slices"][name] == pytest.approx(whole), name


@pytest.mark.ci
def test_multi30k(evaluate, by_place):
    places = {f"{1000 + row}.jpg": f"p{row // 500}" for row in range(1000)}
    found, _ = evaluate("multi30k", *by_place(places))
    for name in ("fr/mean_recall", "de/t2i/recall_at_10"):
        halves = [found["slices"][f"{name}[p{number}]"] for number in (0, 1)]
        assert np.mean(halves) == pytest.approx(found["metrics"][name])
        assert found["slices"][f"{name}[p1]/items"] == 500


@pytest.mark.ci
def test_a_users_table(evaluate, by_place, tmp_path):
    lines = ["image,caption,style"]
    for row in range(4):
        write_picture(tmp_path / f"own/{row}.png", row)
        lines.append(f"own/{row}.png,number {row},ink")
    table = tmp_path / "own.csv"
    table.write_text("\n".join(lines))
    arguments = by_place({f"own/{row}.png": "ab"[row % 2] for row in range(4)})
    found, _ = evaluate("retrieval", f"--data={table}", *arguments)
    assert found["slices"]["i2t/recall_at_1[b]/items"] == 2
    # The table's own columns are still there, beside the joined ones.
    found, _ = evaluate(
        "retrieval", f"--data={table}", arguments[0], "--slice_by=style"
    )
    assert found["slices"]["i2t/recall_at_1[ink]/items"] == 4


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param("zero_shot", marks=pytest.mark.ci),
        pytest.param("knn", marks=pytest.mark.release),
        pytest.param("linear_probe", marks=pytest.mark.release),
    ],
)
def test_class_folders(evaluate, by_place, shapes, protocol):
    """By a column that says what the class is: the same numbers."""
    places = {f"{shape}/{color}.png": shape for shape in SHAPES for color in COLORS[6:]}
    arguments = by_place(places)
    found, told = evaluate(protocol, f"--data={shapes}", *arguments)
    expected, _ = evaluate(protocol, f"--data={shapes}", "--slice_by=class")
    assert found["slices"] == expected["slices"] and found["slices"]
    assert "no row" not in told


@pytest.mark.ci
@needs("clip_benchmark")
def test_tfds_by_file_names(evaluate, by_place, imagenet_r):
    del imagenet_r
    named = ("--data=imagenet_r", "--classes=clip:imagenet1k", "--templates=none")
    found, _ = evaluate("zero_shot", *named, *by_place({"0": "in", "2": "in"}))
    assert found["slices"]["zero_shot/top_1[in]/items"] == 2
    assert found["slices"]["zero_shot/top_1[(none)]/items"] == 1


def test_tfds_without_names_by_rows(by_place, tmp_path, monkeypatch):
    data = benchmarks.LabeledImages([b""] * 12, np.zeros(12, np.int64), ["a"])
    monkeypatch.setattr(benchmarks, "read_tfds_classification", lambda *_: data)
    path = by_place({"11": "in", "0": "out"})[0].partition("=")[2]
    found = labeled_images(Request("cifar", metadata=path))
    assert found.columns["place"] == ["out", *[""] * 10, "in"]


@pytest.mark.ci
def test_stamps(evaluate, by_place, tmp_path, monkeypatch):
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
    arguments = by_place({f"{kinds[color]}/{color}": "in" for color in COLORS[:3]})
    for protocol, metric in (("retrieval", "i2t/recall"), ("zero_shot", "zero_shot/t")):
        split = ("--split=all",) if protocol == "zero_shot" else ()
        found, _ = evaluate(protocol, "--data=stamps", *split, *arguments)
        sizes = {
            own
            for name, own in found["slices"].items()
            if name.startswith(metric) and name.endswith("[in]/items")
        }
        assert sizes == {3}


def test_what_is_learned_from_needs_no_rows(by_place, shapes, tmp_path):
    path = by_place({"bar/brown.png": "in"})[0].partition("=")[2]
    request = Request(str(shapes), metadata=path)
    split = ClassificationData(request)
    assert split.read("", "train").columns == {}
    assert "in" in split.read("", "test").columns["place"]


PLACES = {f"{1000 + row}.jpg": "in" for row in range(8)}


@pytest.mark.parametrize(
    ("protocol", "arguments", "places", "message"),
    [
        (
            "retrieval",
            ("--slice_by=color",),
            PLACES,
            "must be one of place, .*'color'",
        ),
        ("retrieval", (), {"1.jpg": "in"}, "such as '1.jpg' where .* '1000.jpg'"),
        ("retrieval", ("--metadata=no.csv",), PLACES, "no.csv .No such file"),
        ("retrieval", ("--metadata=a.txt",), PLACES, "must end in .csv or .tsv"),
        ("cxc_retrieval", ("--slice_by=x",), {coco_name(0): "in"}, "one of place"),
        ("cxc_similarity", ("--slice_by=x",), {coco_name(0): "in"}, "one of place"),
        ("simlex", (), PLACES, "--metadata is an option of retrieval, .* with simlex"),
        ("vtab", ("--slice_by=x",), PLACES, "must be one of class, place, the col"),
    ],
)
def test_mistakes_take_one_line(
    evaluate, by_place, protocol, arguments, places, message
):
    known = ("--data=flickr30k",) if protocol == "retrieval" else ()
    code, told = evaluate(protocol, *known, *by_place(places), *arguments)
    assert code == 1 and re.search(message, told.splitlines()[-1]), told


def test_columns_that_are_there_already(evaluate, shapes, tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_text("id,class\nbar/brown.png,x\n")
    arguments = (f"--metadata={path}", "--slice_by=class")
    for protocol in ("zero_shot", "knn", "imagenet_frozen"):
        code, told = evaluate(protocol, f"--data={shapes}", *arguments)
        assert code == 1 and "with 'class'; rename it" in told


def test_every_protocol_of_pictures_takes_metadata():
    without = [name for name, own in PROTOCOLS.items() if not own.takes("metadata")]
    assert without == ["simlex"]
