"""Access to the stored examples of a split."""

import dataclasses
import functools
import itertools
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.datasets.array_records import (
    decoded_examples,
    split_records,
    stored_examples,
)
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.errors import InputError

# Images stay encoded, since only some of them may be needed.
DECODERS = {"image": tfds.decode.SkipDecoding()}


def stored_pairs(builder: Any, split: str) -> tf.data.Dataset:
    """Returns the examples of a split in stored order, with encoded images."""
    split_size(builder, split)
    if isinstance(builder, Mixture):
        return builder.as_dataset(split=split, decoders=DECODERS)
    return stored_examples(builder, split, DECODERS)


def stored_images(builder: Any, split: str) -> tf.data.Dataset:
    """Returns the encoded images of a split in stored order."""
    split_size(builder, split)
    if isinstance(builder, Mixture):
        members = [stored_images(one, split) for one in builder.members.values()]
        return functools.reduce(
            lambda first, second: first.concatenate(second), members
        )
    if not isinstance(builder, SourcePairs):
        return stored_examples(builder, split, DECODERS).map(_image_of)
    records = split_records(builder, split)
    return decoded_examples(records, builder.info.features, DECODERS).map(_image_of)


def _image_of(example: dict[str, tf.Tensor]) -> tf.Tensor:
    return example["image"]


def _captions_of(example: dict[str, tf.Tensor]) -> tf.Tensor:
    return example["captions"]


def check_batch_size(batch_size: int, builder: Any, split: str) -> None:
    """Raises InputError if the split has fewer pairs than a batch."""
    pairs = split_size(builder, split)
    if batch_size > pairs:
        raise InputError(
            f"global_batch_size must be at most the {pairs} pairs of "
            f"{builder.name}[{split}]. Received: global_batch_size={batch_size}. Pass "
            f"--params_override task.train_data.global_batch_size={pairs} or less, or "
            "use more pairs."
        )


def split_size(builder: Any, split: str) -> int:
    """Returns the number of images of a split.

    Raises:
        InputError: if the split doesn't exist. The message lists the existing splits.
    """
    try:
        return builder.info.splits[split].num_examples
    except InputError:
        # A mixture raises this error, and its message names the corpus without the
        # split.
        raise
    except (KeyError, ValueError, NotImplementedError) as error:
        splits = [
            f"{name} with {builder.info.splits[name].num_examples} images"
            for name in builder.info.splits
        ]
        raise InputError(
            f"tfds_split must be a split of {builder.name}, which has "
            f"{', '.join(splits) or 'none'}, or a part of one. Received: "
            f"tfds_split={split!r}."
        ) from error


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Images of a split with all their captions, in stored order.

    Attributes:
        ids: id of each image.
        images: list of bytes, the encoded images.
        captions: the captions of each image.
        image_keys: list of str. Images with the same pixels have equal keys.

    Example:

    >>> pairs = RetrievalSet(["7"], [b"..."], [["a cat", "my pet"]], ["5e1f"])
    >>> len(pairs), len(pairs.captions[0])
    (1, 2)
    """

    ids: list[str]
    images: list[bytes]
    captions: list[list[str]]
    image_keys: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def read_retrieval_set(builder: Any, split: str) -> RetrievalSet:
    """Reads a split of a prepared corpus into memory.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them, as `open_corpus`
            returns.
        split: such as `"test"`.

    Returns:
        `RetrievalSet`.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    pairs = read_retrieval_set(builder, "test")
    len(pairs) == builder.info.splits["test"].num_examples  # True
    ```
    """
    examples = list(tfds.as_numpy(stored_pairs(builder, split)))
    return RetrievalSet(
        ids=[example["id"].decode() for example in examples],
        images=[example["image"] for example in examples],
        captions=[
            [caption.decode() for caption in example["captions"]]
            for example in examples
        ],
        image_keys=[example["image_key"].decode() for example in examples],
    )


def read_image_keys(builder: Any, split: str) -> set[str]:
    """Returns the image keys of a split, or an empty set for a source without keys."""
    if isinstance(builder, Mixture):
        keys: set[str] = set()
        for member in builder.members.values():
            keys |= read_image_keys(member, split)
        return keys
    if "image_key" not in builder.info.features:
        return set()
    decoding = tfds.decode.PartialDecoding({"image_key": True})
    examples = tfds.as_numpy(stored_examples(builder, split, decoding))
    return {example["image_key"].decode() for example in examples}


def read_captions(builder: Any, split: str) -> list[str]:
    """Returns all captions of a split, in stored order."""
    if isinstance(builder, SourcePairs):
        return list(builder.captions(split))
    if isinstance(builder, Mixture) and any(
        isinstance(member, SourcePairs) for member in builder.members.values()
    ):
        parts = (read_captions(member, split) for member in builder.members.values())
        return list(itertools.chain.from_iterable(parts))
    # Single examples would take twice the time.
    batches = stored_pairs(builder, split).map(_captions_of).ragged_batch(1024)
    return [
        caption.decode() for batch in batches for caption in batch.flat_values.numpy()
    ]
