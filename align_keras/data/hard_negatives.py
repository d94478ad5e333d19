"""Batches in which each pair is followed by one of its mined negatives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.data.stored_pairs import stored_pairs
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.errors import InputError

# Bytes of encoded images that are held in memory, about 100,000 images of 346 pixels.
MAX_IMAGE_BYTES_IN_MEMORY = 4 << 30


class HardNegatives:
    """Stored pairs of a split in memory, with the mined negatives of each image.

    Args:
        builder: prepared TFDS builder.
        split: str, name of the split.
        negatives: dict from the id of an image to the ids of its mined negatives. Ids
            outside the split are ignored.

    Raises:
        InputError: if the corpus is a source or a mixture, is too large, or has none of
            the ids.
    """

    def __init__(
        self, builder: Any, split: str, negatives: Mapping[str, Sequence[str]]
    ) -> None:
        if isinstance(builder, Mixture | SourcePairs):
            raise InputError(
                "hard_negatives requires one built corpus or a table. Received: "
                f"{builder.name}. Set task.train_data.pairs."
            )
        examples = list(tfds.as_numpy(stored_pairs(builder, split)))
        size = sum(len(example["image"]) for example in examples)
        if size > MAX_IMAGE_BYTES_IN_MEMORY:
            raise InputError(
                "hard_negatives requires encoded images of at most "
                f"{MAX_IMAGE_BYTES_IN_MEMORY:,} bytes, which are held in memory. "
                f"Received: {size:,} bytes in {builder.name}[{split}]. Use a part of "
                "the split."
            )
        ids = [example["id"].decode() for example in examples]
        row_of_id = {id: row for row, id in enumerate(ids)}
        rows = [
            [row_of_id[other] for other in negatives.get(id, ()) if other in row_of_id]
            for id in ids
        ]
        if not any(rows):
            raise InputError(
                "hard_negatives must contain the ids of the training images, such as "
                f"{ids[0]!r}. Received: {len(negatives)} other ids. Run `align-keras "
                "mine` for this table."
            )
        self._count = len(examples)
        self._features = {
            name: _stacked([example[name] for example in examples])
            for name in ("id", "image", "captions", "caption_sources")
            if name in examples[0]
        }
        self._rows = tf.ragged.constant(rows, tf.int64)
        self._row_of_id = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(ids), tf.range(self._count, dtype=tf.int64)
            ),
            default_value=-1,
        )

    def draw(self, id: tf.Tensor, seed: tf.Tensor) -> tuple[dict, tf.Tensor]:
        """Draws a mined negative of an image, or another image if it has none.

        Args:
            id: scalar string tensor, id of the image.
            seed: int64 tensor (2,).

        Returns:
            `(example, is_mined)`: example with `id`, `image`, `captions`, and
            `caption_sources` if the corpus has them, and a scalar bool tensor.
        """
        row = self._row_of_id.lookup(id)
        rows = self._rows[row]
        count = tf.size(rows, tf.int64)
        is_mined = count > 0
        # A step from 1 to the number of images minus 1 leads to another image.
        bound = tf.where(is_mined, count, tf.constant(self._count - 1, tf.int64))
        number = tf.random.stateless_uniform((), seed, 0, bound, tf.int64)
        other = (row + 1 + number) % self._count
        padded = tf.concat([rows, [0]], axis=0)
        negative = tf.where(
            is_mined, tf.gather(padded, tf.minimum(number, count)), other
        )
        example = {name: values[negative] for name, values in self._features.items()}
        return example, is_mined


def followed_by_negatives(
    pairs: tf.data.Dataset, negatives: HardNegatives, read: Callable, seed: int
) -> tf.data.Dataset:
    """Inserts one of its mined negatives after each pair.

    Args:
        pairs: `tf.data.Dataset` of `ordered_pairs`, whose `read` returns the id and
            another value.
        negatives: `HardNegatives` of the same split.
        read: function of an example that returns the other value.
        seed: int, seed of the choice.

    Returns:
        `tf.data.Dataset` of (row number, ((id, `read(example)`), captions), negative
        group). A pair and its mined negative have equal groups, int64.
    """
    seed_tensor = tf.cast(seed, tf.int64)

    def with_negative(number: tf.Tensor, pair: tuple) -> tf.data.Dataset:
        (id, value), captions = pair
        # The caption and the crop of a row have other seeds.
        example, is_mined = negatives.draw(id, tf.stack([~seed_tensor, number]))
        group = 2 * number
        rows = [
            (group, ((id, value), captions), group),
            (
                group + 1,
                ((example["id"], read(example)), example["captions"]),
                tf.where(is_mined, group, group + 1),
            ),
        ]
        first, second = map(tf.data.Dataset.from_tensors, rows)
        return first.concatenate(second)

    return pairs.flat_map(with_negative)


def _stacked(values: list) -> tf.Tensor | tf.RaggedTensor:
    """Returns strings (n,), or lists of strings as a ragged tensor (n, None)."""
    if isinstance(values[0], np.ndarray):
        return tf.ragged.constant([list(items) for items in values], tf.string)
    return tf.constant(values, tf.string)
