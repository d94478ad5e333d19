"""A corpus of noise, in as many files as a test wants."""

import numpy as np
import tensorflow_datasets as tfds


class Noise(tfds.core.GeneratorBasedBuilder):
    """24 pictures a copy, of noise, with one to three captions."""

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

    Further arguments are those of `Noise`, such as `file_format`.
    """
    builder = Noise(data_dir=str(folder), **arguments)
    config = tfds.download.DownloadConfig(num_shards=num_shards)
    builder.download_and_prepare(download_config=config)
    return builder
