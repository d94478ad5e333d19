"""Readers of safetensors and of the first PyTorch format, without PyTorch."""

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
    """Mapping from the names of tensors to the tensors of a folder.

    The tensors are in `model.safetensors` or in its shards.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self._files: dict[str, Any] = {}
        for path in _files_of(pathlib.Path(directory)):
            try:
                if path.exists() and not path.is_file():
                    raise OSError("it isn't a regular file")
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
    if (directory / SAFETENSORS_FILE).exists():
        return [directory / SAFETENSORS_FILE]
    if (directory / INDEX_FILE).exists():
        return [directory / name for name in _shards(directory / INDEX_FILE)]
    raise InputError(
        f"{directory} must contain {SAFETENSORS_FILE}. Received: a folder without this "
        "file. Download the file, or convert weights of another format with "
        "save_pretrained of transformers."
    )


def _shards(index: pathlib.Path) -> list[str]:
    """Returns the names of the files that an index lists."""
    files = read_json(index).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    plain = r"[^/\\:\0]*\.safetensors"
    if not names or not all(re.fullmatch(plain, str(name), re.S) for name in names):
        raise InputError(
            f"{index} must map tensors to names of files in its folder. No weights "
            "were loaded. Download the file again."
        )
    return sorted(set(names))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# === First format of PyTorch ===


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote in the format before PyTorch 1.6."""
    try:
        with open(path, "rb") as file:
            return _read(file)
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}). Check the path and the "
            "permissions."
        ) from None
    # A broken pickle can raise any exception.
    except Exception as error:
        raise InputError(
            f"{path} must be a complete file of tensors in the PyTorch format before "
            f"1.6 ({_one_line(error)}). Download the file again."
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
    """Loads the next pickle. Raises if it would allocate more memory than the file."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # `pickle` allocates its memo for the largest index in the file.
        is_number = opcode.name in ("PUT", "LONG_BINPUT")
        if is_number and argument is not None and int(argument) > size:
            raise ValueError(f"it has an object with the index {argument}")
    file.seek(start)
    return _Unpickler(file, size, storages).load()


class _Unpickler(pickle.Unpickler):
    """Unpickler that creates only dictionaries and tensors."""

    def __init__(
        self, file: BinaryIO, size: int, storages: dict[str, np.ndarray]
    ) -> None:
        super().__init__(file)
        self.size = size
        self.storages = storages

    def persistent_load(self, saved: Any) -> np.ndarray:
        kind, dtype, key, _, count, *_ = saved
        if kind != "storage":
            raise pickle.UnpicklingError(f"it contains a {kind}")
        if not 0 <= count * dtype.itemsize <= self.size:
            raise ValueError(f"it declares {count} numbers, more than its size")
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
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"it has a tensor of shape {shape} with strides {strides}")
    last = offset + sum(
        (n - 1) * stride for n, stride in zip(shape, strides, strict=True)
    )
    if 0 not in shape and last >= storage.size:
        raise ValueError(f"it has a tensor of shape {shape} larger than its storage")
    strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
