"""Model of an index, opened without a confirmation by the user.

An index stores the name of its model, and an index may come from an untrusted source.
"""

import os
from typing import Any

from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import choose_runtime, locate_model
from align_keras.presets.hub import HUB_PREFIX, download, is_hub_name
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import SHIPPED_MODELS


def open_index_model(reference: dict[str, Any]) -> Embedder | None:
    """Opens the model of an index if it is on this machine and cannot run code.

    These are the model of the package, LiteRT and ONNX towers and presets. Models on
    the Hugging Face Hub are opened from the cache. Nothing is downloaded.

    Args:
        reference: dict, `Embedder.reference` from the header of the index.

    Returns:
        `Embedder`, or None if the user has to name the model: a SavedModel, a `.keras`
        file, a model on Kaggle, or a name that is no absolute path.

    Raises:
        InputError: if the model does not exist or is damaged.
    """
    name = reference["name"]
    runtime = reference.get("runtime", "auto")
    dimensions = reference.get("dimensions")
    if not isinstance(runtime, str) or not isinstance(dimensions, int | None):
        raise InputError(
            "The runtime of the model must be a str and its dimensions an int. "
            f"Received: runtime={runtime!r:.80} and dimensions={dimensions!r:.80}"
        )
    folder = name
    if name.startswith(HUB_PREFIX):
        try:
            folder = download(name, local_files_only=True)
        except InputError:
            raise InputError("its files are not in the cache") from None
    elif is_hub_name(name) or not (name in SHIPPED_MODELS or os.path.isabs(name)):
        return None
    if os.path.isabs(folder) and not os.path.exists(folder):
        raise InputError("no such folder")
    location = locate_model(folder)
    if location.folder.is_file() or choose_runtime(location, runtime) == "saved_model":
        return None
    model = load_model(folder, runtime, dimensions)
    model.name = name
    return model
