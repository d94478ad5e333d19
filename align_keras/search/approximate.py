"""An approximate index beside the vectors, for more images than a scan is quick for.

Vectors of 2 bits a number (product quantization by faiss; Jégou et al. 2011, André et
al. 2017) are scanned, and the best thousand ranked anew by the exact ones. It is a
cache. A graph (HNSW) was left: made of images it leads words astray; of a million
vectors of 384 numbers it found 21% of the ten best for words of the hardest model, in
1 ms; scanning finds 99% in 26 ms (`tools/benchmarks/bench_search.py approximate`).
"""

import math
import pathlib
from typing import Any

import numpy as np

from align_keras.search.index_files import approximate_files, approximate_path
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar

# From so many rows on; below, the exact scan takes less than a tenth of a second.
LEAST_ROWS = 200_000
# Candidates that are ranked anew: at least so many, one of so many rows, and so many
# for each that is asked. Of 10,000,000 rows 1,000 held 98% of the best ten, 4,000 all.
CANDIDATES, ROWS_A_CANDIDATE, _EACH = 1000, 2500, 10
# Sixteen centers for each two numbers, learned from some of the rows.
_BITS, _TRAINING_ROWS = 4, 10_000
# Rows that are scanned because they are newer, before they are added.
_NEWER = 20_000
_BLOCK = 10_000
# To scan some rows takes as long as the codes of all if they are about this part.
LEAST_SHARE = 1 / 16
# How faiss begins a file of this kind, and what precedes our checksum at its end.
_KIND, _MARK = b"IPfs", b"align_keras sum "


def bring_up_to_date(folder: pathlib.Path, vectors_file: str, vectors: Any) -> bool:
    """Builds the approximate index, or adds newer rows; False if it needs none."""
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
        index = None  # Of an earlier version, without a checksum.
    if index is None:
        parts = width if width % 2 else width // 2
        index = faiss.IndexPQFastScan(width, parts, _BITS, faiss.METRIC_INNER_PRODUCT)
        index.train(np.array(vectors[:: max(1, total // _TRAINING_ROWS)]))
    elif total - index.ntotal < _NEWER:
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
    """Finds rows near to a query; more than `candidates` hold more of the best."""

    def __init__(self, index: Any):
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
        """Opens it, or returns None where there is none that can be read.

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
        """Returns rows, sorted, among which the `count` best are, and those that are
        newer: of all, or of `rows`, or None if too few of those are near.
        """
        known = min(self._index.ntotal, len(vectors))
        count = max(self.candidates, _EACH * count)
        share = 1.0 if rows is None else len(rows) / len(vectors)
        _, near = self._index.search(query[None], min(math.ceil(count / share), known))
        newer = np.arange(self._index.ntotal, len(vectors))
        chosen = np.concatenate([near[0][(near[0] >= 0) & (near[0] < known)], newer])
        chosen = np.sort(chosen.astype(np.int64))
        if rows is None:
            return chosen
        places = np.searchsorted(rows, chosen).clip(max=len(rows) - 1)
        chosen = chosen[rows[places] == chosen]
        # The query's best may be those that the condition leaves out.
        return chosen if len(chosen) >= min(count // 2, len(rows)) else None


def is_whole(folder: pathlib.Path, vectors_file: str) -> bool:
    """Returns False if the approximate index isn't as it was written."""
    path = approximate_path(folder, vectors_file)
    return not path.exists() or _has_checksum(path) is not False


def _read(path, dimension, rows):
    """A file that is damaged is as none: it is a cache."""
    if not path.exists() or _has_checksum(path) is False:
        return None
    import faiss  # Only here: it takes as long as a small search.

    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        return None
    is_ours = isinstance(index, faiss.IndexPQFastScan)
    fits = is_ours and index.d == dimension and index.ntotal <= rows
    return index if fits else None


def _has_checksum(path):
    """True for a right checksum, False for a wrong one or another kind of file, None
    for a file of an earlier version, which has none.
    """
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else b""
    if bytes(content[:4]) != _KIND:
        return False
    end = len(content) - len(_MARK) - 8
    if bytes(content[end : end + len(_MARK)]) != _MARK:
        return None
    return _checksum(content[:end]) == int.from_bytes(bytes(content[-8:]), "little")


def _checksum(content):
    """Sum of the 8-byte words: at the speed of memory, where CRC takes five times as
    long as faiss does to read the file.
    """
    words = content[: len(content) // 8 * 8].view("<u8")
    last = int.from_bytes(bytes(content[len(words) * 8 :]), "little")
    return (int(words.sum(dtype=np.uint64)) + last + len(content)) % 2**64
