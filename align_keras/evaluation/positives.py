"""Which pictures and captions are right answers to each other."""

import collections
from typing import NamedTuple

import numpy as np

from align_keras.utils.errors import InputError


class RetrievalPositives(NamedTuple):
    """The hits of both directions.

    Attributes:
        image_to_text: list with, for each picture, the rows of its captions.
        text_to_image: list with, for each caption, the rows of its pictures.
    """

    image_to_text: list
    text_to_image: list


def normalized_caption(caption):
    """`caption` casefolded, with each run of white space as one space."""
    return " ".join(caption.casefold().split())


def flatten_captions(captions):
    """Flattens the captions of each picture.

    Args:
        captions: sequence with, for each picture, its captions: a sequence of
            str, or one str.

    Returns:
        List of str, and an int64 array of the same length with the row of the
        picture that each belongs to.

    Example:
    >>> texts, rows = flatten_captions(["a cat", ["a dog", "a hound"]])
    >>> texts, rows.tolist()
    (['a cat', 'a dog', 'a hound'], [0, 1, 1])
    """
    texts, rows = [], []
    for row, own in enumerate(captions):
        own = [own] if isinstance(own, str) else list(own)
        texts.extend(own)
        rows.extend([row] * len(own))
    return texts, np.array(rows, np.int64)


def _checked_index(caption_image_index, captions, images):
    index = np.asarray(caption_image_index)
    if index.shape != (captions,) or index.dtype.kind not in "iu":
        raise InputError(
            "`caption_image_index` must hold one integer a caption, got shape "
            f"{index.shape} and dtype {index.dtype} for {captions} captions."
        )
    outside = index[(index < 0) | (index >= images)]
    if outside.size:
        raise InputError(
            f"`caption_image_index` must lie in [0, {images}), the rows of the "
            f"pictures, got {outside[0]}."
        )
    return index


def own_positives(pictures, caption_image_index):
    """Hits where a picture's own captions alone are right, as in the paper's sets.

    Args:
        pictures: int, the number of pictures.
        caption_image_index: integers, the row of each caption's picture.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: when an index isn't an integer, or lies outside.

    References:
        Jia et al. 2021, section 5.1.

    Example:
    >>> right = own_positives(3, [0, 0, 2])
    >>> right.image_to_text, right.text_to_image.tolist()
    ([[0, 1], [], [2]], [[0], [0], [2]])
    """
    captions = len(caption_image_index)
    index = _checked_index(caption_image_index, captions, pictures)
    captions_of = _rows_by_value(index.tolist())
    return RetrievalPositives(
        image_to_text=[captions_of[picture] for picture in range(pictures)],
        text_to_image=index[:, None],
    )


def shared_positives(image_keys, captions, caption_image_index=None):
    """Hits where equal pictures, and equal captions, are one target.

    A caption is right for a picture when some picture with the same key
    carries some caption with the same normalised text (casefolded, white space
    collapsed). So a caption shared by several pictures finds any of them, and
    pixel-identical pictures share their captions: neither can be told apart by
    any model, and with pessimistic ties the twin would count as wrong.

    Args:
        image_keys: sequence of hashable, one a picture; equal keys mean the
            same picture, such as a digest of its pixels.
        captions: sequence of str; all captions of all pictures.
        caption_image_index: integers, the row of each caption's picture. None
            means that caption i belongs to picture i.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: when the lengths don't fit, or an index lies outside.

    Example:
    >>> right = shared_positives(["k0", "k1", "k1"], ["Cat", " cat", "tiger"])
    >>> [rows.tolist() for rows in right.image_to_text]
    [[0, 1], [0, 1, 2], [0, 1, 2]]
    >>> [rows.tolist() for rows in right.text_to_image]
    [[0, 1, 2], [0, 1, 2], [1, 2]]
    """
    image_keys = list(image_keys)
    texts = [normalized_caption(caption) for caption in captions]
    if caption_image_index is None:
        if len(texts) != len(image_keys):
            raise InputError(
                "`captions` must hold one caption a picture where "
                "`caption_image_index` is None, got "
                f"{len(texts)} captions for {len(image_keys)} pictures."
            )
        caption_image_index = range(len(texts))
    index = _checked_index(caption_image_index, len(texts), len(image_keys))

    images_of_key, captions_of_text = _rows_by_value(image_keys), _rows_by_value(texts)
    texts_of_key = collections.defaultdict(dict)
    keys_of_text = collections.defaultdict(dict)
    for text, image in zip(texts, index, strict=True):
        # A dict keeps the order and drops what was seen.
        texts_of_key[image_keys[image]][text] = None
        keys_of_text[text][image_keys[image]] = None
    captions_of_key = {
        key: _merged(captions_of_text[text] for text in texts_of_key[key])
        for key in images_of_key
    }
    images_of_text = {
        text: _merged(images_of_key[key] for key in keys_of_text[text])
        for text in captions_of_text
    }
    return RetrievalPositives(
        image_to_text=[captions_of_key[key] for key in image_keys],
        text_to_image=[images_of_text[text] for text in texts],
    )


def _rows_by_value(values):
    rows = collections.defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return rows


def _merged(lists):
    """The rows of disjoint lists, ascending."""
    return np.array(sorted(row for rows in lists for row in rows), np.int64)
