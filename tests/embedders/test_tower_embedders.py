"""Embeddings of exported LiteRT and ONNX towers."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from align_keras import export_model, load_model
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.small import VOCABULARY, small_align, small_encoders

LITERT = pytest.param("litert", marks=needs("ai_edge_litert"))
ONNX = pytest.param("onnx", marks=needs("tf2onnx", "onnxruntime"))
TEXTS = ["a red cat", "", "a dog and a very long text about dogs and red cats"]
# Program that embeds with an export and prints whether it imported TensorFlow.
EMBED_SCRIPT = """
import sys
import numpy as np
from align_keras import load_model
model = load_model(sys.argv[1])
images = np.load(sys.argv[2])
print(model.encode_texts(["a red cat"]).shape, model.encode_images(list(images)).shape)
print({"tensorflow", "keras"} & set(sys.modules))
"""


@pytest.fixture(scope="module")
def align():
    return small_align()


@pytest.fixture(scope="module")
def images():
    """Returns images that no runtime resizes, since their resizers differ slightly."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (3, 38, 38, 3)).astype("uint8")


@pytest.fixture(scope="module")
def exports(align, tmp_path_factory):
    """Returns a function that exports the model to a format and returns the folder."""
    folders = {}

    def export(format):
        if format not in folders:
            folders[format] = tmp_path_factory.mktemp("exports") / format
            export_model(align, folders[format], format)
        return folders[format]

    return export


@pytest.mark.ci
@pytest.mark.parametrize("format", [LITERT, ONNX])
def test_embeddings_equal_those_of_keras(align, images, exports, format):
    model = load_model(exports(format))
    keras = load_model(align)
    assert (model.runtime, model.dimension) == (format, 16)
    assert (model.image_size, model.resize_to) == (keras.image_size, keras.resize_to)
    assert model.resize_to == images.shape[1]
    expected = keras.encode_resized(list(images))
    resized = model.encode_resized(list(images))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(model.encode_images(list(images)), resized)
    texts = model.encode_texts(TEXTS)
    np.testing.assert_allclose(texts, keras.encode_texts(TEXTS), rtol=0, atol=1e-4)
    assert model.encode_images([]).shape == model.encode_texts([]).shape == (0, 16)
    for embedder in (model, keras):
        for texts in ("red", [3], [b"red"], 3, iter(["red"])):
            with pytest.raises(InputError, match="texts.* must be a"):
                embedder.encode_texts(texts)
        unclear = ["\ud800 red", "red " * 100_000]
        np.testing.assert_array_equal(
            embedder.encode_texts(unclear),
            embedder.encode_texts(["? red", "red " * 100]),
        )
        assert (
            embedder.count_tokens(["a", "", "a " * 99]) == 3 + 2 + model.sequence_length
        )
    with pytest.raises(InputError, match=r"a single str. Pass a list, \[image\]"):
        model.encode_images("red.png")
    with pytest.raises(InputError, match="nowhere.png .*Check the path"):
        model.encode_images(["nowhere.png"])
    assert load_model(exports(format)).fingerprint == model.fingerprint


@pytest.mark.ci
@pytest.mark.parametrize("format", [LITERT, ONNX])
def test_exported_towers_run_without_tensorflow(exports, images, tmp_path, format):
    np.save(tmp_path / "images.npy", images)
    command = [
        sys.executable,
        "-c",
        EMBED_SCRIPT,
        exports(format),
        tmp_path / "images.npy",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["(1, 16) (3, 16)", "set()"]


@pytest.mark.ci
@pytest.mark.parametrize("format", [LITERT, ONNX])
def test_errors_name_damaged_and_missing_towers(exports, tmp_path, format):
    suffix = {"litert": "tflite", "onnx": "onnx"}[format]
    shutil.copytree(exports(format), tmp_path / "towers")
    image = tmp_path / "towers" / f"image.{suffix}"
    image.write_bytes(b"junk" * 100)
    with pytest.raises(Exception, match=f"image.{suffix}"):
        load_model(tmp_path / "towers")
    image.unlink()
    with pytest.raises(InputError, match=f"image.{suffix}"):
        load_model(tmp_path / "towers")


@pytest.mark.ci
@pytest.mark.parametrize("format", [LITERT, ONNX])
def test_changed_weights_change_the_fingerprint(align, exports, tmp_path, format):
    changed = small_align()
    changed.set_weights(align.get_weights())
    bias = changed.text_encoder.get_layer("projection").bias
    bias.assign_add(np.full(bias.shape, 1e-3))
    export_model(changed, tmp_path / "changed", format)
    fingerprint = load_model(tmp_path / "changed").fingerprint
    assert fingerprint != load_model(exports(format)).fingerprint


@pytest.mark.ci
@pytest.mark.parametrize("format", [LITERT, ONNX])
def test_texts_are_embedded_without_padding(tmp_path, monkeypatch, format):
    encoders = small_encoders(sequence_length=30)
    align = ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)
    # With the initial weights of BERT, all texts would have almost equal embeddings.
    for weight in align.text_encoder.trainable_weights:
        if weight.path.endswith(("kernel", "embeddings")):
            weight.assign(8 * weight)
    options = {"resizable": True} if format == "litert" else {}
    export_model(align, tmp_path / "towers", format, **options)
    model = load_model(tmp_path / "towers")
    shapes = []
    embed_tokens = model.embed_tokens

    def record_shapes(token_ids, mask):
        shapes.append(token_ids.shape)
        return embed_tokens(token_ids, mask)

    monkeypatch.setattr(model, "embed_tokens", record_shapes)
    # With [CLS] and [SEP], the texts have 3, 2, 9, 30 and 32 tokens, of which the last
    # two are cut off. A call of LiteRT embeds fewer texts than the first.
    texts = ["a"] * 20 + ["", "a b c d e f g", "b " * 28, "c " * 30]
    actual = model.encode_texts(texts)
    assert shapes == [(1, 2), (20, 3), (1, 9), (2, 30)]
    expected = align.encode_texts(texts)
    # The towers sum the products of float32 in another order.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.abs(expected[0] - expected[21]).max() > 0.01


@pytest.mark.ci
def test_a_fixed_tower_embeds_texts_with_all_padding(exports, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    model = load_model(exports("litert"))
    assert not model.accepts_any_length()
    shapes = []
    embed_tokens = model.embed_tokens
    monkeypatch.setattr(
        model,
        "embed_tokens",
        lambda ids, mask: shapes.append(ids.shape) or embed_tokens(ids, mask),
    )
    model.encode_texts(["a"])
    assert shapes == [(1, model.sequence_length)]
