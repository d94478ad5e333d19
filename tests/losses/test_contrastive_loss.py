"""The loss against hand-made cases, PyTorch, gradients and several replicas."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import contrastive_loss
from align_keras.utils.errors import InputError
from tests.helpers.recorded_oracles import recorded


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_hand_made_pair():
    images = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    # Logits are [[1, 0], [0, 1]]: each direction costs log(1 + e⁻¹).
    loss = contrastive_loss(images, images, 1.0, label_smoothing=0.0)
    assert float(loss) == pytest.approx(2 * np.log1p(np.exp(-1)), rel=1e-6)


def test_mean_is_half_of_sum():
    images, texts = unit_rows(5, 3, 0), unit_rows(5, 3, 1)
    total = contrastive_loss(images, texts, 0.1)
    mean = contrastive_loss(images, texts, 0.1, reduction="mean")
    assert float(total) == pytest.approx(2 * float(mean), rel=1e-12)


@pytest.mark.parametrize("number", range(9))
def test_equals_torch_with_gradients(number):
    """Both directions by PyTorch's own cross-entropy, whose answers are recorded."""
    question, answer = recorded("contrastive_loss")[number]
    names = ("images", "texts", "temperature")
    smoothing = float(question["smoothing"])
    arguments = [tf.constant(question[name], tf.float64) for name in names]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = contrastive_loss(*arguments, label_smoothing=smoothing)
    # Both sides compute in float64; 1e-10 leaves room for the order of sums.
    assert float(loss) == pytest.approx(float(answer["loss"]), rel=1e-10)
    for name, ours in zip(names, tape.gradient(loss, arguments), strict=True):
        np.testing.assert_allclose(ours, answer[name], rtol=1e-8, atol=1e-10)


def test_equal_captions_share_the_target():
    images = unit_rows(3, 4, 4)
    texts = np.stack([images[0], images[0], images[2]])
    groups = tf.constant([7, 7, 9])
    logits = images @ texts.T / 0.1
    targets = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])

    def entropy(logits):
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(targets * log_p).sum(1).mean()

    loss = contrastive_loss(images, texts, 0.1, label_smoothing=0.0, pair_groups=groups)
    assert float(loss) == pytest.approx(entropy(logits) + entropy(logits.T), rel=1e-9)


@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize("fraction", [1 / 2, 1 / 3])
def test_a_pair_meets_only_the_negatives_of_its_part(fraction, tile_size):
    images, texts = unit_rows(6, 4, 5), unit_rows(6, 4, 6)
    losses = []
    for part in np.split(np.arange(6), round(1 / fraction)):
        logits = images[part] @ texts[part].T / 0.1
        for each in (logits, logits.T):
            losses.append(np.log(np.exp(each).sum(1)) - np.diag(each))
    loss = contrastive_loss(
        images,
        texts,
        0.1,
        label_smoothing=0.0,
        tile_size=tile_size,
        negatives_fraction=fraction,
    )
    assert float(loss) == pytest.approx(2 * np.mean(losses), rel=1e-11)


def test_shared_targets_stay_within_a_part():
    images, texts = unit_rows(4, 4, 7), unit_rows(4, 4, 8)
    groups = np.array([1, 2, 1, 2])  # No two of a part are equal.
    options = {"negatives_fraction": 0.5}
    shared = contrastive_loss(images, texts, 0.1, pair_groups=groups, **options)
    alone = contrastive_loss(images, texts, 0.1, **options)
    assert float(shared) == pytest.approx(float(alone), rel=1e-12)


@pytest.mark.parametrize(
    "images",
    [np.zeros((3, 4)), np.ones((3, 4)) / 2, np.ones((1, 4)) / 2],
    ids=["zero embeddings", "duplicate pairs", "batch of one"],
)
def test_degenerate_inputs_stay_finite(images):
    images = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = contrastive_loss(images, images, 1 / 128)
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, images)).all()
    assert float(loss) == pytest.approx(2 * np.log(len(images)), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reduction": "max"}, "reduction"),
        ({"label_smoothing": 1.5}, "label_smoothing"),
        ({"tile_size": 0}, "tile_size"),
        ({"tile_size": True}, "tile_size"),
        ({"tile_size": 2.0}, "tile_size"),
        ({"tile_size": "large"}, "tile_size"),
        ({"negatives_fraction": 0.0}, "negatives_fraction"),
        ({"negatives_fraction": 0.4}, "negatives_fraction"),
        ({"negatives_fraction": 2.0}, "negatives_fraction"),
        ({"negatives_fraction": 1 / 3}, "negatives_fraction .* 2 rows"),
        ({"matmul_dtype": "float16", "tile_size": 2}, "matmul_dtype"),
        ({"matmul_dtype": "bfloat16"}, "tile_size"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(InputError, match=words):
        contrastive_loss(np.eye(2), np.eye(2), 1.0, **arguments)
