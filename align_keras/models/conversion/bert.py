"""Tensor names of BERT in transformers (Hugging Face) and in TF Model Garden."""

import dataclasses
import operator
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from align_keras.models.conversion.links import (
    HEADS_BIAS,
    SAME,
    TORCH_DENSE,
    TORCH_FROM_HEADS,
    TORCH_TO_HEADS,
    Layout,
    Link,
    load_links,
)
from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class _LayerNames:
    """Names of a layer in three libraries.

    Attributes:
        keras_hub: attribute of the backbone or of a transformer layer.
        hugging_face: name of the module.
        model_garden: attribute of the encoder, or path inside of a transformer
            layer.
    """

    keras_hub: str
    hugging_face: str
    model_garden: str


_EMBEDDINGS = (
    _LayerNames("token_embedding", "word_embeddings", "_embedding_layer"),
    _LayerNames(
        "position_embedding", "position_embeddings", "_position_embedding_layer"
    ),
    _LayerNames("segment_embedding", "token_type_embeddings", "_type_embedding_layer"),
    _LayerNames("embeddings_layer_norm", "LayerNorm", "_embedding_norm_layer"),
)
_TRANSFORMER_LAYER = (
    _LayerNames(
        "_self_attention_layer.query_dense",
        "attention.self.query",
        "/_attention_layer/_query_dense",
    ),
    _LayerNames(
        "_self_attention_layer.key_dense",
        "attention.self.key",
        "/_attention_layer/_key_dense",
    ),
    _LayerNames(
        "_self_attention_layer.value_dense",
        "attention.self.value",
        "/_attention_layer/_value_dense",
    ),
    _LayerNames(
        "_self_attention_layer.output_dense",
        "attention.output.dense",
        "/_attention_layer/_output_dense",
    ),
    _LayerNames(
        "_self_attention_layer_norm",
        "attention.output.LayerNorm",
        "/_attention_layer_norm",
    ),
    _LayerNames(
        "_feedforward_intermediate_dense", "intermediate.dense", "/_intermediate_dense"
    ),
    _LayerNames("_feedforward_output_dense", "output.dense", "/_output_dense"),
    _LayerNames("_feedforward_layer_norm", "output.LayerNorm", "/_output_layer_norm"),
)


@dataclasses.dataclass(frozen=True)
class _NamedLayer:
    """Layer of a backbone with its names in other libraries.

    Attributes:
        layer: Keras layer.
        torch_name: name of the module in transformers.
        garden_block: attribute of Model Garden's encoder that contains the layer.
        garden_path: path of the layer in this block, or "".
    """

    layer: keras.layers.Layer
    torch_name: str
    garden_block: str
    garden_path: str = ""


_TORCH_NAMES = {"bias": "bias", "beta": "bias"}
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Checkpoints of `official.nlp.modeling.networks.BertEncoder` number the layers, and
# those of `BertEncoderV2` use the names of attributes.
_BY_ORDER = "layer_with_weights-0/embeddings"
_BY_ATTRIBUTE = "_embedding_layer/embeddings"


def bert_links(text_encoder: keras.Model, prefix: str = "") -> list[Link]:
    """Returns the links of the BERT of a text encoder to tensors of transformers.

    The pooler is included. All tensor names start with `prefix`.
    """
    return [
        Link(
            weight,
            f"{prefix}{named.torch_name}.{_TORCH_NAMES.get(weight.name, 'weight')}",
            _torch_layout(named.torch_name, weight.name),
        )
        for named in _named_layers(bert_of(text_encoder))
        for weight in named.layer.weights
    ]


def bert_of(text_encoder: keras.Model) -> keras.Model:
    """Returns the `BertBackbone` of a text encoder. Raises for another backbone."""
    if text_encoder.architecture != "bert":
        raise InputError(
            "text_encoder must be a BERT for weights of this format. Received: "
            f"architecture={text_encoder.architecture!r}. Choose a variant of BERT."
        )
    return text_encoder.backbone


def _named_layers(bert: keras.Model) -> Iterator[_NamedLayer]:
    """Yields the layers with weights of a `BertBackbone`, from input to output."""
    for names in _EMBEDDINGS:
        yield _NamedLayer(
            layer=getattr(bert, names.keras_hub),
            torch_name=f"embeddings.{names.hugging_face}",
            garden_block=names.model_garden,
        )
    for number, transformer_layer in enumerate(bert.transformer_layers):
        for names in _TRANSFORMER_LAYER:
            yield _NamedLayer(
                layer=operator.attrgetter(names.keras_hub)(transformer_layer),
                torch_name=f"encoder.layer.{number}.{names.hugging_face}",
                garden_block=f"_transformer_layers/{number}",
                garden_path=names.model_garden,
            )
    yield _NamedLayer(
        layer=bert.pooled_dense,
        torch_name="pooler.dense",
        garden_block="_pooler_layer",
    )


def _torch_layout(name: str, weight: str) -> Layout:
    if ".self." in name:
        return TORCH_TO_HEADS if weight == "kernel" else HEADS_BIAS
    if weight != "kernel":
        return SAME
    return TORCH_FROM_HEADS if name.endswith("attention.output.dense") else TORCH_DENSE


# === Checkpoints of TF Model Garden ===


def load_bert_of_model_garden(
    text_encoder: keras.Model, path: str | os.PathLike
) -> None:
    """Loads a BERT from a checkpoint of TF Model Garden.

    Args:
        text_encoder: `TextEncoder` with a BERT of the same sizes.
        path: prefix of a checkpoint that `tf.train.Checkpoint(encoder=…)` or
            `tf.train.Checkpoint(model=…)` wrote.
    """
    bert = bert_of(text_encoder)
    try:
        reader = tf.train.load_checkpoint(str(path))
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(
            f"{path} must be a complete TensorFlow checkpoint "
            f"({' '.join(str(error).split())[:120]}). Pass the prefix of its .index "
            "file."
        ) from None
    names = reader.get_variable_to_shape_map()
    for first in (_BY_ORDER, _BY_ATTRIBUTE):
        for name in names:
            if f"/{name}".endswith(f"/{first}{_SUFFIX}"):
                prefix = name.removesuffix(first + _SUFFIX)
                links = _garden_links(bert, prefix, by_order=first == _BY_ORDER)
                tensors = {
                    tensor_name: reader.get_tensor(tensor_name)
                    for tensor_name in names
                    if tensor_name.startswith(prefix)
                }
                load_links(links, tensors, str(path))
                return
    raise InputError(
        f"{path} must contain a BERT of TF Model Garden. Received: a checkpoint "
        "without the variables of a BERT. Pass a checkpoint of an encoder."
    )


def _garden_links(bert: keras.Model, prefix: str, by_order: bool) -> list[Link]:
    """Returns the links of a `BertBackbone` to the tensors of a checkpoint."""
    layers = list(_named_layers(bert))
    blocks = list(dict.fromkeys(named.garden_block for named in layers))
    # `BertEncoder` numbers the layers in order.
    if by_order:
        names = {name: f"layer_with_weights-{row}" for row, name in enumerate(blocks)}
    else:
        names = dict(zip(blocks, blocks, strict=True))
    links = []
    for named in layers:
        path = f"{prefix}{names[named.garden_block]}{named.garden_path}"
        for weight in named.layer.weights:
            links.append(Link(weight, f"{path}/{weight.name}{_SUFFIX}"))
    return links
