"""Training of the projections on features that are computed once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.config.experiment_config import FinetuneConfig
from align_keras.losses import PairLoss
from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.models import ALIGN
from align_keras.models.embedding import embed_images, embed_texts
from align_keras.optimizers import AdamW

# Rows of features that are embedded or projected at once.
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class PairFeatures:
    """Outputs of the encoders before their projections, for images with captions.

    Attributes:
        images: float32 (images, features).
        texts: float32 (captions, features), the captions of all images.
        token_ids: int32 (captions, length).
        image_rows: int64 (captions,), row of the image of each caption, in increasing
            order.
        image_ids: int64 (images,), equal for equal images.
    """

    images: np.ndarray
    texts: np.ndarray
    token_ids: np.ndarray
    image_rows: np.ndarray
    image_ids: np.ndarray


def compute_features(
    model: ALIGN,
    images: Sequence[Any],
    captions: Sequence[Sequence[str]],
    image_keys: Sequence[str],
) -> PairFeatures:
    """Computes the features of images without augmentation, and of all their captions.

    Args:
        model: `ALIGN` with a preprocessor.
        images: images that `ALIGN.encode_images` accepts.
        captions: captions of each image.
        image_keys: key of each image, equal for equal images.
    """
    preprocessor = model.require_preprocessor()
    image_body = _without_projection(model.image_encoder)
    text_body = _without_projection(model.text_encoder)
    size = model.image_size
    spec = tf.TensorSpec((None, size, size, 3), tf.float32)

    @tf.function(input_signature=[spec], autograph=False)
    def image_features(pixels: tf.Tensor) -> tf.Tensor:
        return tf.cast(image_body(pixels, training=False), tf.float32)

    @tf.function(reduce_retracing=True, autograph=False)
    def text_features(tokens: dict) -> tf.Tensor:
        return tf.cast(text_body(tokens, training=False), tf.float32)

    texts = [text for image_captions in captions for text in image_captions]
    image_rows = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
    _, image_ids = np.unique(np.asarray(image_keys), return_inverse=True)
    return PairFeatures(
        images=embed_images(
            images,
            lambda pixels: image_features(pixels).numpy(),
            preprocessor.image_converter,
            image_body.output_shape[-1],
        ),
        texts=embed_texts(
            texts,
            lambda tokens: text_features(tokens).numpy(),
            preprocessor,
            text_body.output_shape[-1],
            batch_size=_ROWS,
        ),
        token_ids=preprocessor.tokenize(texts)["token_ids"].numpy(),
        image_rows=image_rows,
        image_ids=image_ids.reshape(-1).astype("int64"),
    )


def _without_projection(encoder: Any) -> keras.Model:
    """Returns the encoder up to its projection."""
    if encoder.projection_dim is None:
        return encoder
    return keras.Model(encoder.inputs, encoder.get_layer("projection").input)


def project_features(
    model: ALIGN, features: PairFeatures
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings of the images and of the captions, rows of unit length."""
    project_image, project_text = _projections(model)
    return (
        np.concatenate(
            [
                project_image(features.images[start : start + _ROWS]).numpy()
                for start in range(0, len(features.images), _ROWS)
            ]
        ),
        np.concatenate(
            [
                project_text(features.texts[start : start + _ROWS]).numpy()
                for start in range(0, len(features.texts), _ROWS)
            ]
        ),
    )


def _projections(model: ALIGN) -> tuple[Callable, Callable]:
    """Returns the projections of images and of texts, with their normalization."""

    def project(encoder: Any, normalize: keras.layers.Layer) -> Callable:
        if encoder.projection_dim is None:
            return normalize
        projection = encoder.get_layer("projection")
        return lambda rows: normalize(projection(rows))

    return (
        project(model.image_encoder, model.normalize_image),
        project(model.text_encoder, model.normalize_text),
    )


def train_projections(
    model: ALIGN,
    features: PairFeatures,
    loss: PairLoss,
    settings: FinetuneConfig,
    *,
    evaluate: Callable[[], float],
    batch_size: int,
    seed: int = 0,
    teacher_rows: Sequence[np.ndarray] = (),
) -> list[float]:
    """Trains the projections and the temperature, and keeps the best weights.

    The learning rate has a cosine decay. An epoch contains each image once with a
    random caption.

    Args:
        model: `ALIGN` with at least one projection.
        features: `PairFeatures` of the training pairs.
        loss: `PairLoss`.
        settings: `projection_epochs` ≥ 1, `projection_rate` and `patience` are used.
        evaluate: function that returns the quality of the current projections, such as
            validation recall.
        batch_size: at most the number of images.
        seed: seed of the order and of the captions.
        teacher_rows: embeddings of the teacher for `DistillationLoss`, float32
            (images, t) and (captions, t), or nothing without a teacher.

    Returns:
        list of float, the values of `evaluate` before the training and after each
        epoch.
    """
    project_image, project_text = _projections(model)
    variables = [
        variable
        for encoder in (model.image_encoder, model.text_encoder)
        if encoder.projection_dim is not None
        for variable in encoder.get_layer("projection").trainable_variables
    ]
    variables += model.temperature_layer.trainable_variables
    steps_per_epoch = len(features.images) // batch_size
    steps = settings.projection_epochs * steps_per_epoch
    schedule = keras.optimizers.schedules.CosineDecay(settings.projection_rate, steps)
    optimizer = AdamW(schedule, weight_decay=0.0)
    optimizer.build(variables)

    @tf.function(reduce_retracing=True, autograph=False)
    def step(images: Any, texts: Any, inputs: dict[str, Any]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = loss.batch_losses(
                project_image(images), project_text(texts), model.temperature, inputs
            )
            total = loss.total(*losses)
        optimizer.apply(tape.gradient(total, variables), variables)
        return total

    random = np.random.default_rng(seed)
    image_count = len(features.images)
    first_caption = np.searchsorted(features.image_rows, np.arange(image_count))
    caption_counts = np.bincount(features.image_rows, minlength=image_count)
    values = [evaluate()]
    best = [variable.numpy() for variable in variables]
    for _ in range(settings.projection_epochs):
        order = random.permutation(image_count)
        captions = first_caption + random.integers(0, caption_counts)
        for start in range(0, steps_per_epoch * batch_size, batch_size):
            images = order[start : start + batch_size]
            texts = captions[images]
            inputs = {
                "token_ids": tf.constant(features.token_ids[texts]),
                "image_ids": tf.constant(features.image_ids[images]),
            }
            for name, embeddings, rows in zip(
                TEACHER_INPUTS, teacher_rows, (images, texts), strict=False
            ):
                inputs[name] = tf.constant(embeddings[rows])
            step(
                tf.constant(features.images[images]),
                tf.constant(features.texts[texts]),
                inputs,
            )
        values.append(evaluate())
        if values[-1] > max(values[:-1]):
            best = [variable.numpy() for variable in variables]
        if len(values) - 1 - int(np.argmax(values)) >= settings.patience:
            break
    for variable, value in zip(variables, best, strict=True):
        variable.assign(value)
    return values
