"""Tests of the arguments of `from_preset`, `compile` and the constructors."""

import keras
import numpy as np
import pytest

from align_keras.models import ALIGN, ImageClassifier
from align_keras.utils.errors import InputError
from tests.helpers.align_folders import tiny_align
from tests.helpers.small import VOCABULARY, small_align, small_batch, small_encoders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    small_align(synchronized=True).save_to_preset(folder)
    return folder


def test_arguments_for_a_preset_name_reach_the_encoders():
    model = ALIGN.from_preset(
        "align_nano",
        vocabulary=VOCABULARY,
        normalization="bert_cased",
        learn_temperature=False,
        dropout=0.0,
        pooling="mean",
        activation="gelu",
        max_sequence_length=20,
        sequence_length=12,
        drop_connect_rate=0.0,
        pixel_mean=100.0,
        padding="hugging_face",
        image_size=48,
        projection_dim=24,
        rematerialize=True,
        dtype="bfloat16",
        name="small",
    )
    image, text = model.image_encoder, model.text_encoder
    assert (text.dropout, text.pooling, text.activation) == (0.0, "mean", "gelu")
    assert (text.sequence_length, text.max_sequence_length) == (12, 20)
    assert (image.drop_connect_rate, image.pixel_mean) == (0.0, 100.0)
    assert image.padding == "hugging_face"
    assert (model.image_size, image.projection_dim, text.projection_dim) == (48, 24, 24)
    assert image.rematerialize and text.rematerialize
    assert image.dtype_policy.name == text.dtype_policy.name == "bfloat16"
    assert (model.normalization, model.name) == ("bert_cased", "small")
    assert not model.backbone.learn_temperature and text.vocabulary_size == len(
        VOCABULARY
    )


@pytest.mark.ci
def test_arguments_for_a_folder_must_not_change_the_meaning_of_the_weights(folder):
    model = ALIGN.from_preset(
        folder, dropout=0.25, locked=True, image_size=40, learn_temperature=False
    )
    plain = ALIGN.from_preset(folder)
    assert (model.text_encoder.dropout, model.image_size) == (0.25, 40)
    assert model.image_encoder.locked and model.image_encoder.synchronized
    # Only the kernels and biases of both projections are trainable.
    assert len(model.trainable_variables) == 4
    batch = small_batch()
    # Threads may add in another order, so the last bits of float32 may differ.
    np.testing.assert_allclose(
        model(batch)["text_embedding"], plain(batch)["text_embedding"], atol=1e-6
    )
    for name, value in {"pooling": "mean", "projection_dim": 8}.items():
        words = f"{name} can only"
        with pytest.raises(InputError, match=words):
            ALIGN.from_preset(folder, **{name: value})


@pytest.mark.ci
def test_arguments_for_a_hugging_face_folder_reach_the_model():
    model = ALIGN.from_preset(tiny_align(), dropout=0.25, name="renamed")
    assert (model.text_encoder.dropout, model.name) == (0.25, "renamed")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda folder: ALIGN(small_align().backbone, preprocesor=None),
            "preprocessor",
        ),
        (
            lambda folder: ImageClassifier(small_encoders()[0], 3, xyz=1),
            "xyz",
        ),
        (
            lambda folder: ALIGN.from_preset("align_nano", droput=0.0),
            "dropout",
        ),
        (lambda folder: ALIGN.from_preset(folder, droput=0.0), "mean dropout"),
        (
            lambda folder: ALIGN.from_preset("align_nano", num_layers=2),
            "num_layers",
        ),
        (
            lambda folder: ALIGN.from_preset("align_nano", sequence_length=2),
            "sequence_length",
        ),
        (
            lambda folder: small_align().compile(label_smoothing=0.1),
            "label_smoothing",
        ),
        (
            lambda folder: small_align().compile(metrics=["accuracy"]),
            "metrics",
        ),
    ],
)
def test_unknown_arguments_are_refused(folder, call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.ci
def test_arguments_of_keras_are_accepted():
    model = small_align(trainable=False)
    assert not model.trainable_variables
    model.compile(keras.optimizers.SGD(0.1), loss=None, run_eagerly=True)
    assert model.run_eagerly
