"""Plans of an index: disk, memory and query time for so many images."""

from typing import Any

from align_keras.utils.errors import InputError

# `align_keras.search` makes the approximate form from so many images on.
APPROXIMATE_FROM = 200_000
# Two bits a number, and the vectors themselves at 4 bytes a number.
_CODE_BYTES, _VECTOR_BYTES = 0.25, 4
# What SQLite holds of an image without captions.
_FACTS_BYTES = 320
# By `python tools/bench_search.py approximate --rows 1000000`, width 384, on two cores
# of a cloud machine that did other things besides: 380 ms exact and 26 ms approximate,
# each a scan of all rows.
_EXACT_BYTES_A_SECOND = 1_000_000 * 384 * _VECTOR_BYTES / 0.380
_CODE_BYTES_A_SECOND = 1_000_000 * 384 * _CODE_BYTES / 0.026


def plan_index(images: int, dimension: int) -> dict[str, Any]:
    """Computes what an index takes on disk and in memory, and how long a query takes.

    Both searches scan, so their time grows with the number of images and the width;
    rates are those of a million vectors on two cores, in memory.

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
    for name, value in (("images", images), ("dimension", dimension)):
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` must be an integer >= 1, received {value!r}; give another."
            )
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
            "exact": vectors / _EXACT_BYTES_A_SECOND,
            "approximate": codes / _CODE_BYTES_A_SECOND or None,
        },
    }
