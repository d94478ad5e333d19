"""Malformed images and captions through what LiteRT's and ONNX's files document.

The preprocessing is that of their metadata, as the Python example beside them does it.
"""

import itertools
import json
import pathlib
import random
import resource
import time

import numpy as np
import pytest

import align_keras
from align_keras.export.litert import image_flatbuffer, text_flatbuffer
from align_keras.export.litert_file import LiteRTTower
from align_keras.export.onnx import image_onnx, text_onnx
from tests.helpers.drawn_align import calibrated_align
from tests.helpers.image_files import malformed, readable, refused

onnxruntime = pytest.importorskip("onnxruntime")
for name in ("tf2onnx", "litert_quantizer"):
    pytest.importorskip(name)

pytestmark = [pytest.mark.release, pytest.mark.timeout(1200)]

COUNT = 10_000
EXPORT = pathlib.Path(align_keras.__file__).parent / "export"
EXAMPLE = EXPORT / "litert_examples" / "example.py"
# float32 sums in another order, and LiteRT's approximate sigmoid.
LEAST_COSINE = 1 - 1e-5
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def model():
    """With statistics of images: else gates are steps, and any rounding shows."""
    return calibrated_align(False)


@pytest.fixture(scope="module")
def example(litert_files):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("example", EXAMPLE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def litert_files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert")
    (folder / "image.tflite").write_bytes(image_flatbuffer(model))
    (folder / "text.tflite").write_bytes(text_flatbuffer(model))
    return folder


def opened(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def about(session):
    """What an ONNX file's metadata says of what goes before it."""
    files = session.get_modelmeta().custom_metadata_map
    return json.loads(files["metadata.json"])["preprocessing"]


def check(litert, onnx):
    """Both embeddings are one, finite and of unit length."""
    for own in (litert, onnx):
        assert abs(np.linalg.norm(own) - 1) < 1e-5
    assert np.vdot(litert, onnx) > LEAST_COSINE


def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def flat(memory):
    """Whether memory after a fifth of the inputs isn't less than at the end."""
    return memory[-1] - memory[len(memory) // 5] < 100


def test_images(model, litert_files, example, tmp_path):
    litert = LiteRTTower((litert_files / "image.tflite").read_bytes())
    _, metadata = example.open_tower(litert_files / "image.tflite", 1)
    onnx = opened(image_onnx(model))
    preprocessing = metadata["preprocessing"]
    assert preprocessing == about(onnx)
    whole = [content for content, _ in readable().values()] + list(refused().values())
    files = malformed(random.Random(0), [own for own in whole if own])
    path, read, slowest, memory = tmp_path / "file", 0, 0, []
    for row, content in enumerate(itertools.islice(files, COUNT)):
        path.write_bytes(content)
        start = time.monotonic()
        try:
            pixels = example.read_pixels(path, preprocessing)
        except Exception:  # As the example, which ends with one line.
            pixels = None
        slowest = max(slowest, time.monotonic() - start)
        if pixels is not None:
            read += 1
            assert pixels.shape == (1, model.image_size, model.image_size, 3)
            assert pixels.min() >= 0 and pixels.max() <= 255
            (found,) = onnx.run(None, {"images": pixels})
            check(litert(images=pixels), found)
        if row % max(COUNT // 50, 1) == 0:
            memory.append(resident())
    print(f"{read} of {COUNT} were read; slowest {slowest:.2f} s; {memory} MB")
    # Some of the altered files can be decoded still.
    assert COUNT / 50 < read < COUNT / 2
    assert slowest < 5
    assert flat(memory), memory


def captions(source):
    """Without end: letters of many scripts, marks, controls, lone surrogates."""
    ranges = [
        (32, 127),
        (0, 0x250),
        (0x300, 0x370),
        (0x590, 0x1200),
        (0x2000, 0x3100),
        (0x4E00, 0x4F00),
        (0xD800, 0xE000),
        (0xFE00, 0x10000),
        (0x1F000, 0x1FB00),
    ]
    while True:
        if source.random() < 0.01:
            yield source.choice(["a", "a ", "[MASK]", "\u0301", "漢"]) * 20_000
        some = source.choices(ranges, k=source.randrange(1, 4))
        places = (source.choice(some) for _ in range(source.randrange(60)))
        yield "".join(chr(source.randrange(*place)) for place in places)


def test_captions(model, litert_files, example):
    litert = LiteRTTower((litert_files / "text.tflite").read_bytes())
    _, metadata = example.open_tower(litert_files / "text.tflite", 1)
    onnx = opened(text_onnx(model))
    preprocessing = metadata["preprocessing"]
    assert preprocessing == about(onnx)
    tokenizer = example.open_tokenizer(litert_files / "text.tflite", preprocessing)
    slowest, memory = 0, []
    for row, caption in enumerate(itertools.islice(captions(random.Random(0)), COUNT)):
        start = time.monotonic()
        tokens = example.tokens(tokenizer, caption)
        slowest = max(slowest, time.monotonic() - start)
        (found,) = onnx.run(None, tokens)
        check(litert(**tokens), found)
        if row % max(COUNT // 50, 1) == 0:
            expected = model.tokenizer([caption.encode("utf-8", "replace")])
            np.testing.assert_array_equal(tokens["token_ids"], expected["token_ids"])
            memory.append(resident())
    print(f"slowest {slowest:.2f} s; {memory} MB")
    assert slowest < 5
    assert flat(memory), memory
