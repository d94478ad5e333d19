"""An evaluation that was killed continues with the stored embeddings."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from align_keras.cli.main import main
from tests.helpers.small import small_align

ROOT = pathlib.Path(__file__).parents[2]
NUM_IMAGES = 1000


@pytest.mark.release
def test_a_killed_evaluation_embeds_no_image_again(tmp_path, monkeypatch, capsys):
    small_align().save_to_preset(tmp_path / "run")
    lines = []
    for number in range(NUM_IMAGES):
        pixels = np.full((16, 16, 3), (number % 251, number // 251, 7), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        pair = {"image": f"{number}.png", "caption": f"number {number}"}
        lines.append(json.dumps(pair))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ["evaluate", "retrieval", "--model", "run"]
    command += ["--data", "pairs.jsonl", "--cache", "cache", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "align_keras.cli.main", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def count_stored_images():
        # The cache stores a digest of 20 bytes for each image.
        files = list(tmp_path.glob("cache/image-*/digests"))
        return files[0].stat().st_size // 20 if files else 0

    while not count_stored_images() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    num_stored = count_stored_images()
    assert 0 < num_stored < NUM_IMAGES

    from align_keras.models import ALIGN

    embedded, encode = [], ALIGN.encode_images

    def encode_and_count(self, images, **options):
        embedded.extend(images)
        return encode(self, images, **options)

    monkeypatch.setattr(ALIGN, "encode_images", encode_and_count)
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["images"] == NUM_IMAGES
    assert len(embedded) == NUM_IMAGES - num_stored
