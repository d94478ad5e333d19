"""Protocols with captions and words: retrieval, CxC, Multi30k, composition, SimLex."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from align_keras.protocols.protocol import (
    Evaluation,
    ItemStatistics,
    Request,
    columns_of_rows,
    define_protocol,
    missing_images_metric,
)
from align_keras.protocols.public_data import (
    NAMED,
    folder_of,
    join_metadata_columns,
    refuse_options,
)
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from align_keras.datasets.benchmarks import CaptionedImages
    from align_keras.evaluation.slices import Statistics
    from align_keras.protocols.cached_encoders import CachedEncoders

_CORPORA = ("stamps", "icons")
_IMAGE_OPTIONS = ("allow_missing", "metadata", "runtime", "engine")


def read_captioned_images(request: Request) -> "CaptionedImages":
    """Reads images with any number of captions, and the columns of `metadata`."""
    return join_metadata_columns(_captioned_images(request), request)


def _captioned_images(request: Request) -> "CaptionedImages":
    """Reads the images of a corpus, a named set, a table or a folder."""
    from align_keras.datasets import benchmarks

    name = request.data
    is_corpus = name.partition("/")[0] in _CORPORA
    if is_corpus or name in NAMED:
        refuse_options(
            request, "is no table", "image_column", "caption_column", "encoding"
        )
    if is_corpus:
        refuse_options(request, "holds its images", "allow_missing")
        return _corpus(name, request.split or "test")
    if name in NAMED:
        captioned = [other for other in NAMED if NAMED[other].protocol == "retrieval"]
        check_choice("data", name, captioned, "Use the protocol of this data set.")
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
            f"table or folder of captioned images. Received: data={name!r}."
        )
    if benchmarks.is_shard_folder(name):
        refuse_options(
            request, "is no table", "image_column", "caption_column", "encoding"
        )
        refuse_options(request, "holds its images", "allow_missing")
        return benchmarks.read_shard_captions(name, request.split or "test")
    refuse_options(request, "has no splits", "split")
    return benchmarks.read_caption_files(
        name,
        allow_missing=bool(request.allow_missing),
        image_column=request.image_column,
        caption_column=request.caption_column,
        encoding=request.encoding or "utf-8",
    )


def _corpus(name: str, split: str) -> "CaptionedImages":
    """Reads a split of a corpus of this package."""
    from align_keras.datasets import benchmarks, open_corpus

    images = benchmarks.read_stored_images(open_corpus(name), split)
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


def _embedded(
    encoders: "CachedEncoders", request: Request, data: Any, *protocol_columns: str
) -> "tuple[np.ndarray, Any]":
    """Returns the embeddings of the images that can be decoded, and their data."""
    request.check_columns({*protocol_columns, *data.columns})
    images, rows = encoders.readable_images(data.images)
    return images, data.select_rows(rows)


def _image_keys(data: Any) -> list[bytes]:
    """Returns a key for each image. Equal images have equal keys."""
    from align_keras.protocols.embedding_cache import image_key

    return [image_key(image) for image in data.images]


def _is_public_set(name: str) -> bool:
    """Returns True for data in which only the captions of an image are correct."""
    # The recalls of CLIP_benchmark's folders are computed as those of the paper.
    from align_keras.datasets import benchmarks

    return name in ("flickr30k", "coco") or benchmarks.is_shard_folder(name)


def _recalls(ranks: "Mapping[str, np.ndarray]") -> "dict[str, Statistics]":
    """Returns the recalls of each direction for `sliced_metrics`."""
    from align_keras import evaluation

    return {
        direction: evaluation.recall_statistics(
            f"{direction}/", query_ranks, evaluation.PAPER_KS
        )
        for direction, query_ranks in ranks.items()
    }


@define_protocol(
    help="recall of captions and images",
    table="table 1",
    options=("split", "image_column", "caption_column", "encoding", *_IMAGE_OPTIONS),
    data_help="flickr30k, coco, stamps, stamps/de, icons, or the path of a table, a "
    "folder of captioned images or a folder of CLIP_benchmark (webdataset)",
)
def retrieval(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks captions for each image and images for each caption."""
    from align_keras.evaluation.pair_recall import rank_pairs

    images, data = _embedded(encoders, request, read_captioned_images(request))
    keys = None if _is_public_set(request.data) else _image_keys(data)
    result = rank_pairs(images, data.captions, encoders.texts, keys)
    metrics = dict(result.metrics)
    metrics["images"] = float(len(data))
    metrics["captions"] = float(len(result.captions))
    recalls = _recalls(result.ranks)
    caption_columns = columns_of_rows(data.columns, result.caption_image_index)
    return Evaluation(
        metrics | missing_images_metric(data.missing),
        [
            ItemStatistics(recalls["i2t"], data.columns),
            ItemStatistics(recalls["t2i"], caption_columns),
        ],
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


@dataclasses.dataclass(frozen=True)
class _EmbeddedCxC:
    """Images and captions of CxC with their embeddings.

    Attributes:
        data: `CaptionedImages` that can be decoded.
        ratings: ratings of `read_cxc`.
        images: float32 array (images, dimension).
        texts: float32 array (captions, dimension).
        caption_columns: dict from the name of a column to its value for each caption.
    """

    data: Any
    ratings: Any
    images: "np.ndarray"
    texts: "np.ndarray"
    caption_columns: dict[str, list]


def _embedded_cxc(encoders: "CachedEncoders", request: Request) -> _EmbeddedCxC:
    """Reads the images and captions of CxC and embeds them."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    check_choice("data", request.data, ["cxc"])
    folder = folder_of(request)
    split = request.split or "test"
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
    data = join_metadata_columns(data, request)
    images, data = _embedded(encoders, request, data)
    captions, image_of_caption = evaluation.flatten_captions(data.captions)
    return _EmbeddedCxC(
        data=data,
        ratings=ratings,
        images=images,
        texts=encoders.texts(captions),
        caption_columns=columns_of_rows(data.columns, image_of_caption),
    )


@define_protocol(
    help="recall between and within images and captions, by CxC's ratings",
    table="table 2",
    options=("split", *_IMAGE_OPTIONS),
    data="cxc",
    data_help="cxc",
)
def cxc_retrieval(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Measures recall between and within images and captions by CxC's ratings."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    cxc = _embedded_cxc(encoders, request)
    positives = benchmarks.cxc_positives(cxc.ratings, cxc.data)
    ranks = evaluation.retrieval_ranks(cxc.images, cxc.texts, positives)
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives))
    query_columns = {
        "i2t": cxc.data.columns,
        "t2i": cxc.caption_columns,
        "t2t": cxc.caption_columns,
        "i2i": cxc.data.columns,
    }
    items = [
        ItemStatistics(statistics, query_columns[direction])
        for direction, statistics in _recalls(ranks).items()
    ]
    return Evaluation(metrics | missing_images_metric(cxc.data.missing), items)


@define_protocol(
    help="correlation of cosines with CxC's ratings",
    table="table 3",
    options=("split", *_IMAGE_OPTIONS),
    data="cxc",
    data_help="cxc",
)
def cxc_similarity(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Computes rank correlations of cosines and CxC's ratings with a bootstrap."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    cxc = _embedded_cxc(encoders, request)
    rated = benchmarks.cxc_rated_rows(cxc.ratings, cxc.data)
    metrics = dict(evaluation.cxc_similarity_metrics(cxc.images, cxc.texts, rated))
    statistics = evaluation.cxc_similarity_statistics(cxc.images, cxc.texts, rated)
    # The statistics begin with the images, followed by the captions.
    columns = {
        name: [*values, *cxc.caption_columns[name]]
        for name, values in cxc.data.columns.items()
    }
    return Evaluation(
        metrics | missing_images_metric(cxc.data.missing),
        [ItemStatistics(statistics, columns)],
    )


@define_protocol(
    help="mean recall in four languages",
    table="table 11",
    options=_IMAGE_OPTIONS,
    data="multi30k",
    data_help="multi30k or stamps",
)
def multi30k(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks captions and images in English, German, French and Czech."""
    from align_keras import evaluation

    data = join_metadata_columns(_captions_by_language(request), request)
    images, data = _embedded(encoders, request, data)
    # In the paper, only the captions of an image are correct, as in `retrieval`.
    keys = None if request.data == "multi30k" else _image_keys(data)
    ranks = evaluation.multilingual_ranks(images, encoders.texts, data.captions, keys)
    metrics = dict(evaluation.multilingual_metrics(ranks))
    metrics["images"] = float(len(images))
    statistics = evaluation.mean_statistics(evaluation.multilingual_outcomes(ranks))
    return Evaluation(
        metrics | missing_images_metric(data.missing),
        [ItemStatistics(statistics, data.columns)],
    )


def _captions_by_language(request: Request) -> Any:
    """Reads Multi30k or the stamps."""
    from align_keras.datasets import benchmarks

    check_choice("data", request.data, ["multi30k", "stamps"])
    if request.data == "stamps":
        refuse_options(request, "holds its images", "allow_missing")
        return benchmarks.stamps_captions_by_language()
    folder = folder_of(request)
    return benchmarks.read_multi30k(
        folder / "multi30k",
        folder / "flickr30k" / "images",
        allow_missing=bool(request.allow_missing),
    )


@define_protocol(
    help="recall of icons for queries of an icon plus or minus words",
    table="figure 5",
    options=("split", "text_weight", "metadata", "runtime", "engine"),
    data="icons",
    data_help="icons",
)
def composed(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks icons for queries of an icon embedding plus or minus a text embedding."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    check_choice("data", request.data, ["icons"])
    data = read_captioned_images(request)
    images, data = _embedded(encoders, request, data, "sign", "words")
    queries = benchmarks.composed_icon_queries(data.image_ids)
    ranks = evaluation.rank_composed_queries(
        encoders.texts, images, queries, text_weight=request.text_weight
    )
    metrics = dict(evaluation.composed_metrics(ranks, queries, len(data)))
    metrics["images"] = float(len(data))
    metrics |= missing_images_metric(data.missing)
    statistics = evaluation.composed_statistics(ranks)
    columns = {
        "sign": ["plus" if query.sign > 0 else "minus" for query in queries],
        "words": [query.words for query in queries],
    }
    columns |= columns_of_rows(data.columns, [query.image for query in queries])
    return Evaluation(metrics, [ItemStatistics(statistics, columns)])


@define_protocol(
    help="rank correlation of word similarities with human ratings",
    table="table 12",
    data="simlex999",
    data_help="simlex999, or the path of a file in its format",
    needs="words",
)
def simlex(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Computes the rank correlation of [CLS] cosine similarities and human ratings."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    path = pathlib.Path(request.data)
    if request.data == "simlex999":
        path = folder_of(request) / NAMED["simlex999"].paths[0]
    pairs = benchmarks.read_simlex(path)
    columns: dict[str, list] = {
        "part_of_speech": [pair.part_of_speech for pair in pairs],
        "concreteness_quartile": [pair.concreteness_quartile for pair in pairs],
        "is_hard": [pair.is_hard for pair in pairs],
    }
    request.check_columns(columns)
    model = encoders.model_with_weights()
    cosines = evaluation.word_cosines(model.encode_words, pairs)
    metrics = dict(evaluation.simlex_metrics(cosines, pairs))
    statistics = evaluation.simlex_statistics(cosines, pairs)
    return Evaluation(metrics, [ItemStatistics(statistics, columns)])
