"""Which perceptual hashes are near: exact, without comparing all with all."""

import itertools

import numpy as np

from align_keras.corpus.perceptual_hash import WORDS, hamming_distance, mirrored
from align_keras.utils.errors import InputError

THRESHOLD = 12
_BITS = 64 * WORDS
# Fewer and longer bands find fewer candidates in vain, but try more keys.
_FEW = 200_000
_BANDS_OF_FEW, _BANDS = 8, 6


class HammingSearch:
    """Finds near pictures by their perceptual hashes.

    Two pictures are near if the whole of one, mirrored or not, differs in at most
    `threshold` of 128 bits from a view of the other. Plain pictures are near to none.

    The search is exact. The 128 bits are cut into bands; of two hashes within the
    threshold, at least one band differs in few bits (the pigeonhole principle), so
    for each band only the hashes are compared whose band is among the query's keys
    with so few bits changed. Memory is some tens of bytes a picture and a constant,
    however many pairs are near.

    Args:
        threshold: int, 0 to 32, bits.
        block_rows: int, how many queries and candidates are compared at once;
            changes the memory, not the result.

    Raises:
        InputError: if an argument is out of range.

    References:
        Norouzi et al. 2012, "Fast Search in Hamming Space with Multi-Index
        Hashing", section 3.
    """

    def __init__(self, threshold=THRESHOLD, block_rows=1 << 18):
        if not 0 <= threshold <= 32 or int(threshold) != threshold:
            raise InputError(
                "threshold must be a whole number of bits from 0 to 32, received "
                f"{threshold!r}; {THRESHOLD} is the default."
            )
        if block_rows < 1:
            raise InputError(
                f"block_rows must be at least 1, received {block_rows!r}; leave it out."
            )
        self.threshold = int(threshold)
        self.block_rows = int(block_rows)

    def fit(self, keys, hashes):
        """Learns nothing: hashes are compared as they are."""

    def place(self, hashes, where):
        """Checks hashes.

        Args:
            hashes: uint64 array (pictures, views, 2), as `hash_array` returns.
            where: str, whose hashes they are, for the error.

        Returns:
            The array.

        Raises:
            InputError: if they have another shape or type.
        """
        hashes = np.asarray(hashes)
        if hashes.ndim != 3 or hashes.shape[2] != WORDS or hashes.dtype != np.uint64:
            raise InputError(
                f"the hashes of {where} must be a uint64 array (pictures, views, "
                f"{WORDS}), received {hashes.dtype} {hashes.shape}; make them by "
                "hash_array."
            )
        return hashes

    def take(self, placed, rows):
        """Returns some of the placed pictures."""
        return placed[rows]

    def lowest(self, queries, references, ranks, below):
        """Finds for each query the lowest rank among the references near to it.

        Args:
            queries: placed pictures, n.
            references: placed pictures, m.
            ranks: int64 array (m,).
            below: int64 array (n,), only lower ranks count.

        Returns:
            int64 array (n,); `below` where there is none.
        """
        best = below.copy()
        whole = queries[:, 0]
        views = [queries[:, view] for view in range(queries.shape[1])]
        self._search(views, references[:, 0], ranks, best)
        for view in range(1, references.shape[1]):
            self._search([whole], references[:, view], ranks, best)
        return best

    def _search(self, queries, references, ranks, best):
        """Lowers `best` by the ranks of hashes near to one of the query's.

        Args:
            queries: list of uint64 arrays (n, 2), hashes of the same n pictures.
            references: uint64 array (m, 2).
            ranks: int64 array (m,).
            best: int64 array (n,), changed in place.
        """
        order = np.argsort(ranks, kind="stable")
        firsts, _ = _distinct(references[order])
        references, ranks = references[order][firsts], ranks[order][firsts]
        tables = [
            (_BandTable(references, columns), radius)
            for columns, radius in _bands(len(references), self.threshold)
        ]
        for own in queries:
            for turned in (own, mirrored(own)):
                rows, groups = _distinct(turned)
                found = np.full(len(rows), np.iinfo(np.int64).max)
                for start in range(0, len(rows), self.block_rows):
                    block = slice(start, start + self.block_rows)
                    for table, radius in tables:
                        self._compare(
                            turned[rows[block]], table, radius, ranks, found[block]
                        )
                # Equal hashes share what was found; plain ones are in no group.
                held = groups >= 0
                best[held] = np.minimum(best[held], found[groups[held]])

    def _compare(self, hashes, table, radius, ranks, found):
        keys = _band_keys(hashes, table.columns)
        for change in _changes(len(table.columns), radius):
            starts, ends = table.range_of(keys ^ change)
            for query, place in _pairs(starts, ends, self.block_rows):
                reference = table.order[place]
                distance = hamming_distance(hashes[query], table.hashes[reference])
                near = distance <= self.threshold
                np.minimum.at(found, query[near], ranks[reference[near]])


class _BandTable:
    """Where the hashes stand when sorted by the bits of one band."""

    def __init__(self, hashes, columns):
        keys = _band_keys(hashes, columns)
        self.hashes = hashes
        self.columns = columns
        self.order = np.argsort(keys, kind="stable").astype(np.uint32)
        counts = np.bincount(keys, minlength=1 << len(columns))
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def range_of(self, keys):
        return self.starts[keys], self.starts[keys + 1]


def _bands(count, threshold):
    """Yields (columns of the band, bits that may differ in it).

    With threshold = bands × radius + rest, hashes within the threshold differ in at
    most `radius` bits in one of the first rest + 1 bands, or in at most radius − 1
    in one of the others.
    """
    bands = _BANDS_OF_FEW if count < _FEW else _BANDS
    radius, rest = divmod(threshold, bands)
    coefficients = np.arange(_BITS // WORDS)
    for number in range(bands):
        own = coefficients[number::bands]
        within = radius if number <= rest else radius - 1
        if within >= 0:
            yield np.concatenate([own, own + _BITS // WORDS]), within


def _band_keys(hashes, columns):
    """Gathers the bits of a band into whole numbers, int64 array (n,)."""
    keys = np.zeros(len(hashes), np.int64)
    for place, column in enumerate(columns):
        bits = hashes[:, column // 64] >> np.uint64(column % 64)
        keys |= (bits & np.uint64(1)).astype(np.int64) << place
    return keys


def _changes(width, radius):
    """Yields every number of `width` bits of which at most `radius` are set."""
    for size in range(radius + 1):
        for places in itertools.combinations(range(width), size):
            yield sum(1 << place for place in places)


def _pairs(starts, ends, limit):
    """Yields (queries, places) of all places in the queries' ranges, in parts."""
    counts = ends - starts
    rows = np.flatnonzero(counts)
    totals = np.cumsum(counts[rows])
    begin, done = 0, 0
    while begin < len(rows):
        end = max(begin + 1, int(np.searchsorted(totals, done + limit, "right")))
        part = rows[begin:end]
        sizes = counts[part]
        query = np.repeat(part, sizes)
        offsets = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield query, starts[query] + offsets
        begin, done = end, totals[end - 1]


def _distinct(hashes):
    """Returns the first row of each distinct hash that isn't plain, and all groups.

    Args:
        hashes: uint64 array (n, 2).

    Returns:
        `(rows, groups)`: int64 array (distinct,), and int64 array (n,): the place in
        `rows` of each hash's equal, −1 for plain pictures.
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    order, ordered = order[ordered.any(1)], ordered[ordered.any(1)]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    groups = np.full(len(hashes), -1)
    groups[order] = np.cumsum(new) - 1
    return order[new], groups
