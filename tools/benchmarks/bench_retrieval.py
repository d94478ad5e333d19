"""Measures time and peak memory of exact recall at the size of COCO and beyond.

`python tools/benchmarks/bench_retrieval.py` ranks

- 5,000 images against 25,000 captions in both directions, as the 5K test of COCO does,
- the captions against each other, as CxC does,
- and 5,000 images against 50,000 and 100,000 captions.

Embeddings have 640 values and unit length. Each case runs in a separate process with
memory-mapped embeddings. Memory is the anonymous memory of the process minus that
before the ranking. It excludes pages of the mapped files, which the system frees when
it needs memory. Seconds are wall time | CPU time. Only the CPU time is meaningful if
other programs run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from bench_knn import Peak, anonymous_memory

CAPTIONS = 5
# Direction of retrieval and captions per image.
CASES = (
    ("i2t", CAPTIONS),
    ("t2i", CAPTIONS),
    ("t2t", CAPTIONS),
    ("i2t", 2 * CAPTIONS),
    ("i2t", 4 * CAPTIONS),
)
ROWS_AT_ONCE = 5000


def write_embeddings(folder, num_images, captions, dimension):
    """Writes unit rows. Captions are similar to their images."""
    import numpy as np

    random = np.random.default_rng(0)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    images = unit(random.standard_normal((num_images, dimension), "float32"))
    np.save(folder / "images.npy", images)
    texts = np.lib.format.open_memmap(
        folder / "texts.npy", "w+", "float32", (num_images * captions, dimension)
    )
    for start in range(0, len(texts), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(texts))) // captions
        noise = unit(random.standard_normal((len(rows), dimension), "float32"))
        texts[start : start + len(rows)] = unit(images[rows] + 6 * noise)
    texts.flush()


def measure(folder, direction, captions):
    """Measures the ranks of one direction. Prints the result as JSON."""
    import numpy as np

    from align_keras.evaluation import rank_of_best_positive, recall_of_ranks

    images, texts = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "texts")
    )
    owners = np.arange(len(texts)) // captions
    caption_rows = np.arange(len(texts)).reshape(-1, captions)
    queries, gallery, positives = {
        "i2t": (images, texts, caption_rows),
        "t2i": (texts, images, owners),
        # The next caption of the same image.
        "t2t": (texts, texts, np.roll(caption_rows, -1, axis=1).reshape(-1)),
    }[direction]
    itself = np.arange(len(queries)) if direction == "t2t" else None
    # The libraries allocate memory at the first ranking, which is not measured.
    rank_of_best_positive(images[:9], images[:9], range(9))
    start, peak = anonymous_memory(), Peak()
    peak.start()
    wall, cpu = time.perf_counter(), time.process_time()
    ranks = rank_of_best_positive(queries, gallery, positives, leave_out=itself)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak.done.set()
    peak.join()
    result = {"wall": wall, "cpu": cpu, "mebibytes": peak.peak - start}
    result["recall_at_10"] = recall_of_ranks(ranks)[10]
    result |= {"queries": len(queries), "gallery": len(gallery)}
    print(json.dumps(result))


def main():
    """Measures each case in a separate process, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=640)
    parser.add_argument("--folder", help="folder for the files of the embeddings")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, direction, captions = arguments.measure
        measure(pathlib.Path(folder), direction, int(captions))
        return
    print("        queries  gallery       seconds  MiB above start  R@10")
    for direction, captions in CASES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            write_embeddings(
                pathlib.Path(folder), arguments.images, captions, arguments.dimension
            )
            command = [sys.executable, __file__, "--measure", folder, direction]
            process = subprocess.run(
                [*command, str(captions)], check=True, stdout=subprocess.PIPE
            )
        result = json.loads(process.stdout)
        print(
            f"{direction}   {result['queries']:9,} {result['gallery']:8,} "
            f"{result['wall']:6.1f} | {result['cpu']:4.1f} {result['mebibytes']:15.0f} "
            f"{100 * result['recall_at_10']:5.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
