"""Corpus of noise images for the tests of the input pipeline, and its batches."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_keras.data import training_batches
from align_keras.models import ALIGNImageConverter, ALIGNPreprocessor, ALIGNTokenizer
from tests.helpers.small import VOCABULARY


class Noise(tfds.core.GeneratorBasedBuilder):
    """Builder of noise images with one to three captions, 24 images per copy."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, copies=1, first_word="", **kwargs):
        self.copies, self.first_word = copies, first_word
        super().__init__(**kwargs)

    def _info(self):
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
            "category": text,
            "image_key": text,
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        random = np.random.default_rng(0)
        for number in range(24 * self.copies):
            row = number % 24
            name = f"{self.first_word}{chr(97 + row)}"
            yield (
                number,
                {
                    "id": f"noise/{number}",
                    "image": random.integers(0, 256, (30, 40, 3)).astype("uint8"),
                    "captions": [f"{name} {n}" for n in "xyz"[: row % 3 + 1]],
                    "category": "noise",
                    "image_key": str(number),
                },
            )


def build_noise(folder, num_shards=1, **arguments):
    """Builds the corpus in `folder`, in `num_shards` files.

    `arguments` are those of `Noise`, such as `file_format`.
    """
    builder = Noise(data_dir=str(folder), **arguments)
    config = tfds.download.DownloadConfig(num_shards=num_shards)
    builder.download_and_prepare(download_config=config)
    return builder


def preprocessor(image_size=32, **options):
    """Returns a preprocessor whose image converter has these options."""
    return ALIGNPreprocessor(
        ALIGNTokenizer(VOCABULARY, sequence_length=6),
        ALIGNImageConverter(image_size, **options),
    )


def batches(
    builder,
    count,
    crop="random",
    flip=True,
    zoom=0.1,
    shift=0.0,
    recolor=0.0,
    **arguments,
):
    """Returns the first batches of an experiment with these options."""
    options = {"zoom": zoom, "shift": shift, "recolor": recolor}
    dataset = training_batches(
        builder,
        "train",
        preprocessor(crop=crop, flip=flip, **options),
        **{"batch_size": 8, **arguments},
    )
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(expected, actual):
    assert len(expected) == len(actual) > 0
    for expected_batch, batch in zip(expected, actual, strict=True):
        assert set(expected_batch) == set(batch)
        for name, values in expected_batch.items():
            np.testing.assert_array_equal(batch[name], values)


KINDS = {
    "cropped": {"zoom": 0.0},
    "augmented": {"recolor": 1.0},
    "cached": {"recolor": 1.0, "cache": True},
}
# The default tier tests only "cached", which runs most of the pipeline.
kinds = pytest.mark.parametrize(
    "kind",
    [
        "cached",
        pytest.param("cropped", marks=pytest.mark.ci),
        pytest.param("augmented", marks=pytest.mark.release),
    ],
)
