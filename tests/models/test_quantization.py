"""Tests of dtype policies, `quantize` and LoRA."""

import gc

import keras
import numpy as np
import pytest

from align_keras.layers import MBConvBlock
from align_keras.models import ALIGN, ImageEncoder
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align, small_batch, small_encoders

# Keras warns about each class of layers without an integer kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


@pytest.fixture(autouse=True)
def _cheap_collection():
    """Excludes the imported libraries from garbage collection.

    Keras collects garbage after each quantized layer, which would be slow.
    """
    gc.freeze()
    yield
    gc.unfreeze()


def calibrate(model, batch):
    """Sets the moving statistics to those of the batch, as after training."""
    for layer in model.image_encoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model.image_encoder(batch["images"], training=True)


def smallest_cosine(first, second):
    first, second = (np.asarray(rows, "float64") for rows in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return ((first * second).sum(axis=1) / lengths).min()


def inputs_of(encoder, batch):
    if encoder.name == "image_encoder":
        return batch["images"]
    return {name: batch[name] for name in ("token_ids", "padding_mask")}


def assert_equal_outputs(model, copies, batch, atol=0.0):
    expected = model(batch)
    for copy in copies:
        actual = copy(batch)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=atol)


@pytest.mark.ci
def test_an_int8_align_has_similar_embeddings_and_reloads(tmp_path):
    model, batch = small_align(), small_batch(16)
    calibrate(model, batch)
    before = model(batch)
    model.quantize("int8")
    after = model(batch)
    # The smallest cosines of three seeds were 0.9976 for images, 0.9999 for texts.
    for name in ("image_embedding", "text_embedding"):
        assert smallest_cosine(before[name], after[name]) > 0.99
        assert np.abs(before[name] - after[name]).max() > 0
    model.save(tmp_path / "align.keras")
    model.save_to_preset(tmp_path / "preset")
    copies = (
        keras.models.load_model(tmp_path / "align.keras"),
        ALIGN.from_preset(tmp_path / "preset"),
    )
    for copy in copies:
        assert copy.text_encoder.token_embedding.quantization_mode == "int8"
        assert copy.image_encoder.blocks[0].squeeze._kernel.dtype == "int8"
    assert_equal_outputs(model, copies, batch)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.ci)])
def test_an_int8_encoder_keeps_its_dtype_policy(number, tmp_path):
    encoder = small_encoders()[number]
    encoder = type(encoder)(**{**encoder.get_config(), "dtype": "mixed_bfloat16"})
    inputs = inputs_of(encoder, small_batch())
    before = encoder(inputs)
    encoder.quantize("int8")
    after = encoder(inputs)
    # The smallest cosine of three seeds was 0.9998, including the rounding of bfloat16.
    assert smallest_cosine(before, after) > 0.99
    encoder.save(tmp_path / "encoder.keras")
    copy = keras.models.load_model(tmp_path / "encoder.keras")
    projection = copy.get_layer("projection")
    assert projection.quantization_mode == "int8"
    assert projection.compute_dtype == "bfloat16"
    # Layers that aren't quantized have the policy of the encoder, not the global one.
    assert copy.get_layer("pooling" if number == 0 else "bert").compute_dtype == (
        "bfloat16"
    )
    np.testing.assert_array_equal(copy(inputs), after)


def test_an_int8_block_in_another_model_reloads(tmp_path):
    inputs = keras.Input((6, 6, 8))
    features = MBConvBlock(8, 8, strides=2, name="first")(inputs)
    outputs = MBConvBlock(8, 8, drop_connect_rate=0.2, name="second")(features)
    model = keras.Model(inputs, outputs)
    # The model wasn't called yet, but `quantize` needs layers that are built.
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    pixels = keras.random.normal((2, 6, 6, 8), seed=0)
    np.testing.assert_array_equal(copy(pixels), model(pixels))


@pytest.mark.parametrize(
    ("quantize", "rematerialize"),
    [
        pytest.param(False, False, marks=pytest.mark.release),
        pytest.param(True, True, marks=pytest.mark.ci),
    ],
)
def test_lora_trains_only_its_factors_and_reloads(quantize, rematerialize, tmp_path):
    encoders = small_encoders(rematerialize=rematerialize, num_stages=2)
    model = ALIGN.from_encoders(
        *encoders, vocabulary=VOCABULARY, initial_temperature=0.1
    )
    if quantize:
        model.quantize("int8")
    bert, image_encoder = model.text_encoder.backbone, model.image_encoder
    bert.enable_lora(4)
    dense = [layer for b in image_encoder.blocks for layer in (b.squeeze, b.excite)]
    for layer in image_encoder._flatten_layers(include_self=False):
        layer.trainable = False
    for layer in (*dense, image_encoder.get_layer("projection")):
        layer.trainable = True
        layer.enable_lora(2)
    learned = {variable.path for variable in model.trainable_variables}
    # The factors of LoRA and the biases are trained. Two variables belong to layers
    # without LoRA.
    without_lora = {"temperature/log_temperature", "text_encoder/projection/kernel"}
    suffixes = ("/lora_kernel_a", "/lora_kernel_b", "/bias")
    assert all(path.endswith(suffixes) for path in learned - without_lora)
    assert sum(path.endswith("/lora_kernel_b") for path in learned) == (
        2 + len(dense) + 1
    )

    model.compile(keras.optimizers.SGD(0.1))
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.fit(small_batch(8), epochs=2, verbose=0)
    changed = {w.path for w in model.weights if (before[w.path] != w.numpy()).any()}
    assert changed <= learned
    assert {path for path in learned if path.endswith("/lora_kernel_b")} <= changed
    assert any(path.endswith("/lora_kernel_a") for path in changed)

    model.save(tmp_path / "align.keras")
    model.save_to_preset(tmp_path / "preset")
    # The configuration doesn't include LoRA, as for the backbones of KerasHub, so the
    # copies are plain models.
    copies = [
        keras.models.load_model(tmp_path / "align.keras"),
        ALIGN.from_preset(tmp_path / "preset"),
    ]
    # Keras merges the factors into the kernel when it saves, so float32 is summed in
    # another order, and an int8 kernel is quantized again.
    atol = 1e-3 if quantize else 1e-5
    assert_equal_outputs(model, copies, small_batch(8), atol=atol)
    expected = model(small_batch(8))
    model.save_weights(tmp_path / "a.weights.h5")
    model.load_weights(tmp_path / "a.weights.h5")
    for name, value in model(small_batch(8)).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol)


@pytest.mark.ci
def test_a_lora_file_restores_the_trained_model(tmp_path):
    model, batch = small_align(), small_batch(8)
    calibrate(model, batch)
    model.save_to_preset(tmp_path / "base")
    before = model(batch)
    with pytest.raises(InputError, match="LoRA factors"):
        model.save_lora_weights(tmp_path / "a.lora.h5")
    model.enable_lora(2)
    learned = {variable.path for variable in model.trainable_variables}
    assert all(path.endswith(("lora_kernel_a", "lora_kernel_b")) for path in learned)
    adapted_layers = {path.split("/")[-2] for path in learned}
    text_layers = {"query", "value", "projection"}
    image_layers = {"expand", "squeeze", "excite", "project", "projection"}
    assert adapted_layers == text_layers | image_layers
    assert {path.split("/")[0] for path in learned} == {"image_encoder", "text_encoder"}
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    model.fit(batch, epochs=2, verbose=0)
    after = model(batch)
    for name in ("image_embedding", "text_embedding"):
        assert np.abs(after[name] - before[name]).max() > 1e-3
    with pytest.raises(InputError, match=r"\.lora\.h5.*a\.h5"):
        model.save_lora_weights(tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    model.save_lora_weights(tmp_path / "a.lora.h5")
    copy = ALIGN.from_preset(tmp_path / "base")
    copy.load_lora_weights(tmp_path / "a.lora.h5")
    assert_equal_outputs(model, [copy], batch, atol=1e-6)


@pytest.mark.ci
def test_factors_of_quantized_layers_are_merged():
    _, encoder = small_encoders()
    tokens = inputs_of(encoder, small_batch())
    encoder.quantize("int8")
    encoder.set_training("lora", rank=1)
    initial, fingerprint = encoder(tokens), encoder.fingerprint()
    random = np.random.default_rng(0)
    for factor in encoder.trainable_variables:
        factor.assign(random.normal(0, 0.3, factor.shape))
    adapted = encoder(tokens)
    assert encoder.fingerprint() != fingerprint
    encoder.set_training("projection")
    assert not any("lora" in weight.path for weight in encoder.weights)
    # The merged kernels are quantized again.
    np.testing.assert_allclose(encoder(tokens), adapted, rtol=0, atol=0.05)
    assert np.abs(adapted - initial).max() > 0.5


@pytest.mark.ci
def test_from_preset_accepts_a_dtype_for_float_models(tmp_path):
    model = small_align()
    model.save_to_preset(tmp_path / "float")
    copy = ALIGN.from_preset(tmp_path / "float", dtype="mixed_bfloat16")
    for part in (copy, copy.text_encoder.backbone, copy.image_encoder.blocks[0]):
        assert part.dtype_policy.name == "mixed_bfloat16"
    assert copy.image_encoder(small_batch()["images"]).dtype == "bfloat16"
    nano = ALIGN.from_preset("align_nano", vocabulary_size=60, dtype="mixed_float16")
    for encoder in (nano.image_encoder, nano.text_encoder):
        assert encoder.dtype_policy.name == "mixed_float16"


def test_a_frozen_encoder_is_frozen_after_reloading():
    image_encoder, text_encoder = small_encoders()
    image_encoder.trainable = False
    model = ALIGN.from_encoders(image_encoder, text_encoder)
    copy = ALIGN.from_config(model.get_config())
    assert not copy.image_encoder.trainable_variables
    assert copy.text_encoder.trainable_variables
    locked = ImageEncoder.from_config({**image_encoder.get_config(), "locked": True})
    assert not any(variable.trainable for variable in locked.variables)


@pytest.mark.ci
def test_a_text_encoder_with_cls_pooling_exports_to_plain_litert(tmp_path):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "text.tflite"
    encoder = small_encoders()[1]
    assert encoder.pooling == "cls"
    encoder.export(path, format="litert", verbose=False)
    # The names of TensorFlow operations in a LiteRT file start with "Flex".
    assert b"Flex" not in path.read_bytes()
    batch = inputs_of(encoder, small_batch(1))
    interpreter = litert.Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    (actual,) = runner(**batch).values()
    np.testing.assert_allclose(actual, encoder(batch), atol=1e-5)
