"""Approximate nearest-neighbor index, for indexes where an exact scan is too slow.

A search scans vectors that are compressed to 2 bits per number, and then ranks the best
thousand candidates by their exact vectors. The compression is the product quantization
of faiss (Jégou et al. 2011, André et al. 2017). The file is a cache and can be rebuilt
from the exact vectors.

A graph index (HNSW) is not used, because graphs that are built from image embeddings
have a low recall for text queries. Among a million vectors of width 384, HNSW returned
21% of the true top 10 in 1 ms for the text queries of the hardest model. The scan
returns 99% of them in 26 ms (`tools/benchmarks/bench_search.py approximate`).
"""

import math
import pathlib
from typing import Any

import numpy as np

from align_keras.search.index.folder_files import approximate_path
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar

# Number of rows from which an approximate index is built. The exact scan of fewer rows
# takes less than a tenth of a second.
LEAST_ROWS = 200_000
# Number of candidates that are ranked by their exact vectors: at least `CANDIDATES`, at
# least one per `ROWS_PER_CANDIDATE` rows, and at least `_CANDIDATES_PER_HIT` per hit.
# Among 10,000,000 rows, 1,000 candidates contained 98% of the true top 10, and 4,000
# candidates contained all of it.
CANDIDATES = 1000
ROWS_PER_CANDIDATE = 2500
_CANDIDATES_PER_HIT = 10
# Bits per code. A code replaces two numbers of a vector by the index of one of 16
# centers. The centers are learned from about `_TRAINING_ROWS` rows.
_BITS = 4
_TRAINING_ROWS = 10_000
# Number of new rows from which the approximate index is updated. Fewer new rows are
# scanned exactly.
MIN_NEWER_ROWS = 20_000
# Number of rows that are added at once.
_BLOCK = 10_000
# Fraction of all rows. If fewer rows fulfill a condition, the exact scan of these rows
# is faster than the scan of all codes.
LEAST_SHARE = 1 / 16
# First bytes of a faiss file of this kind, and marker in front of the checksum at the
# end of the file.
_KIND = b"IPfs"
_MARK = b"align_keras sum "


def build_or_update(folder: pathlib.Path, vectors_file: str, vectors: Any) -> bool:
    """Builds the approximate index, or adds the rows that it lacks.

    Returns:
        True if the file was written.
    """
    # The import takes as long as a small search.
    import faiss

    path = approximate_path(folder, vectors_file)
    total, width = vectors.shape
    index = _read(path, width, total)
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
    """Approximate index of a vectors file.

    Attributes:
        candidates: minimum number of candidates per search. A larger number
            increases the recall.
    """

    def __init__(self, index: Any) -> None:
        self.candidates = max(CANDIDATES, index.ntotal // ROWS_PER_CANDIDATE)
        self._index = index

    @classmethod
    def open(
        cls,
        folder: pathlib.Path,
        vectors_file: str,
        dimension: int,
        rows: int = 2**62,
    ) -> "Approximate | None":
        """Opens the approximate index, or returns None if it is missing or damaged.

        Args:
            folder: folder of the index.
            vectors_file: name of the vectors file.
            dimension: width of the embeddings.
            rows: number of vectors. An approximate index of more vectors is rejected.
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
        """Returns candidates for the `count` best rows, and all rows added later.

        Args:
            query: float32 (d,), embedding of the query.
            count: requested number of rows.
            vectors: float32 (n, d), all vectors.
            rows: int64 (m,), sorted rows to search, or None for all rows.

        Returns:
            int64, sorted rows, or None if `rows` contains too few of the candidates.
        """
        num_indexed = min(self._index.ntotal, len(vectors))
        num_candidates = max(self.candidates, _CANDIDATES_PER_HIT * count)
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


def _read(path: pathlib.Path, dimension: int, rows: int) -> Any:
    """Reads the index of faiss, or returns None if the file is missing or damaged."""
    if not path.exists() or not _has_checksum(path):
        return None
    # The import takes as long as a small search, so only searches that need it import
    # faiss.
    import faiss

    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        return None
    is_supported = isinstance(index, faiss.IndexPQFastScan)
    fits = is_supported and index.d == dimension and index.ntotal <= rows
    return index if fits else None


def _has_checksum(path: pathlib.Path) -> bool:
    """Returns True if the file has the format of faiss and a correct checksum."""
    if not path.stat().st_size:
        return False
    content = np.memmap(path, np.uint8, "r")
    if bytes(content[:4]) != _KIND:
        return False
    end = len(content) - len(_MARK) - 8
    if bytes(content[end : end + len(_MARK)]) != _MARK:
        return False
    return _checksum(content[:end]) == int.from_bytes(bytes(content[-8:]), "little")


def _checksum(content: np.ndarray) -> int:
    """Returns the sum of the file's 64-bit words, modulo 2^64."""
    # The sum is computed at the speed of the memory. A CRC would take five times as
    # long as faiss takes to read the file.
    words = content[: len(content) // 8 * 8].view("<u8")
    last = int.from_bytes(bytes(content[len(words) * 8 :]), "little")
    return (int(words.sum(dtype=np.uint64)) + last + len(content)) % 2**64
