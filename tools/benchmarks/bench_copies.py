"""Measures time and memory of the search for near duplicates as the corpus grows.

    python tools/benchmarks/bench_copies.py --modes hash --sizes 100000 1000000 4000000
    python tools/benchmarks/bench_copies.py --modes embedding --sizes 100000 300000

Signatures are random. A tenth of them are changed copies of other signatures. Hashes
have 10 degrees of freedom, so that their bands agree 110 times as often as by chance.
The factor is 160 for the Open Clip Art Library and 280 for emoji. Embeddings have 320
values, like those of EfficientNet-Lite0, with 32 degrees of freedom. Each measurement
runs in a separate process. The memory includes the embeddings, which are memory-mapped.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from turns import memory, timed

from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE_SEARCHES,
    ImageSet,
    find_duplicates,
)

OPTIONS = {"hash": {"threshold": 8}, "embedding": {"threshold": 0.975}}


def signatures(mode, count):
    """Draws random hashes, uint64 (n, 1, 2), or embeddings, float16 (n, 320)."""
    random = np.random.default_rng(0)
    num_originals = count - count // 10
    shape = (10, 128) if mode == "hash" else (32, 320)
    mixing = random.normal(size=shape).astype(np.float32)
    source = random.integers(0, num_originals, count)
    source[:num_originals] = np.arange(num_originals)
    numbers = random.standard_normal((num_originals, len(mixing)), np.float32)
    parts = []
    for start in range(0, count, 100_000):
        rows = np.arange(start, min(start + 100_000, count))
        values = numbers[source[rows]] @ mixing
        is_copy = rows >= num_originals
        if mode == "hash":
            flipped = (random.random(values.shape, np.float32) < 0.04) & is_copy[
                :, None
            ]
            packed = np.packbits((values > 0) ^ flipped, axis=1)
            parts.append(packed.view(np.uint64).reshape(-1, 1, 2))
        else:
            values /= np.linalg.norm(values, axis=1, keepdims=True)
            # The cosine between a copy and its original is from 0.95 to 1.
            width = (
                0.32 * random.random((len(values), 1), np.float32) * is_copy[:, None]
            )
            noise = random.standard_normal(values.shape, np.float32) / np.sqrt(320)
            parts.append((values + width * noise).astype(np.float16))
    return np.concatenate(parts)


def measure(mode, path):
    """Finds near duplicates in a file of signatures. Prints a line of JSON."""
    # Hashes are in memory and embeddings are memory-mapped, as in the command.
    rows = np.load(path, mmap_mode="r" if mode == "embedding" else None)
    sizes = np.random.default_rng(1).integers(1, 1000, len(rows))
    corpus = ImageSet([f"{number:08}" for number in range(len(rows))], rows, sizes)
    fit, fit_seconds = DUPLICATE_SEARCHES[mode].fit, []
    DUPLICATE_SEARCHES[mode].fit = lambda *arguments: fit_seconds.append(
        timed(fit, *arguments)[1]
    )
    wall, processor = time.perf_counter(), time.process_time()
    dropped = find_duplicates(corpus, mode=mode, **OPTIONS[mode])
    seconds = [
        time.perf_counter() - wall,
        time.process_time() - processor,
        *fit_seconds,
    ]
    # `ru_maxrss` would include the peak of the process that drew the signatures.
    print(json.dumps([len(dropped), *seconds, memory("VmHWM") / 2**30]))


def main():
    """Measures each mode and size, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modes", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000])
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(*arguments.run)
        return
    columns = "mode, images, dropped, wall (s), CPU (s), CPU of k-means (s), GiB"
    columns = columns.split(", ")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for mode in arguments.modes:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "signatures.npy")
                np.save(path, signatures(mode, size))
                command = [sys.executable, __file__, "--run", mode, str(path)]
                process = subprocess.run(command, check=True, capture_output=True)
            dropped, *numbers = json.loads(process.stdout)
            numbers = " | ".join(f"{number:.2f}" for number in numbers)
            print(f"| {mode} | {size:,} | {dropped:,} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
