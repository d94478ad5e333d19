"""Test that training batches are a function of the seeds of rows and steps."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.data import batch_ids, read_retrieval_set, training_batches
from tests.data.noise_corpus import build_noise
from tests.data.noise_corpus import preprocessor as make_preprocessor


@pytest.mark.ci
@pytest.mark.parametrize("options", [{"zoom": 0.1, "recolor": 0.5}])
def test_a_batch_equals_the_augmentation_with_the_seeds_of_its_rows(tmp_path, options):
    builder = build_noise(tmp_path)
    pairs = read_retrieval_set(builder, "train")
    rows = {identifier: row for row, identifier in enumerate(pairs.ids)}
    order = {"batch_size": 8, "seed": 3, "shuffle_buffer_size": 6}
    preprocessor = make_preprocessor(**options)
    converter = preprocessor.image_converter
    batches = training_batches(builder, "train", preprocessor, start_step=2, **order)
    batch = next(batches.as_numpy_iterator())
    images, captions = [], []
    for row, identifier in enumerate(batch_ids(builder, "train", step=2, **order)):
        number = tf.constant(2 * 8 + row, tf.int64)
        seed = tf.constant(3, tf.int64)
        stored = rows[identifier]
        file = tf.constant(pairs.images[stored])
        images.append(converter.augment(file, tf.stack([seed, ~number])))
        choices = tf.constant(pairs.captions[stored])
        seeds = tf.stack([seed, number])
        captions.append(preprocessor.choose_caption(choices, seeds))
    images = tf.stack(images)
    if converter.augments_batches:
        images = converter.augment_batch(images, tf.constant([3, 2], tf.int64))
    expected = {"images": images, **preprocessor.tokenize(tf.stack(captions))}
    assert set(batch) == set(expected)
    for name, values in expected.items():
        # Graphs of one image and of a batch may round differently.
        np.testing.assert_allclose(batch[name], values, atol=1e-3, err_msg=name)
