"""Tasks on the workers of Apache Beam, each done once."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import sys

from align_keras.utils.errors import InputError
from align_keras.utils.extras import needs
from align_keras.utils.files import atomic_write

LOCAL_RUNNER = "DirectRunner"
_LOG = "workers.log"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_ONE_PROCESS = "--direct_num_workers=1"
_PROCESSES = ["--direct_running_mode=multi_processing"]
# Of a cluster, which doesn't tell how many it has or will start.
_WORKERS_ELSEWHERE = 16


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
            as the machine has cores, and where that is one, no Beam.
        options: sequence of str, further options of that runner, such as
            `"--direct_num_workers=1"`.

    Returns:
        list of results, in the order of `tasks`.

    Raises:
        InputError: if apache-beam isn't installed and there are several workers, the
            runner is unknown, or a task raised one; the other tasks' results are kept.
        OSError: if a disk is full.

    Example:

    ```python
    import tempfile
    from align_keras.corpus.workers import run_tasks
    run_tasks(len, [{"part": 1}, {}], tempfile.mkdtemp())  # [1, 0]
    ```
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = [_result_path(folder, task) for task in tasks]
    left = [
        (task, str(path))
        for task, path in zip(tasks, results, strict=True)
        # A task that told of a mistake is tried again, when that is mended.
        if "value" not in _read(path)
    ]
    if left:
        _run(function, left, folder / _LOG, runner, list(options))
    found = [_read(path) for path in results]
    for result in found:
        if "error" in result:
            raise InputError(result["error"])
    return [result["value"] for result in found]


def worker_count(runner=LOCAL_RUNNER, options=()):
    """Returns into how many tasks work is cut of which each task costs something.

    Args:
        runner: str, as `run_tasks`.
        options: sequence of str, as `run_tasks`.

    Returns:
        int: the local runner's processes; 16 of a cluster.

    Raises:
        InputError: if the local runner's options can't be read.
    """
    if runner != LOCAL_RUNNER:
        return _WORKERS_ELSEWHERE
    options = list(options)
    if options == [_ONE_PROCESS]:
        return 1
    try:
        from apache_beam.options.pipeline_options import DirectOptions

        given = _options([*_defaults(runner, _cores(), options), *options])
    except ImportError:
        return 1
    return given.view_as(DirectOptions).direct_num_workers or _cores()


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _run(function, left, log, runner, options):
    options = [*_defaults(runner, len(left), options), *options]
    try:
        if runner == LOCAL_RUNNER and options == [_ONE_PROCESS]:
            with _workers_log(log):
                for task_and_path in left:
                    _call(task_and_path, function)
            return
        with (
            needs("corpus", "several workers run on apache-beam"),
            _workers_log(log),
        ):
            _run_pipeline(function, left, runner, options)
    except InputError:
        raise
    except Exception as error:
        if "KeyboardInterrupt [while running" in str(error):  # Beam made text of it.
            raise KeyboardInterrupt from None
        said = f"{type(error).__name__}: {error}"
        known = _system_error(said, str(log.parent))
        if known is None:
            raise
        raise known from None


def _system_error(text, where):
    """Returns the OSError of a disk that Beam made text of; None for others."""
    found = re.search(r"OSError: \[Errno (\d+)\]", text)
    if found is None or int(found[1]) not in _DISK:
        return None
    return OSError(int(found[1]), os.strerror(int(found[1])), where)


def _run_pipeline(function, left, runner, options):
    import apache_beam as beam

    from align_keras.corpus.local_workers import run_locally

    def fill(pipeline):
        tasks = pipeline | beam.Create(left, reshuffle=True)
        _ = tasks | beam.Map(_call, function=function)

    own = _runner(runner)
    given = _options(options)
    if runner == LOCAL_RUNNER:
        run_locally(fill, given)
        return
    with beam.Pipeline(runner=own, options=given) as pipeline:
        fill(pipeline)


def _runner(name):
    from apache_beam.runners.runner import create_runner

    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(
            f"--runner must be a runner of Apache Beam, received {name!r} "
            f"({str(error).splitlines()[0]}); {LOCAL_RUNNER} takes this machine."
        ) from None


def _options(words):
    """Parses options by Beam, which ends the process over those that it can't read."""
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(words)
            options.get_all_options()
            return options
    except SystemExit:
        raise InputError(
            "--runner_option must be an option of the runner, received "
            f"{' '.join(words)!r} ({said.getvalue().strip().splitlines()[-1]})."
        ) from None


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
    stream = _Stderr(saved)
    try:
        if own is sys.__stderr__:
            sys.stderr = stream
        yield
    finally:
        sys.stderr = own
        logging.disable(disabled)
        os.dup2(saved, 2)
        os.close(saved)
        stream.descriptor = 2


class _Stderr(io.TextIOBase):
    """Stderr under another number for a while; what is imported then may keep it."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def fileno(self):
        return self.descriptor

    def isatty(self):
        return os.isatty(self.descriptor)

    def write(self, text):
        os.write(self.descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)


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
    if runner != LOCAL_RUNNER or any("direct_running_mode" in own for own in options):
        return []
    given = [own for own in options if "direct_num_workers" in own]
    if given:
        return _PROCESSES if not given[-1].endswith("=1") else []
    workers = min(_cores(), tasks)
    return [f"--direct_num_workers={workers}", *(_PROCESSES if workers > 1 else [])]


def _cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
