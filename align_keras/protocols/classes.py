"""Images with classes: their reading, zero-shot classification, kNN, linear probe."""

import pathlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from align_keras.protocols.data_sets import joined
from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Request,
    columns_of_rows,
    left_out,
    protocol,
    some,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    import numpy as np

    from align_keras.datasets.benchmarks import LabeledImages
    from align_keras.evaluation.slices import Statistics
    from align_keras.protocols.embedding_cache import CachedEncoders

# The split that is judged, and the one that is learned from, where a set has no
# `test` with labels.
TFDS_SPLITS = {
    "imagenet2012": ("validation", "train"),
    "imagenet_v2": ("test", None),
    "imagenet_r": ("test", None),
    "imagenet_a": ("test", None),
    "food101": ("validation", "train"),
}
_USUAL = ("test", "train")
# Sets that keep labels of classes they have no images of.
_OF_OCCURRING_CLASSES = ("imagenet_r", "imagenet_a", "stamps")
_OPTIONS = ("split", "classes", "metadata", "runtime", "engine")


def labeled_images(request: Request, train: bool = False) -> "LabeledImages":
    """Reads images with classes, of the one or the other split."""
    from align_keras.datasets import benchmarks, build_corpus

    name, split = request.data, split_of_classes(request, train)
    if name == "stamps":
        corpus = build_corpus("stamps")
        data = benchmarks.stamps_by_category(corpus, None if split == "all" else split)
    elif split is None or is_class_folder(name):
        data = benchmarks.read_class_folders(name, split)
    else:
        data = benchmarks.read_tfds_classification(name, split)
    if request.classes is not None:
        names = benchmarks.read_class_names(request.classes)
        # TFDS defines the order of its labels. Folders and the stamps have only names.
        ordered = split is not None and name != "stamps" and not is_class_folder(name)
        renamed = benchmarks.rename_classes(data, names, ordered)
        is_positional = isinstance(names, list) and set(names).isdisjoint(
            data.class_names
        )
        if is_positional and ordered and not train:
            first = [
                f"{old} is {new}"
                for old, new in zip(data.class_names, renamed.class_names, strict=True)
            ]
            say(
                f"--classes names the labels of {name} in their order: {some(first, 3)}"
            )
        data = renamed
    # What is learned from isn't sliced.
    return data if train else joined(data, request, taken=("class",))


def train_and_test(request: Request) -> "tuple[LabeledImages, LabeledImages]":
    """Two splits of the same classes without an image in common."""
    check_splits_are_apart(request)  # Before reading, which may take minutes.
    train, test = labeled_images(request, train=True), labeled_images(request)
    check_same_classes(train, test)
    check_several_classes(test)
    return train, test


def check_same_classes(train: "LabeledImages", test: "LabeledImages") -> None:
    """Raises unless two splits have the same classes."""
    if train.class_names != test.class_names:
        raise InputError(
            "data must have the same classes in both splits, received "
            f"{len(train.class_names)} in training and {len(test.class_names)} in the "
            "test; add the missing folders or rename them."
        )


def check_several_classes(data: "LabeledImages") -> None:
    """Raises for a single class, which every image would be assigned to."""
    if len(data.class_names) < 2:
        raise InputError(
            "data must hold at least two classes, received one, "
            f"{data.class_names[0]!r}, of which every answer is right; check that the "
            "folder holds a subfolder for each class."
        )


def is_class_folder(name: str) -> bool:
    """Whether `data` names a folder of classes, not the stamps or a set of TFDS."""
    return name != "stamps" and pathlib.Path(name).is_dir()


def tfds_name(name: str) -> str:
    """A TFDS set's name without its configuration and version."""
    return re.split("[/:]", name)[0]


def split_of_classes(request: Request, train: bool = False) -> str | None:
    """The split that is judged or learned from, None for a folder without splits."""
    name, given = request.data, request.train_split if train else request.split
    if given is not None:
        return given
    if name == "stamps":
        return "train" if train else "test"
    if is_class_folder(name):
        return _split_of_folder(name, train)
    test, learn = TFDS_SPLITS.get(tfds_name(name), _USUAL)
    if train and learn is None:
        raise InputError(
            f"train_split must be given for {name}, which has none; judge what learns "
            "on imagenet2012."
        )
    return learn if train else test


def _split_of_folder(name: str, train: bool) -> str | None:
    """The split of a folder that is measured or learned from, None for all of it."""
    from align_keras.datasets import benchmarks

    splits, others = benchmarks.folders_of_splits(name)
    if train:
        if "train" not in splits:
            raise InputError(
                f"data must have the folders train and test, received {name}, which "
                "has not; what learns does so from train, or from `train_split`."
            )
        return "train"
    if not splits:
        return None
    if others and not {"train", "test"} <= set(splits):
        raise InputError(
            f"data must be a folder of classes or of splits, received {name}, whose "
            f"subfolders {some(splits)} look like splits and {some(others)} like "
            f"classes; choose by `split`: {splits[0]!r} takes the classes in that "
            "folder, '.' takes every subfolder as a class."
        )
    if "test" not in splits:
        raise InputError(
            f"data must have the folder test, received {name}, which has the splits "
            f"{some(splits)}; choose one by `split`, such as --split {splits[-1]}. "
            "If they are classes, use --split ."
        )
    return "test"


def unusual_splits(request: Request) -> dict[str, str]:
    """The splits of which the paper's figures aren't: `split`, `train_split`."""
    usual, _ = TFDS_SPLITS.get(tfds_name(request.data), _USUAL)
    found = {}
    if request.split is not None and request.split != usual:
        found["split"] = request.split
    if request.train_split is not None:
        # Even train: a set's protocols don't all learn from the same split.
        found["train_split"] = request.train_split
    return found


def check_splits_are_apart(request: Request) -> None:
    """Raises where images with classes are both learned from and judged."""
    train, test = (split_of_classes(request, train) for train in (True, False))
    if request.data == "stamps":
        overlap = train == test or "all" in (train, test)
    elif train is None or test is None or is_class_folder(request.data):
        root = pathlib.Path(request.data)
        one, other = ((root / (split or "")).resolve() for split in (train, test))
        overlap = one.is_relative_to(other) or other.is_relative_to(one)
    else:
        from align_keras.datasets import benchmarks

        builder = benchmarks.prepared_builder(request.data)
        overlap = benchmarks.tfds_splits_overlap(builder, train, test)
    if overlap:
        raise InputError(
            "train_split and split must have no image in common, received "
            f"{train} and {test or 'all'} of {request.data}; name others, or leave "
            "both out."
        )


def class_columns(data: "LabeledImages", rows: Collection[int]) -> dict[str, list]:
    """The columns of some rows of images, and their classes."""
    classes = [data.class_names[data.labels[row]] for row in rows]
    return columns_of_rows(data.columns, rows) | {"class": classes}


def class_evaluation(
    metrics: dict[str, float],
    statistics: "Statistics",
    data: "LabeledImages",
    rows: "np.ndarray",
    predictions: "np.ndarray",
) -> Evaluation:
    """What names a class for each of those images, `rows`, that could be read."""
    return Evaluation(
        metrics | {"images": float(len(rows))} | left_out(len(data.labels) - len(rows)),
        [(statistics, class_columns(data, rows))],
        classification={
            "labels": data.labels[rows],
            "predictions": predictions,
            "class_names": data.class_names,
        },
    )


@protocol(
    "classification by class names in templates", "table 4", (*_OPTIONS, "templates")
)
def zero_shot(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Finds the nearest class name, over an ensemble of templates."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data = labeled_images(request)
    check_several_classes(data)
    if tfds_name(request.data) in _OF_OCCURRING_CLASSES:
        data = benchmarks.only_occurring_classes(data)
    benchmarks.check_names_for_prompts(data.class_names)
    templates = benchmarks.read_templates(request.templates)
    request.check_columns({"class", *data.columns})
    images, rows = encoders.readable_images(data.images)
    classes = evaluation.class_embeddings(encoders.texts, data.class_names, templates)
    found = evaluation.zero_shot_classification(images, classes, data.labels[rows])
    return _classified("zero_shot", data, rows, found)


def _classified(name, data, rows, found, extra=()):
    """Of a `Classification` the accuracies, and further metrics as pairs."""
    from align_keras import evaluation

    classes = len(data.class_names)
    labels = data.labels[rows]
    statistics = evaluation.classification_statistics(name, found, labels, classes)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"classes": float(classes), **dict(extra)}
    return class_evaluation(metrics, statistics, data, rows, found.predictions)


def _two_splits(encoders, request):
    """(data, embeddings, labels, rows) of the training and of the test split."""
    train, test = train_and_test(request)
    request.check_columns({"class", *test.columns})
    for data in (train, test):
        embeddings, rows = encoders.readable_images(data.images)
        yield data, embeddings, data.labels[rows], rows


@protocol(
    "the class of the nearest training images",
    "tables 8 to 10",
    (*_OPTIONS, "train_split"),
)
def knn(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Looks for the right class among the nearest training images."""
    from align_keras import evaluation

    train, (test, queries, labels, rows) = _two_splits(encoders, request)
    _, gallery, gallery_labels, _ = train
    k = min(max(PAPERS_KS), len(gallery))
    neighbors, _ = evaluation.nearest_neighbors(queries, gallery, k)
    neighbor_labels = gallery_labels[neighbors]
    ranks = evaluation.neighbor_ranks(neighbor_labels, labels)
    statistics = evaluation.recall_statistics("knn/", ranks, PAPERS_KS)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"knn/queries": float(len(queries))}
    metrics |= {"knn/candidates": float(len(gallery))}
    metrics |= {"gallery": float(len(gallery))}
    return class_evaluation(metrics, statistics, test, rows, neighbor_labels[:, 0])


@protocol("logistic regression on the embeddings", "", (*_OPTIONS, "train_split"))
def linear_probe(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Fits logistic regression on the embeddings of the frozen image encoder."""
    from align_keras import evaluation

    train, (test, queries, labels, rows) = _two_splits(encoders, request)
    data, features, train_labels, _ = train
    found, chosen = evaluation.probe(
        features, train_labels, queries, labels, classes=len(data.class_names)
    )
    return _classified("linear_probe", test, rows, found, chosen)
