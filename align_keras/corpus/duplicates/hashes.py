"""Perceptual hashes of images and the search for near hashes.

Copies of an image have equal or close hashes.
"""

import concurrent.futures
import functools
import itertools
import os
import types
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from align_keras.utils.errors import needs

# Number of 64-bit words in the hash of one view.
WORDS = 2
HASH_BYTES = 8 * WORDS
# Number of hashes that a thread compares together. Limits memory.
HASHES_PER_BLOCK = 1 << 16
# Windows of the 64 × 64 thumbnail as (top, left, bottom, right): the whole thumbnail,
# its center and its four corners. A copy that was cropped by 5 to 10% is close to one
# of these views.
VIEWS = (
    (0, 0, 64, 64),
    (2, 2, 62, 62),
    (0, 0, 60, 60),
    (0, 4, 60, 64),
    (4, 0, 64, 60),
    (4, 4, 64, 64),
)
# Number of nonzero coefficients below which an image counts as plain.
LEAST_DETAIL = 24

# Pixels. Side of the thumbnail, and side of the image from which it is averaged.
_SIDE = 64
_INTERMEDIATE_SIDE = 256
_COEFFICIENTS = 64
# A coefficient is about zero if it is below this fraction of the root mean square, or
# below the noise of a flat image.
_RELATIVE_ZERO = 0.1
_ABSOLUTE_ZERO = 0.1
# Number of different bits up to which two hashes are near.
BIT_THRESHOLD = 12
_BITS = 64 * WORDS
# Number of hashes from which the search uses fewer bands.
FEW_HASHES = 5_000
_BANDS_OF_FEW, _BANDS = 8, 6
# Number of hash pairs that are compared together. Limits memory.
HASH_PAIRS_PER_BLOCK = 1 << 16
# Number of pairs above which a group is compared as a matrix, which is faster.
MIN_MATRIX_PAIRS = 1 << 12


def perceptual_hash(image: Image.Image | np.ndarray) -> bytes:
    """Hashes an image so that copies have close hashes.

    The image is reduced to 64 × 64 gray pixels. The hash stores the signs of the 64
    lowest frequencies of their cosine transform, without the mean (Zauner 2010). Two
    bits encode whether a coefficient is positive, negative or about zero. A mirrored
    copy has the opposite signs at the odd horizontal frequencies.

    A cropped copy differs in all frequencies. The hash therefore has 16 bytes for each
    of six views (`VIEWS`), and the whole of a copy is compared with all views of the
    original. Plain images have few frequencies and would be close to each other. Their
    hash is zero, which is near to no other hash.

    Args:
        image: PIL image, or uint8 array (height, width) of its gray pixels.

    Returns:
        16 bytes for each view.
    """
    signs = _signs(_thumbnail(image))
    words = np.packbits(signs, axis=2, bitorder="little").view("<u8")[..., 0]
    plain = signs.sum((1, 2)) < LEAST_DETAIL
    # All views of a plain image count as plain, even if some have enough detail.
    words[plain | plain[0]] = 0
    return words.tobytes()


def hash_array(hashes: Sequence[bytes]) -> np.ndarray:
    """Converts hashes of equal length to a uint64 array (images, views, 2)."""
    views = len(hashes[0]) // HASH_BYTES if hashes else len(VIEWS)
    words = np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)
    return words.reshape(len(hashes), views, WORDS)


def mirrored_hashes(hashes: np.ndarray) -> np.ndarray:
    """Returns the hashes of the mirrored images, uint64 (…, 2)."""
    swapped = (hashes[..., 0] ^ hashes[..., 1]) & _ODD
    return hashes ^ swapped[..., None]


def _count_by_table(words: np.ndarray) -> np.ndarray:
    table = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
    halves = np.ascontiguousarray(words).view(np.uint16)
    return table[halves].reshape(*words.shape, 4).sum(-1, dtype=np.uint8)


# Counts the set bits of each uint64 and returns uint8. NumPy 1 lacks `bitwise_count`.
bit_count = getattr(np, "bitwise_count", _count_by_table)


@functools.cache
def opencv() -> types.ModuleType:
    """Imports cv2 and limits it to one thread, since the workers use all cores."""
    with needs("corpus", "Resizing the images of a corpus needs OpenCV"):
        import cv2
    cv2.setNumThreads(1)
    return cv2


def _thumbnail(image: Image.Image | np.ndarray) -> np.ndarray:
    """Returns the 64 × 64 gray pixels of an image, float64."""
    cv2 = opencv()
    if isinstance(image, Image.Image):
        pixels = np.asarray(image.convert("L"))
    else:
        pixels = image
    # Up to a side of 1,024 pixels, linear interpolation to 256 × 256 skips only few
    # pixels. Together with the averaging of 4 × 4 pixels afterwards, it takes a fifth
    # of the time that averaging all pixels takes.
    method = (
        cv2.INTER_LINEAR
        if max(pixels.shape) <= 4 * _INTERMEDIATE_SIDE
        else cv2.INTER_AREA
    )
    pixels = cv2.resize(
        pixels, (_INTERMEDIATE_SIDE, _INTERMEDIATE_SIDE), interpolation=method
    )
    pixels = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return pixels.astype(np.float64)


def _signs(pixels: np.ndarray) -> np.ndarray:
    """Returns positive and negative coefficients of each view, bool (views, 2, 64)."""
    spectra = _VERTICAL @ pixels @ _HORIZONTAL
    numbers = spectra[:, _DOWN, _ACROSS]
    zero = _RELATIVE_ZERO * np.sqrt(np.mean(numbers**2, axis=1, keepdims=True))
    zero = np.maximum(zero, _ABSOLUTE_ZERO)
    return np.stack([numbers > zero, numbers < -zero], axis=1)


def _lowest_frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Returns the vertical and the horizontal frequency of each coefficient."""
    side = np.arange(16)
    down, across = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    order = np.lexsort((across, down, down**2 + across**2))
    # The first coefficient is the mean.
    order = order[1 : _COEFFICIENTS + 1]
    return down[order], across[order]


def _cosines(first: int, end: int) -> np.ndarray:
    """Returns the cosine transform of the pixels `first` to `end`, float (10, 64)."""
    length = end - first
    position = np.arange(_SIDE) - first + 0.5
    frequency = np.arange(max(_DOWN.max(), _ACROSS.max()) + 1)[:, None]
    cosines = np.cos(np.pi * position * frequency / length) * np.sqrt(2) / length
    cosines[0] /= np.sqrt(2)
    return np.where((position > 0) & (position < length), cosines, 0)


_DOWN, _ACROSS = _lowest_frequencies()
_VERTICAL = np.stack([_cosines(top, bottom) for top, _, bottom, _ in VIEWS])
_HORIZONTAL = np.stack([_cosines(start, end).T for _, start, _, end in VIEWS])
# Mask of the bits that belong to odd horizontal frequencies.
_ODD = np.packbits(_ACROSS % 2 == 1, bitorder="little").view("<u8").astype(np.uint64)[0]


class HammingSearch:
    """Exact search for near images by the Hamming distance of their hashes.

    Two images are near if the hash of one whole image, mirrored or not, differs in at
    most `threshold` of 128 bits from a view of the other image.

    The bits are divided into bands. Two near hashes differ in few bits of at least one
    band, so only hashes with such a band are compared (Norouzi et al. 2012, "Fast
    Search in Hamming Space with Multi-Index Hashing", section 3). The multi-index hash
    of faiss takes six times the processor time (16 s instead of 2.8 s for 100,000
    hashes within 8 bits). The search needs some tens of bytes for each image.

    Args:
        threshold: number of bits in which near hashes may differ.
    """

    def __init__(self, threshold: int = BIT_THRESHOLD) -> None:
        self.threshold = threshold
        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def fit(self, keys: Sequence[str], hashes: np.ndarray) -> None:
        """Does nothing, because the search needs no training."""

    def prepare(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the hashes, uint64 (images, views, 2), unchanged."""
        return hashes

    def lowest_ranks(
        self,
        queries: np.ndarray,
        references: np.ndarray,
        ranks: np.ndarray,
        upper_bounds: np.ndarray,
    ) -> np.ndarray:
        """Returns the lowest rank among the near references of each query.

        Args:
            queries: uint64 array (queries, views, 2).
            references: uint64 array (references, views, 2).
            ranks: int64 array (references,).
            upper_bounds: int64 array (queries,), returned for queries without a near
                reference of a lower rank.

        Returns:
            int64 array (queries,).
        """
        best = upper_bounds.copy()
        whole = queries[:, 0]
        views = [queries[:, view] for view in range(queries.shape[1])]
        self._search(views, references[:, 0], ranks, best)
        for view in range(1, references.shape[1]):
            self._search([whole], references[:, view], ranks, best)
        return best

    def _search(
        self,
        queries: list[np.ndarray],
        references: np.ndarray,
        ranks: np.ndarray,
        best: np.ndarray,
    ) -> None:
        """Lowers the ranks in `best` by references that are near a view of a query."""
        order = np.argsort(ranks, kind="stable")
        order = order[_first_of_equals(references[order])]
        references, ranks = references[order], ranks[order]
        for columns, radius in _bands(len(references), self.threshold):
            table = _BandTable(references, ranks, columns)
            for view in queries:
                # The hash of a plain image is zero and is near to no other.
                rows = np.flatnonzero(view.any(1))
                for variant in (view[rows], mirrored_hashes(view[rows])):
                    self._compare(variant, rows, table, radius, best)

    def _compare(
        self,
        hashes: np.ndarray,
        rows: np.ndarray,
        table: "_BandTable",
        radius: int,
        best: np.ndarray,
    ) -> None:
        """Lowers the ranks in `best` by references with a similar band."""
        keys = _band_keys(hashes, table.columns)
        # Queries with the same key read the same entries, which are then in the cache.
        order = np.argsort(keys, kind="stable")
        # All integers with at most `radius` set bits.
        changes = [
            sum(1 << entry for entry in bits)
            for size in range(radius + 1)
            for bits in itertools.combinations(range(len(table.columns)), size)
        ]

        def compare(start: int) -> None:
            block = order[start : start + HASHES_PER_BLOCK]
            first, second = hashes[block].T.copy()
            groups = np.flatnonzero(np.diff(keys[block], prepend=-1))
            sizes = np.diff(groups, append=len(block))
            for change in changes:
                ranges = table.range_of(keys[block[groups]] ^ change)
                for query, entry, distance in _near_by_half(
                    first, groups, sizes, table, *ranges, self.threshold
                ):
                    distance += bit_count(second[query] ^ table.second[entry])
                    near = distance <= self.threshold
                    near_ranks = table.ranks[entry[near]]
                    np.minimum.at(best, rows[block[query[near]]], near_ranks)

        # NumPy releases the interpreter lock, and no two blocks share a query.
        list(self._threads.map(compare, range(0, len(order), HASHES_PER_BLOCK)))


class _BandTable:
    """Hashes and ranks sorted by the bits of one band.

    Attributes:
        columns: int array, the bits of the band.
        first: uint64 array, first word of each hash.
        second: uint64 array, second word of each hash.
        ranks: int64 array, rank of each hash.
        starts: int64 array, index of the first entry of each key.
    """

    def __init__(
        self, hashes: np.ndarray, ranks: np.ndarray, columns: np.ndarray
    ) -> None:
        keys = _band_keys(hashes, columns)
        order = np.argsort(keys, kind="stable")
        self.columns = columns
        self.first, self.second = hashes[order].T.copy()
        self.ranks = ranks[order]
        counts = np.bincount(keys, minlength=1 << len(columns))
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def range_of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the start and the end of the entries of each key."""
        return self.starts[keys], self.starts[keys + 1]


def _bands(count: int, threshold: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the bits of each band and the number of its bits that may differ."""
    # With threshold = bands × radius + remainder, near hashes differ in at most
    # `radius` bits of one of the first remainder + 1 bands, or in at most radius − 1
    # bits of a later band.
    bands = _BANDS_OF_FEW if count < FEW_HASHES else _BANDS
    radius, remainder = divmod(threshold, bands)
    coefficients = np.arange(_BITS // WORDS)
    for number in range(bands):
        band = coefficients[number::bands]
        within = radius if number <= remainder else radius - 1
        if within >= 0:
            yield np.concatenate([band, band + _BITS // WORDS]), within


def _band_keys(hashes: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Combines the bits of a band into one integer for each hash, int64 (n,)."""
    keys = np.zeros(len(hashes), np.int64)
    for bit, column in enumerate(columns):
        bits = hashes[:, column // 64] >> np.uint64(column % 64)
        keys |= (bits & np.uint64(1)).astype(np.int64) << bit
    return keys


def _near_by_half(
    first: np.ndarray,
    groups: np.ndarray,
    sizes: np.ndarray,
    table: _BandTable,
    starts: np.ndarray,
    ends: np.ndarray,
    threshold: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields pairs whose hashes are near in the first half of their bits."""
    # This comparison rules out most pairs. The queries of a group have the same key and
    # are compared with the same range of entries. `first` has an entry for each query,
    # and `groups`, `sizes`, `starts` and `ends` have one for each group of queries with
    # the same key.
    is_large = sizes * (ends - starts) >= MIN_MATRIX_PAIRS
    for group in np.flatnonzero(is_large):
        queries = first[groups[group] : groups[group] + sizes[group], None]
        step = max(1, HASH_PAIRS_PER_BLOCK // len(queries))
        for start in range(starts[group], ends[group], step):
            entries = table.first[start : min(start + step, ends[group])]
            distance = bit_count(queries ^ entries).ravel()
            near = np.flatnonzero(distance <= threshold)
            query, entry = np.divmod(near, len(entries))
            yield groups[group] + query, start + entry, distance[near]
    # The loop above has compared the large groups.
    ends = np.where(is_large, starts, ends)
    for query, entry in _pairs(np.repeat(starts, sizes), np.repeat(ends, sizes)):
        distance = bit_count(first[query] ^ table.first[entry])
        near = np.flatnonzero(distance <= threshold)
        yield query[near], entry[near], distance[near]


def _pairs(
    starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs of a query and an entry in its range, in blocks."""
    counts = ends - starts
    rows = np.flatnonzero(counts)
    totals = np.cumsum(counts[rows])
    begin, done = 0, 0
    while begin < len(rows):
        end = max(
            begin + 1,
            int(np.searchsorted(totals, done + HASH_PAIRS_PER_BLOCK, "right")),
        )
        part = rows[begin:end]
        sizes = counts[part]
        query = np.repeat(part, sizes)
        offsets = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield query, starts[query] + offsets
        begin, done = end, totals[end - 1]


def _first_of_equals(hashes: np.ndarray) -> np.ndarray:
    """Returns the first row of each distinct nonzero hash as an int64 array."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    order = order[hashes[order].any(1)]
    ordered = hashes[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return order[new]
