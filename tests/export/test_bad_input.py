"""What an export answers to what is no request, through TensorFlow's C API."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from tests.export.c_process import (
    TOLERANCE,
    answers,
    call,
    every_format,
    picture,
    strings,
)
from tests.helpers.image_files import encoded, malformed

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def files():
    return every_format()


def bombs():
    """Files of 200 megapixels in at most some megabytes, by their format."""
    width, height = 16_000, 12_500
    bits = (height - 1) << 14 | (width - 1)
    webp = b"WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, bits) + b"\0"
    bmp = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "png": picture("PNG", (width, height), "1"),
        "jpeg": picture("JPEG", (width, height)),
        "gif": picture("GIF", (width, height), "P"),
        "gif, a large frame": _large_frame((width, height)),
        "bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + bmp,
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
    }


def _large_frame(size):
    """A GIF whose header says 1 × 1."""
    whole = picture("GIF", size, "P")
    colors = 3 * 2 ** (1 + whole[10] % 8)
    frame = whole[13 + colors : -1]
    header = whole[:6] + struct.pack("<HH", 1, 1) + whole[10 : 13 + colors]
    return header + frame + b";"


@pytest.mark.ci
def test_bad_files_are_told_from_pictures(model, folder, files):
    bad = {
        **bombs(),
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "empty": b"",
        "truncated": files[0][: len(files[0]) // 2],
        "text": b"x" * 10_000,
    }
    good = ("encode_image", {"image_bytes": strings(files[:1])})
    mixed = ("encode_image", {"image_bytes": strings([*bad.values(), files[0]])})
    (alone, before), (together, after) = call(folder, "image", [good, mixed])
    assert together["valid"].tolist() == [False] * len(bad) + [True], list(bad)
    assert not together["image_embedding"][:-1].any()
    np.testing.assert_allclose(
        together["image_embedding"][-1],
        alone["image_embedding"][0],
        rtol=0,
        atol=TOLERANCE,
    )
    # Decoded, each of the bombs takes 600 megabytes.
    assert after["peak"] - before["peak"] < 300 * MEGABYTE


@pytest.mark.release
@pytest.mark.parametrize("count", [1, 4])
def test_the_largest_images_that_are_taken_leave_room(folder, files, count):
    """Files of 6 kilobytes each; as many at a time as cores are took 1 GB each."""
    image = Image.new("LA", (8192, 6144), (0, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    batches = files[2:3], [file.getvalue()] * count
    calls = [("encode_image", {"image_bytes": strings(own)}) for own in batches]
    (_, before), (found, after) = call(folder, "image", calls)
    assert found["valid"].all()
    # 900 to 1,240 by whether two buffers meet; without oneDNN 750 to 775.
    assert after["peak"] - before["resident"] < 1400 * MEGABYTE


@pytest.mark.release
def test_memory_grows_by_what_is_asked_and_answered(folder, files):
    """20,000 captions took 6 GB where all were embedded at once."""
    captions = strings(["a red bicycle", "dog"] * 10_000)
    calls = [("encode_text", {"captions": own}) for own in (captions[:2], captions)]
    (first, before), (found, after) = call(folder, "text", calls)
    expected = np.tile(first["text_embedding"], (10_000, 1))
    np.testing.assert_allclose(
        found["text_embedding"], expected, rtol=0, atol=TOLERANCE
    )
    assert after["peak"] - before["resident"] < 500 * MEGABYTE


@pytest.mark.ci
def test_bad_requests_are_answered_by_errors(model, folder, files):
    numbers = np.zeros(2, np.float32)
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    ids = np.full((1, 12), 10**6, np.int32)
    captions, classes = strings(["red"]), strings(["cat"])
    known, jpeg = strings(["a {}"]), strings(files[2:3])
    calls = [
        ("encode_image", {"image_bytes": numbers}),
        ("encode_image", {"image_bytes": jpeg[:, np.newaxis]}),
        ("encode_image_pixels", {"images": pixels}),
        ("encode_image_pixels", {"images": pixels.astype(np.uint8)[..., :1]}),
        ("encode_text", {"captions": numbers}),
        ("encode_text", {"captions": captions[:, np.newaxis]}),
        ("encode_token_ids", {"token_ids": ids, "padding_mask": ids * 0 + 1}),
        ("encode_token_ids", {"token_ids": ids * 0, "padding_mask": ids[:, 1:]}),
        # One more than there are positions, and none.
        *(
            ("encode_token_ids", {"token_ids": wrong, "padding_mask": wrong})
            for wrong in (np.zeros((1, 13), np.int32), ids[:, :0])
        ),
        ("encode_image_pixels", {"images": np.zeros((1, 0, 8, 3), np.uint8)}),
        ("similarity", {"image_bytes": jpeg, "captions": numbers}),
        (
            "classify",
            {"image_bytes": jpeg, "class_names": classes, "templates": captions},
        ),
        (
            "classify",
            {"image_bytes": jpeg, "class_names": classes, "templates": known[:0]},
        ),
    ]
    good = ("encode_text", {"captions": captions})
    *refused, answer = answers(folder, "align", [*calls, good])
    for (signature, inputs), error in zip(calls, refused, strict=True):
        assert isinstance(error, str), (signature, inputs, error)
        # INVALID_ARGUMENT, which a server passes on as 400.
        assert error.startswith("3: "), error
    np.testing.assert_allclose(
        answer["text_embedding"],
        model.encode_texts(["red"]),
        rtol=0,
        atol=TOLERANCE,
    )


@pytest.mark.release
def test_empty_batches(model, folder, files):
    none, width = strings([]), model.image_encoder.output_shape[-1]
    ids = np.zeros((0, 12), np.int32)
    jpeg, captions = strings(files[2:3]), strings(["red", "blue"])
    expected = [
        ("encode_image", {"image_bytes": none}, "image_embedding", (0, width)),
        (
            "encode_image_pixels",
            {"images": np.zeros((0, 9, 9, 3), np.uint8)},
            "image_embedding",
            (0, width),
        ),
        ("encode_text", {"captions": none}, "text_embedding", (0, width)),
        (
            "encode_token_ids",
            {"token_ids": ids, "padding_mask": ids},
            "text_embedding",
            (0, width),
        ),
        ("similarity", {"image_bytes": none, "captions": captions}, "cosine", (0, 2)),
        ("similarity", {"image_bytes": jpeg, "captions": none}, "cosine", (1, 0)),
        (
            "classify",
            {
                "image_bytes": none,
                "class_names": captions,
                "templates": strings(["a {}"]),
            },
            "scores",
            (0, 2),
        ),
    ]
    found = answers(folder, "align", [case[:2] for case in expected])
    for (signature, _, key, shape), outputs in zip(expected, found, strict=True):
        assert not isinstance(outputs, str), (signature, outputs)
        assert outputs[key].shape == shape, signature


@pytest.mark.release
def test_ten_thousand_malformed_inputs_leave_the_model_answering(model, folder, files):
    source = random.Random(0)
    photograph = Image.open(io.BytesIO(files[2]))
    formats = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
    bad = malformed(source, [encoded(photograph, own) for own in formats])
    calls, every = [], 50
    good = ("similarity", {"image_bytes": strings(files), "captions": strings(["red"])})
    for _ in range(10_000 // every):
        batch = [next(bad) for _ in range(every)]
        captions = [source.randbytes(source.randrange(300)) for _ in range(every)]
        inputs = {"image_bytes": strings(batch), "captions": strings(captions)}
        calls += [("similarity", inputs), good]
    found = call(folder, "align", calls)
    first = found[1][0]
    for answer, _ in found[1::2]:
        np.testing.assert_array_equal(answer["valid"], first["valid"])
        np.testing.assert_allclose(
            answer["cosine"], first["cosine"], rtol=0, atol=TOLERANCE
        )
    invalid = 0
    for answer, _ in found[::2]:
        assert np.isfinite(answer["cosine"]).all()
        invalid += int((~answer["valid"]).sum())
    # Some of the altered files can be decoded still.
    assert invalid > 5000
    windows = {
        key: np.array([usage[key] for _, usage in found[::20]]) / MEGABYTE
        for key in found[0][1]
    }
    # The heap grows once or twice by a piece, for the largest so far; a leak shows in
    # most windows. The client keeps the answers themselves.
    growth = np.median(np.diff(windows["in_use"])) * len(windows["in_use"])
    answers_kept = sum(
        values.nbytes for answer, _ in found for values in answer.values()
    )
    assert growth - answers_kept / MEGABYTE < 1.5, windows
    resident = windows["resident"]
    assert resident[-1] - resident[len(resident) // 10] < 100, windows
