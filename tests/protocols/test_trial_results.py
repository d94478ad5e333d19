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


def note(directory, trial, scratch, pause=0.0):
    """A runner that leaves a note a run, in a folder of its own."""
    notes = pathlib.Path(directory) / "notes"
    notes.mkdir(exist_ok=True, parents=True)
    (notes / f"{trial}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(pause)
    return {"square": trial**2}


def runs_of(directory):
    """Trial number of every run that began, in order."""
    names = [path.name.split("-") for path in (directory / "notes").iterdir()]
    return [int(number) for number, _, _ in sorted(names, key=lambda name: name[2])]


def open_noting(directory, pause=0.0):
    return functools.partial(note, directory, pause=pause)


def test_every_trial_is_run_once_and_kept(tmp_path):
    run = open_noting(tmp_path)
    assert run_trials(TRIALS, run, tmp_path) == 6
    assert run_trials(TRIALS, run, tmp_path) == 0
    assert runs_of(tmp_path) == list(range(6))
    results = read_results(TRIALS, tmp_path)
    assert results == {f"trial{n}": {"square": n**2} for n in range(6)}
    assert not list(tmp_path.glob("*.lock"))


def test_another_trial_is_another_file(tmp_path):
    run = open_noting(tmp_path)
    run_trials({"a": 1}, run, tmp_path)
    assert run_trials({"a": 1, "b": 2}, run, tmp_path) == 1
    assert read_results(["a", "b", "c"], tmp_path).keys() == {"a", "b"}


def test_a_failed_trial_leaves_no_result_and_is_run_again(tmp_path):
    def fail(trial, scratch):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        run_trials({"a": 1}, fail, tmp_path)
    assert read_results(["a"], tmp_path) == {}
    assert run_trials({"a": 1}, open_noting(tmp_path), tmp_path) == 1


@pytest.mark.parametrize(
    "content", [b"", b'{"result": {"squ', b"\xff\xfe", b"[3]", b'{"seconds": 1}']
)
def test_a_damaged_result_is_told_of_and_run_again(tmp_path, capsys, content):
    (tmp_path / "trial3.json").write_bytes(content)
    assert read_results(TRIALS, tmp_path) == {}
    message = capsys.readouterr().err
    assert message.count("trial3.json is damaged") == 1
    run_trials(TRIALS, open_noting(tmp_path), tmp_path)
    assert read_results(TRIALS, tmp_path)["trial3"] == {"square": 9}
    assert "is damaged" not in capsys.readouterr().err


def test_a_trial_that_another_process_holds_is_passed_over(tmp_path):
    import fcntl

    with open(tmp_path / "trial2.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_trials(TRIALS, open_noting(tmp_path), tmp_path) == 5
        assert 2 not in runs_of(tmp_path)
    # The lock of a dead process is nobody's.
    assert run_trials(TRIALS, open_noting(tmp_path), tmp_path) == 1


SCRIPT = """
import functools, pathlib, sys
from tests.protocols.test_trial_results import TRIALS, note
from align_keras.protocols.trial_results import run_trials

directory = pathlib.Path(sys.argv[1])
run_trials(TRIALS, functools.partial(note, directory, pause=0.5), directory)
"""


def test_a_killed_sweep_goes_on(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root)
    deadline = time.monotonic() + 60
    while len(read_results(TRIALS, tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # In the midst of the third.
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = read_results(TRIALS, tmp_path)
    began = runs_of(tmp_path)
    assert len(finished) == 2 and len(began) == 3
    run_trials(TRIALS, open_noting(tmp_path), tmp_path)
    again = runs_of(tmp_path)[len(began) :]
    # None of the finished ones, and the one that was cut short.
    assert again == [2, 3, 4, 5]
    assert len(read_results(TRIALS, tmp_path)) == 6


def test_a_trial_has_a_folder_until_it_is_finished(tmp_path):
    def run(trial, scratch):
        scratch.mkdir(exist_ok=True)
        begun = [path.name for path in scratch.iterdir()]
        (scratch / "half").touch()
        if not begun:
            raise RuntimeError("killed")
        return begun

    with pytest.raises(RuntimeError):
        run_trials({"a": 1}, run, tmp_path)
    run_trials({"a": 1}, run, tmp_path)
    assert read_results(["a"], tmp_path) == {"a": ["half"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_result_says_how_long_it_took(tmp_path):
    run_trials({"a": 3}, open_noting(tmp_path, 0.05), tmp_path)
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
