"""Tests of pairs that are positives of each other."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, SigmoidLoss
from align_keras.losses.pair_groups import group_columns, row_hashes
from align_keras.models import image_text_batches
from align_keras.optimizers import SGD
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch

ROWS = 14
# Image 0 has three captions, one of which is also a caption of images 1 and 2.
IMAGE_IDS = np.array([0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9])
CAPTIONS = np.array([7, 8, 9, 7, 7, 1, 2, 3, 3, 4, 4, 5, 6, 5])


def unit_rows(seed):
    rows = np.random.default_rng(seed).normal(size=(ROWS, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def positives(captions, images):
    matches = np.eye(ROWS, dtype=bool)
    if captions:
        matches |= CAPTIONS[:, None] == CAPTIONS
    if images:
        matches |= IMAGE_IDS[:, None] == IMAGE_IDS
    return matches


def with_gradients(loss):
    values = [tf.constant(unit_rows(0)), tf.constant(unit_rows(1)), tf.constant(0.1)]
    values[2] = tf.cast(values[2], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = loss(*values, tf.constant(CAPTIONS[:, None]), image_ids=IMAGE_IDS)
    return total, *tape.gradient(total, values)


@pytest.mark.parametrize("captions, images", [(True, True), (False, True)])
def test_the_contrastive_loss_equals_numpy(captions, images):
    options = {"share_equal_captions": captions, "share_equal_images": images}
    matches = positives(captions, images)
    targets = 0.9 * matches / matches.sum(1, keepdims=True) + 0.1 / ROWS
    logits = unit_rows(0) @ unit_rows(1).T / float(np.float32(0.1))
    expected = sum(
        np.mean(np.logaddexp.reduce(rows, axis=1) - (targets * rows).sum(1))
        for rows in (logits, logits.T)
    )
    plain = with_gradients(ContrastiveLoss(**options))
    assert float(plain[0]) == pytest.approx(expected, rel=1e-12)
    tiled = with_gradients(ContrastiveLoss(**options, tile_size=5))
    for actual, value in zip(tiled, plain, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tile_size", [None, 5])
def test_the_sigmoid_loss_equals_numpy(tile_size):
    signs = np.where(positives(True, True), 1, -1)
    logits = unit_rows(0) @ unit_rows(1).T / float(np.float32(0.1)) - 2.0
    expected = np.logaddexp(0, -signs * logits).sum() / ROWS
    loss = SigmoidLoss(-2.0, True, tile_size, True)
    total, d_images, *_ = with_gradients(loss)
    assert float(total) == pytest.approx(expected, rel=1e-12)
    d_logits = -signs / (1 + np.exp(signs * logits)) / ROWS
    expected_gradient = d_logits @ unit_rows(1) / float(np.float32(0.1))
    np.testing.assert_allclose(d_images, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.ci
@pytest.mark.parametrize("loss_type", [ContrastiveLoss, SigmoidLoss])
@pytest.mark.parametrize(
    "tile_size", [None, pytest.param(3, marks=pytest.mark.release)]
)
def test_captions_of_an_image_are_positives_across_replicas(
    two_replicas, loss_type, tile_size
):
    options = {"share_equal_captions": True, "share_equal_images": True}
    expected = with_gradients(loss_type(**options))
    loss = loss_type(**options, tile_size=tile_size)
    half = ROWS // 2

    def replica():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * half
        rows = slice(first, first + half)
        values = [tf.constant(unit_rows(0)), tf.constant(unit_rows(1))]
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = loss(
                values[0][rows],
                values[1][rows],
                tf.cast(tf.constant(0.1), tf.float64),
                tf.constant(CAPTIONS[:, None])[rows],
                image_ids=tf.constant(IMAGE_IDS)[rows],
            )
            total /= 2
        return total, *tape.gradient(total, values)

    results = two_replicas.run(tf.function(replica))
    for result, value in zip(results, expected, strict=False):
        total = two_replicas.reduce(tf.distribute.ReduceOp.SUM, result, None)
        np.testing.assert_allclose(total, value, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def model():
    return small_align()


def compile_model(model, **options):
    loss = ContrastiveLoss(share_equal_images=True)
    model.compile(SGD(0.0), loss, **options)


def expected_loss(model, batch, image_ids):
    outputs = model({name: batch[name] for name in batch if name != "image_ids"})
    return float(
        ContrastiveLoss(share_equal_images=True)(
            outputs["image_embedding"],
            outputs["text_embedding"],
            model.temperature,
            batch["token_ids"],
            image_ids=tf.constant(image_ids),
        )
    )


@pytest.mark.release
def test_training_and_evaluation_read_the_ids_of_the_batches(model):
    ids = np.array([3, 1, 3, 3])
    batch = {**small_batch(), "image_ids": ids, "note": ids}
    compile_model(model)
    expected = expected_loss(model, small_batch(), ids)
    assert expected != pytest.approx(expected_loss(model, small_batch(), range(4)))
    dataset = tf.data.Dataset.from_tensors(batch)
    for data in (batch, dataset, iter([batch])):
        losses = model.evaluate(data, verbose=0, return_dict=True, steps=1)
        assert losses["loss"] == pytest.approx(expected, rel=1e-5)
    for micro_batch_size in (None, 2):
        compile_model(model, micro_batch_size=micro_batch_size)
        history = model.fit(dataset.repeat(2), verbose=0, steps_per_epoch=1).history
        assert np.isfinite(history["loss"]).all()
    assert model.predict(small_batch(), verbose=0)["image_embedding"].shape == (4, 16)
    with pytest.raises(InputError, match="image_ids"):
        model.evaluate(small_batch(), verbose=0)


@pytest.mark.release
def test_equal_images_of_raw_pairs_have_equal_ids(model):
    images = small_batch()["images"][[0, 1, 0, 2]]
    captions = ["a", "b", "c", "d"]
    batches = image_text_batches(
        images,
        captions,
        model.preprocessor,
        training=False,
        batch_size=4,
        with_image_ids=True,
    )
    ids = next(iter(batches))["image_ids"].numpy().tolist()
    assert ids[0] == ids[2] and len(set(ids)) == 3
    compile_model(model)
    expected = expected_loss(model, next(iter(batches)), ids)
    raw = tf.data.Dataset.from_tensors((images, captions))
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    for data in ((images, captions), raw, iter([(images, captions)])):
        losses = model.evaluate(data, verbose=0, return_dict=True)
        assert losses["loss"] == pytest.approx(expected, rel=1e-4)
    losses = model.evaluate(encoded, captions, verbose=0, return_dict=True)
    assert losses["loss"] == pytest.approx(expected, rel=1e-4)


def test_three_columns_of_groups_are_refused():
    with pytest.raises(InputError, match="pair_groups"):
        group_columns(tf.zeros((4, 3), tf.int64))


def test_captions_of_an_unknown_length_have_the_same_hashes():
    token_ids = np.random.default_rng(0).integers(0, 99, (6, 8)).astype("int32")
    token_ids[3] = token_ids[1]
    spec = tf.TensorSpec((None, None), tf.int32)
    hashes = tf.function(row_hashes, input_signature=[spec])(token_ids).numpy()
    np.testing.assert_array_equal(hashes, row_hashes(tf.constant(token_ids)))
    assert hashes[1] == hashes[3] and len(set(hashes)) == 5
