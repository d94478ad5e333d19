import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from align_keras.corpus.workers import StageFolder, run_tasks, worker_count
from align_keras.utils.errors import InputError


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
    assert run_tasks(note, tasks[1:3], tmp_path / "done", workers=1) == [1, 4]
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
    with pytest.raises(Exception, match="marks"):
        run_tasks(note, tasks, tmp_path / "done", workers=1)
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
    assert worker_count(3) == 3
    assert worker_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert worker_count() == os.cpu_count()


@pytest.mark.ci
def test_two_processes_share_the_tasks(tmp_path):
    from tests.corpus import worker_tasks

    tasks = [{"number": number} for number in range(8)]
    found = run_tasks(worker_tasks.process_of, tasks, tmp_path, workers=2)
    assert len(set(found)) == 2
    names = list(tmp_path.glob("*.json"))
    assert len(names) == 8
    assert {json.loads(path.read_text())["value"] for path in names} == set(found)


@pytest.mark.ci
def test_a_killed_worker_is_told_and_the_tasks_go_on(tmp_path):
    from tests.corpus import worker_tasks

    marks = tmp_path / "killed"
    tasks = [{"number": number, "marks": str(marks)} for number in range(4)]
    with pytest.raises(ChildProcessError, match=r"killed \(.*SIGKILL.*--workers 1"):
        run_tasks(worker_tasks.die_once, tasks, tmp_path / "done", workers=2)
    assert run_tasks(
        worker_tasks.die_once, tasks, tmp_path / "done", workers=2
    ) == list(range(4))


RUN = """
import sys
from align_keras.corpus.workers import run_tasks
from tests.corpus.worker_tasks import wait
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
        "import sys; from align_keras.corpus.workers import run_tasks;"
        "print(run_tasks(len, [{}, {'a': 1}], sys.argv[1], workers=1));"
        "sys.exit('joblib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = pathlib.Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "[0, 1]\n"), found.stderr


def test_equal_inputs_find_the_same_folder_and_others_do_not(tmp_path):
    one = StageFolder(tmp_path, "filter", {"a": 1, "b": [2]})
    assert StageFolder(tmp_path, "filter", {"b": [2], "a": 1}).path == one.path
    assert StageFolder(tmp_path, "filter", {"a": 1, "b": [3]}).path != one.path
    assert StageFolder(tmp_path, "dedup", {"a": 1, "b": [2]}).path != one.path


def test_a_stage_is_done_with_its_facts_and_loses_its_scratch(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    (stage.path / "counts").mkdir()
    (stage.path / "counts" / "a.npy").write_bytes(b"1")
    (stage.path / "part.parquet").write_bytes(b"2")
    assert stage.facts() is None
    stage.finish({"kept": 3}, ("counts", "never made"))
    again = StageFolder(tmp_path, "filter", [])
    assert again.facts() == {"kept": 3}
    assert not (again.path / "counts").exists()
    assert (again.path / "part.parquet").exists()


def test_facts_that_are_not_json_leave_the_stage_undone(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    with pytest.raises(TypeError):
        stage.finish({"kept": object()})
    assert stage.facts() is None
    assert [path.name for path in stage.path.iterdir()] == []


def test_what_killed_tasks_left_goes(tmp_path):
    stage = StageFolder(tmp_path, "filter", [])
    (stage.path / ".part.parquet.0123abcd.tmp").write_bytes(b"half")
    (stage.path / "part.parquet").write_bytes(b"whole")
    stage.finish({})
    names = sorted(path.name for path in stage.path.iterdir())
    assert names == ["done.json", "part.parquet"]
