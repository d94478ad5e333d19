"""Recall of captions and images (table 1)."""

import pathlib

from align_keras.protocols.data_sets import NAMED, folder_of, joined, refuse
from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Protocol,
    Request,
    columns_of_rows,
    left_out,
)
from align_keras.utils.errors import InputError

_CORPORA = ("stamps", "icons", "clipart", "emoji")
# Named sets that aren't read as captioned images, and the protocols that judge them.
_OTHERS = {"multi30k": "multi30k", "cxc": "cxc_retrieval", "simlex999": "simlex"}


def captioned_images(request: Request):
    """Reads images, any number of captions each: `CaptionedImages`."""
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
    if name in _OTHERS:
        raise InputError(
            f"data must be captioned images, received {name!r}; the protocol "
            f"{_OTHERS[name]} judges it."
        )
    if name in NAMED:
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


def run(encoders, request: Request) -> Evaluation:
    """Ranks captions for each image and images for each caption."""
    from align_keras import evaluation
    from align_keras.protocols.embedding_cache import image_key

    data = captioned_images(request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    captions, image_of = evaluation.flatten_captions(data.captions)
    texts = encoders.texts(captions)
    # In the paper's sets only an image's captions are right; elsewhere equal captions
    # and equal images can't be told apart by any model.
    if request.data in ("flickr30k", "coco"):
        positives = evaluation.own_positives(len(data), image_of)
    else:
        keys = list(map(image_key, data.images))
        positives = evaluation.shared_positives(keys, captions, image_of)
    ranks = evaluation.retrieval_ranks(images, texts, positives)
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives, PAPERS_KS))
    metrics |= {"images": float(len(data)), "captions": float(len(captions))}
    statistics = {
        direction: evaluation.recall_statistics(f"{direction}/", of_queries, PAPERS_KS)
        for direction, of_queries in ranks.items()
    }
    return Evaluation(
        metrics | left_out(data.missing),
        [
            (statistics["i2t"], data.columns),
            (statistics["t2i"], columns_of_rows(data.columns, image_of)),
        ],
        retrieval={
            "image_embeddings": images,
            "text_embeddings": texts,
            "images": data.images,
            "captions": captions,
            "caption_image_index": image_of,
            "positives": positives,
            "ranks": ranks,
        },
    )


RETRIEVAL = Protocol(
    "retrieval",
    "recall of captions and images",
    "table 1",
    run,
    options=(
        *("split", "allow_missing", "image_column", "caption_column", "encoding"),
        *("metadata", "engine"),
    ),
    data_help="flickr30k, coco, stamps, stamps/de, icons, or the path of a table or "
    "folder of captioned images",
)
