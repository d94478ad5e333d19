"""Tests of the loss of a student that learns from a teacher."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.losses import ContrastiveLoss, DistillationLoss, MatryoshkaLoss
from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.optimizers import SGD
from align_keras.runs.model_from_config import build_loss, with_distillation
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch

WEIGHTS = (0.5, 2.0, 0.25)


def unit_rows(seed, rows=8, width=6):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def loss_of(loss, teacher_rows, temperature=0.1):
    """Returns a function of the embeddings of images and captions."""
    teacher = dict(zip(TEACHER_INPUTS, teacher_rows, strict=True))
    temperature = tf.constant(temperature, tf.float64)
    return functools.partial(loss, temperature=temperature, **teacher)


def test_a_teacher_of_another_width_is_compared_by_its_similarities():
    student, teacher = unit_rows(0), unit_rows(1, width=9)
    loss = loss_of(DistillationLoss(embedding_weight=0.0), [teacher, teacher])
    assert float(loss(student, student)) > 0
    loss = loss_of(DistillationLoss(), [teacher, teacher])
    with pytest.raises(InputError, match="width 6"):
        loss(student, student)


@pytest.mark.ci
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
    with pytest.raises(InputError, match="teacher_text_embeddings"):
        model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0)
    with pytest.raises(InputError, match="teacher="):
        model.fit(np.zeros((1, 32, 32, 3), "uint8"), ["a"], verbose=0)


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="contrastive_weight"):
        DistillationLoss(contrastive_weight=-1)
    with pytest.raises(InputError, match="temperature must be"):
        DistillationLoss(temperature=0)


def test_a_configuration_sets_the_options():
    section = "task.distillation"
    overrides = [f"{section}.teacher=align_small_en", f"{section}.temperature=0.3"]
    task = load_config(params_override=",".join(overrides)).task
    loss = with_distillation(build_loss(task.loss, 16), task.distillation)
    assert isinstance(loss, DistillationLoss)
    assert (loss.temperature, loss.embedding_weight) == (0.3, 1.0)
