"""Image-text retrieval in both directions."""

import numpy as np

from align_keras.evaluation.chance import chance_recall_at_k
from align_keras.evaluation.positives import (
    flatten_captions,
    own_positives,
    shared_positives,
)
from align_keras.evaluation.recall_at_k import (
    count_without_positives,
    rank_of_best_positive,
    recall_of_ranks,
)
from align_keras.utils.errors import InputError


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
        if len(caption_image_index) != texts:
            raise InputError(
                "`caption_image_index` must hold one integer a caption, got "
                f"{len(caption_image_index)} for {texts} captions."
            )
        positives = own_positives(images, caption_image_index)
    ranks = retrieval_ranks(image_embeddings, text_embeddings, positives, block_size)
    yield from metrics_of_retrieval_ranks(ranks, positives, ks)


def retrieval_ranks(image_embeddings, text_embeddings, positives, block_size=4096):
    """Ranks the best hit of each query, in both directions.

    Args:
        image_embeddings: as `retrieval_metrics`.
        text_embeddings: as `retrieval_metrics`.
        positives: `RetrievalPositives`.
        block_size: as `retrieval_metrics`.

    Returns:
        dict from `"i2t"` and `"t2i"` to int64 arrays (queries,), as
        `rank_of_best_positive`.

    Raises:
        InputError: as `rank_of_best_positive`.

    Example:
    >>> import numpy as np
    >>> right = own_positives(3, [0, 1, 2])
    >>> ranks = retrieval_ranks(np.eye(3), np.eye(3)[[0, 2, 1]], right)
    >>> ranks["i2t"].tolist()
    [0, 2, 2]
    """
    images, texts = image_embeddings, text_embeddings
    return {
        "i2t": rank_of_best_positive(
            images, texts, positives.image_to_text, block_size
        ),
        "t2i": rank_of_best_positive(
            texts, images, positives.text_to_image, block_size
        ),
    }


def metrics_of_retrieval_ranks(ranks, positives, ks=(1, 5, 10)):
    """As `retrieval_metrics`, of what `retrieval_ranks` has found."""
    right = {"i2t": positives.image_to_text, "t2i": positives.text_to_image}
    # The other direction's queries are this one's gallery.
    galleries = {"i2t": len(ranks["t2i"]), "t2i": len(ranks["i2t"])}
    yield from metrics_of_directions(ranks, right, galleries, ks)


def metrics_of_directions(ranks, positives, galleries, ks):
    """Yields each direction's recall beside its chance level.

    Args:
        ranks: dict, direction → int array (queries,), as `rank_of_best_positive`.
        positives: dict, direction → for each query the rows of its positives.
        galleries: dict, direction → int, rows of the gallery. In one named after
            the same side twice, as `i2i`, a query doesn't find itself.
        ks: integers >= 1.

    Yields:
        Pairs of str and float, as `retrieval_metrics`.
    """
    for name, right in positives.items():
        chance = chance_recall_at_k(
            right, galleries[name], ks, leave_out_self=name[0] == name[2]
        )
        for k, value in recall_of_ranks(ranks[name], ks).items():
            yield f"{name}/recall_at_{k}", value
            yield f"{name}/chance_recall_at_{k}", chance[k]
        left_out = count_without_positives(right)
        yield f"{name}/queries", float(len(ranks[name]) - left_out)
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
        image_keys: optional sequence of hashable, one a picture; given, equal
            captions, and pictures of equal key, are one target
            (`shared_positives`). None is the protocol of the paper's sets: a
            picture's own captions alone are right.
        ks: integers >= 1.
        block_size: int >= 1, as for `recall_at_k`.

    Yields:
        Pairs of str and float, as `retrieval_metrics`.

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
    keys = None if image_keys is None else list(image_keys)
    lengths = [len(part) for part in (images, captions, keys) if part is not None]
    if len(set(lengths)) > 1:
        raise InputError(
            "`images`, `captions` and `image_keys`, where given, must have one entry "
            f"a picture, got {', '.join(map(str, lengths))}."
        )
    texts, index = flatten_captions(captions)
    positives = (
        own_positives(len(images), index)
        if keys is None
        else shared_positives(keys, texts, index)
    )
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
