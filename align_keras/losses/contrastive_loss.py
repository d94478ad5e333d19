"""The normalised-softmax contrastive loss of ALIGN."""

import numbers

import tensorflow as tf

from align_keras.losses.plain_loss import plain_directional_losses
from align_keras.losses.tiled_loss import tiled_directional_losses
from align_keras.utils.errors import InputError


def contrastive_loss(
    image_embeddings,
    text_embeddings,
    temperature,
    *,
    label_smoothing=0.1,
    reduction="sum",
    tile_size=None,
    pair_groups=None,
    negatives_fraction=1.0,
    matmul_dtype=None,
):
    """Contrastive loss of paired embeddings over the batch of all replicas.

    Under a `tf.distribute` strategy each replica passes its own rows; the
    negatives are the rows of all replicas, and gradients flow through the
    gather. The value is the mean over this replica's rows: divide it by the
    number of replicas before the gradients are summed.

    Args:
        image_embeddings: float tensor (n, d), unit length.
        text_embeddings: float tensor (n, d), unit length, row by row the pair
            of `image_embeddings`.
        temperature: scalar float tensor > 0 that the cosines are divided by.
        label_smoothing: float in [0, 1], the share of each target that is
            spread over all columns.
        reduction: `"sum"` (the paper) or `"mean"` (Hugging Face's port) of the
            image→text and the text→image loss.
        tile_size: None, `"auto"` or int ≥ 1. None is the plain form, which
            holds the logits of all pairs several times over. An int computes
            the same in tiles of at most so many rows and columns, once more
            for the gradient, and never holds more than a tile of logits.
            `"auto"` does so with tiles of 2048, but keeps them for the
            gradient where all of this replica's logits are at most 2²⁸ (a
            batch of 16,384 on one device; 1 GiB in float32), which is faster.
        pair_groups: optional integer tensor (n,); pairs of the same group are
            each other's positives.
        negatives_fraction: float 1/k in (0, 1] with a whole k that divides n.
            Each replica's rows are cut into k equal parts in their order, and
            a pair meets only the negatives of its part on all replicas. So we
            read the paper's ablation, which takes 50% or 25% of the in-batch
            negatives and doesn't say which.
        matmul_dtype: None or `"bfloat16"`, for the tiled form: the dtype of
            the matrix products. None is that of the embeddings (float32 for
            half precision). bfloat16 rounds the logits to 8 bits: at temperature
            1/60 the gradients of random embeddings were off by 3% to 4% of
            their norm (batches of 8,192 and 4,096, width 640).

    Returns:
        Scalar float tensor, differentiable in the first three arguments.

    Raises:
        InputError: if an option isn't as above.

    References:
        Jia et al. 2021, section 4.1 (the sum of equations 1 and 2), 5 (label
        smoothing 0.1) and table 8 (fraction of in-batch negatives).

    Example:

    >>> embeddings = tf.math.l2_normalize(tf.eye(4), axis=1)
    >>> loss = contrastive_loss(embeddings, embeddings, 1.0, label_smoothing=0.0)
    >>> round(float(loss), 4)  # 2 · (log(e + 3) - 1)
    1.4873
    """
    check_loss_arguments(
        label_smoothing, reduction, tile_size, negatives_fraction, matmul_dtype
    )
    losses = directional_losses(
        image_embeddings,
        text_embeddings,
        temperature,
        label_smoothing=label_smoothing,
        tile_size=tile_size,
        pair_groups=pair_groups,
        negatives_fraction=negatives_fraction,
        matmul_dtype=matmul_dtype,
    )
    return reduce_directions(*losses, reduction)


def directional_losses(
    image_embeddings,
    text_embeddings,
    temperature,
    *,
    label_smoothing=0.1,
    tile_size=None,
    pair_groups=None,
    negatives_fraction=1.0,
    matmul_dtype=None,
):
    """Returns the image→text and the text→image loss of this replica's rows.

    Args:
        image_embeddings: float tensor (n, d), unit length; this replica's.
        text_embeddings: float tensor (n, d), row by row the pair of
            `image_embeddings`.
        temperature: scalar float tensor > 0.
        label_smoothing: float in [0, 1].
        tile_size: None, `"auto"` or int ≥ 1; see `contrastive_loss`.
        pair_groups: optional integer tensor (n,). Pairs of the same group,
            such as those with equal captions, are each other's positives.
        negatives_fraction: float 1/k; see `contrastive_loss`.
        matmul_dtype: None or `"bfloat16"`; see `contrastive_loss`.

    Returns:
        Two scalars, `loss_i2t` and `loss_t2i`: means over this replica's rows,
        against the columns of all replicas.

    Raises:
        InputError: if n is known and the parts of `negatives_fraction` don't
            divide it.
    """
    images = tf.convert_to_tensor(image_embeddings)
    texts = tf.convert_to_tensor(text_embeddings)
    if tile_size is not None and images.dtype.size < 4:
        images, texts = tf.cast(images, tf.float32), tf.cast(texts, tf.float32)
    if not tf.is_tensor(temperature):  # tf.cast would round a float to float32
        temperature = tf.constant(temperature, images.dtype)
    options = {"label_smoothing": label_smoothing}
    form = plain_directional_losses
    if tile_size is not None:
        form = tiled_directional_losses
        options |= {"tile_size": tile_size, "matmul_dtype": matmul_dtype}
    scale = 1.0 / tf.cast(temperature, images.dtype)
    losses = [
        form(*rows, scale, pair_groups=groups, **options)
        for *rows, groups in _parts(images, texts, pair_groups, negatives_fraction)
    ]
    return tuple(
        tf.add_n(direction) / len(losses) for direction in zip(*losses, strict=True)
    )


def _parts(images, texts, pair_groups, negatives_fraction):
    """The rows of each part that has only its own negatives."""
    count = round(1.0 / negatives_fraction)
    if count == 1:
        return [(images, texts, pair_groups)]
    if images.shape[0] is not None and images.shape[0] % count:
        raise InputError(
            f"negatives_fraction must cut a replica's {images.shape[0]} rows into "
            f"equal parts, received {negatives_fraction}, which makes {count}; "
            f"change the batch size to a multiple of {count}."
        )

    def cut(tensor):
        return tf.unstack(tf.reshape(tensor, [count, -1, *tensor.shape[1:]]), count)

    groups = [None] * count if pair_groups is None else cut(pair_groups)
    return list(zip(cut(images), cut(texts), groups, strict=True))


def check_loss_arguments(
    label_smoothing,
    reduction,
    tile_size=None,
    negatives_fraction=1.0,
    matmul_dtype=None,
):
    """Raises `InputError` unless all arguments are in range."""
    if reduction not in ("sum", "mean"):
        raise InputError(
            f'reduction must be "sum" or "mean", received {reduction!r}; '
            'the paper sums both directions ("sum").'
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(
            f"label_smoothing must lie in [0, 1], received {label_smoothing}; "
            "the paper uses 0.1."
        )
    if tile_size not in (None, "auto") and not _is_positive_int(tile_size):
        raise InputError(
            f'tile_size must be None, "auto" or an int of at least 1, received '
            f'{tile_size!r}; use "auto" for large batches.'
        )
    parts = 1.0 / negatives_fraction if 0.0 < negatives_fraction <= 1.0 else 0.5
    if abs(parts - round(parts)) > 1e-6:
        raise InputError(
            "negatives_fraction must be 1 divided by a whole number, received "
            f"{negatives_fraction}; use 1.0, 0.5 or 0.25, as the paper."
        )
    if matmul_dtype not in (None, "bfloat16"):
        raise InputError(
            f'matmul_dtype must be None or "bfloat16", received {matmul_dtype!r}; '
            "None computes in the embeddings' dtype."
        )
    if matmul_dtype and tile_size is None:
        raise InputError(
            f"matmul_dtype is for the tiled form, received {matmul_dtype!r} with "
            'tile_size None; set tile_size to "auto".'
        )


def _is_positive_int(value):
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_int and value >= 1


def reduce_directions(loss_i2t, loss_t2i, reduction):
    """Returns the sum of both directions, or their mean."""
    total = loss_i2t + loss_t2i
    return total if reduction == "sum" else total / 2.0
