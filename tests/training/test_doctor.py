"""Tests of the training doctor. Each finding is provoked by a short training."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import ALIGN, TextEncoder
from align_keras.optimizers import AdamW
from align_keras.training import TrainingDoctor
from tests.helpers.small import small_encoders
from tests.helpers.small_run import COLORS, SHAPES, draw

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *COLORS, *SHAPES]
IMAGES = np.stack(
    [np.asarray(draw(color, shape)) for color in COLORS for shape in SHAPES]
)
CAPTIONS = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]
BATCH_SIZE = 20


def compiled_model(
    loss=None, optimizer=None, initial_temperature=0.1, learn_temperature=True
):
    keras.utils.set_random_seed(0)
    image_encoder, _ = small_encoders(batch_norm_momentum=0.9)
    text_encoder = TextEncoder(
        vocabulary_size=len(WORDS),
        num_layers=1,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        projection_dim=16,
        sequence_length=8,
        dropout=0.0,
    )
    model = ALIGN.from_encoders(
        image_encoder,
        text_encoder,
        vocabulary=WORDS,
        initial_temperature=initial_temperature,
        learn_temperature=learn_temperature,
    )
    model.compile(optimizer, loss)
    return model


def findings_of(model, steps=110, images=IMAGES, captions=CAPTIONS, **arguments):
    """Trains for some steps and returns the findings by name."""
    doctor = TrainingDoctor(verbose=0)
    model.fit(
        images,
        captions,
        batch_size=BATCH_SIZE,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[doctor],
        **arguments,
    )
    return {finding.name: finding for finding in doctor.findings}


@pytest.fixture(scope="module")
def model():
    """Compiled model for trainings of a few steps, whose weights don't matter."""
    return compiled_model(optimizer=AdamW(1e-3))


# === Learning ===


@pytest.mark.ci
def test_a_training_that_works_has_no_findings_until_its_learning_rate_is_raised():
    model = compiled_model(optimizer=AdamW(1e-2))
    assert not findings_of(model)
    # Larger steps destroy what the model has learned.
    model.compile(AdamW(0.5))
    assert list(findings_of(model)) == ["learning_rate_too_high"]


@pytest.mark.ci
def test_captions_of_other_images_leave_the_loss_at_chance():
    model = compiled_model(optimizer=AdamW(1e-3))
    images = tf.data.Dataset.from_tensor_slices(IMAGES).shuffle(40, seed=1)
    captions = tf.data.Dataset.from_tensor_slices(CAPTIONS).shuffle(40, seed=2)
    mixed = tf.data.Dataset.zip((images, captions)).repeat().batch(BATCH_SIZE)
    findings = findings_of(model, images=mixed, captions=None)
    # The encoders learn nothing, so their embeddings may coincide too.
    assert list(findings)[0] == "loss_at_chance"
    assert findings["loss_at_chance"].details["pairs"] == BATCH_SIZE


@pytest.mark.ci
def test_a_low_learning_rate_is_recognized_by_its_steady_decrease():
    model = compiled_model(optimizer=keras.optimizers.SGD(1e-5))
    findings = findings_of(model)
    assert list(findings)[0] == "learning_rate_too_low"


@pytest.mark.ci
def test_a_high_learning_rate_is_recognized_by_its_increase():
    model = compiled_model(optimizer=AdamW(1.0))
    findings = findings_of(model)
    assert "learning_rate_too_high" in findings


@pytest.mark.ci
def test_a_loss_without_negatives_collapses_the_embeddings():
    def distance(images, texts, temperature):
        return 1.0 - tf.matmul(images, texts, transpose_b=True)

    findings = findings_of(compiled_model(distance, AdamW(1e-2)))
    assert list(findings) == ["embeddings_collapsed"]


@pytest.mark.ci
def test_an_encoder_without_gradient_is_reported_unless_it_is_frozen():
    def one_sided(images, texts, temperature):
        scores = tf.matmul(images, tf.stop_gradient(texts), transpose_b=True) / 0.1
        return tf.reduce_logsumexp(scores, axis=1) - tf.linalg.diag_part(scores)

    model = compiled_model(one_sided, AdamW(1e-3))
    findings = findings_of(model, steps=12)
    assert "no_gradient" in findings
    assert "The text encoder has trainable" in findings["no_gradient"].problem
    model.text_encoder.trainable = False
    model.compile(AdamW(1e-3), one_sided)
    assert not findings_of(model, steps=12)


@pytest.mark.ci
def test_temperatures_at_a_bound_are_reported():
    for temperature, words in ((1.0, "can't fall by more"), (0.004, "below 0.01")):
        model = compiled_model(
            optimizer=AdamW(1e-3),
            initial_temperature=temperature,
            learn_temperature=False,
        )
        findings = findings_of(model)
        assert words in findings["temperature_at_bound"].problem


# === Inputs ===


@pytest.mark.ci
def test_findings_in_the_inputs_of_a_batch(model):
    captions = ["a circle", "a bar"] * 20
    assert list(findings_of(model, 2, captions=captions)) == ["equal_captions"]
    captions = [f"ein {'x' * number}" for number in range(1, 41)]
    assert "unknown_tokens" in findings_of(model, 2, captions=captions)
    # The pixels are in [0, 1], but white is 255.
    scaled = IMAGES.astype("float32") / 255
    findings = findings_of(model, 2, images=scaled, value_range=(0.0, 255.0))
    assert list(findings) == ["images_alike"]
    assert not findings_of(model, 2, images=scaled, value_range=(0.0, 1.0))
    # Each image is in both parts.
    images, captions = np.concatenate([IMAGES] * 2), CAPTIONS * 2
    findings = findings_of(model, 2, images, captions, validation_split=0.5)
    assert list(findings) == ["shared_images"]
    assert findings["shared_images"].details["shared_images"] == 40
    findings = findings_of(model, 2, validation_split=0.25)
    assert not findings


@pytest.mark.ci
def test_an_input_that_is_slower_than_the_step(model):
    batch = model.preprocessor(IMAGES[:BATCH_SIZE], y=CAPTIONS[:BATCH_SIZE])

    def slow_batches():
        for _ in range(12):
            time.sleep(0.5)
            yield batch

    findings = findings_of(model, 12, slow_batches(), None)
    assert list(findings) == ["slow_input"]


@pytest.mark.ci
def test_few_pairs_for_many_weights(capsys):
    model = ALIGN.from_preset("align_nano", vocabulary=WORDS, image_size=32)
    model.compile(AdamW(1e-3))
    model.fit(IMAGES[:8], CAPTIONS[:8], batch_size=4, verbose=2)
    err = capsys.readouterr().err
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert err.count("training problem: The training changes") == 1
    assert f"{weights:,} weights, but has only 8 pairs" in err
    model.fit(IMAGES[:8], CAPTIONS[:8], batch_size=4, verbose=0)
