"""Embeddings of ONNX files with ONNX Runtime, compared with those of Keras."""

import json
import sys

import numpy as np
import pytest

from align_keras.export.onnx import image_onnx, text_onnx
from align_keras.models.align import ALIGN
from align_keras.models.text_encoder import TextEncoder
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_encoders

pytestmark = pytest.mark.ci

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

# Absolute tolerance. The runtimes add float32 values in different orders, which causes
# a measured difference of 2e-7.
TOLERANCE = 2e-6


@pytest.fixture(scope="module", params=[True, False], ids=["lite", "squeeze"])
def align(request):
    image_encoder, text_encoder = small_encoders(lite=request.param)
    # tf2onnx has no conversion of the exact GELU. The approximate GELU needs no special
    # conversion.
    activation = "gelu" if request.param else "gelu_approximate"
    config = text_encoder.get_config() | {"activation": activation}
    text_encoder = TextEncoder.from_config(config)
    return ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)


def open_session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_images_of_any_number_and_size_are_embedded(align):
    session = open_session(image_onnx(align))
    random = np.random.default_rng(1)
    for shape in ((1, 32, 32, 3), (5, 45, 71, 3)):
        images = random.integers(0, 256, shape).astype("float32")
        (actual,) = session.run(["image_embedding"], {"images": images})
        expected = align.normalize_image(align.image_encoder(images))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def test_texts_are_embedded_and_described(align):
    session = open_session(text_onnx(align, license="CC BY 4.0"))
    texts = ["a red ring", "x", "green and blue bars on a plain wall"]
    tokens = {
        name: np.asarray(values) for name, values in align.tokenizer(texts).items()
    }
    (actual,) = session.run(["text_embedding"], tokens)
    expected = align.encode_texts(texts)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
    files = session.get_modelmeta().custom_metadata_map
    assert files["vocabulary.txt"].splitlines() == VOCABULARY
    assert files["LICENSE.txt"] == "CC BY 4.0\n"
    inputs = json.loads(files["metadata.json"])["inputs"]
    names = [tensor.name for tensor in session.get_inputs()]
    assert [tensor["name"] for tensor in inputs] == names


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_a_missing_package_is_reported(align, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*align-keras\[onnx\]"):
        image_onnx(align)
