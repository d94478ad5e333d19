"""Readers of safetensors and of PyTorch's first format, without PyTorch."""

import collections
import collections.abc
import os
import pathlib
import pickle
import pickletools
import re
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
    """Tensors of `model.safetensors` or of its shards, by their names."""

    def __init__(self, directory: str | os.PathLike) -> None:
        self._files: dict[str, Any] = {}
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
        # NumPy lacks some of the dtypes.
        except (SafetensorError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._name} can't be read ({_one_line(error)}); nothing was loaded; "
                "save the tensors as float32."
            ) from None
        return np.asarray(tensor, dtype=dtype)


def _files_of(directory: pathlib.Path) -> list[pathlib.Path]:
    if (directory / SAFETENSORS_FILE).exists():
        return [directory / SAFETENSORS_FILE]
    if (directory / INDEX_FILE).exists():
        return [directory / name for name in _shards(directory / INDEX_FILE)]
    raise InputError(
        f"{directory} holds no {SAFETENSORS_FILE}; get that file, or make it of "
        "another format by transformers' save_pretrained."
    )


def _shards(index: pathlib.Path) -> list[str]:
    """Returns the names of the files of an index, which are in its folder."""
    files = read_json(index).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    plain = r"[^/\\:\0]*\.safetensors"
    if not names or not all(re.fullmatch(plain, str(name), re.S) for name in names):
        raise InputError(
            f"{index} must map tensors to names of files beside it; nothing was "
            "loaded; get it again."
        )
    return sorted(set(names))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# === PyTorch's first format ===


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote in its format before 1.6."""
    try:
        with open(path, "rb") as file:
            return _read(file)
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); check the path and its rights."
        ) from None
    # A broken pickle can raise any exception.
    except Exception as error:
        raise InputError(
            f"{path} isn't a whole file of tensors in PyTorch's first format "
            f"({_one_line(error)}); get it again."
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads magic number, version, machine, tensors and values, in this order."""
    size = os.fstat(file.fileno()).st_size
    storages: dict[str, np.ndarray] = {}
    magic_number = _load(file, size, {})
    version = _load(file, size, {})
    if (magic_number, version) != (_MAGIC_NUMBER, _PROTOCOL_VERSION):
        raise ValueError("wrong magic number")
    # The description of the machine that wrote the file is skipped.
    _load(file, size, {})
    tensors = _load(file, size, storages)
    for key in _load(file, size, {}):
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise ValueError("it ends too early")
        storage[:] = np.frombuffer(data, storage.dtype)
    return dict(tensors)


def _load(file: BinaryIO, size: int, storages: dict[str, np.ndarray]) -> Any:
    """Loads the next pickle, or raises if it would need more memory than the file."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # pickle allocates memory for the largest number of an object.
        is_number = opcode.name in ("PUT", "LONG_BINPUT")
        if is_number and argument is not None and int(argument) > size:
            raise ValueError(f"it numbers an object {argument}")
    file.seek(start)
    return _Unpickler(file, size, storages).load()


class _Unpickler(pickle.Unpickler):
    """Unpickler that builds dictionaries and tensors only."""

    def __init__(
        self, file: BinaryIO, size: int, storages: dict[str, np.ndarray]
    ) -> None:
        super().__init__(file)
        self.size = size
        self.storages = storages

    def persistent_load(self, saved: Any) -> np.ndarray:
        kind, dtype, key, _, count, *_ = saved
        if kind != "storage":
            raise pickle.UnpicklingError(f"it holds a {kind}")
        if not 0 <= count * dtype.itemsize <= self.size:
            raise ValueError(f"it promises {count} numbers")
        # The values are at the end of the file.
        return self.storages.setdefault(key, np.zeros(count, dtype))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _tensor(
    storage: np.ndarray,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> np.ndarray:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape} with strides {strides}")
    last = offset + sum(
        (n - 1) * stride for n, stride in zip(shape, strides, strict=True)
    )
    if 0 not in shape and last >= storage.size:
        raise ValueError(f"a tensor of shape {shape} beyond its numbers")
    strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
