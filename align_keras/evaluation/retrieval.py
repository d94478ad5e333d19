"""Image-text retrieval in both directions, with shared targets."""

import collections
from typing import NamedTuple

import numpy as np

from align_keras.evaluation.chance import chance_recall_at_k
from align_keras.evaluation.recall_at_k import count_without_positives, recall_at_k
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


def retrieval_metrics(
    image_embeddings,
    text_embeddings,
    caption_image_index=None,
    *,
    positives=None,
    ks=(1, 5, 10),
    block_size=4096,
):
    """Yields recall at k of both directions beside its chance level.

    A picture's query hits when any of its captions is among the k best; a
    caption's when any of its pictures is.

    Args:
        image_embeddings: real array (pictures, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length.
        caption_image_index: integers, the row of each caption's picture. None
            means that caption i belongs to picture i.
        positives: optional `RetrievalPositives`, such as those of
            `shared_positives`; they replace `caption_image_index`.
        ks: integers >= 1.
        block_size: int >= 1, as for `recall_at_k`.

    Yields:
        Pairs of str and float, for each direction `i2t` and `t2i`:
        `i2t/recall_at_K` and `i2t/chance_recall_at_K` for each K,
        `i2t/queries` (those that count) and `i2t/queries_without_positives`
        (those left out).

    Raises:
        InputError: as `recall_at_k`.

    References:
        Jia et al. 2021, sections 4.2 and 5.1.

    Example:
    >>> import numpy as np
    >>> eye = np.eye(4)
    >>> for name, value in retrieval_metrics(eye, eye[[0, 1, 3, 2]], ks=(1,)):
    ...     print(name, value)
    i2t/recall_at_1 0.5
    i2t/chance_recall_at_1 0.25
    i2t/queries 4.0
    i2t/queries_without_positives 0.0
    t2i/recall_at_1 0.5
    t2i/chance_recall_at_1 0.25
    t2i/queries 4.0
    t2i/queries_without_positives 0.0
    """
    images, texts = len(image_embeddings), len(text_embeddings)
    if positives is None:
        if caption_image_index is None:
            if images != texts:
                raise InputError(
                    "`caption_image_index` must say which picture each caption "
                    f"belongs to where the numbers differ, got None for {images} "
                    f"pictures and {texts} captions."
                )
            caption_image_index = range(texts)
        index = _checked_index(caption_image_index, texts, images)
        captions_of = _rows_by_value(index.tolist())
        positives = RetrievalPositives(
            image_to_text=[captions_of[image] for image in range(images)],
            text_to_image=index[:, None],
        )
    for name, queries, gallery, right in (
        ("i2t", image_embeddings, text_embeddings, positives.image_to_text),
        ("t2i", text_embeddings, image_embeddings, positives.text_to_image),
    ):
        recall = recall_at_k(queries, gallery, right, ks, block_size)
        chance = chance_recall_at_k(right, len(gallery), ks)
        for k, value in recall.items():
            yield f"{name}/recall_at_{k}", value
            yield f"{name}/chance_recall_at_{k}", chance[k]
        left_out = count_without_positives(right)
        yield f"{name}/queries", float(len(queries) - left_out)
        yield f"{name}/queries_without_positives", float(left_out)


def evaluate_retrieval(
    encode_images,
    encode_texts,
    images,
    captions,
    image_keys=None,
    *,
    ks=(1, 5, 10),
    block_size=4096,
):
    """Encodes pictures and captions and yields their retrieval metrics.

    Args:
        encode_images: function from `images` to a real array (pictures,
            dimension), unit length; it batches as it likes.
        encode_texts: function from a list of str to a real array (captions,
            dimension), unit length.
        images: sequence of whatever `encode_images` takes.
        captions: sequence with, for each picture, its captions: a sequence of
            str, or one str.
        image_keys: optional sequence of hashable, one a picture; equal keys
            mean the same picture. None means that all pictures differ.
        ks: integers >= 1.
        block_size: int >= 1, as for `recall_at_k`.

    Yields:
        Pairs of str and float, as `retrieval_metrics`. Equal captions, and
        pictures of equal key, are one target (`shared_positives`).

    Raises:
        InputError: as `shared_positives` and `recall_at_k`, and when an encode
            function doesn't return one row an item.

    References:
        Jia et al. 2021, sections 4.2 and 5.1.

    Example:
    >>> import numpy as np
    >>> def encode(items):
    ...     return np.eye(3)[[int(item[-1]) for item in items]]
    >>> metrics = evaluate_retrieval(
    ...     encode, encode, ["img0", "img1"], [["no 0", "not 2"], "no 1"], ks=(1,)
    ... )
    >>> dict(metrics)["i2t/recall_at_1"]
    1.0
    """
    keys = list(range(len(images)) if image_keys is None else image_keys)
    if not len(images) == len(captions) == len(keys):
        raise InputError(
            "`images`, `captions` and `image_keys` must have one entry a picture, "
            f"got {len(images)}, {len(captions)} and {len(keys)}."
        )
    texts, index = flatten_captions(captions)
    positives = shared_positives(keys, texts, index)
    embeddings = {}
    for name, encode, items in (
        ("encode_images", encode_images, images),
        ("encode_texts", encode_texts, texts),
    ):
        embeddings[name] = np.asarray(encode(items))
        if len(embeddings[name]) != len(items):
            raise InputError(
                f"`{name}` must return one row an item, got shape "
                f"{embeddings[name].shape} for {len(items)} items."
            )
    yield from retrieval_metrics(
        embeddings["encode_images"],
        embeddings["encode_texts"],
        positives=positives,
        ks=ks,
        block_size=block_size,
    )
