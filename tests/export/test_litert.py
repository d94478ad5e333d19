"""Embeddings of LiteRT files with each quantization, compared with those of Keras."""

import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from align_keras.export import QUANTIZATIONS
from align_keras.export.litert import image_flatbuffer, text_flatbuffer
from align_keras.export.litert_file import LiteRTTower, read_files, read_tower_metadata
from align_keras.export.litert_quantize import quantize_flatbuffer
from align_keras.models import ALIGN, TextEncoder
from align_keras.presets.variants import ARCHITECTURES
from align_keras.utils.errors import InputError
from tests.helpers.drawn_align import SIZE, calibrated_align, drawn_images
from tests.helpers.exports import TEXTS, export_folder, exported_align
from tests.helpers.small import VOCABULARY, small_encoders

pytest.importorskip("litert_quantizer", reason="litert-quantizer is not installed")

# The models and files take minutes to create.
pytestmark = pytest.mark.ci

# Minimum of the mean cosine. Float32 sums are rounded at 2^-24 in a different order.
# Float16 weights are rounded at 2^-11. Integers are rounded at 1/127 of the largest
# weight of a channel and at 1/255 of the range of a tensor. Their measured cosines are
# 0.984, 0.983 and 0.964, and the thresholds allow twice the loss. Random towers are
# more sensitive than trained ones.
MIN_COSINE = {
    "none": 1 - 1e-6,
    "float16": 0.9999,
    "weight-int8": 0.968,
    "dynamic-int8": 0.966,
    "int8": 0.928,
}


@pytest.fixture(scope="module")
def lite():
    return exported_align()


@pytest.fixture(scope="module")
def squeeze():
    return calibrated_align(False)


@pytest.fixture(scope="module")
def image_towers(lite):
    calibration = drawn_images(range(100, 112))
    return {
        quantize: image_flatbuffer(lite, quantize, calibration)
        for quantize in QUANTIZATIONS
        if quantize != "none"
    }


def embeddings(align, images):
    return np.asarray(align.normalize_image(align.image_encoder(images)))


def mean_cosine(actual, expected):
    return np.mean(np.sum(actual * expected, axis=1))


def check(actual, expected, quantize):
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-5)
    assert mean_cosine(actual, expected) >= MIN_COSINE[quantize]
    # The expected embedding of an input must be the nearest one.
    nearest = np.argmax(actual @ expected.T, axis=1)
    np.testing.assert_array_equal(nearest, np.arange(len(actual)))


def embed_rows(tower, **inputs):
    """Embeds each row of the inputs with a separate call."""
    rows = range(len(next(iter(inputs.values()))))
    row_inputs = [
        {name: np.asarray(values)[row, None] for name, values in inputs.items()}
        for row in rows
    ]
    return np.concatenate([tower(**row) for row in row_inputs])


@pytest.mark.parametrize(
    "quantize", [quantize for quantize in QUANTIZATIONS if quantize != "none"]
)
def test_image_embeddings_match_those_of_keras(lite, image_towers, quantize):
    images = drawn_images(range(8))
    tower = LiteRTTower(image_towers[quantize])
    assert tower.signature == "encode_image_pixels"
    check(embed_rows(tower, images=images), embeddings(lite, images), quantize)


def test_towers_with_squeeze_and_excitation_match_keras(squeeze):
    images = drawn_images(range(8))
    calibration = drawn_images(range(100, 112))
    tower = LiteRTTower(image_flatbuffer(squeeze, "int8", calibration))
    check(embed_rows(tower, images=images), embeddings(squeeze, images), "int8")


@pytest.mark.parametrize("quantize", ["float16", "weight-int8", "int8"])
def test_text_embeddings_match_those_of_keras(lite, quantize):
    tower = LiteRTTower(text_flatbuffer(lite, quantize))
    assert tower.signature == "encode_token_ids"
    tokens = {name: np.asarray(ids) for name, ids in lite.tokenizer(TEXTS).items()}
    actual = embed_rows(tower, **tokens)
    without_padding = [
        tower(**{name: ids[row, None, :length] for name, ids in tokens.items()})
        for row, length in enumerate(tokens["padding_mask"].sum(axis=1))
    ]
    # Sums over padding add zeros, and other lengths are summed in another order.
    np.testing.assert_allclose(np.concatenate(without_padding), actual, atol=1e-5)
    # Text towers replace int8 by dynamic-int8.
    effective = "dynamic-int8" if quantize == "int8" else quantize
    check(actual, lite.encode_texts(TEXTS), effective)


def test_quantized_files_are_smaller(image_towers):
    sizes = {quantize: len(content) for quantize, content in image_towers.items()}
    sizes["none"] = (export_folder("litert") / "image.tflite").stat().st_size
    assert sizes["none"] > sizes["float16"] > sizes["weight-int8"]
    # The graph is most of this small file, and int8 adds operations to it.
    assert sizes["int8"] < sizes["none"]


@pytest.mark.release
def test_quantization_reduces_the_table_of_token_embeddings():
    # With this vocabulary, token embeddings are most of the text tower.
    words = [f"word{number}" for number in range(30_000)]
    align = ALIGN.from_preset(
        "align_nano",
        vocabulary_size=len(VOCABULARY) + len(words),
        vocabulary=[*VOCABULARY, *words],
    )
    sizes = {
        quantize: len(text_flatbuffer(align, quantize))
        for quantize in ("none", "float16", "int8")
    }
    assert sizes["float16"] < 0.55 * sizes["none"]
    assert sizes["int8"] < 0.32 * sizes["none"]
    # The conversion must not change the embedding layer of the model.
    np.testing.assert_array_equal(
        align.text_encoder.token_embedding(np.array([[7]]))[0, 0],
        align.text_encoder.token_embedding.embeddings[7],
    )


def test_resizable_image_towers_accept_any_number_and_size(lite):
    calibration = drawn_images(range(100, 112))
    tower = LiteRTTower(image_flatbuffer(lite, "int8", calibration, resizable=True))
    assert tower.inputs == {"images": (1, SIZE, SIZE, 3)}
    images = drawn_images(range(8))
    cosine = mean_cosine(tower(images=images), embeddings(lite, images))
    assert cosine >= MIN_COSINE["int8"]
    large_images = np.tile(images, (1, 2, 3, 1))[:, :45, :71]
    # Larger images exceed some of the ranges that were measured with small images.
    cosine = mean_cosine(tower(images=large_images), embeddings(lite, large_images))
    assert cosine >= 0.8


def test_text_towers_accept_any_length(lite):
    text = LiteRTTower(export_folder("litert") / "text.tflite")
    length = lite.tokenizer.sequence_length
    assert text.inputs["token_ids"] == (1, length)
    assert text.open_inputs["token_ids"] == (-1, -1)
    tokens = {name: np.asarray(ids) for name, ids in lite.tokenizer(["x"]).items()}
    assert tokens["padding_mask"].sum() == 3
    padded = text(**tokens)
    for shorter in range(3, length):
        trimmed = {name: ids[:, :shorter] for name, ids in tokens.items()}
        np.testing.assert_allclose(text(**trimmed), padded, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_towers_have_only_the_positions_of_their_length(architecture):
    image_encoder, text_encoder = small_encoders()
    changes = {"architecture": architecture, "max_sequence_length": 16}
    text_encoder = TextEncoder.from_config(text_encoder.get_config() | changes)
    align = ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)
    tower = LiteRTTower(text_flatbuffer(align))
    longest = np.ones((1, 8), "int32")
    expected = align.text_encoder({"token_ids": longest, "padding_mask": longest})
    actual = tower(token_ids=longest, padding_mask=longest)
    np.testing.assert_allclose(actual, align.normalize_text(expected), atol=1e-5)
    too_long = np.ones((1, 9), "int32")
    with pytest.raises(RuntimeError, match="BROADCAST_TO"):
        tower(token_ids=too_long, padding_mask=too_long)


def test_files_contain_metadata_vocabulary_and_license(lite, tmp_path):
    image = tmp_path / "image.tflite"
    text = tmp_path / "text.tflite"
    image.write_bytes(
        image_flatbuffer(lite, "int8", drawn_images(range(2)), license="CC BY 4.0")
    )
    text.write_bytes(text_flatbuffer(lite, "float16"))
    with zipfile.ZipFile(image) as archive:
        assert archive.testzip() is None
        assert archive.read("LICENSE.txt") == b"CC BY 4.0\n"
    metadata = read_tower_metadata(image.read_bytes())
    assert metadata["quantization"] == "int8"
    assert metadata["calibration_images"] == 6
    assert metadata["preprocessing"]["resize_to"] == 38
    assert metadata["preprocessing"]["image_size"] == SIZE
    # The embedders have this fingerprint in theirs.
    assert metadata["encoder_fingerprint"] == lite.image_encoder.fingerprint()
    tower = LiteRTTower(image.read_bytes())
    assert shapes_in(metadata["inputs"]) == tower.inputs
    assert shapes_in(metadata["outputs"]) == tower.outputs
    files = read_files(text.read_bytes())
    assert files["vocabulary.txt"].splitlines() == VOCABULARY
    assert "was not stated" in files["LICENSE.txt"]
    metadata = read_tower_metadata(text.read_bytes())
    tower = LiteRTTower(text.read_bytes())
    assert shapes_in(metadata["inputs"]) == tower.open_inputs
    assert metadata["preprocessing"]["normalization"] == "bert_uncased"


def shapes_in(tensors):
    return {tensor["name"]: tuple(tensor["shape"]) for tensor in tensors}


@pytest.mark.release
def test_files_of_the_same_model_are_equal(lite):
    assert text_flatbuffer(lite, "weight-int8") == text_flatbuffer(lite, "weight-int8")


def test_int8_preserves_biases_of_channels_with_tiny_weights(squeeze):
    # Training of EfficientNet-Lite results in many channels with a bias and weights
    # that are almost zero.
    stem = squeeze.image_encoder.get_layer("stem")
    norm = squeeze.image_encoder.get_layer("stem_norm")
    kernel = stem.kernel.numpy()
    beta = norm.beta.numpy()
    tiny_kernel = kernel.copy()
    tiny_kernel[..., ::2] *= 1e-9
    biases = beta.copy()
    biases[::2] = np.linspace(1, 4, len(biases[::2]))
    images = drawn_images(range(8))
    calibration = drawn_images(range(100, 112))
    try:
        stem.kernel.assign(tiny_kernel)
        norm.beta.assign(biases)
        tower = LiteRTTower(image_flatbuffer(squeeze, "int8", calibration))
        expected = embeddings(squeeze, images)
        actual = embed_rows(tower, images=images)
    finally:
        stem.kernel.assign(kernel)
        norm.beta.assign(beta)
    # The cosine is 0.197 if the biases overflow.
    assert mean_cosine(actual, expected) >= MIN_COSINE["int8"]


# === Errors ===


def test_unknown_quantizations_are_refused(lite):
    for convert in (image_flatbuffer, text_flatbuffer):
        with pytest.raises(InputError, match="quantize"):
            convert(lite, "int4")


def test_a_text_tower_requires_a_vocabulary():
    with pytest.raises(InputError, match="vocabulary"):
        text_flatbuffer(ALIGN.from_encoders(*small_encoders()))


def test_mixed_precision_is_refused():
    align = ALIGN.from_preset("align_nano", vocabulary_size=9, dtype="mixed_bfloat16")
    with pytest.raises(InputError, match="float32"):
        image_flatbuffer(align)


def test_a_missing_quantizer_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(InputError, match="litert"):
        quantize_flatbuffer(b"", "float16")


def test_a_wrong_conversion_is_detected(lite, squeeze, monkeypatch):
    save = tf.saved_model.save

    def save_wrong_model(module, folder, signatures):
        """Saves a different model, which simulates a bug of the converter."""
        [(key, encode)] = signatures.items()
        encoder = squeeze.image_encoder
        wrong = tf.Module()
        wrong.stored_variables = [variable.value for variable in encoder.variables]
        wrong.encode = tf.function(
            lambda images: {
                "image_embedding": squeeze.normalize_image(encoder(images))
            },
            input_signature=encode.input_signature,
        )
        save(wrong, folder, signatures={key: wrong.encode})

    monkeypatch.setattr(tf.saved_model, "save", save_wrong_model)
    with pytest.raises(InputError, match="cosine"):
        image_flatbuffer(lite)
