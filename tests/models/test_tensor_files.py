"""Tests of the reader of the first PyTorch format, with a file built from opcodes."""

import pickle
import struct

import numpy as np
import pytest

from align_keras.models.conversion.tensor_files import read_torch_file
from align_keras.utils.errors import InputError


def class_name(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def integer(value):
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def numbers(*values):
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def torch_file(shape=(2, 3), strides=(3, 1)):
    """Returns the bytes of a file with a float32 tensor `a`, built from opcodes."""
    storage = b"(X\x07\0\0\0storage" + class_name("torch", "FloatStorage")
    storage += b"X\x01\0\0\x000X\x03\0\0\0cpu" + integer(6) + b"NtQ"
    tensor = class_name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
    tensor += integer(0) + numbers(*shape) + numbers(*strides) + b"\x89NtR"
    state = b"\x80\x02}X\x01\0\0\0a" + tensor + b"s."
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    data = np.arange(6, dtype="<f4")
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", len(data)) + data.tobytes()
    return b"".join(head) + state + tail


def read(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    return read_torch_file(path)


def test_tensors_of_all_layouts_are_read(tmp_path):
    tensors = read(tmp_path, torch_file())
    np.testing.assert_array_equal(tensors["a"], np.arange(6).reshape(2, 3))
    transposed = read(tmp_path, torch_file(shape=(3, 2), strides=(1, 3)))
    np.testing.assert_array_equal(transposed["a"], np.arange(6).reshape(2, 3).T)
    assert read(tmp_path, torch_file(shape=(0, 3)))["a"].shape == (0, 3)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    with pytest.raises(InputError, match="PyTorch"):
        read(tmp_path, torch_file(shape=(2, 4)))
