"""Finding copies among many images: seconds and memory as their number grows.

    python tools/benchmarks/bench_copies.py --modes hash --sizes 100000 1000000 4000000
    python tools/benchmarks/bench_copies.py --modes embedding --sizes 100000 300000

Signatures are drawn, a tenth of them changed copies of others. Hashes have 10 degrees
of freedom: their bands agree 110 times as often as by chance, those of the Open Clip
Art Library 160 times, of emoji 280 times. Embeddings are of 320 numbers, as
EfficientNet-Lite0's, with 32 degrees of freedom. Each run has a process of its own.
"Fit" is k-means; the memory includes the embeddings, which are mapped.
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
    MODES,
    ImageSet,
    find_duplicates,
)

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


def measure(mode, path):
    """Finds copies in a file of signatures; prints a line of JSON."""
    # As the command does: hashes in memory, embeddings mapped.
    rows = np.load(path, mmap_mode="r" if mode == "embedding" else None)
    sizes = np.random.default_rng(1).integers(1, 1000, len(rows))
    corpus = ImageSet([f"{number:08}" for number in range(len(rows))], rows, sizes)
    fit, fitted = MODES[mode].fit, []
    MODES[mode].fit = lambda *arguments: fitted.append(timed(fit, *arguments)[1])
    wall, processor = time.perf_counter(), time.process_time()
    dropped = find_duplicates(corpus, mode=mode, **OPTIONS[mode])
    seconds = [time.perf_counter() - wall, time.process_time() - processor, *fitted]
    # `ru_maxrss` is at least that of the process that drew the signatures.
    print(json.dumps([len(dropped), *seconds, memory("VmHWM") / 2**30]))


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modes", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000])
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(*arguments.run)
        return
    columns = "mode, images, leave, wall (s), processor (s), of it fit, GiB"
    columns = columns.split(", ")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for mode in arguments.modes:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "signatures.npy")
                np.save(path, signatures(mode, size))
                command = [sys.executable, __file__, "--run", mode, str(path)]
                said = subprocess.run(command, check=True, capture_output=True)
            leave, *numbers = json.loads(said.stdout)
            numbers = " | ".join(f"{number:.2f}" for number in numbers)
            print(f"| {mode} | {size:,} | {leave:,} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
