"""Perceptual hashes of images, equal or close for copies, and which are near."""

import concurrent.futures
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from align_keras.corpus.image import opencv
from align_keras.utils.arguments import check_number

WORDS = 2  # 64-bit words in the hash of one view.
HASH_BYTES = 8 * WORDS
# Windows of the 64 × 64 thumbnail, (top, left, bottom, right): the whole, the middle
# and the four corners. A copy from which 5 to 10 % were cropped is close to one.
VIEWS = (
    (0, 0, 64, 64),
    (2, 2, 62, 62),
    (0, 0, 60, 60),
    (0, 4, 60, 64),
    (4, 0, 64, 60),
    (4, 4, 64, 64),
)
# An image with fewer of its 64 numbers away from zero is plain.
LEAST_DETAIL = 24

_SIDE = 64
_BETWEEN = 256
_COEFFICIENTS = 64
# "About zero": of the numbers' root mean square, and of a flat image's noise.
_RELATIVE_ZERO = 0.1
_ABSOLUTE_ZERO = 0.1
BIT_THRESHOLD = 12
_BITS = 64 * WORDS
# Number of hashes. Smaller sets use fewer and longer bands, which give fewer wrong
# candidates and try more keys.
FEW_HASHES = 5_000
_BANDS_OF_FEW, _BANDS = 8, 6
# Pairs of hashes that are compared together, which limits memory.
HASH_PAIRS_PER_BLOCK = 1 << 16
# Pairs. Groups with at least this number are compared as a matrix, which is faster.
MIN_MATRIX_PAIRS = 1 << 12


def perceptual_hash(image: Image.Image | np.ndarray) -> bytes:
    """Hashes an image, or its gray pixels (height, width), so that copies are close.

    Of 64 × 64 gray pixels' cosine transform, the 64 lowest frequencies but the mean
    count by their sign, positive, negative or about zero, in two bits (Zauner 2010). In
    a mirrored copy the odd horizontal ones change theirs. A cropped copy shifts all; so
    six views are hashed, 16 bytes each, and a copy's whole is compared with all of the
    original's. Plain images, whose few frequencies look alike, have all zeros, close to
    nothing.
    """
    signs = _signs(_thumbnail(image))
    words = np.packbits(signs, axis=2, bitorder="little").view("<u8")[..., 0]
    plain = signs.sum((1, 2)) < LEAST_DETAIL
    # Views of a plain image are as plain, or by chance not.
    words[plain | plain[0]] = 0
    return words.tobytes()


def hash_array(hashes: Sequence[bytes]) -> np.ndarray:
    """Puts hashes of one length into a uint64 array (images, views, 2)."""
    views = len(hashes[0]) // HASH_BYTES if hashes else len(VIEWS)
    words = np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)
    return words.reshape(len(hashes), views, WORDS)


def mirrored_hashes(hashes: np.ndarray) -> np.ndarray:
    """Returns the hashes (…, 2) that the mirrored images have."""
    swapped = (hashes[..., 0] ^ hashes[..., 1]) & _ODD
    return hashes ^ swapped[..., None]


def _count_by_table(words: np.ndarray) -> np.ndarray:
    table = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
    halves = np.ascontiguousarray(words).view(np.uint16)
    return table[halves].reshape(*words.shape, 4).sum(-1, dtype=np.uint8)


# Counts the bits of each number, uint64 → uint8; NumPy 1 has no such function.
bit_count = getattr(np, "bitwise_count", _count_by_table)


def _thumbnail(image: Image.Image | np.ndarray) -> np.ndarray:
    """Returns the image's 64 × 64 gray pixels, float64."""
    cv2 = opencv()
    if isinstance(image, Image.Image):
        pixels = np.asarray(image.convert("L"))
    else:
        pixels = image
    # Samples between pixels, which leave few out of a stored image, and then the
    # means of 4 × 4 take a fifth of the time that the mean of all takes.
    method = cv2.INTER_LINEAR if max(pixels.shape) <= 4 * _BETWEEN else cv2.INTER_AREA
    pixels = cv2.resize(pixels, (_BETWEEN, _BETWEEN), interpolation=method)
    pixels = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return pixels.astype(np.float64)


def _signs(pixels: np.ndarray) -> np.ndarray:
    """Returns which numbers of each view are positive and negative, (views, 2, 64)."""
    spectra = _VERTICAL @ pixels @ _HORIZONTAL
    numbers = spectra[:, _DOWN, _ACROSS]
    zero = _RELATIVE_ZERO * np.sqrt(np.mean(numbers**2, axis=1, keepdims=True))
    zero = np.maximum(zero, _ABSOLUTE_ZERO)
    return np.stack([numbers > zero, numbers < -zero], axis=1)


def _lowest_frequencies() -> tuple[np.ndarray, np.ndarray]:
    side = np.arange(16)
    down, across = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    order = np.lexsort((across, down, down**2 + across**2))
    order = order[1 : _COEFFICIENTS + 1]  # Without the mean.
    return down[order], across[order]


def _cosines(first: int, end: int) -> np.ndarray:
    """The orthonormal cosine transform of a part of the side, (10, 64)."""
    length = end - first
    position = np.arange(_SIDE) - first + 0.5
    frequency = np.arange(max(_DOWN.max(), _ACROSS.max()) + 1)[:, None]
    cosines = np.cos(np.pi * position * frequency / length) * np.sqrt(2) / length
    cosines[0] /= np.sqrt(2)
    return np.where((position > 0) & (position < length), cosines, 0)


_DOWN, _ACROSS = _lowest_frequencies()
_VERTICAL = np.stack([_cosines(top, bottom) for top, _, bottom, _ in VIEWS])
_HORIZONTAL = np.stack([_cosines(left, right).T for _, left, _, right in VIEWS])
# The bits of the odd horizontal frequencies.
_ODD = np.packbits(_ACROSS % 2 == 1, bitorder="little").view("<u8").astype(np.uint64)[0]


class HammingSearch:
    """Finds images of which a whole, mirrored or not, differs in at most `threshold` of
    128 bits from a view of the other.

    The search is exact, and ours: faiss's multi-index hash takes six times the
    processor time (16 s against 2.8, of 100,000 hashes within 8 bits). Of two near
    hashes at least one band of bits differs in few (Norouzi et al. 2012, "Fast Search
    in Hamming Space with Multi-Index Hashing", section 3), so that only those are
    compared. Memory is some tens of bytes an image.
    `tools/benchmarks/bench_duplicates.py` measures what a threshold finds.
    """

    def __init__(
        self, threshold: int = BIT_THRESHOLD, block_rows: int = 1 << 16
    ) -> None:
        remedy = f"bits that may differ, {BIT_THRESHOLD} by default"
        check_number("threshold", threshold, 0, 32, whole=True, remedy=remedy)
        self.threshold = int(threshold)
        self.block_rows = block_rows
        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def fit(self, keys: Sequence[str], hashes: np.ndarray) -> None:
        """Learns nothing: hashes are compared as they are."""

    def place(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the hashes, uint64 (images, views, 2), as they are."""
        return hashes

    def lowest(
        self,
        queries: np.ndarray,
        references: np.ndarray,
        ranks: np.ndarray,
        below: np.ndarray,
    ) -> np.ndarray:
        """Returns each query's lowest rank of a near reference, if below `below`."""
        best = below.copy()
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
        """Lowers `best` by ranks of what is near to one of the queries' views."""
        order = np.argsort(ranks, kind="stable")
        order = order[_first_of_equals(references[order])]
        references, ranks = references[order], ranks[order]
        for columns, radius in _bands(len(references), self.threshold):
            table = _BandTable(references, ranks, columns)
            for view in queries:
                rows = np.flatnonzero(view.any(1))  # Plain images ask nothing.
                for turned in (view[rows], mirrored_hashes(view[rows])):
                    self._compare(turned, rows, table, radius, best)

    def _compare(
        self,
        hashes: np.ndarray,
        rows: np.ndarray,
        table: "_BandTable",
        radius: int,
        best: np.ndarray,
    ) -> None:
        keys = _band_keys(hashes, table.columns)
        # Queries with the same key follow each other, and find the same in the cache.
        order = np.argsort(keys, kind="stable")
        # Every number of which at most `radius` bits are set.
        changes = [
            sum(1 << entry for entry in bits)
            for size in range(radius + 1)
            for bits in itertools.combinations(range(len(table.columns)), size)
        ]

        def compare(start: int) -> None:
            block = order[start : start + self.block_rows]
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

        # NumPy works outside of Python's lock, and no two blocks share a query.
        list(self._threads.map(compare, range(0, len(order), self.block_rows)))


class _BandTable:
    """Hashes and ranks sorted by the bits of one band, and where each key begins."""

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
        return self.starts[keys], self.starts[keys + 1]


def _bands(count: int, threshold: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (columns of a band, bits that may differ in it): with threshold = bands ×
    radius + rest, `radius` in one of the first rest + 1, or radius − 1 in another.
    """
    bands = _BANDS_OF_FEW if count < FEW_HASHES else _BANDS
    radius, remainder = divmod(threshold, bands)
    coefficients = np.arange(_BITS // WORDS)
    for number in range(bands):
        band = coefficients[number::bands]
        within = radius if number <= remainder else radius - 1
        if within >= 0:
            yield np.concatenate([band, band + _BITS // WORDS]), within


def _band_keys(hashes: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Gathers the bits of a band into whole numbers, int64 array (n,)."""
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
    """Yields (queries, places, distances) of what is near by half of the bits, which
    rules most out. A group of queries with one key asks for one range of places.
    """
    many = sizes * (ends - starts) >= MIN_MATRIX_PAIRS
    for group in np.flatnonzero(many):
        queries = first[groups[group] : groups[group] + sizes[group], None]
        step = max(1, HASH_PAIRS_PER_BLOCK // len(queries))
        for start in range(starts[group], ends[group], step):
            entries = table.first[start : min(start + step, ends[group])]
            distance = bit_count(queries ^ entries).ravel()
            near = np.flatnonzero(distance <= threshold)
            query, entry = np.divmod(near, len(entries))
            yield groups[group] + query, start + entry, distance[near]
    ends = np.where(many, starts, ends)
    for query, entry in _pairs(np.repeat(starts, sizes), np.repeat(ends, sizes)):
        distance = bit_count(first[query] ^ table.first[entry])
        near = np.flatnonzero(distance <= threshold)
        yield query[near], entry[near], distance[near]


def _pairs(
    starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (queries, places) of all places in the queries' ranges, in parts."""
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
    """Returns the first row of each distinct hash that isn't plain, int64 array."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    order = order[hashes[order].any(1)]
    ordered = hashes[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return order[new]
