"""Embeddings of each runtime."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from align_keras import load_model
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN
from tests.helpers.exports import export_folder, exported_align
from tests.helpers.oracle_process import needs
from tests.helpers.runtime_case import RuntimeCase

# Program that embeds with an export and prints whether it imported TensorFlow.
EMBED_SCRIPT = """
import sys
import numpy as np
from align_keras import load_model
model = load_model(sys.argv[1])
image = np.zeros((38, 38, 3), np.uint8)
print(model.encode_texts(["a red cat"]).shape, model.encode_images([image]).shape)
print({"tensorflow", "keras"} & set(sys.modules))
"""


class TestKeras(RuntimeCase):
    runtime = "keras"
    shares_texts = True

    def test_queries_are_composed(self, embedder, images):
        query = embedder.encode_query(images[0], plus="red", minus=["cat"])
        expected = exported_align().encode_query(images[0], "red", ["cat"])
        np.testing.assert_allclose(query, expected, atol=1e-6)


@pytest.mark.ci
@needs("tensorflow_text")
class TestSavedModel(RuntimeCase):
    format = "saved_model"
    runtime = "saved_model"

    def test_missing_text_operations_are_reported(self, monkeypatch):
        import tensorflow as tf

        def load(folder):
            raise RuntimeError("Op type not registered")

        monkeypatch.setitem(sys.modules, "tensorflow_text", None)
        monkeypatch.setattr(tf.saved_model, "load", load)
        with pytest.raises(InputError, match="tensorflow-text"):
            self.open()


class TowerCase(RuntimeCase):
    """Tests of exports with an image tower and a text tower."""

    suffix = ""

    def test_texts_are_embedded_without_padding(self, embedder, keras, monkeypatch):
        shapes = []
        embed_tokens = embedder.embed_tokens

        def record_shapes(token_ids, mask):
            shapes.append(token_ids.shape)
            return embed_tokens(token_ids, mask)

        monkeypatch.setattr(embedder, "embed_tokens", record_shapes)
        # With [CLS] and [SEP], the texts have 3, 2, 6, 8 and 9 tokens, of which the
        # last is cut off. A call of LiteRT embeds fewer texts than the first.
        texts = ["a"] * 20 + ["", "a b c d", "b " * 6, "c " * 7]
        embeddings = embedder.encode_texts(texts)
        assert shapes == [(1, 2), (20, 3), (1, 6), (2, 8)]
        expected = keras.encode_texts(texts)
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)

    def test_tensorflow_is_not_imported(self):
        command = [sys.executable, "-c", EMBED_SCRIPT, export_folder(self.format)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == ["(1, 16) (1, 16)", "set()"]

    def test_damaged_and_missing_towers_are_named(self, tmp_path):
        folder = tmp_path / "towers"
        shutil.copytree(export_folder(self.format), folder)
        image = folder / f"image{self.suffix}"
        image.write_bytes(b"junk" * 100)
        with pytest.raises(Exception, match=image.name):
            load_model(folder)
        image.unlink()
        with pytest.raises(InputError, match=image.name):
            load_model(folder)


@pytest.mark.ci
@needs("ai_edge_litert")
class TestLiteRT(TowerCase):
    format = "litert"
    runtime = "litert"
    suffix = ".tflite"


@pytest.mark.ci
@needs("ai_edge_litert")
def test_a_fixed_litert_tower_pads_all_texts():
    """Version 0.1 exported fixed towers."""
    model = load_model(GOLDEN)
    assert not model.accepts_any_length()
    expected = np.array([[1, 0, 0, 0.05]]) / np.hypot(1, 0.05)
    np.testing.assert_allclose(model.encode_texts(["red"]), expected, atol=1e-6)


@pytest.mark.ci
@needs("tf2onnx", "onnxruntime")
class TestONNX(TowerCase):
    format = "onnx"
    runtime = "onnx"
    suffix = ".onnx"


@pytest.mark.ci
@needs("ai_edge_litert")
class TestLiteRTFile(RuntimeCase):
    """A LiteRT file embeds the images, and Keras embeds the texts."""

    shares_texts = True

    @classmethod
    def open(cls):
        path = export_folder("litert") / "image.tflite"
        return load_model(export_folder("keras"), path)


@pytest.mark.ci
@needs("openvino")
class TestOpenVINO(RuntimeCase):
    runtime = "openvino"
    shares_texts = True

    @classmethod
    def open(cls):
        return load_model(exported_align(), "openvino")

    # The name of a model in memory does not open it.
    test_the_reference_opens_the_same_model = None


@pytest.mark.ci
@needs("openvino")
def test_bfloat16_embeddings_are_close_to_float32():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype("f4")
    exact = load_model(exported_align()).image_tower()(pixels)
    rounded = load_model(exported_align(), "openvino_bfloat16").image_tower()(pixels)
    assert (exact * rounded).sum(axis=1).min() > 0.99
