"""Finding copies among many pictures: one process against several.

    python tools/bench_divided_search.py --modes hash --sizes 100000 1000000 4000000
    python tools/bench_divided_search.py --modes embedding --sizes 100000 300000

Signatures are drawn, a tenth of them changed copies of others. Hashes have 10 degrees
of freedom: their bands agree 110 times as often as by chance, those of the Open Clip
Art Library 160 times, of emoji 280 times. Embeddings are of 320 numbers, as
EfficientNet-Lite0's, with 32 degrees of freedom. Each run has a process of its own.
"Fit" is k-means, which is never divided. Processor time and peaks are of the process
that was started, and of its workers. All runs of a size must find the same.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from align_keras.corpus.divided_search import DividedSearch
from align_keras.corpus.near_duplicates import Pictures, find_duplicates

OPTIONS = {"hash": {"threshold": 8}, "embedding": {"threshold": 0.975}}


def signatures(mode, count):
    """Draws hashes, uint64 (n, 1, 2), or embeddings, float16 (n, 320)."""
    random = np.random.default_rng(0)
    whole = count - count // 10
    shape = (10, 128) if mode == "hash" else (32, 320)
    mixing = random.normal(size=shape).astype(np.float32)
    source = random.integers(0, whole, count)
    source[:whole] = np.arange(whole)
    numbers = random.standard_normal((whole, len(mixing)), np.float32)
    parts = []
    for start in range(0, count, 100_000):
        rows = np.arange(start, min(start + 100_000, count))
        own = numbers[source[rows]] @ mixing
        copied = rows >= whole
        if mode == "hash":
            flipped = (random.random(own.shape, np.float32) < 0.04) & copied[:, None]
            packed = np.packbits((own > 0) ^ flipped, axis=1)
            parts.append(packed.view(np.uint64).reshape(-1, 1, 2))
        else:
            own /= np.linalg.norm(own, axis=1, keepdims=True)
            # Cosines to the original from 1 to 0.95.
            width = 0.32 * random.random((len(own), 1), np.float32) * copied[:, None]
            noise = random.standard_normal(own.shape, np.float32) / np.sqrt(320)
            parts.append((own + width * noise).astype(np.float16))
    return np.concatenate(parts)


def measure(mode, path, workers):
    """Finds copies in a file of signatures; prints a line of JSON."""
    # As the command does: hashes in memory, embeddings mapped.
    rows = np.load(path, mmap_mode="r" if mode == "embedding" else None)
    sizes = np.random.default_rng(1).integers(1, 1000, len(rows))
    corpus = Pictures([f"{number:08}" for number in range(len(rows))], rows, sizes)
    fitted = {}

    def watched(search):
        fit = search.fit

        def timed(*arguments):
            start = time.process_time()
            fit(*arguments)
            fitted["seconds"] = time.process_time() - start

        search.fit = timed
        return search

    with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as folder:
        divide = functools.partial(DividedSearch, folder=folder, workers=workers)
        before, start = np.array(_processor()), time.perf_counter()
        dropped = find_duplicates(
            corpus,
            mode=mode,
            divide=lambda search: watched(divide(search)),
            **OPTIONS[mode],
        )
        seconds = time.perf_counter() - start
        shares = len(list(pathlib.Path(folder, "tasks").glob("*.json")))
    digest = hashlib.sha256(json.dumps(dropped).encode()).hexdigest()
    peaks = [
        resource.getrusage(who).ru_maxrss / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    own, workers = (np.array(_processor()) - before).tolist()
    found = {"wall": seconds, "own": own, "workers": workers, "peaks": peaks}
    found |= {"fit": fitted["seconds"], "shares": shares}
    print(json.dumps(found | {"dropped": len(dropped), "digest": digest}))


def _processor():
    """Seconds of this process, and of those that it has ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return [own.ru_utime + own.ru_stime for own in both]


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modes", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run[0], arguments.run[1], int(arguments.run[2]))
        return
    columns = "mode, pictures, workers, shares, leave, wall (s), processor (s), "
    columns += "of it fit, processor of the workers (s), GiB, GiB of a worker"
    columns = columns.split(", ")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for mode in arguments.modes:
        for size in arguments.sizes:
            _compare(mode, size, arguments.workers)


def _compare(mode, size, workers):
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "signatures.npy")
        np.save(path, signatures(mode, size))
        for count in workers:
            command = [sys.executable, __file__, "--run", mode, str(path), str(count)]
            said = subprocess.run(command, check=True, capture_output=True, text=True)
            own = json.loads(said.stdout)
            digests.add(own["digest"])
            seconds = [own[name] for name in ("wall", "own", "fit", "workers")]
            numbers = " | ".join(f"{number:.1f}" for number in seconds)
            first, largest = own["peaks"]
            peaks = f"{first:.2f} | {largest if own['shares'] else 0:.2f}"
            row = f"{mode} | {size:,} | {count} | {own['shares']} | {own['dropped']:,}"
            print(f"| {row} | {numbers} | {peaks} |", flush=True)
    if len(digests) > 1:
        raise SystemExit(f"{mode}, {size:,}: the workers found something else")


if __name__ == "__main__":
    main()
