"""Test of a killed training from tar files: it resumes with the same loss curve."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.small_run import COLORS, SHAPES, SMALL, draw, write_pairs
from tests.helpers.source_files import write_tar

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_source(folder):
    """Writes four tars of ten drawings, of which one is truncated."""
    rows = []
    for color in COLORS:
        for shape in SHAPES:
            file = io.BytesIO()
            draw(color, shape).save(file, "JPEG")
            text = f"a {color} {shape}".encode()
            rows.append((f"{color}_{shape}", {"jpg": file.getvalue(), "txt": text}))
    rows[3][1]["jpg"] = rows[3][1]["jpg"][:-100]
    for number in range(4):
        write_tar(folder / f"{number:05}.tar", rows[10 * number : 10 * number + 10])


def start(directory, folder):
    overrides = [
        SMALL,
        f"task.train_data.source={folder}/tars",
        f"task.validation_data.pairs={folder}/pairs/pairs.jsonl",
        "task.validation_data.tfds_split=all",
    ]
    command = [sys.executable, "-m", "align_keras.cli.main", "train", "--mode", "train"]
    command += ["--model_dir", str(directory), "--params_override", ",".join(overrides)]
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def curve(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    rates = ("pairs_per_second", "input_wait_fraction")
    return [
        {name: value for name, value in json.loads(line).items() if name not in rates}
        for line in lines
    ]


@pytest.mark.release
def test_a_killed_training_resumes_with_the_same_curve(tmp_path):
    write_pairs(tmp_path / "pairs")
    write_source(tmp_path / "tars")
    uninterrupted = tmp_path / "uninterrupted"
    killed = tmp_path / "killed"
    process = start(uninterrupted, tmp_path)
    messages = process.communicate()[1]
    assert process.returncode == 0, messages
    assert "skipped 00000.tar@" in messages
    assert "tars: 40 pairs kept" in messages
    process = start(killed, tmp_path)
    while process.poll() is None and not list(killed.glob("checkpoints/ckpt-4.index")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(curve(killed)) < len(curve(uninterrupted))
    process = start(killed, tmp_path)
    messages = process.communicate()[1]
    assert process.returncode == 0, messages
    assert "resuming at step" in messages
    assert "indexing" not in messages
    assert curve(killed) == curve(uninterrupted)
