"""Which splits an evaluation judges and learns from, and that these are apart."""

import pathlib
import re

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


def is_class_folder(name):
    """Whether `--data` names a folder of classes, not the stamps or a set of TFDS."""
    return name != "stamps" and pathlib.Path(name).is_dir()


def tfds_name(name):
    """Returns a TFDS set's name without its configuration and version.

    Example:

    >>> tfds_name("imagenet_v2/threshold-0.7:3.0.0")
    'imagenet_v2'
    """
    return re.split("[/:]", name)[0]


def split_of_classes(request, train=False):
    """Returns the split of pictures with classes that is judged or learned from.

    Args:
        request: `DataRequest`.
        train: bool, the split that is learned from.

    Returns:
        str, or None for a folder of classes that has no splits.

    Raises:
        InputError: where there is none to learn from.
    """
    name, own = request.name, request.train_split if train else request.split
    if own is not None:
        return own
    if name == "stamps":
        return "train" if train else "test"
    if is_class_folder(name):
        if (pathlib.Path(name) / "train").is_dir():
            return "train" if train else "test"
        if train:
            raise InputError(
                f"--data must have the folders train and test, received {name}, which "
                "has not; what learns does so from train, or from --train_split."
            )
        return None
    test, learn = TFDS_SPLITS.get(tfds_name(name), _USUAL)
    if train and learn is None:
        raise InputError(
            f"--train_split must be given for {name}, which has none of its own; "
            "judge what learns on imagenet2012."
        )
    return learn if train else test


def unusual_splits(request):
    """Returns the splits of which the paper's figures aren't.

    Args:
        request: `DataRequest`.

    Returns:
        dict of str: `"split"` where another than the usual one is judged, and
        `"train_split"` where it was given.
    """
    usual, _ = TFDS_SPLITS.get(tfds_name(request.name), _USUAL)
    found = {"split": request.split} if request.split not in (None, usual) else {}
    if request.train_split is not None:
        # Even train: a set's protocols don't all learn from the same split.
        found["train_split"] = request.train_split
    return found


def check_splits_are_apart(request):
    """Raises where pictures are both learned from and judged.

    Args:
        request: `DataRequest` of pictures with classes.
    """
    train, test = (split_of_classes(request, train) for train in (True, False))
    if request.name == "stamps":
        overlap = train == test or "all" in (train, test)
    elif is_class_folder(request.name):
        root = pathlib.Path(request.name)
        one, other = ((root / (own or "")).resolve() for own in (train, test))
        overlap = one.is_relative_to(other) or other.is_relative_to(one)
    else:
        from align_keras.datasets import benchmarks

        builder = benchmarks.prepared_builder(request.name)
        overlap = benchmarks.tfds_splits_overlap(builder, train, test)
    if overlap:
        raise InputError(
            "--train_split and --split must have no picture in common, received "
            f"{train} and {test or 'all'} of {request.name}; name others, or leave "
            "both out."
        )


def check_same_classes(train, test):
    """Raises unless two splits, `LabelledImages`, have the same classes."""
    if train.class_names != test.class_names:
        raise InputError(
            "--data must have the same classes in both splits, received "
            f"{len(train.class_names)} in training and {len(test.class_names)} in the "
            "test; add the missing folders or rename them."
        )
