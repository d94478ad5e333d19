"""Tests that every loss of pairs must pass.

A new loss gets them by a subclass that sets attributes and computes the loss in NumPy:

    class TestMyLoss(LossCase):
        loss = MyLoss(weight=2.0)
        parts = ("my_loss",)

        def expected(self, images, texts, temperature):
            cosines = (images * texts).sum(axis=1)
            return 2.0 * np.mean(-cosines / temperature)

A loss that reads the embeddings of a teacher also sets `with_teacher = True`, and
`expected` gets them as two more arguments.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.losses.pair_loss import as_pair_loss
from align_keras.utils.errors import InputError

ROWS = 12
WIDTH = 6
TEMPERATURE = 0.2


def unit_rows(seed, rows=ROWS, width=WIDTH):
    """Returns random rows of length 1, float64 (rows, width)."""
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def log_softmax(logits, axis):
    """Returns the logarithms of the probabilities of logits along an axis."""
    return logits - np.logaddexp.reduce(logits, axis=axis, keepdims=True)


class LossCase:
    """Base class of the tests of a `PairLoss`, or of a function that is a loss."""

    loss = None
    parts = ("loss_i2t", "loss_t2i")
    with_teacher = False

    def expected(self, images, texts, temperature):
        """Returns the total loss of float64 rows."""
        raise NotImplementedError

    def _rows(self):
        return [unit_rows(seed) for seed in range(4 if self.with_teacher else 2)]

    def _value(self, rows):
        """Returns the loss of the rows of images, of texts and of the teacher."""
        images, texts, *teacher = [tf.convert_to_tensor(values) for values in rows]
        inputs = dict(zip(TEACHER_INPUTS, teacher, strict=False))
        temperature = tf.constant(TEMPERATURE, tf.float64)
        return as_pair_loss(self.loss)(images, texts, temperature, **inputs)

    def _gradients(self, rows, part=slice(None), replicas=1):
        """Returns the loss of a part of the rows, and its gradients for all rows."""
        values = [tf.constant(row) for row in rows]
        with tf.GradientTape() as tape:
            tape.watch(values[:2])
            total = self._value([row[part] for row in values]) / replicas
        return total, *tape.gradient(total, values[:2])

    def test_the_loss_equals_numpy(self):
        expected = self.expected(*self._rows()[:2], TEMPERATURE, *self._rows()[2:])
        assert float(self._value(self._rows())) == pytest.approx(expected, rel=1e-9)

    def test_the_gradient_equals_finite_differences(self):
        rows = self._rows()
        step = unit_rows(9)
        _, gradient, _ = self._gradients(rows)
        values = []
        for distance in (1e-5, -1e-5):
            moved = [rows[0] + distance * step, *rows[1:]]
            values.append(self.expected(*moved[:2], TEMPERATURE, *moved[2:]))
        slope = (values[0] - values[1]) / 2e-5
        assert np.sum(gradient * step) == pytest.approx(slope, rel=1e-5, abs=1e-8)

    def test_the_parts_have_names(self):
        assert as_pair_loss(self.loss).parts == self.parts

    @pytest.mark.parametrize("value", [0.0, WIDTH**-0.5], ids=["zeros", "duplicates"])
    def test_degenerate_rows_have_a_finite_loss_and_gradients(self, value):
        rows = [np.full((ROWS, WIDTH), value) for _ in self._rows()]
        assert all(np.isfinite(result).all() for result in self._gradients(rows))

    @pytest.mark.ci
    def test_replicas_have_the_loss_and_the_gradients_of_one_device(self, two_replicas):
        rows = self._rows()
        half = ROWS // 2

        def replica():
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group * half
            return self._gradients(rows, slice(first, first + half), 2)

        results = two_replicas.run(replica)
        for result, expected in zip(results, self._gradients(rows), strict=True):
            total = two_replicas.reduce(tf.distribute.ReduceOp.SUM, result, None)
            np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("rows", [ROWS - 1, 0])
    def test_other_numbers_of_rows_are_refused(self, rows):
        images, texts, *teacher = self._rows()
        if not rows:
            images = images[:0]
        with pytest.raises(InputError, match="text_embeddings"):
            self._value([images, texts[:rows], *teacher])

    def test_a_saved_loss_has_the_same_configuration(self):
        loss = as_pair_loss(self.loss)
        saved = keras.saving.serialize_keras_object(loss)
        loaded = keras.saving.deserialize_keras_object(saved)
        assert type(loaded) is type(loss)
        assert loaded.parts == loss.parts
        assert loaded.get_config() == loss.get_config()
