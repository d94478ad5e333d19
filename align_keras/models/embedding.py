"""From pictures and captions as a user has them to embeddings."""

import concurrent.futures
import os

import keras
import numpy as np
import tensorflow as tf

from align_keras.evaluation.zero_shot import class_embeddings
from align_keras.images import (
    preprocess_image,
    preprocess_image_bytes,
    uint8_pixels,
)
from align_keras.models.image_engines import image_embedder
from align_keras.models.on_replicas import on_replicas
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, is_special
from align_keras.utils.image_limits import MAX_PIXELS


def encode_images(model, images, batch_size, engine=None, value_range=None):
    """As `ALIGN.encode_images`."""
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError(
            "images must be a list of paths, bytes or arrays, received one "
            f"{type(images).__name__}; write [image]."
        )
    embed = image_embedder(model, engine)
    pixels = _read_ahead(images, model.image_size, batch_size, value_range)
    batches = [embed(batch) for batch in pixels]
    return _concatenate(batches, model.image_encoder.output_shape[-1])


def _read_ahead(images, image_size, batch_size, value_range):
    """Yields float32 (≤ batch_size, S, S, 3), while threads read the next batch."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def submit(start):
        return [
            pool.submit(read_image, images[row], row, image_size, value_range)
            for row in range(start, min(start + batch_size, len(images)))
        ]

    try:
        waiting = submit(0)
        for start in range(0, len(images), batch_size):
            current, waiting = waiting, submit(start + batch_size)
            yield np.stack([picture.result() for picture in current])
    finally:
        pool.shutdown(cancel_futures=True)


def read_image(image, row, image_size, value_range=None):
    """Path, bytes or array → float32 (S, S, 3); names the picture on error."""
    name = f"images[{row}]"
    try:
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            if is_special(name):
                raise InputError(
                    f"images must be files, received {name}, a pipe or a device; "
                    "give a file's path or its bytes."
                )
            if os.path.isfile(name) and os.path.getsize(name) > MAX_FILE_BYTES:
                raise InputError(
                    f"images must be files of at most {MAX_FILE_BYTES:,} bytes, "
                    f"received {name} of {os.path.getsize(name):,}; leave it out."
                )
            image = tf.io.read_file(name)
        if isinstance(image, bytes) or tf.is_tensor(image) and image.dtype == tf.string:
            return preprocess_image_bytes(tf.convert_to_tensor(image), image_size)
    except tf.errors.NotFoundError:
        raise InputError(f"no such picture: {name}; check the path.") from None
    except tf.errors.OpError:
        raise InputError(
            "not a readable JPEG, PNG, GIF, BMP or WebP picture of at most "
            f"{MAX_PIXELS:,} pixels: {name}; open it and save it again, or leave it "
            "out."
        ) from None
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise InputError(
            f"{name} must be an array (height, width, 3), received {pixels.dtype} "
            f"{pixels.shape}; convert it to RGB."
        )
    try:
        return preprocess_image(uint8_pixels(pixels, value_range), image_size)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def encode_texts(model, texts, batch_size):
    """As `ALIGN.encode_texts`."""
    if isinstance(texts, str):
        raise InputError(
            f"texts must be a list of str, received one str {texts[:40]!r}; "
            "write [text]."
        )
    return _embed_texts(
        model,
        texts,
        batch_size,
        lambda tokens: model.normalise_text(model.text_encoder(tokens, training=False)),
        model.text_encoder.output_shape[-1],
    )


def similarity(model, images, texts, batch_size, value_range):
    """As `ALIGN.similarity`."""
    images = encode_images(model, images, batch_size, value_range=value_range)
    return images @ encode_texts(model, texts, batch_size).T


def classify(model, images, class_names, templates, batch_size, value_range):
    """As `ALIGN.classify`."""
    for name, value in {"class_names": class_names, "templates": templates}.items():
        if isinstance(value, str):
            raise InputError(
                f"{name} must be a list of str, received one str {value[:40]!r}; "
                "write it in brackets."
            )

    def encode(prompts):
        return encode_texts(model, prompts, batch_size)

    classes = class_embeddings(encode, class_names, templates)
    images = encode_images(model, images, batch_size, value_range=value_range)
    logits = images @ classes.T / float(model.temperature)
    logits -= logits.max(axis=1, keepdims=True)
    scores = np.exp(logits)
    return (scores / scores.sum(axis=1, keepdims=True)).astype("float32")


def encode_words(model, words, batch_size):
    """As `ALIGN.encode_words`."""
    encoder = model.text_encoder
    if encoder.projection_dim is not None:
        encoder = keras.Model(encoder.inputs, encoder.get_layer("projection").input)
    return _embed_texts(
        model,
        words,
        batch_size,
        lambda tokens: encoder(tokens, training=False),
        model.text_encoder.hidden_dim,
    )


def _embed_texts(model, texts, batch_size, embed, width):
    tokenizer = model.tokenizer
    embed = on_replicas(model.distribute_strategy, embed)
    batches = [
        embed(tokenizer(list(texts[start : start + batch_size])))
        for start in range(0, len(texts), batch_size)
    ]
    return _concatenate(batches, width)


def _concatenate(batches, width):
    if not batches:
        return np.zeros((0, width), "float32")
    return np.concatenate(batches).astype("float32")
