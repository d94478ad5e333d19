"""Time and peak memory of exact recall, at COCO's size and as the gallery grows.

`python tools/benchmarks/bench_retrieval.py` ranks 5,000 pictures against 25,000
captions both ways, as the 5K test does, then captions among themselves, as CxC does,
and 5,000 pictures against galleries of 50,000 and 100,000 captions; 640 numbers each,
unit length. Each case runs in a process of its own, its embeddings in files that are
mapped, not read. Memory is what the process itself holds (anonymous memory) over what
it held before; pages of the mapped files come on top, which the system takes back when
it needs them. Seconds are wall | CPU; where other programs compute, only the CPU's mean
something.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from bench_knn import Peak, held

CAPTIONS = 5
# What is searched by what, and captions a picture.
CASES = (
    ("i2t", CAPTIONS),
    ("t2i", CAPTIONS),
    ("t2t", CAPTIONS),
    ("i2t", 2 * CAPTIONS),
    ("i2t", 4 * CAPTIONS),
)
ROWS_AT_ONCE = 5000


def write_embeddings(folder, pictures, captions, dimension):
    """Writes unit rows, captions somewhat like their pictures."""
    import numpy as np

    random = np.random.default_rng(0)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    images = unit(random.standard_normal((pictures, dimension), "float32"))
    np.save(folder / "images.npy", images)
    texts = np.lib.format.open_memmap(
        folder / "texts.npy", "w+", "float32", (pictures * captions, dimension)
    )
    for start in range(0, len(texts), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(texts))) // captions
        noise = unit(random.standard_normal((len(rows), dimension), "float32"))
        texts[start : start + len(rows)] = unit(images[rows] + 6 * noise)
    texts.flush()


def measure(folder, direction, captions):
    """Prints one measurement as JSON."""
    import numpy as np

    from align_keras.evaluation import rank_of_best_positive, recall_of_ranks

    images, texts = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "texts")
    )
    owners = np.arange(len(texts)) // captions
    of_picture = np.arange(len(texts)).reshape(-1, captions)
    queries, gallery, right = {
        "i2t": (images, texts, of_picture),
        "t2i": (texts, images, owners),
        # The next caption of the same picture.
        "t2t": (texts, texts, np.roll(of_picture, -1, axis=1).reshape(-1)),
    }[direction]
    itself = np.arange(len(queries)) if direction == "t2t" else None
    # The libraries' own memory.
    rank_of_best_positive(images[:9], images[:9], range(9))
    start, peak = held(), Peak()
    peak.start()
    wall, cpu = time.perf_counter(), time.process_time()
    ranks = rank_of_best_positive(queries, gallery, right, leave_out=itself)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak.done.set()
    peak.join()
    result = {"wall": wall, "cpu": cpu, "mebibytes": peak.peak - start}
    result["recall_at_10"] = recall_of_ranks(ranks)[10]
    result |= {"queries": len(queries), "gallery": len(gallery)}
    print(json.dumps(result))


def main():
    """Measures each case in a process of its own and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=640)
    parser.add_argument("--folder", help="where the embeddings' files are written")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, direction, captions = arguments.measure
        measure(pathlib.Path(folder), direction, int(captions))
        return
    print("        queries  gallery       seconds  MiB over start  R@10")
    for direction, captions in CASES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            write_embeddings(
                pathlib.Path(folder), arguments.pictures, captions, arguments.dimension
            )
            command = [sys.executable, __file__, "--measure", folder, direction]
            answer = subprocess.run(
                [*command, str(captions)], check=True, stdout=subprocess.PIPE
            )
        found = json.loads(answer.stdout)
        print(
            f"{direction}   {found['queries']:9,} {found['gallery']:8,} "
            f"{found['wall']:6.1f} | {found['cpu']:4.1f} {found['mebibytes']:15.0f} "
            f"{100 * found['recall_at_10']:5.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
