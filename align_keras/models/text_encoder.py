"""Text encoder: a transformer with pooling and a linear projection."""

from typing import Any

import keras

from align_keras.layers.rematerialization import rematerialize_in_training
from align_keras.models.encoder import Encoder
from align_keras.models.trainable_layers import trainable_flags
from align_keras.models.transformer_computation import (
    infer_while_frozen,
    set_transformer_computation,
)
from align_keras.presets.variants import ARCHITECTURES, text_encoder_arguments
from align_keras.utils.arguments import (
    check_choice,
    check_number,
    parameters_of,
    refuse_unknown,
)

# Upper bounds of the sizes. A larger number is probably a mistake, and would fill the
# memory or take hours.
MOST = {
    "vocabulary_size": 10_000_000,
    "num_layers": 100,
    "hidden_dim": 65_536,
    "num_heads": 65_536,
    "intermediate_dim": 1_000_000,
}
MOST_TOKENS = 1_000_000


@keras.saving.register_keras_serializable(package="align_keras")
class TextEncoder(Encoder):
    """Text backbone of KerasHub with pooling and an optional linear projection.

    Args:
        vocabulary_size: number of WordPiece tokens.
        num_layers: number of transformer layers.
        hidden_dim: width of the layers, a multiple of `num_heads`.
        num_heads: number of attention heads.
        intermediate_dim: width of the feed-forward layers.
        projection_dim: width of a linear projection, or None for no projection.
            The embedding then has the width `hidden_dim`.
        dropout: in [0, 1), dropout rate of the backbone.
        sequence_length: ≥ 3, tokens per caption, including [CLS] and [SEP].
        max_sequence_length: ≥ `sequence_length`, number of position embeddings.
            None uses `sequence_length`.
        architecture: `"bert"` (the paper), `"distil_bert"`, `"electra"` or
            `"albert"`, whose layers share their weights.
        activation: `"gelu_approximate"` (the tanh approximation, as in Google's
            BERT) or `"gelu"` (exact, as in Hugging Face's BERT).
        pooling: `"cls"` (the paper) or `"mean"` over the tokens, as in MiniLM.
        rematerialize: compute activations again in the backward pass instead of
            storing them.
        locked: train the projection only, without dropout.
        dtype: str or `keras.DTypePolicy` of all layers. None uses Keras's default.
        trainable: False freezes the whole encoder with its projection.

    Call arguments:
        inputs: dict of `token_ids`, int (n, length), and `padding_mask`, bool or int
            (n, length), true for tokens and false for padding. The length is at most
            `max_sequence_length`.

    Returns:
        float tensor (n, projection_dim or hidden_dim), not normalized.

    Raises:
        InputError: if an argument is out of range or unknown.

    References:
        Jia et al. 2021, sections 4.1 (BERT with the [CLS] token and a linear layer to
        the width of the image encoder) and 5 (at most 64 tokens).

    Example:

    >>> import numpy as np
    >>> encoder = TextEncoder(vocabulary_size=50, num_layers=1, hidden_dim=8,
    ...     num_heads=2, intermediate_dim=16, projection_dim=4, sequence_length=6)
    >>> tokens = np.ones((2, 6), "int32")
    >>> encoder({"token_ids": tokens, "padding_mask": tokens}).shape
    TensorShape([2, 4])
    """

    lora_layer_names = ("query", "value", "projection")

    def __init__(
        self,
        *,
        vocabulary_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        projection_dim: int | None = None,
        dropout: float = 0.1,
        sequence_length: int = 64,
        max_sequence_length: int | None = None,
        architecture: str = "bert",
        activation: str = "gelu_approximate",
        pooling: str = "cls",
        rematerialize: bool = False,
        locked: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        trainable: bool = True,
        name: str = "text_encoder",
        **kwargs: Any,
    ) -> None:
        refuse_unknown("TextEncoder", kwargs, parameters_of(TextEncoder.__init__))
        max_sequence_length = max_sequence_length or sequence_length
        sizes = {
            "vocabulary_size": vocabulary_size,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
        }
        for size_name, size in sizes.items():
            check_number(size_name, size, 1, MOST[size_name], whole=True)
        # The shortest caption consists of [CLS], one token and [SEP].
        check_number("sequence_length", sequence_length, 3, MOST_TOKENS, whole=True)
        check_number(
            "max_sequence_length",
            max_sequence_length,
            sequence_length,
            MOST_TOKENS,
            whole=True,
        )
        check_choice("architecture", architecture, ARCHITECTURES)
        check_choice("activation", activation, ("gelu_approximate", "gelu"))
        check_choice("pooling", pooling, ("cls", "mean"))
        import keras_hub

        parts = ARCHITECTURES[architecture]
        optional_arguments = {
            parts.vocabulary_argument: vocabulary_size,
            "num_segments": parts.segments,
            "embedding_dim": parts.embedding_dim,
        }
        policy = keras.dtype_policies.get(dtype)
        # The scope makes the paths of the variables of both encoders different.
        with keras.name_scope(name):
            # === Layers ===
            backbone = getattr(keras_hub.models, parts.keras_hub_class)(
                num_layers=num_layers,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                intermediate_dim=intermediate_dim,
                dropout=0.0 if locked else dropout,
                max_sequence_length=max_sequence_length,
                dtype=policy,
                name=architecture,
                **{
                    key: value
                    for key, value in optional_arguments.items()
                    if value is not None
                },
            )
            layers = _transformer_layers(backbone, architecture)
            set_transformer_computation(
                layers, activation, pooling == "cls" and not parts.shares_layers
            )
            if rematerialize:
                for layer in layers:
                    rematerialize_in_training(layer)
            for layer in layers:
                infer_while_frozen(layer, layer)
            infer_while_frozen(backbone.embeddings_dropout, backbone.token_embedding)
            # The pooler of BERT is for next-sentence prediction. Its output is unused.
            if parts.pooler:
                backbone.get_layer(parts.pooler).trainable = False
            # Setting True would also unfreeze the pooler.
            if locked:
                backbone.trainable = False

            # === Functional model ===
            token_ids = keras.Input((None,), dtype="int32", name="token_ids")
            padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
            inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
            all_inputs = {**inputs, "segment_ids": keras.ops.zeros_like(token_ids)}
            sequence = backbone({name: all_inputs[name] for name in backbone.input})
            if isinstance(sequence, dict):
                sequence = sequence["sequence_output"]
            if pooling == "cls":
                outputs = sequence[:, 0]
            else:
                mean = keras.layers.GlobalAveragePooling1D(dtype=policy, name="pooling")
                outputs = mean(sequence, mask=padding_mask)
            if projection_dim is not None:
                projection = keras.layers.Dense(
                    projection_dim, dtype=policy, name="projection"
                )
                outputs = projection(outputs)
        super().__init__(inputs, outputs, policy=policy, trainable=trainable, name=name)
        self.initial_flags = trainable_flags(self)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.projection_dim = projection_dim
        self.dropout = dropout
        self.sequence_length = sequence_length
        self.max_sequence_length = max_sequence_length
        self.architecture = architecture
        self.activation = activation
        self.pooling = pooling
        self.rematerialize = rematerialize
        self.locked = locked

    @classmethod
    def from_variant(cls, variant: str, **arguments: Any) -> "TextEncoder":
        """Builds the encoder of a named size, with random weights.

        Args:
            variant: a key of `align_keras.presets.variants.TEXT_VARIANTS`, such as
                `"bert_base"` or `"distil_bert_base"`.
            **arguments: arguments of `TextEncoder`. `vocabulary_size` is required. An
                argument that is None keeps the value of the variant or the default.

        Example:

        >>> encoder = TextEncoder.from_variant("bert_tiny", vocabulary_size=50)
        >>> encoder.num_layers, encoder.hidden_dim
        (2, 128)
        """
        sizes = text_encoder_arguments(variant)
        sizes.update(
            {name: value for name, value in arguments.items() if value is not None}
        )
        return cls(**sizes)

    @property
    def backbone(self) -> keras.Model:
        """Backbone of KerasHub, such as `BertBackbone`."""
        return self.get_layer(self.architecture)

    @property
    def blocks(self) -> list[keras.layers.Layer]:
        """List of all transformer layers, from input to output."""
        return _transformer_layers(self.backbone, self.architecture)

    def _last_layers(self, blocks: int) -> list[keras.layers.Layer]:
        return [*self.blocks[-blocks:], *self._projections()]

    def _unused_layers(self) -> list[keras.layers.Layer]:
        pooler = ARCHITECTURES[self.architecture].pooler
        return [self.backbone.get_layer(pooler)] if pooler else []

    @property
    def token_embedding(self) -> keras.layers.Layer:
        """Token embedding of the backbone, as in backbones of KerasHub."""
        return self.backbone.token_embedding

    def get_config(self) -> dict:
        return {
            "activation": self.activation,
            "architecture": self.architecture,
            "dropout": self.dropout,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "locked": self.locked,
            "max_sequence_length": self.max_sequence_length,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "pooling": self.pooling,
            "projection_dim": self.projection_dim,
            "rematerialize": self.rematerialize,
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.vocabulary_size,
            **super().get_config(),
        }


def _transformer_layers(
    backbone: keras.Model, architecture: str
) -> list[keras.layers.Layer]:
    """Returns the transformer layers of a backbone, without repeated shared layers."""
    layers = backbone.transformer_layers
    if ARCHITECTURES[architecture].shares_layers:
        ((*layers,),) = layers
    return list(layers)
