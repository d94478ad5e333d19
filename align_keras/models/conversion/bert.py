"""BERT's tensors by the names of Hugging Face's transformers and of TF Model Garden."""

import collections.abc
import os

import keras
import tensorflow as tf

from align_keras.models.conversion.links import (
    HEADS_BIAS,
    TORCH_DENSE,
    TORCH_FROM_HEADS,
    TORCH_TO_HEADS,
    Link,
    load_links,
)
from align_keras.utils.errors import InputError

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# `official.nlp.modeling.networks.BertEncoder` names its layers by their order,
# `BertEncoderV2` by their attributes.
_BY_ORDER = "layer_with_weights-0/embeddings"
_BY_ATTRIBUTE = "_embedding_layer/embeddings"


def bert_links(text_encoder: keras.Model, prefix: str = "") -> list[Link]:
    """Links a text encoder's BERT, its pooler included; `prefix` begins all names."""
    bert = bert_of(text_encoder)
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


def bert_of(text_encoder: keras.Model) -> keras.Model:
    """Returns the encoder's `BertBackbone`; raises `InputError` for another."""
    if text_encoder.architecture != "bert":
        raise InputError(
            "text_encoder must be a BERT for weights of this form, received "
            f"architecture {text_encoder.architecture!r}; choose a variant of BERT."
        )
    return text_encoder.backbone


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


# === Checkpoints of TF Model Garden ===


class _Checkpoint(collections.abc.Mapping):
    """The tensors of a checkpoint whose names begin with a prefix."""

    def __init__(self, reader, prefix):
        self._reader = reader
        self._shapes = {
            name: shape
            for name, shape in reader.get_variable_to_shape_map().items()
            if name.startswith(prefix)
        }

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self):
        return len(self._shapes)

    def __getitem__(self, name):
        if name not in self._shapes:
            raise KeyError(name)
        return self._reader.get_tensor(name)


def load_model_garden_bert(text_encoder: keras.Model, path: str | os.PathLike) -> None:
    """Loads a BERT from a prefix of `tf.train.Checkpoint(encoder=…)` or `(model=…)`."""
    bert = bert_of(text_encoder)
    try:
        reader = tf.train.load_checkpoint(str(path))
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(
            f"{path} isn't a whole TensorFlow checkpoint "
            f"({' '.join(str(error).split())[:120]}); give the prefix of its .index "
            "file."
        ) from None
    for first in (_BY_ORDER, _BY_ATTRIBUTE):
        for name in reader.get_variable_to_shape_map():
            if f"/{name}".endswith(f"/{first}{_SUFFIX}"):
                prefix = name.removesuffix(first + _SUFFIX)
                links = _garden_links(bert, prefix, by_order=first == _BY_ORDER)
                load_links(links, _Checkpoint(reader, prefix), str(path))
                return
    raise InputError(
        f"{path} holds no BERT of TF Model Garden; give a checkpoint with an encoder."
    )


def _garden_links(bert, prefix, by_order):
    layers = len(bert.transformer_layers)
    names = (
        [f"layer_with_weights-{number}" for number in range(layers + 5)]
        if by_order
        else [
            "_embedding_layer",
            "_position_embedding_layer",
            "_type_embedding_layer",
            "_embedding_norm_layer",
            *(f"_transformer_layers/{number}" for number in range(layers)),
            "_pooler_layer",
        ]
    )
    token, position, segment, norm, *blocks, pooler = names
    links = [
        (bert.token_embedding.embeddings, f"{token}/embeddings"),
        (bert.position_embedding.position_embeddings, f"{position}/embeddings"),
        (bert.segment_embedding.embeddings, f"{segment}/embeddings"),
        *_norm_of(bert.embeddings_layer_norm, norm),
    ]
    for name, layer in zip(blocks, bert.transformer_layers, strict=True):
        links += _garden_layer(layer, name)
    links += _dense_of(bert.pooled_dense, pooler)
    return [Link(variable, f"{prefix}{name}{_SUFFIX}") for variable, name in links]


def _garden_layer(layer, name):
    attention = layer._self_attention_layer
    inside = f"{name}/_attention_layer"
    return [
        *_dense_of(attention.query_dense, f"{inside}/_query_dense"),
        *_dense_of(attention.key_dense, f"{inside}/_key_dense"),
        *_dense_of(attention.value_dense, f"{inside}/_value_dense"),
        *_dense_of(attention.output_dense, f"{inside}/_output_dense"),
        *_norm_of(layer._self_attention_layer_norm, f"{name}/_attention_layer_norm"),
        *_dense_of(
            layer._feedforward_intermediate_dense, f"{name}/_intermediate_dense"
        ),
        *_dense_of(layer._feedforward_output_dense, f"{name}/_output_dense"),
        *_norm_of(layer._feedforward_layer_norm, f"{name}/_output_layer_norm"),
    ]


def _dense_of(layer, name):
    return [(layer.kernel, f"{name}/kernel"), (layer.bias, f"{name}/bias")]


def _norm_of(layer, name):
    return [(layer.gamma, f"{name}/gamma"), (layer.beta, f"{name}/beta")]
