"""Functional dual encoder of ALIGN as a KerasHub backbone."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from align_keras.layers import L2Normalization, Temperature
from align_keras.layers.dtype_policy import default_policy
from align_keras.models import lora
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.open_preset import ENCODERS, open_backbone
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.trainable_layers import (
    TrainableFlags,
    set_trainable_flags,
    take_trainable_flags,
    trainable_flags,
)
from align_keras.preprocessing.image_converter import ALIGNImageConverter
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.preprocessing.tokenizer import ALIGNTokenizer
from align_keras.presets.locate import locate_preset
from align_keras.presets.saving import save_backbone
from align_keras.presets.sizes import BuiltinPresets
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class ALIGNBackbone(keras_hub.models.Backbone):
    """Image and text encoder with a common embedding space and a temperature.

    `ALIGN` adds preprocessing, training and methods that embed raw images and texts.

    Args:
        image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d).
        text_encoder: `TextEncoder`, token ids and mask → (n, d).
        initial_temperature: > 0, temperature before training.
        learn_temperature: train the temperature. False keeps it constant.
        dtype: str or `keras.DTypePolicy`. With a float16 policy, `ALIGN.compile` scales
            the loss. None uses the policy of the image encoder.
        **kwargs: `name` and `trainable`, as for every Keras model.

    Call arguments:
        inputs: dict of `images`, uint8 or float (n, S, S, 3) in [0, 255],
            `token_ids`, int (n, L), and `padding_mask`, int or bool (n, L).

    Returns:
        dict of `image_embedding` and `text_embedding`, float32 (n, d), rows of unit
        length, and `similarity`, float32 (n,), the cosine of each pair divided by the
        temperature.

    Raises:
        InputError: if the embeddings of the encoders have different widths, or an
            argument is unknown.

    References:
        Jia et al. 2021, section 4.

    Example:

    >>> from align_keras.models import ImageEncoder, TextEncoder
    >>> backbone = ALIGNBackbone(
    ...     ImageEncoder.from_variant("nano", 16, image_size=64),
    ...     TextEncoder.from_variant(
    ...         "bert_tiny", projection_dim=16, vocabulary_size=100
    ...     ),
    ... )
    >>> sorted(backbone.output)
    ['image_embedding', 'similarity', 'text_embedding']
    """

    presets = BuiltinPresets()

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        initial_temperature: float = 1.0,
        learn_temperature: bool = True,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "align_backbone",
        **kwargs: Any,
    ) -> None:
        argument_names = [*parameters_of(ALIGNBackbone.__init__), "trainable"]
        refuse_unknown("ALIGNBackbone", kwargs, argument_names)
        check_widths(image_encoder, text_encoder)
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
        if dtype is None:
            dtype = default_policy(image_encoder.dtype_policy)
        super().__init__(
            inputs={"images": images, **text_inputs},
            outputs={
                "image_embedding": image_embedding,
                "text_embedding": text_embedding,
                "similarity": similarity,
            },
            dtype=dtype,
            name=name,
            **kwargs,
        )

        # === Config ===
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.temperature_layer = temperature_layer
        self.normalize_image = normalize_image
        self.normalize_text = normalize_text
        self.initial_temperature = initial_temperature
        self.learn_temperature = learn_temperature

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

    def default_lora_layer_names(self) -> list[str]:
        """Returns the names of the layers that `enable_lora` adapts by default.

        These are the query and the value projections of the text encoder, the 1×1
        convolutions and squeeze-and-excitation layers of the image encoder, and the
        projections of both.
        """
        names: list[str] = super().default_lora_layer_names()
        return [*names, *ImageEncoder.lora_layer_names]

    def enable_lora(
        self, rank: int, target_layer_names: Sequence[str] | None = None
    ) -> None:
        """Freezes the model and adds trainable low-rank factors to some layers.

        Only the factors are trained. KerasHub also trains the biases of the layers.

        Args:
            rank: ≥ 1, rank of the factors.
            target_layer_names: names of the layers to adapt. None uses
                `default_lora_layer_names`.

        Raises:
            InputError: if the rank is out of range, or no layer has one of the names.

        References:
            Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
        """
        if target_layer_names is None:
            target_layer_names = self.default_lora_layer_names()
        lora.enable_lora(self, rank, target_layer_names)

    def merge_lora(self) -> None:
        """Merges the factors of LoRA into the kernels, as `ALIGN.merge_lora`."""
        lora.merge_lora(self)

    def save_lora_weights(self, filepath: str | os.PathLike) -> None:
        """Writes the trained weights to a file, as `ALIGN.save_lora_weights`."""
        lora.save_lora_weights(self, filepath)

    def load_lora_weights(self, filepath: str | os.PathLike) -> None:
        """Loads weights of `save_lora_weights`, as `ALIGN.load_lora_weights`."""
        lora.load_lora_weights(self, filepath)

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        revision: str | None = None,
        token: str | None = None,
        **kwargs: Any,
    ) -> "ALIGNBackbone":
        """Builds the backbone of a preset.

        The arguments are those of `ALIGN.from_preset` without the vocabulary, the
        normalization and `compile`.

        Raises:
            InputError: for the reasons of `ALIGN.from_preset`.

        Example:

        >>> ALIGNBackbone.from_preset("align_nano", vocabulary_size=100).image_size
        64
        """
        options = {name: value for name, value in kwargs.items() if value is not None}
        path = locate_preset(preset, revision, token, load_weights)
        return open_backbone(cls, preset, path, load_weights, options)

    def save_to_preset(self, preset_dir: str | os.PathLike) -> None:
        """Writes `config.json`, `metadata.json` and `model.weights.h5` to a folder.

        Args:
            preset_dir: str or path of the folder, which is created if it doesn't exist.

        Raises:
            InputError: if the folder contains a SavedModel.
        """
        with lora.merged_while_saving(self):
            save_backbone(self, preset_dir)

    def get_config(self) -> dict:
        config = {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
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

    @classmethod
    def from_config(cls, config: dict) -> "ALIGNBackbone":
        config = dict(config)
        flags = take_trainable_flags(config)
        if flags is not None:
            # Passing `trainable` to the constructor would overwrite the flags of the
            # encoders.
            config.pop("trainable", None)
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            config["dtype"] = keras.dtype_policies.get(dtype)
        for name in ENCODERS:
            encoder = dict(config[name])
            # A configuration contains serialized policies. A policy that isn't
            # serialized is an argument of `keras_hub.models.Backbone.from_preset`,
            # which replaces the policies of both encoders.
            if dtype is not None and not isinstance(dtype, dict):
                encoder["config"] = {**encoder["config"], "dtype": dtype}
            config[name] = keras.saving.deserialize_keras_object(encoder)
        backbone = cls(**config)
        if flags is not None:
            set_trainable_flags(backbone, flags)
        return backbone


# KerasHub finds the preprocessing classes of a backbone by this attribute.
for _part in (ALIGNTokenizer, ALIGNImageConverter, ALIGNPreprocessor):
    _part.backbone_cls = ALIGNBackbone


def check_widths(image_encoder: keras.Model, text_encoder: keras.Model) -> None:
    """Raises if the embeddings of both encoders have different widths."""
    image_dim = image_encoder.output_shape[-1]
    text_dim = text_encoder.output_shape[-1]
    if image_dim != text_dim:
        raise InputError(
            "image_encoder and text_encoder must return embeddings of the same width. "
            f"Received: widths {image_dim} and {text_dim}. Set the projection_dim of "
            "one of them."
        )
