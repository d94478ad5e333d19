"""Any classification set of TFDS that is prepared on disk."""

import re

import numpy as np

from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.benchmarks.labelled_images import LabelledImages
from align_keras.utils.errors import InputError

# NAME, NAME/CONFIGURATION or either with a version.
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\d.*]+)?")
# Features that name a picture, in the order of choice.
_IDS = ("file_name", "filename", "image/file_name", "image/filename", "id", "image_id")


def prepared_builder(name, data_dir=None):
    """Opens a TFDS data set that is prepared; downloads and prepares nothing.

    Args:
        name: str, such as `"food101"` or `"imagenet_v2/matched-frequency"`.
        data_dir: str or path where prepared sets lie; TFDS's own default (the
            variable `TFDS_DATA_DIR`, or `~/tensorflow_datasets`) otherwise.

    Returns:
        `tfds.core.DatasetBuilder`.

    Raises:
        InputError: for an unknown name, and one that isn't prepared; says how to
            prepare it.

    Example:

    ```python
    prepared_builder("food101").info.splits
    ```
    """
    import tensorflow_datasets as tfds  # Late, for it takes seconds.

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
        own = name.partition("/")[0].partition(":")[0]
        configs = ", ".join(tfds.builder_cls(own).builder_configs) or "none"
        raise InputError(
            f"--data must have a configuration and a version that {own} has, received "
            f"{name!r}; its configurations are {configs}."
        ) from error
    if not builder.data_path.exists():
        raise InputError(
            f"{name} isn't prepared in {builder.data_path.parent}; {_remedy(builder)}."
        )
    return builder


def _remedy(builder):
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


def read_tfds_classification(name, split, data_dir=None):
    """Reads a split of a prepared TFDS classification set.

    Args:
        name: str, as `prepared_builder`.
        split: str, as TFDS takes it: `"test"`, `"train[:10%]"`.
        data_dir: str or path, as `prepared_builder`.

    Returns:
        `LabelledImages`. The pictures are read from disk at each iteration, so
        that the set may be larger than memory. Other features with named values
        become columns. The ids are those of a feature such as `file_name` or `id`;
        where there is none, or two pictures share a name, the row in the split.

    Raises:
        InputError: as `prepared_builder`; for an unknown split, a set without
            pictures or without classes, and pictures without a class.

    Example:

    ```python
    data = read_tfds_classification("food101", "validation")
    len(data.images), data.class_names[:2]  # (25250, ['apple pie', 'baby back ribs'])
    ```
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(name, data_dir)
    image, label = _picture_and_class(builder)
    named = {
        key: feature
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    _split_info(builder, split)
    features = dict(builder.info.features.items())
    naming = next((key for key in _IDS if _is_text(features.get(key))), None)
    wanted = [*named, naming] if naming else [*named]
    wanted = tfds.decode.PartialDecoding(dict.fromkeys(wanted, True))
    values, ids = {key: [] for key in named}, []
    for example in _Examples(builder, split, wanted):
        for key, of_key in values.items():
            of_key.append(example[key])
        if naming:
            ids.append(example[naming].decode("utf-8", "backslashreplace"))
    values = {key: np.array(of_key, np.int64) for key, of_key in values.items()}
    labels = values.pop(label)
    if not len(labels) or labels.min() < 0:
        raise InputError(
            f"the split {split} of {name} must hold pictures with a class, received "
            f"{len(labels)} pictures, {np.count_nonzero(labels < 0)} of them without "
            "one; name another split."
        )
    only_image = tfds.decode.PartialDecoding(
        {image: True}, decoders={image: tfds.decode.SkipDecoding()}
    )
    return LabelledImages(
        images=_Pictures(_Examples(builder, split, only_image), image, len(labels)),
        labels=labels,
        class_names=[readable_name(own) for own in named[label].names],
        columns={
            # An unknown value is -1 in TFDS.
            key: [["unknown", *named[key].names][row + 1] for row in rows]
            for key, rows in values.items()
        },
        image_ids=ids if ids and len(set(ids)) == len(ids) else None,
    )


def tfds_splits_overlap(builder, one, other):
    """Whether two splits have an example in common.

    Args:
        builder: `tfds.core.DatasetBuilder`, prepared.
        one: str, a split as TFDS takes it: `"train"`, `"train[:10%]+test"`.
        other: str, likewise.

    Returns:
        bool.

    Raises:
        InputError: for an unknown split.

    Example:

    ```python
    builder = prepared_builder("food101")
    tfds_splits_overlap(builder, "train[:50%]", "train")  # True
    ```
    """
    parts = {}
    for own in _split_info(builder, other).file_instructions:
        parts.setdefault(own.filename, []).append((own.skip, own.skip + own.take))
    return any(
        start < own.skip + own.take and own.skip < end
        for own in _split_info(builder, one).file_instructions
        for start, end in parts.get(own.filename, ())
    )


def _split_info(builder, split):
    try:
        return builder.info.splits[split]
    except (KeyError, ValueError):
        raise InputError(
            f"the split must be one of {', '.join(sorted(builder.info.splits))}, which "
            f"{builder.name} has, or a part such as test[:10%], received {split!r}; "
            "name another."
        ) from None


def _is_text(feature):
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Text)


def _picture_and_class(builder):
    """Names of the features that are the picture and its class."""
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
            f"--data must hold pictures with one class each, received {builder.name} "
            f"with {', '.join(sorted(features))}; choose a classification set."
        )
    return image, label


class _Examples:
    """A split's examples in the stored order, as often as they are asked for."""

    def __init__(self, builder, split, decoders):
        self._builder, self._split, self._decoders = builder, split, decoders

    def __iter__(self):
        import tensorflow_datasets as tfds

        dataset = self._builder.as_dataset(
            split=self._split,
            shuffle_files=False,
            decoders=self._decoders,
            read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
        )
        return iter(tfds.as_numpy(dataset))


class _Pictures:
    """The encoded pictures of examples.

    Args:
        examples: re-iterable of dicts.
        key: str, the feature.
        length: int.
    """

    def __init__(self, examples, key, length):
        self._examples, self._key, self._length = examples, key, length

    def __len__(self):
        return self._length

    def __iter__(self):
        for example in self._examples:
            yield example[self._key]
