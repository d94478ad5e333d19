"""Objects in files whose arrays are mapped, not read, by whoever opens them."""

import hashlib
import json
import pathlib

import numpy as np

from align_keras.corpus.embedding_duplicates import EmbeddingSearch
from align_keras.corpus.hamming_search import HammingSearch
from align_keras.corpus.placed_embeddings import PlacedEmbeddings
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write

# Nothing else comes out of a file, and so no code of whoever wrote it.
_CLASSES = {
    own.__name__: own for own in (EmbeddingSearch, HammingSearch, PlacedEmbeddings)
}


def save_mapped(content, folder):
    """Writes an object, and each of its arrays as a `.npy` file beside it.

    Files are named by their content, so that what several objects share is written
    once, and what is there already not again. An array that is mapped from a `.npy`
    file as a whole stays where it is.

    Args:
        content: None, bool, int, float, str, array, a search or what it placed, or
            lists, tuples and dicts of such.
        folder: str or path; it is created.

    Returns:
        `pathlib.Path` of the object's file.

    Example:

    >>> import tempfile
    >>> path = save_mapped({"rows": np.arange(3), "name": "a"}, tempfile.mkdtemp())
    >>> load_mapped(path)["rows"].tolist()
    [0, 1, 2]
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_described(content, folder))
    path = folder / f"{_digest(text.encode())}.json"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(text)
    return path


def load_mapped(path):
    """Opens what `save_mapped` wrote.

    Args:
        path: str or path.

    Returns:
        The object, its arrays read-only.

    Raises:
        InputError: if the file has changed since.
    """
    path = pathlib.Path(path)
    text = path.read_text(encoding="utf-8")
    if _digest(text.encode()) != path.stem:
        raise InputError(
            f"{path} must be as it was written, but has changed; remove it, and run "
            "again."
        )
    return _restored(json.loads(text))


def _described(own, folder):
    """Returns what JSON holds of an object, and writes its arrays."""
    if isinstance(own, np.ndarray) and not own.dtype.hasobject:
        return {"array": _mapped_path(own) or str(_saved(own, folder))}
    if isinstance(own, np.generic):
        return own.item()
    if isinstance(own, dict):
        return {"dict": {name: _described(part, folder) for name, part in own.items()}}
    if isinstance(own, list | tuple):
        return {type(own).__name__: [_described(part, folder) for part in own]}
    if _CLASSES.get(type(own).__name__) is type(own):
        return {"class": type(own).__name__, "of": _described(vars(own), folder)}
    return own  # Of what JSON can't hold it says so.


def _restored(own):
    if not isinstance(own, dict):
        return own
    if "array" in own:
        return _load(own["array"])
    if "dict" in own:
        return {name: _restored(part) for name, part in own["dict"].items()}
    if "class" in own:
        found = object.__new__(_CLASSES[own["class"]])
        vars(found).update(_restored(own["of"]))
        return found
    [(kind, parts)] = own.items()
    return {"list": list, "tuple": tuple}[kind](map(_restored, parts))


def _saved(array, folder):
    array = np.ascontiguousarray(array)
    form = f"{array.dtype.str} {array.shape}".encode()
    path = folder / f"{_digest(form, array.data)}.npy"
    if not path.exists():
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)
    return path


def _load(path):
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # What is empty can't be mapped.
        return np.load(path)


def _mapped_path(array):
    """Returns the file that an array is the whole of, or None."""
    name = getattr(array, "filename", None)
    if name is None or not str(name).endswith(".npy"):
        return None
    whole = _load(name)
    # Parts and views of a mapped array have its file's name too.
    form = (whole.shape, whole.strides, whole.dtype)
    same = (array.shape, array.strides, array.dtype) == form
    return str(pathlib.Path(name).absolute()) if same else None


def _digest(*parts):
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
