"""Parts of a fine-tuning: features, projections, learning rates and early stopping."""

import dataclasses
import re

import numpy as np
import pytest

from align_keras.config.experiment_config import FinetuneConfig
from align_keras.losses import ContrastiveLoss, DistillationLoss
from align_keras.models import ALIGN
from align_keras.training.finetune_stage import depth_multipliers, epochs_since_best
from align_keras.training.interpolation import read_weights
from align_keras.training.projection_stage import (
    compute_features,
    project_features,
    train_projections,
)
from tests.helpers.small import VOCABULARY, small_encoders
from tests.helpers.small_run import COLORS, SHAPES, draw

LOSS = ContrastiveLoss(
    label_smoothing=0.0, share_equal_captions=True, share_equal_images=True
)


@pytest.fixture(scope="module")
def align():
    encoders = small_encoders(num_stages=1)
    return ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def pairs():
    """Images, captions and keys. Some images have two captions."""
    names = [(color, shape) for color in COLORS[:4] for shape in SHAPES[:3]]
    images = [np.asarray(draw(*name)) for name in names]
    captions = [
        [color[:3], shape[:3]][: 1 + row % 2]
        for row, (color, shape) in enumerate(names)
    ]
    return images, captions, [f"{row}" for row in range(len(names))]


@pytest.fixture(scope="module")
def features(align, pairs):
    return compute_features(align, *pairs)


def test_projected_features_are_the_embeddings(align, pairs, features):
    images, texts = project_features(align, features)
    flat = [text for captions in pairs[1] for text in captions]
    np.testing.assert_allclose(images, align.encode_images(pairs[0]), atol=1e-5)
    np.testing.assert_allclose(texts, align.encode_texts(flat), atol=1e-5)
    counts = [len(captions) for captions in pairs[1]]
    np.testing.assert_array_equal(features.image_rows, np.repeat(range(12), counts))


def train(align, features, evaluate, loss=LOSS, teacher_rows=(), **options):
    values = {"projection_epochs": 3, "projection_rate": 0.01, "patience": 9}
    settings = FinetuneConfig(**values | options)
    return train_projections(
        align,
        features,
        loss,
        settings,
        evaluate=evaluate,
        batch_size=6,
        teacher_rows=teacher_rows,
    )


def projection_weights(align):
    weights = read_weights(align)
    return {path: value for path, value in weights.items() if "projection" in path}


def test_only_projections_and_temperature_change_and_the_best_are_kept(align, features):
    before = read_weights(align)
    seen = []

    def evaluate():
        seen.append(projection_weights(align))
        return {1: 0.3, 3: 0.2}.get(len(seen) - 1, 0.1)

    assert train(align, features, evaluate) == [0.1, 0.3, 0.1, 0.2]
    after = read_weights(align)
    for path, value in after.items():
        if "projection" in path:
            assert not np.array_equal(value, before[path])
            np.testing.assert_array_equal(value, seen[1][path])
        elif "temperature" not in path:
            np.testing.assert_array_equal(value, before[path])


def test_projections_stop_early_and_repeat_exactly(align, features):
    start = projection_weights(align)
    results = []
    for _ in range(2):
        for variable in align.weights:
            if variable.path in start:
                variable.assign(start[variable.path])
        align.temperature_layer.log_temperature.assign(0.0)
        values = iter([0.1, 0.2, 0.2, 0.2, 0.9])
        recalls = train(
            align, features, values.__next__, projection_epochs=9, patience=2
        )
        assert recalls == [0.1, 0.2, 0.2, 0.2]
        results.append(projection_weights(align))
    for path, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][path])


def test_projections_learn_the_similarities_of_a_teacher(align, features):
    random = np.random.default_rng(0)
    # The images of the small encoder have almost equal features.
    features = dataclasses.replace(
        features,
        images=random.normal(size=features.images.shape).astype("float32"),
        texts=random.normal(size=features.texts.shape).astype("float32"),
    )
    teacher = []
    for rows in (features.images, features.texts):
        rows = rows @ random.normal(size=(rows.shape[1], 5)).astype("float32")
        teacher.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    expected = teacher[0] @ teacher[1].T

    def correlation():
        images, texts = project_features(align, features)
        return np.corrcoef((images @ texts.T).ravel(), expected.ravel())[0, 1]

    values = train(
        align,
        features,
        correlation,
        DistillationLoss(LOSS, embedding_weight=0.0, contrastive_weight=0.01),
        teacher,
        projection_epochs=20,
        projection_rate=0.02,
    )
    assert values[0] < 0.3
    assert max(values) > 0.8


@pytest.mark.parametrize("name", ["image_encoder", "text_encoder"])
def test_rates_decrease_from_the_output_to_the_input(align, name):
    encoder = getattr(align, name)
    multipliers = depth_multipliers(encoder, 0.5)

    def factor(path):
        matches = [
            value for rule, value in multipliers.items() if re.search(rule, path)
        ]
        assert len(matches) < 2
        return matches[0] if matches else 1.0

    factors = [factor(weight.path) for weight in encoder.weights]
    # Keras lists the weights from the input to the output.
    assert factors == sorted(factors)
    count = len(encoder.blocks)
    assert set(factors) == {0.5**depth for depth in range(count + 2)}
    assert factor(f"{name}/projection/kernel") == 1.0
    last_block = encoder.blocks[-1]
    assert {factor(weight.path) for weight in last_block.weights} == {0.5}


def test_evaluations_since_the_best_are_counted():
    lines = [{"mean_recall": value} for value in (0.1, 0.3, 0.3, 0.2)]
    assert epochs_since_best(lines) == 2
    assert epochs_since_best([*lines, {"loss": 1.0}, {"mean_recall": 0.4}]) == 0
    assert epochs_since_best([]) == 0
