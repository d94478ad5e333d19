"""Methods of `ALIGN` that embed, compare and classify images and captions."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.data.raw_pairs import plain_data
from align_keras.evaluation.class_metrics import class_embeddings
from align_keras.models.composed_query import encode_query
from align_keras.models.inference import image_function, is_distributed, on_replicas
from align_keras.preprocessing.image_converter import ALIGNImageConverter
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.text.padding import LENGTH_STEP, trim_padding
from align_keras.text.shortening import shorten_texts
from align_keras.text.vocabulary import is_uncased
from align_keras.utils.arguments import check_number, check_texts
from align_keras.utils.errors import InputError

# Number of batches whose texts are tokenized and sorted by length at once.
_SORTED_BATCHES = 16


class EmbeddingMethods:
    """Mixin of `ALIGN` that embeds, compares and classifies images and texts."""

    preprocessor: ALIGNPreprocessor | None
    image_encoder: keras.Model
    text_encoder: keras.Model
    normalize_text: keras.layers.Layer
    temperature: tf.Tensor
    distribute_strategy: tf.distribute.Strategy

    def require_preprocessor(self) -> ALIGNPreprocessor:
        """Returns the preprocessor. Raises `InputError` if there is none."""
        if self.preprocessor is None:
            raise InputError(
                "The model must have a preprocessor to read raw images and captions. "
                "Received: preprocessor=None. Set model.preprocessor to an "
                "ALIGNPreprocessor, or pass preprocessed inputs to predict."
            )
        return self.preprocessor

    def encode_images(
        self,
        images: Sequence,
        batch_size: int = 64,
        value_range: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Returns the embeddings of images, computed by Keras.

        `align_keras.load_model` opens models for other runtimes.

        Args:
            images: list or data frame column of paths, of the bytes of image files, or
                of uint8 arrays or tensors (height, width, 3) of any size. One uint8
                array (n, height, width, 3) is accepted too, and float arrays with a
                `value_range`.
            batch_size: int ≥ 1.
            value_range: two floats, black and white of float arrays. None refuses float
                arrays.

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: if an image cannot be read, or has another type or shape. The
                message names the image.
        """
        converter = self.require_preprocessor().image_converter
        if value_range is not None:
            converter = converter.with_options(value_range=value_range)
        return embed_images(
            images,
            image_function(self),
            converter,
            self.image_encoder.output_shape[-1],
            batch_size=batch_size,
        )

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Returns the embeddings of captions.

        Args:
            texts: list of str.
            batch_size: int ≥ 1.

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: if the model has no vocabulary, or `texts` is not a list of
                str.
        """
        return self._embed_texts(
            texts, batch_size, self.text_encoder, self.normalize_text
        )

    def similarity(
        self,
        images: Sequence,
        texts: Sequence[str],
        batch_size: int = 64,
        value_range: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Returns the cosine of each image and each text.

        The signature `similarity` of an export returns the same values. `call` returns
        one value for each pair of an image and its text, the cosine divided by the
        temperature.

        Args:
            images: as in `encode_images`.
            texts: list of str.
            batch_size: ≥ 1, images per batch.
            value_range: as in `encode_images`.

        Returns:
            float32 array (images, texts), cosines in [-1, 1].
        """
        rows = self.encode_images(images, batch_size, value_range=value_range)
        return rows @ self.encode_texts(texts, batch_size).T

    def classify(
        self,
        images: Sequence,
        class_names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        batch_size: int = 64,
        value_range: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Classifies images by their similarity to the names of classes (zero-shot).

        The embedding of a class is the mean of the embeddings of its prompts, one for
        each template. The signature `classify` of an export returns the same values.

        Args:
            images: as in `encode_images`.
            class_names: list of str.
            templates: each with `{}` in place of the class name. The
                templates of the paper are
                `align_keras.datasets.benchmarks.read_templates("clip:imagenet1k")`.
            batch_size: int ≥ 1.
            value_range: as in `encode_images`.

        Returns:
            float32 array (images, classes), the softmax of cosine / temperature over
            the classes.

        Raises:
            InputError: if a template lacks `{}`, or for a reason of `encode_images`
                and `encode_texts`.

        References:
            Jia et al. 2021, section 5.2.
        """
        for name, value in {"class_names": class_names, "templates": templates}.items():
            if isinstance(value, str):
                raise InputError(
                    f"{name} must be a list of str. Received: a single str "
                    f"{value[:40]!r}. Pass a list that contains it."
                )

        def encode(prompts: Sequence[str]) -> np.ndarray:
            return self.encode_texts(prompts, batch_size)

        classes = class_embeddings(encode, class_names, templates)
        rows = self.encode_images(images, batch_size, value_range=value_range)
        logits = rows @ classes.T / float(self.temperature)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (scores / scores.sum(axis=1, keepdims=True)).astype("float32")

    # Method of the model, `model.encode_query(image, plus, minus)`.
    encode_query = encode_query

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        """Returns embeddings of words from before the projection of the text encoder.

        With `pooling="cls"`, they are the outputs of the backbone for the [CLS] token.

        Args:
            words: list of str.

        Returns:
            float32 array (n, hidden_dim), not normalized.

        References:
            Jia et al. 2021, table 12 (SimLex-999).
        """
        encoder = self.text_encoder
        if encoder.projection_dim is not None:
            encoder = keras.Model(encoder.inputs, encoder.get_layer("projection").input)
        return self._embed_texts(words, 256, encoder, tf.identity)

    def _embed_texts(
        self,
        texts: Sequence[str],
        batch_size: int,
        encoder: keras.Model,
        finish: Callable[[tf.Tensor], tf.Tensor],
    ) -> np.ndarray:
        """Returns `finish(encoder(tokens))` of texts, computed in batches."""
        embed = on_replicas(
            self.distribute_strategy,
            lambda tokens: finish(encoder(tokens, training=False)),
        )
        return embed_texts(
            texts,
            embed,
            self.require_preprocessor(),
            encoder.output_shape[-1],
            batch_size=batch_size,
            # Replicas trace the encoder for each length, and TPUs compile it.
            length_step=LENGTH_STEP if is_distributed(self.distribute_strategy) else 1,
        )


def embed_texts(
    texts: Sequence[str],
    embed_tokens: Callable[[dict[str, tf.Tensor]], np.ndarray],
    preprocessor: ALIGNPreprocessor,
    dimension: int,
    *,
    batch_size: int = 256,
    length_step: int = 1,
) -> np.ndarray:
    """Tokenizes texts and embeds their tokens.

    A batch has texts of similar lengths and almost no padding, because an encoder needs
    as much time for padding as for tokens.

    Args:
        texts: list of str.
        embed_tokens: function from `token_ids` and `padding_mask`, int32 (n, length),
            to float32 array (n, dimension).
        preprocessor: `ALIGNPreprocessor` with a tokenizer.
        dimension: length of an embedding.
        batch_size: ≥ 1, number of texts embedded at once.
        length_step: as in `trim_padding`.

    Returns:
        float32 array (n, dimension).
    """
    texts = plain_data(texts)
    check_texts(texts)
    check_number("batch_size", batch_size, 1, 1_000_000, whole=True)
    preprocessor.require_tokenizer()
    embeddings = np.zeros((len(texts), dimension), "float32")
    window = _SORTED_BATCHES * batch_size
    for window_start in range(0, len(texts), window):
        tokens = _tokenize(texts[window_start : window_start + window], preprocessor)
        lengths = tf.reduce_sum(tokens["padding_mask"], axis=1).numpy()
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = {name: tf.gather(values, rows) for name, values in tokens.items()}
            embeddings[window_start + rows] = embed_tokens(
                trim_padding(batch, length_step)
            )
    return embeddings


def count_tokens(texts: Sequence[str], preprocessor: ALIGNPreprocessor) -> int:
    """Returns the number of tokens of texts without padding."""
    return int(tf.reduce_sum(_tokenize(texts, preprocessor)["padding_mask"]))


def _tokenize(
    texts: Sequence[str], preprocessor: ALIGNPreprocessor
) -> dict[str, tf.Tensor]:
    tokenizer = preprocessor.require_tokenizer()
    short = shorten_texts(
        texts, tokenizer.sequence_length, is_uncased(tokenizer.normalization)
    )
    return preprocessor.tokenize(short)


def embed_images(
    images: Any,
    embed_pixels: Callable[[np.ndarray], np.ndarray],
    image_converter: ALIGNImageConverter,
    dimension: int,
    *,
    batch_size: int = 64,
) -> np.ndarray:
    """Reads images and embeds their pixels.

    Args:
        images: as in `ALIGN.encode_images`.
        embed_pixels: function from float array (n, image_size, image_size, 3), gray
            levels in [0, 255], to float32 array (n, dimension).
        image_converter: `ALIGNImageConverter`, which reads the images.
        dimension: length of an embedding.
        batch_size: ≥ 1, number of images embedded at once.

    Returns:
        float32 array (n, dimension).

    Raises:
        InputError: if an image cannot be read. The message names the image.
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError(
            "images must be a list of paths, bytes or arrays. Received: a single "
            f"{type(images).__name__}. Write [image]."
        )
    images = plain_data(images)
    check_number("batch_size", batch_size, 1, 1_000_000, whole=True)
    batches = [
        embed_pixels(pixels)
        for pixels in _read_ahead(images, image_converter, batch_size)
    ]
    return _concatenate(batches, dimension)


def _read_ahead(
    images: Sequence, converter: ALIGNImageConverter, batch_size: int
) -> Iterator[np.ndarray]:
    """Yields batches of pixels while threads read the next batch.

    A batch is a float32 array (≤ batch_size, image_size, image_size, 3).
    """
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def submit(start: int) -> list[concurrent.futures.Future]:
        return [
            pool.submit(converter.read, images[row], row)
            for row in range(start, min(start + batch_size, len(images)))
        ]

    try:
        pending = submit(0)
        for start in range(0, len(images), batch_size):
            current, pending = pending, submit(start + batch_size)
            yield np.stack([image.result() for image in current])
    finally:
        pool.shutdown(cancel_futures=True)


def _concatenate(batches: list[np.ndarray], dimension: int) -> np.ndarray:
    """Returns the rows of all batches, float32 (n, dimension). n is 0 for no batch."""
    if not batches:
        return np.zeros((0, dimension), "float32")
    return np.concatenate(batches).astype("float32")
