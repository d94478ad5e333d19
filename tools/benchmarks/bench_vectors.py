"""Measures size, time and recall of the encodings of an index's embeddings.

`python tools/benchmarks/bench_vectors.py --images FOLDER --rows 100000 1000000` prints
a Markdown table. The vectors are the embeddings of FOLDER, and points between two of
them with noise, because there are not enough real images. The queries are texts and
held-out images. The encodings take turns, so that background load affects all of them
equally. Recall is the fraction of the ten best rows in float32 that are returned.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
from bench_search import QUERIES, ROWS_AT_ONCE, write_vectors

from align_keras import load_model
from align_keras.search import Index, approximate, exact_scan, vector_rows
from align_keras.search.index_files import ENCODINGS

# Rows that a search ranks first for ten hits.
_RANKED = 104
_HITS = 10


def main():
    """Runs the benchmark for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, metavar="FOLDER")
    parser.add_argument("--model", default="align_small_en")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--queries", type=int, default=10, help="texts, and images")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    print(
        "| rows | vectors | on disk, MB | read by a scan, MB | exact, ms | "
        "approximate, ms | recall@10 | largest error of a score |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        index = Index.build(pathlib.Path(work, "real"), [arguments.images], model)
        real = np.unique(np.array(index.store.vectors()), axis=0)
        held_out, real = real[::50], np.delete(real, np.s_[::50], axis=0)
        texts = model.encode_texts(QUERIES[:: len(QUERIES) // arguments.queries])
        queries = np.concatenate(
            [texts[: arguments.queries], held_out[: arguments.queries]]
        )
        for count in arguments.rows:
            folder = pathlib.Path(work, str(count))
            folder.mkdir()
            bench_rows(folder, real, queries, count)


def bench_rows(folder, real, queries, count):
    """Prints a line for each encoding."""
    write_vectors(folder / "vectors.0.f32", real, count)
    encoded = {
        encoding: write_encoding(folder, encoding, count, real.shape[1])
        for encoding in ENCODINGS
    }
    codes = None
    if approximate.build_or_update(folder, "vectors.0.f32", encoded["float32"][0]):
        codes = approximate.Approximate.open(folder, "vectors.0.f32", real.shape[1])
    seconds = {}
    results = {}
    for query in queries:
        for encoding, (rows, _) in encoded.items():
            start = time.perf_counter()
            best, scores = rank(rows, query, None)
            seconds.setdefault((encoding, "exact"), []).append(
                time.perf_counter() - start
            )
            results.setdefault(encoding, []).append((best, scores))
            if codes is not None:
                start = time.perf_counter()
                rank(rows, query, codes.find(query, _RANKED, rows))
                seconds.setdefault((encoding, "approximate"), []).append(
                    time.perf_counter() - start
                )
    for encoding, (_, paths) in encoded.items():
        recalls = []
        errors = []
        for (best, scores), (expected, _), query in zip(
            results[encoding], results["float32"], queries, strict=True
        ):
            recalls.append(len(np.intersect1d(best, expected)) / _HITS)
            true_scores = encoded["float32"][0][best].astype(float) @ query
            errors.append(np.abs(scores - true_scores).max())
        sizes = [path.stat().st_size / 1e6 for path in paths]
        times = [
            f"{1e3 * statistics.median(seconds[encoding, kind]):.0f}"
            if (encoding, kind) in seconds
            else ""
            for kind in ("exact", "approximate")
        ]
        print(
            f"| {count:,} | {encoding} | {sum(sizes):,.0f} | {sizes[0]:,.0f} | "
            f"{times[0]} | {times[1]} | {np.mean(recalls):.3f} | {max(errors):.1e} |",
            flush=True,
        )


def write_encoding(folder, encoding, count, width):
    """Writes the vectors in an encoding. Returns the rows and their files."""
    source = np.memmap(folder / "vectors.0.f32", np.float32, "r").reshape(-1, width)
    if encoding == "float32":
        return source, [folder / "vectors.0.f32"]
    number_of_files = len(vector_rows.row_bytes(encoding, width))
    paths = [folder / f"{encoding}.{number}" for number in range(number_of_files)]
    deviation = 0.0
    for start in range(0, count, ROWS_AT_ONCE):
        planes = vector_rows.encode(source[start : start + ROWS_AT_ONCE], encoding)
        deviation = max(deviation, vector_rows.scan_deviation(planes, encoding))
        for path, plane in zip(paths, planes, strict=True):
            with open(path, "ab") as file:
                file.write(plane.tobytes())
    return vector_rows.map_rows(paths, encoding, count, width, deviation), paths


def rank(vectors, query, rows):
    """Returns the ten best rows and their scores, as `Store.ranked` finds them."""
    scanned = exact_scan.scan(vectors, query, rows)
    error = exact_scan.scan_error(len(query), 1.01)
    error += getattr(vectors, "deviation", 0.0)

    def exact(positions):
        numbers = positions if rows is None else rows[positions]
        return exact_scan.exact_scores(vectors, query, numbers)

    best, scores = next(exact_scan.by_rank(scanned, _RANKED, exact, error))
    best = best if rows is None else rows[best]
    return best[:_HITS], scores[:_HITS]


if __name__ == "__main__":
    main()
