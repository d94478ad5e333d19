"""SavedModels for TensorFlow Serving: images, texts, and both."""

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
from align_keras.export.tower_functions import check_has
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, atomic_folder, placeable_folder


@dataclasses.dataclass(frozen=True)
class ServedParts:
    """Inputs that a SavedModel of an export accepts."""

    images: bool
    texts: bool


# Folder of a SavedModel → the inputs that it accepts.
SERVED_MODELS = {
    "image": ServedParts(images=True, texts=False),
    "text": ServedParts(images=False, texts=True),
    "align": ServedParts(images=True, texts=True),
}
_GRAPH = "saved_model.pb"
_FILES = (
    "JPEG, PNG, GIF (its first frame), BMP or WebP files, of at most "
    f"{MAX_PIXELS:,} pixels"
)
_UNIT = "of unit length"
_MEANINGS = {
    "image_bytes": _FILES,
    "images": "RGB images of one size, any height and width from 1 on",
    "captions": "UTF-8",
    "token_ids": "as the tokenizer gives them: [CLS] first, [SEP] last, then [PAD]; 1 "
    "to sequence_length of them",
    "padding_mask": "1 for a token, 0 for [PAD]",
    "class_names": "UTF-8",
    "templates": "UTF-8, each with {}, the place of the class name",
    "image_embedding": f"{_UNIT}, or zero where a file isn't valid",
    "text_embedding": _UNIT,
    "cosine": "of each image and each caption",
    "scores": "softmax of cosine / temperature over the classes, of the mean over "
    "the templates",
    "valid": "whether a file is an image of these",
}


def export_saved_model(
    model: Any,
    directory: str | os.PathLike,
    *,
    weights: str | None = None,
    card_arguments: dict[str, Any] | None = None,
) -> None:
    """Writes a model as three SavedModels, in folders as TensorFlow Serving reads.

    `image/1` serves images and needs TensorFlow only. `text/1` serves captions and also
    needs the operations of `tensorflow_text`. `align/1` serves both. `signatures.json`
    in each of them describes its signatures, and `README.md` is the model card. Batches
    may have any size. A file that isn't an image has `valid` = False and a zero
    embedding.

    Args:
        model: `ALIGN` with a vocabulary.
        directory: str or `pathlib.Path`, the folder of the three: new, empty, or an
            earlier export, which is replaced when the new one is complete.
        weights: `"bfloat16"` or `"float16"` stores the weights in half the size, and
            computes in float32. None stores them as they are.
        card_arguments: dict of arguments of `model_card` about the origin of the model.

    Raises:
        InputError: if the model isn't an `ALIGN`, has no vocabulary or weights that
            aren't finite, if `directory` is a file or has other files, or `weights` is
            unknown.

    References:
        Jia et al. 2021, sections 4.1 (embeddings compared by cosine) and 10.

    Example:

    ```python
    export_saved_model(ALIGN.from_preset("saved_models/stamps"), "export")
    served = tf.saved_model.load("export/text/1")
    served.signatures["encode_text"](captions=tf.constant(["red"]))["text_embedding"]
    ```
    """
    check_exportable(model)
    directory = placeable_folder(directory, "directory")
    _check_holds_nothing_else(directory)
    if weights is not None:
        check_choice("weights", weights, WEIGHTS, "choose one, or None")
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
    """Writes the three SavedModels and the card into an empty folder."""
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
    """Writes one SavedModel as the first version of a servable."""
    version = pathlib.Path(folder) / "1"
    tf.saved_model.save(served, str(version), signatures=served.functions)
    description = json.dumps(describe_saved(version, served.preprocessing), indent=1)
    (version / "signatures.json").write_text(description + "\n", encoding="utf-8")


def describe_saved(version: pathlib.Path, preprocessing: dict) -> dict[str, Any]:
    """Returns the content of signatures.json: inputs and outputs, `preprocessing`."""
    saved = saved_model_pb2.SavedModel.FromString((version / _GRAPH).read_bytes())
    (graph,) = saved.meta_graphs
    return {
        "signatures": {
            name: {
                "inputs": _described(signature.inputs),
                "outputs": _described(signature.outputs),
            }
            for name, signature in sorted(graph.signature_def.items())
            # TensorFlow adds a signature that initializes the model.
            if not name.startswith("__")
        },
        # TensorFlow wraps the dicts of a module, and Python 3.13 can't write these as
        # JSON.
        "preprocessing": {name: dict(steps) for name, steps in preprocessing.items()},
    }


def _described(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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


def check_exportable(model: Any) -> None:
    """Raises unless `model` is an `ALIGN` that can be exported."""
    # The attribute `tokenizer` raises if the vocabulary is missing.
    check_has(model, "image_encoder", "text_encoder", "image_size", "tokenizer")
    if not model.tokenizer.in_graph:
        raise InputError(
            "a SavedModel holds the tokenizer by tensorflow-text, which isn't "
            "installed here and has no wheels for Windows; export on Linux or macOS, "
            "or as litert."
        )


def check_finite_weights(model: Any) -> None:
    """Raises if a weight is NaN or infinite, since all embeddings would be too."""
    wrong = [weight.path for weight in model.weights if not _is_finite(weight.numpy())]
    if wrong:
        raise InputError(
            f"model must have finite weights, received NaN or infinity in {len(wrong)} "
            f"of {len(model.weights)}, the first of them {wrong[0]}; take an earlier "
            "checkpoint, or train again with a lower learning rate."
        )


def _is_finite(values: np.ndarray) -> bool:
    # A sum of finite values can overflow, which needs a second check.
    values = np.asarray(values, "float32")
    return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _check_holds_nothing_else(folder: pathlib.Path) -> None:
    """Raises if a folder has files that aren't those of an earlier export."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_export = all((folder / name / "1" / _GRAPH).is_file() for name in SERVED_MODELS)
    if is_export:
        names -= {*SERVED_MODELS, "README.md", "serving"}
    if names:
        raise InputError(
            f"directory must be new, empty or an earlier export, received {folder}, "
            f"which holds {min(names)}; name another, or remove it first."
        )
