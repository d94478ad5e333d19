"""Kills an indexer at random moments and compares its index with an undisturbed one."""

import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from align_keras.search import Index
from align_keras.search.index.folder_store import FolderStore

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = pathlib.Path(__file__).with_name("kill_indexer_script.py")


def contents(index):
    """Returns path → (columns, vector) of all images, without ids and row numbers."""
    vectors, images = index.store.vectors.rows(), {}
    for file, stored in index.store.stored_files().items():
        image = index.store.image(stored.id)
        row = image.pop("row")
        image.pop("id")
        images[file] = image, np.array(vectors[row])
    return images


@pytest.mark.parametrize(
    ("num_images", "most_kills"),
    [
        pytest.param(40, 3, marks=pytest.mark.ci),
        pytest.param(160, 15, marks=pytest.mark.release),
    ],
)
def test_kills_at_random_moments_do_not_change_the_index(
    photos, colors, tmp_path, num_images, most_kills
):
    for number in range(num_images):
        color = (number, 255 - number, (7 * number) % 256)
        path = photos / f"{number:03}.png"
        path.write_bytes(colors.image_bytes(color, (200, 200)))
    undisturbed = Index.build(tmp_path / "undisturbed", [photos], colors.GOLDEN)
    rng = random.Random(0)
    folder, indexed, kills = tmp_path / "killed", 0, 0
    for _ in range(most_kills):
        command = [sys.executable, SCRIPT, photos, folder, colors.GOLDEN]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        # Before the index exists, the process is killed while it creates the index.
        if FolderStore.exists(folder):
            while process.poll() is None and len(Index.open(folder)) == indexed:
                time.sleep(0.005)
        else:
            time.sleep(rng.uniform(0.2, 0.6))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        if FolderStore.exists(folder):
            count = len(Index.open(folder))
            assert count >= indexed
            indexed = count
    assert kills > 2
    killed = Index.build(folder, [photos], colors.GOLDEN)
    expected, images = contents(undisturbed), contents(killed)
    assert images.keys() == expected.keys()
    for file, (image, vector) in expected.items():
        assert images[file][0] == image
        assert np.array_equal(images[file][1], vector)
    assert killed.query("red")[0].path == undisturbed.query("red")[0].path
