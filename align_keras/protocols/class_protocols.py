"""Protocols of images with classes: zero-shot classification, kNN, linear probe."""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from align_keras.protocols.protocol import (
    Evaluation,
    ItemStatistics,
    Request,
    columns_of_rows,
    define_protocol,
    first_names,
    missing_images_metric,
)
from align_keras.protocols.public_data import join_metadata_columns
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    import numpy as np

    from align_keras.datasets.benchmarks import LabeledImages
    from align_keras.evaluation import Classification
    from align_keras.evaluation.slices import Statistics
    from align_keras.protocols.cached_encoders import CachedEncoders


# Data sets of TFDS whose split `test` is missing or has no labels.
_TEST_SPLITS = {"imagenet2012": "validation", "food101": "validation"}
# Data sets in which some classes have no images. These classes are left out.
_WITH_EMPTY_CLASSES = ("imagenet_r", "imagenet_a", "stamps")
_OPTIONS = ("split", "classes", "metadata", "runtime", "engine")


def labeled_images(request: Request, train: bool = False) -> "LabeledImages":
    """Reads images with classes of the test split, or of the training split."""
    from align_keras.datasets import benchmarks

    name = request.data
    split = split_of_classes(request, train)
    if name == "stamps":
        from align_keras.datasets import open_corpus

        corpus = open_corpus("stamps")
        data = benchmarks.stamps_by_category(corpus, split or "all")
    elif split is None or is_class_folder(name):
        data = benchmarks.read_class_folders(name, split)
    elif benchmarks.is_shard_folder(name):
        data = benchmarks.read_shard_classes(name, split)
    else:
        data = benchmarks.read_tfds_classification(name, split)
    if request.classes is not None:
        names = benchmarks.read_class_names(request.classes)
        # TFDS and CLIP_benchmark define an order of the labels. Folders of classes and
        # the stamps have only names.
        ordered = split is not None and name != "stamps" and not is_class_folder(name)
        renamed = benchmarks.rename_classes(data, names, ordered)
        is_positional = isinstance(names, list) and set(names).isdisjoint(
            data.class_names
        )
        if is_positional and ordered and not train:
            renamings = [
                f"{old} is {new}"
                for old, new in zip(data.class_names, renamed.class_names, strict=True)
            ]
            say(
                f"--classes names the labels of {name} in their order: "
                f"{first_names(renamings, 3)}"
            )
        data = renamed
    # Metrics of training images are not sliced, so no metadata is needed.
    if train:
        return data
    return join_metadata_columns(data, request)


def train_and_test(request: Request) -> "tuple[LabeledImages, LabeledImages]":
    """Reads the training split and the test split, and checks that they fit together.

    Both splits must have the same classes, and no image in common.
    """
    # This check comes before reading, which may take minutes.
    check_splits_are_apart(request)
    train = labeled_images(request, train=True)
    test = labeled_images(request)
    if train.class_names != test.class_names:
        raise InputError(
            "data must have the same classes in both splits. Received: "
            f"{len(train.class_names)} classes in the training split and "
            f"{len(test.class_names)} in the test split."
        )
    check_several_classes(test)
    return train, test


def check_several_classes(data: "LabeledImages") -> None:
    """Raises for a single class, because every prediction would be correct."""
    if len(data.class_names) < 2:
        raise InputError(
            "data must have at least two classes. Received: one class, "
            f"{data.class_names[0]!r}."
        )


def is_class_folder(name: str) -> bool:
    """Returns True if `data` is a folder with a subfolder for each class."""
    from align_keras.datasets import benchmarks

    is_folder = name != "stamps" and pathlib.Path(name).is_dir()
    return is_folder and not benchmarks.is_shard_folder(name)


def tfds_name(name: str) -> str:
    """Returns the name of a TFDS set without its configuration and version."""
    return re.split("[/:]", name)[0]


def split_of_classes(request: Request, train: bool = False) -> str | None:
    """Returns the test or training split, or None for a folder without splits."""
    name = request.data
    requested = request.train_split if train else request.split
    if requested is not None:
        return requested
    if name == "stamps":
        return "train" if train else "test"
    if is_class_folder(name):
        return _split_of_folder(name, train)
    return "train" if train else _TEST_SPLITS.get(tfds_name(name), "test")


def _split_of_folder(name: str, train: bool) -> str | None:
    """Returns the test or training split of a folder, or None for the whole folder."""
    from align_keras.datasets import benchmarks

    splits, class_folders = benchmarks.folders_of_splits(name)
    if train:
        if "train" not in splits:
            raise InputError(
                f"data must have the folders train and test. Received: data={name!r} "
                "without the folder train."
            )
        return "train"
    if not splits:
        return None
    if class_folders and not {"train", "test"} <= set(splits):
        raise InputError(
            f"data must be a folder of classes or a folder of splits. Received: "
            f"data={name!r}, whose subfolders {first_names(splits)} look like splits "
            f"and {first_names(class_folders)} look like classes. Set `split` to a "
            "folder, or to '.' to use every subfolder as a class."
        )
    return "test"


def unusual_splits(request: Request) -> dict[str, str]:
    """Returns the options `split` and `train_split` that differ from the paper."""
    usual_split = _TEST_SPLITS.get(tfds_name(request.data), "test")
    splits = {}
    if request.split is not None and request.split != usual_split:
        splits["split"] = request.split
    if request.train_split is not None:
        # A set value is reported even if it is "train", because protocols learn from
        # different splits of a data set.
        splits["train_split"] = request.train_split
    return splits


def check_splits_are_apart(request: Request) -> None:
    """Raises if the training and the test split have images in common."""
    from align_keras.datasets.benchmarks import is_shard_folder

    train = split_of_classes(request, train=True)
    test = split_of_classes(request, train=False)
    if request.data == "stamps":
        overlap = train == test or "all" in (train, test)
    elif is_shard_folder(request.data):
        overlap = train == test
    elif train is None or test is None or is_class_folder(request.data):
        root = pathlib.Path(request.data)
        train_folder = (root / (train or "")).resolve()
        test_folder = (root / (test or "")).resolve()
        overlap = train_folder.is_relative_to(
            test_folder
        ) or test_folder.is_relative_to(train_folder)
    else:
        from align_keras.datasets import benchmarks

        builder = benchmarks.prepared_builder(request.data)
        overlap = benchmarks.tfds_splits_overlap(builder, train, test)
    if overlap:
        raise InputError(
            f"train_split and split must have no image in common. Received: {train} "
            f"and {test or 'all'} of {request.data}."
        )


def class_columns(data: "LabeledImages", rows: Collection[int]) -> dict[str, list]:
    """Returns the columns of the images in `rows`, including their classes."""
    classes = [data.class_names[data.labels[row]] for row in rows]
    return columns_of_rows(data.columns, rows) | {"class": classes}


def class_evaluation(
    metrics: dict[str, float],
    statistics: "Statistics",
    data: "LabeledImages",
    rows: "np.ndarray",
    predictions: "np.ndarray",
) -> Evaluation:
    """Returns the result of a protocol that predicts a class for each image.

    Args:
        metrics: dict from name to value.
        statistics: dict from name to `Statistic` of the images.
        data: `LabeledImages`.
        rows: rows of the images that can be decoded.
        predictions: int array, predicted class of each of these images.
    """
    missing = len(data.labels) - len(rows)
    return Evaluation(
        metrics | {"images": float(len(rows))} | missing_images_metric(missing),
        [ItemStatistics(statistics, class_columns(data, rows))],
        classification={
            "labels": data.labels[rows],
            "predictions": predictions,
            "class_names": data.class_names,
        },
    )


@define_protocol(
    help="classification by class names in templates",
    table="table 4",
    options=(*_OPTIONS, "templates"),
)
def zero_shot(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Predicts the class whose name in an ensemble of templates is nearest."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data = labeled_images(request)
    check_several_classes(data)
    if tfds_name(request.data) in _WITH_EMPTY_CLASSES:
        data = benchmarks.only_occurring_classes(data)
    benchmarks.check_names_for_prompts(data.class_names)
    templates = benchmarks.read_templates(request.templates)
    request.check_columns({"class", *data.columns})
    images, rows = encoders.readable_images(data.images)
    classes = evaluation.class_embeddings(encoders.texts, data.class_names, templates)
    classification = evaluation.zero_shot_classification(
        images, classes, data.labels[rows]
    )
    return _classified("zero_shot", data, rows, classification)


def _classified(
    name: str,
    data: "LabeledImages",
    rows: "np.ndarray",
    classification: "Classification",
    more_metrics: Iterable[tuple[str, float]] = (),
) -> Evaluation:
    """Returns the accuracies of a `Classification` with further metrics."""
    from align_keras import evaluation

    classes = len(data.class_names)
    labels = data.labels[rows]
    statistics = evaluation.classification_statistics(
        name, classification, labels, classes
    )
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"classes": float(classes), **dict(more_metrics)}
    return class_evaluation(metrics, statistics, data, rows, classification.predictions)


@dataclasses.dataclass(frozen=True)
class _EmbeddedSplit:
    """Images of a split with their embeddings.

    Attributes:
        data: `LabeledImages` of the split.
        rows: rows of the images that can be decoded.
        embeddings: float32 array (rows, dimension).
        labels: int array (rows,).
    """

    data: "LabeledImages"
    rows: "np.ndarray"
    embeddings: "np.ndarray"
    labels: "np.ndarray"


def _embedded_split(
    encoders: "CachedEncoders", data: "LabeledImages"
) -> _EmbeddedSplit:
    """Embeds the images of a split."""
    embeddings, rows = encoders.readable_images(data.images)
    return _EmbeddedSplit(data, rows, embeddings, data.labels[rows])


def _two_splits(
    encoders: "CachedEncoders", request: Request
) -> tuple[_EmbeddedSplit, _EmbeddedSplit]:
    """Reads and embeds the training and the test split."""
    train, test = train_and_test(request)
    request.check_columns({"class", *test.columns})
    return _embedded_split(encoders, train), _embedded_split(encoders, test)


@define_protocol(
    help="classification by the nearest training images",
    table="tables 8 to 10",
    options=(*_OPTIONS, "train_split"),
)
def knn(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Finds the correct class among the classes of the nearest training images."""
    from align_keras import evaluation

    train, test = _two_splits(encoders, request)
    k = min(max(evaluation.PAPER_KS), len(train.rows))
    neighbors, _ = evaluation.nearest_neighbors(test.embeddings, train.embeddings, k)
    neighbor_labels = train.labels[neighbors]
    ranks = evaluation.neighbor_ranks(neighbor_labels, test.labels)
    statistics = evaluation.recall_statistics("knn/", ranks, evaluation.PAPER_KS)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics["knn/queries"] = float(len(test.rows))
    metrics["knn/candidates"] = float(len(train.rows))
    metrics["gallery"] = float(len(train.rows))
    return class_evaluation(
        metrics, statistics, test.data, test.rows, neighbor_labels[:, 0]
    )


@define_protocol(
    help="logistic regression on the embeddings",
    options=(*_OPTIONS, "train_split"),
)
def linear_probe(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Fits logistic regression on the embeddings of the frozen image encoder."""
    from align_keras import evaluation

    train, test = _two_splits(encoders, request)
    classification, probe_metrics = evaluation.probe(
        train.embeddings,
        train.labels,
        test.embeddings,
        test.labels,
        classes=len(train.data.class_names),
    )
    return _classified(
        "linear_probe", test.data, test.rows, classification, probe_metrics
    )
