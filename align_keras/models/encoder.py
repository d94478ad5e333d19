"""What the image and the text encoder share: Keras's conventions for a model."""

import hashlib
import json
import os
from typing import Any

import keras
import numpy as np

from align_keras.layers.dtype_policy import check_litert_export, dtype_config
from align_keras.models.trainable_layers import (
    CONFIG_KEY,
    TrainableFlags,
    set_trainable_flags,
    take_trainable_flags,
    trainable_flags,
)


class Encoder(keras.Model):
    """A functional model that keeps its dtype policy in its configuration.

    Attributes:
        initial_flags: `TrainableFlags`, which layers learn after the constructor, that
            is by the arguments alone.
    """

    initial_flags: TrainableFlags

    def __init__(
        self,
        inputs: object,
        outputs: object,
        *,
        policy: keras.DTypePolicy,
        trainable: bool,
        name: str,
    ):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy
        # Setting True would unfreeze the layers that are frozen one by one.
        if not trainable:
            self.trainable = False

    @property
    def token_embedding(self) -> keras.layers.Layer | None:
        """The layer that embeds token ids, or None, as KerasHub's backbones."""
        return None

    def fingerprint(self) -> str:
        """Returns a digest of the configuration and the weights, 64 digits."""
        # Names and frozen layers change no embedding.
        left_out = ("name", CONFIG_KEY)
        config = {k: v for k, v in self.get_config().items() if k not in left_out}
        text = json.dumps(config, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode())
        # Not all variables: the seeds of dropout differ at each opening.
        for variable in self.weights:
            value = np.ascontiguousarray(variable.numpy())
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Exports as `keras.Model.export`; `InputError` for quantized LiteRT."""
        check_litert_export(self, format)
        super().export(filepath, format, *args, **kwargs)

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
