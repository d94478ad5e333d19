"""Tests of the text encoders DistilBERT, ALBERT and ELECTRA of KerasHub."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.export import export_saved_model
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.models.conversion.bert import bert_links
from align_keras.presets.variants import (
    ARCHITECTURES,
    IMAGE_VARIANTS,
    image_encoder_arguments,
)
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_batch, small_encoders

SIZES = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}


ACTIVATIONS = {
    "distil_bert": "gelu",
    "albert": "gelu_approximate",
    "electra": "gelu_approximate",
}
# ELECTRA is tested only in the ci tier.
ARCHITECTURE_CASES = [
    "distil_bert",
    "albert",
    pytest.param("electra", marks=pytest.mark.ci),
]


def build(architecture="distil_bert", **arguments):
    size = "small" if architecture == "electra" else "base"
    return TextEncoder.from_variant(
        f"{architecture}_{size}",
        vocabulary_size=len(VOCABULARY),
        sequence_length=8,
        **{**SIZES, **arguments},
    )


@pytest.mark.parametrize(
    "pooling", [pytest.param("cls", marks=pytest.mark.release), "mean"]
)
@pytest.mark.parametrize("architecture", ARCHITECTURE_CASES)
def test_outputs_equal_those_of_keras_hub(architecture, pooling):
    activation = ACTIVATIONS[architecture]
    encoder = build(architecture, pooling=pooling, activation=activation)
    reference = type(encoder.backbone)(
        max_sequence_length=8,
        **{ARCHITECTURES[architecture].vocabulary_argument: len(VOCABULARY)},
        **({} if architecture == "distil_bert" else {"embedding_dim": 128}),
        **SIZES,
    )
    seed = keras.random.SeedGenerator(0)
    for variable in encoder.backbone.weights:
        variable.assign(keras.random.normal(variable.shape, stddev=0.3, seed=seed))
    reference.set_weights(encoder.backbone.get_weights())
    inputs = {name: small_batch()[name] for name in ("token_ids", "padding_mask")}
    inputs["padding_mask"][1, 3:] = 0
    mask = inputs["padding_mask"][..., None]
    all_inputs = {**inputs, "segment_ids": 0 * inputs["token_ids"]}
    sequence = reference({name: all_inputs[name] for name in reference.input})
    if isinstance(sequence, dict):
        sequence = sequence["sequence_output"]
    expected = (sequence * mask).numpy().sum(1) / mask.sum(1)
    if pooling == "cls":
        expected = sequence[:, 0]
    np.testing.assert_allclose(encoder(inputs), expected, atol=2e-5)


@pytest.mark.release
@pytest.mark.parametrize("architecture", ACTIVATIONS)
def test_a_model_trains_and_its_files_restore_the_embeddings(architecture, tmp_path):
    keras.utils.set_random_seed(0)
    image_encoder, _ = small_encoders()
    text_encoder = build(architecture, projection_dim=16, rematerialize=True)
    model = ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)
    before = text_encoder.get_weights()
    model.compile(keras.optimizers.AdamW(1e-2))
    batches = tf.data.Dataset.from_tensors(small_batch()).repeat(8)
    losses = model.fit(batches, epochs=8, steps_per_epoch=1, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    weights = zip(before, text_encoder.get_weights(), strict=True)
    num_changed = sum((old != new).any() for old, new in weights)
    # The bias of keys has no gradient, since softmax ignores it.
    assert num_changed > len(before) - 8
    captions = ["a red cat", "dog"]
    expected = model.encode_texts(captions)
    model.save(tmp_path / "align.keras")
    model.save_to_preset(tmp_path / "preset")
    for copy in (
        keras.saving.load_model(tmp_path / "align.keras"),
        ALIGN.from_preset(tmp_path / "preset"),
    ):
        assert copy.text_encoder.architecture == architecture
        np.testing.assert_array_equal(copy.encode_texts(captions), expected)
    export_saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export" / "align" / "1"))
    tokens = model.tokenizer(captions)
    outputs = served.signatures["encode_token_ids"](
        **{name: tf.constant(value) for name, value in tokens.items()}
    )
    np.testing.assert_allclose(outputs["text_embedding"], expected, atol=1e-5)


def test_weights_of_a_bert_are_refused():
    with pytest.raises(InputError, match="distil_bert"):
        bert_links(build())
    with pytest.raises(InputError, match="architecture"):
        TextEncoder.from_variant("bert_tiny", vocabulary_size=9, architecture="gpt")


@pytest.mark.ci
def test_arguments_override_those_of_a_variant():
    assert TextEncoder.from_variant("minilm_l6", vocabulary_size=9).hidden_dim == 384
    with pytest.raises(InputError, match="bert_hug"):
        TextEncoder.from_variant("bert_hug", vocabulary_size=9)
    narrow = ImageEncoder.from_variant(
        "b0", 16, width_coefficient=0.25, depth_coefficient=None, padding=None
    )
    assert (narrow.width_coefficient, narrow.depth_coefficient) == (0.25, 1.0)
    assert (narrow.projection_dim, narrow.padding) == (16, "tf")
    assert ImageEncoder.from_variant("lite0", image_size=32).lite
    with pytest.raises(InputError, match="b9"):
        ImageEncoder.from_variant("b9")
    for name in IMAGE_VARIANTS:
        assert image_encoder_arguments(name.removeprefix("efficientnet_"), 640)
