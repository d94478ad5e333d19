"""Tasks whose results are stored, run in local processes or on a cluster."""

import hashlib
import importlib
import json
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

from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_write
from align_keras.utils.quiet import silence_tensorflow, silent_standard_error

LOCAL = "local"
ENGINES = (LOCAL, "dask:HOST:PORT", "ray:HOST:PORT", "spark:MASTER")
ENGINE_HELP = (
    "where tasks run: local, or a cluster that sees the same disk, dask:HOST:PORT, "
    "ray:HOST:PORT or spark:spark://HOST:PORT (default: local)"
)
_LOG = "workers.log"
_SECONDS_BETWEEN_LOOKS = 0.2
# Seconds. Timeouts of the scheduler's answer, of its first worker, and of one wait for
# a result of Ray.
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 60
_LOOK_SECONDS = 10
# Seconds. A process needs this time to connect to Ray on a loaded machine.
RAY_START_TIMEOUT = 120
# Number of times that a task is started if its worker ends.
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
    """One task as it is sent to a cluster.

    It is a plain dict, so that a worker without this package can read it.
    """

    versions: dict[str, str]
    function: str
    task: _Task
    path: str


# The result of a task on a cluster: None if it is stored, the exception that the task
# raised, or the reason why its worker ended.
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

    The result of a task is stored in a file that is named after the digest of the task,
    so that a killed run continues where it stopped.

    Args:
        function: callable that can be imported by its name. It takes a JSON object and
            returns JSON. It may be called again with the same task, so it must write
            its files atomically.
        tasks: list of JSON objects.
        folder: path of the results. All machines of a cluster must see it under this
            path.
        workers: int, number of processes of this machine, by default the number of
            cores. With 1, the tasks run in this process.
        engine: str, one of `ENGINES`. A cluster finishes all other tasks before the
            error of a task is raised.
        on_result: callable that gets the value of each task that this machine has
            finished. It is not called for the tasks of a cluster.

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
        # A task that failed with an `InputError` runs again.
        if "value" not in (_read(path) or {})
    ]
    processes = min(process_count(workers), len(open_tasks))
    if is_cluster(engine):
        if workers is not None:
            raise InputError(
                f"workers must be left out with engine {engine}, whose workers count, "
                f"received {workers}; leave it out."
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
                f"the folder of tasks must be on a disk that all machines of {engine} "
                f"share, a worker wrote {path}, which isn't here; choose another."
            )
        if "error" in result:
            raise InputError(result["error"])
        values.append(result["value"])
    return values


def process_count(workers: int | None = None) -> int:
    """Returns the number of processes, by default that of the machine's cores."""
    if workers is not None:
        return workers
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def is_cluster(engine: str) -> bool:
    """Returns True if an engine is a cluster. Raises unless it is one of `ENGINES`."""
    kind, _, address = engine.partition(":")
    if engine == LOCAL:
        return False
    if kind not in _ADDRESSES:
        is_runtime = kind.startswith("openvino") or kind.endswith(".tflite")
        remedy = "write `--runtime` for what embeds" if is_runtime else "choose one"
        raise InputError(
            f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, received "
            f"{engine!r}; {remedy}."
        )
    ports = [int(port) for port in re.findall(r":(\d+)(?=$|,)", address)]
    if not re.fullmatch(_ADDRESSES[kind], address) or max(ports, default=0) > 65535:
        example = {"dask": "HOST:8786", "ray": "HOST:6379"}
        usual = f"{kind}:{example.get(kind, 'spark://HOST:7077')}"
        raise InputError(
            f"engine must name where {kind} is, received {engine!r}; write for "
            f"instance {usual}."
        )
    return True


def check_same(path: str, actual: str, expected: str, name: str = "model") -> None:
    """Raises on a worker whose model has another fingerprint than the task expects."""
    if actual != expected:
        raise InputError(
            f"{name} must be the same on all machines, {path} is another on "
            f"{socket.gethostname()}; copy it there."
        )


# === This machine ===


def _run_in_processes(
    function: _Function,
    open_tasks: list[tuple[_Task, pathlib.Path]],
    processes: int,
    on_result: Callable[[Any], Any],
) -> None:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # joblib keeps the processes for the next tasks. They end with this process.
    parallel = joblib.Parallel(
        processes,
        batch_size=1,
        return_as="generator_unordered",
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    try:
        call = joblib.delayed(_call)
        for value in parallel(call(function, task, path) for task, path in open_tasks):
            on_result(value)
    except TerminatedWorkerError as error:
        raise ChildProcessError(
            f"a worker process was killed ({str(error).splitlines()[-2]}), as systems "
            "do when memory runs out; run again, with --workers 1 if it was that: the "
            "tasks that are done aren't repeated"
        ) from None


def _end_with(parent: int) -> None:
    """Ends this process when the process `parent` has ended."""
    silence_tensorflow()
    # Ctrl-C reaches all processes of a terminal. The parent handles it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        # No result is lost, since the file of a result is renamed when it is complete.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: _Function, task: _Task, path: pathlib.Path) -> Any:
    with silent_standard_error(path.parent / _LOG):
        return _write_result(function, task, path)


def _write_result(function: _Function, task: _Task, path: pathlib.Path) -> Any:
    """Stores the result of a task and returns its value, or None after an InputError.

    The process that the user started raises the stored `InputError` again.
    """
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
# joblib's backends for clusters are not used: with Dask they don't report which task
# ended its worker, with Ray they don't start such a task again, and with Spark each
# task is a job. A task is sent as the name of its function and JSON. An exception comes
# back as a value, since clusters would repeat a task that raises: their retries are for
# lost workers.


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
    with needs(kind, f"engine {engine} takes the package {kind}"):
        with silent_standard_error(folder / _LOG):  # Clients log much.
            outcomes = run(calls, address)
    for (task, _), outcome in zip(open_tasks, outcomes, strict=True):
        if isinstance(outcome, str):
            raise ChildProcessError(
                f"workers of {engine} ended {_ATTEMPTS} times in "
                f"{_task_title(function, task)} ({outcome:.200}), as systems do "
                "when memory runs out; run again: the tasks that are done aren't "
                "repeated"
            )
        if outcome is not None:
            raise outcome


def _check_answers(engine: str, address: str) -> None:
    """Raises unless a server listens at one of the hosts and ports of an engine."""
    reasons = []
    for server in re.findall(_HOST_AND_PORT, address):
        host, port = server.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), port), _CONNECT_SECONDS).close()
            return
        except OSError as error:
            reasons.append(error.strerror or str(error))
    if reasons:
        raise _no_answer(engine, reasons[0])


def _no_answer(engine: str, reason: str | Exception) -> InputError:
    text = " ".join(str(reason).split()).rstrip(".")
    return InputError(
        f"engine must be a cluster that answers, received {engine} ({text:.200}); "
        "start it, or check the address: the tasks that are done aren't repeated."
    )


def _versions() -> dict[str, str]:
    """Returns the versions that must be the same on all machines."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"align-keras": _version(), "Python": python}


def _version() -> str:
    # A module may not import align_keras itself, which imports all packages.
    return sys.modules[__name__.partition(".")[0]].__version__


def _work(call: _Call) -> Exception | None:
    """Does a task on a cluster. Returns None, or the exception that it raised."""
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
    worker_versions = _versions()
    host = socket.gethostname()
    for package, version in versions.items():
        if worker_versions[package] != version:
            raise InputError(
                f"engine must have workers with {package} {version} as here, the one "
                f"on {host} has {worker_versions[package]}; install the same version "
                "there."
            )
    if not folder.is_dir():
        raise InputError(
            f"the folder of tasks must be on a disk that all machines share, {host} "
            f"has no {folder}; choose another, or mount it there."
        )


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be pickled, with its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
        return error.with_traceback(None)
    except Exception:  # Exceptions of libraries may raise any error here.
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            plain.add_note(note)
        return plain


def _dask_function() -> Callable[[_Call], Exception | None]:
    """Returns the function that Dask's workers call with a task.

    Dask sends a local function by its code, and other functions by their name. A worker
    that can't import a function by its name never answers, and the client waits
    without end. A worker without this package raises `ImportError` in this function.
    """
    module = __name__

    def work(call: Any) -> Any:
        import importlib  # The globals of this module are not sent.

        return importlib.import_module(module)._work(call)

    return work


def _run_on_dask(calls: list[_Call], address: str) -> list[_Outcome]:
    import distributed

    engine = f"dask:{address}"
    # Raised if a scheduler was restarted, since the new one doesn't know the tasks.
    lost = (distributed.client.FutureCancelledError, distributed.comm.CommClosedError)
    try:
        client = distributed.Client(
            f"tcp://{address}", timeout=_CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise _no_answer(engine, error) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError:
            raise _no_answer(engine, "it has no workers") from None
        futures = client.map(_dask_function(), calls, pure=False)
        outcomes: list[_Outcome] = []
        for future in futures:
            try:
                outcomes.append(future.result())
            except distributed.KilledWorker:
                outcomes.append("killed")
            except lost as error:
                raise _no_answer(engine, error) from None
            except Exception as error:
                outcomes.append(_worker_error(engine, error))
        return outcomes


def _worker_error(engine: str, error: Exception) -> Exception:
    """Returns the error of a worker that could not start a task."""
    if isinstance(error, ImportError):
        return InputError(
            f"engine must have workers with align-keras {_version()}, one of {engine} "
            f"hasn't ({error}); install it there."
        )
    return error


# Address → process that is Ray's client there. It is kept for the next tasks.
_ray_clients: dict[str, Any] = {}


def _run_on_ray(calls: list[_Call], address: str) -> list[_Outcome]:
    """Runs tasks on a Ray cluster, with Ray's client in a separate process.

    Ray ends the process of its client without a message if the node is lost, and waits
    without end at an address where another program listens.
    """
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
            raise _no_answer(f"ray:{address}", "its head was lost") from None
        if isinstance(error, TimeoutError):
            raise _no_answer(f"ray:{address}", "it isn't Ray") from None
        raise
    _ray_clients[address] = client
    return outcomes


def _connect_to_ray(address: str) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_answer(f"ray:{address}", error) from None


def _ray_outcomes(calls: list[_Call], address: str) -> list[_Outcome]:
    """Runs tasks in the process of Ray's client, which prints to the log file."""
    import ray

    engine = f"ray:{address}"
    work = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1)(_work)
    outcomes: list[_Outcome] = []
    with silent_standard_error(pathlib.Path(calls[0]["path"]).parent / _LOG):
        for reference in [work.remote(call) for call in calls]:
            # A head that was restarted never answers for tasks that it doesn't know.
            while not ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
                _check_answers(engine, address)
                node = ray.get_runtime_context().get_node_id()
                alive = {row["NodeID"] for row in ray.nodes() if row["Alive"]}
                if node not in alive:
                    raise _no_answer(engine, "its head was lost")
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
        # The context is kept for the next tasks. It ends with this process.
        context = pyspark.SparkContext.getOrCreate(config.setAll(settings.items()))
    except pyspark.errors.PySparkRuntimeError as error:
        raise InputError(
            f"engine {engine} must find Java, received {error}; install a JRE of "
            "version 17, such as Debian's openjdk-17-jre-headless."
        ) from None
    except Exception as error:
        raise _no_answer(engine, error) from None
    try:
        return context.parallelize(calls, len(calls)).map(_work).collect()
    except Exception as error:  # Py4J raises its own, with the Python error as text.
        text = str(error)
        lost = re.search(r"Task (\d+) in stage \S+ failed \d+ times", text)
        if lost is None:
            raise _no_answer(engine, text) from None
        if "ModuleNotFoundError" in text or "ImportError" in text:
            raise _worker_error(engine, ImportError("no module align_keras")) from None
        outcomes: list[_Outcome] = [None] * len(calls)
        outcomes[int(lost[1])] = lost[0]
        return outcomes
