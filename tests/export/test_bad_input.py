"""Responses of an export to malformed images and invalid requests."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from tests.export.c_process import (
    TOLERANCE,
    blank_image_file,
    call,
    call_outputs,
    image_files_of_all_formats,
    strings,
)
from tests.helpers.image_files import encoded, malformed_files

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def files():
    return image_files_of_all_formats()


def decompression_bombs():
    """Returns small files with images of 200 megapixels, by their formats."""
    width, height = 16_000, 12_500
    bits = (height - 1) << 14 | (width - 1)
    webp = b"WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, bits) + b"\0"
    return {
        "png": blank_image_file("PNG", (width, height), "1"),
        "jpeg": blank_image_file("JPEG", (width, height)),
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
    }


@pytest.mark.ci
def test_malformed_files_are_invalid_and_take_little_memory(model, folder, files):
    bad = {
        **decompression_bombs(),
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "gif": blank_image_file("GIF", (60, 40), "P"),
        "empty": b"",
        "truncated": files[0][: len(files[0]) // 2],
        "text": b"x" * 10_000,
    }
    good = ("encode_image", {"image_bytes": strings(files[:1])})
    mixed = ("encode_image", {"image_bytes": strings([*bad.values(), files[0]])})
    (expected, before), (outputs, after) = call(folder, "image", [good, mixed])
    assert outputs["valid"].tolist() == [False] * len(bad) + [True], list(bad)
    assert not outputs["image_embedding"][:-1].any()
    np.testing.assert_allclose(
        outputs["image_embedding"][-1],
        expected["image_embedding"][0],
        rtol=0,
        atol=TOLERANCE,
    )
    # Decoding a single bomb would take 600 megabytes.
    assert after["peak"] - before["peak"] < 300 * MEGABYTE


@pytest.mark.release
@pytest.mark.parametrize("count", [1, 4])
def test_images_of_the_largest_size_take_limited_memory(folder, files, count):
    """Images of the largest size are decoded one at a time, since each takes 1 GB."""
    image = Image.new("LA", (8192, 6144), (0, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    batches = files[2:3], [file.getvalue()] * count
    calls = [("encode_image", {"image_bytes": strings(batch)}) for batch in batches]
    (_, before), (outputs, after) = call(folder, "image", calls)
    assert outputs["valid"].all()
    # The measured increase was 900 to 1,240 MB, and 750 to 775 MB without oneDNN.
    assert after["peak"] - before["resident"] < 1400 * MEGABYTE


@pytest.mark.release
def test_large_requests_take_limited_memory(folder, files):
    """A request is embedded in chunks. As one batch, 20,000 captions took 6 GB."""
    captions = strings(["a red bicycle", "dog"] * 10_000)
    batches = (captions[:2], captions)
    calls = [("encode_text", {"captions": batch}) for batch in batches]
    (first, before), (outputs, after) = call(folder, "text", calls)
    expected = np.tile(first["text_embedding"], (10_000, 1))
    np.testing.assert_allclose(
        outputs["text_embedding"], expected, rtol=0, atol=TOLERANCE
    )
    assert after["peak"] - before["resident"] < 500 * MEGABYTE


@pytest.mark.ci
def test_invalid_requests_return_errors(model, folder, files):
    numbers = np.zeros(2, np.float32)
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    ids = np.full((1, 12), 10**6, np.int32)
    captions = strings(["red"])
    classes = strings(["cat"])
    templates = strings(["a {}"])
    jpeg = strings(files[2:3])
    calls = [
        ("encode_image", {"image_bytes": numbers}),
        ("encode_image", {"image_bytes": jpeg[:, np.newaxis]}),
        ("encode_image_pixels", {"images": pixels}),
        ("encode_image_pixels", {"images": pixels.astype(np.uint8)[..., :1]}),
        ("encode_text", {"captions": numbers}),
        ("encode_text", {"captions": captions[:, np.newaxis]}),
        ("encode_token_ids", {"token_ids": ids, "padding_mask": ids * 0 + 1}),
        ("encode_token_ids", {"token_ids": ids * 0, "padding_mask": ids[:, 1:]}),
        # The model has 12 positions, so 13 and 0 token ids are invalid.
        *(
            ("encode_token_ids", {"token_ids": row, "padding_mask": row})
            for row in (np.zeros((1, 13), np.int32), ids[:, :0])
        ),
        ("encode_image_pixels", {"images": np.zeros((1, 0, 8, 3), np.uint8)}),
        ("similarity", {"image_bytes": jpeg, "captions": numbers}),
        (
            "classify",
            {"image_bytes": jpeg, "class_names": classes, "templates": captions},
        ),
        (
            "classify",
            {"image_bytes": jpeg, "class_names": classes, "templates": templates[:0]},
        ),
    ]
    good = ("encode_text", {"captions": captions})
    *errors, outputs = call_outputs(folder, "align", [*calls, good])
    for (signature, inputs), error in zip(calls, errors, strict=True):
        assert isinstance(error, str), (signature, inputs, error)
        # Code 3 is INVALID_ARGUMENT, for which TensorFlow Serving returns status 400.
        assert error.startswith("3: "), error
    np.testing.assert_allclose(
        outputs["text_embedding"],
        model.encode_texts(["red"]),
        rtol=0,
        atol=TOLERANCE,
    )


@pytest.mark.release
def test_empty_batches_return_empty_arrays(model, folder, files):
    empty = strings([])
    dimension = model.image_encoder.output_shape[-1]
    ids = np.zeros((0, 12), np.int32)
    jpeg = strings(files[2:3])
    captions = strings(["red", "blue"])
    cases = [
        ("encode_image", {"image_bytes": empty}, "image_embedding", (0, dimension)),
        (
            "encode_image_pixels",
            {"images": np.zeros((0, 9, 9, 3), np.uint8)},
            "image_embedding",
            (0, dimension),
        ),
        ("encode_text", {"captions": empty}, "text_embedding", (0, dimension)),
        (
            "encode_token_ids",
            {"token_ids": ids, "padding_mask": ids},
            "text_embedding",
            (0, dimension),
        ),
        ("similarity", {"image_bytes": empty, "captions": captions}, "cosine", (0, 2)),
        ("similarity", {"image_bytes": jpeg, "captions": empty}, "cosine", (1, 0)),
        (
            "classify",
            {
                "image_bytes": empty,
                "class_names": captions,
                "templates": strings(["a {}"]),
            },
            "scores",
            (0, 2),
        ),
    ]
    results = call_outputs(folder, "align", [case[:2] for case in cases])
    for (signature, _, key, shape), outputs in zip(cases, results, strict=True):
        assert not isinstance(outputs, str), (signature, outputs)
        assert outputs[key].shape == shape, signature


@pytest.mark.release
def test_ten_thousand_malformed_inputs_do_not_affect_the_model(model, folder, files):
    rng = random.Random(0)
    photograph = Image.open(io.BytesIO(files[2]))
    formats = ("JPEG", "PNG", "WEBP")
    bad = malformed_files(rng, [encoded(photograph, name) for name in formats])
    calls = []
    batch_size = 50
    good = ("similarity", {"image_bytes": strings(files), "captions": strings(["red"])})
    for _ in range(10_000 // batch_size):
        batch = [next(bad) for _ in range(batch_size)]
        captions = [rng.randbytes(rng.randrange(300)) for _ in range(batch_size)]
        inputs = {"image_bytes": strings(batch), "captions": strings(captions)}
        calls += [("similarity", inputs), good]
    results = call(folder, "align", calls)
    expected = results[1][0]
    for outputs, _ in results[1::2]:
        np.testing.assert_array_equal(outputs["valid"], expected["valid"])
        np.testing.assert_allclose(
            outputs["cosine"], expected["cosine"], rtol=0, atol=TOLERANCE
        )
    invalid = 0
    for outputs, _ in results[::2]:
        assert np.isfinite(outputs["cosine"]).all()
        invalid += int((~outputs["valid"]).sum())
    # Some malformed files can still be decoded.
    assert invalid > 5000
    windows = {
        key: np.array([usage[key] for _, usage in results[::20]]) / MEGABYTE
        for key in results[0][1]
    }
    # The heap may grow once or twice for an unusually large input. With a memory
    # leak, most windows grow. The client keeps all outputs in memory.
    growth = np.median(np.diff(windows["in_use"])) * len(windows["in_use"])
    output_size = sum(
        values.nbytes for outputs, _ in results for values in outputs.values()
    )
    assert growth - output_size / MEGABYTE < 1.5, windows
    resident = windows["resident"]
    assert resident[-1] - resident[len(resident) // 10] < 100, windows
