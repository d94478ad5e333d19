"""`align-keras tag`: gives images the labels that fit them."""

import argparse
import collections
import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from align_keras.cli.common import (
    check_local_path,
    name_addresses,
    print_table,
    read_model_options,
    refuse_empty,
    without_control_characters,
)
from align_keras.embedders.locations import MODEL_HELP, RUNTIME_HELP
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    from align_keras.embedders.label_thresholds import LabelThresholds
    from align_keras.search.image_index import Index
    from align_keras.search.tags import TaggedImage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="folder or table of images. With --index, the index is updated with it. "
        "Without a folder, the images of --index are tagged.",
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="FILE",
        help="text file with one label per line",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="table to write: .csv, .tsv, .jsonl or .parquet, with the columns image, "
        "tags, scores, best_label and best_score (default: print the best label and "
        "its score of each image)",
    )
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="index whose column `tags` gets the tags of all its images",
    )
    parser.add_argument(
        "--calibrate",
        metavar="TABLE",
        help="table (.csv, .tsv, .jsonl) with the columns image and labels, from which "
        "thresholds are chosen. --thresholds names a file to which they are written.",
    )
    parser.add_argument(
        "--thresholds",
        metavar="T",
        help="lowest score of a tag: a number, or the JSON file that --calibrate "
        "writes (default: the threshold of the model for all labels)",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help=f"{MODEL_HELP} (default: the model of the index, else align_small_en)",
    )
    parser.add_argument("--runtime", metavar="R", help=RUNTIME_HELP)


def run(arguments: argparse.Namespace) -> int:
    from align_keras.search.tags import (
        check_table_name,
        read_labels,
        tag_images,
        write_tags_column,
        write_tags_table,
    )

    refuse_empty(arguments, ("out", "index", "calibrate", "thresholds"))
    if not (arguments.folder or arguments.index or arguments.calibrate):
        raise InputError(
            "The images must be named by `folder` or `index`. Received: neither. Add a "
            "folder of images."
        )
    # The tags would be written to a copy that is not uploaded.
    check_local_path("index", arguments.addresses.get(arguments.index))
    labels = read_labels(arguments.labels)
    if arguments.out:
        check_table_name(arguments.out)
    thresholds = None
    if arguments.calibrate:
        thresholds = _calibrate(arguments, labels)
        if not (arguments.folder or arguments.index):
            return 0
    elif arguments.thresholds:
        thresholds = _read_thresholds(arguments.thresholds)
    with contextlib.ExitStack() as stack:
        index = _open_index(arguments, stack)
        images = tag_images(index, labels, thresholds)
        if arguments.index:
            write_tags_column(index, images)
            say(f"tags written to the column `tags` of {arguments.index}")
    if arguments.out:
        write_tags_table(images, arguments.out)
        say(f"tags written to {name_addresses(arguments.out, arguments)}")
    if not arguments.out:
        _print_best_labels(images)
    _print_counts(images, labels)
    return 0


def _read_thresholds(text: str) -> "LabelThresholds":
    """Returns the thresholds of a number or of a file."""
    from align_keras.embedders.label_thresholds import LabelThresholds

    try:
        threshold = float(text)
    except ValueError:
        return LabelThresholds.read(text)
    return LabelThresholds(threshold)


def _calibrate(arguments: argparse.Namespace, labels: list[str]) -> "LabelThresholds":
    """Chooses thresholds, writes their file and prints them."""
    from align_keras.embedders import load_model
    from align_keras.search.image_index import Index
    from align_keras.search.index.opening import index_exists
    from align_keras.search.tags import calibrate

    model = read_model_options(arguments)
    if model is None and arguments.index and index_exists(arguments.index):
        model = Index.open(arguments.index).model
    thresholds = calibrate(
        load_model(model or "align_small_en"), arguments.calibrate, labels
    )
    print(
        f"threshold {thresholds.default:.3f}, and {len(thresholds.by_label):,} of "
        f"{len(labels):,} labels with their own"
    )
    if arguments.thresholds:
        thresholds.write(arguments.thresholds)
        say(f"thresholds written to {arguments.thresholds}")
    return thresholds


def _open_index(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> "Index":
    """Returns the index of the command, or a temporary index of the folder."""
    from align_keras.search.image_index import Index

    model = read_model_options(arguments)
    folder = arguments.index
    if folder and not arguments.folder:
        return Index.open(folder, model)
    if not folder:
        temporary = tempfile.TemporaryDirectory(prefix="align_keras_tag_")
        folder = os.path.join(stack.enter_context(temporary), "index")
    index = Index.build(folder, [arguments.folder], model)
    if index.changes is not None:
        for reason, count in sorted(index.changes.unreadable.items()):
            say(f"{count:,} left out: {reason}")
    return index


def _print_best_labels(images: "list[TaggedImage]") -> None:
    """Prints the score and the best label of each image.

    A question mark follows a label whose score is below its threshold.
    """
    for image in images:
        doubt = "" if image.best_label in image.tags else "?"
        line = f"{image.best_score:.3f}  {image.best_label}{doubt}  {image.path}"
        print(without_control_characters(line))


def _print_counts(images: "list[TaggedImage]", labels: list[str]) -> None:
    """Prints how often each label is the best one, and how often it is a tag."""
    best = collections.Counter(image.best_label for image in images)
    tags = collections.Counter(tag for image in images for tag in image.tags)
    rows = [
        (label, f"{best[label]:,}", f"{tags[label]:,}")
        for label in labels
        if best[label]
    ]
    print_table(f"labels of {len(images):,} images", ("label", "best", "tag"), rows)
    num_untagged = sum(not image.tags for image in images)
    if num_untagged:
        print(
            f"{num_untagged:,} of {len(images):,} images have no tag, because no score "
            "reaches the threshold. Choose another one with --thresholds."
        )
