"""Names, shapes and values of the inputs of `ALIGN`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.losses.matryoshka_loss import MatryoshkaLoss
from align_keras.losses.pair_loss import PairLoss, RowLoss
from align_keras.utils.errors import InputError

INPUTS = ("images", "token_ids", "padding_mask")
# Remedy of the messages about data that `fit` doesn't accept.
ACCEPTED = (
    "Pass images and their captions, a tf.data.Dataset or an iterable of batches of "
    "them, or model inputs as align_keras.models.image_text_batches returns them."
)
GRAY_LEVELS = (
    "images must be gray levels in [0, 255]. Multiply floats in [0, 1] by 255, or pass "
    "uint8 for dark images."
)


def check_data(model: keras.Model, data: Any) -> None:
    """Raises unless the batch of a step consists of valid inputs of the model."""
    inputs, *targets = data if isinstance(data, tuple | list) else (data,)
    if any(target is not None for target in targets):
        raise InputError(
            "A batch must contain only inputs. Received: inputs with targets or "
            "weights, which the contrastive loss does not use. Remove them."
        )
    check_model_inputs(model, inputs)


def loss_input_names(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of the inputs that only the loss of the model reads."""
    loss = getattr(model, "loss", None)
    return loss.required_inputs if isinstance(loss, PairLoss) else ()


def check_loss_inputs(loss: PairLoss, inputs: dict) -> None:
    """Raises unless a batch has the inputs that the loss requires."""
    missing = [name for name in loss.required_inputs if name not in inputs]
    if missing:
        raise InputError(
            f"A batch must contain {', '.join(missing)} for this loss. Received: "
            f"{', '.join(sorted(inputs))}. Pass batches of align_keras.models."
            "image_text_batches, with teacher=… for DistillationLoss."
        )


def check_compared_pairs(loss: PairLoss | None, pairs: int | None) -> None:
    """Raises if the loss of a batch is always 0, because no pairs are compared."""
    if pairs is None or not isinstance(loss, RowLoss | MatryoshkaLoss):
        return
    if pairs * getattr(loss, "negatives_fraction", 1.0) <= 1:
        raise InputError(
            "A training batch must have at least 2 pairs that the loss compares. "
            f"Received: {pairs}. Raise batch_size, or pass more pairs."
        )


def check_model_inputs(model: keras.Model, inputs: dict) -> None:
    """Raises unless the names, dtypes and shapes of the inputs fit the model."""
    if not isinstance(inputs, dict) or not set(INPUTS) <= set(inputs):
        raise InputError(
            f"inputs must be a dict of {', '.join(INPUTS)}. Received: "
            f"{type_and_shape(inputs)}. {ACCEPTED}"
        )
    shapes = {name: tf.TensorShape(inputs[name].shape) for name in INPUTS}
    dtypes = {name: tf.as_dtype(inputs[name].dtype) for name in INPUTS}
    tokens = tf.TensorShape((shapes["images"].rank and shapes["images"][0], None))
    limit = model.text_encoder.max_sequence_length
    length = shapes["token_ids"].rank == 2 and shapes["token_ids"][1]
    fits = {
        "images": shapes["images"].is_compatible_with((None, None, None, 3))
        and (dtypes["images"].is_integer or dtypes["images"].is_floating),
        "token_ids": shapes["token_ids"].is_compatible_with(tokens)
        and dtypes["token_ids"].is_integer
        and (length or 0) <= limit,
        "padding_mask": shapes["padding_mask"].is_compatible_with(tokens)
        and shapes["padding_mask"].is_compatible_with(shapes["token_ids"])
        and (dtypes["padding_mask"].is_integer or dtypes["padding_mask"].is_bool),
    }
    rules = {
        "images": "gray levels (n, height, width, 3)",
        "token_ids": f"integers (n, length), of length at most {limit}",
        "padding_mask": "integers or bool, of the shape of token_ids",
    }
    for name in INPUTS:
        if not fits[name]:
            raise InputError(
                f"{name} must be {rules[name]}. Received: {dtypes[name].name} "
                f"{shapes[name]} with images {shapes['images']}. {ACCEPTED}"
            )
    token_ids = inputs["token_ids"]
    if isinstance(token_ids, np.ndarray) or hasattr(token_ids, "numpy"):
        _check_token_ids(np.asarray(token_ids), model.text_encoder.vocabulary_size)


def _check_token_ids(token_ids: np.ndarray, vocabulary_size: int) -> None:
    """Raises unless the text encoder has an embedding for each token."""
    is_token = (token_ids >= 0) & (token_ids < vocabulary_size)
    if not is_token.all():
        raise InputError(
            f"{token_id_rule(vocabulary_size)} Received: {token_ids[~is_token][0]}. "
            "Use the tokenizer of the model."
        )


def token_id_rule(vocabulary_size: int) -> str:
    """Returns the rule for the values of `token_ids`."""
    return (
        f"token_ids must be at least 0 and below {vocabulary_size}, the "
        "vocabulary_size of the text encoder."
    )


def check_gray_levels(images: Any) -> None:
    """Raises if float images seem to be scaled to [0, 1] instead of [0, 255].

    Integer images always pass, since an integer image may be dark.
    """
    if tf.as_dtype(images.dtype).is_floating and bool(is_scaled_to_one(images)):
        largest = float(np.max(images))
        raise InputError(f"{GRAY_LEVELS} Received: floats of at most {largest:g}.")


def is_scaled_to_one(images: Any) -> tf.Tensor:
    """Returns True if all values are at most 1, unless all of them are 0."""
    largest = tf.reduce_max(images)
    return (largest > 0) & (largest <= 1) & (tf.reduce_min(images) >= -1)


def select_inputs(batch: dict, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the entries of a batch with these names, without missing entries."""
    return {name: batch[name] for name in names if name in batch}


def row_count(values: Any) -> int | None:
    """Returns the number of rows or batches, or None if it is unknown."""
    try:
        return len(values)
    except TypeError:
        # Generators and torch loaders of iterable datasets have no length.
        return None


def empty_data_error(x: Any) -> InputError:
    """Returns the error for data without a batch."""
    kind = "a tf.data.Dataset" if isinstance(x, tf.data.Dataset) else type_and_shape(x)
    return InputError(
        f"The data must contain at least one batch. Received: {kind} without a batch. "
        "Check the files and filters of the data. With drop_remainder, use a batch "
        "size that is at most the number of pairs."
    )


def type_and_shape(value: Any) -> str:
    """Describes a value in a message by its type and its keys or its shape."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {shape}"
