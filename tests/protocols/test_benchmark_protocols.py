"""XM3600, SugarCrepe, Winoground and CLIP_benchmark's folders against a calculation.

The model is a LiteRT model whose embeddings are the mean color of an image and the
colors that a text names, so that the test can compute them in another way.
"""

import itertools

import numpy as np
import pytest
from PIL import Image

from align_keras import evaluate
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.public_benchmarks import (
    write_class_shards,
    write_shards,
    write_sugar_crepe,
    write_winoground,
    write_xm3600,
)

RGB = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
# Images of 12 mixtures of colors. Random mixtures have no equal cosines.
MIXTURES = [
    tuple(row) for row in np.random.default_rng(0).integers(20, 255, (12, 3)).tolist()
]
IMAGES = [Image.new("RGB", (24, 24), mixture) for mixture in MIXTURES]


def unit(values):
    values = np.array([*values, 0.05])
    return values / np.linalg.norm(values)


def image_embedding(mixture):
    return unit(np.array(mixture) / 255)


def text_embedding(text):
    return unit(sum(np.array(RGB[word]) for word in text.split() if word in RGB))


def cosine(mixture, text):
    return float(image_embedding(mixture) @ text_embedding(text))


def caption_of(mixture, rotation=0):
    """Names strong colors twice. A rotation makes the caption wrong.

    The text encoder reads six words.
    """
    words = []
    for name, level in zip(RGB, np.roll(mixture, rotation), strict=True):
        words += [name] * (2 if level > 130 else 1)
    return " ".join(words)


def recall_at_1(scores, is_correct):
    """Returns the fraction of queries (rows) whose best candidate is correct.

    A tie with a wrong candidate is a miss.
    """
    best = np.where(is_correct, scores, -np.inf).max(axis=1, keepdims=True)
    is_better = ~is_correct & (scores >= best - 1e-9)
    return float(np.mean(~is_better.any(axis=1)))


@pytest.fixture
def measure(tmp_path):
    def run(protocol, data, **options):
        result = evaluate(
            GOLDEN, protocol, str(data), cache=tmp_path / "cache", **options
        )
        return result

    return run


def test_xm3600_measures_each_language(tmp_path, measure):
    captions = {
        # Images have one or two captions, and some captions are wrong.
        "en": [[caption_of(mixture)] * 1 for mixture in MIXTURES],
        "de": [
            [caption_of(mixture, row % 3)] + ["red blue"] * (row % 2)
            for row, mixture in enumerate(MIXTURES)
        ],
    }
    write_xm3600(tmp_path / "data", IMAGES, captions)
    metrics = measure("xm3600", tmp_path / "data")["metrics"]
    for language, texts in captions.items():
        owners = [row for row, values in enumerate(texts) for _ in values]
        flat = [text for values in texts for text in values]
        scores = np.array([[cosine(m, text) for text in flat] for m in MIXTURES])
        positives = np.arange(len(MIXTURES))[:, None] == np.array(owners)
        for direction, table, correct in (
            ("i2t", scores, positives),
            ("t2i", scores.T, positives.T),
        ):
            name = f"{language}/{direction}/recall_at_1"
            assert metrics[name] == pytest.approx(recall_at_1(table, correct)), name
            assert metrics[f"{language}/{direction}/queries"] == len(table)
    assert 0 < metrics["de/t2i/recall_at_1"] < metrics["en/t2i/recall_at_1"]
    mean = (metrics["de/i2t/recall_at_5"] + metrics["en/i2t/recall_at_5"]) / 2
    assert metrics["all_languages/i2t/recall_at_5"] == pytest.approx(mean)
    slices = measure("xm3600", tmp_path / "data", slice_by="locale")["slices"]
    assert slices["de/t2i/recall_at_1[de]/items"] == sum(
        len(texts) for texts in captions["de"][1::2]
    )


def test_sugar_crepe_measures_each_category(tmp_path, measure):
    pairs = {
        "swap_att": [
            (row, caption_of(mixture), caption_of(mixture, 1))
            for row, mixture in enumerate(MIXTURES)
        ],
        "add_obj": [
            (row, "red green", "red green blue") for row in range(len(MIXTURES))
        ],
    }
    write_sugar_crepe(tmp_path, tmp_path / "val2017", IMAGES, pairs)
    metrics = measure("sugar_crepe", tmp_path)["metrics"]
    outcomes = {
        category: [
            cosine(MIXTURES[row], correct) > cosine(MIXTURES[row], wrong)
            for row, correct, wrong in entries
        ]
        for category, entries in pairs.items()
    }
    for category, values in outcomes.items():
        name = f"sugar_crepe/{category}/accuracy"
        assert metrics[name] == pytest.approx(np.mean(values))
        assert 0 < metrics[name] <= 1
    everything = outcomes["swap_att"] + outcomes["add_obj"]
    assert metrics["sugar_crepe/accuracy"] == pytest.approx(np.mean(everything))
    assert metrics["sugar_crepe/chance_accuracy"] == 0.5
    slices = measure("sugar_crepe", tmp_path, slice_by="category")["slices"]
    assert slices["sugar_crepe/accuracy[add_obj]"] == pytest.approx(
        np.mean(outcomes["add_obj"])
    )


def test_winoground_measures_three_scores(tmp_path, measure):
    pairs = list(itertools.combinations(range(len(MIXTURES)), 2))[::4]
    examples = [
        (
            (IMAGES[first], IMAGES[second]),
            (caption_of(MIXTURES[first], number % 3), caption_of(MIXTURES[second])),
            ("Object", "Relation")[number % 2],
        )
        for number, (first, second) in enumerate(pairs)
    ]
    write_winoground(tmp_path, examples)
    result = measure("winoground", tmp_path, slice_by="collapsed_tag")
    text, image = [], []
    for (first, second), (_, (one, two), _) in zip(pairs, examples, strict=True):
        a, b = MIXTURES[first], MIXTURES[second]
        text.append(cosine(a, one) > cosine(a, two) and cosine(b, two) > cosine(b, one))
        image.append(
            cosine(a, one) > cosine(b, one) and cosine(b, two) > cosine(a, two)
        )
    metrics = result["metrics"]
    group = [both for both in map(all, zip(text, image, strict=True))]
    assert metrics["winoground/text_score"] == pytest.approx(np.mean(text))
    assert metrics["winoground/image_score"] == pytest.approx(np.mean(image))
    assert metrics["winoground/group_score"] == pytest.approx(np.mean(group))
    assert 0 < np.mean(group) < np.mean(text) < 1
    assert metrics["winoground/chance_group_score"] == pytest.approx(1 / 6)
    assert result["slices"]["winoground/text_score[Object]"] == pytest.approx(
        np.mean(text[::2])
    )


def test_columns_of_metadata_are_joined(tmp_path, measure):
    examples = [(IMAGES[:2], ("red", "blue"), "Object")] * 2
    write_winoground(tmp_path / "winoground", examples)
    folder = tmp_path / "sugar_crepe"
    pairs = {"add_obj": [(row, "red", "blue") for row in (0, 1, 1)]}
    write_sugar_crepe(folder, folder / "val2017", IMAGES, pairs)
    table = tmp_path / "metadata.csv"
    table.write_text("id,origin\n0,a\n1,b\n000000000000.jpg,a\n000000000001.jpg,b\n")
    options = {"metadata": str(table), "slice_by": "origin"}
    slices = measure("winoground", tmp_path / "winoground", **options)["slices"]
    assert slices["winoground/text_score[b]/items"] == 1
    slices = measure("sugar_crepe", folder, **options)["slices"]
    assert slices["sugar_crepe/accuracy[b]/items"] == 2


@pytest.mark.parametrize("protocol", ["xm3600", "sugar_crepe", "winoground"])
def test_missing_data_is_an_error_with_its_address(protocol, tmp_path, measure):
    with pytest.raises(InputError, match="Check the path"):
        measure(protocol, tmp_path / "nothing")
    with pytest.raises(InputError, match="Download .*(google|RAIVNLab|facebook)"):
        measure(protocol, protocol, data_root=str(tmp_path))


def test_named_sets_must_be_complete(tmp_path, measure):
    root = tmp_path / "root"
    write_xm3600(root / "xm3600", IMAGES[:2], {"en": [["red"], ["blue"]]})
    write_winoground(root / "winoground", [(IMAGES[:2], ("red", "blue"), "Object")])
    pairs = {"add_obj": [(0, "red", "blue")]}
    write_sugar_crepe(root / "sugar_crepe", root / "coco/val2017", IMAGES, pairs)
    for protocol in ("xm3600", "sugar_crepe", "winoground"):
        with pytest.raises(InputError, match="must have (3,600|2,062|400) "):
            measure(protocol, protocol, data_root=str(root))


def test_a_folder_of_clip_benchmark_is_evaluated(tmp_path, measure):
    # Two equal captions belong to different images, which shared targets would join.
    captions = [[caption_of(mixture), "red green"] for mixture in MIXTURES]
    write_shards(tmp_path / "retrieval", IMAGES, captions)
    metrics = measure("retrieval", tmp_path / "retrieval")["metrics"]
    assert metrics["i2t/candidates"] == 2 * len(MIXTURES)
    flat = [text for texts in captions for text in texts]
    scores = np.array(
        [[cosine(mixture, text) for mixture in MIXTURES] for text in flat]
    )
    owners = np.repeat(np.arange(len(MIXTURES)), 2)
    expected = recall_at_1(scores, owners[:, None] == np.arange(len(MIXTURES)))
    assert metrics["t2i/recall_at_1"] == pytest.approx(expected)
    assert 0 < expected < 1
    labels = [int(np.argmax(mixture)) for mixture in MIXTURES]
    folder = tmp_path / "classes"
    write_class_shards(folder, IMAGES, labels, list(RGB), ["{c}", "red {c}"])
    result = measure("zero_shot", folder)
    prompts = {
        name: unit_sum(text_embedding(name), text_embedding(f"red {name}"))
        for name in RGB
    }
    predictions = [
        int(np.argmax([image_embedding(m) @ prompts[name] for name in RGB]))
        for m in MIXTURES
    ]
    accuracy = np.mean(np.array(predictions) == labels)
    assert result["metrics"]["zero_shot/top_1"] == pytest.approx(accuracy)
    assert 0 < accuracy < 1
    # A set option replaces the prompts of the folder.
    plain = measure("zero_shot", folder, templates="none")["metrics"]
    assert plain["zero_shot/top_1"] != pytest.approx(accuracy)
    # Two splits are enough for the protocols with training images.
    write_class_shards(folder, IMAGES, labels, list(RGB), ["{c}"], split="train")
    assert measure("knn", folder)["metrics"]["knn/recall_at_1"] == 1
    with pytest.raises(InputError, match="no image in common"):
        measure("knn", folder, train_split="test")


def unit_sum(first, second):
    total = first + second
    return total / np.linalg.norm(total)
