"""Tasks on the workers of Apache Beam, each done once."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import sys

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

LOCAL_RUNNER = "DirectRunner"
_LOG = "workers.log"


def run_tasks(function, tasks, folder, *, runner=LOCAL_RUNNER, options=()):
    """Calls a function once a task, on the workers of a Beam runner.

    A task's result is a file under its digest, written when the task is done: tasks
    that have one aren't called again, so that a killed run goes on where it stopped.
    What tasks hand on to each other are files too, never Beam's own shuffle, which a
    local runner holds in memory.

    Args:
        function: callable, importable by name, of one JSON-ready task (dict) to a
            JSON-ready result. What it writes must be atomic and may be repeated.
        tasks: list of dict, all different.
        folder: str or `pathlib.Path` for the results, on a disk that all workers see.
        runner: str, the name of a Beam runner; the local one takes as many processes
            as the machine has cores.
        options: sequence of str, further options of that runner, such as
            `"--direct_num_workers=1"`.

    Returns:
        list of results, in the order of `tasks`.

    Raises:
        InputError: if apache-beam isn't installed, the runner is unknown, or a task
            raised one; the other tasks' results are kept.
        OSError: if a disk is full.

    Example:

    >>> import tempfile
    >>> from align_keras.corpus.workers import run_tasks
    >>> run_tasks(len, [{"part": 1}, {}], tempfile.mkdtemp())  # doctest: +SKIP
    [1, 0]
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = [_result_path(folder, task) for task in tasks]
    left = [
        (task, str(path))
        for task, path in zip(tasks, results, strict=True)
        if not path.exists()
    ]
    if left:
        _run(function, left, folder / _LOG, runner, list(options))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    for result in found:
        if "error" in result:
            for path in results:
                if "error" in json.loads(path.read_text(encoding="utf-8")):
                    path.unlink()
            raise InputError(result["error"])
    return [result["value"] for result in found]


def _run(function, left, log, runner, options):
    try:
        with _workers_log(log):
            _run_pipeline(function, left, runner, options)
    except ImportError:
        raise InputError(
            "the corpus pipeline runs on apache-beam, which isn't installed; run "
            '`pip install "align-keras[corpus]"`.'
        ) from None
    except InputError:
        raise
    except Exception as error:
        if "No space left on device" in str(error):
            where = str(log.parent)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where) from None
        raise


def _run_pipeline(function, left, runner, options):
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    try:
        create_runner(runner)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"--runner must be a runner of Apache Beam, received {runner!r} "
            f"({str(error).splitlines()[0]}); DirectRunner takes this machine."
        ) from None
    given = PipelineOptions([*_defaults(runner, len(left), options), *options])
    with beam.Pipeline(runner=runner, options=given) as pipeline:
        _ = (
            pipeline
            | beam.Create(left, reshuffle=True)
            | beam.Map(_call, function=function)
        )


@contextlib.contextmanager
def _workers_log(path):
    """Sends what Beam and its processes say into a file; this one's `say` stays."""
    own = sys.stderr
    own.flush()
    saved = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        if own is sys.__stderr__:
            sys.stderr = open(saved, "w", closefd=False, buffering=1)
        yield
    finally:
        sys.stderr = own
        logging.disable(disabled)
        os.dup2(saved, 2)
        os.close(saved)


def _call(task_and_path, function):
    task, path = task_and_path
    try:
        result = {"value": function(task)}
    except InputError as error:
        # Told by the process that the user started, without a traceback.
        result = {"error": str(error)}
    with atomic_write(path) as file:
        json.dump(result, file, ensure_ascii=True, sort_keys=True)


def _result_path(folder, task):
    text = json.dumps(task, ensure_ascii=True, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return folder / f"{name}.json"


def _defaults(runner, tasks, options):
    """Options that the user may overrule: all cores, and no more than the tasks."""
    if runner != LOCAL_RUNNER or any("direct_" in option for option in options):
        return []
    workers = min(len(os.sched_getaffinity(0)), tasks)
    if workers < 2:
        return ["--direct_num_workers=1"]
    return [
        f"--direct_num_workers={workers}",
        "--direct_running_mode=multi_processing",
    ]
