"""Tests of the loss of a student that learns from a teacher."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.losses import ContrastiveLoss, DistillationLoss, MatryoshkaLoss
from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.optimizers import SGD
from align_keras.runs.model_from_config import build_loss, with_distillation
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.small import small_align, small_batch

WEIGHTS = (0.5, 2.0, 0.25)


def unit_rows(seed, rows=8, width=6):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def expected_parts(images, texts, teacher_images, teacher_texts, temperature=0.2):
    """Returns the embedding loss and the similarity loss by SciPy."""
    from scipy.special import log_softmax, rel_entr

    embedding = sum(
        np.mean(2 - 2 * np.sum(rows * teacher_rows, axis=1))
        for rows, teacher_rows in ((images, teacher_images), (texts, teacher_texts))
    )
    cosines = images @ texts.T / temperature
    teacher_cosines = teacher_images @ teacher_texts.T / temperature
    similarity = 0.0
    for axis in (0, 1):
        student = np.exp(log_softmax(cosines, axis))
        teacher = np.exp(log_softmax(teacher_cosines, axis))
        similarity += rel_entr(teacher, student).sum() / len(images)
    return embedding, similarity


def loss_of(loss, teacher_rows, temperature=0.1):
    """Returns a function of the embeddings of images and captions."""
    teacher = dict(zip(TEACHER_INPUTS, teacher_rows, strict=True))
    temperature = tf.constant(temperature, tf.float64)
    return functools.partial(loss, temperature=temperature, **teacher)


@pytest.mark.ci
@needs("scipy")
@pytest.mark.parametrize("contrastive_weight", [0.0, 0.25])
def test_the_loss_equals_that_of_scipy(contrastive_weight):
    rows = [unit_rows(seed) for seed in range(4)]
    weights = {"embedding_weight": 0.5, "similarity_weight": 2.0}
    inner = ContrastiveLoss(label_smoothing=0.0)
    loss = DistillationLoss(
        inner, **weights, contrastive_weight=contrastive_weight, temperature=0.2
    )
    total = loss_of(loss, rows[2:])(*rows[:2])
    embedding, similarity = expected_parts(*rows)
    contrastive = inner(*rows[:2], tf.constant(0.1, tf.float64))
    expected = (
        0.5 * embedding + 2.0 * similarity + contrastive_weight * float(contrastive)
    )
    assert float(total) == pytest.approx(expected, rel=1e-12)
    assert ("loss_i2t" in loss.parts) == bool(contrastive_weight)


@pytest.mark.ci
@needs("scipy")
def test_the_gradient_equals_finite_differences():
    rows = [unit_rows(seed) for seed in range(4)]
    loss = DistillationLoss(contrastive_weight=0.0, temperature=0.2)
    tensors = [tf.constant(values) for values in rows[:2]]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = loss_of(loss, rows[2:])(*tensors)
    gradients = tape.gradient(total, tensors)
    steps = [unit_rows(seed) for seed in (5, 6)]

    def distance_loss(distance):
        images, texts = (
            values + distance * step
            for values, step in zip(rows[:2], steps, strict=True)
        )
        embedding = np.sum((images - rows[2]) ** 2) + np.sum((texts - rows[3]) ** 2)
        return embedding / len(images) + expected_parts(images, texts, *rows[2:])[1]

    slope = (distance_loss(1e-6) - distance_loss(-1e-6)) / 2e-6
    actual = sum(
        np.sum(gradient * step) for gradient, step in zip(gradients, steps, strict=True)
    )
    assert actual == pytest.approx(slope, rel=1e-6)


@pytest.mark.ci
def test_replicas_have_the_loss_and_the_gradients_of_one_device(two_replicas):
    rows = [tf.constant(unit_rows(seed)) for seed in range(4)]
    loss = DistillationLoss(None, *WEIGHTS)

    def with_gradients(values, count):
        with tf.GradientTape() as tape:
            tape.watch(rows[:2])
            parts = [value[values] for value in rows]
            total = loss_of(loss, parts[2:])(*parts[:2]) / count
        return total, tape.gradient(total, rows[:2])

    def replica():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * 4
        return with_gradients(slice(first, first + 4), 2)

    results = two_replicas.run(tf.function(replica))
    add = tf.distribute.ReduceOp.SUM
    total, gradients = tf.nest.map_structure(
        lambda value: two_replicas.reduce(add, value, None), results
    )
    expected_total, expected = with_gradients(slice(0, 8), 1)
    assert float(total) == pytest.approx(float(expected_total), rel=1e-12)
    for actual_gradient, expected_gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(
            actual_gradient, expected_gradient, rtol=1e-9, atol=1e-13
        )


def test_a_teacher_of_another_width_is_compared_by_its_similarities():
    student, teacher = unit_rows(0), unit_rows(1, width=9)
    loss = loss_of(DistillationLoss(embedding_weight=0.0), [teacher, teacher])
    assert float(loss(student, student)) > 0
    loss = loss_of(DistillationLoss(), [teacher, teacher])
    with pytest.raises(InputError, match="width 6, and 9 for the teacher"):
        loss(student, student)


def test_training_reports_each_part_of_the_loss():
    model = small_align()
    inner = MatryoshkaLoss(ContrastiveLoss(share_equal_images=True), [4, 16])
    model.compile(SGD(0.01), DistillationLoss(inner, *WEIGHTS))
    batch = {
        **small_batch(),
        "image_ids": np.arange(4),
        **{name: unit_rows(7, 4, 16).astype("float32") for name in TEACHER_INPUTS},
    }
    metrics = model.evaluate(
        tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True
    )
    contrastive = metrics["loss_4"] + metrics["loss_16"]
    expected = 0.5 * metrics["loss_embedding"] + 2.0 * metrics["loss_similarity"]
    assert metrics["loss"] == pytest.approx(expected + 0.25 * contrastive, rel=1e-6)
    del batch["teacher_text_embeddings"]
    with pytest.raises(InputError, match="must contain teacher_text_embeddings"):
        model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0)
    with pytest.raises(InputError, match="image_text_batches.*teacher="):
        model.fit(np.zeros((1, 32, 32, 3), "uint8"), ["a"], verbose=0)


def test_a_saved_loss_has_the_same_options_and_inner_loss():
    loss = DistillationLoss(MatryoshkaLoss(ContrastiveLoss(), [4]), *WEIGHTS, 0.3)
    saved = keras.saving.serialize_keras_object(loss)
    loaded = keras.saving.deserialize_keras_object(saved)
    assert loaded.get_config() == loss.get_config()
    assert loaded.parts == ("loss_4", "loss_embedding", "loss_similarity")


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="contrastive_weight must be"):
        DistillationLoss(contrastive_weight=-1)
    with pytest.raises(InputError, match="temperature must be"):
        DistillationLoss(temperature=0)


def test_a_configuration_sets_the_options():
    section = "task.distillation"
    overrides = [f"{section}.teacher=align_small_en", f"{section}.temperature=0.3"]
    task = load_config(params_override=",".join(overrides)).task
    loss = with_distillation(build_loss(task.loss), task.distillation)
    assert isinstance(loss, DistillationLoss)
    assert (loss.temperature, loss.embedding_weight) == (0.3, 1.0)
    with pytest.raises(InputError, match="other options of the section are set"):
        load_config(params_override=overrides[1])
    zeros = [f"{section}.{name}_weight=0" for name in ("embedding", "similarity")]
    with pytest.raises(InputError, match="above 0 if .*embedding_weight is 0"):
        load_config(params_override=",".join([overrides[0], *zeros]))
