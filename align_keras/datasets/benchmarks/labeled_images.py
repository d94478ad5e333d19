"""Images with classes: in folders, of the stamps, and in sets of TFDS."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from align_keras.corpus.pair_files import IMAGE_SUFFIXES
from align_keras.datasets.array_records import stored_examples
from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.pair_builder import hashed_test_keys
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# Folders whose names aren't words.
_NAMES = {"naturalforces": "natural forces"}
# Folders with these names are taken for splits if they hold folders of classes.
_SPLIT_NAMES = frozenset(
    ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
)
# NAME, NAME/CONFIGURATION or either with a version.
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\d.*]+)?")
# Features that name an image, in the order of choice.
_IDS = ("file_name", "filename", "image/file_name", "image/filename", "id", "image_id")


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Images, paths or bytes, with their classes, rows of `class_names`, int64.

    `images` are re-iterable with a length; `columns` have a value an image, by which
    metrics are sliced; metadata is joined by `image_ids`, the rows by default.
    """

    images: Any
    labels: np.ndarray
    class_names: list
    columns: dict = dataclasses.field(default_factory=dict)
    image_ids: list | None = None


def only_occurring_classes(data: LabeledImages) -> LabeledImages:
    """Leaves out the classes that no image has, as ImageNet-R and -A are classified.

    References:
        Hendrycks et al., ImageNet-R and ImageNet-A; Jia et al. 2021, table 4.

    Example:

    >>> data = LabeledImages(["a.png", "b.png"], np.array([2, 0]), ["x", "y", "z"])
    >>> only_occurring_classes(data).class_names
    ['x', 'z']
    """
    occurring, labels = np.unique(data.labels, return_inverse=True)
    names = [data.class_names[row] for row in occurring]
    return dataclasses.replace(data, labels=labels.reshape(-1), class_names=names)


def read_class_folders(
    folder: str | os.PathLike, split: str | None = None
) -> LabeledImages:
    """Reads `FOLDER/CLASS/IMAGE`, or `FOLDER/SPLIT/CLASS/IMAGE`, in alphabetical order.
    Classes are named as folders, with spaces for underscores; images may lie deeper.
    """
    folder = pathlib.Path(folder)
    root = folder / split if split else folder
    if not root.is_dir():
        names = [path.name for path in _subfolders(folder)] if folder.is_dir() else []
        remedy = "check the path."
        if names:
            more = ", …" if len(names) > 5 else ""
            remedy = f"{folder} has {', '.join(names[:5])}{more}."
        raise InputError(
            f"--data must be a folder of classes, received {root}, which isn't there; "
            f"{remedy}"
        )
    classes = _subfolders(root)
    if not classes:
        raise InputError(
            f"--data must hold a subfolder for each class, received {root}, which has "
            "none; put the images of each class into a folder of its own."
        )
    images: list[str] = []
    labels: list[int] = []
    for label, of_class in enumerate(classes):
        files = sorted(path for path in of_class.rglob("*") if _is_image(path, root))
        if not files:
            raise InputError(
                f"--data must hold images of every class, received {of_class} without "
                f"any ({', '.join(IMAGE_SUFFIXES)}); remove it, or name a split if "
                "it isn't a class."
            )
        images += [str(path) for path in files]
        labels += [label] * len(files)
    class_names = [readable_name(folder.name) for folder in classes]
    return LabeledImages(
        images,
        np.array(labels, np.int64),
        class_names,
        image_ids=[pathlib.Path(path).relative_to(root).as_posix() for path in images],
    )


def folders_of_splits(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Divides the subfolders of a folder into splits and others.

    A split is a folder with the name of one, such as `train` or `val`, that holds
    folders and no images, as `FOLDER/SPLIT/CLASS/IMAGE`.

    Args:
        folder: str or path.

    Returns:
        Two lists of names, of splits and of other subfolders.
    """
    splits: list[str] = []
    other_folders: list[str] = []
    for path in _subfolders(pathlib.Path(folder)):
        is_split = (
            path.name.lower() in _SPLIT_NAMES
            and bool(_subfolders(path))
            and not any(_is_image(file, path) for file in path.iterdir())
        )
        (splits if is_split else other_folders).append(path.name)
    return splits, other_folders


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."
    )


def _is_image(path: pathlib.Path, root: pathlib.Path) -> bool:
    hidden = any(part[0] == "." for part in path.relative_to(root).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()


def stamps_by_category(builder: Any, split: str | None = None) -> LabeledImages:
    """Gives the stamps their categories as classes: animals, clothes, food …. `"train"`
    and `"test"` are two halves by a hash of the pixels.
    """
    check_choice("the split of stamps", split or "all", ("train", "test", "all"))
    images = read_stored_images(builder, "test")
    categories = sorted({image.category for image in images})
    test = hashed_test_keys({image.image_key for image in images}, fraction=0.5)
    if split is not None:
        in_test = split == "test"
        images = [image for image in images if (image.image_key in test) == in_test]
    labels = [categories.index(image.category) for image in images]
    return LabeledImages(
        images=[image.image for image in images],
        labels=np.array(labels, np.int64),
        class_names=[_NAMES.get(name, name) for name in categories],
        image_ids=[image.id for image in images],
    )


def read_examples(builder: Any, split: str, decoders: Any) -> Iterable[dict]:
    """Reads a split's examples in the stored order."""
    return tfds.as_numpy(stored_examples(builder, split, decoders))


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image of a corpus, encoded; `image_key` is equal for pixel-identical ones."""

    id: str
    image: bytes
    captions: tuple
    category: str
    image_key: str


def read_stored_images(builder: Any, split: str) -> list[StoredImage]:
    """Reads a split of a prepared corpus, in the stored order."""
    _split_info(builder, split)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return [
        StoredImage(
            id=example["id"].decode(),
            image=example["image"],
            captions=tuple(caption.decode() for caption in example["captions"]),
            category=example["category"].decode(),
            image_key=example["image_key"].decode(),
        )
        for example in read_examples(builder, split, undecoded)
    ]


def prepared_builder(
    name: str, data_dir: str | os.PathLike | None = None
) -> tfds.core.DatasetBuilder:
    """Opens a prepared TFDS data set, such as `"imagenet_v2/matched-frequency"`, or
    says how to prepare it; downloads and prepares nothing.
    """
    # Other names TFDS would ask for over the network, or take for paths.
    unknown = InputError(
        f"--data must be a data set of TFDS or a folder of classes, received {name!r}, "
        "which is neither; check the spelling."
    )
    if not _NAME.fullmatch(name):
        raise unknown
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        raise unknown from None
    except ValueError as error:
        set_name = name.partition("/")[0].partition(":")[0]
        configs = ", ".join(tfds.builder_cls(set_name).builder_configs) or "none"
        raise InputError(
            f"--data must have a configuration and a version that {set_name} has, "
            f"received {name!r}; its configurations are {configs}."
        ) from error
    if not builder.data_path.exists():
        raise InputError(
            f"{name} isn't prepared in {builder.data_path.parent}; {_remedy(builder)}."
        )
    return builder


def _remedy(builder: Any) -> str:
    config = builder.builder_config
    full = builder.name + (f"/{config.name}" if config else "")
    by_hand = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    run = f"run tfds build {full}, or set TFDS_DATA_DIR to where it lies"
    if not by_hand:
        return run
    return (
        "its files must be downloaded by hand into downloads/manual of TFDS's data "
        f"folder ({by_hand.rstrip('.')}), then {run}"
    )


def read_tfds_classification(
    name: str, split: str, data_dir: str | os.PathLike | None = None
) -> LabeledImages:
    """Reads a split, as TFDS takes it, of a prepared classification set. Images are
    read from disk at each iteration. Other features with named values become columns;
    ids are those of a feature such as `file_name`, if no two images share one.
    """
    builder = prepared_builder(name, data_dir)
    image, label = _image_and_class(builder)
    features = dict(builder.info.features.items())
    named = {
        key: feature
        for key, feature in features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    _split_info(builder, split)
    texts = [key for key in _IDS if isinstance(features.get(key), tfds.features.Text)]
    naming = texts[0] if texts else None
    wanted = [*named, naming] if naming else [*named]
    decoding = tfds.decode.PartialDecoding(dict.fromkeys(wanted, True))
    read: dict[str, list[int]] = {key: [] for key in named}
    ids: list[str] = []
    for example in read_examples(builder, split, decoding):
        for key, of_key in read.items():
            of_key.append(example[key])
        if naming:
            ids.append(example[naming].decode("utf-8", "backslashreplace"))
    values = {key: np.array(of_key, np.int64) for key, of_key in read.items()}
    labels = values.pop(label)
    if not len(labels) or labels.min() < 0:
        raise InputError(
            f"the split {split} of {name} must hold images with a class, received "
            f"{len(labels)} images, {np.count_nonzero(labels < 0)} of them without "
            "one; name another split."
        )
    return LabeledImages(
        images=StoredImages(builder, split, image, len(labels)),
        labels=labels,
        class_names=[readable_name(label_name) for label_name in named[label].names],
        columns={
            # An unknown value is -1 in TFDS.
            key: [["unknown", *named[key].names][row + 1] for row in rows]
            for key, rows in values.items()
        },
        image_ids=ids if ids and len(set(ids)) == len(ids) else None,
    )


def tfds_splits_overlap(builder: Any, one: str, other: str) -> bool:
    """Tells whether two splits of a prepared builder share an example."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for file in _split_info(builder, other).file_instructions:
        parts.setdefault(file.filename, []).append((file.skip, file.skip + file.take))
    return any(
        start < file.skip + file.take and file.skip < end
        for file in _split_info(builder, one).file_instructions
        for start, end in parts.get(file.filename, ())
    )


def _split_info(builder: Any, split: str) -> Any:
    try:
        return builder.info.splits[split]
    except (KeyError, ValueError):
        raise InputError(
            f"the split must be one of {', '.join(sorted(builder.info.splits))}, which "
            f"{builder.name} has, or a part such as test[:10%], received {split!r}; "
            "name another."
        ) from None


def _image_and_class(builder: Any) -> tuple[str, str]:
    """Names of the features that are the image and its class."""
    features = dict(builder.info.features.items())
    pair = builder.info.supervised_keys
    if not (pair and len(pair) == 2 and all(isinstance(key, str) for key in pair)):
        pair = [
            next((key for key in features if isinstance(features[key], kind)), None)
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        ]
    image, label = pair
    if not isinstance(features.get(image), tfds.features.Image) or not isinstance(
        features.get(label), tfds.features.ClassLabel
    ):
        raise InputError(
            f"--data must hold images with one class each, received {builder.name} "
            f"with {', '.join(sorted(features))}; choose a classification set."
        )
    return image, label


class StoredImages:
    """Encoded images of a split, which can be iterated over several times.

    Args:
        builder: prepared TFDS builder.
        split: str, as TFDS takes it.
        name: str, feature of the image.
        length: int, number of images.
        convert: callable that is applied to each encoded image.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        name: str,
        length: int,
        convert: Callable[[bytes], bytes] = bytes,
    ) -> None:
        encoded = {name: tfds.decode.SkipDecoding()}
        decoding = tfds.decode.PartialDecoding({name: True}, encoded)
        self._source = builder, split, decoding
        self._name = name
        self._length = length
        self._convert = convert

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        examples = read_examples(*self._source)
        return (self._convert(example[self._name]) for example in examples)
