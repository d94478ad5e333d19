"""Trials in several processes, one of which dies."""

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
def test_workers_find_the_same(capsys, tmp_path, drawings, small_model):
    arguments = [
        "fine_grained",
        "--model",
        small_model,
        "--data",
        drawings,
    ]
    arguments += ["--params_override", HEAD]
    alone, _ = evaluate(capsys, *arguments, "--results", tmp_path / "alone")
    both, _ = evaluate(
        capsys, *arguments, "--results", tmp_path / "both", "--workers", 2
    )
    # Sums in another order, by another number of threads: a picture may change sides.
    for name, value in alone["metrics"].items():
        assert both["metrics"][name] == pytest.approx(value, abs=0.1)


@pytest.mark.release
def test_replicas_find_the_same(capsys, tmp_path, drawings, small_model):
    """Both stages, on two logical CPUs in a process of their own."""
    from align_keras.models import ALIGN

    # Replicas draw blocks to leave out for themselves, so none is left out.
    model = ALIGN.from_preset(small_model, drop_connect_rate=0.0)
    model.save_to_preset(tmp_path / "model")
    arguments = ["fine_grained", "--model", tmp_path / "model"]
    arguments += ["--data", drawings, "--params_override", BOTH]
    alone, _ = evaluate(capsys, *arguments, "--results", tmp_path / "alone")
    arguments[-1] += (
        ",runtime.distribution_strategy=mirrored,runtime.num_replicas=2,"
        "micro_batch_size=3,rematerialize=true"
    )
    arguments += ["--results", tmp_path / "both", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    both = json.loads(ran.stdout)["metrics"]
    # Sums in another order: a picture may change sides.
    for name, value in alone["metrics"].items():
        assert both[name] == pytest.approx(value, abs=0.1)


COMMAND = "import sys; from align_keras.cli.main import main; sys.exit(main())"


def children_of(process):
    """The processes that a process has started to train, by their numbers."""
    answer = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
    )
    lines = [line.split(None, 1) for line in answer.stdout.splitlines()]
    return [int(number) for number, words in lines if "LokyProcess" in words]


@pytest.mark.release
def test_a_killed_worker_costs_its_trial_alone(capsys, tmp_path, drawings, small_model):
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
    workers = children_of(process)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    _, messages = process.communicate(timeout=240)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert process.returncode == 1 and 1 <= len(finished) < 4
    assert "Finished tasks are not repeated" in " ".join(messages.split())
    assert "Traceback" not in messages
    # The same command trains the others.
    found, messages = evaluate(capsys, *arguments)
    assert f"{4 - len(finished)} of 4 trials to train" in messages
    assert "top_1_std" in found["metrics"]
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written
    assert len(list(tmp_path.glob("*.json"))) == 4
