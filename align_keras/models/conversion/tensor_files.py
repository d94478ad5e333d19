"""The tensors of a folder's safetensors files, read one at a time."""

import collections.abc
import pathlib

import ml_dtypes  # noqa: F401 (NumPy then knows bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

SAFETENSORS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class SafetensorsFolder(collections.abc.Mapping):
    """The tensors of `model.safetensors`, or of its shards, by their names.

    Args:
        directory: str or `pathlib.Path`, the folder of the file.

    Raises:
        InputError: if there is no such file, or it is damaged.
    """

    def __init__(self, directory):
        self._files = {}
        for path in _files_of(pathlib.Path(directory)):
            try:
                if path.exists() and not path.is_file():
                    raise OSError("it is no regular file")
                file = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{path} isn't a whole safetensors file ({_one_line(error)}); "
                    "nothing was loaded; get it again."
                ) from None
            self._files.update(dict.fromkeys(file.keys(), file))

    def __iter__(self):
        return iter(self._files)

    def __len__(self):
        return len(self._files)

    def __getitem__(self, name):
        return _LazyTensor(self._files[name], name)


class _LazyTensor:
    """A tensor that is read when it is made an array."""

    def __init__(self, file, name):
        self._file, self._name = file, name

    @property
    def shape(self):
        return tuple(self._file.get_slice(self._name).get_shape())

    def __array__(self, dtype=None, copy=None):
        try:
            tensor = self._file.get_tensor(self._name)
        # Numbers of a type that NumPy hasn't got.
        except (SafetensorError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._name} can't be read ({_one_line(error)}); nothing was loaded; "
                "save the tensors as float32."
            ) from None
        return np.asarray(tensor, dtype=dtype)


def _files_of(directory):
    if (directory / SAFETENSORS_FILE).exists():
        return [directory / SAFETENSORS_FILE]
    if (directory / INDEX_FILE).exists():
        return [directory / name for name in _shards(directory / INDEX_FILE)]
    raise InputError(
        f"{directory} holds no {SAFETENSORS_FILE}; get that file, or make it of "
        "another format by transformers' save_pretrained."
    )


def _shards(index):
    """The names of an index's files, which lie beside it."""
    files = read_json(index).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    if not names or not all(isinstance(own, str) and _is_plain(own) for own in names):
        raise InputError(
            f"{index} must map tensors to names of files beside it; nothing was "
            "loaded; get it again."
        )
    return sorted(set(names))


def _is_plain(name):
    return name.endswith(".safetensors") and not set(name) & set("/\\:\0")


def _one_line(error):
    return " ".join(str(error).split())
