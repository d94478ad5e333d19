"""ALIGN: an image and a text encoder in one embedding space."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.layers import L2Normalization, Temperature
from align_keras.layers.dtype_policy import default_policy
from align_keras.losses.contrastive_loss import ContrastiveLoss
from align_keras.models import preset_io
from align_keras.models.align_image_converter import ALIGNImageConverter
from align_keras.models.align_preprocessor import ALIGNPreprocessor
from align_keras.models.align_tokenizer import ALIGNTokenizer
from align_keras.models.contrastive_model import ContrastiveModel, LossMetrics
from align_keras.models.embedding import EmbeddingMethods
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.litert_export import CheckedLiteRTExport
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.trainable_layers import (
    TrainableFlags,
    set_trainable_flags,
    take_trainable_flags,
    trainable_flags,
)
from align_keras.text.vocabulary import check_vocabulary
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError

# Name of the seed generators' states in a weights file.
_SEEDS = "seeds"


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGN(CheckedLiteRTExport, EmbeddingMethods, ContrastiveModel):
    """Image encoder, text encoder and temperature, trained contrastively.

    Args:
        image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d).
        text_encoder: `TextEncoder`, token ids and mask → (n, d).
        vocabulary: list of str, WordPiece tokens in the order of their ids. A model
            without a vocabulary accepts token ids only, no captions.
        normalization: str, normalization of captions before WordPiece.
        initial_temperature: float > 0.
        learn_temperature: bool.
        dtype: str or `keras.DTypePolicy`. `compile` scales the loss if it is float16.
            None for the policy of the image encoder.

    Call arguments:
        inputs: dict of `images`, uint8 or float (n, S, S, 3) in [0, 255],
            `token_ids`, int (n, L), and `padding_mask`, int or bool (n, L).

    Returns:
        dict of `image_embedding` and `text_embedding`, float32 (n, d) of unit
        length, and `similarity`, float32 (n,), each pair's cosine divided
        by the temperature.

    Raises:
        InputError: if the encoders' widths differ, the vocabulary is larger than the
            text encoder's, lacks a special token or has a token twice, or an argument
            is unknown.

    References:
        Jia et al. 2021, section 4.

    Example:

    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> model.temperature_layer.initial_temperature
    1.0
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        vocabulary: Sequence[str] | None = None,
        normalization: str = "bert_uncased",
        initial_temperature: float = 1.0,
        learn_temperature: bool = True,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "align",
        **kwargs: Any,
    ) -> None:
        argument_names = [*parameters_of(ALIGN.__init__), "trainable"]
        refuse_unknown("ALIGN", kwargs, argument_names)
        check_parts(image_encoder, text_encoder, vocabulary)
        # === Layers ===
        normalize_image = L2Normalization(name="image_embedding")
        normalize_text = L2Normalization(name="text_embedding")
        temperature_layer = Temperature(
            initial_temperature, trainable=learn_temperature, name="temperature"
        )

        # === Functional model ===
        images = keras.Input(image_encoder.input_shape[1:], name="images")
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
        text_inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        image_embedding = normalize_image(image_encoder(images))
        text_embedding = normalize_text(text_encoder(text_inputs))
        cosine = keras.layers.Dot(axes=1, name="cosine", dtype="float32")
        cosine = cosine([image_embedding, text_embedding])
        similarity = keras.layers.Reshape((), name="similarity", dtype="float32")(
            temperature_layer(cosine)
        )
        super().__init__(
            inputs={"images": images, **text_inputs},
            outputs={
                "image_embedding": image_embedding,
                "text_embedding": text_embedding,
                "similarity": similarity,
            },
            name=name,
            **kwargs,
        )

        if dtype is None:
            dtype = default_policy(image_encoder.dtype_policy)
        self.dtype_policy = keras.dtype_policies.get(dtype)

        # === Config ===
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.temperature_layer = temperature_layer
        self.normalize_image = normalize_image
        self.normalize_text = normalize_text
        self.vocabulary = list(vocabulary) if vocabulary is not None else None
        self.normalization = normalization
        self.initial_temperature = initial_temperature
        self.learn_temperature = learn_temperature
        self.loss_metrics = [LossMetrics(ContrastiveLoss.parts)]

    @property
    def image_size(self) -> int:
        """Side of the image encoder's input in pixels."""
        return self.image_encoder.image_size

    @property
    def temperature(self) -> tf.Tensor:
        """Scalar float32 tensor, the current temperature."""
        return self.temperature_layer.temperature

    @property
    def token_embedding(self) -> keras.layers.Layer:
        """Token embedding of the text encoder, as in backbones of KerasHub."""
        return self.text_encoder.token_embedding

    @property
    def preprocessor(self) -> ALIGNPreprocessor:
        """`ALIGNPreprocessor` of this model: images and captions to its inputs.

        Without a vocabulary, its `tokenizer` is None. A change of the encoder's
        `image_size` gives another one.
        """
        return self._preprocessor_of_size(self.image_size)

    @functools.cached_property
    def _preprocessor_of_size(self) -> Callable[[int], ALIGNPreprocessor]:
        """Function from an image size to the preprocessor, which it keeps."""

        @functools.lru_cache(maxsize=1)
        def build(image_size: int) -> ALIGNPreprocessor:
            tokenizer = None
            if self.vocabulary is not None:
                tokenizer = ALIGNTokenizer(
                    self.vocabulary,
                    sequence_length=self.text_encoder.sequence_length,
                    normalization=self.normalization,
                )
            return ALIGNPreprocessor(tokenizer, ALIGNImageConverter(image_size))

        return build

    @property
    def tokenizer(self) -> ALIGNTokenizer:
        """`ALIGNTokenizer` of the vocabulary, or `InputError` without a vocabulary."""
        return self.preprocessor.require_tokenizer()

    # === Saving ===

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, load_weights: bool = True, **kwargs: Any
    ) -> "ALIGN":
        """Builds a model from the name of a preset, a folder, a file or Hugging Face.

        Args:
            preset: str, a name of `align_keras.presets()`; `"align_small_en"`, the
                trained model that comes with the package; a folder that
                `save_to_preset` or a training run wrote; a `.keras` file, which
                brings its optimizer too; a folder in the form of
                kakaobrain/align-base (config.json, model.safetensors, vocab.txt,
                preprocessor_config.json or processor_config.json); or `"hf://kakaobrain/align-base"`,
                which is downloaded once and then read from the cache. `hf://` also
                accepts a repository with the files of `save_to_preset`.
            load_weights: bool, for folders. Names have no weights, and files always
                have them.
            **kwargs: for names, the arguments of `ALIGN`, `ImageEncoder` and
                `TextEncoder` that the name doesn't determine. Arguments that both
                encoders have go to both. For folders, arguments that don't change the
                meaning of the weights: `dtype`, `image_size`, `sequence_length`,
                `dropout`, `drop_connect_rate`, `batch_norm_momentum`, `synchronized`,
                `virtual_batch_size`, `freeze_batch_statistics`, `rematerialize`,
                `locked`, `trainable`, `learn_temperature`, `name`. None leaves an
                argument out.

        Raises:
            InputError: if the preset, folder, file or argument is unknown, damaged or
                doesn't fit. Lists the names and shapes of tensors. For an export, names
                the function that opens it.

        Example:

        >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.image_size
        64
        """
        return preset_io.from_preset(cls, preset, load_weights, **kwargs)

    def save_to_preset(self, directory: str | os.PathLike) -> None:
        """Writes `config.json`, `model.weights.h5` and `vocabulary.txt` to a folder.

        `config.json` lists the layers that are frozen, and has the SHA-256 of the
        weights. The state of the optimizer is left out. `model.save("….keras")` keeps
        it.
        """
        preset_io.save_to_preset(self, directory)

    def export_saved_model(
        self, directory: str | os.PathLike, weights: str | None = None
    ) -> None:
        """Writes SavedModels for TensorFlow Serving: `image/1`, `text/1`, `align/1`.

        Arguments and errors are those of `align_keras.export_saved_model`.
        """
        from align_keras.export import export_saved_model

        export_saved_model(self, directory, weights=weights)

    def get_config(self) -> dict:
        config = {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "vocabulary": self.vocabulary,
            "normalization": self.normalization,
            "initial_temperature": self.initial_temperature,
            "learn_temperature": self.learn_temperature,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }
        flags = trainable_flags(self)
        frozen = (
            () if self.learn_temperature else ((self.temperature_layer.name, False),)
        )
        if flags != TrainableFlags(True, frozen):
            config.update(flags.config())
        return config

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras keeps no random state. Without it, a `fit` that goes on from a `.keras`
        # file would draw other dropout masks.
        seeds = self._seed_states()
        if self.compiled and seeds:
            store[_SEEDS] = np.stack([seed.numpy() for seed in seeds])

    def load_own_variables(self, store: Any) -> None:
        seeds = self._seed_states()
        states = store[_SEEDS] if _SEEDS in store.keys() else ()
        if self.compiled and len(states) == len(seeds):
            for seed, state in zip(seeds, states, strict=True):
                seed.assign(state)

    def _seed_states(self) -> list[keras.Variable]:
        """Returns the states of the seed generators of all layers."""
        return [v for v in self.variables if v.name == "seed_generator_state"]

    @classmethod
    def from_config(cls, config: dict) -> "ALIGN":
        config = dict(config)
        flags = take_trainable_flags(config)
        if flags is not None:
            # The constructor's `trainable` would also set that of the encoders.
            config.pop("trainable", None)
        for key in ("image_encoder", "text_encoder"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        model = cls(**config)
        if flags is not None:
            set_trainable_flags(model, flags)
        return model


def check_parts(
    image_encoder: keras.Model,
    text_encoder: keras.Model,
    vocabulary: Sequence[str] | None,
) -> None:
    """Raises unless both embeddings have one width and the vocabulary fits."""
    image_dim = image_encoder.output_shape[-1]
    text_dim = text_encoder.output_shape[-1]
    if image_dim != text_dim:
        raise InputError(
            "image_encoder and text_encoder must give one width, received "
            f"{image_dim} and {text_dim}; set projection_dim of either."
        )
    if vocabulary is not None and len(vocabulary) > text_encoder.vocabulary_size:
        raise InputError(
            f"vocabulary may hold at most {text_encoder.vocabulary_size} tokens, the "
            f"text encoder's vocabulary_size, received {len(vocabulary)}; build the "
            "text encoder with vocabulary_size=len(vocabulary)."
        )
    if vocabulary is not None:
        check_vocabulary(list(vocabulary), "vocabulary")
