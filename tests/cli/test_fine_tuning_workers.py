"""Trials of a protocol in several processes or on several replicas."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.drawings import BOTH, HEAD, evaluate


@pytest.mark.release
def test_two_workers_reach_the_accuracy_of_one_worker(
    capsys, tmp_path, drawings, small_model
):
    arguments = [
        "fine_grained",
        "--model",
        small_model,
        "--data",
        drawings,
    ]
    arguments += ["--params_override", HEAD]
    one_worker, _ = evaluate(capsys, *arguments, "--results", tmp_path / "alone")
    two_workers, _ = evaluate(
        capsys, *arguments, "--results", tmp_path / "both", "--workers", 2
    )
    # Two workers have fewer threads each, which changes the rounding of sums. A few
    # predictions may differ.
    for name, value in one_worker["metrics"].items():
        assert two_workers["metrics"][name] == pytest.approx(value, abs=0.1)


@pytest.mark.release
def test_two_replicas_reach_the_accuracy_of_one_replica(
    capsys, tmp_path, drawings, small_model
):
    """Both stages run in another process, which has two logical CPUs."""
    from align_keras.models import ALIGN

    # Replicas drop different blocks at random (drop connect), so the rate must be zero.
    model = ALIGN.from_preset(small_model, drop_connect_rate=0.0)
    model.save_to_preset(tmp_path / "model")
    arguments = ["fine_grained", "--model", tmp_path / "model"]
    # After fewer steps, the logits of the classes are almost equal, so that rounding
    # changes many predictions.
    steps = ",head.steps=30,full.steps=30,full.learning_rate=0.01"
    arguments += ["--data", drawings, "--params_override", BOTH + steps]
    one_device, _ = evaluate(capsys, *arguments, "--results", tmp_path / "alone")
    arguments[-1] += (
        ",runtime.distribution_strategy=mirrored,runtime.num_replicas=2,"
        "micro_batch_size=3,rematerialize=true"
    )
    arguments += ["--results", tmp_path / "both", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)["metrics"]
    # Two replicas round sums differently. A prediction may differ.
    assert one_device["metrics"]["top_1"] > 0.9
    for name, value in one_device["metrics"].items():
        assert metrics[name] == pytest.approx(value, abs=0.1)


COMMAND = "import sys; from align_keras.cli.main import main; sys.exit(main())"


def find_workers(process):
    """Returns the ids of the worker processes of a process."""
    result = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
    )
    lines = [line.split(None, 1) for line in result.stdout.splitlines()]
    return [int(number) for number, words in lines if "LokyProcess" in words]


@pytest.mark.release
def test_finished_trials_survive_killed_workers(
    capsys, tmp_path, drawings, small_model
):
    override = HEAD.replace("runs=2", "runs=4").replace("head.steps=2", "head.steps=60")
    arguments = [
        "fine_grained",
        "--model",
        small_model,
        "--data",
        drawings,
    ]
    arguments += ["--results", tmp_path, "--params_override", override]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND]
        + ["evaluate", *map(str, arguments), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = find_workers(process)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    _, messages = process.communicate(timeout=240)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert process.returncode == 1 and 1 <= len(finished) < 4
    assert "not repeated" in " ".join(messages.split())
    assert "Traceback" not in messages
    # The same command trains the remaining trials.
    evaluation, messages = evaluate(capsys, *arguments)
    assert f"{4 - len(finished)} of 4 trials" in messages
    assert "top_1_std" in evaluation["metrics"]
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written
    assert len(list(tmp_path.glob("*.json"))) == 4
