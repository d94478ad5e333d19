"""Mean recall in English, German, French and Czech (table 11)."""

from align_keras.protocols.data_sets import folder_of, joined, refuse
from align_keras.protocols.protocol import Evaluation, Protocol, Request, left_out
from align_keras.utils.errors import InputError


def _captions_of_images(request):
    """Reads images with captions in four languages: `MultilingualCaptions`."""
    from align_keras.datasets import benchmarks

    if request.data == "stamps":
        refuse(request, "holds its images", "allow_missing")
        return benchmarks.stamps_captions_by_language()
    if request.data != "multi30k":
        raise InputError(
            f"data must be multi30k or stamps, received {request.data!r}; these have "
            "captions in English, German, French and Czech."
        )
    folder = folder_of(request)
    return benchmarks.read_multi30k(
        folder / "multi30k",
        folder / "flickr30k" / "images",
        allow_missing=bool(request.allow_missing),
    )


def run(encoders, request: Request) -> Evaluation:
    """Ranks captions and images in each language."""
    from align_keras import evaluation
    from align_keras.protocols.embedding_cache import image_key

    data = joined(_captions_of_images(request), request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    # In the paper's set only an image's captions are right, as in `retrieval`.
    is_papers = request.data == "multi30k"
    keys = None if is_papers else list(map(image_key, data.images))
    ranks = evaluation.multilingual_ranks(images, encoders.texts, data.captions, keys)
    statistics = evaluation.mean_statistics(evaluation.multilingual_outcomes(ranks))
    metrics = dict(evaluation.multilingual_metrics(ranks))
    metrics |= {"images": float(len(images))}
    return Evaluation(metrics | left_out(data.missing), [(statistics, data.columns)])


MULTI30K = Protocol(
    "multi30k",
    "mean recall in four languages",
    "table 11",
    run,
    options=("allow_missing", "metadata", "engine"),
    data="multi30k",
    data_help="multi30k or stamps",
)
