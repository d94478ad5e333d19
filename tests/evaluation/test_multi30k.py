"""Retrieval metrics of Multi30k in several languages."""

import numpy as np
import pytest

from align_keras.evaluation import (
    mean_recall,
    multilingual_metrics,
    multilingual_outcomes,
    multilingual_ranks,
)
from align_keras.protocols.paper_results import paper_results
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import call_oracle, needs

IMAGES = [f"image {number}" for number in range(40)]
CAPTIONS = {
    language: [[f"{language} {row} {n}" for n in range(count)] for row in range(40)]
    for language, count in {"en": 5, "de": 5, "fr": 1, "cs": 1}.items()
}


def metrics_of(encoders, captions=CAPTIONS, encode_texts=None):
    encode_texts = encode_texts or encoders.texts
    ranks = multilingual_ranks(encoders.images(IMAGES), encode_texts, captions)
    return dict(multilingual_metrics(ranks))


class Encoders:
    """Encoders that embed captions near their images, with more noise for Czech."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.points = self.unit(self.rng.normal(size=(40, 12)))

    @staticmethod
    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def images(self, images):
        return self.points[[int(image.split()[1]) for image in images]]

    def texts(self, texts):
        rows = [int(text.split()[1]) for text in texts]
        spread = {"en": 0.2, "de": 0.3, "fr": 0.3, "cs": 0.9}[texts[0][:2]]
        noise = self.rng.normal(size=(len(texts), 12))
        return self.unit(self.points[rows] + spread * noise)


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_recalls_agree_with_clip_benchmark():
    encoders, embeddings = Encoders(), {}

    def encode_texts(texts):
        embeddings[texts[0][:2]] = encoders.texts(texts)
        return embeddings[texts[0][:2]]

    metrics = metrics_of(encoders, encode_texts=encode_texts)
    for language, texts in embeddings.items():
        owners = np.repeat(np.arange(40), len(texts) // 40)
        expected_recalls = call_oracle(
            "clip_benchmark_metrics", "retrieval", encoders.points, texts, owners
        )
        for direction, recalls in expected_recalls.items():
            for k, recall in zip((1, 5, 10), recalls, strict=True):
                name = f"{language}/{direction}/recall_at_{k}"
                assert metrics[name] == pytest.approx(recall)
        expected = np.mean([*expected_recalls["t2i"], *expected_recalls["i2t"]])
        assert metrics[f"{language}/mean_recall"] == pytest.approx(expected)
    assert 0.2 < metrics["cs/mean_recall"] < metrics["en/mean_recall"] < 1.0


def test_metric_names_are_those_of_the_paper_results():
    encoders = Encoders()
    metrics = metrics_of(encoders)
    names = {
        result.metric for result in paper_results() if result.protocol == "multi30k"
    }
    assert names == {name for name in metrics if name.endswith("mean_recall")}


def test_equal_captions_are_shared_positives_if_image_keys_are_passed():
    def encode(items):
        return np.eye(2)[[0 if "sun" in item else 1 for item in items]]

    arguments = (encode(["sun", "sun"]), encode, {"en": ["the sun", "The  sun"]})
    metrics = dict(multilingual_metrics(multilingual_ranks(*arguments)))
    assert metrics["en/i2t/recall_at_1"] == 0.0
    ranks = multilingual_ranks(*arguments, image_keys=["a", "b"])
    assert dict(multilingual_metrics(ranks))["en/mean_recall"] == 1.0


def test_mean_recall_is_the_mean_of_six_recalls():
    directions = ("i2t", "t2i")
    names = [f"{name}/recall_at_{k}" for name in directions for k in (1, 5, 10)]
    values = [0.1, 0.5, 0.9, 0.0, 0.2, 0.4]
    metrics = dict(zip(names, values, strict=True)) | {"i2t/recall_at_20": 1.0}
    assert mean_recall(metrics) == pytest.approx(np.mean(values))


def test_a_language_with_missing_images_is_refused():
    encoders = Encoders()
    captions = CAPTIONS | {"fr": CAPTIONS["fr"][:39]}
    with pytest.raises(InputError, match="39"):
        metrics_of(encoders, captions)


def test_metrics_are_the_means_of_the_outcomes_per_image():
    encoders = Encoders()
    metrics = metrics_of(encoders)
    encoders = Encoders()
    outcomes = multilingual_outcomes(
        multilingual_ranks(encoders.images(IMAGES), encoders.texts, CAPTIONS)
    )
    assert set(outcomes) == {name for name in metrics if "recall" in name}
    assert (metrics["en/i2t/queries"], metrics["en/t2i/candidates"]) == (40, 40)
    for name, image_values in outcomes.items():
        assert image_values.shape == (40,)
        assert np.mean(image_values) == pytest.approx(metrics[name]), name
