"""Stability of a SavedModel with eight threads and good, bad and large requests."""

import itertools
import pathlib
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from tests.export.c_process import (
    image_files_of_all_formats,
    strings,
    text_operations,
)
from tests.export.export_inputs import CAPTIONS
from tests.helpers.image_files import (
    largest_file,
    malformed_files,
    readable_files,
    refused_files,
)

pytestmark = [pytest.mark.release, pytest.mark.timeout(1200)]

SCRIPT = pathlib.Path(__file__).with_name("load_script.py")
SECONDS = 300
MEGABYTE = 2**20
# Absolute tolerance of outputs, compared with those of a single thread.
TOLERANCE = 1e-6
# Sampling weights of the groups of requests.
WEIGHTS = {"good": 800, "bad": 170, "large": 30}


def good_requests(rng):
    files = [content for content, _ in readable_files().values()]
    files += image_files_of_all_formats()
    for _ in range(30):
        batch = strings(rng.choices(files, k=rng.randrange(1, 9)))
        captions = strings(rng.choices(CAPTIONS, k=rng.randrange(1, 9)))
        yield "encode_image", {"image_bytes": batch}
        yield "encode_text", {"captions": captions}
        yield "similarity", {"image_bytes": batch, "captions": captions}
    names = strings(["cat", "dog", "bird"])
    templates = strings(["a {}", "the {}."])
    yield (
        "classify",
        {"image_bytes": batch, "class_names": names, "templates": templates},
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 50, 3), np.uint8)
    yield "encode_image_pixels", {"images": pixels}


def bad_requests(rng):
    """Yields requests with malformed images, empty batches and invalid inputs."""
    files = [content for content, _ in readable_files().values()]
    damaged_files = malformed_files(rng, files)
    for _ in range(20):
        batch = [*itertools.islice(damaged_files, 5), rng.choice(files)]
        captions = [rng.randbytes(rng.randrange(300)) for _ in range(5)]
        inputs = {"image_bytes": strings(batch), "captions": strings(captions)}
        yield "similarity", inputs
    yield "encode_image", {"image_bytes": strings(list(refused_files().values()))}
    yield "encode_image", {"image_bytes": np.zeros(2, np.float32)}
    yield "encode_image", {"image_bytes": strings([])}
    yield "encode_text", {"captions": strings([])}
    ids = np.full((2, 12), 10**6, np.int32)
    yield "encode_token_ids", {"token_ids": ids, "padding_mask": ids * 0 + 1}
    # The template has no {}.
    cat = strings(["cat"])
    inputs = {"image_bytes": strings(files[:1]), "class_names": cat, "templates": cat}
    yield "classify", inputs


def large_requests(rng):
    files = [content for content, _ in readable_files().values()]
    yield "encode_text", {"captions": strings(["a red bicycle", "dog"] * 1000)}
    yield "encode_text", {"captions": strings(["a b " * 250_000, "x" * 10**6])}
    yield "encode_image", {"image_bytes": strings(files * 4)}
    yield "encode_image", {"image_bytes": strings([largest_file()] * 2)}
    names = strings([f"thing {row}" for row in range(300)])
    templates = strings([f"{{}} {row}" for row in range(7)])
    inputs = {"class_names": names, "templates": templates}
    yield "classify", {"image_bytes": strings(files[:2]), **inputs}
    pixels = np.random.default_rng(0).integers(0, 256, (100, 90, 60, 3), np.uint8)
    yield "encode_image_pixels", {"images": pixels}


def test_eight_threads_return_the_same_outputs_with_constant_memory(model, folder):
    rng = random.Random(0)
    requests = {
        "good": list(good_requests(rng)),
        "bad": list(bad_requests(rng)),
        "large": list(large_requests(rng)),
    }
    process = subprocess.run(
        [sys.executable, SCRIPT, folder / "export/align/1", str(SECONDS)]
        + text_operations(),
        input=pickle.dumps((requests, WEIGHTS)),
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-2000:]
    result = pickle.loads(process.stdout)
    counts = result["counts"]
    resident = [usage["resident"] for usage in result["memory"]]
    windows = np.array_split(resident, 5)
    lowest = [int(min(window) / MEGABYTE) for window in windows]
    highest = [int(max(window) / MEGABYTE) for window in windows]
    print(f"{sum(counts.values()) / result['seconds']:.1f} requests/s: {counts}")
    print(f"minimum {lowest} and maximum {highest} megabytes in five windows")
    print(f"largest differences: {result['max_differences']}")
    # Only the bad requests may fail, and only with INVALID_ARGUMENT (3).
    assert not any(result["errors"]["good"] + result["errors"]["large"])
    assert result["errors"]["bad"].count("3") == 3
    assert set(result["errors"]["bad"]) == {"", "3"}
    assert max(result["max_differences"].values()) <= TOLERANCE
    assert min(counts.values()) > 10
    # The memory of large requests must be released afterwards.
    assert lowest[-1] - lowest[1] < 100, lowest
    assert max(highest) < 4000
