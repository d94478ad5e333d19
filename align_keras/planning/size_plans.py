"""Estimates of the time, disk and memory of a corpus and of a search index."""

import math
from typing import Any

from align_keras.planning import measurements
from align_keras.search.approximate import LEAST_ROWS
from align_keras.search.index_files import ENCODINGS
from align_keras.search.vector_rows import row_bytes
from align_keras.utils.arguments import check_choice, check_number

# Bytes per number of an embedding that an approximate search reads. A code has 2 bits.
_CODE_SIZE = 0.25
# Time of an exact search in an encoding, relative to float32.
_EXACT_TIMES = {
    "float32": 1.0,
    "float16": measurements.FLOAT16_TIME.value,
    "int8": measurements.INT8_TIME.value,
}
# Largest number of pairs or images of a plan.
MAX_ITEMS = 1e15


def plan_corpus(
    pairs: int,
    images: int | None = None,
    *,
    megapixels: float = 0.79,
    days: float = 7.0,
) -> dict[str, Any]:
    """Estimates time, disk and memory of `align-keras corpus build`.

    The estimate is based on `align_keras.planning.measurements`, which come from one
    machine. Even machines of the same kind differ by a factor of two. The ratios
    between stages and between sizes are accurate to about 25%.

    The estimate does not include the download of images. It includes the search for
    duplicates within the corpus, whose time grows with the square of the number of
    images. The paper searches only for duplicates of test images.

    Args:
        pairs: int >= 1, number of pairs of an image and an alt-text before filtering.
        images: int >= 1, number of images that are decoded and stored, or None if it
            equals `pairs`.
        megapixels: float > 0, mean size of the original images. The default 0.79 is the
            size of 1024 × 768 pixels.
        days: float > 0, time in which the corpus must be built.

    Returns:
        dict that can be stored as JSON, with the keys

        - `pairs` and `images`: the arguments.
        - `core_seconds`: processor time of the stages `extract`, `filter`, `images` and
          `copies` (search for duplicates).
        - `disk`: bytes of `pairs` and `images`.
        - `memory`: bytes of a `worker` and of the search for `copies`.
        - `workers`: number of workers that finish in `days`.
        - `source`: sentence about the measurements.

    Raises:
        InputError: if a number is too small.

    References:
        Jia et al. 2021, section 3 (1,800 million pairs).

    Example:

    >>> planned = plan_corpus(1_800_000_000)
    >>> round(planned["core_seconds"]["images"] / 3600), planned["workers"]
    (2433, 88)
    """
    images = pairs if images is None else images
    check_number("`pairs`", pairs, 1, MAX_ITEMS, whole=True)
    check_number("`images`", images, 1, MAX_ITEMS, whole=True)
    check_number("`megapixels`", megapixels, 1e-6, MAX_ITEMS)
    check_number("`days`", days, 1e-6, MAX_ITEMS)
    image_seconds = measurements.IMAGE.value + measurements.MEGAPIXEL.value * megapixels
    seconds = {
        "extract": measurements.EXTRACT.value * pairs,
        "filter": measurements.FILTER.value * pairs,
        "images": image_seconds * images,
        "copies": measurements.COPIES.value * images
        + measurements.COPY_PAIRS.value * images**2,
    }
    copies_memory = (
        measurements.COPIES_MEMORY.value + measurements.COPY_MEMORY.value * images
    )
    return {
        "pairs": pairs,
        "images": images,
        "core_seconds": seconds,
        "disk": {
            "pairs": int(measurements.PAIR_SIZE.value) * pairs,
            "images": int(measurements.IMAGE_SIZE.value) * images,
        },
        "memory": {
            "worker": int(measurements.WORKER_MEMORY.value),
            "copies": int(copies_memory),
        },
        "workers": math.ceil(sum(seconds.values()) / (86_400 * days)),
        "source": measurements.describe_measurements(measurements.CORPUS_MEASUREMENTS),
    }


def plan_index(
    images: int, dimension: int, *, vectors: str = "float32"
) -> dict[str, Any]:
    """Estimates the disk and memory of an index and the time of a query.

    The estimate is based on `align_keras.planning.measurements` of searches in a
    million vectors with one core. Exact and approximate searches read all images, so
    their time grows with the number of images and the dimension.

    Args:
        images: int >= 1, number of images.
        dimension: int >= 1, length of an embedding.
        vectors: `"float32"`, `"float16"` or `"int8"`, encoding of the embeddings on
            disk, as in `Index.build`.

    Returns:
        dict that can be stored as JSON, with the keys

        - `images`, `dimension` and `vectors`: the arguments.
        - `disk`: bytes of `vectors`, `codes` (for approximate searches) and `facts`
          (the SQLite file).
        - `memory`: bytes that an `exact` and an `approximate` search read.
        - `query_seconds`: time of an `exact` and an `approximate` search.
        - `source`: sentence about the measurements.

        A small index has no approximate search. In this case, `approximate` is None and
        `codes` is 0.

    Raises:
        InputError: if a number is below 1, or `vectors` is unknown.

    References:
        Jia et al. 2021, section 7 (160 million images).

    Example:

    >>> planned = plan_index(160_000_000, 640)
    >>> round(planned["disk"]["vectors"] / 1e9), round(planned["disk"]["codes"] / 1e9)
    (410, 26)
    """
    check_number("`images`", images, 1, MAX_ITEMS, whole=True)
    check_number("`dimension`", dimension, 1, MAX_ITEMS, whole=True)
    check_choice("`vectors`", vectors, ENCODINGS)
    numbers = images * dimension
    file_sizes = [images * size for size in row_bytes(vectors, dimension)]
    codes = int(_CODE_SIZE * numbers)
    if images < LEAST_ROWS:
        codes = 0
    float32_bytes = images * sum(row_bytes("float32", dimension))
    exact_seconds = _EXACT_TIMES[vectors] * (
        float32_bytes / measurements.EXACT_BYTES.value
        + images / measurements.EXACT_ROWS.value
    )
    approximate_seconds = None
    if codes:
        ranking_factor = max(1, images / measurements.RANKING_ROWS.value)
        approximate_seconds = (
            codes / measurements.CODE_BYTES.value
            + measurements.RANKING.value * ranking_factor
        )
    return {
        "images": images,
        "dimension": dimension,
        "vectors": vectors,
        "disk": {
            "vectors": sum(file_sizes),
            "codes": codes,
            "facts": int(measurements.ENTRY_SIZE.value) * images,
        },
        # An exact search reads the first file, and few rows of the others.
        "memory": {"exact": file_sizes[0], "approximate": codes or None},
        "query_seconds": {"exact": exact_seconds, "approximate": approximate_seconds},
        "source": measurements.describe_measurements(measurements.INDEX_MEASUREMENTS),
    }
