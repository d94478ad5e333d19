"""Tests of the results of trials: one run of each trial, locks, kills, damage."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from align_keras.protocols.trial_results import (
    read_results,
    run_trials,
    trial_key,
)

TRIALS = {f"trial{number}": number for number in range(6)}


def record_run(directory, trial, scratch, pause=0.0):
    """Runs a trial, and writes an empty file whose name records the run."""
    records = pathlib.Path(directory) / "records"
    records.mkdir(exist_ok=True, parents=True)
    (records / f"{trial}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(pause)
    return {"square": trial**2}


def started_trials(directory):
    """Returns the trial numbers of all runs that were started, in order."""
    names = [path.name.split("-") for path in (directory / "records").iterdir()]
    return [int(number) for number, _, _ in sorted(names, key=lambda name: name[2])]


def recording_runner(directory, pause=0.0):
    return functools.partial(record_run, directory, pause=pause)


def test_every_trial_is_run_once(tmp_path):
    run = recording_runner(tmp_path)
    assert run_trials(TRIALS, run, tmp_path) == 6
    assert run_trials(TRIALS, run, tmp_path) == 0
    assert started_trials(tmp_path) == list(range(6))
    results = read_results(TRIALS, tmp_path)
    assert results == {f"trial{n}": {"square": n**2} for n in range(6)}
    assert not list(tmp_path.glob("*.lock"))


def test_each_trial_has_a_result_file(tmp_path):
    run = recording_runner(tmp_path)
    run_trials({"a": 1}, run, tmp_path)
    assert run_trials({"a": 1, "b": 2}, run, tmp_path) == 1
    assert read_results(["a", "b", "c"], tmp_path).keys() == {"a", "b"}


def test_a_failed_trial_leaves_no_result_and_is_run_again(tmp_path):
    def fail(trial, scratch):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        run_trials({"a": 1}, fail, tmp_path)
    assert read_results(["a"], tmp_path) == {}
    assert run_trials({"a": 1}, recording_runner(tmp_path), tmp_path) == 1


@pytest.mark.parametrize(
    "content", [b"", b'{"result": {"squ', b"\xff\xfe", b"[3]", b'{"seconds": 1}']
)
def test_a_damaged_result_is_reported_and_computed_again(tmp_path, capsys, content):
    (tmp_path / "trial3.json").write_bytes(content)
    assert read_results(TRIALS, tmp_path) == {}
    message = capsys.readouterr().err
    assert message.count("trial3.json is damaged") == 1
    run_trials(TRIALS, recording_runner(tmp_path), tmp_path)
    assert read_results(TRIALS, tmp_path)["trial3"] == {"square": 9}
    assert "is damaged" not in capsys.readouterr().err


def test_a_trial_that_another_process_runs_is_skipped(tmp_path):
    import fcntl

    with open(tmp_path / "trial2.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_trials(TRIALS, recording_runner(tmp_path), tmp_path) == 5
        assert 2 not in started_trials(tmp_path)
    # The system releases the lock of a process that has ended.
    assert run_trials(TRIALS, recording_runner(tmp_path), tmp_path) == 1


SCRIPT = """
import functools, pathlib, sys
from tests.protocols.test_trial_results import TRIALS, record_run
from align_keras.protocols.trial_results import run_trials

directory = pathlib.Path(sys.argv[1])
run_trials(TRIALS, functools.partial(record_run, directory, pause=0.5), directory)
"""


@pytest.mark.ci
def test_a_killed_sweep_resumes(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root)
    deadline = time.monotonic() + 60
    while len(read_results(TRIALS, tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    # The third trial is running now.
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = read_results(TRIALS, tmp_path)
    started = started_trials(tmp_path)
    assert len(finished) == 2
    assert len(started) == 3
    run_trials(TRIALS, recording_runner(tmp_path), tmp_path)
    # The finished trials aren't run again. The killed one is.
    assert started_trials(tmp_path)[len(started) :] == [2, 3, 4, 5]
    assert len(read_results(TRIALS, tmp_path)) == 6


def test_a_trial_has_a_folder_until_it_is_finished(tmp_path):
    def run(trial, scratch):
        scratch.mkdir(exist_ok=True)
        checkpoints = [path.name for path in scratch.iterdir()]
        (scratch / "checkpoint").touch()
        if not checkpoints:
            raise RuntimeError("killed")
        return checkpoints

    with pytest.raises(RuntimeError):
        run_trials({"a": 1}, run, tmp_path)
    run_trials({"a": 1}, run, tmp_path)
    assert read_results(["a"], tmp_path) == {"a": ["checkpoint"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_result_file_has_the_duration(tmp_path):
    run_trials({"a": 3}, recording_runner(tmp_path, 0.05), tmp_path)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["result"] == {"square": 9} and 0.05 <= record["seconds"] < 5


def test_the_key_depends_on_every_input():
    inputs = {"model": "m", "recipe": {"rate": 0.1}, "seed": 0}
    keys = {
        trial_key(inputs),
        trial_key(inputs | {"model": "n"}),
        trial_key(inputs | {"recipe": {"rate": 0.2}}),
        trial_key(inputs | {"seed": 1}),
    }
    assert len(keys) == 4
    assert trial_key(inputs) == trial_key(dict(reversed(inputs.items())))
