"""Tests that runs resume bit for bit after SIGKILL and SIGTERM."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from align_keras.training.checkpoints import checkpoints_in
from tests.helpers.small_run import write_pairs

SCRIPT = pathlib.Path(__file__).with_name("kill_script.py")
ROOT = SCRIPT.parents[2]
RATES = ("pairs_per_second", "input_wait_fraction")


def start(directory, replicas, loop=2, mode="full"):
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, str(replicas), str(loop), mode],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(directory, replicas, loop=2, mode="full"):
    process = start(directory, replicas, loop, mode)
    error = process.communicate(timeout=900)[1]
    assert process.returncode == 0, error[-3000:]


def curve(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in RATES}
        for line in lines
    ]


def last_state(directory):
    """Returns the tensors of the newest checkpoint, without its save counter."""
    reader = tf.train.load_checkpoint(checkpoints_in(directory / "checkpoints")[0])
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name)
        for name in names
        if "save_counter" not in name and "OBJECT_GRAPH" not in name
    }


def assert_same(directory, expected_directory):
    """Compares the curves and the last states of two runs, bit for bit."""
    assert curve(directory) == curve(expected_directory)
    state, expected_state = last_state(directory), last_state(expected_directory)
    assert state.keys() == expected_state.keys() and len(state) > 100
    for name, value in expected_state.items():
        assert state[name].tobytes() == value.tobytes(), name


def steps_on_disk(directory):
    return len(list((directory / "checkpoints").glob("ckpt-*.index")))


def kill_when(process, condition):
    """Sends SIGKILL once the condition is true. Returns False if the process ended."""
    while process.poll() is None:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    return False


@pytest.mark.release
@pytest.mark.parametrize(
    ("replicas", "mode"), [(1, "full"), (2, "full"), (1, "lora"), (2, "lora")]
)
def test_a_killed_run_resumes_with_the_same_curve(tmp_path, replicas, mode):
    write_pairs(tmp_path / "pairs")
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    finish(uninterrupted, replicas, mode=mode)
    checkpoints = killed / "checkpoints"

    def is_saving():
        """Returns True while a later checkpoint is being written."""
        return steps_on_disk(killed) > 1 and any(checkpoints.glob("*temp*"))

    assert kill_when(start(killed, replicas, mode=mode), is_saving)
    log = killed / "metrics.jsonl"
    size = log.stat().st_size if log.exists() else 0
    delay = random.Random(replicas).uniform(0.0, 0.2)

    def has_logged_a_loop():
        """Returns True after a random delay when a further loop is logged."""
        if log.exists() and log.stat().st_size > size + 100:
            time.sleep(delay)
            return True
        return False

    assert kill_when(start(killed, replicas, mode=mode), has_logged_a_loop)
    finish(killed, replicas, mode=mode)
    assert_same(killed, uninterrupted)


@pytest.mark.release
def test_sigterm_saves_within_a_loop_and_exits_with_0(tmp_path):
    write_pairs(tmp_path / "pairs")
    uninterrupted, ended = tmp_path / "uninterrupted", tmp_path / "ended"
    finish(uninterrupted, 1, loop=8)
    process = start(ended, 1, loop=8)
    log = ended / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        time.sleep(0.0005)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error[-3000:]
    assert "same command again" in error
    saved = max(int(p.stem[5:]) for p in (ended / "checkpoints").glob("ckpt-*.index"))
    assert saved % 8, "the checkpoint is at the end of a loop"
    finish(ended, 1, loop=8)
    assert_same(ended, uninterrupted)
