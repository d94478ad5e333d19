"""The text encoder: BERT's [CLS] and a linear projection."""

import keras

from align_keras.utils.errors import InputError

# layers, width, heads, feed-forward width: Turc et al. 2019 and, base and large,
# Devlin et al. 2019.
VARIANTS = {
    "bert_tiny": (2, 128, 2, 512),
    "bert_mini": (4, 256, 4, 1024),
    "bert_medium": (8, 512, 8, 2048),
    "bert_base": (12, 768, 12, 3072),
    "bert_large": (24, 1024, 16, 4096),
}


@keras.saving.register_keras_serializable(package="align_keras")
class TextEncoder(keras.Model):
    """KerasHub's BERT, [CLS], and a linear projection.

    Args:
        vocabulary_size: int, number of WordPiece tokens.
        num_layers: int.
        hidden_dim: int, a multiple of `num_heads`.
        num_heads: int.
        intermediate_dim: int, width of the feed-forward layers.
        projection_dim: int, width of the embedding.
        dropout: float in [0, 1).
        sequence_length: int ≥ 3, tokens a caption, [CLS] and [SEP] included.

    Call arguments:
        inputs: dict of `token_ids`, int (n, sequence_length), and
            `padding_mask`, bool or int (n, sequence_length), true on tokens.

    Returns:
        float tensor (n, projection_dim), not normalised.

    Raises:
        InputError: if `hidden_dim` isn't a multiple of `num_heads`.

    References:
        Jia et al. 2021, section 4.1: BERT with the [CLS] token, a linear layer
        to the image encoder's width, at most 64 tokens (section 5.1).

    Example:

    >>> import numpy as np
    >>> encoder = TextEncoder(vocabulary_size=50, num_layers=1, hidden_dim=8,
    ...     num_heads=2, intermediate_dim=16, projection_dim=4, sequence_length=6)
    >>> inputs = {"token_ids": np.ones((2, 6), "int32"),
    ...           "padding_mask": np.ones((2, 6), "int32")}
    >>> encoder(inputs).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        *,
        vocabulary_size,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        projection_dim,
        dropout=0.1,
        sequence_length=64,
        name="text_encoder",
        **kwargs,
    ):
        if hidden_dim % num_heads:
            raise InputError(
                "hidden_dim must be a multiple of num_heads, received "
                f"{hidden_dim} and {num_heads}; change one of them."
            )
        from keras_hub.models import BertBackbone

        # === Layers ===
        backbone = BertBackbone(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            max_sequence_length=sequence_length,
            num_segments=2,
            name="bert",
        )
        # BERT's pooler is for next-sentence prediction; nothing here reads it.
        backbone.get_layer("pooled_dense").trainable = False
        projection = keras.layers.Dense(projection_dim, name="projection")

        # === Functional model ===
        token_ids = keras.Input((sequence_length,), dtype="int32", name="token_ids")
        padding_mask = keras.Input(
            (sequence_length,), dtype="int32", name="padding_mask"
        )
        sequence = backbone(
            {
                "token_ids": token_ids,
                "segment_ids": keras.ops.zeros_like(token_ids),
                "padding_mask": padding_mask,
            }
        )["sequence_output"]
        outputs = projection(sequence[:, 0])
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=outputs,
            name=name,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.projection_dim = projection_dim
        self.dropout = dropout
        self.sequence_length = sequence_length

    def get_config(self):
        return {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "projection_dim": self.projection_dim,
            "dropout": self.dropout,
            "sequence_length": self.sequence_length,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)
