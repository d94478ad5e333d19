"""The protocols of Crisscrossed Captions."""

import numpy as np

from align_keras import evaluation
from align_keras.protocols import evaluation_data
from align_keras.protocols.protocol_types import Evaluation, pictures_left_out

_KS = (1, 5, 10)


def cxc_retrieval(encoders, request, options):
    """Retrieval between and within pictures and captions by CxC's ratings."""
    from align_keras.datasets import benchmarks

    data, ratings, images, texts = _embedded(encoders, request, options)
    positives = benchmarks.cxc_positives(ratings, data)
    ranks = evaluation.cxc_ranks(images, texts, positives)
    columns = {"i": data.columns, "t": _of_captions(data)}
    items = []
    for direction, own in ranks.items():
        outcomes = evaluation.item_outcomes(f"{direction}/recall_at_", own, _KS)
        items.append((evaluation.mean_statistics(outcomes), columns[direction[0]]))
    metrics = dict(evaluation.cxc_retrieval_metrics(ranks, positives, _KS))
    return Evaluation(metrics | pictures_left_out(data.missing), items)


def cxc_similarity(encoders, request, options):
    """Rank correlation of cosines with CxC's ratings, bootstrapped."""
    from align_keras.datasets import benchmarks

    data, ratings, images, texts = _embedded(encoders, request, options)
    rated = benchmarks.cxc_rated_rows(ratings, data)
    of_captions = _of_captions(data)
    columns = {name: [*own, *of_captions[name]] for name, own in data.columns.items()}
    metrics = dict(evaluation.cxc_similarity_metrics(images, texts, rated))
    return Evaluation(
        metrics | pictures_left_out(data.missing),
        [(evaluation.cxc_similarity_statistics(images, texts, rated), columns)],
    )


def _embedded(encoders, request, options):
    data, ratings = evaluation_data.crisscrossed_captions(request)
    options.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    texts = encoders.texts([text for own in data.captions for text in own])
    return data, ratings, images, texts


def _of_captions(data):
    """The columns of the captions, which have their picture's values."""
    counts = list(map(len, data.captions))
    return {
        name: np.repeat(np.asarray(own, object), counts).tolist()
        for name, own in data.columns.items()
    }
