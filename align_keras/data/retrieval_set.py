"""A split as lists, for evaluation and search."""

import dataclasses

import tensorflow_datasets as tfds

from align_keras.data.stored_pairs import stored_pairs


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """The pictures of a split with all their captions, in stored order.

    Attributes:
        ids: list of str.
        images: list of bytes, the encoded pictures.
        captions: list of list of str, each picture's captions.
        image_keys: list of str, equal for pixel-identical pictures.
    """

    ids: list
    images: list
    captions: list
    image_keys: list

    def __len__(self):
        return len(self.ids)


def read_retrieval_set(builder, split):
    """Reads a split of a prepared corpus into memory.

    Args:
        builder: prepared TFDS builder of the corpora's features.
        split: str.

    Returns:
        `RetrievalSet`.
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


def read_captions(builder, split):
    """Returns all captions of a split, a list of str in stored order."""
    return [
        caption.decode()
        for example in tfds.as_numpy(stored_pairs(builder, split))
        for caption in example["captions"]
    ]
