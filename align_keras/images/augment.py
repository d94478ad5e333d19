"""Augmentation of a batch of training images as graph operations."""

import tensorflow as tf


def _uniform(
    count: int | tf.Tensor,
    seed: tf.Tensor,
    salt: int,
    low: float = 0.0,
    high: float = 1.0,
    columns: int | None = None,
) -> tf.Tensor:
    """Draws uniform random numbers, float32 (count,) or (count, columns)."""
    # `salt`, in [0, 64), differs between the uses of a seed, so that their numbers are
    # independent.
    shape = (count,) if columns is None else (count, columns)
    seed = tf.stack([seed[0], seed[1] * 64 + salt])
    return tf.random.stateless_uniform(shape, seed, low, high)


def _length(images: tf.Tensor, axis: int) -> int | tf.Tensor:
    return images.shape[axis] or tf.shape(images)[axis]


def _random_boxes(
    count: int | tf.Tensor,
    side: int | tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    crop: bool,
    flip: bool,
    zoom: float,
    shift: float,
) -> tf.Tensor:
    """Returns boxes (count, 4) for `tf.image.crop_and_resize`."""
    # The x borders of a flipped image are swapped.
    slack = tf.cast(side - image_size, tf.float32)
    if crop:
        offsets = tf.floor(_uniform(count, seed, 0, columns=2) * (slack + 1.0))
    else:
        offsets = tf.fill((count, 2), tf.floor(slack / 2.0))
    lengths = tf.fill((count, 2), tf.cast(image_size - 1, tf.float32))
    if zoom:
        # Height and width have different scales, so that the aspect ratio varies.
        scale = tf.exp(_uniform(count, seed, 1, -zoom, zoom, columns=2))
        centers = offsets + lengths / 2.0
        lengths = lengths * scale
        offsets = centers - lengths / 2.0
    if shift:
        offsets += _uniform(count, seed, 4, -shift, shift, columns=2) * image_size
    y1, x1 = tf.unstack(offsets, axis=1)
    y2, x2 = tf.unstack(offsets + lengths, axis=1)
    if flip:
        is_flipped = _uniform(count, seed, 2) < 0.5
        x1, x2 = tf.where(is_flipped, x2, x1), tf.where(is_flipped, x1, x2)
    return tf.stack([y1, x1, y2, x2], axis=1) / tf.cast(side - 1, tf.float32)


def _random_colors(
    count: int | tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns random colors of ink and paper as two tensors (count, 1, 1, 3)."""
    colors = _uniform(count, seed, 3, 0.0, 255.0, columns=6)
    ink, paper = tf.split(colors[:, tf.newaxis, tf.newaxis], 2, axis=-1)
    # The mean contrast is at least 96 gray levels, so that the drawing is visible.
    difference = tf.reduce_mean(paper - ink, axis=-1, keepdims=True)
    push = tf.maximum(96.0 - tf.abs(difference), 0.0) / 2.0
    push = tf.where(difference < 0.0, -push, push)
    ink = tf.clip_by_value(ink - push, 0.0, 255.0)
    paper = tf.clip_by_value(paper + push, 0.0, 255.0)
    return ink, paper


def augment_images(
    images: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    *,
    crop: bool = True,
    flip: bool = False,
    zoom: float = 0.0,
    shift: float = 0.0,
    recolor: float = 0.0,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
) -> tf.Tensor:
    """Augments training images that were resized to a square.

    Args:
        images: uint8 tensor (n, side, side, 3) with side ≥ `image_size`.
        image_size: side of the encoder's input in pixels.
        seed: integer tensor (2,). The same seed gives the same result.
        crop: True to crop at a random position, and False to crop the center.
        flip: True to mirror half of the images horizontally.
        zoom: float ≥ 0. Each side of the crop is scaled by a random factor between
            exp(-zoom) and exp(zoom). Pixels outside of the image are white.
        shift: ≥ 0, maximum shift of the crop as a fraction of its side.
        recolor: in [0, 1], fraction of the images with random colors of ink and
            paper, for dark drawings on white. The paper may be darker than the ink.
        input_pipeline_id: number of the part if the images are part of a larger batch.
            A part is augmented in the same way as in the whole batch.
        num_input_pipelines: ≥ 1, number of equal parts of the larger batch.

    Returns:
        float32 tensor (n, image_size, image_size, 3) in [0, 255].

    References:
        Jia et al. 2021, section 5 (random crop and horizontal flip).

    Example:

    >>> images = tf.zeros((2, 77, 77, 3), tf.uint8)
    >>> augment_images(images, 64, seed=tf.constant([0, 1]), flip=True).shape
    TensorShape([2, 64, 64, 3])
    """
    rows = _length(images, 0)
    total = rows * num_input_pipelines
    first = rows * input_pipeline_id

    def part(values: tf.Tensor) -> tf.Tensor:
        # The values of the whole batch are computed, because TensorFlow would round
        # the values of a part differently.
        return values[first : first + rows]

    boxes = _random_boxes(
        total, _length(images, 1), image_size, seed, crop, flip, zoom, shift
    )
    images = tf.image.crop_and_resize(
        tf.cast(images, tf.float32),
        part(boxes),
        tf.range(rows),
        (image_size, image_size),
        extrapolation_value=255.0,
    )
    if recolor:
        is_recolored = part(_uniform(total, seed, 5) < recolor)
        is_recolored = is_recolored[:, tf.newaxis, tf.newaxis, tf.newaxis]
        ink, paper = (part(colors) for colors in _random_colors(total, seed))
        colored = ink + (paper - ink) * (images / 255.0)
        images = tf.where(is_recolored, colored, images)
    return images
