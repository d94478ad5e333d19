"""Work that is done once: tasks in processes, and the folders of stages."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence

from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_write

_LOG = "workers.log"
_SECONDS_BETWEEN_LOOKS = 0.2
_DONE = "done.json"


def run_tasks(
    function: Callable,
    tasks: list[dict],
    folder: str | os.PathLike,
    *,
    workers: int | None = None,
) -> list:
    """Calls a function once a task, in several processes; returns the results in order.

    A task's result is a file under its digest, written when the task is done: tasks
    that have one aren't called again, so that a killed run goes on where it stopped.
    The function is importable by name and takes JSON to JSON; what it writes must be
    atomic and may be repeated. By default there are as many processes as cores; with
    one, tasks run in this process. A worker that was killed raises `ChildProcessError`.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = [_result_path(folder, task) for task in tasks]
    left = [
        (task, path)
        for task, path in zip(tasks, results, strict=True)
        # A task that told of a mistake is tried again, when that is mended.
        if "value" not in (_read(path) or {})
    ]
    call = functools.partial(_call, function)
    processes = min(worker_count(workers), len(left))
    if processes > 1:
        _run_in_processes(call, left, processes)
    else:
        for task, path in left:
            call(task, path)
    found = [_read(path) for path in results]
    for result in found:
        if "error" in result:
            raise InputError(result["error"])
    return [result["value"] for result in found]


def worker_count(workers: int | None = None) -> int:
    """Returns the number of processes, by default that of the machine's cores."""
    if workers is not None:
        return workers
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _run_in_processes(call, left, processes):
    with needs("corpus", "several workers run by joblib"):
        import joblib
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    # The processes are kept for the next tasks, and end with this one.
    parallel = joblib.Parallel(
        processes, batch_size=1, initializer=_end_with, initargs=(os.getpid(),)
    )
    try:
        parallel(joblib.delayed(call)(task, path) for task, path in left)
    except TerminatedWorkerError as error:
        raise ChildProcessError(
            f"a worker process was killed ({str(error).splitlines()[-2]}), as systems "
            "do when memory runs out; run again, with --workers 1 if it was that: the "
            "tasks that are done aren't repeated"
        ) from None


def _end_with(parent):
    """Has this process end when its parent has gone."""
    # Ctrl-C reaches all processes of a terminal; the parent answers it, for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        # Nothing is lost: a task's file has its name when it is whole.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _call(function, task, path):
    try:
        with _stderr_into(path.parent / _LOG):
            result = {"value": function(task)}
    except InputError as error:
        # Told by the process that the user started, without a traceback.
        result = {"error": str(error)}
    with atomic_write(path) as file:
        json.dump(result, file, ensure_ascii=True, sort_keys=True)


@contextlib.contextmanager
def _stderr_into(path):
    """Sends what libraries say on stderr into a file."""
    saved = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _result_path(folder, task):
    text = json.dumps(task, ensure_ascii=True, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return folder / f"{name}.json"


class StageFolder:
    """Where a stage keeps what it makes; the same input finds it again.

    The name ends in a digest of everything that the result depends on (`inputs`, JSON:
    options, names of earlier stages, fingerprints), so that another threshold or a
    changed source gets another folder, and a rerun after a kill finds its own. A stage
    is done when its facts are written, last.
    """

    def __init__(self, out, name, inputs):
        text = json.dumps([name, inputs], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.path = pathlib.Path(out, "stages", f"{name}-{digest}")
        self.path.mkdir(parents=True, exist_ok=True)
        self.tasks = self.path / "tasks"

    @property
    def key(self) -> str:
        """For the inputs of the stages that stand on this one."""
        return self.path.name

    def facts(self) -> dict | None:
        """Returns what `finish` was given, or None while the stage isn't done."""
        return _read(self.path / _DONE)

    def finish(self, facts: dict, scratch: Sequence[str] = ()) -> None:
        """Marks the stage as done, and removes what no later stage needs of it."""
        with atomic_write(self.path / _DONE) as file:
            json.dump(facts, file, ensure_ascii=False, indent=1, sort_keys=True)
        for name in scratch:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for leftover in self.path.rglob(".*.tmp"):  # Of tasks that were killed.
            leftover.unlink(missing_ok=True)
