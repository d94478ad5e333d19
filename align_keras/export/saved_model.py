"""Export of a model as SavedModels for TensorFlow Serving."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from align_keras.export import WEIGHTS
from align_keras.export.model_card import model_card
from align_keras.export.served_model import ServedModel
from align_keras.text.tensorflow_text import check_tensorflow_text
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, atomic_folder, placeable_folder


@dataclasses.dataclass(frozen=True)
class ServedParts:
    """Inputs that a SavedModel of an export accepts."""

    images: bool
    texts: bool


# Maps the folder of each SavedModel to the inputs that it accepts.
SERVED_MODELS = {
    "image": ServedParts(images=True, texts=False),
    "text": ServedParts(images=False, texts=True),
    "align": ServedParts(images=True, texts=True),
}
_GRAPH = "saved_model.pb"
# Descriptions of inputs and outputs in signatures.json, by the names of the tensors.
_MEANINGS = {
    "image_bytes": f"contents of JPEG, PNG or WebP files of at most {MAX_PIXELS:,} "
    "pixels",
    "images": "RGB images of the same size, with a height and a width of at least 1",
    "captions": "UTF-8 texts",
    "token_ids": "token ids of the tokenizer, at most sequence_length per row, in the "
    "order [CLS], tokens of the text, [SEP], [PAD]",
    "padding_mask": "1 for a token, 0 for [PAD]",
    "class_names": "UTF-8 texts",
    "templates": "UTF-8 texts in which {} is replaced by the class name",
    "image_embedding": "vectors of unit length, or zero vectors for invalid files",
    "text_embedding": "vectors of unit length",
    "cosine": "cosine similarity of each image (row) and each caption (column)",
    "scores": "softmax over the classes of cosine / temperature, where the embedding "
    "of a class is the normalized mean over its templates",
    "valid": "true if the file is an image that can be decoded",
}


def export_saved_model(
    model: Any,
    directory: str | os.PathLike,
    *,
    weights: str | None = None,
    card_arguments: dict[str, Any] | None = None,
) -> None:
    """Writes a model as three SavedModels in the folder layout of TensorFlow Serving.

    - `image/1` embeds images. It needs TensorFlow only.
    - `text/1` embeds captions. It also needs the operations of `tensorflow_text`.
    - `align/1` does both, compares images with captions, and classifies images.

    A file `signatures.json` in each SavedModel describes its signatures. `README.md` is
    the model card. Batches may have any size. For a file that is not an image, the
    output `valid` is False and the embedding is zero.

    Args:
        model: `ALIGN` with a vocabulary.
        directory: folder of the export. It must be new, empty or an earlier export. An
            earlier export is replaced after the new one has been written completely.
        weights: `"bfloat16"` or `"float16"` stores the weights in half the size and
            computes in float32. None keeps the dtypes of the weights.
        card_arguments: dict of keyword arguments of `model_card`.

    Raises:
        InputError: if the model has no vocabulary or has weights that are not finite,
            if `directory` is a file or contains files that are not part of an export,
            or if `weights` is not one of the supported dtypes.

    References:
        Jia et al. 2021, sections 4.1 (cosine similarity of embeddings) and 10.

    Example:

    ```python
    vocabulary = align_keras.learn_vocabulary(["a temple", "a flower"] * 2, 30)
    model = align_keras.ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    export_saved_model(model, "export")
    served = tf.saved_model.load("export/text/1")
    outputs = served.signatures["encode_text"](captions=tf.constant(["a flower"]))
    outputs["text_embedding"].shape  # TensorShape([1, 256])
    ```
    """
    if not model.tokenizer.in_graph:
        check_tensorflow_text("A SavedModel that embeds texts")
    directory = placeable_folder(directory, "directory")
    _check_replaceable(directory)
    if weights is not None:
        check_choice("weights", weights, WEIGHTS, "Choose one of them, or None.")
    with atomic_folder(directory) as folder:
        write_saved_models(
            model, folder, weights=weights, card_arguments=card_arguments
        )


def write_saved_models(
    model: Any,
    folder: pathlib.Path,
    *,
    weights: str | None = None,
    card_arguments: dict[str, Any] | None = None,
) -> None:
    """Writes the three SavedModels and the model card into an empty folder."""
    model = model.without_lora()
    check_finite_weights(model)
    for name, parts in SERVED_MODELS.items():
        served = ServedModel(
            model,
            serves_images=parts.images,
            serves_texts=parts.texts,
            weights=weights,
        )
        write_served(served, folder / name)
    card = model_card(model, weights=weights, **(card_arguments or {}))
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_served(served: ServedModel, folder: str | os.PathLike) -> None:
    """Writes one SavedModel to the subfolder `1`, the first version of a servable."""
    version = pathlib.Path(folder) / "1"
    tf.saved_model.save(served, str(version), signatures=served.functions)
    description = json.dumps(describe_saved(version, served.preprocessing), indent=1)
    (version / "signatures.json").write_text(description + "\n", encoding="utf-8")


def describe_saved(version: pathlib.Path, preprocessing: dict) -> dict[str, Any]:
    """Returns the content of `signatures.json` for a SavedModel.

    Args:
        version: folder of the SavedModel.
        preprocessing: `ServedModel.preprocessing`.
    """
    saved = saved_model_pb2.SavedModel.FromString((version / _GRAPH).read_bytes())
    (graph,) = saved.meta_graphs
    return {
        "signatures": {
            name: {
                "inputs": _describe_tensors(signature.inputs),
                "outputs": _describe_tensors(signature.outputs),
            }
            for name, signature in sorted(graph.signature_def.items())
            # TensorFlow adds the signature __saved_model_init_op, which is not for
            # clients.
            if not name.startswith("__")
        },
        # `tf.Module` wraps its dicts in a class that Python 3.13 cannot write as JSON.
        "preprocessing": {name: dict(steps) for name, steps in preprocessing.items()},
    }


def _describe_tensors(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns dtype, shape and meaning of the inputs or outputs of a signature."""
    return {
        name: {
            "dtype": tf.as_dtype(tensors[name].dtype).name,
            "shape": tf.TensorShape(tensors[name].tensor_shape).as_list(),
            "meaning": meaning,
        }
        for name, meaning in _MEANINGS.items()
        if name in tensors
    }


def check_finite_weights(model: Any) -> None:
    """Raises if a weight is NaN or infinite, which would make all embeddings NaN."""
    paths = [weight.path for weight in model.weights if not _is_finite(weight.numpy())]
    if paths:
        raise InputError(
            "`model` must have finite weights. Received: NaN or infinity in "
            f"{len(paths)} of {len(model.weights)} weights, the first of which is "
            f"{paths[0]}. Use an earlier checkpoint, or train again with a lower "
            "learning rate."
        )


def _is_finite(values: np.ndarray) -> bool:
    """Returns True if all values are finite."""
    # The sum is a fast test. The second test handles finite values whose sum overflows.
    values = np.asarray(values, "float32")
    return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _check_replaceable(folder: pathlib.Path) -> None:
    """Raises if a folder contains files that are not part of an earlier export."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_export = all((folder / name / "1" / _GRAPH).is_file() for name in SERVED_MODELS)
    if is_export:
        names -= {*SERVED_MODELS, "README.md", "serving"}
    if names:
        raise InputError(
            "`directory` must be new, empty or an earlier export. Received: "
            f"directory={folder}, which contains {min(names)}. Choose another folder, "
            "or remove this one first."
        )
