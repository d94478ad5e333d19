"""An image plus or minus words finds another icon (figure 5)."""

from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Protocol,
    Request,
    columns_of_rows,
    left_out,
)
from align_keras.protocols.retrieval import captioned_images
from align_keras.utils.errors import InputError


def run(encoders, request: Request) -> Evaluation:
    """Ranks icons for an icon plus or minus the words by which another differs."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    if request.data != "icons":
        raise InputError(
            f"data must be icons, received {request.data!r}; their names tell which "
            "icon is another one plus a word."
        )
    data = captioned_images(request)
    request.check_columns({"sign", "words", *data.columns})
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    queries = benchmarks.composed_icon_queries(data.image_ids)
    columns = {
        "sign": ["plus" if query.sign > 0 else "minus" for query in queries],
        "words": [query.words for query in queries],
    } | columns_of_rows(data.columns, [query.image for query in queries])
    ranks = evaluation.rank_composed_queries(
        encoders.texts, images, queries, text_weight=request.text_weight
    )
    metrics = dict(evaluation.composed_metrics(ranks, queries, len(data), PAPERS_KS))
    metrics |= {"images": float(len(data))}
    return Evaluation(
        metrics | left_out(data.missing),
        [(evaluation.composed_statistics(ranks, PAPERS_KS), columns)],
    )


COMPOSED = Protocol(
    "composed",
    "an image plus or minus words finds another icon",
    "figure 5",
    run,
    options=("split", "text_weight", "metadata", "engine"),
    data="icons",
    data_help="icons",
)
