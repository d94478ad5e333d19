"""The models that an index may open by itself.

An index names its model, and an index may come from somebody else. Opening a run's
folder or a SavedModel runs code in it. Therefore an index opens by itself only models
that come with the package, LiteRT towers inside its own folder, and models that this
user has named before with `--model` and whose files have not changed since.
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
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json
from align_keras.utils.shared_data import SHIPPED_MODELS

# Folders and files of a run that are no part of its model, and may be large.
_OTHER_PARTS = ("checkpoints", "index", "metrics.jsonl", "report.html")


def known_models_file() -> pathlib.Path:
    """Returns the file that lists known models, in `$XDG_DATA_HOME`."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "known_models.json")


def can_be_known(name: str) -> bool:
    """Returns True for names that `remember_model` notes: absolute paths of folders.

    The files behind another name, such as `hf://…`, may change at any time.
    """
    return os.path.isdir(name) and os.path.isabs(name)


def embedder_of_index(
    reference: dict[str, Any], index: str | os.PathLike
) -> Embedder | None:
    """Opens the model that an index names, whose author may mean harm.

    Args:
        reference: `Embedder.reference` in the header of the index: `name`, and
            `runtime` where it is not `"auto"`.
        index: folder of the index, or the address of its database.

    Returns:
        `Embedder`, or None unless the model comes with the package, is LiteRT towers
        inside the folder of the index, or is one that the user has named before.

    Raises:
        InputError: if the model no longer exists or is damaged.
    """
    name, runtime = reference["name"], _runtime_of(reference)
    if name in SHIPPED_MODELS or is_known_model(name, runtime):
        return load_model(name, runtime)
    towers = _towers_inside(name, index)
    if towers is not None:
        # Towers hold no code, unlike other models in the same folder.
        return load_model(towers, "litert")
    if os.path.isabs(name) and not os.path.isdir(name):
        raise InputError("which does not exist")
    return None


def _runtime_of(reference: dict[str, Any]) -> str:
    runtime = reference.get("runtime", "auto")
    if not isinstance(runtime, str):
        raise InputError(f"whose runtime must be a str, received {runtime!r:.80}")
    return runtime


def _towers_inside(name: str, index: str | os.PathLike) -> str | None:
    """Returns the folder of LiteRT towers in an index's own folder, or None."""
    folder = os.path.realpath(index)
    towers = os.path.realpath(os.path.join(folder, name))
    if name.startswith("hf://") or not towers.startswith(os.path.join(folder, "")):
        return None
    files = [os.path.join(towers, file) for file in LITERT_FILES.values()]
    if any(os.path.islink(file) or not os.path.isfile(file) for file in files):
        return None
    return towers


def remember_model(model: Embedder) -> None:
    """Notes that the user has named a model.

    Args:
        model: `Embedder`. Only names that `can_be_known` are noted.
    """
    name, runtime = model.name, model.runtime_option
    if model.in_memory or not can_be_known(name):
        return
    # A home that cannot be written to only costs the user another `--model`.
    with contextlib.suppress(OSError, ValueError):
        digest = files_digest(name, runtime)
        models = read_json(known_models_file())
        key = _key(name, runtime)
        if models.get(key) != digest:
            models[key] = digest
            with atomic_write(known_models_file()) as file:
                # Paths need not be UTF-8. JSON escapes their bytes.
                file.write(json.dumps(models, indent=2) + "\n")


def is_known_model(name: str, runtime: str = "auto") -> bool:
    """Returns True if the user has named the model and its files are the same."""
    if not can_be_known(name):
        return False
    try:
        digest = read_json(known_models_file()).get(_key(name, runtime))
        return digest is not None and digest == files_digest(name, runtime)
    except (OSError, ValueError):
        return False


def _key(name: str, runtime: str) -> str:
    """Returns the entry of a model, which is known for one runtime."""
    return name if runtime == "auto" else f"{runtime} {name}"


def files_digest(folder: str, runtime: str = "auto") -> str:
    """Returns a digest of a model's files by name and content.

    LiteRT towers, which `load_model` prefers, hold no code. Their sizes are enough, so
    that a search does not take longer. Another runtime may run the other files.
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
    for path in folder.rglob("*"):
        first = path.relative_to(folder).parts[0]
        if first not in _OTHER_PARTS and path.is_file():
            yield path
