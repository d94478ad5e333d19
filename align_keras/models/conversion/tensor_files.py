"""Readers of safetensors and of the first PyTorch format, without PyTorch."""

import collections
import collections.abc
import os
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401 (NumPy then knows bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

SAFETENSORS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class SafetensorsFolder(collections.abc.Mapping):
    """Mapping from the names of tensors to the tensors of a folder.

    The tensors are in `model.safetensors` or in its shards.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self._files: dict[str, Any] = {}
        for path in _files_of(pathlib.Path(directory)):
            try:
                file = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{path} must be a complete safetensors file ({_one_line(error)}). "
                    "No weights were loaded. Download the file again."
                ) from None
            self._files.update(dict.fromkeys(file.keys(), file))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, name: str) -> "_LazyTensor":
        return _LazyTensor(self._files[name], name)


class _LazyTensor:
    """Tensor that is read when it is converted to an array."""

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self._name).get_shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            tensor = self._file.get_tensor(self._name)
        # NumPy lacks some of the dtypes of safetensors.
        except (SafetensorError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"The tensor {self._name} can't be read ({_one_line(error)}). No "
                "weights were loaded. Save the tensors as float32."
            ) from None
        return np.asarray(tensor, dtype=dtype)


def _files_of(directory: pathlib.Path) -> list[pathlib.Path]:
    is_sharded = not (directory / SAFETENSORS_FILE).exists()
    if is_sharded and (directory / INDEX_FILE).exists():
        names = read_json(directory / INDEX_FILE)["weight_map"].values()
        # Shards are next to their index.
        return [directory / pathlib.Path(name).name for name in sorted(set(names))]
    return [directory / SAFETENSORS_FILE]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# === First format of PyTorch ===


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote in the format before PyTorch 1.6."""
    try:
        with open(path, "rb") as file:
            return _read(file)
    # A broken pickle can raise any exception.
    except Exception as error:
        raise InputError(
            f"{path} must be a complete file of tensors in the PyTorch format before "
            f"1.6 ({_one_line(error)}). Download the file again."
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads magic number, version, machine, tensors and values, in this order."""
    storages: dict[str, np.ndarray] = {}
    magic_number = _Unpickler(file, {}).load()
    version = _Unpickler(file, {}).load()
    if (magic_number, version) != (_MAGIC_NUMBER, _PROTOCOL_VERSION):
        raise ValueError("wrong magic number")
    # The description of the machine that wrote the file is skipped.
    _Unpickler(file, {}).load()
    tensors = _Unpickler(file, storages).load()
    for key in _Unpickler(file, {}).load():
        storage = storages[key]
        # The number of values precedes them.
        file.read(8)
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return dict(tensors)


class _Unpickler(pickle.Unpickler):
    """Unpickler that creates only dictionaries and tensors."""

    def __init__(self, file: BinaryIO, storages: dict[str, np.ndarray]) -> None:
        super().__init__(file)
        self.storages = storages

    def persistent_load(self, saved: Any) -> np.ndarray:
        _, dtype, key, _, count, *_ = saved
        # `_read` fills in the values, which are at the end of the file.
        return self.storages.setdefault(key, np.zeros(count, dtype))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"it contains a {module}.{name}")


def _tensor(
    storage: np.ndarray,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> np.ndarray:
    last = offset + sum(
        (n - 1) * stride for n, stride in zip(shape, strides, strict=True)
    )
    if 0 not in shape and last >= storage.size:
        raise ValueError(f"it has a tensor of shape {shape} larger than its storage")
    strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
