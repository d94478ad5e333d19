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

IMAGES = [f"picture {number}" for number in range(40)]
CAPTIONS = {
    language: [[f"{language} {row} {n}" for n in range(count)] for row in range(40)]
    for language, count in {"en": 5, "de": 5, "fr": 1, "cs": 1}.items()
}


def metrics_of(encoders, captions=CAPTIONS, encode_texts=None):
    encode_texts = encode_texts or encoders.texts
    ranks = multilingual_ranks(encoders.images(IMAGES), encode_texts, captions)
    return dict(multilingual_metrics(ranks))


class Encoders:
    """A picture is a point; a caption lies near its picture, Czech farther off."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.points = self.unit(self.rng.normal(size=(40, 12)))
        self.asked = []

    @staticmethod
    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def images(self, images):
        self.asked.append(images)
        return self.points[[int(image.split()[1]) for image in images]]

    def texts(self, texts):
        self.asked.append(texts)
        rows = [int(text.split()[1]) for text in texts]
        spread = {"en": 0.2, "de": 0.3, "fr": 0.3, "cs": 0.9}[texts[0][:2]]
        noise = self.rng.normal(size=(len(texts), 12))
        return self.unit(self.points[rows] + spread * noise)


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_against_clip_benchmark():
    encoders, seen = Encoders(), {}

    def encode_texts(texts):
        seen[texts[0][:2]] = encoders.texts(texts)
        return seen[texts[0][:2]]

    found = metrics_of(encoders, encode_texts=encode_texts)
    for language, texts in seen.items():
        owners = np.repeat(np.arange(40), len(texts) // 40)
        recalls = call_oracle(
            "clip_benchmark_metrics", "retrieval", encoders.points, texts, owners
        )
        for way, of_way in recalls.items():
            for k, recall in zip((1, 5, 10), of_way, strict=True):
                name = f"{language}/{way}/recall_at_{k}"
                assert found[name] == pytest.approx(recall)
        expected = np.mean([*recalls["t2i"], *recalls["i2t"]])
        assert found[f"{language}/mean_recall"] == pytest.approx(expected)
    assert 0.2 < found["cs/mean_recall"] < found["en/mean_recall"] < 1.0


def test_metrics_have_the_papers_names():
    encoders = Encoders()
    found = metrics_of(encoders)
    names = {
        result.metric for result in paper_results() if result.protocol == "multi30k"
    }
    assert names == {name for name in found if name.endswith("mean_recall")}


def test_equal_captions_are_one_target_where_keys_are_given():
    def encode(items):
        return np.eye(2)[[0 if "sun" in item else 1 for item in items]]

    arguments = (encode(["sun", "sun"]), encode, {"en": ["the sun", "The  sun"]})
    found = dict(multilingual_metrics(multilingual_ranks(*arguments)))
    assert found["en/i2t/recall_at_1"] == 0.0
    ranks = multilingual_ranks(*arguments, image_keys=["a", "b"])
    assert dict(multilingual_metrics(ranks))["en/mean_recall"] == 1.0


def test_mean_recall_is_the_mean_of_six():
    names = [f"{way}/recall_at_{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    values = [0.1, 0.5, 0.9, 0.0, 0.2, 0.4]
    metrics = dict(zip(names, values, strict=True)) | {"i2t/recall_at_20": 1.0}
    assert mean_recall(metrics) == pytest.approx(np.mean(values))


def test_a_language_of_another_number_of_pictures():
    encoders = Encoders()
    captions = CAPTIONS | {"fr": CAPTIONS["fr"][:39]}
    with pytest.raises(InputError, match=r"captions\['fr'\].*received 39 for 40"):
        metrics_of(encoders, captions)


def test_metrics_are_the_means_of_the_pictures_shares():
    encoders = Encoders()
    found = metrics_of(encoders)
    encoders = Encoders()
    outcomes = multilingual_outcomes(
        multilingual_ranks(encoders.images(IMAGES), encoders.texts, CAPTIONS)
    )
    assert set(outcomes) == {name for name in found if "recall" in name}
    assert (found["en/i2t/queries"], found["en/t2i/candidates"]) == (40, 40)
    for name, of_pictures in outcomes.items():
        assert of_pictures.shape == (40,)
        assert np.mean(of_pictures) == pytest.approx(found[name]), name
