"""Execution of one task in a worker process, with its result in a file."""

import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.quiet import silence_tensorflow, silent_standard_error

# File in the folder of the results with the messages of the workers.
LOG = "workers.log"
# Seconds between two checks of the parent process.
_PARENT_CHECK_INTERVAL = 0.2
Task = dict[str, Any]
Function = Callable[[Any], Any]


def end_with(parent: int) -> None:
    """Ends this process when the process `parent` has ended."""
    silence_tensorflow()
    # A terminal sends Ctrl-C to all processes. Only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_INTERVAL)
        # Results are complete files, because each is renamed after it was written.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def call_quietly(function: Function, task: Task, path: pathlib.Path) -> Any:
    """Runs a task as `write_result`. Messages of native libraries go to a file."""
    with silent_standard_error(path.parent / LOG):
        return write_result(function, task, path)


def write_result(function: Function, task: Task, path: pathlib.Path) -> Any:
    """Runs a task, stores its result, and returns its value."""
    # An `InputError` of the task is stored too. `run_tasks` raises it in the process
    # that the user started.
    result: dict[str, Any]
    try:
        result = {"value": function(task)}
    except InputError as error:
        result = {"error": str(error)}
    except Exception as error:
        error.add_note(f"in {task_title(function, task)}")
        raise
    with atomic_write(path) as file:
        json.dump(result, file, ensure_ascii=True, sort_keys=True)
    return result.get("value")


def task_title(function: Function, task: Task) -> str:
    """Returns a description of a task for messages, shortened to 300 characters."""
    text = json.dumps(task, ensure_ascii=False)
    if len(text) > 300:
        text = text[:300] + "…"
    return f"the task {function.__name__} {text}"
