"""Measures the overhead and the scaling of `--engine`.

    python tools/benchmarks/bench_engines.py [local] [dask] [ray] [spark]

Clusters run on the loopback interface of this machine. Empty tasks measure the overhead
per task. Tasks that wait for half a second measure the scaling from one to two workers.
Other programs affect waiting tasks less than tasks that compute. Prints medians.
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

# Numbers of empty tasks, of waiting tasks and of rounds.
NUM_EMPTY, NUM_WAITING, ROUNDS = 200, 16, 3


def return_number(task):
    """Runs an empty task."""
    return task["number"]


def wait(task):
    """Runs a task of half a second. Returns the id of the process."""
    time.sleep(0.5)
    return os.getpid()


def start_workers(function, engine, workers, number):
    """Runs tasks until all workers have run some.

    A worker can start late and miss the first tasks, such as Spark's second worker on a
    busy machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(20):
            tasks = [{"number": n, "turn": turn} for n in range(2 * number)]
            processes = run_tasks(
                function, tasks, folder, workers=workers, engine=engine
            )
            if len(set(processes)) >= number:
                return
    sys.exit(f"{engine} must have {number} workers. Received: {len(set(processes))}")


def median_seconds(function, number, engine, workers):
    """Returns the median seconds of a run of tasks, after a first run as a warm-up."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS + 1):
            tasks = [{"number": n, "turn": turn} for n in range(number)]
            start = time.perf_counter()
            run_tasks(function, tasks, folder, workers=workers, engine=engine)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure(kind, workers):
    """Starts an engine and measures it.

    Returns:
        Tuple of the overhead per task in milliseconds and the seconds of the waiting
        tasks.
    """
    if kind == "local":
        return measure_engine("local", workers, workers)
    # Ray's head also runs tasks.
    hosts = ["127.0.0.1"] * (workers + (kind != "ray"))
    if kind != "dask":
        hosts = [f"127.0.0.{number + 1}" for number in range(len(hosts))]
    path = f"{ROOT}:{ROOT / 'tools' / 'benchmarks'}"
    with Cluster(kind, hosts, PYTHONPATH=path) as cluster:
        result = measure_engine(cluster.engine, None, workers)
        if kind == "spark":
            import pyspark

            pyspark.SparkContext.getOrCreate().stop()
        return result


def measure_engine(engine, workers, number):
    """Measures an engine that is running.

    Args:
        engine: Value of `--engine`.
        workers: Number of local workers, or None for a cluster.
        number: Number of workers that must take part.

    Returns:
        The same tuple as `measure`.
    """
    # Workers cannot import functions from `__main__`, so this module imports itself.
    from bench_engines import return_number, wait

    start_workers(wait, engine, workers, number)
    overhead = (
        1000 * median_seconds(return_number, NUM_EMPTY, engine, workers) / NUM_EMPTY
    )
    return overhead, median_seconds(wait, NUM_WAITING, engine, workers)


def main():
    """Measures the engines on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="local|dask|ray|spark")
    for kind in parser.parse_args().engines or ("local", "dask", "ray", "spark"):
        one, two = (measure(kind, workers) for workers in (1, 2))
        print(
            f"{kind}: {two[0]:.1f} ms per task. {NUM_WAITING / 2:.0f} s of waiting "
            f"take {one[1]:.1f} s with one worker and {two[1]:.1f} s with two "
            f"({one[1] / two[1]:.2f} times as fast).",
            flush=True,
        )


if __name__ == "__main__":
    main()
