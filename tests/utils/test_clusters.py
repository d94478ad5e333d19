"""Tasks on real clusters: a Dask scheduler with three workers, Ray's head with a second
node, Spark's standalone master with two workers, each a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from align_keras.utils import tasks
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import run_tasks
from tests.helpers import small_corpus
from tests.helpers.clusters import ROOT, Cluster
from tests.utils import worker_tasks

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]
# The scheduler's address and the workers', which Ray's and Spark's are known by.
HOSTS = {
    "dask": ["127.0.0.1"] * 4,
    "ray": ["127.0.0.1", "127.0.0.2"],
    "spark": ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
}
PACKAGES = {"dask": "distributed", "ray": "ray", "spark": "pyspark"}


def needed(kind):
    pytest.importorskip(PACKAGES[kind])
    if kind == "spark" and not shutil.which("java"):
        pytest.skip("Java isn't installed")


@pytest.fixture(scope="module", params=HOSTS)
def cluster(request):
    needed(request.param)
    with Cluster(request.param, HOSTS[request.param]) as cluster:
        yield cluster
    if request.param == "spark":
        import pyspark

        pyspark.SparkContext.getOrCreate().stop()


def test_tasks_are_done_once_in_order_and_whoever_is_late(cluster, tmp_path):
    # The first takes longer than all others.
    tasks = [{"number": n, "seconds": 3 * (n == 0)} for n in range(8)]
    found = run_tasks(worker_tasks.square, tasks, tmp_path / "a", engine=cluster.engine)
    assert found == [n * n for n in range(8)]
    written = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.json")
    }
    more = [*tasks, {"number": 8}]
    found = run_tasks(worker_tasks.square, more, tmp_path / "a", engine=cluster.engine)
    assert found == [n * n for n in range(9)]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    here = tmp_path / "here"
    run_tasks(worker_tasks.square, more, here, workers=1)
    for path in here.glob("*.json"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_a_task_that_ends_its_worker_is_begun_again(cluster, tmp_path):
    marks = tmp_path / "killed"
    tasks = [{"number": number, "marks": str(marks)} for number in range(4)]
    done = tmp_path / "done"
    found = run_tasks(worker_tasks.die_once, tasks, done, engine=cluster.engine)
    assert found == [0, 1, 2, 3] and marks.exists()


def test_a_task_that_always_ends_its_worker_is_named(cluster, tmp_path):
    mended = tmp_path / "mended"
    tasks = [{"number": number, "mended": str(mended)} for number in range(4)]
    told = r'ended 4 times in the task die \{"number": 2, .*run again'
    with pytest.raises(ChildProcessError, match=told):
        run_tasks(worker_tasks.die, tasks, tmp_path / "done", engine=cluster.engine)
    mended.touch()
    found = run_tasks(worker_tasks.die, tasks, tmp_path / "done", engine=cluster.engine)
    assert found == [0, 1, 2, 3]


def test_a_bug_names_its_task_and_all_others_are_done(cluster, tmp_path):
    tasks = [{"number": number} for number in range(3)]
    with pytest.raises(ZeroDivisionError) as caught:
        run_tasks(worker_tasks.divide, tasks, tmp_path / "a", engine=cluster.engine)
    assert caught.value.__notes__[0] == 'in the task divide {"number": 0}'
    assert len(list((tmp_path / "a").glob("*.json"))) == 2


def files_of(out):
    """What a build leaves that another of the same sources must leave too."""
    names = (
        "vocabulary.txt",
        "stages/*/*.parquet",
        "stages/*/done.json",
        "web_pairs/**/*",
    )
    paths = (path for name in names for path in out.glob(name) if path.is_file())
    return {
        path.relative_to(out).as_posix(): path.read_bytes().replace(
            os.fsencode(out), b"OUT"
        )
        for path in paths
    }


def test_a_corpus_is_that_of_one_process_though_a_worker_is_killed(cluster, tmp_path):
    pytest.importorskip("cv2")
    sources = small_corpus.write_sources(tmp_path)
    here, there = tmp_path / "out1", tmp_path / "out2"
    small_corpus.run(*small_corpus.arguments("build", sources, here, "--workers=1"))

    def kill_one():
        while not list(there.glob("stages/*/tasks/*/*.json")):
            time.sleep(0.02)
        cluster.kill(cluster.workers[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    engine = f"--engine={cluster.engine}"
    small_corpus.run(*small_corpus.arguments("build", sources, there, engine))
    killer.join()
    cluster.start_worker(cluster.hosts[1])
    expected, found = files_of(here), files_of(there)
    assert len(expected) > 8 and found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


CLIENT = """
import sys
from align_keras.utils import tasks
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import run_tasks
from tests.utils.worker_tasks import wait_for
folder, engine = sys.argv[1:]
tasks = [{"number": number, "folder": folder} for number in range(6)]
try:
    print([found[0] for found in run_tasks(wait_for, tasks, folder, engine=engine)])
except InputError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("kind", HOSTS)
def test_a_run_goes_on_after_its_scheduler_was_restarted(kind, tmp_path):
    needed(kind)
    with Cluster(kind, HOSTS[kind]) as cluster:
        command = [sys.executable, "-c", CLIENT, str(tmp_path), cluster.engine]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        client = subprocess.Popen(command, cwd=ROOT, **pipes)
        end = time.monotonic() + 200
        while not list(tmp_path.glob("*.begun")):
            assert client.poll() is None and time.monotonic() < end, cluster.log()
            time.sleep(0.1)
        cluster.kill(cluster.scheduler)
        if kind == "ray":  # No head starts on a machine where nodes wait for the last.
            cluster.kill(cluster.workers[0])
        cluster.start_scheduler()
        (tmp_path / "go").touch()
        try:
            said, errors = client.communicate(timeout=240)
        finally:
            client.kill()
        # Spark's workers go on without their master.
        if kind == "spark":
            assert (client.returncode, said) == (0, "[0, 1, 2, 3, 4, 5]\n"), errors
        else:
            assert client.returncode, said
            assert errors.splitlines()[-1].startswith("engine must be a cluster that")
            assert "Traceback" not in errors
        for host in HOSTS[kind][1:]:  # The old ones have ended with it, or go on.
            cluster.start_worker(host)
        again = subprocess.run(command, cwd=ROOT, timeout=240, capture_output=True)
        assert again.stdout == b"[0, 1, 2, 3, 4, 5]\n", again.stderr[-3000:]


def test_a_worker_of_another_version_is_told(tmp_path):
    needed("dask")
    other = tmp_path / "other"
    shutil.copytree(ROOT / "align_keras", other / "align_keras")
    about = other / "align_keras" / "__init__.py"
    about.write_text(about.read_text().replace('__version__ = "', '__version__ = "9.'))
    with Cluster("dask", ["127.0.0.1"]) as cluster:
        cluster.start_worker("127.0.0.1", PYTHONPATH=str(other))
        with pytest.raises(InputError, match=r"with align-keras .* has 9\.") as caught:
            run_tasks(len, [{}], tmp_path / "done", engine=cluster.engine)
        assert "\n" not in str(caught.value)


def test_a_worker_without_the_package_is_told(tmp_path):
    needed("dask")
    with Cluster("dask", ["127.0.0.1"]) as cluster:
        # No package, so that one which is installed isn't found either.
        (tmp_path / "align_keras.py").touch()
        cluster.start_worker("127.0.0.1", PYTHONPATH=str(tmp_path))
        with pytest.raises(InputError, match="workers with align-keras .* install it"):
            run_tasks(len, [{}], tmp_path / "done", engine=cluster.engine)


def test_a_place_that_answers_and_is_not_ray_is_told(tmp_path, monkeypatch):
    needed("ray")
    monkeypatch.setattr(tasks, "RAY_START_TIMEOUT", 5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = f"ray:127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="received ray:.* isn't Ray.* start it"):
            run_tasks(len, [{}], tmp_path, engine=engine)
