"""Opening of an index by its location, and of the model of an index.

The location is the path of a folder or the address of a PostgreSQL database. An index
stores the name of its model, and an index may come from an untrusted source.
"""

import os
import pathlib
import shlex
from typing import Any

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import load_model
from align_keras.embedders.locations import choose_runtime, locate_model
from align_keras.search.index.database import RebuiltIndexError
from align_keras.search.index.folder_files import run_index_command
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.image_store import NO_MODEL, ImageStore, ModelIdentity
from align_keras.utils.addresses import HUB_PREFIX, is_hub_name
from align_keras.utils.errors import InputError
from align_keras.utils.shared_data import SHIPPED_MODELS


def is_database(location: str | os.PathLike) -> bool:
    """Returns True for the address of a PostgreSQL database, and False for a path."""
    prefixes = ("postgresql:", "postgres:")
    return isinstance(location, str) and location.startswith(prefixes)


def default_index() -> str | pathlib.Path:
    """Returns the path or address of the default index.

    It is `$ALIGN_KERAS_INDEX`, or the folder `align_keras/index` in `$XDG_DATA_HOME`
    (by default `~/.local/share`).
    """
    location = os.environ.get("ALIGN_KERAS_INDEX")
    if location:
        return location if is_database(location) else pathlib.Path(location)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "index")


def index_exists(location: str | os.PathLike) -> bool:
    """Returns True if a folder or a database contains an index."""
    return store_class(location).exists(location)


def store_class(location: str | os.PathLike) -> Any:
    """Returns the store class for the path of a folder or the address of a database."""
    if not is_database(location):
        return FolderStore
    from align_keras.search.index.postgres_store import PostgresStore

    return PostgresStore


def open_index_model(store: ImageStore) -> Embedder:
    """Opens the model of an index.

    Raises:
        InputError: if the index has no model, the model is not on this machine, or it
            may run code when it is loaded.
    """
    reference = store.header["model"]
    name = reference["name"]
    if name == NO_MODEL:
        raise InputError(
            f"`query` must be an embedding, because the index {store.folder} "
            "has no model. Build it with `Index.from_embeddings(…, model=…)` "
            "to search it by words."
        )
    options = _model_options(reference)
    try:
        opened = _open_without_confirmation(reference)
    except InputError as error:
        remedy = "If the model was moved, pass its path with --model."
        if is_hub_name(name):
            remedy = f"Add `{options}` to download it."
        raise InputError(
            f"The model of the index {store.folder} must be on this machine. "
            f"Received: {name!r:.200} ({error}). {remedy}"
        ) from None
    if opened is None:
        raise InputError(
            f"The index {store.folder} must be opened with --model. Received: "
            f"an index with the model {name!r:.200}, which may run code when "
            f"it is loaded. If you trust it, add `{options}` to each command."
        )
    check_model(store, opened)
    return opened


def load_named_model(
    store: ImageStore, model: str | os.PathLike | Embedder
) -> Embedder:
    """Loads the model that the user names for an index, with its dimensions.

    Raises:
        InputError: if the index has another model.
    """
    opened = load_model(model)
    dimensions = store.header["model"].get("dimensions")
    if dimensions is not None and opened.truncated_to is None:
        opened = load_model(opened, dimensions=dimensions)
    check_model(store, opened)
    return opened


def check_model(store: ImageStore, model: Embedder) -> None:
    """Raises InputError if an index has another model."""
    if _is_model_of(store, model):
        return
    index_model = store.header["model"]
    if store.has_items:
        command = run_index_command(pathlib.Path(store.folder))
        remedy = f"`{command}`" if command else "`Index.from_embeddings`"
    else:
        sources = [shlex.quote(os.fsdecode(root)) for root in store.sources()]
        command = " ".join(["align-keras index", *sources])
        remedy = (
            f"`{command} --index {shlex.quote(str(store.folder))} "
            f"{_model_options(model.reference())} --rebuild`"
        )
    raise InputError(
        f"The index {store.folder} must be searched with the model that computed "
        f"its embeddings, {index_model['name']} ({index_model['fingerprint']}). "
        f"Received: {model.name} ({model.fingerprint}). Use the model of the index, or "
        f"build it again with {remedy}."
    )


def check_model_of_writer(store: ImageStore, model: Embedder) -> None:
    """Raises RebuiltIndexError if the index was built again with another model.

    Another process can rebuild an index between its opening and the opening of its
    store for writing.
    """
    if _is_model_of(store, model):
        return
    stored = store.header["model"]
    raise RebuiltIndexError(
        f"The index {store.folder} must have the model with which it was opened, "
        f"{model.name} ({model.fingerprint}). Received: an index that was built "
        f"again with {stored['name']} ({stored['fingerprint']}). Open it again, or "
        "start the command again."
    )


def identity_of(model: Embedder) -> ModelIdentity:
    """Returns the identity of a model, which an index stores."""
    return ModelIdentity(
        model.name,
        model.fingerprint,
        model.dimension,
        model.runtime_option,
        model.truncated_to,
    )


def _is_model_of(store: ImageStore, model: Embedder) -> bool:
    is_same = store.header["model"]["fingerprint"] == model.fingerprint
    return is_same and store.dimension == model.dimension


def _model_options(reference: dict[str, Any]) -> str:
    """Returns the command-line options that name a model."""
    options = f"--model {shlex.quote(reference['name'])}"
    if "runtime" in reference:
        options += f" --runtime {shlex.quote(str(reference['runtime']))}"
    if "dimensions" in reference:
        options += f" --dimensions {shlex.quote(str(reference['dimensions']))}"
    return options


def _open_without_confirmation(reference: dict[str, Any]) -> Embedder | None:
    """Opens the model of an index if it is on this machine and cannot run code.

    These are the model of the package, LiteRT and ONNX towers and presets. Models on
    the Hugging Face Hub are opened from the cache. Nothing is downloaded. The
    result is None if the user has to name the model: a SavedModel, a `.keras` file, a
    model on Kaggle, or a name that is no absolute path.
    """
    name = reference["name"]
    runtime = reference.get("runtime", "auto")
    dimensions = reference.get("dimensions")
    folder = name
    if name.startswith(HUB_PREFIX):
        # Local models do not need this import.
        from align_keras.presets.hub import download

        folder = download(name, local_files_only=True)
    elif is_hub_name(name) or not (name in SHIPPED_MODELS or os.path.isabs(name)):
        return None
    location = locate_model(folder)
    if location.folder.is_file() or choose_runtime(location, runtime) == "saved_model":
        return None
    model = load_model(folder, runtime, dimensions)
    model.name = name
    return model
