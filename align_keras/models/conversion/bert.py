"""BERT's tensors by the names of Hugging Face's transformers and of TF Model Garden."""

import operator
import os

import keras
import tensorflow as tf

from align_keras.models.conversion.links import (
    HEADS_BIAS,
    SAME,
    TORCH_DENSE,
    TORCH_FROM_HEADS,
    TORCH_TO_HEADS,
    Link,
    load_links,
)
from align_keras.utils.errors import InputError

# Our layer, Hugging Face's name of it, Model Garden's.
_EMBEDDINGS = (
    ("token_embedding", "word_embeddings", "_embedding_layer"),
    ("position_embedding", "position_embeddings", "_position_embedding_layer"),
    ("segment_embedding", "token_type_embeddings", "_type_embedding_layer"),
    ("embeddings_layer_norm", "LayerNorm", "_embedding_norm_layer"),
)
_SELF, _INSIDE = "_self_attention_layer", "/_attention_layer"
_TRANSFORMER_LAYER = (
    (f"{_SELF}.query_dense", "attention.self.query", f"{_INSIDE}/_query_dense"),
    (f"{_SELF}.key_dense", "attention.self.key", f"{_INSIDE}/_key_dense"),
    (f"{_SELF}.value_dense", "attention.self.value", f"{_INSIDE}/_value_dense"),
    (f"{_SELF}.output_dense", "attention.output.dense", f"{_INSIDE}/_output_dense"),
    (f"{_SELF}_norm", "attention.output.LayerNorm", f"{_INSIDE}_norm"),
    ("_feedforward_intermediate_dense", "intermediate.dense", "/_intermediate_dense"),
    ("_feedforward_output_dense", "output.dense", "/_output_dense"),
    ("_feedforward_layer_norm", "output.LayerNorm", "/_output_layer_norm"),
)
_TORCH_NAMES = {"bias": "bias", "beta": "bias"}
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# `official.nlp.modeling.networks.BertEncoder` names its layers by their order,
# `BertEncoderV2` by their attributes.
_BY_ORDER = "layer_with_weights-0/embeddings"
_BY_ATTRIBUTE = "_embedding_layer/embeddings"


def bert_links(text_encoder: keras.Model, prefix: str = "") -> list[Link]:
    """Links a text encoder's BERT, its pooler included; `prefix` begins all names."""
    return [
        Link(
            weight,
            f"{prefix}{name}.{_TORCH_NAMES.get(weight.name, 'weight')}",
            _torch_layout(name, weight.name),
        )
        for layer, name, _, _ in _named_layers(bert_of(text_encoder))
        for weight in layer.weights
    ]


def bert_of(text_encoder: keras.Model) -> keras.Model:
    """Returns the encoder's `BertBackbone`; raises `InputError` for another."""
    if text_encoder.architecture != "bert":
        raise InputError(
            "text_encoder must be a BERT for weights of this form, received "
            f"architecture {text_encoder.architecture!r}; choose a variant of BERT."
        )
    return text_encoder.backbone


def _named_layers(bert):
    """Yields each layer, its name in torch, its block in Model Garden, its place."""
    for ours, name, block in _EMBEDDINGS:
        yield getattr(bert, ours), f"embeddings.{name}", block, ""
    for number, layer in enumerate(bert.transformer_layers):
        for ours, name, inside in _TRANSFORMER_LAYER:
            part = operator.attrgetter(ours)(layer)
            block = f"_transformer_layers/{number}"
            yield part, f"encoder.layer.{number}.{name}", block, inside
    yield bert.pooled_dense, "pooler.dense", "_pooler_layer", ""


def _torch_layout(name, weight):
    if ".self." in name:
        return TORCH_TO_HEADS if weight == "kernel" else HEADS_BIAS
    if weight != "kernel":
        return SAME
    return TORCH_FROM_HEADS if name.endswith("attention.output.dense") else TORCH_DENSE


# === Checkpoints of TF Model Garden ===


def load_bert_of_model_garden(
    text_encoder: keras.Model, path: str | os.PathLike
) -> None:
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
    names = reader.get_variable_to_shape_map()
    for first in (_BY_ORDER, _BY_ATTRIBUTE):
        for name in names:
            if f"/{name}".endswith(f"/{first}{_SUFFIX}"):
                prefix = name.removesuffix(first + _SUFFIX)
                links = _garden_links(bert, prefix, by_order=first == _BY_ORDER)
                held = [other for other in names if other.startswith(prefix)]
                tensors = {name: reader.get_tensor(name) for name in held}
                load_links(links, tensors, str(path))
                return
    raise InputError(
        f"{path} holds no BERT of TF Model Garden; give a checkpoint with an encoder."
    )


def _garden_links(bert, prefix, by_order):
    layers = list(_named_layers(bert))
    blocks = list(dict.fromkeys(block for _, _, block, _ in layers))
    if by_order:
        names = {name: f"layer_with_weights-{row}" for row, name in enumerate(blocks)}
    else:
        names = dict(zip(blocks, blocks, strict=True))
    return [
        Link(weight, f"{prefix}{names[block]}{inside}/{weight.name}{_SUFFIX}")
        for layer, _, block, inside in layers
        for weight in layer.weights
    ]
