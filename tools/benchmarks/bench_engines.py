"""Measures what `--engine` costs: seconds a task, and one worker against two.

python tools/benchmarks/bench_engines.py [local] [dask] [ray] [spark]

Clusters are started on this machine, on loopback. Tasks of no work give the overhead a
task; tasks that wait for half a second give the scaling of the engine, which what else
the machine computes disturbs less than it would tasks that compute. Prints medians.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from align_keras.utils.tasks import run_tasks  # noqa: E402
from tests.helpers.clusters import Cluster  # noqa: E402

SMALL, LARGE, ROUNDS = 200, 16, 3


def nothing(task):
    """A task of no work."""
    return task["number"]


def wait(task):
    """A task that takes half a second; names the process that did it."""
    time.sleep(0.5)
    return os.getpid()


def start(function, engine, workers, number):
    """Runs tasks until as many processes as there are workers have done some: one that
    starts late, as Spark's second may under load, isn't there for the first runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(20):
            tasks = [{"number": n, "turn": turn} for n in range(2 * number)]
            found = run_tasks(function, tasks, folder, workers=workers, engine=engine)
            if len(set(found)) >= number:
                return
    sys.exit(f"{engine} has fewer than {number} workers")


def seconds(function, number, engine, workers):
    """Median seconds of a run of tasks; one first, for what starts but once."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS + 1):
            tasks = [{"number": n, "turn": turn} for n in range(number)]
            begun = time.perf_counter()
            run_tasks(function, tasks, folder, workers=workers, engine=engine)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def measure(kind, workers):
    """Overhead a task in milliseconds, and seconds of the large tasks."""
    if kind == "local":
        return measured("local", workers, workers)
    hosts = ["127.0.0.1"] * (workers + (kind != "ray"))  # Ray's head works too.
    if kind != "dask":
        hosts = [f"127.0.0.{number + 1}" for number in range(len(hosts))]
    path = f"{ROOT}:{ROOT / 'tools' / 'benchmarks'}"
    with Cluster(kind, hosts, PYTHONPATH=path) as cluster:
        found = measured(cluster.engine, None, workers)
        if kind == "spark":
            import pyspark

            pyspark.SparkContext.getOrCreate().stop()
        return found


def measured(engine, workers, number):
    """As `measure`, of an engine that runs; `number` is that of its workers."""
    # Under the name by which workers import them.
    from bench_engines import nothing, wait

    start(wait, engine, workers, number)
    overhead = 1000 * seconds(nothing, SMALL, engine, workers) / SMALL
    return overhead, seconds(wait, LARGE, engine, workers)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="local|dask|ray|spark")
    for kind in parser.parse_args().engines or ("local", "dask", "ray", "spark"):
        one, two = (measure(kind, workers) for workers in (1, 2))
        print(
            f"{kind}: {two[0]:.1f} ms a task; {LARGE / 2:.0f} s of waiting take "
            f"{one[1]:.1f} s by one worker, {two[1]:.1f} s by two "
            f"({one[1] / two[1]:.2f} times)",
            flush=True,
        )


if __name__ == "__main__":
    main()
