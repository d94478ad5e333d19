"""The loss against hand-made cases, PyTorch, gradients and several replicas."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import contrastive_loss
from align_keras.utils.errors import InputError

SCRIPT = pathlib.Path(__file__).with_name("replicas_script.py")


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def torch_loss(images, texts, temperature, smoothing):
    """Both directions by PyTorch's own cross-entropy, and the gradients."""
    torch = pytest.importorskip("torch")
    tensors = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (images, texts, temperature)
    ]
    logits = tensors[0] @ tensors[1].T / tensors[2]
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    labels = torch.arange(len(images))
    loss = entropy(logits, labels) + entropy(logits.T, labels)
    loss.backward()
    return loss.item(), [tensor.grad.numpy() for tensor in tensors]


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


@pytest.mark.parametrize("temperature", [1.0, 0.07, 1 / 128])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_torch_with_gradients(temperature, smoothing):
    images, texts = unit_rows(7, 4, 2), unit_rows(7, 4, 3)
    expected, gradients = torch_loss(images, texts, temperature, smoothing)
    arguments = [tf.constant(value, tf.float64) for value in (images, texts)]
    arguments.append(tf.constant(temperature, tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = contrastive_loss(*arguments, label_smoothing=smoothing)
    # Both sides compute in float64; 1e-10 leaves room for the order of sums.
    assert float(loss) == pytest.approx(expected, rel=1e-10)
    for ours, theirs in zip(tape.gradient(loss, arguments), gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


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
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(InputError, match=words):
        contrastive_loss(np.eye(2), np.eye(2), 1.0, **arguments)


def test_update_on_two_replicas_equals_one_device():
    """Real MirroredStrategy on logical CPUs, in a process of its own."""
    process = subprocess.run(
        [sys.executable, os.fspath(SCRIPT)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    lines = process.stdout.strip().splitlines()[-2:]
    assert len(lines) == 2
    for line in lines:
        difference, moved = map(float, line.split())
        assert moved > 1e-3
        # float32 sums in another order: 2e-7 when this was written.
        assert difference < 1e-6
