"""Base class of the image and the text encoder."""

import hashlib
import json

import keras
import numpy as np

from align_keras.layers.dtype_policy import dtype_config
from align_keras.models.litert_export import CheckedLiteRTExport
from align_keras.models.trainable_layers import (
    CONFIG_KEY,
    TrainableFlags,
    set_trainable_flags,
    take_trainable_flags,
    trainable_flags,
)


class Encoder(CheckedLiteRTExport, keras.Model):
    """Functional model whose configuration includes its dtype policy.

    Attributes:
        initial_flags: `TrainableFlags` of the layers after the constructor. The
            configuration lists the flags only if they have changed since.
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

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the configuration and the weights, 64 hex digits."""
        # The name and the frozen layers don't change the embeddings.
        config = self.get_config()
        config.pop("name")
        config.pop(CONFIG_KEY, None)
        text = json.dumps(config, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode())
        # `variables` would include the dropout seeds, which differ each time the model
        # is loaded.
        for variable in self.weights:
            value = np.ascontiguousarray(variable.numpy())
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
