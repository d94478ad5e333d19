"""Execution of tasks with stored results in local processes or on a cluster."""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from align_keras.utils.addresses import (
    HOST_AND_PORT,
    known_queries,
    remember_queries,
)
from align_keras.utils.errors import InputError
from align_keras.utils.task_worker import Function, Task, call_quietly, end_with

LOCAL = "local"
ENGINES = (LOCAL, "dask:HOST:PORT", "ray:HOST:PORT", "spark:MASTER")
ENGINE_HELP = (
    "engine that runs the tasks: local, or a cluster with access to the same files, "
    "dask:HOST:PORT, ray:HOST:PORT or spark:spark://HOST:PORT (default: local)"
)
_ADDRESSES = {
    "dask": HOST_AND_PORT,
    "ray": HOST_AND_PORT,
    "spark": rf"spark://{HOST_AND_PORT}(?:,{HOST_AND_PORT})*"
    r"|local\[(?:\d+|\*)\]|yarn|k8s://\S+",
}


def run_tasks(
    function: Callable,
    tasks: list[dict],
    folder: str | os.PathLike,
    *,
    workers: int | None = None,
    engine: str = LOCAL,
    on_result: Callable[[Any], Any] = lambda value: None,
) -> list:
    """Calls a function with each task and returns the results in order.

    The result of each task is stored in a file that is named after the digest of the
    task. A killed run therefore continues with the unfinished tasks.

    Args:
        function: callable that can be imported by its name. It takes a JSON object and
            returns JSON. It may be called again with the same task, so it must write
            its files atomically.
        tasks: list of JSON objects.
        folder: path of the results. All machines of a cluster must have access to it
            under this path.
        workers: number of processes on this machine, by default the number of cores.
            With 1, the tasks run in this process. A cluster has its own workers.
        engine: one of `ENGINES`. A cluster finishes all other tasks before the error of
            a task is raised.
        on_result: callable that takes the value of each task that this machine has
            finished. It is not called for the tasks of a cluster.

    Returns:
        list of the values that `function` returned, in the order of `tasks`.

    Raises:
        ChildProcessError: if a worker was killed.
        InputError: if the engine can't be used, or if a task raised it.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_result_path(folder, task) for task in tasks]
    open_tasks = [
        (task, path)
        for task, path in zip(tasks, paths, strict=True)
        # A task whose stored result is an `InputError` runs again.
        if "value" not in (_read(path) or {})
    ]
    processes = min(process_count(workers), len(open_tasks))
    if is_cluster(engine):
        if open_tasks:
            # Work on one machine does not need this import.
            from align_keras.utils.clusters import run_on_cluster

            run_on_cluster(function, open_tasks, folder.absolute(), engine)
    elif processes > 1:
        _run_in_processes(function, open_tasks, processes, on_result)
    else:
        for task, path in open_tasks:
            on_result(call_quietly(function, task, path))
    values = []
    for path in paths:
        result = _read(path)
        if result is None:
            raise InputError(
                f"The task folder must be on a disk that all machines of {engine} "
                f"share. A worker wrote {path}, which doesn't exist on this machine. "
                "Choose another folder."
            )
        if "error" in result:
            raise InputError(result["error"])
        values.append(result["value"])
    return values


def process_count(workers: int | None = None) -> int:
    """Returns the number of processes, by default the number of available cores."""
    if workers is not None:
        return workers
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows don't have this function.
        return os.cpu_count() or 1


def is_cluster(engine: str) -> bool:
    """Returns True if an engine is a cluster, and False for "local".

    Raises:
        InputError: if the engine is not one of `ENGINES`.
    """
    kind, _, address = engine.partition(":")
    if engine == LOCAL:
        return False
    pattern = _ADDRESSES.get(kind)
    if pattern is None or not re.fullmatch(pattern, address):
        raise InputError(
            f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, such as "
            f"spark:spark://HOST:7077. Received: engine={engine!r}. Choose one of them."
        )
    return True


def check_same(path: str, actual: str, expected: str, name: str = "model") -> None:
    """Checks on a worker that it has the same model as the machine of the user.

    Args:
        path: path of the model for the message.
        actual: fingerprint of the model on the worker.
        expected: fingerprint of the model in the task.
        name: name of the argument for the message.

    Raises:
        InputError: if the fingerprints differ.
    """
    if actual != expected:
        import socket

        raise InputError(
            f"{name} must be the same on all machines. {path} differs on "
            f"{socket.gethostname()}. Copy it to that machine."
        )


def _run_in_processes(
    function: Function,
    open_tasks: list[tuple[Task, pathlib.Path]],
    processes: int,
    on_result: Callable[[Any], Any],
) -> None:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # joblib uses the processes again for the next tasks. `end_with` ends the processes
    # when this process ends.
    parallel = joblib.Parallel(
        processes,
        batch_size=1,
        return_as="generator_unordered",
        initializer=_start_worker,
        initargs=(os.getpid(), known_queries()),
    )
    try:
        call = joblib.delayed(call_quietly)
        for value in parallel(call(function, task, path) for task, path in open_tasks):
            on_result(value)
    except TerminatedWorkerError as error:
        raise ChildProcessError(
            f"A worker process was killed ({str(error).splitlines()[-2]}), probably "
            "because the memory was full. Run the command again, with --workers 1 to "
            "use less memory. Finished tasks are not repeated."
        ) from None


def _start_worker(parent: int, queries: dict[str, str]) -> None:
    """Prepares a worker process, which knows the presigned addresses of its parent."""
    remember_queries(queries)
    end_with(parent)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _result_path(folder: pathlib.Path, task: Task) -> pathlib.Path:
    text = json.dumps(task, ensure_ascii=True, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return folder / f"{name}.json"
