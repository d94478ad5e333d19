import json
import os
import pathlib
import pickle
import re
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


def note(task):
    """Leaves a mark each time it is called; a task of workers."""
    with open(task["marks"], "a", encoding="utf-8") as file:
        file.write(f"{task['number']}\n")
    if task["number"] == 2 and pathlib.Path(task["marks"] + ".wrong").exists():
        raise InputError("number must not be 2, received 2.")
    return task["number"] ** 2


def tasks_of(folder, count=4):
    marks = str(folder / "marks")
    return [{"number": number, "marks": marks} for number in range(count)]


def called(folder):
    return sorted(map(int, (folder / "marks").read_text().split()))


def test_results_come_in_the_order_of_the_tasks_which_run_once(tmp_path):
    tasks = tasks_of(tmp_path)
    told = []
    found = run_tasks(
        note, tasks[1:3], tmp_path / "done", workers=1, on_result=told.append
    )
    assert found == told == [1, 4]
    everything = run_tasks(note, tasks[::-1], tmp_path / "done", workers=1)
    assert everything == [9, 4, 1, 0]
    assert called(tmp_path) == [0, 1, 2, 3]
    assert run_tasks(note, tasks, tmp_path / "done", workers=2) == [0, 1, 4, 9]
    assert called(tmp_path) == [0, 1, 2, 3]
    assert run_tasks(note, [], tmp_path / "none") == []


def test_a_mistake_is_told_and_tried_again(tmp_path):
    tasks = tasks_of(tmp_path)
    (tmp_path / "marks.wrong").touch()
    for _ in range(2):
        with pytest.raises(InputError, match="must not be 2"):
            run_tasks(note, tasks, tmp_path / "done", workers=1)
    (tmp_path / "marks.wrong").unlink()
    assert run_tasks(note, tasks, tmp_path / "done", workers=1) == [0, 1, 4, 9]
    assert called(tmp_path) == [0, 1, 2, 2, 2, 3]


def test_bugs_keep_their_traceback(tmp_path):
    tasks = [{"number": 1}]  # Without the place of the marks.
    with pytest.raises(KeyError, match="marks") as caught:
        run_tasks(note, tasks, tmp_path / "done", workers=1)
    assert caught.value.__notes__ == ['in the task note {"number": 1}']
    assert "KeyError: 'marks' in the task note {\"number\": 1}" in describe_bug(
        caught.value
    )
    assert not list((tmp_path / "done").glob("*.json"))


def be_interrupted(task):
    """As a terminal's Ctrl-C in the midst of a task."""
    raise KeyboardInterrupt


def test_an_interrupt_stays_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_tasks(be_interrupted, [{"number": 1}], tmp_path / "done", workers=1)


def fill_the_disk(task):
    raise OSError(task["number"], "as the system says")


@pytest.mark.parametrize("number", [28, 122, 27, 30, 5])
def test_what_a_disk_says_is_an_os_error(tmp_path, number):
    with pytest.raises(OSError) as caught:
        run_tasks(fill_the_disk, [{"number": number}], tmp_path, workers=1)
    assert caught.value.errno == number


def test_stderr_is_as_it_was(tmp_path, capfd):
    import sys

    before = sys.stderr
    run_tasks(note, tasks_of(tmp_path), tmp_path / "done", workers=1)
    assert sys.stderr is before
    print("still here", file=sys.stderr)
    assert capfd.readouterr().err == "still here\n"


def keep_stderr(task):
    """As a module does that makes a handler of logs when it is imported."""
    import sys

    task_stderr.append(sys.stderr)


task_stderr = []


def test_a_stderr_that_was_kept_stays_one(tmp_path, capfd, monkeypatch):
    import sys

    # Without pytest's own in its place.
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    run_tasks(keep_stderr, [{"number": 1}], tmp_path, workers=1)
    [kept] = task_stderr
    kept.write("later\n")
    assert capfd.readouterr().err == "later\n"


def test_workers_are_counted(monkeypatch):
    assert process_count(3) == 3
    assert process_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert process_count() == os.cpu_count()


@pytest.mark.ci
def test_two_processes_share_the_tasks(tmp_path):
    tasks = [{"number": number} for number in range(8)]
    told = []
    found = run_tasks(
        worker_tasks.process_of, tasks, tmp_path, workers=2, on_result=told.append
    )
    assert len(set(found)) == 2 and sorted(told) == sorted(found)
    names = list(tmp_path.glob("*.json"))
    assert len(names) == 8
    assert {json.loads(path.read_text())["value"] for path in names} == set(found)


@pytest.mark.ci
def test_a_killed_worker_is_told_and_the_tasks_go_on(tmp_path):
    marks = tmp_path / "killed"
    tasks = [{"number": number, "marks": str(marks)} for number in range(4)]
    with pytest.raises(ChildProcessError, match=r"killed \(.*SIGKILL.*--workers 1"):
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


def test_a_run_in_this_process_needs_no_joblib(tmp_path):
    code = (
        "import sys; from align_keras.utils.tasks import run_tasks;"
        "print(run_tasks(len, [{}, {'a': 1}], sys.argv[1], workers=1));"
        "sys.exit('joblib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = pathlib.Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "[0, 1]\n"), found.stderr


@pytest.mark.parametrize(
    "engine, rule",
    [
        ("", "local, dask:HOST:PORT, ray:HOST:PORT or spark:MASTER, received ''"),
        ("Dask:localhost:8786", "or spark:MASTER, received 'Dask:"),
        ("flink:localhost:1", "or spark:MASTER, received 'flink"),
        ("local:8", "or spark:MASTER, received 'local:8'; choose one"),
        ("openvino", "received 'openvino'; write `--runtime` for what embeds"),
        ("dask", "where dask is, received 'dask'; write for instance dask:HOST:8786"),
        ("dask:localhost", "where dask is, received 'dask:localhost'"),
        ("dask:tcp://localhost:8786", "where dask is"),
        ("dask:localhost:99999", "where dask is"),
        ("dask:localhost:8786\n", "where dask is"),
        ("ray:auto", "where ray is, .* instance ray:HOST:6379"),
        ("spark:localhost:7077", "where spark is, .* spark:spark://HOST:7077"),
        ("spark:spark://localhost:70777", "where spark is"),
    ],
)
def test_an_engine_that_is_none_is_told(tmp_path, engine, rule):
    with pytest.raises(InputError, match=f"engine must .*{rule}"):
        run_tasks(len, [{}], tmp_path / "done", engine=engine)


@pytest.mark.parametrize(
    "engine",
    [
        "dask:localhost:8786",
        "dask:[::1]:8786",
        "ray:10.0.0.1:6379",
        "spark:yarn",
        "spark:spark://a.example:7077,b-2.example:7077",
        "spark:local[2]",
        "spark:k8s://https://10.0.0.1:6443",
    ],
)
def test_clusters_are_known_by_their_addresses(engine):
    assert is_cluster(engine)
    assert not is_cluster("local")


@pytest.mark.parametrize("engine", ["dask:{}", "ray:{}", "spark:spark://{}"])
def test_a_scheduler_that_is_not_there_is_told(tmp_path, engine):
    with socket.socket() as bound:  # Which listens to nobody.
        bound.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{bound.getsockname()[1]}"
        rule = (
            r"engine must be a cluster that answers, received .* \(Connection refused"
        )
        with pytest.raises(InputError, match=rule):
            run_tasks(len, [{}], tmp_path / "done", engine=engine.format(place))


def test_a_cluster_counts_its_workers_itself(tmp_path):
    with pytest.raises(InputError, match="workers must be left out with engine dask:"):
        run_tasks(len, [{}], tmp_path, workers=2, engine="dask:localhost:8786")


class RecordingClient:
    """Client of Dask that records what it would send to workers."""

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
    """Calls a task as a worker of Dask does and returns what it sends back."""
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


def test_a_task_on_a_cluster_is_as_one_here(tmp_path, work):
    assert work(tmp_path) is None
    here = tmp_path / "here"
    assert run_tasks(worker_tasks.square, [{"number": 3}], here, workers=1) == [9]
    [result] = here.glob("*.json")
    assert (tmp_path / "a.json").read_bytes() == result.read_bytes()


@pytest.mark.parametrize(
    "versions, what",
    [
        (
            {"align_keras": "0.0.1"},
            r"align-keras 0\.0\.1 as here, .* has [\d.]+; install",
        ),
        ({"Python": "2.7"}, r"Python 2\.7 as here, the one on .* has 3\.\d+; install"),
    ],
)
def test_workers_of_other_versions_are_refused(tmp_path, work, versions, what):
    error = work(tmp_path, **versions)
    assert isinstance(error, InputError) and re.search(what, str(error))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_not_shared_is_refused(tmp_path, work):
    error = work(tmp_path / "elsewhere")
    assert isinstance(error, InputError) and "all machines share" in str(error)


def test_what_went_wrong_on_a_cluster_is_read_here(tmp_path, work):
    error = work(tmp_path, "tests.utils.worker_tasks:divide")
    assert error is None
    error = work(tmp_path, "tests.utils.worker_tasks:no_such")
    assert isinstance(pickle.loads(pickle.dumps(error)), AttributeError)
    error = work(tmp_path, "tests.utils.worker_tasks:be_unreadable")
    error = pickle.loads(pickle.dumps(error))
    assert type(error) is RuntimeError and str(error) == "Unreadable: one"
    assert error.__notes__[0] == 'in the task be_unreadable {"number": 3}'
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


def test_a_dask_worker_without_the_package_raises_an_import_error(dask_work):
    cloudpickle = pytest.importorskip("cloudpickle")
    function, _ = dask_work
    command = [sys.executable, "-c", DASK_WORKER]
    content = cloudpickle.dumps(function)
    answer = subprocess.run(command, input=content, capture_output=True, check=True)
    assert b"align_keras" in answer.stdout
