"""Measures time and peak memory of exact nearest neighbors as the gallery grows.

`python tools/benchmarks/bench_knn.py` searches galleries of 40,000 and 160,000
embeddings with 640 values. Each gallery is measured in a separate process and is a
memory-mapped file. `--gallery 1281167 --queries 50000` has the size of ImageNet (3.3 GB
on the disk of --folder). Memory is the anonymous memory of the process minus that
before the search. It excludes pages of the mapped file, which the system frees when it
needs memory.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from turns import memory

ROWS_AT_ONCE = 20_000


def write_gallery(path, rows, dimension):
    """Writes unit rows in 1000 clusters, like the embeddings of 1000 classes."""
    import numpy as np

    random = np.random.default_rng(0)
    centers = random.normal(size=(1000, dimension)).astype("float32")
    gallery = np.lib.format.open_memmap(path, "w+", "float32", (rows, dimension))
    for start in range(0, rows, ROWS_AT_ONCE):
        part = gallery[start : start + ROWS_AT_ONCE]
        noise = random.standard_normal(part.shape, "float32")
        part[:] = centers[random.integers(0, 1000, len(part))] + noise
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    gallery.flush()


def anonymous_memory():
    """Returns the anonymous memory of this process in MiB (Linux)."""
    return memory("RssAnon") / 2**20


class Peak(threading.Thread):
    """Thread that samples the memory every few milliseconds until `done` is set."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self):
        while not self.done.wait(0.005):
            self.peak = max(self.peak, anonymous_memory())


def measure(path, queries, k):
    """Measures the search in a gallery. Prints the result as JSON."""
    import numpy as np

    from align_keras.evaluation import nearest_neighbors

    gallery = np.load(path, mmap_mode="r")
    random = np.random.default_rng(1)
    rows = random.integers(0, len(gallery), queries)
    vectors = gallery[rows] + 0.02 * random.standard_normal(
        (queries, gallery.shape[1]), "float32"
    )
    # The libraries allocate memory at the first search, which is not measured.
    nearest_neighbors(vectors[:2], gallery[:100], 1)
    start, clock, peak = anonymous_memory(), time.perf_counter(), Peak()
    peak.start()
    neighbors, _ = nearest_neighbors(vectors, gallery, k)
    seconds = time.perf_counter() - clock
    peak.done.set()
    peak.join()
    recovered = float(np.mean((neighbors == rows[:, None]).any(axis=1)))
    result = {"seconds": seconds, "mebibytes": peak.peak - start}
    print(json.dumps(result | {"recovered": recovered}))


def main():
    """Measures each gallery in a separate process, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, nargs="+", default=[40_000, 160_000])
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--dimension", type=int, default=640)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--folder", help="folder for the files of the galleries")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.queries, arguments.k)
        return
    print("  gallery  queries  seconds  Gpairs/s  MiB above start  source found")
    for rows in arguments.gallery:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = pathlib.Path(folder, "gallery.npy")
            write_gallery(path, rows, arguments.dimension)
            command = [sys.executable, __file__, "--measure", str(path)]
            command += ["--queries", str(arguments.queries), "--k", str(arguments.k)]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        result = json.loads(process.stdout)
        speed = arguments.queries * rows / result["seconds"] / 1e9
        print(
            f"{rows:9,} {arguments.queries:8,} {result['seconds']:8.1f} {speed:9.3f} "
            f"{result['mebibytes']:15.0f} {100 * result['recovered']:13.1f}%",
            flush=True,
        )


if __name__ == "__main__":
    main()
