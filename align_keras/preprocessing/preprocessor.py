"""Preprocessing of images and captions as a KerasHub layer."""

import os
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from align_keras.preprocessing.image_converter import (
    ALIGNImageConverter,
    checked_seed,
)
from align_keras.preprocessing.tokenizer import ALIGNTokenizer, is_called_by_grain
from align_keras.presets.saving import save_preprocessor
from align_keras.presets.sizes import BuiltinPresets
from align_keras.presets.stored_config import open_part
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGNPreprocessor(keras_hub.models.Preprocessor):
    """Layer that converts images and captions to the inputs of ALIGN.

    `ALIGN.fit`, experiments, evaluation, embedding and exports use this class.
    `model.preprocessor` returns the preprocessor of a model.

    Args:
        tokenizer: `ALIGNTokenizer`, or None for a preprocessor of images only.
        image_converter: `ALIGNImageConverter`.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        x: images that `ALIGNImageConverter` accepts, or a dict of `image` and
            `caption`, of one pair or of a batch.
        y: captions, if `x` is not a dict: str, list of str, string tensor () or (n,),
            or a ragged string tensor (n, None) if images have several captions.
        sample_weight: None. The contrastive loss has no weights.
        training: bool. Training crops and mirrors images, and draws one of several
            captions. Evaluation crops the center, and uses the first caption.
        seed: int64 tensor (2,), required in training.

    Returns:
        dict of `images`, (n, image_size, image_size, 3) in [0, 255], uint8 in training
        and float32 in evaluation (see `ALIGNImageConverter`), and `token_ids` and
        `padding_mask`, int32 (n, sequence_length). For a single pair, the axis n is
        omitted.

    Raises:
        InputError: if the image converter is one for classifiers, or there is no
            tokenizer.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip, WordPiece).

    Example:

    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
    >>> preprocessor = ALIGNPreprocessor(
    ...     ALIGNTokenizer(vocabulary, sequence_length=8), ALIGNImageConverter(64)
    ... )
    >>> pixels = tf.zeros((2, 90, 120, 3), tf.uint8)
    >>> inputs = preprocessor(pixels, ["a cat", "a"])
    >>> inputs["images"].shape, inputs["token_ids"].shape
    (TensorShape([2, 64, 64, 3]), TensorShape([2, 8]))
    """

    tokenizer_cls = ALIGNTokenizer
    image_converter_cls = ALIGNImageConverter
    presets = BuiltinPresets()

    def __init__(
        self,
        tokenizer: ALIGNTokenizer | None,
        image_converter: ALIGNImageConverter,
        **kwargs: Any,
    ) -> None:
        crop, central_crop = image_converter.crop, image_converter.central_crop
        if crop in ("inception", "whole") or central_crop is not None:
            raise InputError(
                "`image_converter` must crop as in training, and use the whole image "
                f"for embeddings. Received: crop={crop!r} and central_crop="
                f"{central_crop}, which are for classifiers."
            )
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.image_converter = image_converter
        self.built = True

    @property
    def sequence_length(self) -> int:
        """Tokens of a caption, including `[CLS]`, `[SEP]` and padding.

        It can be set, which changes the tokenizer.
        """
        return self.require_tokenizer().sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self.require_tokenizer().sequence_length = value

    def with_options(self, **options: Any) -> "ALIGNPreprocessor":
        """Returns a copy with changed options of the image converter.

        Args:
            **options: arguments of `ALIGNImageConverter` to change, such as `zoom`.
        """
        return type(self)(self.tokenizer, self.image_converter.with_options(**options))

    def call(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        training: bool | None = None,
        seed: Any = None,
    ) -> dict[str, tf.Tensor]:
        if sample_weight is not None:
            raise InputError(
                "`sample_weight` must be None. Received: "
                f"{type(sample_weight).__name__}. All pairs have the same weight in "
                "the contrastive loss. Leave the weights out."
            )
        images, captions = x, y
        if isinstance(x, dict):
            images, captions = x["image"], x["caption"]
        captions = _string_tensor(captions)
        if training:
            seed = checked_seed(seed)
        if isinstance(captions, tf.RaggedTensor):
            positions = tf.zeros((tf.cast(captions.nrows(), tf.int32),))
            if training:
                positions = tf.random.stateless_uniform(
                    tf.shape(positions), seed + tf.constant([0, 2], tf.int64)
                )
            captions = _captions_at(captions, positions)
        inputs = {
            "images": self.image_converter.call(images, training=training, seed=seed),
            **self.tokenize(captions),
        }
        if tf.executing_eagerly() and is_called_by_grain():
            return {name: np.asarray(values) for name, values in inputs.items()}
        return inputs

    def tokenize(self, captions: Any) -> dict[str, tf.Tensor]:
        """Returns `token_ids` and `padding_mask` of captions, one for each image."""
        return self.require_tokenizer().tokenize(captions)

    def require_tokenizer(self) -> ALIGNTokenizer:
        """Returns the tokenizer. Raises `InputError` if there is none."""
        if self.tokenizer is None:
            raise InputError(
                "The model must have a vocabulary to tokenize captions. Received: a "
                "model without a vocabulary. Pass vocabulary=[…] to "
                'ALIGN.from_encoders or to ALIGN.from_preset("…", vocabulary=[…]).'
            )
        return self.tokenizer

    # === Files ===

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain JSON."""
        config: dict[str, Any] = super().get_config()
        # KerasHub leaves out a tokenizer that is None.
        config.setdefault("tokenizer", None)
        return config

    def save_to_preset(self, preset_dir: str | os.PathLike) -> None:
        """Writes the preprocessing files of a preset to a folder.

        The files are `preprocessor.json`, `image_converter.json`, `tokenizer.json` and
        `assets/tokenizer/vocabulary.txt`.
        """
        save_preprocessor(self, preset_dir)

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, **kwargs: Any
    ) -> "ALIGNPreprocessor":
        """Returns the preprocessor of a preset.

        Args:
            preset: as for `ALIGN.from_preset`.
            **kwargs: `image_size`, `sequence_length`, `revision` and `token`, as for
                `ALIGN.from_preset`, and for the name of a preset `vocabulary` and
                `normalization`.

        Raises:
            InputError: for the reasons of `ALIGN.from_preset`.

        Example:

        >>> ALIGNPreprocessor.from_preset("align_small_en").image_size
        (144, 144)
        """
        return open_part("preprocessor", preset, **kwargs)

    # === Captions ===

    def choose_caption(
        self,
        captions: tf.Tensor,
        seed: tf.Tensor,
        probabilities: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws one of the captions of a training image.

        Args:
            captions: string tensor (m,), m ≥ 1.
            seed: int64 tensor (2,), the seed of this pair.
            probabilities: float64 tensor (m,), probabilities relative to their sum,
                or None for equal probabilities.

        Returns:
            Scalar string tensor.
        """
        if probabilities is None:
            last = tf.size(captions)
            index = tf.random.stateless_uniform((), seed, 0, last, tf.int32)
            return captions[index]
        bounds = tf.cumsum(probabilities)
        # The product of a float32 below 1 and the sum is below the sum in float64.
        position = tf.cast(tf.random.stateless_uniform((), seed), tf.float64)
        index = tf.searchsorted(bounds, position[None] * bounds[-1], side="right")
        return captions[index[0]]

    def caption_at(self, captions: tf.Tensor, position: tf.Tensor | float) -> tf.Tensor:
        """Returns the caption at a relative position among the captions of an image.

        Args:
            captions: string tensor (m,), m ≥ 1, or one caption, a scalar.
            position: in [0, 1), relative position. 0 is the first caption, which
                evaluation uses.

        Returns:
            Scalar string tensor.
        """
        if captions.shape.rank == 0:
            return captions
        count = tf.size(captions)
        index = tf.cast(position * tf.cast(count, tf.float32), tf.int32)
        return captions[tf.minimum(index, count - 1)]


def _string_tensor(captions: Any) -> Any:
    """Returns captions as a string tensor, ragged if images have several captions."""
    if isinstance(captions, tf.RaggedTensor):
        return captions
    if isinstance(captions, list | tuple) and any(
        isinstance(caption, list | tuple) for caption in captions
    ):
        return tf.ragged.constant(captions, tf.string)
    captions = tf.convert_to_tensor(captions, tf.string)
    if captions.shape.rank == 2:
        return tf.RaggedTensor.from_tensor(captions)
    return captions


def _captions_at(captions: tf.RaggedTensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns the caption at a relative position of each image, (n,)."""
    counts = captions.row_lengths()
    indexes = tf.cast(positions * tf.cast(counts, tf.float32), tf.int64)
    indexes = tf.minimum(indexes, counts - 1)
    return tf.gather(captions.flat_values, captions.row_starts() + indexes)
