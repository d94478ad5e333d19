"""Tests of `set_training`, and of the merging and the files of LoRA factors."""

import math

import keras
import keras_hub
import numpy as np
import pytest

from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.lora import adapted_layers
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align, small_batch

NORM = keras.layers.BatchNormalization


def small_image_encoder(**arguments):
    return ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
        image_size=32,
        projection_dim=16,
        **arguments,
    )


def small_text_encoder(**arguments):
    sizes = {
        "vocabulary_size": len(VOCABULARY),
        "num_layers": 3,
        "hidden_dim": 16,
        "num_heads": 2,
        "intermediate_dim": 32,
        "projection_dim": 16,
        "sequence_length": 8,
    }
    return TextEncoder(**{**sizes, **arguments})


@pytest.fixture(scope="module")
def image_encoder():
    """Returns an encoder whose mode each test sets."""
    keras.utils.set_random_seed(0)
    return small_image_encoder(drop_connect_rate=0.5)


@pytest.fixture(scope="module")
def text_encoder():
    """Returns an encoder whose mode each test sets."""
    keras.utils.set_random_seed(0)
    return small_text_encoder(dropout=0.5)


@pytest.fixture
def encoders(image_encoder, text_encoder):
    batch = small_batch()
    tokens = {name: batch[name] for name in ("token_ids", "padding_mask")}
    return ((image_encoder, batch["images"]), (text_encoder, tokens))


def trained_paths(encoder):
    return {variable.path for variable in encoder.trainable_weights}


def set_random_factors(model, seed=0):
    """Replaces the factors by random numbers, as after a training."""
    random = np.random.default_rng(seed)
    for layer in adapted_layers(model):
        for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
            factor.assign(random.normal(0, 0.3, factor.shape))


def numpy_kernels(model):
    """Returns W + alpha/r · A·B of each adapted layer, by the path of its kernel."""
    kernels = {}
    for layer in adapted_layers(model):
        a = layer.lora_kernel_a.numpy().astype("float64")
        b = layer.lora_kernel_b.numpy().astype("float64")
        product = np.tensordot(a, b, axes=1) * (layer.lora_alpha / layer.lora_rank)
        kernels[layer._kernel.path] = layer._kernel.numpy() + product
    return kernels


def assert_same_embeddings(model, other, atol):
    expected, actual = model(small_batch()), other(small_batch())
    for name in ("image_embedding", "text_embedding"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=atol)


# === Modes ===


def test_a_frozen_encoder_computes_the_same_in_training(encoders):
    for encoder, inputs in encoders:
        encoder.set_training("full")
        assert np.abs(encoder(inputs, training=True) - encoder(inputs)).max() > 1e-3
        before = [weight.numpy() for weight in encoder.weights]
        for mode in ("frozen", "projection"):
            encoder.set_training(mode)
            np.testing.assert_array_equal(
                encoder(inputs, training=True), encoder(inputs, training=False)
            )
        encoder.set_training("frozen")
        assert not encoder.trainable_weights
        if encoder.name == "text_encoder":
            for weight, value in zip(encoder.weights, before, strict=True):
                np.testing.assert_array_equal(weight, value)


def test_the_modes_train_the_weights_that_their_names_say(image_encoder, text_encoder):
    for encoder in (image_encoder, text_encoder):
        encoder.set_training("projection")
        assert trained_paths(encoder) == {
            f"{encoder.name}/projection/kernel",
            f"{encoder.name}/projection/bias",
        }
        encoder.set_training("last_blocks", blocks=2)
        last = [block.path for block in encoder.blocks[-2:]]
        learned = trained_paths(encoder)
        assert {
            path
            for path in learned
            if not path.startswith((f"{last[0]}/", f"{last[1]}/"))
        } == {f"{encoder.name}/projection/kernel", f"{encoder.name}/projection/bias"}
        for block in encoder.blocks[-2:]:
            statistics = {w.path for w in block.weights if "moving" in w.path}
            assert {weight.path for weight in block.weights} - statistics <= learned
        encoder.set_training("lora", rank=3)
        factors = {path.rpartition("/")[2] for path in trained_paths(encoder)}
        assert factors == {"lora_kernel_a", "lora_kernel_b"}
        names = {layer.name for layer in adapted_layers(encoder)}
        assert names == set(encoder.lora_layer_names)
        assert {layer.lora_rank for layer in adapted_layers(encoder)} == {3}
        encoder.set_training("full")
        initial = type(encoder).from_config(encoder.get_config())
        assert trained_paths(encoder) == trained_paths(initial)
        assert "layer_trainable" not in encoder.get_config()


def test_only_trained_blocks_update_their_batch_statistics(image_encoder):
    image_encoder.set_training("last_blocks", blocks=1)
    norms = [la for la in image_encoder._flatten_layers() if isinstance(la, NORM)]
    before = {norm.path: norm.moving_mean.numpy() for norm in norms}
    image_encoder(small_batch()["images"], training=True)
    changed = {
        norm.path for norm in norms if (before[norm.path] != norm.moving_mean).any()
    }
    last = image_encoder.blocks[-1]
    assert changed == {la.path for la in last._flatten_layers() if isinstance(la, NORM)}


@pytest.mark.parametrize(
    "mode",
    [
        *(pytest.param(mode, marks=pytest.mark.ci) for mode in ("projection",)),
        "last_blocks",
    ],
)
def test_the_configuration_keeps_the_mode(mode, image_encoder, text_encoder):
    for encoder in (image_encoder, text_encoder):
        encoder.set_training(mode, blocks=1)
        copy = type(encoder).from_config(encoder.get_config())
        assert trained_paths(copy) == trained_paths(encoder)


@pytest.mark.ci
def test_an_encoder_of_shared_layers_has_one_block():
    encoder = small_text_encoder(architecture="albert")
    assert len(encoder.blocks) == 1
    encoder.set_training("last_blocks", blocks=1)
    assert not encoder.token_embedding.trainable
    with pytest.raises(InputError, match=r"blocks .*1.*Received: .*2"):
        encoder.set_training("last_blocks")


@pytest.mark.ci
def test_a_locked_encoder_can_be_trained_in_another_mode():
    encoder = small_image_encoder(locked=True)
    encoder.set_training("last_blocks", blocks=1)
    copy = ImageEncoder.from_config(encoder.get_config())
    assert trained_paths(copy) == trained_paths(encoder)
    assert len(trained_paths(copy)) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("half",), "frozen, projection, last_blocks, lora, full.*mode='half'"),
        (("last_blocks", {"blocks": 9}), "blocks must be"),
        (("lora", {"rank": 0}), "rank must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, image_encoder):
    mode, options = (*arguments, {})[:2]
    with pytest.raises(InputError, match=message):
        image_encoder.set_training(mode, **options)


# === LoRA ===


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Returns a model with random factors, and the preset from which it was made."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("base")
    small_align().save_to_preset(folder)
    model = ALIGN.from_preset(folder, training="lora", rank=2)
    set_random_factors(model)
    model.temperature_layer.log_temperature.assign(math.log(0.3))
    return model, folder


@pytest.mark.ci
def test_a_preset_has_the_merged_kernels(adapted, tmp_path):
    model, _ = adapted
    model.save_to_preset(tmp_path)
    merged = ALIGN.from_preset(tmp_path)
    values = {weight.path: weight.numpy() for weight in merged.weights}
    kernels = numpy_kernels(model)
    assert len(kernels) > 10
    for path, kernel in kernels.items():
        np.testing.assert_allclose(values[path], kernel, rtol=0, atol=1e-6)
    assert not adapted_layers(merged)
    assert_same_embeddings(model, merged, atol=1e-5)
    for name in ("image_encoder", "text_encoder"):
        fingerprints = {getattr(align, name).fingerprint() for align in (model, merged)}
        assert len(fingerprints) == 1
    # The model itself still has its factors.
    assert len(adapted_layers(model)) == len(kernels)


@pytest.mark.ci
def test_merging_makes_a_plain_model_and_keeps_the_embeddings(adapted):
    model = ALIGN.from_preset(adapted[1], training="lora", rank=2)
    # The initial factors don't change the embeddings.
    assert_same_embeddings(model, ALIGN.from_preset(adapted[1]), atol=0)
    set_random_factors(model, seed=2)
    for layer in adapted_layers(model):
        layer.lora_alpha = 3
    kernels = numpy_kernels(model)
    before = model(small_batch())["text_embedding"]
    model.text_encoder.set_training("full")
    model.merge_lora()
    for weight in model.weights:
        assert "lora" not in weight.path
        if weight.path in kernels:
            kernel = kernels[weight.path]
            np.testing.assert_allclose(weight, kernel, rtol=0, atol=1e-6)
    after = model(small_batch())["text_embedding"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    assert len(model.text_encoder.trainable_weights) > 10


@pytest.mark.ci
def test_half_precision_does_not_round_the_merged_kernels(adapted, tmp_path):
    arguments = {"training": "lora", "rank": 2, "dtype": "mixed_bfloat16"}
    model = ALIGN.from_preset(adapted[1], **arguments)
    set_random_factors(model)
    model.save_to_preset(tmp_path)
    values = {w.path: w.numpy() for w in ALIGN.from_preset(tmp_path).weights}
    for path, kernel in numpy_kernels(model).items():
        np.testing.assert_allclose(values[path], kernel, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"training": "lora", "rank": 2}, marks=pytest.mark.ci)],
    ids=["plain", "lora"],
)
def test_saved_factors_reproduce_the_model_from_its_base(options, adapted, tmp_path):
    model, base = adapted
    path = tmp_path / "trained.lora.h5"
    model.save_lora_weights(path)
    size = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert path.stat().st_size < 4 * size + 100_000
    copy = ALIGN.from_preset(base, **options)
    copy.load_lora_weights(path)
    assert_same_embeddings(model, copy, atol=0)
    assert float(copy.temperature) == pytest.approx(0.3)
    assert trained_paths(copy) == trained_paths(model)


@pytest.mark.ci
def test_keras_hub_reads_saved_factors(adapted, tmp_path):
    model, base = adapted
    path = tmp_path / "trained.lora.h5"
    model.save_lora_weights(path)
    copy = ALIGN.from_preset(base).backbone
    keras_hub.models.Backbone.enable_lora(copy, 2, copy.default_lora_layer_names())
    keras_hub.models.Backbone.load_lora_weights(copy, path)
    assert_same_embeddings(model, copy, atol=0)


@pytest.mark.ci
def test_factors_of_keras_hub_are_read(adapted, tmp_path):
    _, base = adapted
    path = tmp_path / "trained.lora.h5"
    model = ALIGN.from_preset(base)
    names = model.backbone.default_lora_layer_names()
    keras_hub.models.Backbone.enable_lora(model.backbone, 2, names)
    set_random_factors(model, seed=3)
    keras_hub.models.Backbone.save_lora_weights(model.backbone, path)
    copy = ALIGN.from_preset(base)
    copy.load_lora_weights(path)
    assert_same_embeddings(model, copy, atol=0)


@pytest.mark.ci
def test_factors_of_other_layers_are_loaded(adapted, tmp_path):
    _, base = adapted
    path = tmp_path / "query.lora.h5"
    model, plain, other = (ALIGN.from_preset(base) for _ in range(3))
    model.enable_lora(1, ["query"])
    set_random_factors(model)
    model.save_lora_weights(path)
    plain.load_lora_weights(path)
    assert {layer.name for layer in adapted_layers(plain)} == {"query"}
    assert_same_embeddings(model, plain, atol=0)
    other.enable_lora(1, ["value"])
    with pytest.raises(InputError, match=r"\(value\) .*\(query\)"):
        other.load_lora_weights(path)


@pytest.mark.ci
def test_one_encoder_with_lora_and_one_with_another_mode(adapted, tmp_path):
    _, base = adapted
    model = ALIGN.from_preset(base)
    model.image_encoder.set_training("full")
    model.text_encoder.set_training("lora", rank=1)
    set_random_factors(model)
    model(small_batch(), training=True)
    model.image_encoder.get_layer("projection").bias.assign(np.ones(16))
    model.save_lora_weights(tmp_path / "a.lora.h5")
    copy = ALIGN.from_preset(base)
    copy.load_lora_weights(tmp_path / "a.lora.h5")
    assert_same_embeddings(model, copy, atol=0)


@pytest.mark.ci
def test_files_that_do_not_fit_are_refused(adapted, tmp_path):
    model, base = adapted
    path = tmp_path / "trained.lora.h5"
    model.save_lora_weights(path)
    plain = ALIGN.from_preset(base)
    before = [weight.numpy() for weight in plain.weights]
    with pytest.raises(InputError, match=r"filepath .*\.lora\.h5"):
        model.save_lora_weights(tmp_path / "trained.h5")
    with pytest.raises(InputError, match="missing.lora.h5"):
        plain.load_lora_weights(tmp_path / "missing.lora.h5")
    damaged = tmp_path / "damaged.lora.h5"
    damaged.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged"):
        plain.load_lora_weights(damaged)
    with pytest.raises(InputError, match="LoRA factors"):
        plain.save_lora_weights(path)
    plain.image_encoder.get_layer("projection").bias.assign(np.ones(16))
    with pytest.raises(InputError, match="one from which"):
        plain.load_lora_weights(path)
    with pytest.raises(InputError, match="the architecture"):
        small_align(projection_dim=8).load_lora_weights(path)
    plain = ALIGN.from_preset(base, training="lora", rank=1)
    with pytest.raises(InputError, match="rank 1 .* rank 2"):
        plain.load_lora_weights(path)
    plain = ALIGN.from_preset(base)
    for weight, value in zip(plain.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_from_preset_sets_the_mode_of_both_encoders(adapted):
    _, base = adapted
    model = ALIGN.from_preset(base, training="last_blocks", blocks=1)
    assert not model.image_encoder.blocks[0].trainable
    assert model.image_encoder.blocks[-1].trainable
    with pytest.raises(InputError, match="rank"):
        ALIGN.from_preset(base, rank=2)
    with pytest.raises(InputError, match="training='some'"):
        ALIGN.from_preset(base, training="some")
    with pytest.raises(InputError, match="rank"):
        ALIGN.from_preset(base, training="projection", rank=16)
    with pytest.raises(InputError, match="blocks"):
        ALIGN.from_preset(base, training="lora", blocks=3)
