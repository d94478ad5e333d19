"""Folders of CLIP_benchmark against a calculation.

The model is a LiteRT model whose embeddings are the mean color of an image and the
colors that a text names, so that the test can compute them in another way.
"""

import numpy as np
import pytest
from PIL import Image

from align_keras import evaluate
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.public_benchmarks import write_class_shards, write_shards

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
    with pytest.raises(InputError, match="image in common"):
        measure("knn", folder, train_split="test")


def unit_sum(first, second):
    total = first + second
    return total / np.linalg.norm(total)
