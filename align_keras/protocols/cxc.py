"""Crisscrossed Captions: retrieval (table 2) and correlation (table 3) by ratings."""

from align_keras.protocols.data_sets import folder_of, joined
from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Protocol,
    Request,
    columns_of_rows,
    left_out,
)
from align_keras.utils.errors import InputError


def _embedded(encoders, request):
    """(data, ratings, image embeddings, caption embeddings, captions' columns)."""
    from align_keras.datasets import benchmarks

    if request.data != "cxc":
        raise InputError(
            f"data must be cxc, received {request.data!r}; its protocols are made of "
            "people's ratings, which no other set has."
        )
    folder, split = folder_of(request), request.split or "test"
    ratings = benchmarks.read_cxc(folder / "cxc", split)
    allow_missing = bool(request.allow_missing)
    coco = benchmarks.read_karpathy(
        folder / "coco" / "dataset_coco.json",
        folder / "coco",
        split,
        captions_per_image=None,
        allow_missing=allow_missing,
    )
    data = benchmarks.cxc_captioned_images(ratings, coco, allow_missing=allow_missing)
    data = joined(data, request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    texts = encoders.texts([text for captions in data.captions for text in captions])
    image_of = [row for row, texts in enumerate(data.captions) for _ in texts]
    return data, ratings, images, texts, columns_of_rows(data.columns, image_of)


def retrieval(encoders, request: Request) -> Evaluation:
    """Ranks between and within images and captions by CxC's ratings."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data, ratings, images, texts, of_captions = _embedded(encoders, request)
    positives = benchmarks.cxc_positives(ratings, data)
    ranks = evaluation.retrieval_ranks(images, texts, positives)
    columns = {"i": data.columns, "t": of_captions}
    items = [
        (
            evaluation.recall_statistics(f"{direction}/", of_queries, PAPERS_KS),
            columns[direction[0]],
        )
        for direction, of_queries in ranks.items()
    ]
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives, PAPERS_KS))
    return Evaluation(metrics | left_out(data.missing), items)


def similarity(encoders, request: Request) -> Evaluation:
    """Correlates cosines with CxC's ratings by rank, bootstrapped."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data, ratings, images, texts, of_captions = _embedded(encoders, request)
    rated = benchmarks.cxc_rated_rows(ratings, data)
    columns = {
        name: [*values, *of_captions[name]] for name, values in data.columns.items()
    }
    metrics = dict(evaluation.cxc_similarity_metrics(images, texts, rated))
    return Evaluation(
        metrics | left_out(data.missing),
        [(evaluation.cxc_similarity_statistics(images, texts, rated), columns)],
    )


_OPTIONS = ("split", "allow_missing", "metadata", "engine")
CXC_RETRIEVAL = Protocol(
    "cxc_retrieval",
    "the same within images and within captions too, by CxC's ratings",
    "table 2",
    retrieval,
    _OPTIONS,
    data="cxc",
    data_help="cxc",
)
CXC_SIMILARITY = Protocol(
    "cxc_similarity",
    "correlation of cosines with CxC's ratings",
    "table 3",
    similarity,
    _OPTIONS,
    data="cxc",
    data_help="cxc",
)
