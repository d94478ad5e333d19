"""Tests of the evaluation of a run and of the scope of its batches."""

import json

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config.experiment_config import TrainerConfig
from align_keras.data import read_retrieval_set
from align_keras.datasets import open_corpus
from align_keras.evaluation.pair_recall import evaluate_pairs
from align_keras.images import preprocess_image
from align_keras.models import ALIGN
from align_keras.optimizers import SGD
from align_keras.training import train_model
from tests.helpers.small import (
    VOCABULARY,
    small_align,
    small_batch,
    small_encoders,
)
from tests.helpers.small_run import draw


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """Validation pairs of two equal images with different captions."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for caption in ("a ring", "a circle"):
        draw("red", "ring").save(folder / f"{caption}.png")
        lines.append(json.dumps({"image": f"{caption}.png", "caption": caption}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    builder = open_corpus("pairs", pairs=path, data_dir=folder / "data")
    return read_retrieval_set(builder, *builder.info.splits)


def test_equal_images_are_one_target(test_set):
    assert len(test_set) == 2 and len(set(test_set.image_keys)) == 1
    encoders = small_encoders(num_stages=1)
    align = ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)
    metrics = evaluate_pairs(align, test_set, ks=[1])
    # No model distinguishes the two images. Ties count against the model, so recall
    # would be zero if the copy of an image counted as a wrong result.
    assert metrics["t2i/recall_at_1"] == metrics["i2t/recall_at_1"] == 1.0


@pytest.mark.release
@pytest.mark.timeout(900)
def test_batches_are_created_outside_of_the_strategy_scope(tmp_path, two_replicas):
    """The tables and random numbers of an input pipeline belong to the host."""
    with two_replicas.scope():
        model = small_align()
        model.compile(SGD(0.01))
    has_strategy = []

    def make_batches(start_step):
        has_strategy.append(tf.distribute.has_strategy())
        return tf.data.Dataset.from_tensors(small_batch(4)).repeat()

    trainer = TrainerConfig(
        train_steps=2, steps_per_loop=2, checkpoint_interval=2, validation_interval=2
    )
    train_model(model, make_batches, trainer, tmp_path, batch_size=4)
    assert has_strategy == [False]
    assert int(model.optimizer.iterations.numpy()) == 2
    # The embeddings of both replicas are in the order of the images.
    rows = small_batch(5)["images"]
    pixels = tf.stack([preprocess_image(tf.constant(row), 32) for row in rows])
    expected = model.normalize_image(model.image_encoder(pixels))
    np.testing.assert_allclose(
        model.encode_images(list(rows)), expected, rtol=1e-4, atol=1e-5
    )
    assert model.encode_texts(["a", "b", "c"]).shape == (3, 16)
