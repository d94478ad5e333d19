"""Objects in files whose arrays are mapped, not read, by whoever opens them."""

import hashlib
import io
import pathlib
import pickle

import numpy as np

from align_keras.utils.files import atomic_path, atomic_write


def save_mapped(content, folder):
    """Writes an object, and each of its arrays as a `.npy` file beside it.

    Files are named by their content, so that what several objects share is written
    once, and what is there already not again. An array that is mapped from a `.npy`
    file as a whole stays where it is.

    Args:
        content: whatever can be pickled.
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
    file = io.BytesIO()
    _Pickler(file, folder).dump(content)
    text = file.getvalue()
    path = folder / f"{_digest(text)}.pickle"
    if not path.exists():
        with atomic_write(path, "wb") as file:
            file.write(text)
    return path


def load_mapped(path):
    """Opens what `save_mapped` wrote.

    Args:
        path: str or path; a file of this program's own, for opening one runs code.

    Returns:
        The object, its arrays read-only.
    """
    with open(path, "rb") as file:
        return _Unpickler(file).load()


class _Pickler(pickle.Pickler):
    """Writes arrays beside, and their paths in their places."""

    def __init__(self, file, folder):
        super().__init__(file, protocol=5)
        self._folder = folder

    def persistent_id(self, own):
        if not isinstance(own, np.ndarray) or own.dtype.hasobject:
            return None
        return _mapped_path(own) or str(self._saved(own))

    def _saved(self, array):
        array = np.ascontiguousarray(array)
        form = f"{array.dtype.str} {array.shape}".encode()
        path = self._folder / f"{_digest(form, array.data)}.npy"
        if not path.exists():
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, array)
        return path


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, path):
        return _load(path)


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
