"""Base class of the image and the text encoder."""

import hashlib
import json
import typing
from collections.abc import Sequence

import keras
import numpy as np

from align_keras.layers.dtype_policy import dtype_config
from align_keras.models import lora
from align_keras.models.trainable_layers import (
    CONFIG_KEY,
    TrainableFlags,
    set_trainable_flags,
    take_trainable_flags,
    trainable_flags,
    unfreeze_parents,
)
from align_keras.presets.variants import DEFAULT_BLOCKS, DEFAULT_RANK, TRAINING_MODES
from align_keras.utils.arguments import check_choice, check_number


class Encoder(keras.Model):
    """Functional model whose configuration includes its dtype policy.

    Attributes:
        initial_flags: `TrainableFlags` of the layers after the constructor. The
            configuration lists the flags only if they have changed since.
        lora_layer_names: names of the layers that LoRA adapts.
    """

    initial_flags: TrainableFlags
    lora_layer_names: typing.ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        inputs: object,
        outputs: object,
        *,
        policy: keras.DTypePolicy,
        trainable: bool,
        name: str,
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy
        # Setting True would also unfreeze single layers that were frozen before.
        if not trainable:
            self.trainable = False

    @property
    def token_embedding(self) -> keras.layers.Layer | None:
        """Layer that embeds token ids, or None, as in backbones of KerasHub."""
        return None

    @property
    def blocks(self) -> Sequence[keras.layers.Layer]:
        """Blocks from input to output, which `set_training` counts from the end."""
        raise NotImplementedError

    def set_training(
        self, mode: str, *, blocks: int = DEFAULT_BLOCKS, rank: int = DEFAULT_RANK
    ) -> None:
        """Chooses the weights that are trained, and freezes all others.

        Frozen layers run in inference mode, also in training: without dropout and
        drop-connect, and with fixed batch statistics. Call `compile` of the model
        afterwards. LoRA factors of an earlier call are merged into the kernels.

        A configuration or a preset contains the frozen layers, but no LoRA factors. A
        model with LoRA is saved as a plain model with merged kernels.

        Args:
            mode: one of

                - `"frozen"`: no weights.
                - `"projection"`: the projection, as with `locked=True`. An encoder
                  without a projection is frozen.
                - `"last_blocks"`: the last `blocks` blocks and all layers after them.
                - `"lora"`: low-rank factors of the layers in `lora_layer_names`.
                - `"full"`: all weights.
            blocks: ≥ 1, number of blocks for `"last_blocks"`.
            rank: ≥ 1, rank of the factors for `"lora"`.

        Raises:
            InputError: if the mode is unknown, or a number is out of range.

        References:
            Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models". Zhai
            et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning".

        Example:

        >>> import align_keras
        >>> model = align_keras.ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.image_encoder.set_training("last_blocks", blocks=1)
        >>> model.text_encoder.set_training("lora", rank=4)
        >>> len(model.text_encoder.trainable_weights)
        10
        """
        check_choice("mode", mode, TRAINING_MODES)
        check_number("rank", rank, 1, lora.MAX_LORA_RANK, whole=True)
        if mode == "last_blocks":
            check_number("blocks", blocks, 1, len(self.blocks), whole=True)
        if mode == "lora":
            lora.enable_lora(self, rank, self.lora_layer_names)
            return
        lora.merge_lora(self)
        # Setting True would also unfreeze single layers that were frozen before.
        self.trainable = False
        for layer in self._trained_layers(mode, blocks):
            layer.trainable = True
        for layer in self._unused_layers():
            layer.trainable = False
        unfreeze_parents(self)

    def _trained_layers(self, mode: str, blocks: int) -> list[keras.layers.Layer]:
        """Returns the layers that a mode trains, with all of their inner layers."""
        if mode == "full":
            return list(self.layers)
        if mode == "last_blocks":
            return self._last_layers(blocks)
        if mode == "projection":
            return self._projections()
        return []

    def _projections(self) -> list[keras.layers.Layer]:
        """Returns a list of the projection, or an empty list without a projection."""
        return [layer for layer in self.layers if layer.name == "projection"]

    def _last_layers(self, blocks: int) -> list[keras.layers.Layer]:
        """Returns the last blocks and the layers after them."""
        raise NotImplementedError

    def _unused_layers(self) -> list[keras.layers.Layer]:
        """Returns layers whose outputs aren't used, which are never trained."""
        return []

    def fingerprint(self, dtype: str | None = None) -> str:
        """Returns the SHA-256 of the configuration and the weights, 64 hex digits.

        LoRA factors are merged into the kernels, as in a saved model. Only those of
        quantized layers stay separate.

        Args:
            dtype: dtype to which the model is converted before, such as
                `"float32"`. None keeps the dtype policy of the model.
        """
        # The name and the frozen layers don't change the embeddings.
        config = self.get_config()
        config.pop("name")
        config.pop(CONFIG_KEY, None)
        if dtype is not None:
            policy = keras.dtype_policies.get(dtype)
            config["dtype"] = keras.dtype_policies.serialize(policy)
        text = json.dumps(config, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode())
        # `variables` would include the dropout seeds, which differ each time the model
        # is loaded.
        for weight in lora.merged_weights(self):
            value = np.ascontiguousarray(weight.numpy())
            if dtype is not None and keras.backend.is_float_dtype(value.dtype.name):
                value = value.astype(policy.variable_dtype)
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()

    def get_config(self) -> dict:
        config = {
            "dtype": dtype_config(self),
            "trainable": self.trainable,
            "name": self.name,
        }
        flags = trainable_flags(self)
        if flags != self.initial_flags:
            config.update(flags.config())
        return config

    @classmethod
    def from_config(cls, config: dict) -> "Encoder":
        config = dict(config)
        flags = take_trainable_flags(config)
        encoder = cls(**config)
        if flags is not None:
            set_trainable_flags(encoder, flags)
        return encoder
