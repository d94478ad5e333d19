"""The stored examples of a split: how many, one after another, or all in memory."""

import dataclasses
import itertools
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.datasets.array_records import stored_examples
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.errors import InputError

DECODERS = {"image": tfds.decode.SkipDecoding()}


def stored_pairs(builder: Any, split: str) -> tf.data.Dataset:
    """The examples in the order in which they are stored, images undecoded."""
    split_size(builder, split)
    if isinstance(builder, Mixture):
        return builder.as_dataset(split=split, decoders=DECODERS)
    return stored_examples(builder, split, DECODERS)


def check_batch_size(batch_size: int, builder: Any, split: str) -> None:
    """Raises unless the split holds at least one batch."""
    pairs = split_size(builder, split)
    if batch_size > pairs:
        raise InputError(
            f"global_batch_size may be at most the {pairs} pairs of "
            f"{builder.name}[{split}], received {batch_size}; use "
            f"--params_override task.train_data.global_batch_size={pairs} or less, "
            "or give more pairs."
        )


def split_size(builder: Any, split: str) -> int:
    """Returns the number of images of a split; an error names the splits there are."""
    try:
        return builder.info.splits[split].num_examples
    except InputError:
        raise  # A mixture's, which tells whose split it is that lacks.
    except (KeyError, ValueError, NotImplementedError) as error:
        splits = builder.info.splits
        known = ", ".join(sorted(splits)) or "none"
        whole = split.partition("[")[0]
        if whole != split and whole in splits:
            raise InputError(
                f"tfds_split must be a part of the {splits[whole].num_examples} images "
                f"of {builder.name}[{whole}], received {split!r}; name a smaller one, "
                "or give more pairs."
            ) from error
        raise InputError(
            f"{builder.name} has no split {split!r}, only {known}; name one of these "
            "as tfds_split, or give more pairs: two different images at least."
        ) from error


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """The images of a split, encoded, with all their captions, in stored order;
    `image_keys` are equal for pixel-identical images.
    """

    ids: list
    images: list
    captions: list
    image_keys: list

    def __len__(self):
        return len(self.ids)


def read_retrieval_set(builder: Any, split: str) -> RetrievalSet:
    """Reads a split of a prepared corpus into memory."""
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
    """Returns the keys of a split's images, empty for sources, which have none."""
    if isinstance(builder, Mixture):
        parts = (read_image_keys(part, split) for part in builder.members.values())
        return set().union(*parts)
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
    return [
        caption.decode()
        for example in tfds.as_numpy(stored_pairs(builder, split))
        for caption in example["captions"]
    ]
