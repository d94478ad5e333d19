"""Tests of all losses with the harness of `tests.helpers.loss_case`."""

import keras
import numpy as np
import tensorflow as tf

from align_keras.losses import (
    ContrastiveLoss,
    DistillationLoss,
    MatryoshkaLoss,
    PairLoss,
    SigmoidLoss,
)
from tests.helpers.loss_case import LossCase, log_softmax


def contrastive_loss_of_numpy(images, texts, temperature, smoothing):
    """Returns the sum of equations 1 and 2 of the paper."""
    logits = images @ texts.T / temperature
    targets = (1 - smoothing) * np.eye(len(images)) + smoothing / len(images)
    return -sum(
        (targets * log_softmax(logits, axis)).sum() / len(images) for axis in (0, 1)
    )


class TestContrastiveLoss(LossCase):
    loss = ContrastiveLoss()

    def expected(self, images, texts, temperature):
        return contrastive_loss_of_numpy(images, texts, temperature, 0.1)


class TestTiledContrastiveLoss(TestContrastiveLoss):
    loss = ContrastiveLoss(tile_size=5)


class TestMeanOfContrastiveLosses(LossCase):
    loss = ContrastiveLoss(0.0, "mean")

    def expected(self, images, texts, temperature):
        return contrastive_loss_of_numpy(images, texts, temperature, 0.0) / 2


class TestSigmoidLoss(LossCase):
    loss = SigmoidLoss(-2.0)
    parts = ("pair_loss",)

    def expected(self, images, texts, temperature):
        logits = images @ texts.T / temperature - 2.0
        signs = 2 * np.eye(len(images)) - 1
        return np.logaddexp(0, -signs * logits).sum() / len(images)


class TestTiledSigmoidLoss(TestSigmoidLoss):
    loss = SigmoidLoss(-2.0, tile_size=5)


class TestMatryoshkaLoss(LossCase):
    loss = MatryoshkaLoss(ContrastiveLoss(0.0), [2, 3, 6], [0.5, 1, 2])
    parts = ("loss_2", "loss_3", "loss_6")

    def expected(self, images, texts, temperature):
        total = 0.0
        for width, weight in ((2, 0.5), (3, 1.0), (6, 2.0)):
            rows = [values[:, :width] for values in (images, texts)]
            rows = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows]
            total += weight * contrastive_loss_of_numpy(*rows, temperature, 0.0)
        return total


class TestDistillationLoss(LossCase):
    loss = DistillationLoss(ContrastiveLoss(0.0), 0.5, 2.0, 0.25, temperature=0.3)
    parts = ("loss_i2t", "loss_t2i", "loss_embedding", "loss_similarity")
    with_teacher = True

    def expected(self, images, texts, temperature, teacher_images, teacher_texts):
        embedding = (
            np.sum((images - teacher_images) ** 2)
            + np.sum((texts - teacher_texts) ** 2)
        ) / len(images)
        similarity = 0.0
        for axis in (0, 1):
            student = log_softmax(images @ texts.T / 0.3, axis)
            teacher = log_softmax(teacher_images @ teacher_texts.T / 0.3, axis)
            similarity += (np.exp(teacher) * (teacher - student)).sum() / len(images)
        contrastive = contrastive_loss_of_numpy(images, texts, temperature, 0.0)
        return 0.5 * embedding + 2.0 * similarity + 0.25 * contrastive


class TestDistillationLossWithoutContrastiveLoss(LossCase):
    loss = DistillationLoss(None, 1.0, 0.0, 0.0)
    parts = ("loss_embedding",)
    with_teacher = True

    def expected(self, images, texts, temperature, teacher_images, teacher_texts):
        differences = (images - teacher_images, texts - teacher_texts)
        return sum(np.sum(rows**2) for rows in differences) / len(images)


@keras.saving.register_keras_serializable(package="loss_cases")
class TwoTerms(PairLoss):
    """Loss of a user with two parts."""

    parts = ("distance", "similarity")

    def call(self, image_embeddings, text_embeddings, temperature, token_ids):
        distance = tf.reduce_sum((image_embeddings - text_embeddings) ** 2, axis=1)
        cosines = tf.reduce_sum(image_embeddings * text_embeddings, axis=1)
        return distance, -cosines / temperature

    def get_config(self):
        return {}


class TestPairLoss(LossCase):
    loss = TwoTerms()
    parts = ("distance", "similarity")

    def expected(self, images, texts, temperature):
        distance = np.sum((images - texts) ** 2) / len(images)
        return distance - np.sum(images * texts) / len(images) / temperature


@keras.saving.register_keras_serializable(package="loss_cases")
def sigmoid_loss(image_embeddings, text_embeddings, temperature):
    """Returns the sigmoid loss of each image, from the logits of all pairs."""
    logits = tf.matmul(image_embeddings, text_embeddings, transpose_b=True)
    signs = 2.0 * tf.eye(tf.shape(logits)[0], dtype=logits.dtype) - 1.0
    return -tf.reduce_sum(tf.math.log_sigmoid(signs * logits / temperature), axis=1)


class TestFunctionLoss(LossCase):
    loss = staticmethod(sigmoid_loss)
    parts = ("pair_loss",)

    def expected(self, images, texts, temperature):
        logits = images @ texts.T / temperature
        signs = 2 * np.eye(len(images)) - 1
        return np.logaddexp(0, -signs * logits).sum() / len(images)
