"""`align-keras evaluate` with classes and composed queries, for a small model."""

import functools
import json
import pathlib

import numpy as np
import pytest

from align_keras import datasets
from align_keras.datasets import benchmarks, icons, open_corpus
from align_keras.datasets.benchmarks import (
    LabeledImages,
    composed_icon_queries,
    read_class_names,
    read_stored_images,
)
from align_keras.datasets.benchmarks.class_names import imagenet_ids
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.small_run import COLORS, SHAPES, draw
from tests.protocols import small_data

align, data, evaluate = small_data.align, small_data.data, small_data.evaluate
imagenet_r, shapes = small_data.imagenet_r, small_data.shapes
# Class folder → class name in the prompts.
CLASS_NAMES = {
    "circle": "round",
    "square": "box",
    "bar": "bar",
    "cross": "x",
    "ring": "o",
}


def list_images(folder):
    """Returns the paths and labels of images in class folders."""
    paths = sorted(folder.glob("*/*.png"), key=lambda path: (path.parent, path.name))
    labels = np.array([sorted(SHAPES).index(path.parent.name) for path in paths])
    return list(map(str, paths)), labels


def test_zero_shot_accuracy_matches_a_calculation(evaluate, align, shapes, tmp_path):
    names, templates = tmp_path / "names.json", tmp_path / "templates.txt"
    names.write_text(json.dumps(CLASS_NAMES))
    templates.write_text("a {}\n{} is\n")
    result = evaluate(
        "zero_shot",
        f"--data={shapes}",
        f"--classes={names}",
        f"--templates={templates}",
        "--slice_by=class",
    )
    paths, labels = list_images(shapes / "test")
    prompts = [
        prompt
        for shape in sorted(SHAPES)
        for prompt in (f"a {CLASS_NAMES[shape]}", f"{CLASS_NAMES[shape]} is")
    ]
    texts = align.encode_texts(prompts).reshape(5, 2, -1).mean(axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    scores = align.encode_images(paths) @ texts.T
    is_correct = scores.argmax(axis=1) == labels
    metrics = result["metrics"]
    assert metrics["zero_shot/top_1"] == pytest.approx(is_correct.mean())
    class_accuracies = [is_correct[labels == label].mean() for label in range(5)]
    assert metrics["zero_shot/mean_per_class"] == pytest.approx(
        np.mean(class_accuracies)
    )
    assert "zero_shot/top_5" not in metrics and metrics["classes"] == 5
    assert metrics["images"] == 10
    # The test would check nothing if all predictions were correct, or none.
    assert 0 < is_correct.mean() < 1
    for label, shape in enumerate(sorted(SHAPES)):
        name = f"zero_shot/top_1[{CLASS_NAMES[shape]}]"
        assert result["slices"][name] == pytest.approx(
            is_correct[labels == label].mean()
        )
        assert result["slices"][f"{name}/items"] == 2
        low, high = (result["slices"][f"{name}/{end}"] for end in ("low", "high"))
        assert 0 <= low <= result["slices"][name] <= high <= 1


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_zero_shot_matches_clip_benchmark_for_any_order_of_classes(
    evaluate, align, shapes, tmp_path
):
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}\n{} is\n")
    classes = sorted(SHAPES)
    prompts = [text for name in classes for text in (f"a {name}", f"{name} is")]
    paths, labels = list_images(shapes / "test")
    expected = call_oracle(
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


def test_knn_recall_matches_a_calculation(evaluate, align, shapes):
    result = evaluate("knn", f"--data={shapes}", "--slice_by=class")
    (train, train_labels), (test, labels) = (
        list_images(shapes / split) for split in ("train", "test")
    )
    scores = align.encode_images(test) @ align.encode_images(train).T
    nearest_rows = np.argsort(-scores, axis=1)
    for k in (1, 5, 10):
        is_correct = (train_labels[nearest_rows[:, :k]] == labels[:, None]).any(axis=1)
        assert result["metrics"][f"knn/recall_at_{k}"] == pytest.approx(
            is_correct.mean()
        )
    assert result["metrics"]["gallery"] == 30
    assert result["slices"]["knn/recall_at_10[ring]/items"] == 2


@pytest.mark.ci
@needs("sklearn")
def test_the_linear_probe_matches_scikit_learn(evaluate, align, shapes):
    from sklearn.linear_model import LogisticRegression

    metrics = evaluate("linear_probe", f"--data={shapes}")["metrics"]
    (train, train_labels), (test, labels) = (
        list_images(shapes / split) for split in ("train", "test")
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
def test_imagenet_r_is_classified_only_among_its_classes(evaluate, imagenet_r):
    del imagenet_r
    result = evaluate(
        "zero_shot",
        "--data=imagenet_r",
        "--classes=clip:imagenet1k",
        "--templates=none",
        "--slice_by=class",
    )
    assert result["metrics"]["classes"] == 2 and result["metrics"]["images"] == 3
    names = dict(zip(imagenet_ids(), read_class_names("clip:imagenet1k"), strict=True))
    sizes = {
        name: value
        for name, value in result["slices"].items()
        if name.startswith("zero_shot/top_1") and name.endswith("/items")
    }
    assert sizes == {
        f"zero_shot/top_1[{names['n07753592']}]/items": 2,
        f"zero_shot/top_1[{names['n02123045']}]/items": 1,
    }


@pytest.mark.parametrize(
    "name, classes", [("cars196", 7), ("imagenet_a:0.1.0", 2), ("imagenet_r", 2)]
)
def test_candidates_are_the_classes_of_the_data_set(
    evaluate, shapes, tmp_path, monkeypatch, name, classes
):
    """Only some data sets limit the candidates to the classes of the split."""
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


def test_wordnet_ids_are_refused_as_class_names(evaluate, tmp_path):
    for name in ("n02123045", "n07753592"):
        (tmp_path / name).mkdir()
        draw("red", "bar").save(tmp_path / name / "1.png")
    message = evaluate("zero_shot", f"--data={tmp_path}", fails=True)
    assert "n02123045" in message and "clip:imagenet1k" in message


@pytest.mark.ci
def test_stamps_are_classified_by_category(evaluate, tmp_path, monkeypatch):
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
    result = evaluate(
        "zero_shot",
        "--data=stamps",
        "--split=all",
        f"--classes={names}",
        "--slice_by=class",
    )
    assert result["metrics"]["images"] == 16
    sizes = [
        result["slices"][f"zero_shot/top_1[{n}]/items"] for n in ("beasts", "storms")
    ]
    assert sizes == [8, 8]
    halves = evaluate("knn", "--data=stamps")["metrics"]
    assert halves["images"] + halves["gallery"] == 16
    message = evaluate("knn", "--data=stamps", "--split=dev", fails=True)
    assert "stamps" in message and "train, test, all. Received: 'dev'" in message


@pytest.mark.ci
@needs("qtawesome")
def test_recall_of_composed_queries_matches_a_calculation(
    evaluate, align, tmp_path, monkeypatch
):
    names = [
        f"{base}{word}"
        for base in ("bridge", "building", "heart", "house", "person", "plane")
        for word in ("", "-circle-check", "-circle-xmark", "-circle-exclamation")
    ]
    read_font_and_charmap = icons.read_font_and_charmap

    def read_some_icons(folder, stem):
        font, charmap = read_font_and_charmap(folder, stem)
        return font, {name: charmap[name] for name in names if name in charmap}

    monkeypatch.setattr(icons, "TRAIN_FAMILIES", {})
    monkeypatch.setattr(icons, "read_font_and_charmap", read_some_icons)
    build = functools.partial(open_corpus, data_dir=tmp_path)
    monkeypatch.setattr(datasets, "open_corpus", build)
    result = evaluate("composed", "--slice_by=words")
    metrics = result["metrics"]

    examples = read_stored_images(build("icons"), "test")
    queries = composed_icon_queries([example.id for example in examples])
    images = align.encode_images([example.image for example in examples])
    is_correct = []
    for query in queries:
        words = align.encode_texts([query.words])[0]
        image = images[query.image]
        vector = image + 2 * words
        if query.sign < 0:
            vector = image - max(image @ words, 0) * words
        scores = images @ vector
        scores[query.image] = -np.inf
        is_correct.append(scores.argmax() in query.targets)
    assert metrics["recall_at_1"] == pytest.approx(np.mean(is_correct))
    assert metrics["queries"] == len(queries) == 36
    assert metrics["plus/queries"] == metrics["minus/queries"] == len(queries) / 2
    assert metrics["chance_recall_at_1"] == pytest.approx(1 / (len(examples) - 1))
    assert metrics["images"] == len(examples)
    assert result["slices"]["recall_at_5[circle check]/items"] == 12
    # Queries are sliced by a column of their image.
    path = tmp_path / "metadata.csv"
    houses = [example.id for example in examples if "house" in example.id]
    path.write_text("id,kind\n" + "".join(f"{house},house\n" for house in houses))
    result = evaluate("composed", f"--metadata={path}", "--slice_by=kind")
    is_house = [examples[query.image].id in houses for query in queries]
    assert result["slices"]["recall_at_1[house]/items"] == sum(is_house) > 0
    assert result["slices"]["recall_at_1[house]"] == pytest.approx(
        np.mean(np.array(is_correct)[is_house])
    )


def test_wrong_options_print_one_line(evaluate, shapes, tmp_path):
    (tmp_path / "flat" / "cat").mkdir(parents=True)
    draw("red", "bar").save(tmp_path / "flat" / "cat" / "1.png")
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo\n")
    two_classes = tmp_path / "two.txt"
    two_classes.write_text("a\nb\n")
    for arguments, expected in (
        (["knn", f"--data={tmp_path}/flat"], "folders train and test"),
        (["zero_shot", f"--data={tmp_path}/none"], "TFDS"),
        (["zero_shot", f"--data={shapes}", f"--templates={templates}"], "have {} for"),
        (
            ["zero_shot", f"--data={shapes}", f"--classes={two_classes}"],
            "name the 5 classes",
        ),
        (["zero_shot", f"--data={shapes}", "--split=val"], "are test, train."),
        (["knn", f"--data={shapes}", "--split=train"], "image in common"),
        (["linear_probe", f"--data={shapes}", "--train_split=test"], "no image in"),
        (["composed", "--data=stamps"], "stamps"),
    ):
        message = evaluate(*arguments, fails=True)
        assert expected in message


def test_both_splits_must_have_the_same_classes(evaluate, shapes, tmp_path):
    for split, shape in (("train", "bar"), ("train", "ring"), ("test", "bar")):
        folder = tmp_path / split / shape
        folder.mkdir(parents=True)
        for path in (shapes / split / shape).glob("*.png"):
            (folder / path.name).write_bytes(pathlib.Path(path).read_bytes())
    message = evaluate("knn", f"--data={tmp_path}", fails=True)
    assert "Received: 2 classes" in message and "1 in the test" in message
