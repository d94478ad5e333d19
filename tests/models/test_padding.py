"""Test that padding doesn't change the embedding of a caption."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import (
    ALIGN,
    ALIGNTokenizer,
    TextEncoder,
    compilation,
    gradients,
    step_function,
)
from align_keras.models.compilation import (
    common_length_function,
    cut_captions,
    is_compiled_by_xla,
    model_inputs,
)
from align_keras.models.gradients import (
    cached_loss_gradients,
    loss_gradients,
    scaled_loss,
)
from align_keras.optimizers import SGD
from align_keras.text.padding import LENGTH_STEP, trim_padding
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align, small_encoders


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_the_embedding(pooling):
    encoder = TextEncoder(
        vocabulary_size=20,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=8,
        sequence_length=8,
        pooling=pooling,
    )
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        if "float" in weight.dtype:
            weight.assign(random.normal(size=weight.shape))

    def embedding(token_ids, length):
        mask = np.arange(token_ids.shape[1]) < length
        inputs = {"token_ids": token_ids, "padding_mask": mask[None].astype("int32")}
        return np.asarray(encoder(inputs))

    token_ids = random.integers(0, 20, (1, 8)).astype("int32")
    expected = embedding(token_ids[:, :3], 3)
    # Products of other lengths are summed in another order in float32.
    np.testing.assert_allclose(embedding(token_ids, 3), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(embedding(token_ids, 8) - expected).max() > 0.1


def test_trimmed_tokens_end_with_the_longest_caption():
    tokenizer = ALIGNTokenizer(VOCABULARY, sequence_length=20)
    short = tokenizer.tokenize(["a b", "c"])
    assert trim_padding(short)["token_ids"].shape == (2, 4)
    trimmed = trim_padding(short, LENGTH_STEP)
    assert trimmed["token_ids"].shape == trimmed["padding_mask"].shape == (2, 8)
    for name, values in trimmed.items():
        np.testing.assert_array_equal(values, short[name][:, :8])
    # 6 words and the tokens of the start and of the end fill a length of 8.
    full = trim_padding(tokenizer.tokenize(["a b c d e f"]), LENGTH_STEP)
    assert full["padding_mask"].shape[1] == 8
    longer = trim_padding(tokenizer.tokenize(["a b c d e f g", "a"]), LENGTH_STEP)
    assert longer["padding_mask"].shape[1] == 16
    # 20 isn't a multiple of 8.
    longest = trim_padding(tokenizer.tokenize(["a " * 30]), LENGTH_STEP)
    assert longest["padding_mask"].shape[1] == 20


def test_padding_before_tokens_is_kept():
    mask = np.zeros((2, 20), bool)
    mask[0, 9:11] = mask[1, :3] = True
    tokens = {"token_ids": np.arange(40).reshape(2, 20), "padding_mask": mask}
    trimmed = trim_padding(tokens)
    np.testing.assert_array_equal(trimmed["token_ids"], tokens["token_ids"][:, :11])
    # The encoders need at least one token.
    empty = {**tokens, "padding_mask": np.zeros((2, 20), bool)}
    assert trim_padding(empty)["token_ids"].shape == (2, 1)


def batch_with_padding(model, length):
    """Returns a batch whose captions have at most 6 tokens of `length`."""
    tokens = model.preprocessor.tokenize(["a b", "c", "a b c d", "e f", "b"])
    missing = [(0, 0), (0, length - tokens["token_ids"].shape[1])]
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    return {
        "images": tf.constant(images),
        **{name: tf.pad(values, missing) for name, values in tokens.items()},
    }


def model_without_dropout(locked=False):
    """Returns a model without dropout, whose masks depend on the length."""
    keras.utils.set_random_seed(0)
    image_encoder, _ = small_encoders(
        num_stages=1, drop_connect_rate=0.0, locked=locked
    )
    text_encoder = TextEncoder(
        vocabulary_size=len(VOCABULARY),
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        dropout=0.0,
        sequence_length=40,
    )
    return ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_a_step_does_not_compute_common_padding(micro_batch_size):
    model = model_without_dropout(locked=True)
    model.compile(SGD(0.1), micro_batch_size=micro_batch_size)
    padded = batch_with_padding(model, 40)
    assert model_inputs(model, padded)["token_ids"].shape == (5, 8)
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(padded, training=True)
        expected, loss = scaled_loss(
            model, outputs["image_embedding"], outputs["text_embedding"], padded
        )
    expected_gradients = tape.gradient(loss, variables)
    if micro_batch_size is None:
        losses, gradients = loss_gradients(model, padded)
    else:
        losses, gradients = cached_loss_gradients(model, padded, 5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for variable, gradient, expected_gradient in zip(
        model.trainable_variables, gradients, expected_gradients, strict=True
    ):
        expected_gradient = tf.convert_to_tensor(expected_gradient)
        scale = np.abs(expected_gradient).max()
        # Products of other lengths are summed in another order in float32. The
        # gradients of a shift before a batch normalization are only rounding errors.
        np.testing.assert_allclose(
            gradient,
            expected_gradient,
            atol=1e-4 * scale + 1e-6,
            err_msg=variable.path,
        )


def test_buckets_have_few_lengths():
    common_length = common_length_function(tf.distribute.get_strategy())

    def length_of(longest):
        mask = np.zeros((2, 50), bool)
        mask[1, :longest] = True
        return common_length({"padding_mask": mask})

    lengths = [length_of(longest) for longest in (0, 1, 16, 17, 32, 33, 50)]
    assert lengths == [16, 16, 16, 32, 32, 50, 50]


def test_only_known_captions_are_shortened_for_xla():
    common_length = common_length_function(tf.distribute.get_strategy())
    tokens = {"token_ids": tf.ones((2, 40)), "padding_mask": tf.eye(2, 40)}
    batch = {"images": tf.zeros((2, 8, 8, 3)), **tokens}
    assert common_length((batch,)) == common_length(batch) == 16
    (shortened,) = cut_captions((batch,), 16)
    assert shortened["token_ids"].shape == shortened["padding_mask"].shape == (2, 16)
    assert shortened["images"] is batch["images"]
    rank_1 = {**batch, "padding_mask": np.ones(40)}
    for other in ({**batch, "padding_mask": object()}, rank_1, ({},), "a", None):
        assert common_length(other) is None
        assert cut_captions(other, None) is other


def test_replicas_with_masks_of_different_widths_keep_them(two_replicas):
    widths = iter((40, 48))
    masks = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.ones((2, next(widths)), tf.int32)
    )
    assert common_length_function(two_replicas)({"padding_mask": masks}) is None


@pytest.mark.parametrize(
    "longest, length", [((3, 30), 32), ((17, 2), 32), ((4, 5), 16)]
)
def test_replicas_have_a_common_length(two_replicas, longest, length):
    masks = np.concatenate([np.arange(40) < np.full((2, 1), n) for n in longest])
    dataset = tf.data.Dataset.from_tensors({"padding_mask": masks})
    (batch,) = two_replicas.experimental_distribute_dataset(dataset)
    assert common_length_function(two_replicas)(batch) == length


@pytest.mark.release
def test_replicas_train_at_a_common_length(two_replicas, monkeypatch):
    """TPUs take this path. XLA can't compile a step for several CPUs."""
    traced_lengths = []

    def traced_inputs(model, inputs):
        traced_lengths.append(inputs["token_ids"].shape[1])
        return model_inputs(model, inputs)

    monkeypatch.setattr(gradients, "model_inputs", traced_inputs)
    updated_weights = []
    for is_compiled in (False, True):
        monkeypatch.setattr(
            step_function,
            "is_compiled_by_xla",
            lambda model, is_compiled=is_compiled: is_compiled,
        )
        monkeypatch.setattr(
            compilation, "is_compiled_by_xla", step_function.is_compiled_by_xla
        )
        traced_lengths.clear()
        with two_replicas.scope():
            model = model_without_dropout()
            model.compile(SGD(0.1))
        short = {
            name: np.repeat(values, 2, axis=0)
            for name, values in batch_with_padding(model, 40).items()
        }
        # Only the second replica has a caption of 20 tokens.
        mask = short["padding_mask"].copy()
        mask[-1, :20] = 1
        first = tf.data.Dataset.from_tensors(short)
        second = tf.data.Dataset.from_tensors({**short, "padding_mask": mask})
        dataset = first.concatenate(second).concatenate(first)
        model.fit(dataset, verbose=0)
        updated_weights.append(model.get_weights())
    # Each of the two replicas is traced, and the third batch needs no other trace.
    assert traced_lengths == [16, 16, 32, 32]
    for plain, compiled in zip(*updated_weights, strict=True):
        # Products of other lengths are summed in another order in float32.
        np.testing.assert_allclose(plain, compiled, rtol=1e-3, atol=1e-4)


def test_xla_is_refused_on_several_replicas(two_replicas):
    with two_replicas.scope():
        model = small_align()
    with pytest.raises(InputError, match="jit_compile"):
        model.compile(SGD(0.1), jit_compile=True)
    assert model.jit_compile is False


def test_the_strategy_of_tpus_compiles_the_step(monkeypatch):
    monkeypatch.setattr(tf.distribute, "TPUStrategy", tf.distribute.Strategy)
    model = small_align()
    model.compile(SGD(0.1), jit_compile=True)
    assert model.jit_compile is False
    assert is_compiled_by_xla(model)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"token_ids": None}, "token_ids"),
        ({"padding_mask": np.ones((5, 48), "int32")}, "padding_mask"),
    ],
)
def test_wrong_captions_are_refused_before_they_are_cut(change, message):
    model = model_without_dropout()
    model.compile(SGD(0.1), jit_compile=True)
    batch = {**batch_with_padding(model, 40), **change}
    batch = {name: value for name, value in batch.items() if value is not None}
    with pytest.raises(InputError, match=message):
        model.train_on_batch(batch)


@pytest.mark.release
def test_a_step_that_xla_compiles_has_few_lengths(monkeypatch):
    updated_weights = []
    traced_lengths = []

    def traced_inputs(model, inputs):
        traced_lengths.append(inputs["token_ids"].shape[1])
        return model_inputs(model, inputs)

    monkeypatch.setattr(gradients, "model_inputs", traced_inputs)
    for is_compiled in (False, True):
        model = model_without_dropout()
        model.compile(SGD(0.1), jit_compile=is_compiled)
        short = batch_with_padding(model, 40)
        long = {**short, "padding_mask": np.eye(5, 40, 20, dtype="int32")}
        batches = [short, long, short]
        model.fit(iter(batches), steps_per_epoch=3, verbose=0)
        updated_weights.append(model.get_weights())
    assert traced_lengths[-2:] == [16, 32]
    for plain, compiled in zip(*updated_weights, strict=True):
        # XLA computes sums in float32 in another order.
        np.testing.assert_allclose(plain, compiled, rtol=1e-3, atol=1e-4)


def test_a_step_that_xla_compiles_keeps_the_length_of_its_batch():
    model = small_align()
    model.compile(SGD(0.1), jit_compile=True)
    inputs = model_inputs(model, batch_with_padding(model, 40))
    assert inputs["token_ids"].shape[1] == 40


@pytest.mark.parametrize(
    ("open_strategy", "expected"),
    [
        (tf.distribute.get_strategy, [2, 3, 6]),
        # Replicas trace the encoder for each length.
        (lambda: tf.distribute.OneDeviceStrategy("/cpu:0"), [8, 8, 8]),
    ],
)
def test_a_text_is_embedded_without_padding(monkeypatch, open_strategy, expected):
    with open_strategy().scope():
        model = small_align()
    lengths = []
    call = model.text_encoder.call

    def record_length(tokens, **options):
        lengths.append(tokens["token_ids"].shape[1])
        return call(tokens, **options)

    monkeypatch.setattr(model.text_encoder, "call", record_length)
    # With [CLS] and [SEP], the texts have 2, 3 and 6 tokens.
    for text in ("", "a", "a b c d"):
        model.encode_texts([text])
    assert lengths == expected


@pytest.mark.ci
def test_texts_keep_their_order_in_batches_of_similar_lengths():
    keras.utils.set_random_seed(0)
    image_encoder, text_encoder = small_encoders(sequence_length=40)
    random = np.random.default_rng(0)
    # With the initial weights, the embeddings of all texts would be almost equal.
    for weight in text_encoder.weights:
        weight.assign(random.normal(size=weight.shape))
    model = ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)
    texts = [
        " ".join(random.choice(list("abcdef"), size=length))
        for length in random.integers(0, 38, 50)
    ]
    # A window has 16 batches, so there are two windows.
    embeddings = model.encode_texts(texts, batch_size=2)
    tokens = model.preprocessor.tokenize(texts)
    padded = model.normalize_text(model.text_encoder(tokens, training=False))
    # Products of other lengths are summed in another order in float32.
    np.testing.assert_allclose(embeddings, padded, atol=1e-5)
    # Texts in another order would differ by more than this tolerance.
    assert np.abs(embeddings[1:] - embeddings[:-1]).max(axis=1).min() > 5e-5
    assert model.encode_texts([]).shape == (0, 16)
