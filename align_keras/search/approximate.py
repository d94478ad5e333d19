"""Approximate index of the vectors, for indexes that are too large for a quick scan.

A search scans vectors of 2 bits per number (product quantization of faiss, see Jégou et
al. 2011 and André et al. 2017) and ranks the best thousand again by the exact vectors.
The file is a cache.

A graph (HNSW) was not chosen, because a graph of images is searched poorly by words.
Among a million vectors of 384 numbers it found 21% of the ten best for words of the
hardest model in 1 ms, where scanning finds 99% in 26 ms
(`tools/benchmarks/bench_search.py approximate`).
"""

import math
import pathlib
from typing import Any

import numpy as np

from align_keras.search.index_files import approximate_files, approximate_path
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar

# Rows. With fewer, the exact scan takes less than a tenth of a second.
LEAST_ROWS = 200_000
# Number of candidates that are ranked again: at least `CANDIDATES`, at least one per
# `ROWS_A_CANDIDATE` rows, and at least `_EACH` per requested row. Among 10,000,000
# rows, 1,000 candidates contained 98% of the best ten, and 4,000 all of them.
CANDIDATES = 1000
ROWS_A_CANDIDATE = 2500
_EACH = 10
# Bits of a code. Two numbers have 16 centers, learned from about `_TRAINING_ROWS` rows.
_BITS = 4
_TRAINING_ROWS = 10_000
# Rows. Fewer newer rows than this are scanned and not added to the approximate index.
MIN_NEWER_ROWS = 20_000
# Rows that are added at once.
_BLOCK = 10_000
# Share of the rows up to which scanning them is faster than scanning all codes.
LEAST_SHARE = 1 / 16
# First bytes of a file of faiss of this kind, and bytes before our checksum at its end.
_KIND = b"IPfs"
_MARK = b"align_keras sum "


def bring_up_to_date(folder: pathlib.Path, vectors_file: str, vectors: Any) -> bool:
    """Builds the approximate index or adds newer rows.

    Returns:
        True if the file was written.
    """
    path = approximate_path(folder, vectors_file)
    for old in approximate_files(folder):
        if old != path:
            old.unlink(missing_ok=True)
    total, width = vectors.shape
    if total < LEAST_ROWS:
        return False
    import faiss

    index = _read(path, width, total)
    if index is not None and _has_checksum(path) is None:
        index = None  # An earlier version wrote it without a checksum.
    if index is None:
        parts = width if width % 2 else width // 2
        index = faiss.IndexPQFastScan(width, parts, _BITS, faiss.METRIC_INNER_PRODUCT)
        index.train(np.array(vectors[:: max(1, total // _TRAINING_ROWS)]))
    elif total - index.ntotal < MIN_NEWER_ROWS:
        return False
    first = index.ntotal
    with progress_bar("approximate index", "images", total, done=first) as bar:
        for start in range(first, total, _BLOCK):
            block = np.array(vectors[start : start + _BLOCK])
            index.add(block)
            bar.advance(len(block))
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
        checksum = _checksum(np.fromfile(temporary, np.uint8))
        with open(temporary, "ab") as file:
            file.write(_MARK + checksum.to_bytes(8, "little"))
    return True


class Approximate:
    """Finds rows near a query.

    Attributes:
        candidates: int, number of candidates. More contain more of the best rows.
    """

    def __init__(self, index: Any) -> None:
        self.candidates = max(CANDIDATES, index.ntotal // ROWS_A_CANDIDATE)
        self._index = index

    @classmethod
    def open(
        cls,
        folder: pathlib.Path,
        vectors_file: str,
        dimension: int,
        rows: int = 2**62,
    ) -> "Approximate | None":
        """Opens the file, or returns None if there is none that can be read.

        Args:
            folder: folder of the index.
            vectors_file: name of the file of vectors.
            dimension: width of the embeddings.
            rows: number of vectors, of which the approximate index has no more.
        """
        index = _read(approximate_path(folder, vectors_file), dimension, rows)
        return None if index is None else cls(index)

    def find(
        self,
        query: np.ndarray,
        count: int,
        vectors: Any,
        rows: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Returns candidates for the `count` best rows, and all newer rows.

        Args:
            query: float32 (d,), the embedding.
            count: number of rows that are requested.
            vectors: float32 (n, d), all vectors.
            rows: int64 (m,), sorted rows to search, or None for all rows.

        Returns:
            int64, sorted rows, or None if `rows` contains too few candidates.
        """
        num_indexed = min(self._index.ntotal, len(vectors))
        num_candidates = max(self.candidates, _EACH * count)
        share = 1.0 if rows is None else len(rows) / len(vectors)
        num_nearest = min(math.ceil(num_candidates / share), num_indexed)
        _, nearest = self._index.search(query[None], num_nearest)
        indexed = nearest[0][(nearest[0] >= 0) & (nearest[0] < num_indexed)]
        newer = np.arange(self._index.ntotal, len(vectors))
        candidates = np.sort(np.concatenate([indexed, newer]).astype(np.int64))
        if rows is None:
            return candidates
        positions = np.searchsorted(rows, candidates).clip(max=len(rows) - 1)
        candidates = candidates[rows[positions] == candidates]
        # The condition may exclude the images nearest to the query.
        if len(candidates) < min(num_candidates // 2, len(rows)):
            return None
        return candidates


def is_whole(folder: pathlib.Path, vectors_file: str) -> bool:
    """Returns False if the file of the approximate index has been damaged."""
    path = approximate_path(folder, vectors_file)
    return not path.exists() or _has_checksum(path) is not False


def _read(path: pathlib.Path, dimension: int, rows: int) -> Any:
    """Reads the index of faiss, or returns None if the file is missing or damaged."""
    if not path.exists() or _has_checksum(path) is False:
        return None
    # Imported here because it takes as long as a small search.
    import faiss

    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        return None
    is_ours = isinstance(index, faiss.IndexPQFastScan)
    fits = is_ours and index.d == dimension and index.ntotal <= rows
    return index if fits else None


def _has_checksum(path: pathlib.Path) -> bool | None:
    """Returns True for a correct checksum, False for a wrong one or another kind of
    file, and None for a file of an earlier version, which has no checksum.
    """
    if not path.stat().st_size:
        return False
    content = np.memmap(path, np.uint8, "r")
    if bytes(content[:4]) != _KIND:
        return False
    end = len(content) - len(_MARK) - 8
    if bytes(content[end : end + len(_MARK)]) != _MARK:
        return None
    return _checksum(content[:end]) == int.from_bytes(bytes(content[-8:]), "little")


def _checksum(content: np.ndarray) -> int:
    """Returns the sum of the words of 8 bytes.

    It is computed at the speed of memory. A CRC takes five times as long as faiss needs
    to read the file.
    """
    words = content[: len(content) // 8 * 8].view("<u8")
    last = int.from_bytes(bytes(content[len(words) * 8 :]), "little")
    return (int(words.sum(dtype=np.uint64)) + last + len(content)) % 2**64
