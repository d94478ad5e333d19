"""An indexer that is killed at random moments ends with the index of one that isn't."""

import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from align_keras.search import Index
from align_keras.search.store import Store

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = pathlib.Path(__file__).with_name("kill_indexer_script.py")


def contents(index):
    """What an index says of each image, without its place."""
    vectors, images = index.store.vectors(), {}
    for file, (id, *_) in index.store.known().items():
        image = index.store.image(id)
        row = image.pop("row")
        image.pop("id")
        images[file] = image, np.array(vectors[row])
    return images


@pytest.mark.ci
def test_kills_at_random_moments_lose_nothing(photos, colors, tmp_path):
    for number in range(160):
        color = (number, 255 - number, (7 * number) % 256)
        path = photos / f"{number:03}.png"
        path.write_bytes(colors.image_bytes(color, (200, 200)))
    whole = Index.build(tmp_path / "whole", [photos], colors.GOLDEN)
    chance = random.Random(0)
    folder, kept, kills = tmp_path / "killed", 0, 0
    for _ in range(15):
        command = [sys.executable, SCRIPT, photos, folder, colors.GOLDEN]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        if Store.is_there(folder):  # Else it is killed while it makes the index.
            while process.poll() is None and len(Index.open(folder)) == kept:
                time.sleep(0.005)
        else:
            time.sleep(chance.uniform(0.2, 0.6))
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        if Store.is_there(folder):
            count = len(Index.open(folder))
            assert count >= kept
            kept = count
    assert kills > 3
    killed = Index.build(folder, [photos], colors.GOLDEN)
    expected, found = contents(whole), contents(killed)
    assert found.keys() == expected.keys()
    for file, (image, vector) in expected.items():
        assert found[file][0] == image
        assert np.array_equal(found[file][1], vector)
    assert killed.query("red")[0].path == whole.query("red")[0].path
