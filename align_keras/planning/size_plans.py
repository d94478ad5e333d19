"""Plans of a corpus and of an index: time, disk and memory by the number of images."""

import math
from typing import Any

from align_keras.planning import measurements
from align_keras.search.approximate import LEAST_ROWS
from align_keras.utils.arguments import check_number

# Bytes. An approximate search reads codes of two bits per number, an exact one float32.
_CODE_SIZE = 0.25
_VECTOR_SIZE = 4
_LARGEST_NUMBER = 1e15


def plan_corpus(
    pairs: int,
    images: int | None = None,
    *,
    megapixels: float = 0.79,
    days: float = 7.0,
) -> dict[str, Any]:
    """Estimates time, disk and memory of `align-keras corpus build`.

    The estimate is based on `align_keras.planning.measurements`, which were made on one
    machine. Two machines of one kind differ by a factor of two. The ratios of stages
    and of sizes hold within a quarter. The download of images isn't counted. Copies are
    searched in the corpus itself, whose time grows with the square of the images. The
    paper only searches copies of test images.

    Args:
        pairs: int >= 1, alt-texts with an image, before the filters.
        images: int >= 1, images that are decoded and stored. None for `pairs`.
        megapixels: float > 0, mean size of the images before they are resized. 0.79 is
            1024 × 768 pixels.
        days: float > 0, available time.

    Returns:
        dict for JSON: `pairs`, `images`, `core_seconds` (of `extract`, `filter`,
        `images`, `copies`), `disk` (bytes of `pairs`, `images`), `memory` (bytes of a
        `worker`, and of the search for `copies`), `workers`, and `source`, a sentence
        about the measurements.

    Raises:
        InputError: for numbers that are too small.

    References:
        Jia et al. 2021, section 3 (1,800 million pairs).

    Example:

    >>> planned = plan_corpus(1_800_000_000)
    >>> round(planned["core_seconds"]["images"] / 3600), planned["workers"]
    (2433, 88)
    """
    images = pairs if images is None else images
    check_number("`pairs`", pairs, 1, _LARGEST_NUMBER, whole=True)
    check_number("`images`", images, 1, _LARGEST_NUMBER, whole=True)
    check_number("`megapixels`", megapixels, 1e-6, _LARGEST_NUMBER)
    check_number("`days`", days, 1e-6, _LARGEST_NUMBER)
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


def plan_index(images: int, dimension: int) -> dict[str, Any]:
    """Estimates disk and memory of an index, and the time of a query.

    The estimate is based on `align_keras.planning.measurements`: searches of a million
    vectors in memory, on one core of one machine. Both searches read all images, so
    that their time grows with the number of images and the width.

    Args:
        images: int >= 1.
        dimension: int >= 1, width of the embeddings.

    Returns:
        dict for JSON: `images`, `dimension`, `disk` (bytes of `vectors`, `codes` and
        `facts`), `memory` (bytes that searches read: `exact`, `approximate`),
        `query_seconds` (the same), and `source`, a sentence about the measurements. An
        index with too few images has no approximate search. `approximate` is None and
        `codes` 0 then.

    Raises:
        InputError: for numbers below 1.

    References:
        Jia et al. 2021, section 7 (160 million images).

    Example:

    >>> planned = plan_index(160_000_000, 640)
    >>> round(planned["disk"]["vectors"] / 1e9), round(planned["disk"]["codes"] / 1e9)
    (410, 26)
    """
    check_number("`images`", images, 1, _LARGEST_NUMBER, whole=True)
    check_number("`dimension`", dimension, 1, _LARGEST_NUMBER, whole=True)
    numbers = images * dimension
    vectors = _VECTOR_SIZE * numbers
    codes = int(_CODE_SIZE * numbers)
    if images < LEAST_ROWS:
        codes = 0
    exact_seconds = (
        vectors / measurements.EXACT_BYTES.value
        + images / measurements.EXACT_ROWS.value
    )
    approximate_seconds = None
    if codes:
        ranked = max(1, images / measurements.RANKING_ROWS.value)
        approximate_seconds = (
            codes / measurements.CODE_BYTES.value + measurements.RANKING.value * ranked
        )
    return {
        "images": images,
        "dimension": dimension,
        "disk": {
            "vectors": vectors,
            "codes": codes,
            "facts": int(measurements.ENTRY_SIZE.value) * images,
        },
        "memory": {"exact": vectors, "approximate": codes or None},
        "query_seconds": {"exact": exact_seconds, "approximate": approximate_seconds},
        "source": measurements.describe_measurements(measurements.INDEX_MEASUREMENTS),
    }
