"""Runs the test harness of TFDS on the builders of the corpora.

`Mixture` isn't tested here, because it reads prepared builders and isn't a builder. The
benchmarks in `align_keras.datasets.benchmarks` read the files of their publishers
without TFDS.
"""

import hashlib
import importlib.util
import io
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import pytest
import tensorflow_datasets as tfds

from align_keras.datasets import Icons, Stamps, UserPairs, icons
from align_keras.datasets.stamps import STAMPS_DIR
from align_keras.datasets.user_pairs import user_pairs_config
from align_keras.datasets.web_pairs import WebPairs
from tests.helpers.drawings import draw

# The harness of TFDS imports dill.
pytest.importorskip("dill")

pytestmark = pytest.mark.ci

# Glyphs of each icon font.
COUNT = 12


class Harness(tfds.testing.DatasetBuilderTestCase):
    """Harness with a folder of examples, `EXAMPLE_DIR`, that a subclass writes."""

    __test__ = False
    # The builders read local packages by pathlib instead of `tf.io.gfile`.
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False
    # Environment variable with the folder that the builder reads.
    VARIABLE = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.EXAMPLE_DIR = pathlib.Path(folder.name)
        cls.write_examples(cls.EXAMPLE_DIR)

    @classmethod
    def write_examples(cls, folder):
        """Writes the raw data."""

    def setUp(self):
        super().setUp()
        if self.VARIABLE:
            folder = {self.VARIABLE: str(self.EXAMPLE_DIR)}
            self.start(mock.patch.dict(os.environ, folder))
        if hasattr(self.DATASET_CLASS, "TEST_FRACTION"):
            # The test split still has one image.
            self.start(mock.patch.object(self.DATASET_CLASS, "TEST_FRACTION", 0.0))

    def start(self, patcher):
        """Starts a patch until `tearDown`, which the harness calls twice."""
        patcher.start()
        self.patchers.append(patcher)

    def test_session(self, *arguments, **options):
        return super().test_session(*arguments, **options)

    # pytest would run this method of TensorFlow as a test.
    test_session.__test__ = False


@pytest.mark.skipif(
    not pathlib.Path(STAMPS_DIR).is_dir(), reason="needs tuxpaint-stamps-default"
)
class StampsTest(Harness):
    __test__ = True
    DATASET_CLASS = Stamps
    VARIABLE = "ALIGN_KERAS_STAMPS_DIR"
    # All languages have captions of these eleven stamps.
    SPLITS = {"test": 11}

    @classmethod
    def write_examples(cls, folder):
        for name in ("animals/mammals/cats", "food/nuts"):
            shutil.copytree(pathlib.Path(STAMPS_DIR, name), folder / name)


@pytest.mark.skipif(
    importlib.util.find_spec("qtawesome") is None, reason="needs qtawesome's fonts"
)
class IconsTest(Harness):
    __test__ = True
    DATASET_CLASS = Icons
    SPLITS = {
        "train": COUNT * len(icons.TRAIN_FAMILIES),
        "test": COUNT * len(icons.TEST_FAMILIES),
    }

    def setUp(self):
        super().setUp()
        read = icons.read_font_and_charmap

        def read_first_glyphs(folder, stem):
            font, charmap = read(folder, stem)
            return font, dict(sorted(charmap.items())[:COUNT])

        self.start(mock.patch.object(icons, "read_font_and_charmap", read_first_glyphs))


def save_drawings(folder):
    for number in range(COUNT):
        draw(number % 3, number).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"drawing {number}\nno {number}\n")


class UserPairsTest(Harness):
    __test__ = True
    DATASET_CLASS = UserPairs
    SPLITS = {"train": COUNT - 1, "test": 1}
    # The builder isn't registered, because it needs the configuration of a table or
    # folder.
    test_registered = None

    @classmethod
    def write_examples(cls, folder):
        save_drawings(folder)

    def _make_builder(self, config=None):
        return super()._make_builder(config or user_pairs_config(self.EXAMPLE_DIR))


def web_images():
    for number in range(COUNT):
        image = draw(number % 3, number)
        file = io.BytesIO()
        image.save(file, "JPEG")
        width, height = image.size
        yield {
            "id": f"{number:03}",
            "image": file.getvalue(),
            "image_key": hashlib.sha256(bytes([number])).hexdigest()[:32],
            "width": width,
            "height": height,
            "location": f"/{number}.png",
            "captions": [f"drawing {number}", f"no {number}"],
            "rules": ["alt", "title"],
            "languages": ["en", "en"],
            "page_urls": ["https://example.org/"] * 2,
            "sources": ["html", "html"],
        }


class WebPairsTest(Harness):
    __test__ = True
    DATASET_CLASS = WebPairs
    TEST_IMAGES = sum(image["image_key"] < "8" for image in web_images())
    SPLITS = {"train": COUNT - TEST_IMAGES, "test": TEST_IMAGES}
    # The builder isn't registered, because it needs the images of a corpus.
    test_registered = None

    def _make_builder(self, config=None):
        return WebPairs(
            images=web_images,
            description="Drawings.",
            notes={"config": {}},
            test_fraction=0.5,
            data_dir=self.tmp_dir,
            config=config,
        )
