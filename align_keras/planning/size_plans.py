"""Plans of a corpus and of an index: time, disk and memory for so many images."""

import math
from typing import Any

from align_keras.utils.arguments import check_number

# Seconds of one core, on a cloud machine of two that did other things besides, by its
# processor's clock. Pairs out of HTML: `align-keras corpus extract --workers 1` on the
# GIMP manual, 710 pages of 11 KB with 5,881 pairs. Texts: `python
# tools/benchmarks/bench_corpus.py --sizes 1000000`. Images: `python
# tools/benchmarks/bench_images.py`, a line through 640 × 427 and 2400 × 1600. Copies:
# `python tools/benchmarks/bench_copies.py --modes hash`, so much an image and so much a
# pair of images, through 1,000,000 and 10,000,000.
_EXTRACT, _FILTER = 0.56e-3, 11.7e-6
_IMAGE, _MEGAPIXEL = 3.01e-3, 2.35e-3
_COPIES, _COPIES_OF_PAIRS = 38.6e-6, 13.3e-12
# Bytes: a row of the tables of pairs, and an image at 346 pixels and quality 85 with
# its row, kept as a table and as shards.
_PAIR_BYTES, _IMAGE_BYTES = 220, 2 * 40_000
# Of a worker, and of the search for copies: so much, and so much an image.
_WORKER_BYTES = 0.8 * 2**30
_COPIES_BYTES, _COPY_BYTES = 0.19 * 2**30, 0.32 * 2**30 / 1e6

# `align_keras.search` makes the approximate form from so many images on.
APPROXIMATE_FROM = 200_000
# Two bits a number, and the vectors themselves at 4 bytes a number.
_CODE_BYTES, _VECTOR_BYTES = 0.25, 4
# What SQLite holds of an image without captions, with a path of 45 characters.
_FACTS_BYTES = 320
# Of one core, in memory: `OPENBLAS_NUM_THREADS=1 python
# tools/benchmarks/bench_search.py approximate --rows 1000000 --width W`, by the
# processor's clock, W of 64, 128 and 384: exact 36, 62 and 170 ms, so much a byte and
# so much a row, to rank it; approximate 3.9, 6.0 and 14.8, so much a byte and so much
# for the thousand that are ranked anew, or one of 2,500.
_EXACT_BYTES_A_SECOND, _EXACT_ROWS_A_SECOND = 9.5e9, 120e6
_CODE_BYTES_A_SECOND = 7.3e9
_RANK_SECONDS, _RANKED_FROM = 1.7e-3, 2_500_000
_MOST = 1e15


def plan_corpus(
    pairs: int,
    images: int | None = None,
    *,
    megapixels: float = 0.79,
    days: float = 7.0,
) -> dict[str, Any]:
    """Computes what `align-keras corpus build` takes for so many pairs.

    Fetching images is the network's and isn't counted. Copies are those inside of the
    corpus, whose search grows by the square; the paper looks for copies of test images
    alone. Two machines of one kind differ by a factor of two; the ratios of stages and
    sizes hold within a quarter.

    Args:
        pairs: int >= 1, alt-texts with an image, before the filters.
        images: int >= 1, those that are decoded and stored; None for `pairs`.
        megapixels: float > 0, the images' mean size as they come; 0.79 is 1024 × 768.
        days: float > 0, in which it is to be done.

    Returns:
        dict, ready for JSON: `pairs`, `images`, `core_seconds` (of `extract`, `filter`,
        `images`, `copies`), `disk` (bytes of `pairs`, `images`), `memory` (bytes of a
        `worker`, and of the search for `copies`) and `workers`.

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
    check_number("`pairs`", pairs, 1, _MOST, whole=True)
    check_number("`images`", images, 1, _MOST, whole=True)
    check_number("`megapixels`", megapixels, 1e-6, _MOST)
    check_number("`days`", days, 1e-6, _MOST)
    seconds = {
        "extract": _EXTRACT * pairs,
        "filter": _FILTER * pairs,
        "images": (_IMAGE + _MEGAPIXEL * megapixels) * images,
        "copies": _COPIES * images + _COPIES_OF_PAIRS * images**2,
    }
    return {
        "pairs": pairs,
        "images": images,
        "core_seconds": seconds,
        "disk": {"pairs": _PAIR_BYTES * pairs, "images": _IMAGE_BYTES * images},
        "memory": {
            "worker": int(_WORKER_BYTES),
            "copies": int(_COPIES_BYTES + _COPY_BYTES * images),
        },
        "workers": math.ceil(sum(seconds.values()) / (86_400 * days)),
    }


def plan_index(images: int, dimension: int) -> dict[str, Any]:
    """Computes what an index takes on disk and in memory, and how long a query takes.

    Both searches scan, so their time grows with the number of images and the width;
    rates are those of a million vectors, in memory, on one core.

    Args:
        images: int >= 1.
        dimension: int >= 1, width of the embeddings.

    Returns:
        dict, ready for JSON: `images`, `dimension`, `disk` (bytes of `vectors`, `codes`
        and `facts`), `memory` (bytes that searches read: `exact`, `approximate`) and
        `query_seconds` (the same). What is approximate is None, and `codes` 0, where
        there are too few images for it.

    Raises:
        InputError: for numbers below 1.

    References:
        Jia et al. 2021, section 7 (160 million images).

    Example:

    >>> planned = plan_index(160_000_000, 640)
    >>> round(planned["disk"]["vectors"] / 1e9), round(planned["disk"]["codes"] / 1e9)
    (410, 26)
    """
    check_number("`images`", images, 1, _MOST, whole=True)
    check_number("`dimension`", dimension, 1, _MOST, whole=True)
    numbers = images * dimension
    vectors, codes = _VECTOR_BYTES * numbers, int(_CODE_BYTES * numbers)
    if images < APPROXIMATE_FROM:
        codes = 0
    return {
        "images": images,
        "dimension": dimension,
        "disk": {"vectors": vectors, "codes": codes, "facts": _FACTS_BYTES * images},
        "memory": {"exact": vectors, "approximate": codes or None},
        "query_seconds": {
            "exact": vectors / _EXACT_BYTES_A_SECOND + images / _EXACT_ROWS_A_SECOND,
            "approximate": (
                codes / _CODE_BYTES_A_SECOND
                + _RANK_SECONDS * max(1, images / _RANKED_FROM)
                if codes
                else None
            ),
        },
    }
