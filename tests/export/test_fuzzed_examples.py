"""Malformed images and captions with the example program and exported files.

The example program preprocesses inputs according to the metadata of the files.
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
from tests.helpers.image_files import malformed_files, readable_files, refused_files

onnxruntime = pytest.importorskip("onnxruntime")
for name in ("tf2onnx", "litert_quantizer"):
    pytest.importorskip(name)

pytestmark = [pytest.mark.release, pytest.mark.timeout(1200)]

COUNT = 10_000
EXPORT = pathlib.Path(align_keras.__file__).parent / "export"
EXAMPLE = EXPORT / "litert_examples" / "example.py"
# Minimum cosine of LiteRT and ONNX embeddings. The runtimes add float32 values in
# different orders, and LiteRT approximates the sigmoid.
MIN_COSINE = 1 - 1e-5
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def model():
    """Returns a random model with batch statistics of images.

    With the initial statistics, gates would be step functions that amplify rounding.
    """
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


def open_session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def preprocessing_of(session):
    """Returns the preprocessing in the metadata of an ONNX file."""
    files = session.get_modelmeta().custom_metadata_map
    return json.loads(files["metadata.json"])["preprocessing"]


def check(litert, onnx):
    """Checks that two embeddings are equal and have unit length."""
    for embedding in (litert, onnx):
        assert abs(np.linalg.norm(embedding) - 1) < 1e-5
    assert np.vdot(litert, onnx) > MIN_COSINE


def resident_megabytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def is_constant(memory):
    """Returns True if the memory grew by less than 100 MB after the first fifth."""
    return memory[-1] - memory[len(memory) // 5] < 100


def test_malformed_images_are_refused_or_embedded(
    model, litert_files, example, tmp_path
):
    litert = LiteRTTower((litert_files / "image.tflite").read_bytes())
    _, metadata = example.open_tower(litert_files / "image.tflite", 1)
    onnx = open_session(image_onnx(model))
    preprocessing = metadata["preprocessing"]
    assert preprocessing == preprocessing_of(onnx)
    seeds = [content for content, _ in readable_files().values()] + list(
        refused_files().values()
    )
    files = malformed_files(random.Random(0), [content for content in seeds if content])
    path = tmp_path / "file"
    decoded = 0
    max_seconds = 0
    memory = []
    for row, content in enumerate(itertools.islice(files, COUNT)):
        path.write_bytes(content)
        start = time.monotonic()
        try:
            pixels = example.read_pixels(path, preprocessing)
        except Exception:
            # The example program handles all exceptions too.
            pixels = None
        max_seconds = max(max_seconds, time.monotonic() - start)
        if pixels is not None:
            decoded += 1
            assert pixels.shape == (1, model.image_size, model.image_size, 3)
            assert pixels.min() >= 0 and pixels.max() <= 255
            (embedding,) = onnx.run(None, {"images": pixels})
            check(litert(images=pixels), embedding)
        if row % max(COUNT // 50, 1) == 0:
            memory.append(resident_megabytes())
    print(f"{decoded} of {COUNT} images were decoded")
    print(f"maximum {max_seconds:.2f} s, memory {memory} MB")
    # Some malformed files can still be decoded.
    assert COUNT / 50 < decoded < COUNT / 2
    assert max_seconds < 5
    assert is_constant(memory), memory


def random_captions(rng):
    """Yields captions with letters, marks, control characters and lone surrogates."""
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
        if rng.random() < 0.01:
            yield rng.choice(["a", "a ", "[MASK]", "\u0301", "漢"]) * 20_000
        caption_ranges = rng.choices(ranges, k=rng.randrange(1, 4))
        letter_ranges = (rng.choice(caption_ranges) for _ in range(rng.randrange(60)))
        yield "".join(chr(rng.randrange(*bounds)) for bounds in letter_ranges)


def test_random_captions_are_tokenized_and_embedded(model, litert_files, example):
    litert = LiteRTTower((litert_files / "text.tflite").read_bytes())
    _, metadata = example.open_tower(litert_files / "text.tflite", 1)
    onnx = open_session(text_onnx(model))
    preprocessing = metadata["preprocessing"]
    assert preprocessing == preprocessing_of(onnx)
    tokenizer = example.open_tokenizer(litert_files / "text.tflite", preprocessing)
    max_seconds = 0
    memory = []
    captions = itertools.islice(random_captions(random.Random(0)), COUNT)
    for row, caption in enumerate(captions):
        start = time.monotonic()
        tokens = example.tokenize(tokenizer, caption)
        max_seconds = max(max_seconds, time.monotonic() - start)
        (embedding,) = onnx.run(None, tokens)
        check(litert(**tokens), embedding)
        if row % max(COUNT // 50, 1) == 0:
            expected = model.tokenizer([caption.encode("utf-8", "replace")])
            length = int(np.sum(expected["padding_mask"]))
            np.testing.assert_array_equal(
                tokens["token_ids"], expected["token_ids"][:, :length]
            )
            memory.append(resident_megabytes())
    print(f"maximum {max_seconds:.2f} s, memory {memory} MB")
    assert max_seconds < 5
    assert is_constant(memory), memory
