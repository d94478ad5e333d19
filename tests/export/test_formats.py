"""Files of each export format, run without the embedders of this package."""

import json
import sys

import numpy as np
import pytest

from align_keras.utils.errors import InputError
from tests.helpers.export_case import ExportCase
from tests.helpers.exports import captioned_images, export_folder, exported_align
from tests.helpers.oracle_process import needs
from tests.helpers.small import VOCABULARY


@pytest.mark.ci
@needs("tensorflow_text")
class TestSavedModel(ExportCase):
    format = "saved_model"
    files = {
        "image/1/saved_model.pb",
        "text/1/saved_model.pb",
        "align/1/saved_model.pb",
        "align/1/signatures.json",
        "serving/models.config",
    }

    def describe(self, folder):
        text = (folder / "align" / "1" / "signatures.json").read_text(encoding="utf-8")
        preprocessing = json.loads(text)["preprocessing"]
        return preprocessing["image"] | preprocessing["text"]

    def embed_images(self, folder, pixels):
        import tensorflow as tf

        # The SavedModel crops the center of images, which it does not resize.
        images = np.pad(pixels, [(0, 0), (3, 3), (3, 3), (0, 0)]).astype("uint8")
        model = tf.saved_model.load(str(folder / "image" / "1"))
        outputs = model.signatures["encode_image_pixels"](images=tf.constant(images))
        return outputs["image_embedding"].numpy()

    def embed_texts(self, folder, tokens):
        import tensorflow as tf

        model = tf.saved_model.load(str(folder / "text" / "1"))
        tensors = {name: tf.constant(ids) for name, ids in tokens.items()}
        outputs = model.signatures["encode_token_ids"](**tensors)
        return outputs["text_embedding"].numpy()


def read_towers(folder):
    """Returns the preprocessing of images and texts in two LiteRT files."""
    from align_keras.export.litert_file import read_tower_metadata

    image, text = (
        read_tower_metadata((folder / f"{kind}.tflite").read_bytes())["preprocessing"]
        for kind in ("image", "text")
    )
    return image | text


def run_tower(path, **inputs):
    """Runs each row of the inputs with the interpreter of LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    rows = []
    for row in range(len(next(iter(inputs.values())))):
        arguments = {name: values[row, None] for name, values in inputs.items()}
        rows += runner(**arguments).values()
    return np.concatenate(rows)


@pytest.mark.ci
@needs("ai_edge_litert")
class TestLiteRT(ExportCase):
    format = "litert"
    files = {"image.tflite", "text.tflite"}
    describe = staticmethod(read_towers)

    def embed_images(self, folder, pixels):
        return run_tower(folder / "image.tflite", images=pixels)

    def embed_texts(self, folder, tokens):
        return run_tower(folder / "text.tflite", **tokens)


@pytest.mark.ci
@needs("ai_edge_litert")
class TestWeb(ExportCase):
    format = "web"
    options = {"quantize": "none"}
    files = {"index.html", "images/embeddings.bin", "images/thumbnails", "page/page.js"}

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls):
        return export_folder("web", images=captioned_images(), **cls.options)

    def describe(self, folder):
        description = json.loads((folder / "model" / "model.json").read_text())
        return description | description["tokenizer"]

    def embed_images(self, folder, pixels):
        return run_tower(folder / "model" / "image.tflite", images=pixels)

    def embed_texts(self, folder, tokens):
        return run_tower(folder / "model" / "text.tflite", **tokens)


def open_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.ci
@needs("tf2onnx", "onnxruntime")
class TestONNX(ExportCase):
    format = "onnx"
    options = {"license": "CC BY 4.0"}
    files = {"image.onnx", "text.onnx"}

    def describe(self, folder):
        image, text = (
            open_session(folder / name).get_modelmeta().custom_metadata_map
            for name in ("image.onnx", "text.onnx")
        )
        assert text["vocabulary.txt"].splitlines() == VOCABULARY
        assert text["LICENSE.txt"] == "CC BY 4.0\n"
        descriptions = [json.loads(files["metadata.json"]) for files in (image, text)]
        return descriptions[0]["preprocessing"] | descriptions[1]["preprocessing"]

    def embed_images(self, folder, pixels):
        return open_session(folder / "image.onnx").run(None, {"images": pixels})[0]

    def embed_texts(self, folder, tokens):
        return open_session(folder / "text.onnx").run(None, tokens)[0]

    def test_images_can_have_any_size(self, folder):
        align = exported_align()
        random = np.random.default_rng(1)
        pixels = random.integers(0, 256, (2, 45, 71, 3)).astype("float32")
        expected = align.normalize_image(align.image_encoder(pixels))
        embeddings = self.embed_images(folder, pixels)
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=self.tolerance)

    @pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
    def test_a_missing_package_is_reported(self, monkeypatch, package):
        from align_keras.export.onnx import image_onnx

        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=package):
            image_onnx(exported_align())
