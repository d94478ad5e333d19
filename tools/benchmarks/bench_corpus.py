"""Measures speed and memory of the text filters as the number of alt-texts grows.

`python tools/benchmarks/bench_corpus.py` writes Parquet tables of 10,000 to 1,000,000
alt-texts, and runs the tasks of `align-keras corpus filter` on them: count, merge,
choose and filter. Words and whole texts are drawn by Zipf's law. `--sizes 10000000`
needs 2 GB on the disk of --folder.

The speed is the number of alt-texts divided by the seconds of all four tasks in
--processes processes. The CPU time depends less on other programs. Memory is the peak
resident set of the largest process, and the peak sum over all processes. Both include
memory-mapped and shared files. `--vocabulary 100000` also learns a vocabulary of all
texts.
"""

import argparse
import concurrent.futures
import functools
import importlib
import multiprocessing
import pathlib
import tempfile
import threading
import time

from harness import positive, run_benchmark

from align_keras.corpus import Thresholds
from align_keras.corpus.filters.counts import (
    choose_frequent,
    count_partitions,
    count_texts,
    merge_counts,
)
from align_keras.corpus.filters.tables import filter_table, merge_results
from align_keras.corpus.filters.texts import unigrams

ROWS_PER_TABLE = 250_000
WORDS = 1_000_000
# Fractions of texts that many images share (such as "logo"), and of texts with letters
# beyond ASCII, with HTML entities and with digits. These texts take the filters longer.
SHARED, FOREIGN, ESCAPED, NUMBERED = 0.10, 0.15, 0.03, 0.05
SEED = 0


def words():
    """Returns distinct words by descending frequency. Frequent words are short."""
    consonants, vowels = "tnshrdlcmfwpbgkvyz", "eaoiu"
    syllables = [first + second for first in consonants for second in vowels]
    result = []
    for rank in range(WORDS):
        word = ""
        while rank or not word:
            rank, syllable = divmod(rank, len(syllables))
            word += syllables[syllable]
        result.append(word)
    return result


def write_table(task):
    """Writes a table of alt-texts. The number of the table is its seed."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path, number, rows = task
    random = np.random.default_rng([SEED, number])
    vocabulary = words()
    lengths = random.integers(1, 16, rows)
    # Zipf's law: the probability of the word with rank r is proportional to 1 / r.
    ranks = np.cumsum(1 / np.arange(1, WORDS + 1))
    drawn = np.searchsorted(ranks, random.random(lengths.sum()) * ranks[-1])
    drawn = iter(drawn.tolist())
    texts = [
        " ".join(vocabulary[next(drawn)] for _ in range(length)) for length in lengths
    ]
    kinds = random.random(rows)
    shared = np.minimum(random.zipf(1.3, rows), 50_000)
    for row, kind in enumerate(kinds):
        if kind < SHARED:
            texts[row] = f"shared text {shared[row]}"
        elif kind < SHARED + FOREIGN:
            texts[row] = texts[row].replace("a", "ä").replace("o", "о")
        elif kind < SHARED + FOREIGN + ESCAPED:
            texts[row] += " &amp; <b>more</b>"
        elif kind < SHARED + FOREIGN + ESCAPED + NUMBERED:
            texts[row] += f" {shared[row]} 2021-05-03"
    keys = [key.tobytes().hex() for key in random.integers(0, 2**63, (rows, 2))]
    strings = {
        "image": [f"part-{number}.tar#{row}" for row in range(rows)],
        "image_key": keys,
        "caption": texts,
        "rule": ["alt"] * rows,
        "language": ["en"] * rows,
        "page_url": [f"https://example.org/{number}/{row}" for row in range(rows)],
        "source": ["bench"] * rows,
    }
    sizes = random.integers(100, 2000, (2, rows)).astype("int32")
    table = pyarrow.table(strings | {"width": sizes[0], "height": sizes[1]})
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=50_000)


class Memory(threading.Thread):
    """Thread that samples the resident sets of child processes.

    Attributes:
        largest: Peak of a single process in MiB.
        together: Peak of the sum in MiB.
        done: Event that stops the thread.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.largest = self.together = 0.0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            children = multiprocessing.active_children()
            sizes = [_resident(child.pid) for child in children]
            if sizes:
                self.largest = max(self.largest, *sizes, 0.0)
                self.together = max(self.together, sum(sizes))


def _resident(process):
    """Returns the resident set of a process in MiB (Linux), or 0 if it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if "VmRSS" in line), 0.0)


def warm_up(seconds):
    """Loads the libraries of a worker, and waits so that every worker gets a task."""
    importlib.import_module("pyarrow.parquet")
    unigrams("ä")
    time.sleep(seconds)


def timed(function, task):
    """Returns the result of a task and its CPU seconds."""
    start = time.process_time()
    return function(task), time.process_time() - start


def filter_one(path, folder, thresholds):
    """Filters a table, and writes the result to the folder `kept`."""
    return filter_table(path, folder / "kept" / path.name, folder, thresholds)


def measure(paths, folder, thresholds, processes):
    """Runs the tasks.

    Returns:
        Tuple of a dict of task → seconds, the CPU seconds, the counts of the filters
        and the `Memory`.
    """
    memory = Memory()
    seconds, cpu_seconds = {}, []
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, spawn) as pool:
        list(pool.map(warm_up, [0.5] * processes))
        memory.start()

        def run(name, function, tasks):
            start = time.perf_counter()
            results = list(pool.map(functools.partial(timed, function), tasks))
            seconds[name] = time.perf_counter() - start
            cpu_seconds.extend(cpu for _, cpu in results)
            return [result for result, _ in results]

        run("count", functools.partial(count_texts, folder=folder), paths)
        partitions = max(processes, count_partitions(folder))
        merge = functools.partial(
            merge_counts, partitions=partitions, folder=folder, thresholds=thresholds
        )
        run("merge", merge, range(partitions))
        choose = functools.partial(
            choose_frequent, folder=folder, thresholds=thresholds
        )
        run("choose", choose, [partitions])
        filter_rows = functools.partial(
            filter_one, folder=folder, thresholds=thresholds
        )
        result = merge_results(run("filter", filter_rows, paths))
        memory.done.set()
        memory.join()
    return seconds, sum(cpu_seconds), result["counts"], memory


def vocabulary_seconds(paths, size):
    """Learns a vocabulary of all texts. Returns the seconds and the vocabulary size."""
    from align_keras.corpus.parquet_tables import read_rows
    from align_keras.text import learn_vocabulary

    start = time.perf_counter()
    texts = (row["caption"] for path in paths for row in read_rows(path))
    tokens = learn_vocabulary(texts, size)
    return time.perf_counter() - start, len(tokens)


def main():
    """Measures each size in new processes, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=positive, nargs="+", default=sizes)
    parser.add_argument("--processes", type=positive, default=2)
    parser.add_argument(
        "--frequent",
        type=float,
        default=0.5,
        help="number of frequent n-grams per alt-text",
    )
    parser.add_argument(
        "--vocabulary", type=positive, help="size of a vocabulary to learn"
    )
    parser.add_argument("--folder", help="folder for the tables")
    arguments = parser.parse_args()
    print(
        " alt-texts  count  merge choose filter (seconds)  alt-texts/s  "
        "CPU µs each  MiB largest  MiB together   kept"
    )
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            folder = pathlib.Path(folder)
            tasks = [
                (
                    folder / f"{number}.parquet",
                    number,
                    min(ROWS_PER_TABLE, size - first),
                )
                for number, first in enumerate(range(0, size, ROWS_PER_TABLE))
            ]
            with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
                pool.map(write_table, tasks, chunksize=1)
            thresholds = Thresholds(frequent_ngrams=int(arguments.frequent * size))
            paths = [path for path, _, _ in tasks]
            seconds, cpu_seconds, counts, memory = measure(
                paths, folder, thresholds, arguments.processes
            )
            vocabulary = arguments.vocabulary and vocabulary_seconds(
                paths, arguments.vocabulary
            )
        columns = " ".join(f"{value:6.1f}" for value in seconds.values())
        print(
            f"{size:10,} {columns} {size / sum(seconds.values()):22,.0f} "
            f"{1e6 * cpu_seconds / size:12.1f} {memory.largest:12.0f} "
            f"{memory.together:13.0f} "
            f"{counts['kept'] / size:6.1%}",
            flush=True,
        )
        print(f"{'':10} {counts}", flush=True)
        if vocabulary:
            print(f"{'':10} vocabulary of {vocabulary[1]:,} in {vocabulary[0]:.1f} s")


if __name__ == "__main__":
    run_benchmark(main)
