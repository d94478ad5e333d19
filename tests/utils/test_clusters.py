"""Tasks on real clusters, whose schedulers and workers are separate processes.

The clusters are a Dask scheduler with three workers, a Ray head with a second node, and
a standalone Spark master with two workers.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from align_keras.utils import clusters
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import run_tasks
from tests.helpers import small_corpus
from tests.helpers.clusters import ROOT, Cluster
from tests.utils import worker_tasks

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]
# Addresses of the scheduler and the workers. Ray and Spark identify nodes by address.
HOSTS = {
    "dask": ["127.0.0.1"] * 4,
    "ray": ["127.0.0.1", "127.0.0.2"],
    "spark": ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
}
PACKAGES = {"dask": "distributed", "ray": "ray", "spark": "pyspark"}


def skip_if_missing(kind):
    pytest.importorskip(PACKAGES[kind])
    if kind == "spark" and not shutil.which("java"):
        pytest.skip("Java isn't installed")


@pytest.fixture(scope="module", params=HOSTS)
def cluster(request):
    skip_if_missing(request.param)
    with Cluster(request.param, HOSTS[request.param]) as cluster:
        yield cluster
    if request.param == "spark":
        import pyspark

        pyspark.SparkContext.getOrCreate().stop()


def test_results_keep_the_order_of_the_tasks_and_are_not_computed_again(
    cluster, tmp_path
):
    # The first task takes longer than all others.
    tasks = [{"number": n, "seconds": 3 * (n == 0)} for n in range(8)]
    folder = tmp_path / "a"
    results = run_tasks(worker_tasks.square, tasks, folder, engine=cluster.engine)
    assert results == [n * n for n in range(8)]
    modification_times = {
        path: path.stat().st_mtime_ns for path in folder.glob("*.json")
    }
    tasks.append({"number": 8})
    results = run_tasks(worker_tasks.square, tasks, folder, engine=cluster.engine)
    assert results == [n * n for n in range(9)]
    assert {
        path: path.stat().st_mtime_ns for path in modification_times
    } == modification_times
    local = tmp_path / "local"
    run_tasks(worker_tasks.square, tasks, local, workers=1)
    for path in local.glob("*.json"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_task_that_ends_its_worker_is_started_again(cluster, tmp_path):
    marker = tmp_path / "killed"
    tasks = [{"number": number, "marker": str(marker)} for number in range(4)]
    done = tmp_path / "done"
    results = run_tasks(worker_tasks.die_once, tasks, done, engine=cluster.engine)
    assert results == [0, 1, 2, 3] and marker.exists()


def test_an_error_names_a_task_that_always_ends_its_worker(cluster, tmp_path):
    fixed, done = tmp_path / "fixed", tmp_path / "done"
    tasks = [{"number": number, "fixed": str(fixed)} for number in range(4)]
    with pytest.raises(ChildProcessError, match=r'die \{"number": 2, '):
        run_tasks(worker_tasks.die, tasks, done, engine=cluster.engine)
    fixed.touch()
    results = run_tasks(worker_tasks.die, tasks, done, engine=cluster.engine)
    assert results == [0, 1, 2, 3]


def test_an_error_names_its_task_after_all_other_tasks_ran(cluster, tmp_path):
    tasks = [{"number": number} for number in range(3)]
    with pytest.raises(ZeroDivisionError) as caught:
        run_tasks(worker_tasks.divide, tasks, tmp_path / "a", engine=cluster.engine)
    assert caught.value.__notes__[0] == 'in the task divide {"number": 0}'
    assert len(list((tmp_path / "a").glob("*.json"))) == 2


def files_of(out):
    """Returns the files of a corpus that two builds of the same sources share.

    The path of the output folder is replaced by "OUT".
    """
    patterns = (
        "vocabulary.txt",
        "stages/*/*.parquet",
        "stages/*/done.json",
        "web_pairs/**/*",
    )
    paths = (
        path for pattern in patterns for path in out.glob(pattern) if path.is_file()
    )
    return {
        path.relative_to(out).as_posix(): path.read_bytes().replace(
            os.fsencode(out), b"OUT"
        )
        for path in paths
    }


def test_a_cluster_with_a_killed_worker_builds_the_corpus_of_a_single_process(
    cluster, tmp_path
):
    pytest.importorskip("cv2")
    sources = small_corpus.write_sources(tmp_path)
    local_out, cluster_out = tmp_path / "out1", tmp_path / "out2"
    small_corpus.run(
        *small_corpus.arguments("build", sources, local_out, "--workers=1")
    )

    def kill_worker():
        while not list(cluster_out.glob("stages/*/tasks/*/*.json")):
            time.sleep(0.02)
        cluster.kill(cluster.workers[0])

    killer = threading.Thread(target=kill_worker)
    killer.start()
    engine = f"--engine={cluster.engine}"
    small_corpus.run(*small_corpus.arguments("build", sources, cluster_out, engine))
    killer.join()
    cluster.start_worker(cluster.hosts[1])
    expected, actual = files_of(local_out), files_of(cluster_out)
    assert len(expected) > 8 and actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name]] == []


CLIENT = """
import sys
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import run_tasks
from tests.utils.worker_tasks import wait_for
folder, engine = sys.argv[1:]
tasks = [{"number": number, "folder": folder} for number in range(6)]
try:
    print([result[0] for result in run_tasks(wait_for, tasks, folder, engine=engine)])
except InputError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("kind", HOSTS)
def test_a_run_continues_after_a_restart_of_its_scheduler(kind, tmp_path):
    skip_if_missing(kind)
    with Cluster(kind, HOSTS[kind]) as cluster:
        command = [sys.executable, "-c", CLIENT, str(tmp_path), cluster.engine]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        client = subprocess.Popen(command, cwd=ROOT, **pipes)
        end = time.monotonic() + 200
        while not list(tmp_path.glob("*.started")):
            assert client.poll() is None and time.monotonic() < end, cluster.log()
            time.sleep(0.1)
        cluster.kill(cluster.scheduler)
        if kind == "ray":
            # A new head can't start while a node on this machine waits for the old one.
            cluster.kill(cluster.workers[0])
        cluster.start_scheduler()
        (tmp_path / "go").touch()
        try:
            output, errors = client.communicate(timeout=240)
        finally:
            client.kill()
        # Workers of Spark continue without their master.
        if kind == "spark":
            assert (client.returncode, output) == (0, "[0, 1, 2, 3, 4, 5]\n"), errors
        else:
            assert client.returncode, output
            assert errors.splitlines()[-1].startswith(
                "engine must be a running cluster. Cannot connect to"
            )
            assert "Traceback" not in errors
        # The old workers ended with the scheduler, except those of Spark.
        for host in HOSTS[kind][1:]:
            cluster.start_worker(host)
        second_run = subprocess.run(command, cwd=ROOT, timeout=240, capture_output=True)
        assert second_run.stdout == b"[0, 1, 2, 3, 4, 5]\n", second_run.stderr[-3000:]


def test_a_worker_with_another_package_version_is_refused(tmp_path):
    skip_if_missing("dask")
    other_version = tmp_path / "other"
    shutil.copytree(ROOT / "align_keras", other_version / "align_keras")
    init_file = other_version / "align_keras" / "__init__.py"
    init_file.write_text(
        init_file.read_text().replace('__version__ = "', '__version__ = "9.')
    )
    with Cluster("dask", ["127.0.0.1"]) as cluster:
        cluster.start_worker("127.0.0.1", PYTHONPATH=str(other_version))
        with pytest.raises(InputError, match=r" 9\.") as caught:
            run_tasks(len, [{}], tmp_path / "done", engine=cluster.engine)
        assert "\n" not in str(caught.value)


def test_a_worker_without_the_package_is_refused(tmp_path):
    skip_if_missing("dask")
    with Cluster("dask", ["127.0.0.1"]) as cluster:
        # An empty module hides an installed package.
        (tmp_path / "align_keras.py").touch()
        cluster.start_worker("127.0.0.1", PYTHONPATH=str(tmp_path))
        with pytest.raises(InputError, match="workers with align-keras"):
            run_tasks(len, [{}], tmp_path / "done", engine=cluster.engine)


def test_a_server_other_than_ray_is_refused(tmp_path, monkeypatch):
    skip_if_missing("ray")
    monkeypatch.setattr(clusters, "RAY_START_TIMEOUT", 5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = f"ray:127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{engine}.* isn't Ray"):
            run_tasks(len, [{}], tmp_path, engine=engine)
