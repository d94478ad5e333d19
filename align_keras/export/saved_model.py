"""SavedModels for TensorFlow Serving: images, texts, and both."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from align_keras.export import WEIGHTS
from align_keras.export.model_card import model_card
from align_keras.export.served_model import ServedModel
from align_keras.export.towers import check_has
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS, atomic_folder, placeable_folder

# Folder → what is served.
MODELS = {"image": (True, False), "text": (False, True), "align": (True, True)}
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
    about: dict[str, Any] | None = None,
) -> None:
    """Writes a model as three SavedModels, in folders as TensorFlow Serving reads.

    `image/1` serves images and needs TensorFlow alone; `text/1` serves captions and
    needs the operations of `tensorflow_text` too; `align/1` serves both.
    `signatures.json` in each describes its signatures; `README.md` beside them is the
    model card. Any batch is taken; a file that is no image is `valid` = False, and its
    embedding zero.

    Args:
        model: `ALIGN` with a vocabulary.
        directory: str or `pathlib.Path`, the folder of the three: new, empty, or an
            earlier export, which is replaced once the new one is complete.
        weights: `"bfloat16"` or `"float16"` stores the weights in half the room, and
            computes in float32 as before; None leaves them as they are.
        about: dict of what the card tells of the model's origin, as `model_card`.

    Raises:
        InputError: if the model isn't an `ALIGN`, has no vocabulary or weights that
            aren't finite, `directory` is a file or holds something else, or there are
            no `weights` of that name.

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
        write_saved_models(model, folder, weights=weights, about=about)


def write_saved_models(
    model: Any,
    folder: pathlib.Path,
    *,
    weights: str | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes the three SavedModels and the card into an empty folder."""
    check_finite_weights(model)
    for name, (images, texts) in MODELS.items():
        write_served(ServedModel(model, images, texts, weights), folder / name)
    card = model_card(model, weights=weights, **(about or {}))
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_served(served: ServedModel, folder: str | os.PathLike) -> None:
    """Writes one SavedModel as the first version of a servable."""
    version = pathlib.Path(folder) / "1"
    tf.saved_model.save(served, str(version), signatures=served.functions)
    description = json.dumps(describe_saved(version, served.preprocessing), indent=1)
    (version / "signatures.json").write_text(description + "\n", encoding="utf-8")


def describe_saved(version: pathlib.Path, preprocessing: dict) -> dict[str, Any]:
    """What signatures.json says: inputs and outputs by signature, `preprocessing`."""
    saved = saved_model_pb2.SavedModel.FromString((version / _GRAPH).read_bytes())
    (graph,) = saved.meta_graphs
    return {
        "signatures": {
            name: {
                "inputs": _described(signature.inputs),
                "outputs": _described(signature.outputs),
            }
            for name, signature in sorted(graph.signature_def.items())
            if not name.startswith("__")  # TensorFlow's own, which starts a model.
        },
        # TensorFlow wraps a module's dicts; Python 3.13 writes none as JSON.
        "preprocessing": {name: dict(steps) for name, steps in preprocessing.items()},
    }


def _described(tensors):
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
    """Raises unless `model` is an `ALIGN` with all that is exported."""
    # `tokenizer` itself raises where the vocabulary is missing.
    check_has(model, "image_encoder", "text_encoder", "image_size", "tokenizer")
    if not model.tokenizer.in_graph:
        raise InputError(
            "a SavedModel holds the tokenizer by tensorflow-text, which isn't "
            "installed here and has no wheels for Windows; export on Linux or macOS, "
            "or as litert."
        )


def check_finite_weights(model: Any) -> None:
    """Raises if a weight is NaN or infinite, which would make all embeddings so."""
    wrong = [weight.path for weight in model.weights if not _is_finite(weight.numpy())]
    if wrong:
        raise InputError(
            f"model must have finite weights, received NaN or infinity in {len(wrong)} "
            f"of {len(model.weights)}, the first of them {wrong[0]}; take an earlier "
            "checkpoint, or train again with a lower learning rate."
        )


def _is_finite(values):
    # A sum that isn't finite is a value's, or an overflow, which takes a second look.
    values = np.asarray(values, "float32")
    return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _check_holds_nothing_else(folder):
    """Raises for what an export would remove, but for an earlier export."""
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_export = all((folder / name / "1" / _GRAPH).is_file() for name in MODELS)
    others = held if not is_export else held - {*MODELS, "README.md", "serving"}
    if others:
        raise InputError(
            f"directory must be new, empty or an earlier export, received {folder}, "
            f"which holds {min(others)}; name another, or remove it first."
        )
