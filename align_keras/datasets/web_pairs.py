"""A corpus built from the web as a TFDS builder."""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from align_keras.datasets.splits import is_test_key

_LISTS = ("captions", "rules", "languages", "page_urls", "sources")


class WebPairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures with all their captions, and where both came from.

    Made by `align-keras corpus`; what it wrote is opened by
    `tfds.builder_from_directory` and `tfds.load` without this class. An example is
    `{"id", "image", "image_key", "category", "width", "height", "location",
    "captions", "rules", "languages", "page_urls", "sources"}`, where the lists have
    one entry a caption; `width` and `height` are those of the picture as it came.

    Args:
        pictures: callable that returns an iterator of such dict, without `category`,
            the same each time.
        description: str.
        notes: dict, JSON-ready, for `info.metadata`.
        test_fraction: float in [0, 1), pictures that make the split `test`.
        **kwargs: for `tfds.core.GeneratorBasedBuilder`, such as `data_dir` and
            `file_format`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # TFDS looks here for checksums of downloads, of which there are none.
    code_path = None

    def __init__(self, *, pictures, description, notes, test_fraction=0.0, **kwargs):
        self._pictures = pictures
        self._description = description
        self._notes = notes
        self._test_fraction = test_fraction
        super().__init__(**kwargs)

    def _info(self):
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_key": text,
            # As the other corpora have it; the web knows none.
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

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        splits = {"train": self._generate_examples(test=False)}
        if self._test_fraction:
            splits["test"] = self._generate_examples(test=True)
        return splits

    def _generate_examples(self, test):
        for picture in self._pictures():
            if is_test_key(picture["image_key"], self._test_fraction) == test:
                yield picture["id"], {**picture, "category": ""}

    def _example_writer(self):
        return _EqualBytesWriter(self.info.file_format)

    # TFDS prints these two on stdout, which belongs to results.

    def _log_download_bytes(self):
        pass

    def _log_download_done(self):
        pass


class _EqualBytesWriter(writer.ExampleWriter):
    """Writes equal examples as equal bytes.

    The features of an example are a map, whose order in a file is left to chance.
    """

    def write(self, path, examples):
        return super().write(path, ((key, _in_order(own)) for key, own in examples))


def _in_order(serialized):
    example = tf_example_pb2.Example.FromString(serialized)
    return example.SerializeToString(deterministic=True)
