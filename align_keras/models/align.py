"""ALIGN: an image encoder and a text encoder with a common embedding space."""

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

# Name under which a weights file holds the states of the seed generators.
_SEEDS = "seeds"


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGN(CheckedLiteRTExport, EmbeddingMethods, ContrastiveModel):
    """Dual encoder for images and captions, trained with a contrastive loss.

    Args:
        image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d).
        text_encoder: `TextEncoder`, token ids and mask → (n, d).
        vocabulary: list of str, WordPiece tokens in the order of their ids. A model
            without a vocabulary accepts token ids only, no captions.
        normalization: str, `"bert_uncased"` or `"bert_cased"`, normalization of
            captions before WordPiece.
        initial_temperature: float > 0, temperature before training.
        learn_temperature: bool, train the temperature. False keeps it constant.
        dtype: str or `keras.DTypePolicy`. With a float16 policy, `compile` scales the
            loss. None uses the policy of the image encoder.

    Call arguments:
        inputs: dict of `images`, uint8 or float (n, S, S, 3) in [0, 255],
            `token_ids`, int (n, L), and `padding_mask`, int or bool (n, L).

    Returns:
        dict of `image_embedding` and `text_embedding`, float32 (n, d), rows of unit
        length, and `similarity`, float32 (n,), the cosine of each pair divided by the
        temperature.

    Raises:
        InputError: if the embeddings of the encoders have different widths, if the
            vocabulary is larger than that of the text encoder, lacks a special token or
            contains a token twice, or if an argument is unknown.

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
        """Height and width of the images that the image encoder expects, in pixels."""
        return self.image_encoder.image_size

    @property
    def temperature(self) -> tf.Tensor:
        """Current temperature, a scalar float32 tensor."""
        return self.temperature_layer.temperature

    @property
    def token_embedding(self) -> keras.layers.Layer:
        """Token embedding of the text encoder, as in backbones of KerasHub."""
        return self.text_encoder.token_embedding

    @property
    def preprocessor(self) -> ALIGNPreprocessor:
        """`ALIGNPreprocessor` that converts images and captions to inputs of the model.

        Its `tokenizer` is None if the model has no vocabulary. It is created again
        after the `image_size` of the encoder changes.
        """
        return self._preprocessor_of_size(self.image_size)

    @functools.cached_property
    def _preprocessor_of_size(self) -> Callable[[int], ALIGNPreprocessor]:
        """Function that returns the preprocessor of an image size and caches it."""

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
        """`ALIGNTokenizer` of the vocabulary.

        Raises:
            InputError: if the model has no vocabulary.
        """
        return self.preprocessor.require_tokenizer()

    # === Saving ===

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, load_weights: bool = True, **kwargs: Any
    ) -> "ALIGN":
        """Builds a model from a preset name, a folder, a file or Hugging Face.

        The preset is one of:

        - a name of `align_keras.presets()`. The weights are random, except those of
          `"align_small_en"`, the trained model that comes with the package.
        - a folder that `save_to_preset` or a training run wrote.
        - a `.keras` file. The state of its optimizer is restored too.
        - a folder with the files of kakaobrain/align-base: config.json,
          model.safetensors, vocab.txt, and preprocessor_config.json or
          processor_config.json.
        - a repository on Hugging Face, such as `"hf://kakaobrain/align-base"`. It is
          downloaded once and then read from the cache. It contains the files of
          `push_to_hub`, of `save_to_preset` or of transformers. The name may end in `@`
          and a branch, tag or commit: `"hf://user/model@v1"`.
        - a model on Kaggle, `"kaggle://user/model/keras/variation"`. kagglehub
          downloads it.

        Args:
            preset: str or path, as described above.
            load_weights: bool, load the weights of a folder. A preset name has no
                weights to load, and a `.keras` file always loads them.
            **kwargs: for a model on Hugging Face, `revision`, a branch, tag or commit,
                and `token`, which replaces the token of `HF_TOKEN` or of `hf auth
                login`. For a preset name, the arguments of `ALIGN`, `ImageEncoder` and
                `TextEncoder` that the name doesn't determine. An argument that both
                encoders accept is passed to both. For a folder, arguments that don't
                change the meaning of the weights: `dtype`, `image_size`,
                `sequence_length`, `dropout`, `drop_connect_rate`,
                `batch_norm_momentum`, `synchronized`, `virtual_batch_size`,
                `freeze_batch_statistics`, `rematerialize`, `locked`, `trainable`,
                `learn_temperature`, `name`. An argument that is None is ignored.

        Raises:
            InputError: if the preset, folder or file is unknown, damaged or doesn't
                fit the model, or if an argument is unknown. The message lists the names
                and shapes of tensors that don't fit. For an export, it names the
                function that opens it.

        Example:

        >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.image_size
        64
        """
        return preset_io.from_preset(cls, preset, load_weights, **kwargs)

    def save_to_preset(self, directory: str | os.PathLike) -> None:
        """Writes `config.json`, `model.weights.h5` and `vocabulary.txt` to a folder.

        `config.json` lists the frozen layers and contains the SHA-256 of the weights.
        The state of the optimizer is not saved. Use `model.save("….keras")` to keep it.

        Args:
            directory: str or path of the folder, which is created if it doesn't exist.
        """
        preset_io.save_to_preset(self, directory)

    def export_saved_model(
        self, directory: str | os.PathLike, weights: str | None = None
    ) -> None:
        """Writes SavedModels for TensorFlow Serving: `image/1`, `text/1`, `align/1`.

        The arguments and errors are those of `align_keras.export_saved_model`.
        """
        from align_keras.export import export_saved_model

        export_saved_model(self, directory, weights=weights)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Uploads the model to a repository on the Hugging Face Hub.

        `align_keras.load_model("hf://user/model")` and `ALIGN.from_preset` open it.

        Args:
            repository: str, `"user/model"`.
            **options: options of `align_keras.push_to_hub`, such as `private`,
                `revision`, `exports`, `evaluation` and `license`.

        Returns:
            str, address of the commit.

        Raises:
            InputError: as `align_keras.push_to_hub`.
        """
        from align_keras.runs.hub_upload import push_to_hub

        return push_to_hub(self, repository, **options)

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
        # Keras doesn't save the random state. Without it, `fit` would draw different
        # dropout masks after a `.keras` file is loaded.
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
            # Passing `trainable` to the constructor would overwrite the flags of the
            # encoders.
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
    """Raises if the parts of a model don't fit together.

    The embeddings must have the same width, and the text encoder must have an embedding
    for each token of the vocabulary.
    """
    image_dim = image_encoder.output_shape[-1]
    text_dim = text_encoder.output_shape[-1]
    if image_dim != text_dim:
        raise InputError(
            "image_encoder and text_encoder must return embeddings of the same width. "
            f"Received: widths {image_dim} and {text_dim}. Set the projection_dim of "
            "one of them."
        )
    if vocabulary is not None and len(vocabulary) > text_encoder.vocabulary_size:
        raise InputError(
            f"vocabulary must have at most {text_encoder.vocabulary_size} tokens, the "
            f"vocabulary_size of the text encoder. Received: {len(vocabulary)} tokens. "
            "Build the text encoder with vocabulary_size=len(vocabulary)."
        )
    if vocabulary is not None:
        check_vocabulary(list(vocabulary), "vocabulary")
