"""Plans of a corpus: processor time, disk, memory and workers for so many pairs."""

import math
from typing import Any

from align_keras.utils.errors import InputError

# Seconds of one core, on a cloud machine of two that did other things besides, by its
# processor's clock. Pairs out of HTML: `align-keras corpus extract --workers 1` on the
# GIMP manual, 710 pages of 11 KB with 5,881 pairs. Texts: `python tools/bench_corpus.py
# --sizes 1000000`. Images: `python tools/bench_pictures.py`, a line through 640 × 427
# and 2400 × 1600. Copies: `python tools/bench_copies.py --modes hash`, a power through
# 100,000 and 1,000,000.
_EXTRACT, _FILTER = 0.56e-3, 11.7e-6
_IMAGE, _MEGAPIXEL = 3.01e-3, 2.35e-3
_COPIES, _COPIES_AT, _COPIES_POWER = 49.3, 1_000_000, 1.356
# Bytes: a row of the tables of pairs, and an image at 346 pixels and quality 85 with
# its row, kept as a table and as shards.
_PAIR_BYTES, _IMAGE_BYTES = 220, 2 * 40_000
# Of a worker, and of the search for copies: so much, and so much an image.
_WORKER_BYTES = 0.8 * 2**30
_COPIES_BYTES, _COPY_BYTES = 0.19 * 2**30, 0.32 * 2**30 / 1e6


def plan_corpus(
    pairs: int,
    images: int | None = None,
    *,
    megapixels: float = 0.79,
    days: float = 7.0,
) -> dict[str, Any]:
    """Computes what `align-keras corpus build` takes for so many pairs.

    Fetching images is the network's and isn't counted. Two machines of one kind differ
    by a factor of two; the ratios of stages and sizes hold within a quarter.

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
    (2433, 19)
    """
    images = pairs if images is None else images
    for name, value in (("pairs", pairs), ("images", images)):
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` must be an integer >= 1, received {value!r}; give another."
            )
    for name, number in (("megapixels", megapixels), ("days", days)):
        if not number > 0:
            raise InputError(
                f"`{name}` must be > 0, received {number!r}; give another."
            )
    seconds = {
        "extract": _EXTRACT * pairs,
        "filter": _FILTER * pairs,
        "images": (_IMAGE + _MEGAPIXEL * megapixels) * images,
        "copies": _COPIES * (images / _COPIES_AT) ** _COPIES_POWER,
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
