"""Tests of downloads from the Hugging Face Hub, which a local server replaces."""

import os
import shutil
import subprocess
import sys

import huggingface_hub.utils
import numpy as np
import pytest

from align_keras.models import ALIGN
from align_keras.models.hub import HUB_FILES
from align_keras.utils.shared_data import find_shipped_model
from tests.helpers.align_folders import tiny_align
from tests.helpers.small import small_align
from tests.helpers.web_server import REVISION, hub_server

# Script that opens hub models and saves embeddings of an image and a caption.
OPEN = """
import sys
import numpy as np
from align_keras import ALIGN, load_model
embeddings = {}
for name in sys.argv[2:]:
    model = ALIGN.from_preset(name)
    pixels = np.arange(48 * 40 * 3, dtype="uint8").reshape(48, 40, 3)
    embeddings[name + " image"] = model.encode_images([pixels])
    embeddings[name + " text"] = model.encode_texts(["a red cat"])
load_model(sys.argv[2])
np.savez(sys.argv[1], **embeddings)
"""


def saved_folder(path):
    small_align().save_to_preset(path)
    return path


def transformers_5_folder(path):
    shutil.copytree(tiny_align(), path)
    settings = (path / "preprocessor_config.json").read_text()
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(f'{{"image_processor": {settings}}}')
    return path


def test_all_files_of_a_model_are_downloaded(tmp_path):
    folders = [saved_folder(tmp_path / "saved"), find_shipped_model("align_small_en")]
    for folder in [*folders, transformers_5_folder(tmp_path / "five")]:
        names = [file.name for file in folder.iterdir() if file.name != "README.md"]
        downloaded = huggingface_hub.utils.filter_repo_objects(
            names, allow_patterns=HUB_FILES
        )
        assert sorted(downloaded) == sorted(names)


@pytest.mark.release
def test_hub_models_return_the_embeddings_of_their_folders(tmp_path):
    models = {
        "user/saved": saved_folder(tmp_path / "saved"),
        "user/shipped": find_shipped_model("align_small_en"),
        "user/five": transformers_5_folder(tmp_path / "five"),
    }
    (tmp_path / "saved" / "pytorch_model.bin").write_bytes(b"0" * 100)
    names = [f"hf://{name}" for name in models]
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-c", OPEN, str(tmp_path / "embeddings.npz"), *names]
    with hub_server(models) as server:
        environment["HF_ENDPOINT"] = server.url
        options = {"env": environment, "capture_output": True, "text": True}
        process = subprocess.run(command, **options)
        assert process.returncode == 0, process.stderr
        requested_files = {
            request.name for request in server.requests if request.method == "GET"
        }
    assert f"user/saved/resolve/{REVISION}/model.weights.h5" in requested_files
    assert not any(name.endswith("pytorch_model.bin") for name in requested_files)
    actual = np.load(tmp_path / "embeddings.npz")
    pixels = np.arange(48 * 40 * 3, dtype="uint8").reshape(48, 40, 3)
    for name, folder in models.items():
        model = ALIGN.from_preset(folder)
        expected = model.encode_images([pixels]), model.encode_texts(["a red cat"])
        np.testing.assert_allclose(actual[f"hf://{name} image"], expected[0], atol=1e-6)
        np.testing.assert_allclose(actual[f"hf://{name} text"], expected[1], atol=1e-6)
    # The server is stopped, so the models are opened from the cache.
    process = subprocess.run(command, **options)
    assert process.returncode == 0, process.stderr
