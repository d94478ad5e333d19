"""Speed and memory of the corpus's text filters as the number of alt-texts grows.

`python tools/benchmarks/bench_corpus.py` draws 10,000 to 1,000,000 alt-texts by Zipf's
law, the words and whole texts alike (`--sizes 10000000` is the corpus that the README
speaks of, 2 GB on the disk of --folder), into Parquet tables, and runs the tasks of
`align-keras corpus filter` on them: count, merge, choose, filter. Speed is alt-texts by
the seconds of all four tasks, in --processes processes; the processors' time, which
other work on the machine lengthens less, stands beside it. Memory is the largest
resident set of one process, and of all together at one time; pages of files that are
mapped and shared are in both. `--vocabulary 100000` learns one of all texts, too.
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
# Of all texts, those that many pictures share ("logo", "home"), and those that need
# more than a glance: letters beyond ASCII, entities, digits.
SHARED, FOREIGN, ESCAPED, NUMBERED = 0.10, 0.15, 0.03, 0.05
SEED = 0


def words():
    """Returns distinct words, the frequent ones short."""
    consonants, vowels = "tnshrdlcmfwpbgkvyz", "eaoiu"
    syllables = [first + second for first in consonants for second in vowels]
    found = []
    for rank in range(WORDS):
        word = ""
        while rank or not word:
            rank, syllable = divmod(rank, len(syllables))
            word += syllables[syllable]
        found.append(word)
    return found


def write_table(task):
    """Writes one table of alt-texts; a table's number is its seed."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path, number, rows = task
    random = np.random.default_rng([SEED, number])
    known = words()
    lengths = random.integers(1, 16, rows)
    # Zipf's law: the word of rank r is drawn in proportion to 1 / r.
    ranks = np.cumsum(1 / np.arange(1, WORDS + 1))
    drawn = np.searchsorted(ranks, random.random(lengths.sum()) * ranks[-1])
    drawn = iter(drawn.tolist())
    texts = [" ".join(known[next(drawn)] for _ in range(length)) for length in lengths]
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
    keys = [own.tobytes().hex() for own in random.integers(0, 2**63, (rows, 2))]
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
    """Looks at the resident sets of processes every few milliseconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest = self.together = 0.0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            children = multiprocessing.active_children()
            held = [_resident(own.pid) for own in children]
            if held:
                self.largest = max(self.largest, *held, 0.0)
                self.together = max(self.together, sum(held))


def _resident(process):
    """MiB of a process (Linux), 0 if it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(own.split()[1]) / 1024 for own in lines if "VmRSS" in own), 0.0)


def warm_up(seconds):
    """Loads what a worker loads once, and holds it so that each one does."""
    importlib.import_module("pyarrow.parquet")
    unigrams("ä")
    time.sleep(seconds)


def timed(function, task):
    """Returns a task's result and the seconds of the processor that it took."""
    start = time.process_time()
    return function(task), time.process_time() - start


def filter_one(path, folder, thresholds):
    """Filters one table beside itself."""
    return filter_table(path, folder / "kept" / path.name, folder, thresholds)


def measure(paths, folder, thresholds, processes):
    """Runs the tasks; returns (seconds by task, CPU seconds, counts, memory)."""
    memory = Memory()
    seconds, processor = {}, []
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, spawn) as pool:
        list(pool.map(warm_up, [0.5] * processes))
        memory.start()

        def run(name, function, tasks):
            clock = time.perf_counter()
            results = list(pool.map(functools.partial(timed, function), tasks))
            seconds[name] = time.perf_counter() - clock
            processor.extend(own for _, own in results)
            return [result for result, _ in results]

        run("count", functools.partial(count_texts, folder=folder), paths)
        partitions = max(processes, count_partitions(folder))
        given = {"partitions": partitions, "folder": folder, "thresholds": thresholds}
        run("merge", functools.partial(merge_counts, **given), range(partitions))
        choose = functools.partial(
            choose_frequent, folder=folder, thresholds=thresholds
        )
        run("choose", choose, [partitions])
        own = functools.partial(filter_one, folder=folder, thresholds=thresholds)
        result = merge_results(run("filter", own, paths))
        memory.done.set()
        memory.join()
    return seconds, sum(processor), result["counts"], memory


def vocabulary_seconds(paths, size):
    """Returns how long learning a vocabulary of all texts takes, and its tokens."""
    from align_keras.corpus.parquet_tables import read_rows
    from align_keras.text import learn_vocabulary

    start = time.perf_counter()
    texts = (row["caption"] for path in paths for row in read_rows(path))
    tokens = learn_vocabulary(texts, size)
    return time.perf_counter() - start, len(tokens)


def main():
    """Measures each size in fresh processes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--frequent", type=float, default=0.5, help="frequent n-grams an alt-text"
    )
    parser.add_argument("--vocabulary", type=int, help="tokens to learn of the texts")
    parser.add_argument("--folder", help="where the tables are written")
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
            seconds, processor, counts, memory = measure(
                paths, folder, thresholds, arguments.processes
            )
            learned = arguments.vocabulary and vocabulary_seconds(
                paths, arguments.vocabulary
            )
        columns = " ".join(f"{own:6.1f}" for own in seconds.values())
        print(
            f"{size:10,} {columns} {size / sum(seconds.values()):22,.0f} "
            f"{1e6 * processor / size:12.1f} {memory.largest:12.0f} "
            f"{memory.together:13.0f} "
            f"{counts['kept'] / size:6.1%}",
            flush=True,
        )
        print(f"{'':10} {counts}", flush=True)
        if learned:
            print(f"{'':10} a vocabulary of {learned[1]:,} in {learned[0]:.1f} s")


if __name__ == "__main__":
    main()
