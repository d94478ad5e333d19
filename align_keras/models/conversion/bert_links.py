"""BERT's tensors by the names of Hugging Face's transformers."""

from align_keras.models.conversion.layouts import (
    HEADS_BIAS,
    TORCH_DENSE,
    TORCH_FROM_HEADS,
    TORCH_TO_HEADS,
)
from align_keras.models.conversion.links import Link


def bert_links(text_encoder, prefix=""):
    """Links a text encoder's BERT, its pooler included.

    Args:
        text_encoder: `TextEncoder`.
        prefix: str, that all names begin with, such as `"text_model."`.

    Returns:
        list of `Link`.
    """
    bert = text_encoder.bert
    names = {
        "embeddings.word_embeddings": bert.token_embedding,
        "embeddings.position_embeddings": bert.position_embedding,
        "embeddings.token_type_embeddings": bert.segment_embedding,
    }
    links = [
        Link(layer.weights[0], f"{prefix}{name}.weight")
        for name, layer in names.items()
    ]
    links += _norm(bert.embeddings_layer_norm, f"{prefix}embeddings.LayerNorm")
    for number, layer in enumerate(bert.transformer_layers):
        links += _transformer_layer(layer, f"{prefix}encoder.layer.{number}.")
    return links + _dense(bert.pooled_dense, f"{prefix}pooler.dense")


def _transformer_layer(layer, prefix):
    attention = layer._self_attention_layer
    heads = {
        "query": attention.query_dense,
        "key": attention.key_dense,
        "value": attention.value_dense,
    }
    links = []
    for name, dense in heads.items():
        name = f"{prefix}attention.self.{name}"
        links.append(Link(dense.kernel, f"{name}.weight", TORCH_TO_HEADS))
        links.append(Link(dense.bias, f"{name}.bias", HEADS_BIAS))
    output = attention.output_dense
    name = f"{prefix}attention.output"
    links.append(Link(output.kernel, f"{name}.dense.weight", TORCH_FROM_HEADS))
    links.append(Link(output.bias, f"{name}.dense.bias"))
    return [
        *links,
        *_norm(layer._self_attention_layer_norm, f"{name}.LayerNorm"),
        *_dense(layer._feedforward_intermediate_dense, f"{prefix}intermediate.dense"),
        *_dense(layer._feedforward_output_dense, f"{prefix}output.dense"),
        *_norm(layer._feedforward_layer_norm, f"{prefix}output.LayerNorm"),
    ]


def _dense(layer, name):
    return [
        Link(layer.kernel, f"{name}.weight", TORCH_DENSE),
        Link(layer.bias, f"{name}.bias"),
    ]


def _norm(layer, name):
    return [Link(layer.gamma, f"{name}.weight"), Link(layer.beta, f"{name}.bias")]
