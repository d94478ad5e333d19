"""Work that is done once: tasks in processes of this machine, or of a cluster."""

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
from typing import Any

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
# How long a scheduler may take to answer, and its first worker to come.
_CONNECT_SECONDS, _WORKER_SECONDS, _LOOK_SECONDS = 10, 60, 10
# Until a process has become Ray's client, on a loaded machine.
_BEGIN_SECONDS = 120
# How often a task is begun that ends its worker.
_ATTEMPTS = 4
_PLACE = r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
_ADDRESSES = {
    "dask": _PLACE,
    "ray": _PLACE,
    "spark": rf"spark://{_PLACE}(?:,{_PLACE})*|local\[(?:\d+|\*)\]|yarn|k8s://\S+",
}


def run_tasks(
    function: Callable,
    tasks: list[dict],
    folder: str | os.PathLike,
    *,
    workers: int | None = None,
    engine: str = LOCAL,
    told: Callable[[Any], Any] = lambda value: None,
) -> list:
    """Calls a function once a task, in several processes; returns the results in order.

    A task's result is a file under its digest, so that a killed run goes on where it
    stopped. The function is importable by name and takes JSON to JSON; what it writes
    must be atomic and may be repeated. By default there are as many processes as cores;
    with one, tasks run here. A worker that was killed raises `ChildProcessError`.

    `engine` is one of `ENGINES`; a cluster sees `folder` by the same path. There all
    other tasks are done before one that fails is told. `told` is called with the value
    of each task when a process of this machine has done it.
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
    processes = min(worker_count(workers), len(left))
    if is_cluster(engine):
        if workers is not None:
            raise InputError(
                f"workers must be left out with engine {engine}, whose workers count, "
                f"received {workers}; leave it out."
            )
        if left:
            _run_on_cluster(function, left, folder.absolute(), engine)
    elif processes > 1:
        _run_in_processes(function, left, processes, told)
    else:
        for task, path in left:
            told(_call(function, task, path))
    found = [_read(path) for path in results]
    for result, path in zip(found, results, strict=True):
        if result is None:
            raise InputError(
                f"the folder of tasks must be on a disk that all machines of {engine} "
                f"share, a worker wrote {path}, which isn't here; choose another."
            )
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


def is_cluster(engine: str) -> bool:
    """Whether an engine is a cluster; raises if it is none of `ENGINES`."""
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


def check_same(path: str, found: str, meant: str, name: str = "model") -> None:
    """Raises on a worker where a model isn't the one that the task means."""
    if found != meant:
        raise InputError(
            f"{name} must be the same on all machines, {path} is another on "
            f"{socket.gethostname()}; copy it there."
        )


# === This machine ===


def _run_in_processes(function, left, processes, told):
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # The processes are kept for the next tasks, and end with this one.
    parallel = joblib.Parallel(
        processes,
        batch_size=1,
        return_as="generator_unordered",
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    try:
        call = joblib.delayed(_call)
        for value in parallel(call(function, *one) for one in left):
            told(value)
    except TerminatedWorkerError as error:
        raise ChildProcessError(
            f"a worker process was killed ({str(error).splitlines()[-2]}), as systems "
            "do when memory runs out; run again, with --workers 1 if it was that: the "
            "tasks that are done aren't repeated"
        ) from None


def _end_with(parent):
    """Has this process end when its parent has gone."""
    silence_tensorflow()
    # Ctrl-C reaches all processes of a terminal; the parent answers it, for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        # Nothing is lost: a task's file has its name when it is whole.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _call(function, task, path):
    with silent_standard_error(path.parent / _LOG):
        return _write_result(function, task, path)


def _write_result(function, task, path):
    """Returns what the function gives, or None after a mistake of the user's."""
    try:
        result = {"value": function(task)}
    except InputError as error:
        # Told by the process that the user started, without a traceback.
        result = {"error": str(error)}
    except Exception as error:
        error.add_note(f"in {_named(function.__name__, task)}")
        raise
    with atomic_write(path) as file:
        json.dump(result, file, ensure_ascii=True, sort_keys=True)
    return result.get("value")


def _named(function, task):
    text = json.dumps(task, ensure_ascii=False)
    return f"the task {function} {text[:300]}{'…' * (len(text) > 300)}"


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _result_path(folder, task):
    text = json.dumps(task, ensure_ascii=True, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return folder / f"{name}.json"


# === Clusters ===
#
# joblib has backends for them, by which a task that ends its worker isn't named (Dask),
# isn't begun again (Ray) or is a job of its own (Spark). What is sent is a name and
# JSON, what comes back is None or an exception: the engines' retries are for workers
# that are lost, not for mistakes, which would be repeated.


def _run_on_cluster(function, left, folder, engine):
    kind, _, address = engine.partition(":")
    _check_answers(engine, address)
    name = f"{function.__module__}:{function.__qualname__}"
    calls = [(_versions(), name, task, str(folder / path.name)) for task, path in left]
    run = {"dask": _run_on_dask, "ray": _run_on_ray, "spark": _run_on_spark}[kind]
    with needs(kind, f"engine {engine} takes the package {kind}"):
        with silent_standard_error(folder / _LOG):  # Clients log much.
            outcomes = run(calls, address)
    for (task, _), outcome in zip(left, outcomes, strict=True):
        if isinstance(outcome, str):
            raise ChildProcessError(
                f"workers of {engine} ended {_ATTEMPTS} times in "
                f"{_named(function.__name__, task)} ({outcome:.200}), as systems do "
                "when memory runs out; run again: the tasks that are done aren't "
                "repeated"
            )
        if outcome is not None:
            raise outcome


def _check_answers(engine, address):
    """Raises unless something listens at one of an engine's places."""
    places = re.findall(_PLACE, address)
    reasons = []
    for host, port in (place.rsplit(":", 1) for place in places):
        try:
            socket.create_connection((host.strip("[]"), port), _CONNECT_SECONDS).close()
            return
        except OSError as error:
            reasons.append(error.strerror or str(error))
    if reasons:
        raise _no_answer(engine, reasons[0])


def _no_answer(engine, reason):
    text = " ".join(str(reason).split()).rstrip(".")
    return InputError(
        f"engine must be a cluster that answers, received {engine} ({text:.200}); "
        "start it, or check the address: the tasks that are done aren't repeated."
    )


def _versions():
    """What must be the same wherever tasks run."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"align-keras": _version(), "Python": python}


def _version():
    # A room may not import the package itself, which imports all.
    return sys.modules[__name__.partition(".")[0]].__version__


def _work(versions, name, task, path):
    """Does a task on a cluster; returns None, or the exception that it raised."""
    try:
        _check_worker(versions, pathlib.Path(path).parent)
        module, _, attribute = name.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        _write_result(function, task, pathlib.Path(path))
    except Exception as error:
        return _portable(error)
    return None


def _check_worker(versions, folder):
    here, host = _versions(), socket.gethostname()
    for what, version in versions.items():
        if here[what] != version:
            raise InputError(
                f"engine must have workers with {what} {version} as here, the one on "
                f"{host} has {here[what]}; install the same version there."
            )
    if not folder.is_dir():
        raise InputError(
            f"the folder of tasks must be on a disk that all machines share, {host} "
            f"has no {folder}; choose another, or mount it there."
        )


def _portable(error):
    """An exception that another process can read, with its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
        return error.with_traceback(None)
    except Exception:  # Whatever a library's exception makes of it.
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            plain.add_note(note)
        return plain


def _run_on_dask(calls, address):
    import distributed

    engine = f"dask:{address}"
    # Of a scheduler that is restarted, which knows nothing of the tasks.
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
        # A worker that can't read what is sent would end, and the tasks wait for ever.
        text = f"__import__({__name__!r}, fromlist=['_work'])._work(*call)"
        sent = [{"call": call} for call in calls]
        futures = client.map(eval, [text] * len(sent), sent, pure=False)
        outcomes = []
        for future in futures:
            try:
                outcomes.append(future.result())
            except distributed.KilledWorker:
                outcomes.append("killed")
            except lost as error:
                raise _no_answer(engine, error) from None
            except Exception as error:
                outcomes.append(_of_worker(engine, error))
        return outcomes


def _of_worker(engine, error):
    """What a worker says that couldn't even begin."""
    if isinstance(error, ImportError):
        return InputError(
            f"engine must have workers with align-keras {_version()}, one of {engine} "
            f"hasn't ({error}); install it there."
        )
    return error


# Address → the process that is Ray's client there, kept for the next tasks.
_ray_clients: dict[str, Any] = {}


def _run_on_ray(calls, address):
    """By a process of its own: Ray ends the one whose node is lost, without a word, and
    lets one wait for ever at an address where something else listens.
    """
    from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

    begin = {"initializer": _end_with, "initargs": (os.getpid(),)}
    client = _ray_clients.pop(address, None) or ProcessPoolExecutor(1, **begin)
    try:
        client.submit(_connect_to_ray, address).result(_BEGIN_SECONDS)
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


def _connect_to_ray(address):
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_answer(f"ray:{address}", error) from None


def _ray_outcomes(calls, address):
    """As `_run_on_ray`, in that process, which says what it says into the log."""
    import ray

    engine = f"ray:{address}"
    work = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1)(_work)
    outcomes = []
    with silent_standard_error(pathlib.Path(calls[0][-1]).parent / _LOG):
        for reference in [work.remote(*call) for call in calls]:
            # A head that was restarted says nothing of the tasks that it doesn't know.
            while not ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
                _check_answers(engine, address)
                node = ray.get_runtime_context().get_node_id()
                if node not in [one["NodeID"] for one in ray.nodes() if one["Alive"]]:
                    raise _no_answer(engine, "its head was lost")
            try:
                outcomes.append(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                outcomes.append(_of_worker(engine, error.cause))
            except ray.exceptions.RayError as error:
                outcomes.append(str(error).partition("\n")[0])
    return outcomes


def _run_on_spark(calls, address):
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
        # Kept for the next tasks; ends with this process.
        context = pyspark.SparkContext.getOrCreate(config.setAll(settings.items()))
    except pyspark.errors.PySparkRuntimeError as error:
        raise InputError(
            f"engine {engine} must find Java, received {error}; install a JRE of "
            "version 17, such as Debian's openjdk-17-jre-headless."
        ) from None
    except Exception as error:
        raise _no_answer(engine, error) from None
    try:
        return context.parallelize(calls, len(calls)).map(_work_of).collect()
    except Exception as error:  # Py4J's, in which the Python error is text.
        text = str(error)
        lost = re.search(r"Task (\d+) in stage \S+ failed \d+ times", text)
        if lost is None:
            raise _no_answer(engine, text) from None
        if "ModuleNotFoundError" in text or "ImportError" in text:
            return [_of_worker(engine, ImportError("no module align_keras"))]
        outcomes = [None] * len(calls)
        outcomes[int(lost[1])] = lost[0]
        return outcomes


def _work_of(call):
    return _work(*call)
