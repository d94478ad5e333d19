"""Tests that each format of `align_keras.export_model` must pass."""

import numpy as np
import pytest

from align_keras import export_model
from align_keras.runs.model_export import FORMATS_OF_OPTION
from align_keras.utils.errors import InputError
from tests.helpers.exports import (
    TEXTS,
    encoder_fingerprints,
    export_folder,
    exported_align,
)


class ExportCase:
    """Base class for the tests of a format.

    A subclass embeds with the exported files as a program without align_keras does. The
    embeddings of the Keras model are the reference.

    Attributes:
        format: name of the format.
        options: arguments of `align_keras.export_model`.
        files: paths that the folder of the export must have, besides `README.md`.
        tolerance: largest difference of two components of embeddings.

    Example:

    ```python
    @pytest.mark.ci
    @needs("tf2onnx", "onnxruntime")
    class TestONNX(ExportCase):
        format = "onnx"
        files = {"image.onnx", "text.onnx"}

        def describe(self, folder):
            return {kind: read_metadata(folder, kind) for kind in ("image", "text")}

        def embed_images(self, folder, pixels):
            return run_session(folder / "image.onnx", images=pixels)

        def embed_texts(self, folder, tokens):
            return run_session(folder / "text.onnx", **tokens)
    ```
    """

    format = ""
    options: dict = {}
    files: set = set()
    tolerance = 1e-5

    def describe(self, folder):
        """Returns the stored preprocessing of images and texts in one dict."""
        raise NotImplementedError

    def embed_images(self, folder, pixels):
        """Embeds preprocessed images, float32 (n, S, S, 3) of whole numbers."""
        raise NotImplementedError

    def embed_texts(self, folder, tokens):
        """Embeds texts, a dict of `token_ids` and `padding_mask`, int32 (n, L)."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls):
        return export_folder(cls.format, **cls.options)

    def test_the_folder_has_all_files_and_a_card(self, folder):
        missing = {name for name in self.files if not (folder / name).exists()}
        assert not missing
        assert "ALIGN" in (folder / "README.md").read_text(encoding="utf-8")

    def test_images_have_the_embeddings_of_keras(self, folder):
        align = exported_align()
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (4, 32, 32, 3)).astype("float32")
        expected = np.asarray(align.normalize_image(align.image_encoder(pixels)))
        # The comparison would prove nothing if all embeddings were equal.
        assert np.abs(expected - expected[:1]).max() > 0.01
        embeddings = self.embed_images(folder, pixels)
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=self.tolerance)

    def test_texts_have_the_embeddings_of_keras(self, folder):
        align = exported_align()
        tokens = {name: np.asarray(ids) for name, ids in align.tokenizer(TEXTS).items()}
        expected = align.encode_texts(TEXTS)
        assert np.abs(expected - expected[:1]).max() > 0.01
        embeddings = self.embed_texts(folder, tokens)
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=self.tolerance)

    def test_the_files_describe_the_preprocessing(self, folder):
        description = self.describe(folder)
        assert description["image_size"] == 32
        assert description["sequence_length"] == 8

    def test_the_model_does_not_change(self, folder):
        align = exported_align()
        encoders = align.image_encoder, align.text_encoder
        fingerprints = tuple(encoder.fingerprint() for encoder in encoders)
        assert fingerprints == encoder_fingerprints()

    def test_a_folder_with_files_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="to"):
            export_model(exported_align(), tmp_path, self.format)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_options_of_other_formats_are_refused(self, tmp_path):
        for option, formats in FORMATS_OF_OPTION.items():
            if self.format not in formats:
                with pytest.raises(InputError, match=option):
                    arguments = {option: "x"}
                    export_model(
                        exported_align(), tmp_path / "new", self.format, **arguments
                    )
        assert list(tmp_path.iterdir()) == []
