"""Execution of tasks with stored results in local processes or on a cluster."""

import hashlib
import importlib
import json
import logging
import os
import pathlib
import pickle
import platform
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypedDict

from align_keras.utils.addresses import known_queries, remember_queries
from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_write
from align_keras.utils.quiet import silence_tensorflow, silent_standard_error
from align_keras.utils.version import package_version

LOCAL = "local"
ENGINES = (LOCAL, "dask:HOST:PORT", "ray:HOST:PORT", "spark:MASTER")
ENGINE_HELP = (
    "engine that runs the tasks: local, or a cluster with access to the same files, "
    "dask:HOST:PORT, ray:HOST:PORT or spark:spark://HOST:PORT (default: local)"
)
_LOG = "workers.log"
# Seconds between two checks of the parent process.
_PARENT_CHECK_INTERVAL = 0.2
# Timeouts in seconds for the connection to a scheduler, for its first worker, and for
# one wait for a result from Ray.
_CONNECT_TIMEOUT = 10
_FIRST_WORKER_TIMEOUT = 60
_RAY_WAIT_TIMEOUT = 10
# Timeout in seconds for the connection to Ray, which is slow on a loaded machine.
RAY_START_TIMEOUT = 120
# Maximum number of times that a task is started if its worker ends.
_ATTEMPTS = 4
_HOST_AND_PORT = r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
_ADDRESSES = {
    "dask": _HOST_AND_PORT,
    "ray": _HOST_AND_PORT,
    "spark": rf"spark://{_HOST_AND_PORT}(?:,{_HOST_AND_PORT})*"
    r"|local\[(?:\d+|\*)\]|yarn|k8s://\S+",
}
_Task = dict[str, Any]
_Function = Callable[[Any], Any]


class _Call(TypedDict):
    """Message to a worker of a cluster with one task.

    It is a plain dict, so that a worker without this package can unpickle it.
    """

    versions: dict[str, str]
    function: str
    task: _Task
    path: str


# Outcome of a task on a cluster: None if the result is stored, the exception that the
# task raised, or a str with the reason why its worker ended.
_Outcome = Exception | str | None


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
            With 1, the tasks run in this process.
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
        if workers is not None:
            raise InputError(
                f"workers must be None with engine {engine}, because the cluster "
                f"determines the number of its workers. Received: workers={workers}. "
                "Leave it out."
            )
        if open_tasks:
            _run_on_cluster(function, open_tasks, folder.absolute(), engine)
    elif processes > 1:
        _run_in_processes(function, open_tasks, processes, on_result)
    else:
        for task, path in open_tasks:
            on_result(_call(function, task, path))
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
    if kind not in _ADDRESSES:
        raise InputError(
            f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}. Received: "
            f"engine={engine!r}. Choose one of them."
        )
    ports = [int(port) for port in re.findall(r":(\d+)(?=$|,)", address)]
    if not re.fullmatch(_ADDRESSES[kind], address) or max(ports, default=0) > 65535:
        usual_addresses = {"dask": "HOST:8786", "ray": "HOST:6379"}
        example = f"{kind}:{usual_addresses.get(kind, 'spark://HOST:7077')}"
        raise InputError(
            f"engine must contain the address of {kind}. Received: engine={engine!r}. "
            f"Write, for example, {example}."
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
        raise InputError(
            f"{name} must be the same on all machines. {path} differs on "
            f"{socket.gethostname()}. Copy it to that machine."
        )


# === Local processes ===


def _run_in_processes(
    function: _Function,
    open_tasks: list[tuple[_Task, pathlib.Path]],
    processes: int,
    on_result: Callable[[Any], Any],
) -> None:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # joblib uses the processes again for the next tasks. `_end_with` ends the processes
    # when this process ends.
    parallel = joblib.Parallel(
        processes,
        batch_size=1,
        return_as="generator_unordered",
        initializer=_start_worker,
        initargs=(os.getpid(), known_queries()),
    )
    try:
        call = joblib.delayed(_call)
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
    _end_with(parent)


def _end_with(parent: int) -> None:
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


def _call(function: _Function, task: _Task, path: pathlib.Path) -> Any:
    with silent_standard_error(path.parent / _LOG):
        return _write_result(function, task, path)


def _write_result(function: _Function, task: _Task, path: pathlib.Path) -> Any:
    """Runs a task, stores its result, and returns its value."""
    # An `InputError` of the task is stored too. `run_tasks` raises it in the process
    # that the user started.
    result: dict[str, Any]
    try:
        result = {"value": function(task)}
    except InputError as error:
        result = {"error": str(error)}
    except Exception as error:
        error.add_note(f"in {_task_title(function, task)}")
        raise
    with atomic_write(path) as file:
        json.dump(result, file, ensure_ascii=True, sort_keys=True)
    return result.get("value")


def _task_title(function: _Function, task: _Task) -> str:
    """Returns a description of a task for messages, shortened to 300 characters."""
    text = json.dumps(task, ensure_ascii=False)
    if len(text) > 300:
        text = text[:300] + "…"
    return f"the task {function.__name__} {text}"


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _result_path(folder: pathlib.Path, task: _Task) -> pathlib.Path:
    text = json.dumps(task, ensure_ascii=True, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return folder / f"{name}.json"


# === Clusters ===
#
# The cluster backends of joblib are not used for three reasons. With Dask, they don't
# report the task that ended its worker. With Ray, they don't start such a task again.
# With Spark, each task is a separate job.
#
# A task is sent as the name of its function and a JSON object. Workers return an
# exception as a value, because a cluster repeats a task that raises. The retries of the
# cluster are needed for lost workers only.


def _run_on_cluster(
    function: _Function,
    open_tasks: list[tuple[_Task, pathlib.Path]],
    folder: pathlib.Path,
    engine: str,
) -> None:
    kind, _, address = engine.partition(":")
    _check_answers(engine, address)
    name = f"{function.__module__}:{function.__qualname__}"
    calls = [
        _Call(
            versions=_versions(),
            function=name,
            task=task,
            path=str(folder / path.name),
        )
        for task, path in open_tasks
    ]
    run = {"dask": _run_on_dask, "ray": _run_on_ray, "spark": _run_on_spark}[kind]
    with needs(kind, f"engine {engine} needs the package {kind}"):
        # The clients print many log lines on standard error.
        with silent_standard_error(folder / _LOG):
            outcomes = run(calls, address)
    for (task, _), outcome in zip(open_tasks, outcomes, strict=True):
        if isinstance(outcome, str):
            raise ChildProcessError(
                f"Workers of {engine} ended {_ATTEMPTS} times in "
                f"{_task_title(function, task)} ({outcome:.200}), probably because the "
                "memory was full. Run the command again. Finished tasks are not "
                "repeated."
            )
        if outcome is not None:
            raise outcome


def _check_answers(engine: str, address: str) -> None:
    """Raises `InputError` if no server listens at the addresses of an engine."""
    reasons = []
    for server in re.findall(_HOST_AND_PORT, address):
        host, port = server.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), port), _CONNECT_TIMEOUT).close()
            return
        except OSError as error:
            reasons.append(error.strerror or str(error))
    if reasons:
        raise _connection_error(engine, reasons[0])


def _connection_error(engine: str, reason: str | Exception) -> InputError:
    """Returns the error for a cluster that doesn't respond."""
    text = " ".join(str(reason).split()).rstrip(".")
    return InputError(
        f"engine must be a running cluster. Cannot connect to {engine} ({text:.200}). "
        "Start the cluster or check the address. Finished tasks are not repeated."
    )


def _versions() -> dict[str, str]:
    """Returns the versions that must be the same on all machines."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"align-keras": package_version(), "Python": python}


def _work(call: _Call) -> Exception | None:
    """Runs a task on a worker of a cluster. Returns its exception or None."""
    try:
        path = pathlib.Path(call["path"])
        _check_worker(call["versions"], path.parent)
        module, _, attribute = call["function"].partition(":")
        function = getattr(importlib.import_module(module), attribute)
        _write_result(function, call["task"], path)
    except Exception as error:
        return _portable(error)
    return None


def _check_worker(versions: dict[str, str], folder: pathlib.Path) -> None:
    """Raises InputError if packages differ on a worker or the folder is missing."""
    worker_versions = _versions()
    host = socket.gethostname()
    for package, version in versions.items():
        if worker_versions[package] != version:
            raise InputError(
                f"engine must have workers with {package} {version}, as on this "
                f"machine. The worker on {host} has {worker_versions[package]}. "
                "Install the same version there."
            )
    if not folder.is_dir():
        raise InputError(
            "The task folder must be on a disk that all machines share. The folder "
            f"{folder} doesn't exist on {host}. Choose another folder, or mount the "
            "disk on this machine."
        )


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be pickled and has its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
        return error.with_traceback(None)
    except Exception:  # Pickling an exception of a library may raise any error.
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            plain.add_note(note)
        return plain


def _dask_function() -> Callable[[_Call], Exception | None]:
    """Returns the function that a Dask worker calls with a task."""
    # Dask sends a local function as code and a global function as its name. If a worker
    # can't import a function by its name, it never answers and the client waits
    # forever. This local function raises `ImportError` on a worker without this package
    # instead.
    module = __name__

    def work(call: Any) -> Any:
        # The import is local, because Dask doesn't send module globals.
        import importlib

        return importlib.import_module(module)._work(call)

    return work


def _run_on_dask(calls: list[_Call], address: str) -> list[_Outcome]:
    import distributed

    engine = f"dask:{address}"
    # These errors are raised if the scheduler was restarted and has lost the tasks.
    restart_errors = (
        distributed.client.FutureCancelledError,
        distributed.comm.CommClosedError,
    )
    try:
        client = distributed.Client(
            f"tcp://{address}", timeout=_CONNECT_TIMEOUT, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise _connection_error(engine, error) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER_TIMEOUT)
        except TimeoutError:
            raise _connection_error(engine, "the cluster has no workers") from None
        futures = client.map(_dask_function(), calls, pure=False)
        outcomes: list[_Outcome] = []
        for future in futures:
            try:
                outcomes.append(future.result())
            except distributed.KilledWorker:
                outcomes.append("killed")
            except restart_errors as error:
                raise _connection_error(engine, error) from None
            except Exception as error:
                outcomes.append(_worker_error(engine, error))
        return outcomes


def _worker_error(engine: str, error: Exception) -> Exception:
    """Returns the error to raise for a worker that could not start a task."""
    if isinstance(error, ImportError):
        return InputError(
            f"engine must have workers with align-keras {package_version()}. A worker "
            f"of {engine} doesn't have it ({error}). Install it there."
        )
    return error


# Processes with a Ray client, by the address of the cluster. The next tasks use the
# same processes.
_ray_clients: dict[str, Any] = {}


def _run_on_ray(calls: list[_Call], address: str) -> list[_Outcome]:
    """Runs tasks on a Ray cluster with the Ray client in a separate process."""
    # Ray ends the process of its client without a message if the head node is lost. It
    # also waits forever if another program listens at the address.
    from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

    client = _ray_clients.pop(address, None)
    if client is None:
        client = ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),))
    try:
        client.submit(_connect_to_ray, address).result(RAY_START_TIMEOUT)
        outcomes = client.submit(_ray_outcomes, calls, address).result()
    except BaseException as error:
        client.shutdown(wait=False, kill_workers=True)
        if isinstance(error, BrokenProcessPool):
            reason = "the head node was lost"
            raise _connection_error(f"ray:{address}", reason) from None
        if isinstance(error, TimeoutError):
            reason = "the server at this address isn't Ray"
            raise _connection_error(f"ray:{address}", reason) from None
        raise
    _ray_clients[address] = client
    return outcomes


def _connect_to_ray(address: str) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _connection_error(f"ray:{address}", error) from None


def _ray_outcomes(calls: list[_Call], address: str) -> list[_Outcome]:
    """Runs tasks in the process of the Ray client, which prints to the log file."""
    import ray

    engine = f"ray:{address}"
    work = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1)(_work)
    outcomes: list[_Outcome] = []
    with silent_standard_error(pathlib.Path(calls[0]["path"]).parent / _LOG):
        for reference in [work.remote(call) for call in calls]:
            # A restarted head node never returns the tasks of its predecessor.
            while not ray.wait([reference], timeout=_RAY_WAIT_TIMEOUT)[0]:
                _check_answers(engine, address)
                node = ray.get_runtime_context().get_node_id()
                alive_nodes = {row["NodeID"] for row in ray.nodes() if row["Alive"]}
                if node not in alive_nodes:
                    raise _connection_error(engine, "the head node was lost")
            try:
                outcomes.append(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                outcomes.append(_worker_error(engine, error.cause))
            except ray.exceptions.RayError as error:
                outcomes.append(str(error).partition("\n")[0])
    return outcomes


def _run_on_spark(calls: list[_Call], address: str) -> list[_Outcome]:
    import pyspark

    engine = f"spark:{address}"
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.task.maxFailures": str(_ATTEMPTS),
    }
    config = pyspark.SparkConf().setMaster(address).setAppName("align-keras")
    try:
        # The context is used again for the next tasks. It ends with this process.
        context = pyspark.SparkContext.getOrCreate(
            config.setAll(list(settings.items()))
        )
    except pyspark.errors.PySparkRuntimeError as error:
        raise InputError(
            f"engine {engine} needs Java. Spark reported: {error}. Install a JRE of "
            "version 17, such as the Debian package openjdk-17-jre-headless."
        ) from None
    except Exception as error:
        raise _connection_error(engine, error) from None
    try:
        return list(context.parallelize(calls, len(calls)).map(_work).collect())
    except Exception as error:  # Py4J raises an error with the Python error as text.
        text = str(error)
        failure = re.search(r"Task (\d+) in stage \S+ failed \d+ times", text)
        if failure is None:
            raise _connection_error(engine, text) from None
        if "ModuleNotFoundError" in text or "ImportError" in text:
            raise _worker_error(engine, ImportError("no module align_keras")) from None
        outcomes: list[_Outcome] = [None] * len(calls)
        outcomes[int(failure[1])] = failure[0]
        return outcomes
