"""Images of prepared TFDS data sets: classification, stamps and stored corpora."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.benchmarks.labeled_images import LabeledImages
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# TFDS is imported by the functions that use it, so that other readers work without it.
if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Class names for stamp folders whose names aren't words.
_NAMES = {"naturalforces": "natural forces"}
# Matches NAME or NAME/CONFIGURATION, optionally with a version.
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\d.*]+)?")
# Features that can identify an image. The first one in a data set is used.
_IDS = ("file_name", "filename", "image/file_name", "image/filename", "id", "image_id")


def stamps_by_category(builder: Any, split: str = "all") -> LabeledImages:
    """Returns the stamps with their categories as classes, such as animals or food.

    Args:
        builder: prepared builder of the corpus stamps.
        split: `"train"` or `"test"` for one half of the images, chosen by a hash of
            their pixels, or `"all"` for both halves.

    Returns:
        `LabeledImages`.

    Raises:
        InputError: If the split is unknown.
    """
    from align_keras.datasets.splits import hashed_test_keys

    check_choice("The split of stamps", split, ("train", "test", "all"))
    images = read_stored_images(builder, "test")
    categories = sorted({image.category for image in images})
    test = hashed_test_keys({image.image_key for image in images}, fraction=0.5)
    if split != "all":
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
    """Returns an iterable over the examples of a split in the stored order."""
    import tensorflow_datasets as tfds

    from align_keras.datasets.array_records import stored_examples

    return tfds.as_numpy(stored_examples(builder, split, decoders))


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """Encoded image of a corpus.

    Attributes:
        image: the encoded image.
        image_key: equal for images with equal pixels.
    """

    id: str
    image: bytes
    captions: tuple
    category: str
    image_key: str


def read_stored_images(builder: Any, split: str) -> list[StoredImage]:
    """Reads a split of a prepared corpus, in the stored order."""
    import tensorflow_datasets as tfds

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


def prepared_builder(name: str) -> "tfds.core.DatasetBuilder":
    """Opens a data set that TFDS has prepared. Never downloads or prepares it.

    Args:
        name: for example `"imagenet_v2/matched-frequency"`.

    Returns:
        `tfds.core.DatasetBuilder`.

    Raises:
        InputError: If TFDS doesn't have the data set, or it isn't prepared. The message
            contains the command that prepares it.
    """
    import tensorflow_datasets as tfds

    unknown = InputError(
        "--data must be a data set of TFDS or a folder of classes. Received: "
        f"{name!r}, which is neither. Check the spelling."
    )
    # TFDS would look up any other name over the network, or read it as a path.
    if not _NAME.fullmatch(name):
        raise unknown
    try:
        builder = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        raise unknown from None
    except ValueError as error:
        set_name = name.partition("/")[0].partition(":")[0]
        configs = ", ".join(tfds.builder_cls(set_name).builder_configs) or "none"
        raise InputError(
            f"--data must name a configuration and a version of {set_name}. Received: "
            f"{name!r}. The configurations are {configs}."
        ) from error
    if not builder.data_path.exists():
        raise InputError(
            f"Data set {name} isn't prepared in {builder.data_path.parent}. "
            f"{_remedy(builder)}."
        )
    return builder


def _remedy(builder: Any) -> str:
    """Returns the remedy for a data set that is not prepared, without a period."""
    config = builder.builder_config
    full_name = builder.name + (f"/{config.name}" if config else "")
    instructions = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    command = f"tfds build {full_name}"
    if not instructions:
        return f"Run {command}, or set TFDS_DATA_DIR to its folder"
    return (
        "Download its files by hand into downloads/manual of the TFDS data folder "
        f"({instructions.rstrip('.')}). Then run {command}, or set TFDS_DATA_DIR to "
        "its folder"
    )


def read_tfds_classification(name: str, split: str) -> LabeledImages:
    """Reads a split of a classification data set that TFDS has prepared.

    Other features with named values become columns.

    Args:
        name: for example `"imagenet_v2/matched-frequency"`.
        split: for example `"test[:10%]"`.

    Returns:
        `LabeledImages`. The images are read from disk in each iteration. The ids are
        the values of a feature such as `file_name`, if they are distinct.

    Raises:
        InputError: If the data set isn't prepared, has no classes, or the split has no
            labeled images.
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(name)
    image, label = _image_and_class(builder)
    features = dict(builder.info.features.items())
    class_features = {
        key: feature
        for key, feature in features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    _split_info(builder, split)
    texts = [key for key in _IDS if isinstance(features.get(key), tfds.features.Text)]
    id_feature = texts[0] if texts else None
    keys = [*class_features, id_feature] if id_feature else [*class_features]
    decoding = tfds.decode.PartialDecoding(dict.fromkeys(keys, True))
    values_by_key: dict[str, list[int]] = {key: [] for key in class_features}
    ids: list[str] = []
    for example in read_examples(builder, split, decoding):
        for key, values in values_by_key.items():
            values.append(example[key])
        if id_feature:
            ids.append(example[id_feature].decode("utf-8", "backslashreplace"))
    columns = {key: np.array(values, np.int64) for key, values in values_by_key.items()}
    labels = columns.pop(label)
    if not len(labels) or labels.min() < 0:
        raise InputError(
            f"The split {split} of {name} must have images with a class. Received: "
            f"{len(labels)} images, {np.count_nonzero(labels < 0)} of them without a "
            "class. Use another split."
        )
    return LabeledImages(
        images=StoredImages(builder, split, image, len(labels)),
        labels=labels,
        class_names=[
            readable_name(class_name) for class_name in class_features[label].names
        ],
        columns={
            # TFDS stores -1 for an unknown value.
            key: [["unknown", *class_features[key].names][row + 1] for row in rows]
            for key, rows in columns.items()
        },
        image_ids=ids if ids and len(set(ids)) == len(ids) else None,
    )


def tfds_splits_overlap(builder: Any, first: str, second: str) -> bool:
    """Returns True if two splits of a prepared builder share an example."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for file in _split_info(builder, second).file_instructions:
        parts.setdefault(file.filename, []).append((file.skip, file.skip + file.take))
    return any(
        start < file.skip + file.take and file.skip < end
        for file in _split_info(builder, first).file_instructions
        for start, end in parts.get(file.filename, ())
    )


def _split_info(builder: Any, split: str) -> Any:
    """Returns the split of a builder. Raises `InputError` if it doesn't exist."""
    try:
        return builder.info.splits[split]
    except (KeyError, ValueError):
        raise InputError(
            f"The split of {builder.name} must be one of "
            f"{', '.join(sorted(builder.info.splits))}, or a part such as test[:10%]. "
            f"Received: {split!r}. Use an existing split."
        ) from None


def _image_and_class(builder: Any) -> tuple[str, str]:
    """Returns the names of the features that contain the image and its class."""
    import tensorflow_datasets as tfds

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
            "--data must have images with one class each. Received: "
            f"{builder.name} with {', '.join(sorted(features))}. Use a classification "
            "data set."
        )
    return image, label


class StoredImages:
    """Encoded images of a split, which can be iterated over several times.

    Args:
        builder: prepared TFDS builder.
        split: for example `"test[:10%]"`.
        name: feature of the image.
        length: number of images.
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
        import tensorflow_datasets as tfds

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
