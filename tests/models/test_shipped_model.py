"""Tests of `align_small_en`, the trained model that comes with the package."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from align_keras.utils.shared_data import find_shipped_model
from tests.helpers.drawings import draw

FOLDER = find_shipped_model("align_small_en")
TEXTS = ["a red bicycle", "two cats on a sofa", "snow", "A map of the world."]
# Drawings with colors and shapes that are not in the training images.
IMAGES = [np.asarray(draw(kind, seed)) for seed in range(4) for kind in range(3)]

OPEN = """
import json, pathlib, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from align_keras.export.litert_file import LiteRTTower, read_files
from align_keras.utils.shared_data import find_shipped_model
folder = find_shipped_model("align_small_en")
towers = [(folder / name).read_bytes() for name in ("image.tflite", "text.tflite")]
print(json.dumps({
    "outputs": [LiteRTTower(tower).outputs for tower in towers],
    "files": [sorted(read_files(tower)) for tower in towers],
}))
"""


def test_the_folder_is_complete_and_below_40_megabytes():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"image.tflite", "text.tflite", "vocabulary.txt", "config.json"} <= names
    assert sum(path.stat().st_size for path in files) <= 40_000_000
    card = (FOLDER / "README.md").read_text("utf-8")
    assert "License" in card and "Limits" in card


@pytest.mark.ci
def test_the_model_opens_without_tensorflow():
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert isn't installed")
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", OPEN], cwd=root, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    towers = json.loads(process.stdout)
    assert towers["outputs"] == [
        {"image_embedding": [1, 384]},
        {"text_embedding": [1, 384]},
    ]
    assert all("metadata.json" in files for files in towers["files"])
    assert "vocabulary.txt" in towers["files"][1]


@pytest.mark.ci
def test_keras_and_litert_agree():
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert isn't installed")
    from align_keras.export.litert_file import LiteRTTower
    from align_keras.images import preprocess_image
    from align_keras.models import ALIGN

    align = ALIGN.from_preset("align_small_en")
    image, text = (
        LiteRTTower((FOLDER / name).read_bytes())
        for name in ("image.tflite", "text.tflite")
    )
    pixels = [
        np.asarray(preprocess_image(drawing, align.image_size)) for drawing in IMAGES
    ]
    embeddings = np.concatenate([image(images=rows[None]) for rows in pixels])
    cosines = np.sum(embeddings * align.encode_images(IMAGES), axis=1)
    # Both have the same weights, but LiteRT has 8-bit activations.
    assert cosines.min() > 0.9 and cosines.mean() > 0.95, cosines
    tokens = align.tokenizer(TEXTS)
    rows = range(len(TEXTS))
    embeddings = np.concatenate(
        [text(**{name: ids[i : i + 1] for name, ids in tokens.items()}) for i in rows]
    )
    cosines = np.sum(embeddings * align.encode_texts(TEXTS), axis=1)
    assert cosines.min() > 0.98, cosines


@pytest.mark.release
def test_the_8_bit_files_have_the_expected_recall_on_the_stamps():
    from tools.make_small_model import measure

    recall = measure(FOLDER)
    # The measured values were 0.299 and 0.594 (t2i), and 0.296 and 0.601 (i2t).
    lower_bounds = {"recall_at_1": 0.25, "recall_at_10": 0.52}
    for direction in ("t2i", "i2t"):
        for name, bound in lower_bounds.items():
            assert recall[f"{direction}/{name}"] >= bound, recall
