"""The stored examples of our corpora, as they are evaluated."""

import dataclasses

import tensorflow_datasets as tfds

from align_keras.utils.errors import InputError

# Captions and pictures in the stored order, pictures undecoded.
_READING = {
    "shuffle_files": False,
    "decoders": {"image": tfds.decode.SkipDecoding()},
    "read_config": tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
}


@dataclasses.dataclass(frozen=True)
class StoredPicture:
    """A picture of a corpus.

    Attributes:
        id: str.
        image: bytes, the encoded picture.
        captions: tuple of str.
        category: str, empty where the corpus has none.
        image_key: str, equal for pixel-identical pictures.
    """

    id: str
    image: bytes
    captions: tuple
    category: str
    image_key: str


def read_stored_pictures(builder, split):
    """Reads a split of a prepared corpus.

    Args:
        builder: prepared builder of `build_corpus`.
        split: str.

    Returns:
        list of `StoredPicture`, in the stored order.

    Raises:
        InputError: if the corpus has no such split; names those that it has.

    Example:

    ```python
    from align_keras.datasets import build_corpus
    icons = read_stored_pictures(build_corpus("icons"), "test")
    icons[0].captions, icons[0].category  # (('0',), 'fontawesome6-solid')
    ```
    """
    try:
        builder.info.splits[split]
    except (KeyError, ValueError):
        known = ", ".join(sorted(builder.info.splits)) or "none"
        raise InputError(
            f"split must be one of {known}, which {builder.name} has, received "
            f"{split!r}."
        ) from None
    return [
        StoredPicture(
            id=example["id"].decode(),
            image=example["image"],
            captions=tuple(caption.decode() for caption in example["captions"]),
            category=example["category"].decode(),
            image_key=example["image_key"].decode(),
        )
        for example in tfds.as_numpy(builder.as_dataset(split=split, **_READING))
    ]
