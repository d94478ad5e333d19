"""The towers as functions of pixels and of token ids, as converters take them."""

import numpy as np
import tensorflow as tf

from align_keras.utils.errors import InputError

# Inputs by which a converted file is checked.
CHECKED = 8


def image_tower_function(model, resizable):
    """Returns the image tower as a function.

    Args:
        model: `ALIGN` that computes in float32.
        resizable: bool; True leaves number, height and width of the pictures open,
            else they are 1, S and S.

    Returns:
        `tf.function`: `images`, float32 (n, height, width, 3), grey levels in
        [0, 255] → dict with `image_embedding`, float32 (n, d) of unit length.

    Raises:
        InputError: if the model lacks the tower, or computes in another dtype.
    """
    _check(model, "image_encoder")
    encoder, normalise = model.image_encoder, model.normalize_image
    size = model.image_size
    shape = (None, None, None, 3) if resizable else (1, size, size, 3)

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32, name="images")],
        autograph=False,
    )
    def encode(images):
        return {"image_embedding": normalise(encoder(images, training=False))}

    return encode


def text_tower_function(model, resizable):
    """Returns the text tower as a function.

    Args:
        model: `ALIGN` that computes in float32.
        resizable: bool; True leaves the number of texts open, else it is 1.

    Returns:
        `tf.function`: `token_ids` and `padding_mask`, int32 (n, L) → dict with
        `text_embedding`, float32 (n, d) of unit length.

    Raises:
        InputError: if the model lacks the tower, or computes in another dtype.
    """
    _check(model, "text_encoder")
    encoder, normalise = model.text_encoder, model.normalize_text
    shape = (None if resizable else 1, encoder.sequence_length)

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape, tf.int32, name="token_ids"),
            tf.TensorSpec(shape, tf.int32, name="padding_mask"),
        ],
        autograph=False,
    )
    def encode(token_ids, padding_mask):
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return {"text_embedding": normalise(encoder(inputs, training=False))}

    return encode


def noise(size):
    """Returns random pictures, float32 (`CHECKED`, size, size, 3) in [0, 255]."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (CHECKED, size, size, 3)).astype("float32")


def some_tokens(model):
    """Returns token ids and masks of `CHECKED` texts of different lengths, a dict.

    Raises:
        InputError: if the model has no vocabulary.
    """
    words = [token for token in model.tokenizer.vocabulary if token.isalnum()]
    texts = [" ".join(words[-count:]) for count in range(CHECKED)]
    return {name: np.asarray(own) for name, own in model.tokenizer(texts).items()}


def _check(model, name):
    if not hasattr(model, name):
        raise InputError(
            f"model must be an ALIGN, received {type(model).__name__} without "
            f"{name}; build one by ALIGN.from_preset."
        )
    policies = {own.dtype_policy.name for own in getattr(model, name)._flatten_layers()}
    if policies != {"float32"}:
        raise InputError(
            "model must compute in float32 to be converted, received a "
            f"{name} in {', '.join(sorted(policies - {'float32'}))}; open it by "
            'ALIGN.from_preset(…, dtype="float32").'
        )
