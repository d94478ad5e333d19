"""Each quantisation against Keras's own embeddings of drawn pictures and texts."""

import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.export import QUANTIZATIONS
from align_keras.export.litert import image_flatbuffer, text_flatbuffer
from align_keras.export.litert_file import LiteRTTower, read_files, read_tower_metadata
from align_keras.models.align import ALIGN
from align_keras.utils.errors import InputError
from tests.helpers.drawn_align import SIZE, calibrated_align, drawn_images
from tests.helpers.small import VOCABULARY, small_encoders

pytest.importorskip("litert_quantizer", reason="litert-quantizer isn't installed")

# Their models and files take minutes to make.
pytestmark = pytest.mark.ci

TEXTS = ["a red ring", "bars", "x", "green and blue bars on a plain wall"]
# The least mean cosine. float32: sums in another order, rounded at 2^-24. float16:
# weights rounded at 2^-11. Integers: at 1/127 of a channel's largest weight and
# 1/255 of a tensor's range; with these random towers, which are more sensitive than
# trained ones, 0.984, 0.983 and 0.964 were measured, and twice the loss is allowed.
LEAST = {
    "none": 1 - 1e-6,
    "float16": 0.9999,
    "weight-int8": 0.968,
    "dynamic-int8": 0.966,
    "int8": 0.928,
}


@pytest.fixture(scope="module")
def lite():
    align = calibrated_align(True)
    # Texts that differ: BERT's initial weights make all embeddings one.
    for weight in align.text_encoder.trainable_weights:
        if weight.path.endswith(("kernel", "embeddings")):
            weight.assign(8 * weight)
    return align


@pytest.fixture(scope="module")
def squeeze():
    return calibrated_align(False)


@pytest.fixture(scope="module")
def image_towers(lite):
    calibration = drawn_images(range(100, 112))
    return {own: image_flatbuffer(lite, own, calibration) for own in QUANTIZATIONS}


def embeddings(align, images):
    return np.asarray(align.normalize_image(align.image_encoder(images)))


def mean_cosine(found, expected):
    return np.mean(np.sum(found * expected, axis=1))


def check(found, expected, quantize):
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert mean_cosine(found, expected) >= LEAST[quantize]
    # What tells inputs apart is kept: each is its own nearest one.
    nearest = np.argmax(found @ expected.T, axis=1)
    np.testing.assert_array_equal(nearest, np.arange(len(found)))


def one_by_one(tower, **inputs):
    rows = range(len(next(iter(inputs.values()))))
    own = [
        {name: np.asarray(i)[row, None] for name, i in inputs.items()} for row in rows
    ]
    return np.concatenate([tower(**row) for row in own])


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_image_tower_gives_keras_embeddings(lite, image_towers, quantize):
    shown, tower = drawn_images(range(8)), LiteRTTower(image_towers[quantize])
    assert tower.signature == "encode_image_pixels"
    check(one_by_one(tower, images=shown), embeddings(lite, shown), quantize)


@pytest.mark.parametrize("quantize", ["dynamic-int8", "int8"])
def test_a_tower_with_squeeze_and_excitation_too(squeeze, quantize):
    shown, calibration = drawn_images(range(8)), drawn_images(range(100, 112))
    tower = LiteRTTower(image_flatbuffer(squeeze, quantize, calibration))
    check(one_by_one(tower, images=shown), embeddings(squeeze, shown), quantize)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_text_tower_gives_keras_embeddings(lite, quantize):
    tower = LiteRTTower(text_flatbuffer(lite, quantize))
    assert tower.signature == "encode_token_ids"
    found = one_by_one(tower, **lite.tokenizer(TEXTS))
    own = "dynamic-int8" if quantize == "int8" else quantize
    check(found, lite.encode_texts(TEXTS), own)


def test_quantized_files_are_smaller(image_towers):
    sizes = {own: len(content) for own, content in image_towers.items()}
    assert sizes["none"] > sizes["float16"] > sizes["weight-int8"]
    # Most of so small a file is its graph, to which int8 adds.
    assert sizes["int8"] < sizes["none"]


def test_a_text_tower_is_narrow_with_its_vocabulary():
    # Token embeddings are most of this one.
    words = [f"word{number}" for number in range(30_000)]
    align = ALIGN.from_preset(
        "align_nano",
        vocabulary_size=len(VOCABULARY) + len(words),
        vocabulary=[*VOCABULARY, *words],
    )
    sizes = {
        own: len(text_flatbuffer(align, own)) for own in ("none", "float16", "int8")
    }
    assert sizes["float16"] < 0.55 * sizes["none"]
    assert sizes["int8"] < 0.32 * sizes["none"]
    # The lookup of the model itself is as before.
    np.testing.assert_array_equal(
        align.token_embedding(np.array([[7]]))[0, 0],
        align.token_embedding.embeddings[7],
    )


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_resizable_tower_takes_any_number_and_size(lite, quantize):
    calibration = drawn_images(range(100, 112))
    content = image_flatbuffer(lite, quantize, calibration, resizable=True)
    tower = LiteRTTower(content)
    assert tower.inputs == {"images": (1, SIZE, SIZE, 3)}
    shown = drawn_images(range(8))
    assert mean_cosine(tower(images=shown), embeddings(lite, shown)) >= LEAST[quantize]
    others = np.tile(shown, (1, 2, 3, 1))[:, :45, :71]
    # Ranges of integers are those of the calibration's size; a larger picture leaves
    # some of them.
    least = LEAST[quantize] if quantize == "none" else 0.8
    assert mean_cosine(tower(images=others), embeddings(lite, others)) >= least
    text = LiteRTTower(text_flatbuffer(lite, resizable=True))
    tokens = {name: np.asarray(own) for name, own in lite.tokenizer(TEXTS).items()}
    np.testing.assert_allclose(text(**tokens), lite.encode_texts(TEXTS), atol=1e-5)


def test_fixed_tower_refuses_another_size(lite):
    tower = LiteRTTower(image_flatbuffer(lite))
    with pytest.raises(
        InputError, match=r"images must have the shape \(1, 32, 32, 3\)"
    ):
        tower(images=np.zeros((2, SIZE, SIZE, 3), "float32"))


def test_zip_programs_read_what_a_file_says_of_itself(lite, tmp_path):
    image, text = tmp_path / "image.tflite", tmp_path / "text.tflite"
    image.write_bytes(
        image_flatbuffer(lite, "int8", drawn_images(range(2)), license="CC BY 4.0")
    )
    text.write_bytes(text_flatbuffer(lite, "float16"))
    with zipfile.ZipFile(image) as archive:
        assert archive.testzip() is None
        assert archive.read("LICENSE.txt") == b"CC BY 4.0\n"
    own = read_tower_metadata(image.read_bytes())
    assert own["quantization"] == "int8"
    assert own["calibration_images"] == 6
    assert own["preprocessing"]["resize_to"] == 38
    assert own["preprocessing"]["image_size"] == SIZE
    tower = LiteRTTower(image.read_bytes())
    assert {i["name"]: tuple(i["shape"]) for i in own["inputs"]} == tower.inputs
    assert {i["name"]: tuple(i["shape"]) for i in own["outputs"]} == tower.outputs
    files = read_files(text.read_bytes())
    assert files["vocabulary.txt"].splitlines() == VOCABULARY
    assert "weren't stated" in files["LICENSE.txt"]
    own = read_tower_metadata(text.read_bytes())
    tower = LiteRTTower(text.read_bytes())
    assert {i["name"]: tuple(i["shape"]) for i in own["inputs"]} == tower.inputs
    assert own["preprocessing"]["normalization"] == "bert_uncased"


def test_equal_models_give_equal_files(lite):
    assert text_flatbuffer(lite, "weight-int8") == text_flatbuffer(lite, "weight-int8")


def test_biases_of_dead_channels_survive_integers(squeeze):
    # As training leaves many of EfficientNet-Lite's: next to no weights, and a bias.
    stem = squeeze.image_encoder.get_layer("stem")
    norm = squeeze.image_encoder.get_layer("stem_norm")
    kernel, beta = stem.kernel.numpy(), norm.beta.numpy()
    dead, biases = kernel.copy(), beta.copy()
    dead[..., ::2] *= 1e-9
    biases[::2] = np.linspace(1, 4, len(biases[::2]))
    shown, calibration = drawn_images(range(8)), drawn_images(range(100, 112))
    try:
        stem.kernel.assign(dead)
        norm.beta.assign(biases)
        tower = LiteRTTower(image_flatbuffer(squeeze, "int8", calibration))
        expected = embeddings(squeeze, shown)
        found = one_by_one(tower, images=shown)
    finally:
        stem.kernel.assign(kernel)
        norm.beta.assign(beta)
    # 0.197 where the library's biases overflow.
    assert mean_cosine(found, expected) >= LEAST["int8"]


# === Errors ===


def test_unknown_quantisation_is_named(lite):
    for convert in (image_flatbuffer, text_flatbuffer):
        with pytest.raises(InputError, match="quantize must be one of none, float16"):
            convert(lite, "int4")


def test_integers_need_pictures(lite):
    with pytest.raises(InputError, match="int8 needs calibration images, received"):
        image_flatbuffer(lite, "int8")


def test_pictures_of_another_size_are_refused(lite):
    with pytest.raises(InputError, match=r"pixels must have the shape \(n, 32, 32"):
        image_flatbuffer(lite, pixels=np.zeros((3, 40, 40, 3)))


def test_what_is_no_align_is_refused():
    with pytest.raises(InputError, match="must be an ALIGN, received Sequential"):
        image_flatbuffer(keras.Sequential())


def test_a_model_without_vocabulary_has_no_text_tower():
    with pytest.raises(InputError, match="captions need a vocabulary"):
        text_flatbuffer(ALIGN(*small_encoders()))


def test_mixed_precision_is_refused():
    align = ALIGN.from_preset("align_nano", vocabulary_size=9, dtype="mixed_bfloat16")
    with pytest.raises(InputError, match="must compute in float32 .* mixed_bfloat16"):
        image_flatbuffer(align)


def test_a_missing_quantizer_is_named(lite, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(InputError, match=r"pip install .align-keras\[litert\]"):
        text_flatbuffer(lite, "float16")


def test_a_broken_file_is_noticed(lite, squeeze, monkeypatch):
    save = tf.saved_model.save

    def save_another_model(module, folder, signatures):
        """Saves another model, as if the converter had lost the weights."""
        [(key, encode)] = signatures.items()
        encoder = squeeze.image_encoder
        other = tf.Module()
        other.stored_variables = [variable.value for variable in encoder.variables]
        other.encode = tf.function(
            lambda images: {
                "image_embedding": squeeze.normalize_image(encoder(images))
            },
            input_signature=encode.input_signature,
        )
        save(other, folder, signatures={key: other.encode})

    monkeypatch.setattr(tf.saved_model, "save", save_another_model)
    with pytest.raises(RuntimeError, match="the converted tower isn't the model's"):
        image_flatbuffer(lite)
    # The user can do something about this one.
    with pytest.raises(InputError, match="quantize must leave .* 'float16': .* finer"):
        image_flatbuffer(lite, "float16")
