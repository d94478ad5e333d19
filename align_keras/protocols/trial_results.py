"""Results of trials. Several processes share the work, and each trial runs once."""

import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from align_keras.utils.files import atomic_write, hold
from align_keras.utils.progress import say


def trial_key(inputs: Any) -> str:
    """Returns the key of a trial, a digest of its inputs as JSON."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def read_results(trials: Iterable[str], directory: str | os.PathLike) -> dict[str, Any]:
    """Returns the results of finished trials by key, and reports damaged results."""
    results = {}
    for key in trials:
        path = _result_file(directory, key)
        result = _read_result(path)
        if result is not None:
            results[key] = result
        elif path.exists():
            say(f"{path} is damaged. Its trial counts as unfinished.")
    return results


def run_trials(
    trials: Mapping[str, Any], run: Callable, directory: str | os.PathLike
) -> int:
    """Runs the trials that aren't finished and that no other process runs.

    Results are written atomically. The process that runs a trial has a lock on it,
    which ends with the process. Several processes, also of several machines, may share
    a folder.

    Args:
        trials: dict from key to trial.
        run: function that runs a trial. Its arguments are the trial and a folder for
            checkpoints, from which it resumes after it was killed.
        directory: folder of the results.

    Returns:
        int, number of trials that this process ran.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for key, trial in trials.items():
        path = _result_file(directory, key)
        if _read_result(path) is not None:
            continue
        lock = directory / f"{key}.lock"
        held = hold(lock)
        if held is None:
            continue
        with held:
            if _read_result(path) is None:
                start = time.monotonic()
                scratch = directory / f"{key}.unfinished"
                result = run(trial, scratch)
                record = {"result": result, "seconds": time.monotonic() - start}
                with atomic_write(path) as file:
                    json.dump(record, file)
                shutil.rmtree(scratch, ignore_errors=True)
                count += 1
            # Another process that waits for this lock then checks for the result, so
            # the lock file can be removed.
            lock.unlink(missing_ok=True)
    return count


def _result_file(directory: str | os.PathLike, key: str) -> pathlib.Path:
    return pathlib.Path(directory) / f"{key}.json"


def _read_result(path: pathlib.Path) -> Any:
    """Returns the result in a file, or None if the file is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record.get("result") if isinstance(record, dict) else None
