"""ONNX files against Keras's own embeddings, by ONNX Runtime."""

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

# float32 sums in another order; 2e-7 was measured.
TOLERANCE = 2e-6


@pytest.fixture(scope="module", params=[True, False], ids=["lite", "squeeze"])
def align(request):
    image_encoder, text_encoder = small_encoders(lite=request.param)
    # Keras's exact GELU is an operation that tf2onnx doesn't know, the other isn't.
    activation = "gelu" if request.param else "gelu_approximate"
    config = text_encoder.get_config() | {"activation": activation}
    text_encoder = TextEncoder.from_config(config)
    return ALIGN(image_encoder, text_encoder, vocabulary=VOCABULARY)


def opened(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_pictures_of_any_number_and_size(align):
    session = opened(image_onnx(align))
    random = np.random.default_rng(1)
    for shape in ((1, 32, 32, 3), (5, 45, 71, 3)):
        images = random.integers(0, 256, shape).astype("float32")
        (found,) = session.run(["image_embedding"], {"images": images})
        expected = align.normalize_image(align.image_encoder(images))
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_texts(align):
    session = opened(text_onnx(align, license="CC BY 4.0"))
    texts = ["a red ring", "x", "green and blue bars on a plain wall"]
    tokens = {name: np.asarray(own) for name, own in align.tokenizer(texts).items()}
    (found,) = session.run(["text_embedding"], tokens)
    np.testing.assert_allclose(found, align.encode_texts(texts), rtol=0, atol=TOLERANCE)
    files = session.get_modelmeta().custom_metadata_map
    assert files["vocabulary.txt"].splitlines() == VOCABULARY
    assert files["LICENSE.txt"] == "CC BY 4.0\n"
    inputs = json.loads(files["metadata.json"])["inputs"]
    assert [own["name"] for own in inputs] == [own.name for own in session.get_inputs()]


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_a_missing_package_is_named(align, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*align-keras\[onnx\]"):
        image_onnx(align)
