"""Crisscrossed Captions: retrieval between and within modalities."""

from align_keras.evaluation.positives import flatten_captions
from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.evaluation.retrieval import metrics_of_directions


def evaluate_cxc_retrieval(
    encode_images, encode_texts, images, captions, positives, ks=(1, 5, 10)
):
    """Yields recall at k by people's ratings, also within each modality.

    A query within its modality doesn't find itself. A query without any positive
    is left out and counted.

    Args:
        encode_images: function from `images` to a real array (pictures,
            dimension), unit length.
        encode_texts: function from a list of str to a real array (captions,
            dimension), unit length.
        images: sequence of whatever `encode_images` takes.
        captions: for each picture its captions, a sequence of str or one str; they
            are numbered in this order.
        positives: object with `image_to_text`, `text_to_image`, `text_to_text`
            and `image_to_image`: for each query the rows of its positives, such
            as `align_keras.datasets.benchmarks.cxc_positives` makes.
        ks: integers >= 1.

    Yields:
        Pairs of str and float, for each direction `i2t`, `t2i`, `t2t` and `i2i`:
        `i2t/recall_at_K` and `i2t/chance_recall_at_K` for each K,
        `i2t/queries` (those that count) and `i2t/queries_without_positives`.

    Raises:
        InputError: as `recall_at_k`.

    References:
        Jia et al. 2021, section 5.1 and table 2; Parekh et al. 2021, section 5.

    Example:
    >>> import types
    >>> import numpy as np
    >>> def encode(items):
    ...     return np.eye(2)[[int(item[-1]) for item in items]]
    >>> right = types.SimpleNamespace(
    ...     image_to_text=[[0], [1]], text_to_image=[[0], [1]],
    ...     text_to_text=[[1], [0]], image_to_image=[[1], []])
    >>> found = dict(evaluate_cxc_retrieval(
    ...     encode, encode, ["p0", "p1"], [["dog 0"], ["cat 1"]], right, ks=(1,)))
    >>> found["i2t/recall_at_1"], found["t2t/recall_at_1"], found["i2i/queries"]
    (1.0, 1.0, 1.0)
    """
    texts, _ = flatten_captions(captions)
    ranks = cxc_ranks(encode_images(images), encode_texts(texts), positives)
    yield from cxc_retrieval_metrics(ranks, positives, ks)


def cxc_ranks(image_embeddings, text_embeddings, positives, block_size=4096):
    """Ranks the best hit of each query, in four directions.

    Args:
        image_embeddings: real array (pictures, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length.
        positives: as `evaluate_cxc_retrieval`.
        block_size: int >= 1, as for `recall_at_k`.

    Returns:
        dict from `"i2t"`, `"t2i"`, `"t2t"` and `"i2i"` to int64 arrays (queries,),
        as `rank_of_best_positive`; the queries of `i2t` and `i2i` are the pictures.

    Raises:
        InputError: as `rank_of_best_positive`.
    """
    sides = {"i": image_embeddings, "t": text_embeddings}
    return {
        name: rank_of_best_positive(
            sides[name[0]],
            sides[name[2]],
            right,
            block_size,
            # A picture or caption doesn't find itself.
            leave_out=range(len(right)) if name[0] == name[2] else None,
        )
        for name, right in _by_direction(positives).items()
    }


def _by_direction(positives):
    return {
        "i2t": positives.image_to_text,
        "t2i": positives.text_to_image,
        "t2t": positives.text_to_text,
        "i2i": positives.image_to_image,
    }


def cxc_retrieval_metrics(ranks, positives, ks=(1, 5, 10)):
    """As `evaluate_cxc_retrieval`, of what `cxc_ranks` has found."""
    rows = {"i": len(ranks["i2i"]), "t": len(ranks["t2t"])}
    galleries = {name: rows[name[2]] for name in ranks}
    yield from metrics_of_directions(ranks, _by_direction(positives), galleries, ks)
