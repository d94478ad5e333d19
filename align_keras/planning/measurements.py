"""Measured speeds and sizes for the estimates of `align_keras.planning.size_plans`.

To update a measurement, run its command on an idle machine and replace the value, the
machine and the date.
"""

import dataclasses

MACHINE = "a shared cloud machine with two x86-64 cores"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Measured speed or size.

    Attributes:
        value: float, the result.
        unit: str, unit of the value. Seconds are processor time of one core.
        command: str, command or files that were measured.
        date: str, date of the measurement in ISO format.
        machine: str, description of the machine.
    """

    value: float
    unit: str
    command: str
    date: str
    machine: str = MACHINE


# === Corpus ===

_EXTRACT_COMMAND = (
    "align-keras corpus extract --workers 1 on the GIMP manual, 710 pages of 11 KB "
    "with 5,881 pairs"
)
_BENCH_CORPUS = "python tools/benchmarks/bench_corpus.py --sizes 1000000"
_BENCH_IMAGES = (
    "python tools/benchmarks/bench_images.py, a line through 640 × 427 and 2400 × 1600 "
    "pixels"
)
_BENCH_COPIES = (
    "python tools/benchmarks/bench_copies.py --modes hash, a parabola through "
    "1,000,000 and 10,000,000 images"
)
_CORPUS_FILES = "size of the files of a corpus, images at 346 pixels and quality 85"

EXTRACT = Measurement(0.56e-3, "s per pair", _EXTRACT_COMMAND, "2026-11-27")
FILTER = Measurement(11.7e-6, "s per pair", _BENCH_CORPUS, "2026-11-27")
IMAGE = Measurement(3.01e-3, "s per image", _BENCH_IMAGES, "2026-11-27")
MEGAPIXEL = Measurement(2.35e-3, "s per megapixel", _BENCH_IMAGES, "2026-11-27")
COPIES = Measurement(38.6e-6, "s per image", _BENCH_COPIES, "2026-11-28")
COPY_PAIRS = Measurement(13.3e-12, "s per pair of images", _BENCH_COPIES, "2026-11-28")
PAIR_SIZE = Measurement(220, "bytes per pair", _CORPUS_FILES, "2026-11-27")
# An image is stored in a table and again in a shard while a corpus is built.
IMAGE_SIZE = Measurement(2 * 40_000, "bytes per image", _CORPUS_FILES, "2026-11-27")
WORKER_MEMORY = Measurement(
    0.8 * 2**30, "bytes per worker", _BENCH_IMAGES, "2026-11-27"
)
COPIES_MEMORY = Measurement(0.19 * 2**30, "bytes", _BENCH_COPIES, "2026-11-27")
COPY_MEMORY = Measurement(
    0.32 * 2**30 / 1e6, "bytes per image", _BENCH_COPIES, "2026-11-27"
)

# === Index ===

# With the dimensions 64, 128 and 384, exact searches took 36, 62 and 170 ms, and
# approximate searches took 3.9, 6.0 and 14.8 ms.
_BENCH_SEARCH = (
    "OPENBLAS_NUM_THREADS=1 python tools/benchmarks/bench_search.py approximate --rows "
    "1000000 "
    "--width W, W of 64, 128 and 384"
)

EXACT_BYTES = Measurement(9.5e9, "bytes per s", _BENCH_SEARCH, "2026-11-28")
EXACT_ROWS = Measurement(120e6, "ranked rows per s", _BENCH_SEARCH, "2026-11-28")
CODE_BYTES = Measurement(7.3e9, "bytes per s", _BENCH_SEARCH, "2026-11-28")
# An approximate search computes the exact scores of the best thousand rows, or of 1 in
# 2,500 rows if the index is larger than 2.5 million rows.
RANKING = Measurement(1.7e-3, "s per query", _BENCH_SEARCH, "2026-11-28")
RANKING_ROWS = Measurement(
    2_500_000, "rows up to which a thousand are ranked", _BENCH_SEARCH, "2026-11-28"
)
# Time of an exact search in float16 and int8.
_BENCH_VECTORS = (
    "python tools/benchmarks/bench_vectors.py --images /usr/share/tuxpaint/stamps "
    "--rows 1000000"
)
FLOAT16_TIME = Measurement(1.36, "times float32", _BENCH_VECTORS, "2026-11-29")
INT8_TIME = Measurement(0.8, "times float32", _BENCH_VECTORS, "2026-11-29")
ENTRY_SIZE = Measurement(
    320,
    "bytes per image",
    "size of the SQLite file, images without captions, paths of 45 characters",
    "2026-11-27",
)

CORPUS_MEASUREMENTS = (
    EXTRACT,
    FILTER,
    IMAGE,
    MEGAPIXEL,
    COPIES,
    COPY_PAIRS,
    PAIR_SIZE,
    IMAGE_SIZE,
    WORKER_MEMORY,
    COPIES_MEMORY,
    COPY_MEMORY,
)
INDEX_MEASUREMENTS = (
    EXACT_BYTES,
    EXACT_ROWS,
    CODE_BYTES,
    RANKING,
    RANKING_ROWS,
    FLOAT16_TIME,
    INT8_TIME,
    ENTRY_SIZE,
)


def describe_measurements(measurements: tuple[Measurement, ...]) -> str:
    """Returns a sentence with the machines and dates of measurements.

    >>> describe_measurements((EXACT_BYTES,))[:38]
    'Estimates from measurements on a share'
    """
    machines = " and ".join(
        dict.fromkeys(measurement.machine for measurement in measurements)
    )
    dates = sorted({measurement.date for measurement in measurements})
    period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Estimates from measurements on {machines} ({period}). Other machines differ, "
        "often by a factor of two."
    )
