import json
import pathlib

import pytest

from align_keras.corpus import workers
from align_keras.corpus.workers import run_tasks, worker_count
from align_keras.utils.errors import InputError

ONE = ("--direct_num_workers=1",)


def note(task):
    """Leaves a mark each time it is called; a task of Beam's workers."""
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
    assert run_tasks(note, tasks[1:3], tmp_path / "done", options=ONE) == [1, 4]
    everything = run_tasks(note, tasks[::-1], tmp_path / "done", options=ONE)
    assert everything == [9, 4, 1, 0]
    assert called(tmp_path) == [0, 1, 2, 3]
    # All are done: not even the runner's name is read.
    assert run_tasks(note, tasks, tmp_path / "done", runner="x") == [0, 1, 4, 9]
    assert run_tasks(note, [], tmp_path / "none", runner="x") == []


def test_a_mistake_is_told_and_tried_again(tmp_path):
    tasks = tasks_of(tmp_path)
    (tmp_path / "marks.wrong").touch()
    for _ in range(2):
        with pytest.raises(InputError, match="must not be 2"):
            run_tasks(note, tasks, tmp_path / "done", options=ONE)
    (tmp_path / "marks.wrong").unlink()
    assert run_tasks(note, tasks, tmp_path / "done", options=ONE) == [0, 1, 4, 9]
    assert called(tmp_path) == [0, 1, 2, 2, 2, 3]


def test_bugs_keep_their_traceback(tmp_path):
    tasks = [{"number": 1}]  # Without the place of the marks.
    with pytest.raises(Exception, match="marks"):
        run_tasks(note, tasks, tmp_path / "done", options=ONE)
    assert not list((tmp_path / "done").glob("*.json"))


def be_interrupted(task):
    """As a terminal's Ctrl-C in the midst of a task."""
    raise KeyboardInterrupt


def test_an_interrupt_stays_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_tasks(be_interrupted, [{"number": 1}], tmp_path / "done", options=ONE)


def fill_the_disk(task):
    raise OSError(task["number"], "as the system says")


@pytest.mark.parametrize("number", [28, 122, 27, 30, 5])
def test_what_a_disk_says_is_an_os_error(tmp_path, number):
    with pytest.raises(OSError) as caught:
        run_tasks(fill_the_disk, [{"number": number}], tmp_path, options=ONE)
    assert caught.value.errno == number and caught.value.filename == str(tmp_path)


def test_stderr_is_as_it_was(tmp_path, capfd):
    import sys

    before = sys.stderr
    run_tasks(note, tasks_of(tmp_path), tmp_path / "done", options=ONE)
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
    run_tasks(keep_stderr, [{"number": 1}], tmp_path, options=ONE)
    [kept] = task_stderr
    assert kept is not sys.__stderr__
    kept.write("later\n")
    assert capfd.readouterr().err == "later\n"


@pytest.mark.ci
def test_workers_are_counted():
    assert worker_count(options=ONE) == 1
    assert worker_count(options=("--direct_num_workers=3",)) == 3
    mode = "--direct_running_mode=multi_processing"
    assert worker_count(options=("--direct_num_workers=2", mode)) == 2
    cores = workers._cores()
    assert worker_count() == worker_count(options=("--direct_num_workers=0",)) == cores
    assert worker_count("FlinkRunner") == 16
    with pytest.raises(InputError, match="invalid int value: 'x'"):
        worker_count(options=("--direct_num_workers=x",))


@pytest.mark.ci
@pytest.mark.parametrize(
    "options, runner, said",
    [
        (
            (),
            "NoRunner",
            "--runner must be a runner of Apache Beam, received 'NoRunner'",
        ),
        ((), "no.such.Runner", "received 'no.such.Runner'"),
        ((), "json.Runner", "received 'json.Runner'"),
        (("--direct_num_workers=x",), "DirectRunner", "invalid int value: 'x'"),
        (("--direct_running_mode=x",), "DirectRunner", "invalid choice: 'x'"),
    ],
)
def test_wrong_runners_and_options(tmp_path, options, runner, said, capfd):
    with pytest.raises(InputError, match=said):
        run_tasks(note, tasks_of(tmp_path), tmp_path, runner=runner, options=options)
    assert capfd.readouterr() == ("", "")


@pytest.mark.ci
def test_two_processes_share_the_tasks(tmp_path):
    from tests.corpus import worker_tasks

    tasks = [{"number": number} for number in range(8)]
    two = ("--direct_num_workers=2",)
    found = run_tasks(worker_tasks.process_of, tasks, tmp_path, options=two)
    assert len(set(found)) == 2
    names = list(tmp_path.glob("*.json"))
    assert len(names) == 8
    assert {json.loads(path.read_text())["value"] for path in names} == set(found)
