"""Tests of the reader of the first PyTorch format, with valid and damaged files."""

import collections
import pickle
import random
import resource
import struct
import time

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


def torch_file(count=6, offset=0, shape=(2, 3), strides=(3, 1), data=None, put=None):
    """Returns the bytes of a file with a float32 tensor `a`, built from opcodes."""
    storage = b"(X\x07\0\0\0storage" + class_name("torch", "FloatStorage")
    storage += b"X\x01\0\0\x000X\x03\0\0\0cpu" + integer(count) + b"NtQ"
    tensor = class_name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
    tensor += integer(offset) + numbers(*shape) + numbers(*strides) + b"\x89NtR"
    memo = b"" if put is None else b"r" + struct.pack("<I", put)
    state = b"\x80\x02}" + memo + b"X\x01\0\0\0a" + tensor + b"s."
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    data = np.arange(6, dtype="<f4") if data is None else data
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


@pytest.mark.parametrize(
    "broken",
    [
        {"shape": (2, 4)},
        {"strides": (3, 2)},
        {"offset": 1},
        {"offset": -1},
        {"strides": (-3, 1)},
        {"shape": (2,)},
        {"shape": (10**12, 10**6)},
        {"count": 10**15},
        {"count": 7},
        {"put": 2**30},
    ],
)
def test_shapes_strides_and_offsets_beyond_the_file_are_refused(tmp_path, broken):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="must be a complete file of tensors"):
        read(tmp_path, torch_file(**broken))
    # Limit in KiB. `pickle` would allocate eight bytes for each index up to 2**30.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=pytest.mark.release)]
)
def test_mutated_files_are_read_or_raise_a_one_line_error(tmp_path, count):
    generator = random.Random(0)
    good = torch_file()
    outcomes = collections.Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        content = bytearray(good)
        for _ in range(generator.choice([1, 2, 8])):
            position = generator.randrange(len(content))
            if generator.random() < 0.2:
                del content[position : position + generator.choice([1, 20])]
            else:
                content[position] = generator.randrange(256)
            content = content or bytearray(b"\0")
        start = time.monotonic()
        try:
            read(tmp_path, bytes(content))
            outcomes["read"] += 1
        except InputError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        assert time.monotonic() - start < 5
    assert outcomes["refused"] > count / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000
