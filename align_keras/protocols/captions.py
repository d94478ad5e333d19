"""What finds captions and images: retrieval, CxC, Multi30k, composition, SimLex."""

import dataclasses
import pathlib
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.protocols.data_sets import NAMED, folder_of, joined, refuse
from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Request,
    columns_of_rows,
    left_out,
    protocol,
)
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.data.stored_pairs import RetrievalSet
    from align_keras.datasets.benchmarks import CaptionedImages
    from align_keras.protocols.embedding_cache import CachedEncoders

_CORPORA = ("stamps", "icons", "clipart", "emoji")
_OF_IMAGES = ("allow_missing", "metadata", "runtime", "engine")


def captioned_images(request: Request) -> "CaptionedImages":
    """Reads images, any number of captions each."""
    return joined(_captioned_images(request), request)


def _captioned_images(request):
    from align_keras.datasets import benchmarks

    name = request.data
    is_corpus = name.partition("/")[0] in _CORPORA
    if is_corpus or name in NAMED:
        refuse(request, "is no table", "image_column", "caption_column", "encoding")
    if is_corpus:
        refuse(request, "holds its images", "allow_missing")
        return _corpus(name, request.split or "test")
    if name in NAMED:
        if NAMED[name].protocol != "retrieval":
            raise InputError(
                f"data must be captioned images, received {name!r}; the protocol "
                f"{NAMED[name].protocol} judges it."
            )
        folder = folder_of(request) / name
        return benchmarks.read_karpathy(
            folder / f"dataset_{name}.json",
            folder / "images" if name == "flickr30k" else folder,
            request.split or "test",
            allow_missing=bool(request.allow_missing),
        )
    if not pathlib.Path(name).exists():
        raise InputError(
            "data must be flickr30k, coco, stamps, stamps/de, icons or the path of a "
            f"table or folder of captioned images, received {name!r}; check it."
        )
    refuse(request, "has no splits", "split")
    return benchmarks.read_caption_files(
        name,
        allow_missing=bool(request.allow_missing),
        image_column=request.image_column,
        caption_column=request.caption_column,
        encoding=request.encoding or "utf-8",
    )


def _corpus(name, split):
    from align_keras.datasets import benchmarks, build_corpus

    images = benchmarks.read_stored_images(build_corpus(name), split)
    return benchmarks.CaptionedImages(
        images=[image.image for image in images],
        captions=[list(image.captions) for image in images],
        image_ids=[image.id for image in images],
        caption_ids=[
            [f"{image.id}#{number}" for number in range(len(image.captions))]
            for image in images
        ],
        columns={"category": [image.category for image in images]},
    )


def _embedded(encoders, request, data, *columns):
    """The images' embeddings, and the data of those that could be decoded."""
    request.check_columns({*columns, *data.columns})
    images, rows = encoders.readable_images(data.images)
    return images, data.of_rows(rows)


def _keys(data):
    """What equal images have in common."""
    from align_keras.protocols.embedding_cache import image_key

    return list(map(image_key, data.images))


def _recalls(ranks):
    """Of each direction, what `sliced_metrics` takes."""
    from align_keras import evaluation

    return {
        direction: evaluation.recall_statistics(f"{direction}/", of_queries, PAPERS_KS)
        for direction, of_queries in ranks.items()
    }


class PairEncoder(typing.Protocol):
    """Model that embeds the images and the captions of pairs."""

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Returns float32 (n, d), unit length."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 (n, d), unit length."""


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Ranks of captions for each image and of images for each caption.

    Attributes:
        image_embeddings: float32 (images, d).
        text_embeddings: float32 (captions, d).
        captions: list of str, the captions of all images.
        caption_image_index: int64 (captions,), the row of each caption's image.
        positives: `RetrievalPositives`.
        ranks: dict from direction to the rank of the best positive of each query.
        metrics: dict, recall@k of both directions with the numbers of queries and
            candidates.
    """

    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    captions: list[str]
    caption_image_index: np.ndarray
    positives: Any
    ranks: Any
    metrics: dict[str, float]


def rank_pairs(
    image_embeddings: np.ndarray,
    captions: Sequence[Sequence[str]],
    encode_texts: Callable[[Sequence[str]], np.ndarray],
    image_keys: Sequence | None,
    ks: Sequence[int] = PAPERS_KS,
) -> RetrievalResult:
    """Ranks captions for each image and images for each caption.

    Args:
        image_embeddings: float32 (n, d).
        captions: sequence of n sequences of str, the captions of each image.
        encode_texts: function from a list of str to their embeddings.
        image_keys: sequence of n keys, equal for equal images. Equal images and equal
            captions are then one target, since no model can distinguish them. None if
            only the captions of an image are correct, as in the paper's data sets.
        ks: sequence of int, the ranks of recall@k.

    Returns:
        `RetrievalResult`.

    References:
        Jia et al. 2021, section 5.1.
    """
    from align_keras import evaluation

    texts, image_of = evaluation.flatten_captions(captions)
    text_embeddings = encode_texts(texts)
    if image_keys is None:
        positives = evaluation.own_positives(len(image_embeddings), image_of)
    else:
        positives = evaluation.shared_positives(image_keys, texts, image_of)
    ranks = evaluation.retrieval_ranks(image_embeddings, text_embeddings, positives)
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives, ks))
    return RetrievalResult(
        image_embeddings, text_embeddings, texts, image_of, positives, ranks, metrics
    )


def evaluate_pairs(
    encoder: PairEncoder, pairs: "RetrievalSet", ks: Sequence[int] = PAPERS_KS
) -> dict[str, float]:
    """Measures the protocol `retrieval` on pairs in memory, without a cache.

    Args:
        encoder: `ALIGN`, or another model with `encode_images` and `encode_texts`.
        pairs: `RetrievalSet`.
        ks: sequence of int, the ranks of recall@k.

    Returns:
        dict from the names of metrics to their values.
    """
    image_embeddings = encoder.encode_images(pairs.images)
    result = rank_pairs(
        image_embeddings, pairs.captions, encoder.encode_texts, pairs.image_keys, ks
    )
    return result.metrics


@protocol(
    "recall of captions and images",
    "table 1",
    ("split", "image_column", "caption_column", "encoding", *_OF_IMAGES),
    data_help="flickr30k, coco, stamps, stamps/de, icons, or the path of a table or "
    "folder of captioned images",
)
def retrieval(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks captions for each image and images for each caption."""
    images, data = _embedded(encoders, request, captioned_images(request))
    # In the paper's data sets only the captions of an image are correct.
    keys = None if request.data in ("flickr30k", "coco") else _keys(data)
    result = rank_pairs(images, data.captions, encoders.texts, keys)
    counts = {"images": float(len(data)), "captions": float(len(result.captions))}
    statistics = _recalls(result.ranks)
    caption_columns = columns_of_rows(data.columns, result.caption_image_index)
    return Evaluation(
        result.metrics | counts | left_out(data.missing),
        [(statistics["i2t"], data.columns), (statistics["t2i"], caption_columns)],
        retrieval={
            "image_embeddings": images,
            "text_embeddings": result.text_embeddings,
            "images": data.images,
            "captions": result.captions,
            "caption_image_index": result.caption_image_index,
            "positives": result.positives,
            "ranks": result.ranks,
        },
    )


def _embedded_cxc(encoders, request):
    """(data, ratings, image embeddings, caption embeddings, captions' columns)."""
    from align_keras import evaluation
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
    images, data = _embedded(encoders, request, joined(data, request))
    captions, image_of = evaluation.flatten_captions(data.captions)
    of_captions = columns_of_rows(data.columns, image_of)
    return data, ratings, images, encoders.texts(captions), of_captions


@protocol(
    "the same within images and within captions too, by CxC's ratings",
    "table 2",
    ("split", *_OF_IMAGES),
    data="cxc",
    data_help="cxc",
)
def cxc_retrieval(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks between and within images and captions by CxC's ratings."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data, ratings, images, texts, of_captions = _embedded_cxc(encoders, request)
    positives = benchmarks.cxc_positives(ratings, data)
    ranks = evaluation.retrieval_ranks(images, texts, positives)
    columns = {"i": data.columns, "t": of_captions}
    items = [
        (statistics, columns[direction[0]])
        for direction, statistics in _recalls(ranks).items()
    ]
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives, PAPERS_KS))
    return Evaluation(metrics | left_out(data.missing), items)


@protocol(
    "correlation of cosines with CxC's ratings",
    "table 3",
    ("split", *_OF_IMAGES),
    data="cxc",
    data_help="cxc",
)
def cxc_similarity(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Correlates cosines with CxC's ratings by rank, bootstrapped."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data, ratings, images, texts, of_captions = _embedded_cxc(encoders, request)
    rated = benchmarks.cxc_rated_rows(ratings, data)
    columns = {
        name: [*values, *of_captions[name]] for name, values in data.columns.items()
    }
    metrics = dict(evaluation.cxc_similarity_metrics(images, texts, rated))
    statistics = evaluation.cxc_similarity_statistics(images, texts, rated)
    return Evaluation(metrics | left_out(data.missing), [(statistics, columns)])


@protocol(
    "mean recall in four languages",
    "table 11",
    _OF_IMAGES,
    data="multi30k",
    data_help="multi30k or stamps",
)
def multi30k(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks captions and images in English, German, French and Czech."""
    from align_keras import evaluation

    data = joined(_captions_by_language(request), request)
    images, data = _embedded(encoders, request, data)
    # In the paper's set only an image's captions are right, as in `retrieval`.
    keys = None if request.data == "multi30k" else _keys(data)
    ranks = evaluation.multilingual_ranks(images, encoders.texts, data.captions, keys)
    statistics = evaluation.mean_statistics(evaluation.multilingual_outcomes(ranks))
    metrics = dict(evaluation.multilingual_metrics(ranks))
    metrics |= {"images": float(len(images))}
    return Evaluation(metrics | left_out(data.missing), [(statistics, data.columns)])


def _captions_by_language(request):
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


@protocol(
    "an image plus or minus words finds another icon",
    "figure 5",
    ("split", "text_weight", "metadata", "runtime", "engine"),
    data="icons",
    data_help="icons",
)
def composed(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks icons for an icon plus or minus the words by which another differs."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    if request.data != "icons":
        raise InputError(
            f"data must be icons, received {request.data!r}; their names tell which "
            "icon is another one plus a word."
        )
    data = captioned_images(request)
    images, data = _embedded(encoders, request, data, "sign", "words")
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
    statistics = evaluation.composed_statistics(ranks, PAPERS_KS)
    return Evaluation(metrics | left_out(data.missing), [(statistics, columns)])


@protocol(
    "similarity of words",
    "table 12",
    data="simlex999",
    data_help="simlex999, or the path of a file in its format",
    needs="words",
)
def simlex(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Correlates the cosines of words' [CLS] vectors with rated similarity by rank."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    path = pathlib.Path(request.data)
    if request.data == "simlex999":
        path = folder_of(request) / NAMED["simlex999"].places[0]
    rows = [dataclasses.astuple(pair) for pair in benchmarks.read_simlex(path)]
    names = {2: "part_of_speech", 4: "concreteness_quartile", 5: "is_hard"}
    columns = {name: [row[field] for row in rows] for field, name in names.items()}
    request.check_columns(columns)
    if encoders.model.align is None:
        raise InputError(
            "simlex needs the [CLS] vector before the projection, which an export "
            "does not have. Give `model` the run folder or the Hugging Face folder."
        )
    cosines = evaluation.word_cosines(encoders.model.encode_words, rows)
    metrics = dict(evaluation.simlex_metrics(cosines, rows))
    statistics = evaluation.simlex_statistics(cosines, rows)
    return Evaluation(metrics, [(statistics, columns)])
