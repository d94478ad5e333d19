"""Protocols of public benchmarks that are not in the paper."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from align_keras.protocols.data_sets import (
    NAMED,
    folder_of,
    join_metadata_columns,
)
from align_keras.protocols.protocol import (
    Evaluation,
    ItemStatistics,
    Request,
    columns_of_rows,
    define_protocol,
    missing_images_metric,
)
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.protocols.embedding_cache import CachedEncoders

_IMAGE_OPTIONS = ("allow_missing", "metadata", "runtime", "engine")


def _folder_of_benchmark(request: Request, name: str) -> tuple[pathlib.Path, bool]:
    """Returns the folder of a benchmark, and whether it must be complete.

    The named data set must be complete, because its results are compared with published
    ones. A folder may hold a part of it.
    """
    if request.data == name:
        return folder_of(request) / NAMED[name].paths[0].partition("/")[0], True
    folder = pathlib.Path(request.data)
    if not folder.is_dir():
        raise InputError(
            f"data must be {name} or a folder with its files. Received: "
            f"data={request.data!r}. Check the path."
        )
    return folder, False


@define_protocol(
    help="recall in 36 languages",
    options=_IMAGE_OPTIONS,
    data="xm3600",
    data_help="xm3600, or a folder with captions.jsonl and images/",
)
def xm3600(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Ranks captions and images of Crossmodal-3600 in each language."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    folder, is_complete = _folder_of_benchmark(request, "xm3600")
    data = benchmarks.read_xm3600(
        folder, allow_missing=bool(request.allow_missing), check_counts=is_complete
    )
    data = join_metadata_columns(data, request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.select_rows(rows)
    ranks = evaluation.multilingual_ranks(images, encoders.texts, data.captions)
    metrics = dict(evaluation.multilingual_metrics(ranks))
    metrics = _means_over_languages(metrics, list(ranks)) | metrics
    metrics["images"] = float(len(data))
    items = []
    for language, language_ranks in ranks.items():
        # The number of captions differs between images, so that the recall of captions
        # is no mean over images.
        caption_columns = columns_of_rows(
            data.columns, language_ranks.caption_image_index
        )
        image_recalls = evaluation.recall_statistics(
            f"{language}/i2t/", language_ranks.image_to_text, evaluation.PAPER_KS
        )
        caption_recalls = evaluation.recall_statistics(
            f"{language}/t2i/", language_ranks.text_to_image, evaluation.PAPER_KS
        )
        items.append(ItemStatistics(image_recalls, data.columns))
        items.append(ItemStatistics(caption_recalls, caption_columns))
    return Evaluation(metrics | missing_images_metric(data.missing), items)


def _means_over_languages(
    metrics: Mapping[str, float], languages: list[str]
) -> dict[str, float]:
    """Returns the mean over the languages of each recall."""
    prefix = f"{languages[0]}/"
    names = [
        name.removeprefix(prefix)
        for name in metrics
        if name.startswith(prefix) and "recall" in name
    ]
    return {
        f"all_languages/{name}": float(
            np.mean([metrics[f"{language}/{name}"] for language in languages])
        )
        for name in names
    }


@define_protocol(
    help="choice between a correct caption and a hard negative",
    options=_IMAGE_OPTIONS,
    data="sugar_crepe",
    data_help="sugar_crepe, or a folder with the JSON files and val2017/",
)
def sugar_crepe(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Compares the cosines of an image with its caption and with a hard negative."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    folder, is_complete = _folder_of_benchmark(request, "sugar_crepe")
    root = pathlib.Path(request.data_root, "coco") if is_complete else folder
    data = benchmarks.read_sugar_crepe(
        folder,
        root / "val2017",
        allow_missing=bool(request.allow_missing),
        check_counts=is_complete,
    )
    data = join_metadata_columns(data, request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    outcomes = evaluation.caption_choice_outcomes(
        images,
        encoders.texts([data.captions[row] for row in rows]),
        encoders.texts([data.negative_captions[row] for row in rows]),
    )
    categories = np.array([data.columns["category"][row] for row in rows])
    metrics = {
        f"sugar_crepe/{category}/accuracy": float(
            outcomes[categories == category].mean()
        )
        for category in dict.fromkeys(categories.tolist())
    }
    statistics = evaluation.mean_statistics({"sugar_crepe/accuracy": outcomes})
    metrics |= dict(evaluation.whole_metrics(statistics))
    # A random choice between the two captions.
    metrics |= {name.replace("accuracy", "chance_accuracy"): 0.5 for name in metrics}
    metrics["captions"] = float(len(rows))
    metrics |= missing_images_metric(len(data.images) - len(rows))
    columns = columns_of_rows(data.columns, rows)
    return Evaluation(metrics, [ItemStatistics(statistics, columns)])


# Scores of random cosines.
_WINOGROUND_CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}


@define_protocol(
    help="matching of two images and two captions of the same words",
    options=("metadata", "runtime", "engine"),
    data="winoground",
    data_help="winoground, or a folder in the layout of facebook/winoground",
)
def winoground(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Matches two images with two captions that have the same words."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    folder, is_complete = _folder_of_benchmark(request, "winoground")
    data = benchmarks.read_winoground(folder, check_counts=is_complete)
    data = join_metadata_columns(data, request)
    request.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    if len(rows) < len(data.images):
        raise InputError(
            "All images of Winoground must be decodable, because its scores compare "
            f"two images. Received: {len(data.images) - len(rows)} unreadable images. "
            "Download the data set again."
        )
    captions = encoders.texts(data.captions)
    outcomes = evaluation.winoground_outcomes(
        images.reshape(-1, 2, images.shape[1]),
        captions.reshape(-1, 2, captions.shape[1]),
    )
    statistics = evaluation.mean_statistics(
        {f"winoground/{name}": values for name, values in outcomes.items()}
    )
    metrics = dict(evaluation.whole_metrics(statistics))
    for name, chance in _WINOGROUND_CHANCE.items():
        metrics[f"winoground/chance_{name}"] = chance
    metrics["examples"] = float(len(data.images) // 2)
    return Evaluation(metrics, [ItemStatistics(statistics, data.columns)])
