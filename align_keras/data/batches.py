"""The training pipeline: stored pairs → augmented, tokenized batches."""

from typing import Any

import tensorflow as tf

from align_keras.data.order import ordered_pairs
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import check_batch_size
from align_keras.images import (
    augment_images,
    crop_image_bytes,
    crop_size_to_resize_size,
    decode_image,
    resize_image,
)
from align_keras.utils.errors import InputError


def training_batches(
    builder: Any,
    split: str,
    tokenizer: Any,
    *,
    image_size: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    shuffle_buffer_size: int = 20_000,
    cache: bool = False,
    crop: bool = True,
    flip: bool = True,
    zoom: float = 0.0,
    shift: float = 0.0,
    recolor: float = 0.0,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
    data_service: str | None = None,
    pair_weighted: bool = False,
) -> tf.data.Dataset:
    """Endless batches of augmented images and one caption each.

    An epoch holds each image once, with one of its captions at random, or, if
    `pair_weighted`, once for each of its captions, as the paper's pairs.

    The batches are a function of the arguments alone: batch k of a pipeline that starts
    at step k is bit for bit the batch k of one that starts at 0. To start there, it
    reads at most one window of files (see `shuffled_records`), or nothing twice if
    `cache`.

    Several input pipelines, one a host, share a global batch. With at least as many
    files (shards) as pipelines, each reads another part of the files, and its epochs
    are of this part. With fewer, or with `cache`, each reads all records but decodes
    only its rows (with `cache`, all), and the rows of all are the batch of a single
    pipeline.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them, whose examples
            have `image` and `captions`.
        split: str, such as `"train"` or `"train[:10%]"`.
        tokenizer: `WordPieceTokenizer`.
        image_size: int, the side of the image encoder's input in pixels.
        batch_size: int ≥ 1, pairs a batch over all replicas.
        seed: int, of shuffling, caption choice and augmentation.
        start_step: int ≥ 0, batches to leave out.
        shuffle_buffer_size: int ≥ 1, pairs to draw from; encoded images are
            held, or decoded ones if `cache`.
        cache: bool, keep all decoded, resized images in memory.
        crop: bool, crop at a random place.
        flip: bool, mirror half of the images.
        zoom: float ≥ 0, see `augment_images`, and so the next two.
        shift: float ≥ 0.
        recolor: float in [0, 1].
        input_pipeline_id: int ≥ 0, whose rows to give; this and the next as in
            `tf.distribute.InputContext`.
        num_input_pipelines: int ≥ 1, a divisor of `batch_size`.
        data_service: str, address of a tf.data service's dispatcher, such as
            `"grpc://host:5000"`, whose workers read, decode and augment, in an order
            that depends on them; or None.
        pair_weighted: bool, see above; without `cache` the captions are counted
            first, once.

    Returns:
        `tf.data.Dataset` of dicts: `images` (rows, image_size, image_size, 3) in
        [0, 255], float32, or uint8 where images are only cropped and mirrored
        (no `cache`, `zoom`, `shift` or `recolor`), `token_ids` and
        `padding_mask` int32 (rows, sequence_length).

    Raises:
        InputError: if a batch is larger than the split or isn't divisible among
            the input pipelines, if `cache` or ArrayRecord meets `data_service`,
            or if the corpus is stored neither as TFRecord nor as ArrayRecord.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).
    """
    check_batch_size(batch_size, builder, split)
    if data_service is not None:
        check_data_service(builder, data_service)
        if cache:
            raise InputError(
                "cache must be false with a data_service, whose workers keep no "
                f"images, received {data_service!r}; leave one of them out."
            )
    order = {
        "batch_size": batch_size,
        "start_step": start_step,
        "seed": seed,
        "shuffle_buffer_size": shuffle_buffer_size,
        "input_pipeline_id": input_pipeline_id,
        "num_input_pipelines": num_input_pipelines,
        "pair_weighted": pair_weighted,
    }
    if cache or zoom or shift or recolor:
        variation = {"zoom": zoom, "shift": shift, "recolor": recolor}
        variation = {**variation, "crop": crop, "flip": flip}
        batches = _varied(builder, split, image_size, variation, cache, order)
    else:
        batches = _cropped(builder, split, image_size, crop, flip, order)
    if data_service is not None:
        service = tf.data.experimental.service
        batches = batches.apply(
            service.distribute(service.ShardingPolicy.DYNAMIC, data_service)
        )

    def inputs(images, captions):
        return {"images": images, **tokenizer(captions)}

    # Buffers begin to fill with the iterator, while `fit` makes the graph of its step.
    options = tf.data.Options()
    options.experimental_warm_start = True
    return batches.map(inputs, tf.data.AUTOTUNE).prefetch(2).with_options(options)


def batch_ids(
    builder: Any,
    split: str,
    *,
    batch_size: int,
    step: int,
    **order: Any,
) -> list[str]:
    """Tells which pairs `training_batches`, by this `order`, puts into batch `step`:
    ids in order, for the diagnosis of a step; under a `data_service` it holds others.
    """
    check_batch_size(batch_size, builder, split)
    order |= {"batch_size": batch_size, "start_step": step}
    pairs = ordered_pairs(builder, split, lambda example: example["id"], **order)
    rows = pairs.take(batch_size // order.get("num_input_pipelines", 1))
    return [identifier.decode() for _, (identifier, _) in rows.as_numpy_iterator()]


def _cropped(builder, split, image_size, crop, flip, order):
    """Batches (images, captions); of an image, only its crop is decoded."""
    seed = tf.cast(order["seed"], tf.int64)

    def row(number, pair):
        image_bytes, captions = pair
        # The complement, since the choice of a caption has the seed `number`.
        drawn = tf.random.stateless_uniform((3,), tf.stack([seed, ~number]))
        place = drawn[:2] if crop else tf.fill((2,), 0.5)
        flipped = drawn[2] < 0.5 if flip else False
        image = crop_image_bytes(image_bytes, image_size, place, flipped)
        return image, _chosen(captions, seed, number)

    pairs = ordered_pairs(builder, split, lambda example: example["image"], **order)
    return _batched(pairs.map(row, tf.data.AUTOTUNE), order)


def _varied(builder, split, image_size, variation, cache, order):
    """Batches (images, captions); whole images are resized, then varied."""
    seed = tf.cast(order["seed"], tf.int64)
    resize_size = crop_size_to_resize_size(image_size)

    def read(example):
        return resize_image(decode_image(example["image"]), resize_size)

    def row(number, pair):
        image, captions = pair
        return image, _chosen(captions, seed, number)

    def vary(step, batch):
        images, captions = batch
        images = augment_images(
            images,
            image_size,
            tf.stack([seed, step]),
            input_pipeline_id=order["input_pipeline_id"],
            num_input_pipelines=order["num_input_pipelines"],
            **variation,
        )
        return images, captions

    pairs = ordered_pairs(builder, split, read, cache=cache, **order)
    batches = _batched(pairs.map(row, tf.data.AUTOTUNE), order)
    return batches.enumerate(order["start_step"]).map(vary, tf.data.AUTOTUNE)


def _chosen(captions, seed, number):
    """One of the captions, by the number of the row."""
    seeds = tf.stack([seed, number])
    choice = tf.random.stateless_uniform((), seeds, 0, tf.size(captions), tf.int32)
    return captions[choice]


def _batched(pairs, order):
    rows = order["batch_size"] // order["num_input_pipelines"]
    return pairs.batch(rows, drop_remainder=True)
