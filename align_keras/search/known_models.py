"""Models that a user has named, which an index may open by itself.

An index names its model, and an index may come from somebody else. Opening a run's
folder or a SavedModel runs what it holds. So an index opens by itself only models that
come with the package, LiteRT towers inside its own folder, and models that this user
has named before with `--model` and whose files have not changed since.
"""

import contextlib
import hashlib
import json
import os
import pathlib

from align_keras.utils.files import atomic_write, read_json

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


def remember_model(name: str) -> None:
    """Notes that the user has named a model.

    Args:
        name: absolute path of the model's folder. Other names are ignored.
    """
    if not can_be_known(name):
        return
    # A home that can't be written to only costs the user another `--model`.
    with contextlib.suppress(OSError, ValueError):
        digest = files_digest(name)
        models = read_json(known_models_file())
        if models.get(name) != digest:
            models[name] = digest
            with atomic_write(known_models_file()) as file:
                # Paths needn't be UTF-8; JSON escapes what they hold.
                file.write(json.dumps(models, indent=2) + "\n")


def is_known_model(name: str) -> bool:
    """Returns True if the user has named the model and its files are the same."""
    if not can_be_known(name):
        return False
    try:
        digest = read_json(known_models_file()).get(name)
        return digest is not None and digest == files_digest(name)
    except (OSError, ValueError):
        return False


def files_digest(folder: str) -> str:
    """Returns a digest of a model's files by name and content.

    LiteRT towers, which `open_model` prefers, hold no code: their sizes are enough, and
    a search doesn't take longer.
    """
    towers = [pathlib.Path(folder, name) for name in ("image.tflite", "text.tflite")]
    if all(path.is_file() for path in towers):
        return "towers " + " ".join(str(path.stat().st_size) for path in towers)
    digest = hashlib.sha256()
    for path in sorted(_model_files(pathlib.Path(folder))):
        name = os.fsencode(path.relative_to(folder))
        digest.update(b"%d %b\0" % (len(name), name))
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _model_files(folder):
    for path in folder.rglob("*"):
        first = path.relative_to(folder).parts[0]
        if first not in _OTHER_PARTS and path.is_file():
            yield path
