"""Vectors file of an index folder: reading, writing and checks for damage.

The file has one row per embedding, in float32 or float16. New rows are appended and
flushed to disk before a transaction refers to them, and written rows never change. If
the process is killed at any moment, no image refers to the rows after the last
transaction, and the next run overwrites them. Searches that run at the same time keep
reading the rows that they opened.

A faulty disk or copy can change single bits. The database stores a CRC-32 of each row,
which detects any such change. A search checks the checksums of the rows that it
returns, and `Index.check` checks all rows. Norms are cheaper to compute, so a search
also checks the norms of all its candidates and of a sample of the rows.
"""

import os
import pathlib
import shlex
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.search.index import approximate
from align_keras.search.index.database import SqliteDatabase
from align_keras.search.index.folder_files import (
    DATABASE,
    WAL,
    approximate_path,
    damage_error,
    encoding_of,
    next_vectors_name,
    open_to_write,
    run_index_command,
    vectors_path,
)
from align_keras.search.index.half_rows import HalfRows
from align_keras.search.index.image_store import VALUES_PER_LIST, sample_step
from align_keras.search.index.schema import ITEMS_ROOT
from align_keras.utils.errors import InputError

# Encoding → type of the numbers in the file.
_TYPES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
# Bytes. All norms of a vectors file of at most this size are checked when the file is
# opened, which takes 2 ms.
SMALL_VECTORS_BYTES = 32 * 2**20
# The vectors file is rewritten when at least this fraction of its rows has no image.
_MAX_UNUSED_FRACTION = 0.25
# Number of vector rows that are read or written at once, which limits the memory.
# Smaller vectors files are never rewritten.
VECTOR_ROWS_PER_BLOCK = 1024
# Relative error of a norm in float32, which depends on the order in which BLAS sums.
_ROUNDING = 1e-5
# Number of rows whose norms are computed at once. They fit into the processor's cache.
_NORM_ROWS = 4096


class VectorsFile:
    """Embeddings in the folder of an index."""

    def __init__(self, database: SqliteDatabase, dimension: int) -> None:
        self._database = database
        self._folder = database.location
        self._dimension = dimension
        # Name of the mapped file and its rows.
        self._mapped: tuple[str, Any] | None = None
        self._approximate: tuple[str, approximate.Approximate | None] | None = None
        # Vectors file and number of rows whose norms were checked, and the tolerance.
        self._norms_checked: tuple[str, int, float] | None = None

    @property
    def name(self) -> str:
        """Name of the file. Row numbers are stable while it does not change."""
        return self._database.get_meta("vectors")

    @property
    def encoding(self) -> str:
        """Encoding of the vectors, one of `folder_files.ENCODINGS`."""
        return encoding_of(self._folder, self.name)

    def __len__(self) -> int:
        """Number of rows that the database has recorded."""
        rows: int = self._database.get_meta("rows")
        return rows

    def close(self) -> None:
        """Unmaps the file. Arrays that `rows` returned stay valid."""
        self._mapped = None

    # === Reading ===

    def named_rows(self) -> tuple[str, Any]:
        """Returns the name of the file, and all its rows.

        The rows are float32 (n, d), as a memory map or `HalfRows`. Rows of removed
        images are included.
        """
        while True:
            # One statement, because each statement of a search gives way to another
            # thread.
            sql = "SELECT key, value FROM meta WHERE key IN ('vectors', 'rows')"
            meta = dict(self._database.fetch_rows(sql))
            name: Any = meta.get("vectors")
            rows: Any = meta.get("rows")
            mapped = self._mapped
            if mapped is not None and mapped[0] == name and len(mapped[1]) >= rows:
                if isinstance(mapped[1], np.ndarray):
                    return name, mapped[1][:rows]
                return name, mapped[1].first(rows)
            try:
                self._mapped = name, self._map(name, rows)
            except InputError:
                # If another process has rewritten the vectors, the loop tries again.
                if self.name == name:
                    raise

    def rows(self) -> Any:
        """Returns all rows, as `named_rows`."""
        return self.named_rows()[1]

    def checked_rows(self, rows: Sequence[int]) -> np.ndarray:
        """Returns the embeddings in some rows, float32 (n, d)."""
        self.check_rows(rows)
        return np.array(self.rows()[rows])

    def sample(self) -> np.ndarray:
        """Returns an even sample of the embeddings, float32 (n, d)."""
        name, vectors = self.named_rows()
        step = sample_step(len(vectors))
        sample = np.array(vectors[::step])
        tolerance = self.tolerance(name, vectors)
        self.check_norms(sample, range(0, len(vectors), step), tolerance)
        return sample

    def approximate_index(self, count: int) -> approximate.Approximate | None:
        """Returns the approximate index, or None if searches scan all `count` rows."""
        if count < approximate.LEAST_ROWS:
            return None
        file = self.name
        if self._approximate is None or self._approximate[0] != file:
            opened = approximate.Approximate.open(self._folder, file, self._dimension)
            self._approximate = file, opened
        return self._approximate[1]

    def _map(self, name: str, rows: int) -> Any:
        path = vectors_path(self._folder, name)
        if not rows:
            return np.zeros((0, self._dimension), np.float32)
        self._database.refuse_rebuilt()
        encoding = encoding_of(self._folder, name)
        try:
            shape = (rows, self._dimension)
            stored = np.memmap(path, _TYPES[encoding], "r", shape=shape)
        except (OSError, OverflowError, ValueError) as error:
            raise damage_error(self._folder, f"{name}: {error}") from None
        return stored if encoding == "float32" else HalfRows(stored)

    def _path_and_row_bytes(self) -> tuple[pathlib.Path, int]:
        name = self.name
        path = vectors_path(self._folder, name)
        encoding = encoding_of(self._folder, name)
        return path, _TYPES[encoding].itemsize * self._dimension

    # === Writing, within a transaction ===

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Appends vectors, float32 (n, d), and flushes them. Returns their rows."""
        first = len(self)
        encoded = encode(vectors, self.encoding)
        path, row_bytes = self._path_and_row_bytes()
        with open_to_write(path) as file:
            file.seek(first * row_bytes)
            file.truncate()
            file.write(encoded.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._write_checksums(first, encoded)
        self._database.update_meta("rows", first + len(vectors))
        return range(first, first + len(vectors))

    def truncate(self) -> None:
        """Removes rows at the end that belong to no transaction.

        A full disk can leave such rows. `check_complete` would report them.
        """
        rows = len(self)
        path, row_bytes = self._path_and_row_bytes()
        if path.exists() and path.stat().st_size > rows * row_bytes:
            with open_to_write(path) as file:
                file.truncate(rows * row_bytes)

    def is_sparse(self, images: int) -> bool:
        """Returns True if many rows have no image, so that `rewrite` saves space."""
        rows = len(self)
        unused = rows - images
        return rows >= VECTOR_ROWS_PER_BLOCK and unused >= _MAX_UNUSED_FRACTION * rows

    def rewrite(self, used_rows: np.ndarray) -> None:
        """Writes some rows to a new file, in a transaction of its own.

        The transaction renumbers the rows and switches to the new file.
        """
        old = self.name
        encoding = self.encoding
        new = next_vectors_name(old, encoding)
        vectors = self.rows()
        blocks = [
            used_rows[start : start + VECTOR_ROWS_PER_BLOCK]
            for start in range(0, len(used_rows), VECTOR_ROWS_PER_BLOCK)
        ]
        with open_to_write(vectors_path(self._folder, new), new=True) as file:
            for block in blocks:
                self.check_rows(block.tolist())
                file.write(encode(vectors[block], encoding).tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self._database.transaction():
            # The column is UNIQUE. The rows first become negative numbers, which differ
            # from all old numbers.
            self._database.run(
                "UPDATE images SET row = -1 - n FROM (SELECT id AS i, "
                "row_number() OVER (ORDER BY row) - 1 AS n FROM images) WHERE id = i"
            )
            self._database.run("UPDATE images SET row = -1 - row")
            self._database.run("DELETE FROM checksums")
            start = 0
            for block in blocks:
                encoded = encode(vectors[block], encoding)
                self._write_checksums(start, encoded)
                start += len(block)
            self._database.update_meta("vectors", new)
            self._database.update_meta("rows", len(used_rows))
        vectors_path(self._folder, old).unlink(missing_ok=True)
        approximate_path(self._folder, old).unlink(missing_ok=True)

    def update_approximate_index(self) -> None:
        """Builds the approximate index, or adds the rows that it lacks."""
        name, vectors = self.named_rows()
        if len(vectors) >= approximate.LEAST_ROWS:
            approximate.build_or_update(self._folder, name, vectors)

    def _write_checksums(self, first: int, vectors: np.ndarray) -> None:
        """Stores checksums of new rows and the largest deviation of a norm from 1."""
        vectors = vectors.astype(np.float32)
        checksums = row_checksums(vectors)
        self._database.run_many(
            "INSERT OR REPLACE INTO checksums VALUES (?, ?)",
            list(enumerate(checksums, first)),
        )
        error = 0.0
        if len(vectors):
            error = float(np.abs(_norms(vectors) - 1.0).max())
        if error > self._norm_error():
            self._database.update_meta("norm_error", error)

    # === Checks ===

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises InputError if a row differs from its stored checksum."""
        vectors = self.rows()
        for start in range(0, len(rows), VALUES_PER_LIST):
            block = [int(row) for row in rows[start : start + VALUES_PER_LIST]]
            marks = ",".join("?" * len(block))
            sql = f"SELECT row, crc FROM checksums WHERE row IN ({marks})"
            stored = dict(self._database.fetch_rows(sql, block))
            self._compare(block, row_checksums(vectors[block]), stored)

    def check(self) -> int:
        """Checks all rows, and returns their number."""
        rows = len(self)
        self.check_range(0, rows)
        return rows

    def check_range(self, start: int, stop: int) -> None:
        """Checks the checksums and norms of the rows in `range(start, stop)`."""
        name, vectors = self.named_rows()
        tolerance = self.tolerance(name, vectors)
        for first in range(start, stop, VECTOR_ROWS_PER_BLOCK):
            block = np.array(vectors[first : min(first + VECTOR_ROWS_PER_BLOCK, stop)])
            rows = range(first, first + len(block))
            sql = "SELECT row, crc FROM checksums WHERE row BETWEEN ? AND ?"
            stored = dict(self._database.fetch_rows(sql, [rows[0], rows[-1]]))
            self._compare(rows, row_checksums(block), stored)
            self.check_norms(block, rows, tolerance)

    def check_complete(self) -> None:
        """Raises InputError if the file has rows without a transaction.

        This happens if the folder is copied without the write-ahead log while a run has
        not finished.
        """
        if self._database.has_unfinished_run:
            return
        # The size is read before the number of rows. A writer appends to the file
        # first, so a concurrent writer cannot make the file appear too long.
        name = self.name
        path, row_bytes = self._path_and_row_bytes()
        size = path.stat().st_size if path.exists() else 0
        rows = len(self)
        if size > rows * row_bytes and self.name == name:
            raise InputError(
                f"The index {self._folder} must have a row in {DATABASE} for each "
                f"embedding. Received: {size // row_bytes:,} embeddings in "
                f"{name} and {rows:,} rows, as in a copy without {WAL}. Copy the whole "
                f"folder, or run `align-keras index --index {self._folder}`, which "
                "embeds the missing images."
            )

    def tolerance(self, name: str, vectors: Any) -> float:
        """Returns the largest allowed deviation of a norm from 1.

        The first call for a file also checks all norms if the file is small. The
        arguments are the result of `named_rows`.
        """
        checked = self._norms_checked
        if checked is None or checked[:2] != (name, len(vectors)):
            tolerance = 2.0 * self._norm_error() + _ROUNDING
            if vectors.nbytes <= SMALL_VECTORS_BYTES:
                self.check_norms(vectors, np.arange(len(vectors)), tolerance)
            checked = name, len(vectors), tolerance
            self._norms_checked = checked
        return checked[2]

    def check_norms(
        self, vectors: Any, rows: Sequence[int] | np.ndarray, tolerance: float
    ) -> None:
        """Raises InputError if the norm of an embedding is not 1.

        Args:
            vectors: float32 (n, d), the embeddings.
            rows: row numbers (n,) of the embeddings, for the error message.
            tolerance: largest deviation of a norm from 1.
        """
        position = first_invalid_norm(vectors, tolerance)
        if position is not None:
            norm = float(np.linalg.norm(vectors[position].astype(float)))
            raise self._damaged_row(rows[position], f"its norm is {norm:.6g}")

    def check_scores(
        self, scores: np.ndarray, rows: np.ndarray | None, limit: float
    ) -> None:
        """Raises InputError if a score is impossible, because its row is damaged.

        Args:
            scores: float32 scores of `rows`.
            rows: int64 row numbers, or None for all rows.
            limit: largest possible score.
        """
        position = first_invalid_score(scores, limit)
        if position is not None:
            row = position if rows is None else rows[position]
            raise self._damaged_row(row, f"its score is {scores[position]:.4g}")

    def _norm_error(self) -> float:
        """Returns the largest deviation of a norm from 1 when the rows were written."""
        error: float = self._database.get_meta("norm_error")
        return error

    def _compare(
        self, rows: Sequence[int], checksums: Sequence[int], stored: dict[int, int]
    ) -> None:
        """Raises InputError if a computed checksum differs from the stored checksum."""
        for row, checksum in zip(rows, checksums, strict=True):
            if stored.get(row) != checksum:
                raise self._damaged_row(row, "its checksum differs")

    def _damaged_row(self, row: int, reason: str) -> InputError:
        """Returns the error for a row that differs from the row that was written."""
        images = self._database.fetch_rows(
            "SELECT path FROM images WHERE row = ?", [int(row)]
        )
        image = f", {images[0][0]!r:.160}" if images else ""
        path = self._folder / str(self.name)
        remedy = (
            "Embed the images again with `align-keras index --rebuild --index "
            f"{shlex.quote(str(self._folder))}`"
        )
        sql = "SELECT id FROM roots WHERE file = ?"
        if self._database.fetch_rows(sql, [ITEMS_ROOT]):
            command = run_index_command(self._folder)
            writer = f"`{command}`" if command else "`Index.from_embeddings`"
            remedy = f"Build the index again with {writer}"
        return InputError(
            f"The file {path} is damaged (row {int(row)}{image}, {reason}). {remedy}."
        )


def encode(vectors: np.ndarray, encoding: str) -> np.ndarray:
    """Converts embeddings, float32 (n, d), to the numbers of the file."""
    return np.ascontiguousarray(vectors, _TYPES[encoding])


def row_checksums(vectors: np.ndarray) -> list[int]:
    """Returns the CRC-32 of each row of float32 (n, d), in little-endian byte order."""
    rows = np.ascontiguousarray(vectors, "<f4")
    return [zlib.crc32(row) for row in rows]


def first_invalid_norm(vectors: np.ndarray, tolerance: float) -> int | None:
    """Returns the first row whose norm is not within `tolerance` of 1, or None."""
    for start in range(0, len(vectors), _NORM_ROWS):
        norms = _norms(vectors[start : start + _NORM_ROWS])
        # Comparisons with NaN are False, so a row with NaN is not valid.
        is_valid = np.abs(norms - 1.0) <= tolerance
        if not is_valid.all():
            return start + int(np.argmin(is_valid))
    return None


def first_invalid_score(scores: np.ndarray, limit: float) -> int | None:
    """Returns the position of the first score that is NaN or too large, or None."""
    if not len(scores):
        return None
    # With a NaN among the scores, max() and min() are NaN and the comparison is False.
    if scores.max() <= limit and scores.min() >= -limit:
        return None
    return int(np.argmin(np.abs(scores) <= limit))


def _norms(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
