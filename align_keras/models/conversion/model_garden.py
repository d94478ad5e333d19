"""BERT's tensors in the checkpoints of TF Model Garden."""

import collections.abc

import tensorflow as tf

from align_keras.models.conversion.links import Link, load_links
from align_keras.utils.errors import InputError

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# `official.nlp.modeling.networks.BertEncoder` names its layers by their order,
# `BertEncoderV2` by their attributes.
_BY_ORDER = "layer_with_weights-0/embeddings"
_BY_ATTRIBUTE = "_embedding_layer/embeddings"


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


def load_model_garden_bert(text_encoder, path):
    """Loads a text encoder's BERT from a checkpoint of TF Model Garden.

    Args:
        text_encoder: `TextEncoder` of the same sizes.
        path: str, the checkpoint's prefix, such as `"bert_model.ckpt"`; saved
            as `tf.train.Checkpoint(encoder=…)` or `(model=…)`.

    Raises:
        InputError: if there is no such checkpoint, or it doesn't fit.
    """
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
                links = _links(text_encoder.bert, prefix, by_order=first == _BY_ORDER)
                load_links(links, _Checkpoint(reader, prefix), str(path))
                return
    raise InputError(
        f"{path} holds no BERT of TF Model Garden; give a checkpoint with an encoder."
    )


def _links(bert, prefix, by_order):
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
        *_norm(bert.embeddings_layer_norm, norm),
    ]
    for name, layer in zip(blocks, bert.transformer_layers, strict=True):
        links += _transformer_layer(layer, name)
    links += _dense(bert.pooled_dense, pooler)
    return [Link(variable, f"{prefix}{name}{_SUFFIX}") for variable, name in links]


def _transformer_layer(layer, name):
    attention = layer._self_attention_layer
    inside = f"{name}/_attention_layer"
    return [
        *_dense(attention.query_dense, f"{inside}/_query_dense"),
        *_dense(attention.key_dense, f"{inside}/_key_dense"),
        *_dense(attention.value_dense, f"{inside}/_value_dense"),
        *_dense(attention.output_dense, f"{inside}/_output_dense"),
        *_norm(layer._self_attention_layer_norm, f"{name}/_attention_layer_norm"),
        *_dense(layer._feedforward_intermediate_dense, f"{name}/_intermediate_dense"),
        *_dense(layer._feedforward_output_dense, f"{name}/_output_dense"),
        *_norm(layer._feedforward_layer_norm, f"{name}/_output_layer_norm"),
    ]


def _dense(layer, name):
    return [(layer.kernel, f"{name}/kernel"), (layer.bias, f"{name}/bias")]


def _norm(layer, name):
    return [(layer.gamma, f"{name}/gamma"), (layer.beta, f"{name}/beta")]
