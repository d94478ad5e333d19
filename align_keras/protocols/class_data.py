"""Images with classes: which splits are judged and learned from, and their reading."""

import pathlib
import re

from align_keras.protocols.data_sets import joined
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError

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


def labelled_images(request: Request, train: bool = False):
    """Reads images with classes: `LabelledImages` of the one or the other split."""
    from align_keras.datasets import benchmarks, build_corpus

    name, split = request.data, split_of_classes(request, train)
    if name == "stamps":
        corpus = build_corpus("stamps")
        data = benchmarks.stamps_by_category(corpus, None if split == "all" else split)
    elif is_class_folder(name):
        data = benchmarks.read_class_folders(name, split)
    else:
        data = benchmarks.read_tfds_classification(name, split)
    if request.classes is not None:
        names = benchmarks.read_class_names(request.classes)
        data = benchmarks.rename_classes(data, names)
    # What is learned from isn't sliced.
    return data if train else joined(data, request, taken=("class",))


def train_and_test(request: Request):
    """Reads what is learned from and what is judged.

    Returns:
        Two `LabelledImages` of the same classes without an image in common.
    """
    check_splits_are_apart(request)  # Before reading, which may take minutes.
    train, test = labelled_images(request, train=True), labelled_images(request)
    check_same_classes(train, test)
    return train, test


def is_class_folder(name: str) -> bool:
    """Whether `data` names a folder of classes, not the stamps or a set of TFDS."""
    return name != "stamps" and pathlib.Path(name).is_dir()


def tfds_name(name: str) -> str:
    """Returns a TFDS set's name without its configuration and version.

    Example:

    >>> tfds_name("imagenet_v2/threshold-0.7:3.0.0")
    'imagenet_v2'
    """
    return re.split("[/:]", name)[0]


def split_of_classes(request: Request, train: bool = False) -> str | None:
    """Returns the split of images with classes that is judged or learned from.

    Args:
        request: what is asked for.
        train: whether the split that is learned from is wanted.

    Returns:
        str, or None for a folder of classes that has no splits.

    Raises:
        InputError: where there is none to learn from.
    """
    name, given = request.data, request.train_split if train else request.split
    if given is not None:
        return given
    if name == "stamps":
        return "train" if train else "test"
    if is_class_folder(name):
        if (pathlib.Path(name) / "train").is_dir():
            return "train" if train else "test"
        if train:
            raise InputError(
                f"data must have the folders train and test, received {name}, which "
                "has not; what learns does so from train, or from `train_split`."
            )
        return None
    test, learn = TFDS_SPLITS.get(tfds_name(name), _USUAL)
    if train and learn is None:
        raise InputError(
            f"train_split must be given for {name}, which has none; judge what learns "
            "on imagenet2012."
        )
    return learn if train else test


def unusual_splits(request: Request) -> dict[str, str]:
    """Returns the splits of which the paper's figures aren't.

    Returns:
        `"split"` where another than the usual one is judged, and `"train_split"`
        where it was given.
    """
    usual, _ = TFDS_SPLITS.get(tfds_name(request.data), _USUAL)
    found = {"split": request.split} if request.split not in (None, usual) else {}
    if request.train_split is not None:
        # Even train: a set's protocols don't all learn from the same split.
        found["train_split"] = request.train_split
    return found


def check_splits_are_apart(request: Request) -> None:
    """Raises where images with classes are both learned from and judged."""
    train, test = (split_of_classes(request, train) for train in (True, False))
    if request.data == "stamps":
        overlap = train == test or "all" in (train, test)
    elif is_class_folder(request.data):
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


def check_same_classes(train, test) -> None:
    """Raises unless two splits, `LabelledImages`, have the same classes."""
    if train.class_names != test.class_names:
        raise InputError(
            "data must have the same classes in both splits, received "
            f"{len(train.class_names)} in training and {len(test.class_names)} in the "
            "test; add the missing folders or rename them."
        )
