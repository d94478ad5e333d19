"""Tests of the training doctor with a loss that shares equal images."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss
from align_keras.optimizers import SGD
from align_keras.training import TrainingDoctor
from tests.helpers.small import small_align, small_batch


@pytest.mark.ci
@pytest.mark.parametrize(
    "share_equal_images", [pytest.param(False, marks=pytest.mark.release), True]
)
def test_repeated_pairs_are_no_problem_if_images_are_shared(share_equal_images):
    model = small_align()
    model.compile(SGD(0.0), ContrastiveLoss(share_equal_images=share_equal_images))
    repeated = np.repeat([0, 1], 4)
    batch = {name: values[repeated] for name, values in small_batch(2).items()}
    batch["image_ids"] = repeated
    doctor = TrainingDoctor(verbose=0)
    data = tf.data.Dataset.from_tensors(batch)
    model.fit(data, verbose=0, callbacks=[doctor])
    # With shared images, different captions could not lower the bound of the loss.
    assert doctor.has_found("equal_captions") != share_equal_images
