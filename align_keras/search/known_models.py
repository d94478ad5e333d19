"""Known models, which an index may load without a confirmation by the user.

An index stores the name of its model, and an index may come from an untrusted source.
Loading a training run or a SavedModel may run code from it. An index therefore loads a
model automatically only in three cases: the model is included in the package, it
consists of LiteRT towers in the folder of the index, or the user has named it with
`--model` before and its files have not changed since.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import LITERT_FILES
from align_keras.models.hub import is_hub_name
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json
from align_keras.utils.shared_data import SHIPPED_MODELS

# Folders and files of a training run that are not part of its model and may be large.
_NON_MODEL_PARTS = ("checkpoints", "index", "metrics.jsonl", "report.html")


def known_models_file() -> pathlib.Path:
    """Returns the path of the file in `$XDG_DATA_HOME` that lists known models."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "known_models.json")


def can_be_remembered(name: str) -> bool:
    """Returns True for models that `remember_model` accepts: absolute paths.

    The files of other models, such as `hf://…`, may change at any time.
    """
    return os.path.exists(name) and os.path.isabs(name)


def embedder_of_index(
    reference: dict[str, Any], index: str | os.PathLike
) -> Embedder | None:
    """Loads the model of an index if it can be trusted.

    Args:
        reference: dict, `Embedder.reference` from the header of the index, with `name`
            and, unless they have their defaults, `runtime` and `dimensions`.
        index: path of the index, or address of its database.

    Returns:
        `Embedder`, or None if the model is neither included in the package, nor
        consists of LiteRT towers in the folder of the index, nor is a known model.

    Raises:
        InputError: if the model does not exist or is damaged.
    """
    name, runtime = reference["name"], _runtime_of(reference)
    dimensions = _dimensions_of(reference)
    if name in SHIPPED_MODELS or is_known_model(name, runtime):
        return load_model(name, runtime, dimensions)
    towers = _towers_inside(name, index)
    if towers is not None:
        # The runtime is fixed, because LiteRT towers contain no code but other models
        # in the same folder may contain code.
        return load_model(towers, "litert", dimensions)
    if os.path.isabs(name) and not os.path.exists(name):
        raise InputError("no such folder")
    return None


def _runtime_of(reference: dict[str, Any]) -> str:
    runtime = reference.get("runtime", "auto")
    if not isinstance(runtime, str):
        raise InputError(
            "The runtime of a model must be a str. Received: "
            f"runtime={runtime!r:.80}. Build the index again."
        )
    return runtime


def _dimensions_of(reference: dict[str, Any]) -> int | None:
    dimensions = reference.get("dimensions")
    if dimensions is not None and type(dimensions) is not int:
        raise InputError(
            "The dimensions of a model must be an int. Received: "
            f"dimensions={dimensions!r:.80}. Build the index again."
        )
    return dimensions


def _towers_inside(name: str, index: str | os.PathLike) -> str | None:
    """Returns the folder of LiteRT towers inside the folder of an index, or None."""
    folder = os.path.realpath(index)
    towers = os.path.realpath(os.path.join(folder, name))
    if is_hub_name(name) or not towers.startswith(os.path.join(folder, "")):
        return None
    files = [os.path.join(towers, file) for file in LITERT_FILES.values()]
    if any(os.path.islink(file) or not os.path.isfile(file) for file in files):
        return None
    return towers


def remember_model(model: Embedder) -> None:
    """Adds a model that the user has named to the known models.

    Args:
        model: `Embedder`. Models that cannot be remembered are ignored.
    """
    name, runtime = model.name, model.runtime_option
    if model.in_memory or not can_be_remembered(name):
        return
    # A file that cannot be written is ignored. The user then has to pass `--model`
    # again.
    with contextlib.suppress(OSError, ValueError):
        digest = files_digest(name, runtime)
        models = read_json(known_models_file())
        key = _key(name, runtime)
        if models.get(key) != digest:
            models[key] = digest
            with atomic_write(known_models_file()) as file:
                # JSON escapes the bytes of paths that are not UTF-8.
                file.write(json.dumps(models, indent=2) + "\n")


def is_known_model(name: str, runtime: str = "auto") -> bool:
    """Returns True if the user has named the model and its files are unchanged."""
    if not can_be_remembered(name):
        return False
    try:
        digest = read_json(known_models_file()).get(_key(name, runtime))
        return digest is not None and digest == files_digest(name, runtime)
    except (OSError, ValueError):
        return False


def _key(name: str, runtime: str) -> str:
    """Returns the key of a model and runtime in the file of known models."""
    return name if runtime == "auto" else f"{runtime} {name}"


def files_digest(folder: str, runtime: str = "auto") -> str:
    """Returns a digest of the names and contents of a model's files.

    For the runtime `"auto"`, `load_model` prefers LiteRT towers, which contain no code.
    The digest of towers uses only their file sizes, so that it does not slow down a
    search. For other runtimes, which may run code from the files, the digest uses the
    contents.
    """
    towers = [pathlib.Path(folder, name) for name in LITERT_FILES.values()]
    if runtime == "auto" and all(path.is_file() for path in towers):
        return "towers " + " ".join(str(path.stat().st_size) for path in towers)
    digest = hashlib.sha256()
    for path in sorted(_model_files(pathlib.Path(folder))):
        name = os.fsencode(path.relative_to(folder))
        digest.update(b"%d %b\0" % (len(name), name))
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _model_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the files of a folder, or a `.keras` file itself."""
    if folder.is_file():
        yield folder
        return
    for path in folder.rglob("*"):
        first = path.relative_to(folder).parts[0]
        if first not in _NON_MODEL_PARTS and path.is_file():
            yield path
