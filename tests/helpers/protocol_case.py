"""Tests that each evaluation protocol must pass."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image, ImageColor

import align_keras
from align_keras.embedders import Embedder
from align_keras.protocols.paper_results import paper_results
from align_keras.protocols.protocol import OPTIONS
from align_keras.protocols.run_protocol import PROTOCOLS
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import COLORS


class ColorModel(Embedder):
    """Model in memory that knows the images and the words of `small_benchmarks`.

    The embedding of an image is the color that differs most from white, and that of a
    text is the first color that it names.
    """

    name = "colors"
    runtime = "keras"
    in_memory = True
    dimension = len(COLORS) + 1
    fingerprint = image_fingerprint = text_fingerprint = "colors"

    def encode_images(self, images):
        return np.stack([self.image_vector(image) for image in images])

    def encode_texts(self, texts):
        return np.stack([self.text_vector(text) for text in texts])

    def encode_resized(self, images):
        raise NotImplementedError("protocols embed images in their original size")

    def image_vector(self, image):
        file = io.BytesIO(image) if isinstance(image, bytes) else image
        pixels = np.asarray(Image.open(file).convert("RGB"), int)
        color = np.median(pixels[5:11, 5:35].reshape(-1, 3), axis=0)
        palette = np.array([ImageColor.getrgb(name) for name in COLORS])
        return self._one_hot(np.abs(palette - color).sum(axis=1).argmin())

    def text_vector(self, text):
        words = text.lower().split()
        colors = [COLORS.index(word) for word in words if word in COLORS]
        return self._one_hot(colors[0] if colors else len(COLORS))

    def _one_hot(self, row):
        return np.eye(self.dimension, dtype=np.float32)[row]


class CollapsedModel(ColorModel):
    """Model with the same embedding for all images and texts."""

    fingerprint = image_fingerprint = text_fingerprint = "collapsed"

    def encode_images(self, images):
        return np.tile(self._one_hot(0), (len(images), 1))

    encode_texts = encode_images


class ForgetfulModel(ColorModel):
    """Model with the fingerprint of `ColorModel` that must not embed anything."""

    def encode_images(self, images):
        raise AssertionError(f"{len(images)} items are embedded again")

    encode_texts = encode_images


class ProtocolCase:
    """Base class for the tests of a protocol.

    A subclass writes a small benchmark that a perfect model solves. A test that makes
    no sense for the protocol is set to None.

    Attributes:
        protocol: name of the protocol.
        perfect: metrics of a perfect model.
        collapsed: metrics of a model with equal embeddings.
        column: column of the slices, or None for none.
        groups: values of the column.
        wrong_data: value of `data` that the protocol refuses.
        perfect_model: class of the model that solves the benchmark.
        collapsed_model: class of a model with equal embeddings.
        forgetful_model: class of a model that must not compute anything.

    Example:

    ```python
    class TestKnn(ProtocolCase):
        protocol = "knn"
        perfect = {"knn/recall_at_1": 1.0}
        collapsed = {"knn/recall_at_1": 1 / 8}
        column = "class"
        groups = COLORS

        def write(self, folder):
            for row, color in enumerate(COLORS):
                write_image(folder / "train" / color / "0.png", row)
                write_image(folder / "test" / color / "1.png", row)
            return {"data": str(folder)}
    ```
    """

    protocol = ""
    perfect: dict = {}
    collapsed: dict = {}
    column = ""
    groups: tuple | list = ()
    wrong_data = "nowhere"
    perfect_model = ColorModel
    collapsed_model = CollapsedModel
    forgetful_model = ForgetfulModel

    def write(self, folder):
        """Writes the data to a folder. Returns the options of `evaluate`."""
        raise NotImplementedError

    def patch(self, monkeypatch):
        """Replaces what a small benchmark doesn't have, such as its documented size."""

    @pytest.fixture(scope="class")
    @classmethod
    def evaluate(cls, tmp_path_factory):
        """Function from a model and options to the result of the protocol."""
        case = cls()
        folder = tmp_path_factory.mktemp(cls.protocol)
        options = {"slice_by": cls.column, **case.write(folder)}
        with pytest.MonkeyPatch.context() as monkeypatch:
            case.patch(monkeypatch)

            def run(model, **changes):
                arguments = options | changes
                cache = folder / "cache"
                return align_keras.evaluate(
                    model, cls.protocol, cache=cache, **arguments
                )

            yield run

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, tmp_path_factory):
        return tmp_path_factory.mktemp("page") / "page.html"

    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, evaluate, page):
        return evaluate(cls.perfect_model(), html=page)

    def test_a_perfect_model_has_the_best_metrics(self, result):
        metrics = {name: result["metrics"][name] for name in self.perfect}
        assert metrics == pytest.approx(self.perfect)

    def test_a_collapsed_model_has_the_worst_metrics(self, evaluate):
        result = evaluate(self.collapsed_model())
        metrics = {name: result["metrics"][name] for name in self.collapsed}
        assert metrics == pytest.approx(self.collapsed, abs=1e-6)

    def test_all_metrics_are_finite_numbers_for_json(self, result):
        assert json.loads(json.dumps(result)) == result
        assert all(map(math.isfinite, result["metrics"].values()))

    def test_the_paper_publishes_metrics_of_these_names(self, result):
        published = {
            figure.metric
            for figure in paper_results()
            if figure.protocol == self.protocol
        }
        assert published <= set(result["metrics"])

    def test_a_second_evaluation_computes_nothing(self, evaluate, result):
        again = evaluate(self.forgetful_model())
        assert again["metrics"] == result["metrics"]

    def test_each_group_of_a_column_has_metrics_with_intervals(self, result):
        slices = result["slices"]
        groups = {
            name.partition("[")[2].rstrip("]") for name in slices if name[-1] == "]"
        }
        assert groups == set(self.groups)
        for name in self.perfect:
            for group in self.groups:
                key = f"{name}[{group}]"
                if key in slices:
                    assert slices[f"{key}/low"] <= slices[key] <= slices[f"{key}/high"]

    def test_an_unknown_column_is_refused_before_images_are_embedded(self, evaluate):
        with pytest.raises(InputError, match="slice_by"):
            evaluate(self.forgetful_model(), slice_by="size")

    def test_unknown_data_are_refused(self, evaluate):
        with pytest.raises((InputError, OSError), match=self.wrong_data):
            evaluate(self.forgetful_model(), data=self.wrong_data)

    def test_options_of_other_protocols_are_refused(self, evaluate):
        protocol = PROTOCOLS[self.protocol]
        option = next(name for name in OPTIONS if not protocol.takes(name))
        with pytest.raises(InputError, match=option):
            evaluate(self.forgetful_model(), **{option: "x"})

    def test_the_page_names_the_protocol(self, result, page):
        assert self.protocol in page.read_text()
