"""TFDS builder for a corpus of `align-keras corpus`, and the files of its shards."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from align_keras.corpus.shard_folder import INDEX, SHARDS
from align_keras.datasets.pair_builder import LocalBuilder, quiet
from align_keras.datasets.splits import is_test_key
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

_LISTS = ("captions", "rules", "languages", "page_urls", "sources")


class WebPairs(LocalBuilder, skip_registration=True):
    """Images with all their captions and the origins of images and captions.

    `align-keras corpus` writes the data set. `tfds.builder_from_directory` opens it
    without this class. The lists of an example have one entry for each caption. `width`
    and `height` are the size of the original image.

    Args:
        images: callable that returns an iterator over the examples, as dicts.
        description: description of the data set.
        notes: metadata of the data set.
        test_fraction: in [0, 1], fraction of the images in the `test` split.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def __init__(
        self,
        *,
        images: Callable[[], Iterator[dict]],
        description: str,
        notes: dict,
        test_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._images = images
        self._description = description
        self._notes = notes
        self._test_fraction = test_fraction
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_key": text,
            # All corpora have the same features. This feature is always empty, because
            # web pages have no categories.
            "category": text,
            "width": tfds.features.Scalar(np.int32),
            "height": tfds.features.Scalar(np.int32),
            "location": text,
        }
        features |= {name: tfds.features.Sequence(text) for name in _LISTS}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._notes),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # The corpus needs no download.
        splits = {"train": self._generate_examples(test=False)}
        if self._test_fraction:
            splits["test"] = self._generate_examples(test=True)
        return splits

    def _generate_examples(self, test: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        for image in self._images():
            if is_test_key(image["image_key"], self._test_fraction) == test:
                yield image["id"], {**image, "category": ""}

    def _example_writer(self) -> Any:
        return _EqualBytesWriter(self.info.file_format)


class _EqualBytesWriter(writer.ExampleWriter):
    """Writer that sorts the features, so that equal examples have equal bytes."""

    def write(self, path: Any, examples: Any) -> Any:
        def sort_features(serialized: bytes) -> bytes:
            example = tf_example_pb2.Example.FromString(serialized)
            return example.SerializeToString(deterministic=True)

        return super().write(path, ((key, sort_features(row)) for key, row in examples))


def write_web_pairs(
    folder: pathlib.Path,
    images: Callable[[], Iterator[dict]],
    config: Any,
    *,
    notes: dict,
) -> dict[str, Any]:
    """Writes the shards of a corpus and their `index.json`.

    Args:
        folder: folder of the corpus.
        images: callable that returns an iterator over the examples, as dicts.
        config: `ShardsConfig`.
        notes: metadata of the data set.

    Returns:
        dict with the number of images, in total and by split.

    Raises:
        InputError: If there are no images.
    """
    shutil.rmtree((folder / SHARDS).parent, ignore_errors=True)
    if next(images(), None) is None:
        raise InputError(
            "The corpus must not be empty, but no image passed all filters. Run "
            "`align-keras corpus report` to see the filter that dropped most images, "
            "and change its thresholds in --config."
        )
    with quiet():
        builder = WebPairs(
            images=images,
            description="Image-text pairs built by align-keras corpus.",
            notes=notes,
            test_fraction=config.test_fraction,
            data_dir=str(folder),
            file_format=config.file_format,
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                num_shards=config.number_of_shards
            )
        )
    splits = {name: split.num_examples for name, split in builder.info.splits.items()}
    counts = {"images": sum(splits.values()), "splits": splits}
    with atomic_write(folder / SHARDS / INDEX) as file:
        json.dump({**counts, "shards": _shards(builder)}, file, indent=1)
    return counts


def _shards(builder: Any) -> list[dict[str, Any]]:
    """Returns the entries of `index.json`, one for each file."""
    files = []
    for split, info in sorted(builder.info.splits.items()):
        for path, count in zip(info.filepaths, info.shard_lengths, strict=True):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(
                {
                    "file": os.path.basename(path),
                    "split": split,
                    "images": count,
                    "bytes": os.path.getsize(path),
                    "sha256": digest,
                }
            )
    return files
