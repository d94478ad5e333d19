"""Tasks with stored results in local processes and messages to cluster workers."""

import json
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import time
import types

import pytest

from align_keras.cli.error_messages import describe_bug
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import is_cluster, process_count, run_tasks
from tests.utils import worker_tasks


def square_and_log(task):
    """Appends the number to a log file and returns its square.

    Number 2 raises an `InputError` while a file with the suffix ".invalid" exists.
    """
    with open(task["log"], "a", encoding="utf-8") as file:
        file.write(f"{task['number']}\n")
    if task["number"] == 2 and pathlib.Path(task["log"] + ".invalid").exists():
        raise InputError("number must not be 2. Received: number=2.")
    return task["number"] ** 2


def make_tasks(folder, count=4):
    log = str(folder / "log")
    return [{"number": number, "log": log} for number in range(count)]


def read_log(folder):
    """Returns the sorted numbers of all calls of `square_and_log`."""
    return sorted(map(int, (folder / "log").read_text().split()))


def test_each_task_runs_once_and_results_keep_the_order_of_the_tasks(tmp_path):
    tasks = make_tasks(tmp_path)
    callback_values = []
    results = run_tasks(
        square_and_log,
        tasks[1:3],
        tmp_path / "done",
        workers=1,
        on_result=callback_values.append,
    )
    assert results == callback_values == [1, 4]
    all_results = run_tasks(square_and_log, tasks[::-1], tmp_path / "done", workers=1)
    assert all_results == [9, 4, 1, 0]
    assert read_log(tmp_path) == [0, 1, 2, 3]
    assert run_tasks(square_and_log, tasks, tmp_path / "done", workers=2) == [
        0,
        1,
        4,
        9,
    ]
    assert read_log(tmp_path) == [0, 1, 2, 3]
    assert run_tasks(square_and_log, [], tmp_path / "none") == []


def test_a_task_with_an_input_error_runs_again(tmp_path):
    tasks = make_tasks(tmp_path)
    done = tmp_path / "done"
    (tmp_path / "log.invalid").touch()
    for _ in range(2):
        with pytest.raises(InputError, match="number"):
            run_tasks(square_and_log, tasks, done, workers=1)
    (tmp_path / "log.invalid").unlink()
    assert run_tasks(square_and_log, tasks, done, workers=1) == [0, 1, 4, 9]
    assert read_log(tmp_path) == [0, 1, 2, 2, 2, 3]


def test_an_unexpected_error_names_its_task(tmp_path):
    tasks = [{"number": 1}]  # The path of the log is missing.
    with pytest.raises(KeyError, match="log") as caught:
        run_tasks(square_and_log, tasks, tmp_path / "done", workers=1)
    assert caught.value.__notes__ == ['in the task square_and_log {"number": 1}']
    assert "KeyError: 'log' in the task square_and_log {\"number\": 1}" in describe_bug(
        caught.value
    )
    assert not list((tmp_path / "done").glob("*.json"))


def raise_keyboard_interrupt(task):
    """Simulates Ctrl-C during a task."""
    raise KeyboardInterrupt


def test_a_keyboard_interrupt_is_raised(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_tasks(
            raise_keyboard_interrupt, [{"number": 1}], tmp_path / "done", workers=1
        )


def raise_os_error(task):
    raise OSError(task["number"], "message of the system")


def test_an_os_error_keeps_its_errno(tmp_path):
    with pytest.raises(OSError) as caught:
        run_tasks(raise_os_error, [{"number": 28}], tmp_path, workers=1)
    assert caught.value.errno == 28


def test_stderr_is_restored_after_the_tasks(tmp_path, capfd):
    import sys

    original_stderr = sys.stderr
    run_tasks(square_and_log, make_tasks(tmp_path), tmp_path / "done", workers=1)
    assert sys.stderr is original_stderr
    print("after the tasks", file=sys.stderr)
    assert capfd.readouterr().err == "after the tasks\n"


def keep_stderr(task):
    """Stores `sys.stderr` beyond the task, as log handlers do."""
    import sys

    task_stderr.append(sys.stderr)


task_stderr = []


def test_stderr_from_within_a_task_works_after_the_task(tmp_path, capfd, monkeypatch):
    import sys

    # The stream of the process replaces the stream of pytest.
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    run_tasks(keep_stderr, [{"number": 1}], tmp_path, workers=1)
    [stderr] = task_stderr
    stderr.write("later\n")
    assert capfd.readouterr().err == "later\n"


def test_the_default_process_count_is_the_number_of_cores(monkeypatch):
    assert process_count(3) == 3
    assert process_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert process_count() == os.cpu_count()


@pytest.mark.ci
def test_two_processes_share_the_tasks(tmp_path):
    tasks = [{"number": number} for number in range(8)]
    callback_values = []
    process_ids = run_tasks(
        worker_tasks.process_id,
        tasks,
        tmp_path,
        workers=2,
        on_result=callback_values.append,
    )
    assert len(set(process_ids)) == 2
    assert sorted(callback_values) == sorted(process_ids)
    result_files = list(tmp_path.glob("*.json"))
    assert len(result_files) == 8
    assert {json.loads(path.read_text())["value"] for path in result_files} == set(
        process_ids
    )


@pytest.mark.ci
def test_a_killed_worker_raises_an_error_and_the_next_run_continues(tmp_path):
    marker = tmp_path / "killed"
    tasks = [{"number": number, "marker": str(marker)} for number in range(4)]
    with pytest.raises(ChildProcessError, match="--workers 1"):
        run_tasks(worker_tasks.die_once, tasks, tmp_path / "done", workers=2)
    assert run_tasks(
        worker_tasks.die_once, tasks, tmp_path / "done", workers=2
    ) == list(range(4))


RUN = """
import sys
from align_keras.utils.tasks import run_tasks
from tests.utils.worker_tasks import wait
run_tasks(wait, [{"folder": sys.argv[1], "number": n} for n in (0, 1)], sys.argv[1],
    workers=2)
"""


@pytest.mark.ci
def test_workers_end_with_a_killed_run(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=root)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pids = [path.stem for path in tmp_path.glob("*.pid")]
    while any(pathlib.Path("/proc", pid).exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.ci
def test_a_run_in_this_process_needs_no_joblib(tmp_path):
    code = (
        "import sys; from align_keras.utils.tasks import run_tasks;"
        "print(run_tasks(len, [{}, {'a': 1}], sys.argv[1], workers=1));"
        "sys.exit('joblib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "[0, 1]\n"), process.stderr


@pytest.mark.parametrize("engine", ["flink:localhost:1", "dask:localhost", "ray:auto"])
def test_an_invalid_engine_is_refused(tmp_path, engine):
    with pytest.raises(InputError, match=f"engine.*{engine}"):
        run_tasks(len, [{}], tmp_path / "done", engine=engine)


@pytest.mark.parametrize(
    "engine",
    [
        "dask:[::1]:8786",
        "ray:10.0.0.1:6379",
        "spark:spark://a.example:7077,b-2.example:7077",
        "spark:local[2]",
    ],
)
def test_a_cluster_address_is_recognized(engine):
    assert is_cluster(engine)
    assert not is_cluster("local")


@pytest.mark.parametrize("engine", ["ray:{}", "spark:spark://{}"])
def test_an_unreachable_scheduler_raises_an_error(tmp_path, engine):
    # The socket is bound to a port but doesn't listen for connections.
    with socket.socket() as bound_socket:
        bound_socket.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound_socket.getsockname()[1]}"
        with pytest.raises(InputError, match="engine"):
            run_tasks(len, [{}], tmp_path / "done", engine=engine.format(address))


class RecordingClient:
    """Dask client that records the function and the calls instead of sending them."""

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_for_workers(self, count, timeout):
        pass

    def map(self, function, calls, pure):
        raise RecordedCallsError(function, calls)


class RecordedCallsError(BaseException):
    """Function and calls that a client sends to workers."""

    def __init__(self, function, calls):
        super().__init__()
        self.function = function
        self.calls = calls


@pytest.fixture
def dask_work(tmp_path_factory, monkeypatch):
    """The function and the call that Dask's workers receive for a task."""
    client = types.SimpleNamespace(FutureCancelledError=OSError)
    comm = types.SimpleNamespace(CommClosedError=OSError)
    dask = types.SimpleNamespace(Client=RecordingClient, client=client, comm=comm)
    folder = tmp_path_factory.mktemp("tasks")
    with monkeypatch.context() as patch, socket.create_server(("", 0)) as scheduler:
        patch.setitem(sys.modules, "distributed", dask)
        engine = f"dask:127.0.0.1:{scheduler.getsockname()[1]}"
        with pytest.raises(RecordedCallsError) as recorded:
            run_tasks(worker_tasks.square, [{"number": 3}], folder, engine=engine)
    [call] = recorded.value.calls
    return recorded.value.function, call


@pytest.fixture
def work(dask_work):
    """Returns a function that runs a task as a Dask worker does.

    Its result is the value that the worker sends back.
    """
    function, recorded_call = dask_work

    def work(folder, task_function="tests.utils.worker_tasks:square", **versions):
        call = dict(recorded_call)
        assert call["function"] == "tests.utils.worker_tasks:square"
        call["function"] = task_function
        call["path"] = str(folder / "a.json")
        call["versions"] = call["versions"] | {
            name.replace("_", "-"): version for name, version in versions.items()
        }
        return function(call)

    return work


def test_a_cluster_worker_writes_the_same_result_file_as_a_local_run(tmp_path, work):
    assert work(tmp_path) is None
    local = tmp_path / "local"
    assert run_tasks(worker_tasks.square, [{"number": 3}], local, workers=1) == [9]
    [result] = local.glob("*.json")
    assert (tmp_path / "a.json").read_bytes() == result.read_bytes()


@pytest.mark.parametrize("versions", [{"align_keras": "0.0.1"}, {"Python": "2.7"}])
def test_a_worker_with_another_version_is_refused(tmp_path, work, versions):
    error = work(tmp_path, **versions)
    assert isinstance(error, InputError)
    assert all(version in str(error) for version in versions.values())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_not_shared_is_refused(tmp_path, work):
    error = work(tmp_path / "elsewhere")
    assert isinstance(error, InputError) and "elsewhere" in str(error)


def test_an_error_on_a_cluster_worker_can_be_unpickled(tmp_path, work):
    error = work(tmp_path, "tests.utils.worker_tasks:divide")
    assert error is None
    error = work(tmp_path, "tests.utils.worker_tasks:no_such")
    assert isinstance(pickle.loads(pickle.dumps(error)), AttributeError)
    error = work(tmp_path, "tests.utils.worker_tasks:raise_unpicklable_error")
    error = pickle.loads(pickle.dumps(error))
    assert type(error) is RuntimeError and str(error) == "UnpicklableError: one"
    assert error.__notes__[0] == 'in the task raise_unpicklable_error {"number": 3}'
    assert "line" in error.__notes__[1]


DASK_WORKER = """
import pickle, sys
sys.modules["align_keras"] = None
work = pickle.load(sys.stdin.buffer)
try:
    work({})
except ImportError as error:
    print(error)
"""


@pytest.mark.ci
def test_a_dask_worker_without_the_package_raises_an_import_error(dask_work):
    cloudpickle = pytest.importorskip("cloudpickle")
    function, _ = dask_work
    command = [sys.executable, "-c", DASK_WORKER]
    content = cloudpickle.dumps(function)
    answer = subprocess.run(command, input=content, capture_output=True, check=True)
    assert b"align_keras" in answer.stdout
