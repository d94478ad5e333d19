"""Execution of tasks on clusters of Dask, Ray and Spark.

The cluster backends of joblib are not used for three reasons. With Dask, they don't
report the task that ended its worker. With Ray, they don't start such a task again.
With Spark, each task is a separate job.

A task is sent as the name of its function and a JSON object. Workers return an
exception as a value, because a cluster repeats a task that raises. The retries of the
cluster are needed for lost workers only.
"""

import importlib
import logging
import os
import pathlib
import pickle
import platform
import re
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypedDict

from align_keras.utils.addresses import HOST_AND_PORT
from align_keras.utils.errors import InputError, needs
from align_keras.utils.quiet import silent_standard_error
from align_keras.utils.task_worker import (
    LOG,
    Function,
    Task,
    end_with,
    task_title,
    write_result,
)
from align_keras.utils.version import package_version

# Timeouts in seconds for the connection to a scheduler, for its first worker, and for
# one wait for a result from Ray.
_CONNECT_TIMEOUT = 10
_FIRST_WORKER_TIMEOUT = 60
_RAY_WAIT_TIMEOUT = 10
# Timeout in seconds for the connection to Ray, which is slow on a loaded machine.
RAY_START_TIMEOUT = 120
# Maximum number of times that a task is started if its worker ends.
_ATTEMPTS = 4


class _Call(TypedDict):
    """Message to a worker of a cluster with one task.

    It is a plain dict, so that a worker without this package can unpickle it.
    """

    versions: dict[str, str]
    function: str
    task: Task
    path: str


# Outcome of a task on a cluster: None if the result is stored, the exception that the
# task raised, or a str with the reason why its worker ended.
_Outcome = Exception | str | None


def run_on_cluster(
    function: Function,
    open_tasks: list[tuple[Task, pathlib.Path]],
    folder: pathlib.Path,
    engine: str,
) -> None:
    """Runs tasks on a cluster, whose workers store the results in `folder`."""
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
        with silent_standard_error(folder / LOG):
            outcomes = run(calls, address)
    for (task, _), outcome in zip(open_tasks, outcomes, strict=True):
        if isinstance(outcome, str):
            raise ChildProcessError(
                f"Workers of {engine} ended {_ATTEMPTS} times in "
                f"{task_title(function, task)} ({outcome:.200}), probably because the "
                "memory was full. Run the command again. Finished tasks are not "
                "repeated."
            )
        if outcome is not None:
            raise outcome


def _check_answers(engine: str, address: str) -> None:
    """Raises `InputError` if no server listens at the addresses of an engine."""
    reasons = []
    for server in re.findall(HOST_AND_PORT, address):
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
        write_result(function, call["task"], path)
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
        client = ProcessPoolExecutor(1, initializer=end_with, initargs=(os.getpid(),))
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
    with silent_standard_error(pathlib.Path(calls[0]["path"]).parent / LOG):
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
