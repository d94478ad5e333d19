"""The training pipeline: stored pairs → augmented, tokenized batches."""

import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.images import (
    augment_images,
    crop_size_to_resize_size,
    decode_image,
    resize_image,
)
from align_keras.utils.errors import InputError


def training_batches(
    builder,
    split,
    tokenizer,
    *,
    image_size,
    batch_size,
    seed=0,
    start_step=0,
    shuffle_buffer_size=20_000,
    cache=False,
    crop=True,
    flip=True,
    zoom=0.0,
    shift=0.0,
    recolor=0.0,
):
    """Endless batches of augmented pictures and one caption each.

    The batches are a function of the arguments alone: batch k of a pipeline
    that starts at step k is bit for bit the batch k of one that starts at 0,
    so a run's input position is its step.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them, whose examples
            have `image` and `captions`.
        split: str, such as `"train"` or `"train[:10%]"`.
        tokenizer: `WordPieceTokenizer`.
        image_size: int, the side of the image encoder's input in pixels.
        batch_size: int ≥ 1, pairs a batch over all replicas.
        seed: int, of shuffling, caption choice and augmentation.
        start_step: int ≥ 0, batches to leave out.
        shuffle_buffer_size: int ≥ 1, pairs to draw from.
        cache: bool, keep all decoded, resized pictures in memory.
        crop: bool, crop at a random place.
        flip: bool, mirror half of the pictures.
        zoom: float ≥ 0, see `augment_images`.
        shift: float ≥ 0, see `augment_images`.
        recolor: float in [0, 1], see `augment_images`.

    Returns:
        `tf.data.Dataset` of dicts: `images` float32 (batch_size, image_size,
        image_size, 3) in [0, 255], `token_ids` and `padding_mask` int32
        (batch_size, sequence_length).

    Raises:
        InputError: if a batch is larger than the split.

    References:
        Jia et al. 2021, section 5.1 (resize, random crop, horizontal flip).
    """
    check_batch_size(batch_size, builder, split)
    resize_size = crop_size_to_resize_size(image_size)

    def read(example):
        image = resize_image(decode_image(example["image"]), resize_size)
        return image, example["captions"]

    def choose_caption(index, pair):
        image, captions = pair
        choice = tf.random.stateless_uniform(
            (), (tf.cast(seed, tf.int64), index), 0, tf.size(captions), tf.int32
        )
        return image, captions[choice]

    def inputs(step, pair):
        images, captions = pair
        images = augment_images(
            images,
            image_size,
            tf.stack([tf.cast(seed, tf.int64), start_step + step]),
            crop=crop,
            flip=flip,
            zoom=zoom,
            shift=shift,
            recolor=recolor,
        )
        return {"images": images, **tokenizer(captions)}

    pairs = stored_pairs(builder, split).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if cache:
        pairs = pairs.cache()
    return (
        pairs.shuffle(shuffle_buffer_size, seed=seed)
        .repeat()
        .enumerate()
        .skip(start_step * batch_size)
        .map(choose_caption, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .enumerate()
        .map(inputs, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(2)
    )


def stored_pairs(builder, split):
    """The examples in the order in which they are stored, pictures undecoded."""
    split_size(builder, split)
    return builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )


def check_batch_size(batch_size, builder, split):
    """Raises unless the split holds at least one batch."""
    pairs = split_size(builder, split)
    if batch_size > pairs:
        raise InputError(
            f"global_batch_size may be at most the {pairs} pairs of "
            f"{builder.name}[{split}], received {batch_size}; use "
            f"--params_override task.train_data.global_batch_size={pairs} or less, "
            "or give more pairs."
        )


def split_size(builder, split):
    """Returns the number of pictures of a split.

    Raises:
        InputError: if the corpus has no such split; names those that it has.
    """
    try:
        return builder.info.splits[split].num_examples
    except InputError:
        raise  # A mixture's, which tells whose split it is that lacks.
    except (KeyError, ValueError) as error:
        known = ", ".join(sorted(builder.info.splits)) or "none"
        raise InputError(
            f"{builder.name} has no split {split!r}, only {known}; name one of these "
            "as tfds_split, or give more pairs: two different pictures at least."
        ) from error
