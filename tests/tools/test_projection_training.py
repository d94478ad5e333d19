"""Trainings of a projection on stored features, with real losses and small data."""

import dataclasses

import numpy as np
import pytest

from tools.benchmarks import bench_data_curve, projection_training
from tools.benchmarks.bench_methods import ALONE, ROWS

# Rows of the benchmark that use different parts of the code.
CHANGED_ROWS = (
    "alone",
    "sigmoid loss",
    "mean of the captions",
    "prompts",
    "hard negatives, weight 2",
    "text projection, rate 0.1",
    "mean of the last 200 steps",
)
NUM_IMAGES = 600
NUM_WORDS = 40
WIDTH = 12


class WordFeatures:
    """Features and text embeddings that a linear map relates, with some noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self._words = {}
        self._rng = rng
        # Small weights change quickly with the learning rate of the benchmarks.
        kernel = rng.normal(scale=0.02, size=(2 * WIDTH, WIDTH))
        self.kernel = kernel.astype("float32")
        self._map = rng.normal(size=(WIDTH, 2 * WIDTH))
        numbers = rng.integers(NUM_WORDS, size=(NUM_IMAGES, 2))
        self.captions = [[f"word {number}" for number in row] for row in numbers]
        means = np.stack([self.texts(row).mean(axis=0) for row in self.captions])
        noise = rng.normal(scale=0.1, size=(NUM_IMAGES, 2 * WIDTH))
        self.rows = (means @ self._map + noise).astype("float32")

    def texts(self, texts):
        """Returns the embeddings of texts. A prompt moves its caption a little."""
        for text in texts:
            if text not in self._words:
                word = " ".join(text.split()[-2:])
                row = self._words.get(word)
                change = self._rng.normal(size=WIDTH)
                row = change if row is None else row + 0.1 * change
                self._words[text] = row / np.linalg.norm(row)
        return np.stack([self._words[text] for text in texts]).astype("float32")


@pytest.fixture(scope="module")
def features():
    """Features of 600 images with two captions each."""
    return WordFeatures()


def share_of_right_words(model, features):
    """Returns the fraction of images whose best word is one of their captions."""
    words = [f"word {number}" for number in range(NUM_WORDS)]
    scores = model.encode_images(features.rows) @ model.encode_texts(words).T
    best = [words[number] for number in scores.argmax(axis=1)]
    hits = [word in row for word, row in zip(best, features.captions, strict=True)]
    return np.mean(hits)


@pytest.mark.ci
@pytest.mark.parametrize("name", CHANGED_ROWS)
def test_each_setting_learns_the_words(name, features):
    settings = dataclasses.replace(ALONE, class_names=False, **ROWS[name])
    settings = dataclasses.replace(
        settings, steps=100, averaged_steps=min(settings.averaged_steps, 30)
    )
    part = (features.rows, features.captions, np.ones(NUM_IMAGES, bool))
    model = projection_training.train(features, [part], 0, settings)
    # Chance is 2 of 40 words.
    assert share_of_right_words(model, features) > 0.4


@pytest.mark.ci
def test_a_teacher_changes_the_training(features):
    settings = dataclasses.replace(ALONE, steps=60, teacher_weight=4.0)
    part = (features.rows, features.captions, np.ones(NUM_IMAGES, bool))
    texts = features.texts([row[0] for row in features.captions])
    models = [
        projection_training.train(features, [part], 0, settings, teacher)
        for teacher in (texts, -texts)
    ]
    shares = [share_of_right_words(model, features) for model in models]
    assert shares[0] > shares[1] + 0.1


def test_images_that_are_held_out_are_not_joined(features):
    keep = np.arange(NUM_IMAGES) % 3 > 0
    part = (features.rows, features.captions, keep)
    rows, captions = projection_training.join([part, part])
    np.testing.assert_array_equal(rows, np.tile(features.rows[keep], (2, 1)))
    assert captions[:1] == features.captions[1:2]
    assert len(captions) == len(rows)


def test_similar_images_have_no_common_caption(features):
    neighbors = projection_training.similar_images(features.rows, features.captions)
    unit = features.rows / np.linalg.norm(features.rows, axis=1, keepdims=True)
    for number in range(0, NUM_IMAGES, 50):
        cosines = unit @ unit[number]
        allowed = [
            other
            for other in np.argsort(-cosines)
            if not set(features.captions[other]) & set(features.captions[number])
        ]
        expected = allowed[: projection_training.NEIGHBORS]
        np.testing.assert_allclose(
            cosines[neighbors[number]], cosines[expected], atol=1e-6
        )


def test_the_mean_of_models_has_the_mean_of_their_weights(features):
    models = [
        projection_training.Projection(
            features, np.full((2, 3), value), np.zeros(3), np.eye(3)
        )
        for value in (1.0, 3.0)
    ]
    mean = projection_training.mean_of(models)
    np.testing.assert_array_equal(mean.kernel, np.full((2, 3), 2.0))
    np.testing.assert_array_equal(mean.text_kernel, np.eye(3))


def test_a_sample_has_a_part_of_the_images_that_are_not_held_out():
    keep = np.arange(1000) % 4 > 0
    parts = [(np.zeros((1000, 2)), [["a"]] * 1000, keep)]
    ((_, _, sampled),) = bench_data_curve.sample(parts, 0.5, seed=0)
    assert not sampled[~keep].any()
    # Four standard deviations of 750 draws with a probability of 1/2.
    assert sampled.sum() == pytest.approx(375, abs=4 * (750 / 4) ** 0.5)
    ((_, _, complete),) = bench_data_curve.sample(parts, 1, seed=0)
    np.testing.assert_array_equal(complete, keep)


def test_the_line_of_a_curve_has_the_gain_of_twice_as_many_images():
    counts = np.array([100, 200, 400, 1600])
    gain, start = bench_data_curve.fitted_line(counts, 7 + 3 * np.log2(counts))
    assert (gain, start) == (pytest.approx(3), pytest.approx(7))
