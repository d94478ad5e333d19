"""The protocols of classes and of composed queries, end to end with a tiny model."""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from align_keras import datasets
from align_keras.cli.main import main
from align_keras.datasets import benchmarks, icons, open_corpus
from align_keras.datasets.benchmarks import (
    LabeledImages,
    composed_icon_queries,
    read_class_names,
    read_stored_images,
)
from align_keras.datasets.benchmarks.class_names import imagenet_ids
from tests.cli import evaluated
from tests.helpers.oracle_process import ask, needs
from tests.helpers.small import small_align
from tests.helpers.small_run import COLORS, SHAPES, draw

imagenet_r, shapes = evaluated.imagenet_r, evaluated.shapes
WORDS = {"circle": "round", "square": "box", "bar": "bar", "cross": "x", "ring": "o"}


@pytest.fixture(scope="module")
def align():
    align = small_align()
    # As they are drawn, all embeddings nearly fall together, where rounding decides.
    for encoder in (align.image_encoder, align.text_encoder):
        for variable in encoder.trainable_variables:
            if variable.path.endswith(("kernel", "embeddings")):
                variable.assign(4 * variable)
    return align


@pytest.fixture(scope="module")
def model(align, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    align.save_to_preset(folder)
    return folder


@pytest.fixture
def evaluate(model, tmp_path_factory, capsys):
    cache = tmp_path_factory.getbasetemp() / "embeddings"

    def run(protocol, *arguments, fails=False):
        code = main(
            ["evaluate", protocol, f"--model={model}", f"--cache={cache}"]
            + [*arguments, "--json"]
        )
        captured = capsys.readouterr()
        assert code == (1 if fails else 0), captured.err
        if fails:
            assert "Traceback" not in captured.err
            return captured.err
        result = json.loads(captured.out)
        evaluated.check_counts(result["metrics"])
        return result

    return run


def pictures_of(folder):
    paths = sorted(folder.glob("*/*.png"), key=lambda path: (path.parent, path.name))
    labels = np.array([sorted(SHAPES).index(path.parent.name) for path in paths])
    return list(map(str, paths)), labels


def test_zero_shot_on_folders(evaluate, align, shapes, tmp_path):
    names, templates = tmp_path / "names.json", tmp_path / "templates.txt"
    names.write_text(json.dumps(WORDS))
    templates.write_text("a {}\n{} is\n")
    found = evaluate(
        "zero_shot",
        f"--data={shapes}",
        f"--classes={names}",
        f"--templates={templates}",
        "--slice_by=class",
    )
    paths, labels = pictures_of(shapes / "test")
    prompts = [
        prompt
        for shape in sorted(SHAPES)
        for prompt in (f"a {WORDS[shape]}", f"{WORDS[shape]} is")
    ]
    texts = align.encode_texts(prompts).reshape(5, 2, -1).mean(axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    scores = align.encode_images(paths) @ texts.T
    right = scores.argmax(axis=1) == labels
    metrics = found["metrics"]
    assert metrics["zero_shot/top_1"] == pytest.approx(right.mean())
    of_classes = [right[labels == label].mean() for label in range(5)]
    assert metrics["zero_shot/mean_per_class"] == pytest.approx(np.mean(of_classes))
    assert "zero_shot/top_5" not in metrics and metrics["classes"] == 5
    assert metrics["images"] == 10
    assert 0 < right.mean() < 1  # The tiny model isn't trivial here.
    for label, shape in enumerate(sorted(SHAPES)):
        name = f"zero_shot/top_1[{WORDS[shape]}]"
        assert found["slices"][name] == pytest.approx(right[labels == label].mean())
        assert found["slices"][f"{name}/items"] == 2
        low, high = (found["slices"][f"{name}/{end}"] for end in ("low", "high"))
        assert 0 <= low <= found["slices"][name] <= high <= 1


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_class_names_in_any_order_are_those_of_clip_benchmark(
    evaluate, align, shapes, tmp_path
):
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}\n{} is\n")
    classes = sorted(SHAPES)
    prompts = [text for name in classes for text in (f"a {name}", f"{name} is")]
    paths, labels = pictures_of(shapes / "test")
    expected = ask(
        "clip_benchmark_metrics",
        "zero_shot",
        class_names=classes,
        templates=["a {c}", "{c} is"],
        texts=prompts,
        embeddings=align.encode_texts(prompts),
        images=align.encode_images(paths),
        labels=labels,
    )
    for names in (classes, classes[::-1], classes[2:] + classes[:2]):
        file = tmp_path / "names.txt"
        file.write_text("\n".join(names))
        metrics = evaluate(
            "zero_shot",
            f"--data={shapes}",
            f"--classes={file}",
            f"--templates={templates}",
        )["metrics"]
        assert metrics["zero_shot/top_1"] == pytest.approx(expected["accuracies"][0])


def test_knn_on_folders(evaluate, align, shapes):
    found = evaluate("knn", f"--data={shapes}", "--slice_by=class")
    (train, train_labels), (test, labels) = (
        pictures_of(shapes / split) for split in ("train", "test")
    )
    scores = align.encode_images(test) @ align.encode_images(train).T
    near = np.argsort(-scores, axis=1)
    for k in (1, 5, 10):
        right = (train_labels[near[:, :k]] == labels[:, None]).any(axis=1)
        assert found["metrics"][f"knn/recall_at_{k}"] == pytest.approx(right.mean())
    assert found["metrics"]["gallery"] == 30
    assert found["slices"]["knn/recall_at_10[ring]/items"] == 2


@pytest.mark.ci
@needs("sklearn")
def test_linear_probe_on_folders(evaluate, align, shapes):
    from sklearn.linear_model import LogisticRegression

    metrics = evaluate("linear_probe", f"--data={shapes}")["metrics"]
    (train, train_labels), (test, labels) = (
        pictures_of(shapes / split) for split in ("train", "test")
    )
    penalty = metrics["linear_probe/penalty"]
    sklearn = LogisticRegression(C=1 / (penalty * 30), tol=1e-8, max_iter=10_000)
    sklearn.fit(align.encode_images(train), train_labels)
    assert metrics["linear_probe/top_1"] == pytest.approx(
        sklearn.score(align.encode_images(test), labels)
    )
    assert metrics["linear_probe/iterations"] < 1000


@pytest.mark.ci
@needs("clip_benchmark")
def test_zero_shot_on_imagenet_r_is_among_its_own_classes(evaluate, imagenet_r):
    del imagenet_r
    found = evaluate(
        "zero_shot",
        "--data=imagenet_r",
        "--classes=clip:imagenet1k",
        "--templates=none",
        "--slice_by=class",
    )
    assert found["metrics"]["classes"] == 2 and found["metrics"]["images"] == 3
    names = dict(zip(imagenet_ids(), read_class_names("clip:imagenet1k"), strict=True))
    sizes = {
        name: value
        for name, value in found["slices"].items()
        if name.startswith("zero_shot/top_1") and name.endswith("/items")
    }
    assert sizes == {
        f"zero_shot/top_1[{names['n07753592']}]/items": 2,
        f"zero_shot/top_1[{names['n02123045']}]/items": 1,
    }


@pytest.mark.parametrize(
    "name, classes", [("cars196", 7), ("imagenet_a:0.1.0", 2), ("imagenet_r", 2)]
)
def test_which_sets_lack_classes(
    evaluate, shapes, tmp_path, monkeypatch, name, classes
):
    """Elsewhere a class without pictures in the split may be found all the same."""
    images = [str(shapes / "test" / shape / "gray.png") for shape in ("bar", "ring")]
    data = LabeledImages(images, np.array([1, 5]), list("abcdefg"))
    monkeypatch.setattr(benchmarks, "read_tfds_classification", lambda *_: data)
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    metrics = evaluate(
        "zero_shot",
        f"--data={name}",
        f"--classes={tmp_path}/names.txt",
        "--templates=none",
    )["metrics"]
    assert (metrics["images"], metrics["classes"]) == (2, classes)
    assert ("zero_shot/top_5" in metrics) == (classes > 5)


def test_ids_are_no_names(evaluate, imagenet_r, tmp_path, monkeypatch):
    for name in set(imagenet_r):
        (tmp_path / "folders" / name).mkdir(parents=True)
        draw("red", "bar").save(tmp_path / "folders" / name / "1.png")
    data = f"--data={tmp_path}/folders"
    message = evaluate("zero_shot", data, fails=True)
    assert f"received none for '{min(imagenet_r)}'" in message
    assert "clip:imagenet1k" in message
    # ImageNet's sets take CLIP's names, where their package is installed.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = evaluate("zero_shot", "--data=imagenet_r", fails=True)
    assert "pip install clip-benchmark" in message


@pytest.mark.ci
def test_categories_of_the_stamps(evaluate, tmp_path, monkeypatch):
    for number, color in enumerate(COLORS):
        for category, shape in (("animals", "bar"), ("naturalforces", "ring")):
            path = tmp_path / "stamps" / category / f"{color}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(color, shape).save(path)
            path.with_suffix(".txt").write_text(f"A {color} thing.\n")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    build = functools.partial(open_corpus, data_dir=tmp_path / "data")
    monkeypatch.setattr(datasets, "open_corpus", build)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"animals": "beasts", "natural forces": "storms"}))
    found = evaluate(
        "zero_shot",
        "--data=stamps",
        "--split=all",
        f"--classes={names}",
        "--slice_by=class",
    )
    assert found["metrics"]["images"] == 16
    sizes = [
        found["slices"][f"zero_shot/top_1[{n}]/items"] for n in ("beasts", "storms")
    ]
    assert sizes == [8, 8]
    halves = evaluate("knn", "--data=stamps")["metrics"]
    assert halves["images"] + halves["gallery"] == 16
    message = evaluate("knn", "--data=stamps", "--split=dev", fails=True)
    assert (
        "the split of stamps must be one of train, test, all, received 'dev'" in message
    )


@pytest.mark.ci
@needs("qtawesome")
def test_composed_queries_on_icons(evaluate, align, tmp_path, monkeypatch):
    names = [
        f"{base}{word}"
        for base in ("bridge", "building", "heart", "house", "person", "plane")
        for word in ("", "-circle-check", "-circle-xmark", "-circle-exclamation")
    ]
    real = icons.read_font_and_charmap

    def some(folder, stem):
        font, charmap = real(folder, stem)
        return font, {name: charmap[name] for name in names if name in charmap}

    monkeypatch.setattr(icons, "TRAIN_FAMILIES", {})
    monkeypatch.setattr(icons, "read_font_and_charmap", some)
    build = functools.partial(open_corpus, data_dir=tmp_path)
    monkeypatch.setattr(datasets, "open_corpus", build)
    report = evaluate("composed", "--slice_by=words")
    metrics = report["metrics"]

    pictures = read_stored_images(build("icons"), "test")
    queries = composed_icon_queries([picture.id for picture in pictures])
    images = align.encode_images([picture.image for picture in pictures])
    right = []
    for query in queries:
        words = align.encode_texts([query.words])[0]
        scores = images @ (images[query.image] + 2 * query.sign * words)
        scores[query.image] = -np.inf
        right.append(scores.argmax() in query.targets)
    assert metrics["recall_at_1"] == pytest.approx(np.mean(right))
    assert metrics["queries"] == len(queries) == 36
    assert metrics["plus/queries"] == metrics["minus/queries"] == len(queries) / 2
    assert metrics["chance_recall_at_1"] == pytest.approx(1 / (len(pictures) - 1))
    assert metrics["images"] == len(pictures)
    assert report["slices"]["recall_at_5[circle check]/items"] == 12
    message = evaluate("composed", "--slice_by=color", fails=True)
    assert "must be one of category, sign, words" in message
    # By a column of the query's picture.
    path = tmp_path / "metadata.csv"
    houses = [own.id for own in pictures if "house" in own.id]
    path.write_text("id,kind\n" + "".join(f"{own},house\n" for own in houses))
    report = evaluate("composed", f"--metadata={path}", "--slice_by=kind")
    own = [pictures[query.image].id in houses for query in queries]
    assert report["slices"]["recall_at_1[house]/items"] == sum(own) > 0
    assert report["slices"]["recall_at_1[house]"] == pytest.approx(
        np.mean(np.array(right)[own])
    )


def test_mistakes_are_told_in_one_line(evaluate, shapes, tmp_path):
    (tmp_path / "flat" / "cat").mkdir(parents=True)
    draw("red", "bar").save(tmp_path / "flat" / "cat" / "1.png")
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo\n")
    two = tmp_path / "two.txt"
    two.write_text("a\nb\n")
    for arguments, expected in (
        (["knn", f"--data={tmp_path}/flat"], "must have the folders train and test"),
        (["zero_shot", f"--data={tmp_path}/none"], "must be a data set of TFDS or a f"),
        (["zero_shot", f"--data={shapes}", f"--templates={templates}"], "have {} for"),
        (["zero_shot", f"--data={shapes}", f"--classes={two}"], "name the 5 classes"),
        (["zero_shot", f"--data={shapes}", "--split=val"], "it has test, train"),
        (["knn", f"--data={shapes}", "--slice_by=color"], "must be one of class"),
        (["knn", f"--data={shapes}", "--split=train"], "no image in common"),
        (["linear_probe", f"--data={shapes}", "--train_split=test"], "no image in"),
        (["composed", "--data=stamps"], "Received: --data='stamps'"),
    ):
        message = evaluate(*arguments, fails=True)
        assert expected in message.replace("; " + str(shapes) + " has", "it has")


def test_classes_must_be_those_of_both_splits(evaluate, shapes, tmp_path):
    for split, shape in (("train", "bar"), ("train", "ring"), ("test", "bar")):
        folder = tmp_path / split / shape
        folder.mkdir(parents=True)
        for path in (shapes / split / shape).glob("*.png"):
            (folder / path.name).write_bytes(pathlib.Path(path).read_bytes())
    message = evaluate("knn", f"--data={tmp_path}", fails=True)
    assert (
        "Received: 2 classes in the training split and 1 in the test split" in message
    )
