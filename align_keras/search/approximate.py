"""An approximate index beside the vectors, for more images than a scan is quick for.

HNSW by faiss over vectors of 8 bits a number; what it finds is ranked anew by the exact
vectors. It is a cache: removed, it is built again by the next `align-keras index`, and
rows that came after it are scanned.

References:
    Malkov and Yashunin 2016, "Efficient and robust approximate nearest neighbor search
    using Hierarchical Navigable Small World graphs".
"""

import os
import pathlib
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar

# From so many rows on; below, the exact scan takes less than a tenth of a second.
LEAST_ROWS = 200_000
# Measured by tools/bench_search.py; see its docstring.
_LINKS, _WIDTH_OF_BUILD, _WIDTH_OF_SEARCH = 32, 80, 256
# Rows that are scanned because they are newer, before they are added.
_NEWER = 20_000
_BLOCK = 10_000


def path_of(folder: pathlib.Path, vectors_file: str) -> pathlib.Path:
    """The file that belongs to a file of vectors."""
    return folder / (os.path.splitext(vectors_file)[0] + ".hnsw")


def bring_up_to_date(folder: pathlib.Path, vectors_file: str, vectors: Any) -> bool:
    """Builds the approximate index, or adds newer rows; False if it needs none."""
    path = path_of(folder, vectors_file)
    for old in folder.glob("*.hnsw"):
        if old != path:
            old.unlink(missing_ok=True)
    if len(vectors) < LEAST_ROWS:
        return False
    faiss = _faiss()
    index = None
    if path.exists():
        index = _read(path, vectors.shape[1])
        if index is not None and len(vectors) - index.ntotal < _NEWER:
            return False
    if index is None or index.ntotal > len(vectors):
        index = faiss.IndexHNSWSQ(
            vectors.shape[1],
            faiss.ScalarQuantizer.QT_8bit,
            _LINKS,
            faiss.METRIC_INNER_PRODUCT,
        )
        index.hnsw.efConstruction = _WIDTH_OF_BUILD
        random = np.random.default_rng(0)
        some = np.sort(random.choice(len(vectors), min(len(vectors), 50_000), False))
        index.train(np.array(vectors[some]))
    first, total = index.ntotal, len(vectors)
    with progress_bar("approximate index", "images", total, done=first) as bar:
        for start in range(first, total, _BLOCK):
            block = np.array(vectors[start : start + _BLOCK])
            index.add(block)
            bar.advance(len(block))
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    return True


class Approximate:
    """Finds rows near to a query in a file that `bring_up_to_date` wrote.

    Attributes:
        width: int, candidates that a search keeps: more of them find more.
    """

    def __init__(self, index: Any):
        self.width = _WIDTH_OF_SEARCH
        self._index = index
        self._faiss = _faiss()

    @classmethod
    def open(
        cls, folder: pathlib.Path, vectors_file: str, dimension: int
    ) -> "Approximate | None":
        """Opens it, or returns None where there is none that can be read."""
        path = path_of(folder, vectors_file)
        if not path.exists():
            return None
        index = _read(path, dimension)
        return None if index is None else cls(index)

    def find(self, query: np.ndarray, count: int, vectors: Any) -> np.ndarray:
        """Returns about `count` rows of high score, and those that are newer."""
        known = min(self._index.ntotal, len(vectors))
        count = min(count, known)
        width = max(self.width, count)
        parameters = self._faiss.SearchParametersHNSW(efSearch=width)
        _, rows = self._index.search(query[None], count, params=parameters)
        newer = np.arange(self._index.ntotal, len(vectors))
        found = rows[0][(rows[0] >= 0) & (rows[0] < known)]
        return np.concatenate([found, newer]).astype(np.int64)


def _read(path, dimension):
    """A file that is damaged is as none: it is a cache."""
    faiss = _faiss()
    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        return None
    return index if index.d == dimension else None


def _faiss():
    import faiss  # Only here: it takes as long as a small search.

    return faiss


def check_there(found: Approximate | None, rows: int) -> Approximate:
    """Raises unless there is an approximate index."""
    if found is None:
        raise InputError(
            "`approximate` needs an approximate index, which `align-keras index` makes "
            f"of {LEAST_ROWS:,} images or more, received {rows:,}; leave it out."
        )
    return found
