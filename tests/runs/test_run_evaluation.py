"""A run's own evaluation, on a test set with the same image twice."""

import json

import numpy as np
import pytest
import tensorflow as tf

from align_keras import data
from align_keras.config import load_config
from align_keras.data import read_retrieval_set
from align_keras.datasets import build_corpus
from align_keras.images import preprocess_image
from align_keras.optimizers import SGD
from align_keras.runs.run import Run
from tests.helpers.small import small_align, small_batch
from tests.helpers.small_run import draw


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """The same drawing twice, in two files with captions of their own."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for caption in ("a ring", "a circle"):
        draw("red", "ring").save(folder / f"{caption}.png")
        lines.append(json.dumps({"image": f"{caption}.png", "caption": caption}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    builder = build_corpus("pairs", pairs=path, data_dir=folder / "data")
    return read_retrieval_set(builder, *builder.info.splits)


def test_equal_images_are_one_target(test_set, tmp_path):
    assert len(test_set) == 2 and len(set(test_set.image_keys)) == 1
    run = Run(load_config(params_override="task.evaluation.ks=[1]"), tmp_path)
    run.model, run.test_set = small_align(), test_set
    metrics = run.evaluate()
    # The twins can't be told apart. Were each one's twin wrong, it would come first,
    # since ties are pessimistic, and no caption of the twins would find its image.
    assert metrics["t2i/recall_at_1"] == metrics["i2t/recall_at_1"] == 1.0


@pytest.mark.release
@pytest.mark.timeout(900)
def test_sources_are_opened_outside_of_the_strategys_scope(
    tmp_path, monkeypatch, two_replicas
):
    """Where their tables and random numbers aren't made on each replica, or a TPU."""
    with two_replicas.scope():
        model = small_align()
        model.compile(SGD(0.01))
    seen = []

    def make_batches(*_, start_step, **options):
        seen.append(tf.distribute.has_strategy())
        return tf.data.Dataset.from_tensors(small_batch(4)).repeat()

    monkeypatch.setattr(data, "training_batches", make_batches)
    intervals = ("train_steps", "steps_per_loop", "checkpoint_interval")
    override = ",".join(f"trainer.{name}=2" for name in intervals)
    override += ",trainer.validation_interval=2,task.train_data.global_batch_size=4"
    override += ",trainer.optimizer_config.warmup.type=null"
    run = Run(load_config(params_override=override), tmp_path)
    run.model, run.train_builder = model, None
    run.fit(evaluate=False)
    assert seen == [False]
    assert int(model.optimizer.iterations.numpy()) == 2
    # What is embedded comes from both replicas, in order.
    rows = small_batch(5)["images"]
    pixels = tf.stack([preprocess_image(tf.constant(row), 32) for row in rows])
    expected = model.normalize_image(model.image_encoder(pixels))
    np.testing.assert_allclose(
        model.encode_images(list(rows)), expected, rtol=1e-4, atol=1e-5
    )
    assert model.encode_texts(["a", "b", "c"]).shape == (3, 16)
