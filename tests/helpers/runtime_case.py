"""Tests that each runtime of `align_keras.load_model` must pass."""

import concurrent.futures
import io

import numpy as np
import pytest
from PIL import Image

from align_keras import load_model
from align_keras.utils.errors import InputError
from tests.helpers.exports import TEXTS, export_folder, exported_align


class RuntimeCase:
    """Base class for the tests of a runtime.

    The runtime opens an export of a small model, or the model itself. The embeddings of
    Keras are the reference.

    Attributes:
        format: format of `align_keras.export_model`, or `"keras"` for the model itself.
        options: arguments of `align_keras.export_model`.
        runtime: argument `runtime` of `load_model`.
        tolerance: largest difference of two components of embeddings.
        shares_texts: True if Keras embeds the texts.

    Example:

    ```python
    @pytest.mark.ci
    @needs("tf2onnx", "onnxruntime")
    class TestONNX(RuntimeCase):
        format = "onnx"
        runtime = "onnx"
    ```
    """

    format = "keras"
    options: dict = {}
    runtime = "auto"
    tolerance = 1e-5
    shares_texts = False

    @classmethod
    def open(cls):
        """Returns the embedder."""
        return load_model(export_folder(cls.format, **cls.options), cls.runtime)

    @pytest.fixture(scope="class")
    @classmethod
    def embedder(cls):
        return cls.open()

    @pytest.fixture(scope="class")
    @classmethod
    def keras(cls):
        return load_model(exported_align())

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls):
        """Images that no runtime resizes, because their resizers differ slightly."""
        random = np.random.default_rng(0)
        return list(random.integers(0, 256, (7, 38, 38, 3), np.uint8))

    def test_images_have_the_embeddings_of_keras(self, embedder, keras, images):
        expected = keras.encode_resized(images)
        # The comparison would prove nothing if all embeddings were equal.
        assert np.abs(expected - expected[:1]).max() > 0.01
        for count in (0, 1, 7):
            embeddings = embedder.encode_images(images[:count])
            assert embeddings.dtype == np.float32
            assert embeddings.shape == (count, keras.dimension)
            np.testing.assert_allclose(
                embeddings, expected[:count], rtol=0, atol=self.tolerance
            )
        resized = embedder.encode_resized(images)
        np.testing.assert_allclose(resized, expected, rtol=0, atol=self.tolerance)

    def test_images_can_be_paths_bytes_and_arrays(self, embedder, images, tmp_path):
        file = io.BytesIO()
        Image.fromarray(images[0]).save(file, "png")
        path = tmp_path / "image.png"
        path.write_bytes(file.getvalue())
        forms = [images[0], file.getvalue(), path, str(path)]
        embeddings = embedder.encode_images([*forms, images[1]])
        np.testing.assert_allclose(embeddings[1:4], embeddings[[0] * 3], atol=1e-6)
        assert np.abs(embeddings[4] - embeddings[0]).max() > 0.01

    def test_texts_have_the_embeddings_of_keras(self, embedder, keras):
        embeddings = embedder.encode_texts(TEXTS)
        assert embeddings.dtype == np.float32
        expected = keras.encode_texts(TEXTS)
        assert np.abs(expected - expected[:1]).max() > 0.01
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)
        assert embedder.encode_texts([]).shape == (0, keras.dimension)
        assert embedder.count_tokens(TEXTS) == keras.count_tokens(TEXTS)

    def test_unclear_and_long_texts_are_embedded(self, embedder):
        np.testing.assert_array_equal(
            embedder.encode_texts(["\ud800 red", "red " * 100_000]),
            embedder.encode_texts(["? red", "red " * 100]),
        )

    def test_threads_get_the_same_embeddings(self, embedder, images):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            rows = list(pool.map(embedder.encode_images, [images[:3]] * 6))
        for embeddings in rows:
            np.testing.assert_allclose(embeddings, rows[0], rtol=0, atol=1e-6)

    def test_the_description_is_that_of_the_model(self, embedder, keras):
        assert embedder.image_size == keras.image_size
        assert embedder.resize_to == keras.resize_to
        assert embedder.dimension == keras.dimension

    def test_the_reference_opens_the_same_model(self, embedder):
        reference = embedder.reference()
        name, fingerprint = reference.pop("name"), reference.pop("fingerprint")
        assert load_model(name, **reference).fingerprint == fingerprint

    def test_only_keras_embeds_words(self, embedder):
        if embedder.align is not None:
            assert embedder.encode_words(["red"]).shape == (1, 16)
            return
        with pytest.raises(InputError, match="model"):
            embedder.encode_words(["red"])

    def test_caches_do_not_mix_runtimes(self, embedder, keras):
        is_keras = embedder.runtime == "keras"
        is_equal = embedder.image_fingerprint == keras.image_fingerprint
        assert is_equal == is_keras
        is_equal = embedder.text_fingerprint == keras.text_fingerprint
        assert is_equal == (is_keras or self.shares_texts)

    def test_unreadable_images_are_named(self, embedder, images, tmp_path):
        path = tmp_path / "bad.png"
        path.write_bytes(b"not an image")
        with pytest.raises(InputError, match="bad.png"):
            embedder.encode_images([images[0], path])
        with pytest.raises((InputError, OSError), match="missing.png"):
            embedder.encode_images([tmp_path / "missing.png"])

    def test_single_inputs_and_other_types_are_refused(self, embedder):
        for texts in ("red", [3], iter(["red"])):
            with pytest.raises(InputError, match="texts"):
                embedder.encode_texts(texts)
        with pytest.raises(InputError, match="images"):
            embedder.encode_images("red.png")
