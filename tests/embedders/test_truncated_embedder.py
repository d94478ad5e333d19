"""Tests of embeddings that are truncated to their first components."""

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.data import RetrievalSet
from align_keras.evaluation.pair_recall import evaluate_pairs
from align_keras.search import Index
from align_keras.utils.errors import InputError
from tests.helpers.drawings import draw

TEXTS = ["a red flag", "a ship at sea"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label in range(3):
        draw(label, label).save(folder / f"{label}.png")
    return folder


def first_components(embeddings, count):
    values = embeddings[:, :count]
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_load_model_truncates_all_embeddings(photos):
    complete = load_model("align_small_en")
    truncated = load_model("align_small_en", dimensions=64)
    assert truncated.dimension == 64
    images = [str(path) for path in sorted(photos.iterdir())]
    pixels = np.zeros((1, complete.resize_to, complete.resize_to, 3), np.uint8)
    for actual, expected in (
        (truncated.encode_images(images), complete.encode_images(images)),
        (truncated.encode_texts(TEXTS), complete.encode_texts(TEXTS)),
        (truncated.encode_resized(pixels), complete.encode_resized(pixels)),
    ):
        np.testing.assert_allclose(actual, first_components(expected, 64), atol=1e-6)
    assert truncated.fingerprint != complete.fingerprint
    assert truncated.image_fingerprint != complete.image_fingerprint
    assert truncated.reference()["dimensions"] == 64
    assert load_model("align_small_en", dimensions=384).truncated_to is None
    with pytest.raises(InputError, match="dimensions must be"):
        load_model("align_small_en", dimensions=385)


def test_an_index_of_few_components_is_searched_without_options(
    photos, tmp_path, capsys
):
    folder = tmp_path / "index"
    options = ["--model", "align_small_en", "--dimensions", "64"]
    assert main(["index", str(photos), "--index", str(folder), *options]) == 0
    complete = load_model("align_small_en")
    files = [str(path) for path in sorted(photos.iterdir())]
    images = first_components(complete.encode_images(files), 64)
    texts = first_components(complete.encode_texts(TEXTS[:1]), 64)
    expected = sorted((images @ texts.T)[:, 0].tolist(), reverse=True)
    for model in (None, "align_small_en"):
        index = Index.open(folder, model)
        assert index.dimension == index.model.dimension == 64
        scores = [hit.score for hit in index.query(TEXTS[0], k=3)]
        np.testing.assert_allclose(scores, expected, atol=1e-3)
    # An update uses the dimensions of the index.
    assert main(["index", "--index", str(folder), "--model", "align_small_en"]) == 0
    wrong = ["index", "--index", str(folder), *options[:-1], "32"]
    assert main(wrong) == 1
    assert "--dimensions 32 --rebuild" in capsys.readouterr().err


def test_recall_is_measured_at_each_width():
    random = np.random.default_rng(0)
    images = first_components(random.normal(size=(30, 8)), 8)
    captions = [[f"{row} a", f"{row} b"] for row in range(30)]
    noise = random.normal(size=(60, 8))
    texts = first_components(images.repeat(2, axis=0) + noise, 8)

    class Encoder:
        def encode_images(self, _):
            return images

        def encode_texts(self, _):
            return texts

    keys = [str(row) for row in range(30)]
    pairs = RetrievalSet(keys, [b""] * 30, captions, keys)
    metrics = evaluate_pairs(Encoder(), pairs, [1, 5], widths=[2, 4])
    for width in (2, 4):
        scores = first_components(texts, width) @ first_components(images, width).T
        positive_scores = scores[np.arange(60), np.arange(60) // 2]
        ranks = (scores > positive_scores[:, None]).sum(axis=1)
        for k in (1, 5):
            recall = metrics[f"width_{width}/t2i/recall_at_{k}"]
            assert recall == pytest.approx((ranks < k).mean())
    assert metrics["t2i/recall_at_1"] != metrics["width_2/t2i/recall_at_1"]
