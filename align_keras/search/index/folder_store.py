"""Image index in a folder: an SQLite database of the images and a file of embeddings.

The vectors file has one row per embedding, in float32 or float16. New rows
are appended and flushed to disk before a transaction refers to them, and written rows
never change. If the process is killed at any moment, no image refers to the rows after
the last transaction, and the next run overwrites them. Searches that run at the same
time keep reading the rows that they opened.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.search.index import approximate, exact_scan, vector_checks, vector_rows
from align_keras.search.index.columns import INDEX_COLUMNS
from align_keras.search.index.folder_files import (
    DATABASE,
    HEADER,
    JOURNAL,
    LOCK,
    SHARED_MEMORY,
    STORED_IMAGES,
    WAL,
    approximate_path,
    damage_error,
    encoding_of,
    is_index_file,
    next_vectors_name,
    open_to_write,
    rebuild_remedy,
    refuse_links,
    run_index_command,
    vectors_name,
    vectors_path,
)
from align_keras.search.index.image_store import (
    VALUES_PER_LIST,
    ImageStore,
    RebuiltIndexError,
)
from align_keras.search.index.items import ModelIdentity
from align_keras.search.query.query import Query, RankedRows, ScannedRows
from align_keras.utils.condition_columns import fold_case
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, read_json, refuse_url

_FORMAT = "align_keras_image_index"
_VERSION = 2
# Largest accepted embedding width. No model has wider embeddings, so a larger number
# means that the header is damaged.
_MAX_DIMENSION = 2**16
_TABLES = {"meta", "roots", "images", "checksums", "unreadable", "table_rows"}
# Columns whose values are checked after reading, because SQLite does not enforce the
# type of a column.
_KINDS = {"id": int, "root": int, "file": bytes, "row": int, "content": bytes}
# `images.file` is the path as bytes, and `images.path` is the same path as text for
# hits and conditions.
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE roots (id INTEGER PRIMARY KEY, file BLOB UNIQUE NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES roots,
    file BLOB UNIQUE NOT NULL,
    row INTEGER UNIQUE NOT NULL,
    mtime_ns INTEGER NOT NULL,
    content BLOB NOT NULL,
    {", ".join(f"{name} {kind}" for name, kind in INDEX_COLUMNS.items())}
);
CREATE INDEX images_content ON images (content);
CREATE TABLE checksums (row INTEGER PRIMARY KEY, crc INTEGER NOT NULL);
CREATE TABLE unreadable (
    file BLOB PRIMARY KEY,
    root INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE table_rows (
    image INTEGER NOT NULL, root INTEGER NOT NULL, number INTEGER NOT NULL,
    captions TEXT NOT NULL, cells TEXT NOT NULL, PRIMARY KEY (image, root, number)
);
"""
# Parts of SQLite's messages about a statement that exceeds one of its limits.
_EXPRESSION_LIMITS = ("too large", "stack overflow", "too many")
# Number of sampled rows. Their scores show which scores are high for a query.
_SAMPLE = 4096
# Number of images that one statement tests for a condition. It limits the length of the
# result.
CONDITION_IMAGES_PER_BLOCK = 1_000_000
# Number of recent conditions whose matching rows are cached for the next query.
_CACHED_CONDITIONS = 4
# Bytes. All norms of a vectors file of at most this size are checked when the file is
# opened, which takes 2 ms.
SMALL_VECTORS_BYTES = 32 * 2**20
# The vectors file is rewritten when at least this fraction of its rows has no image.
_MAX_UNUSED_FRACTION = 0.25
# Number of vector rows that are read or written at once, which limits the memory.
# Smaller vectors files are never rewritten.
VECTOR_ROWS_PER_BLOCK = 1024


class Store(ImageStore):
    """Store of the images and embeddings of an index in a folder."""

    def __init__(self, folder: str | os.PathLike, writable: bool = False) -> None:
        self.folder = pathlib.Path(folder)
        refuse_links(self.folder)
        self.header = _read_header(self.folder)
        self._writable = writable
        # All threads share one connection. The connection caches prepared statements by
        # their SQL text, so two threads must not run the same statement at once.
        self._lock = threading.RLock()
        # For an immutable connection, which cannot see later changes: sizes and times
        # of the database files when it was opened. Otherwise None.
        self._snapshot: tuple | None = None
        self._connections = 0
        self._connect()
        self._mapped: tuple[str, Any] | None = None
        self._approximate: tuple[str, approximate.Approximate | None] | None = None
        self._filtered: dict[tuple, np.ndarray] = {}
        # Vectors file and number of rows whose norms were checked, and the tolerance.
        self._norms_checked: tuple[str, int, float] | None = None
        self._check_consistency()

    @staticmethod
    def create(
        folder: str | os.PathLike, model: ModelIdentity, encoding: str = "float32"
    ) -> None:
        """Creates an empty index in the folder unless it already holds an index."""
        with Store.locked(folder):
            if not Store.exists(folder):
                Store.initialize(pathlib.Path(folder), model, encoding)

    @staticmethod
    def initialize(
        folder: pathlib.Path, model: ModelIdentity, encoding: str = "float32"
    ) -> None:
        """Writes an empty index to the folder, and replaces an existing index.

        The caller holds the lock of the folder (`locked`).
        """
        for name in (DATABASE, WAL, SHARED_MEMORY, JOURNAL):
            (folder / name).unlink(missing_ok=True)
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": model.reference(),
            "dimension": model.dimension,
        }
        with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            first_values = {
                "rows": 0,
                "vectors": vectors_name(0, encoding),
                "header": _header_text(header),
                "norm_error": 0.0,
                "runs": 0,
            }
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)", first_values.items()
            )
            connection.commit()
        with atomic_write(folder / HEADER) as file:
            file.write(json.dumps(header, indent=2) + "\n")

    @staticmethod
    def exists(folder: str | os.PathLike) -> bool:
        """Returns True if a folder holds an index.

        Raises:
            InputError: if the folder is a file or contains other files.
        """
        folder = pathlib.Path(folder)
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise InputError(
                f"An index must be a folder. Received: the file {folder}. Choose "
                "another path."
            )
        if (folder / HEADER).exists():
            _read_header(folder)
            return True
        prefixes = (DATABASE, LOCK)
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith(prefixes)]
        if foreign:
            raise InputError(
                "The folder of an index must be new or contain an index. Received: "
                f"{folder}, which contains {foreign[0]!r:.80}. Choose another folder."
            )
        return False

    @staticmethod
    @contextlib.contextmanager
    def locked(folder: str | os.PathLike) -> Iterator[None]:
        """Holds the lock that lets only this process write the index.

        Raises:
            InputError: if another process holds the lock.
        """
        refuse_url(folder, "the index's `folder`")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Taking the lock truncates its file, which must not be a link to another file.
        refuse_links(folder)
        lock = hold(folder / LOCK)
        if lock is None:
            raise InputError(
                "An index must be written by one process at a time. Received: "
                f"{folder}, which another process is writing. Wait until that process "
                "has finished, or choose another index."
            )
        with lock:
            yield

    def writing(self) -> contextlib.AbstractContextManager["Store"]:
        """Opens this index for writing, as `writer` does."""
        return Store.writer(self.folder)

    @staticmethod
    @contextlib.contextmanager
    def writer(folder: str | os.PathLike) -> Iterator["Store"]:
        """Locks an index and opens it for writing.

        If an InputError occurs while the index is still empty and has no source, the
        index is deleted.
        """
        with Store.locked(folder):
            with contextlib.closing(Store(folder, writable=True)) as store:
                try:
                    store._mark_run()
                    yield store
                except InputError:
                    if not len(store) and not store.roots():
                        store._delete()
                        raise
                    store.complete_database_file()
                    raise
                except BaseException:
                    store.complete_database_file()
                    raise
                store.complete_database_file()

    def _mark_run(self) -> None:
        """Writes a transaction, so that the write-ahead log is not empty.

        If the process is killed before `complete_database_file`, the remaining log
        shows that the run was not completed.
        """
        with self._use_connection():
            self._run("PRAGMA journal_mode = WAL")
        with self.transaction():
            self._run("UPDATE meta SET value = value + 1 WHERE key = 'runs'")

    def _write_checksums(self, first: int, vectors: np.ndarray) -> None:
        """Stores the checksums of new rows and the largest deviation of a norm from 1.

        Args:
            first: int, number of the first row.
            vectors: float32 or float16 (n, d), the rows as they are stored.
        """
        vectors = vectors.astype(np.float32)
        checksums = vector_checks.row_checksums(vectors)
        self._connection.executemany(
            "INSERT OR REPLACE INTO checksums VALUES (?, ?)",
            list(enumerate(checksums, first)),
        )
        error = vector_checks.norm_error(vectors)
        if error > self._norm_error():
            self._update_meta("norm_error", error)

    def complete_database_file(self) -> None:
        """Moves the content of the write-ahead log into the database file.

        Before that, rows at the end of the vectors file that belong to no transaction
        are removed. A full disk can leave such rows. `check_complete` would report them
        as rows whose transaction is missing.
        """
        with contextlib.suppress(OSError, InputError):
            rows = self._row_count()
            path, row_bytes = self._vectors_path()
            if path.exists() and path.stat().st_size > rows * row_bytes:
                with open_to_write(path) as file:
                    file.truncate(rows * row_bytes)
        with contextlib.suppress(OSError, InputError), self._use_connection():
            # Closing this connection does not move the log while readers have open
            # connections.
            self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _delete(self) -> None:
        for path in self.folder.iterdir():
            if is_index_file(path.name) and not path.is_dir():
                path.unlink()
        shutil.rmtree(self.folder / STORED_IMAGES, ignore_errors=True)
        # The folder remains if it contains other files.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @contextlib.contextmanager
    def _use_connection(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection to one thread at a time.

        Errors of SQLite become an InputError with a remedy.
        """
        try:
            with self._lock:
                if self._snapshot is not None and self._snapshot != self._stamp():
                    # An immutable connection does not see changes of the files, so the
                    # database is opened again. This fails if the index was replaced,
                    # because the header in memory belongs to the old index.
                    self.refuse_rebuilt()
                    self._connection.close()
                    self._connect()
                yield self._connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # UnicodeDecodeError occurs if a message of SQLite quotes damaged text.
            text = str(error)
            if "full" in text:
                path = str(self.folder / DATABASE)
                raise OSError(28, "No space left on device", path) from error
            if any(limit in text for limit in _EXPRESSION_LIMITS):
                raise InputError(
                    "`where` must be a condition that SQLite can run. Received: a "
                    f"condition that is too long or nested too deeply ({text}). Write "
                    "a simpler condition, with `in (…)` for many values of one column."
                ) from error
            if "unable to open" in text and _size(self.folder / WAL):
                raise InputError(
                    f"The index {self.folder} must be writable, because its changes in "
                    f"{WAL} cannot be read without {SHARED_MEMORY} or the permission "
                    "to write. Copy the folder to a disk where you can write, or run "
                    f"`align-keras index --index {self.folder}` as the owner of the "
                    "folder."
                ) from error
            if "locked" in text or "readonly" in text or "unable to open" in text:
                raise InputError(
                    f"The index {self.folder} can't be read or written ({text}). Check "
                    "its permissions, and that no other process has locked it."
                ) from error
            raise damage_error(self.folder, text) from error

    @contextlib.contextmanager
    def consistent_read(self) -> Iterator[None]:
        """Opens a transaction in which all statements read the same database state."""
        with self._use_connection():
            if self._connection.in_transaction:
                yield
                return
            self._run("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def _connect(self) -> None:
        """Opens the database. A folder without write permission is opened read-only."""
        path = self.folder / DATABASE
        if not path.is_file():
            raise damage_error(self.folder, f"{DATABASE} is missing")
        if (self.folder / JOURNAL).exists():
            reason = f"it contains {JOURNAL}, which no index has"
            raise damage_error(self.folder, reason)
        mode = "rw" if self._writable else "ro"
        self._snapshot = None
        # SQLite creates a shared-memory file to read a database with a write-ahead log.
        # In a folder without write permission this fails, so the database is opened as
        # immutable if its log is empty.
        is_read_only = not self._writable and not os.access(self.folder, os.W_OK)
        if is_read_only and not _size(self.folder / WAL):
            mode += "&immutable=1"
            self._snapshot = self._stamp()
        self._connections += 1
        self._inode = _inode(path)
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=20,
            check_same_thread=False,
            isolation_level=None,
        )
        self._connection.create_function("fold_case", 1, fold_case, deterministic=True)
        with self._use_connection():
            self._run("PRAGMA trusted_schema = OFF")
            self._run("PRAGMA synchronous = NORMAL")
            self._check_schema()

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """Returns size and time of the database file and its write-ahead log."""
        return tuple(map(_size_and_time, (self.folder / DATABASE, self.folder / WAL)))

    def _check_schema(self) -> None:
        """Raises InputError for views, triggers and generated columns.

        They contain SQL, which would run when an index from an untrusted source is
        opened.
        """
        tables = set()
        for kind, name, sql in self._fetch_rows(
            "SELECT type, name, sql FROM sqlite_master"
        ):
            if kind == "table" and not str(sql).upper().startswith("CREATE VIRTUAL"):
                tables.add(name)
            elif kind != "index":
                raise damage_error(
                    self.folder, f"its database contains the {kind} {name!r:.60}"
                )
        if not tables >= _TABLES:
            missing = ", ".join(sorted(_TABLES - tables))
            raise damage_error(self.folder, f"its database lacks the table {missing}")
        for table in _TABLES:
            for column in self._fetch_rows(f"PRAGMA table_xinfo({table})"):
                # The last field is not 0 for hidden and generated columns.
                if column[-1]:
                    raise damage_error(
                        self.folder,
                        f"its database contains the generated column {column[1]!r}",
                    )

    def _check_consistency(self) -> None:
        """Raises InputError if database, vectors and header do not match."""
        if self._get_meta("header") != _header_text(self.header):
            raise damage_error(
                self.folder, f"{HEADER} and {DATABASE} belong to different indexes"
            )
        self.vectors()
        lowest = self._fetch_value("SELECT min(row) FROM images")
        highest = self._fetch_value("SELECT max(row) FROM images")
        if lowest is not None:
            is_number = isinstance(lowest, int) and isinstance(highest, int)
            if not is_number or lowest < 0 or highest >= self._row_count():
                raise damage_error(
                    self.folder, f"{DATABASE} refers to rows that do not exist"
                )

    def check_complete(self) -> None:
        """Raises InputError if the vectors file has rows without a transaction.

        This happens if the folder is copied without the write-ahead log while a run has
        not finished.
        """
        # If there is a log, a run is writing or was killed, and no transaction is
        # missing.
        if _size(self.folder / WAL):
            return
        # The size is read before the number of rows. A writer appends to the file
        # first, so a concurrent writer cannot make the file appear too long.
        name = self.vectors_file
        path, row_bytes = self._vectors_path()
        size = _size(path)
        rows = self._row_count()
        if size > rows * row_bytes and self.vectors_file == name:
            raise InputError(
                f"The index {self.folder} must have a row in {DATABASE} for each "
                f"embedding. Received: {size // row_bytes:,} embeddings in "
                f"{name} and {rows:,} rows, as in a copy without {WAL}. Copy the whole "
                f"folder, or run `align-keras index --index {self.folder}`, which "
                "embeds the missing images."
            )

    def close(self) -> None:
        """Closes the database. Arrays that `vectors` returned stay valid."""
        self._connection.close()
        self._mapped = None

    # === Reading ===

    @property
    def version(self) -> tuple:
        """Value that differs after each change by any process."""
        data_version = self._fetch_value("PRAGMA data_version")
        return self._connections, data_version, self._connection.total_changes

    @property
    def vectors_file(self) -> str:
        """Name of the vectors file. Row numbers are stable while it does not change."""
        return self._get_meta("vectors")

    @property
    def encoding(self) -> str:
        """Encoding of the vectors, one of `index_files.ENCODINGS`."""
        return encoding_of(self.folder, self.vectors_file)

    def _vectors_path(self) -> tuple[pathlib.Path, int]:
        """Returns the path of the vectors file, and the bytes of its rows."""
        name = self.vectors_file
        path = vectors_path(self.folder, name)
        encoding = encoding_of(self.folder, name)
        return path, vector_rows.row_bytes(encoding, self.dimension)

    def _row_count(self) -> int:
        """Returns the number of rows that the database has recorded."""
        return self._check_row_count(self._get_meta("rows"))

    def _check_row_count(self, rows: Any) -> int:
        if not isinstance(rows, int) or rows < 0:
            raise damage_error(self.folder, f"the number of rows is {rows!r:.60}")
        return rows

    def vectors(self) -> Any:
        """Returns all rows, float32 (rows, d), as a memory map or `HalfRows`.

        Rows of removed images are included.
        """
        return self._named_vectors()[1]

    def _named_vectors(self) -> tuple[str, Any]:
        """Returns the name of the vectors file, and its rows as `vectors`."""
        while True:
            # One statement, because each statement of a search gives way to another
            # thread.
            sql = "SELECT key, value FROM meta WHERE key IN ('vectors', 'rows')"
            meta = dict(self._fetch_rows(sql))
            name: Any = meta.get("vectors")
            rows = self._check_row_count(meta.get("rows"))
            mapped = self._mapped
            if mapped is not None and mapped[0] == name and len(mapped[1]) >= rows:
                if isinstance(mapped[1], np.ndarray):
                    return name, mapped[1][:rows]
                return name, mapped[1].first(rows)
            try:
                self._mapped = name, self._map_vectors(name, rows)
            except InputError:
                # If another process has rewritten the vectors, the loop tries again.
                if self.vectors_file == name:
                    raise

    # === Checks of the vectors ===

    def _norm_error(self) -> float:
        """Returns the largest deviation of a norm from 1 when the rows were written."""
        error = self._get_meta("norm_error")
        if not isinstance(error, int | float) or not 0.0 <= error < np.inf:
            raise damage_error(self.folder, f"the deviation of norms is {error!r:.60}")
        return error

    def _damaged_row(self, row: int, reason: str) -> InputError:
        """Returns the error for a row that differs from the row that was written."""
        images = self._fetch_rows("SELECT path FROM images WHERE row = ?", [int(row)])
        image = f", {images[0][0]!r:.160}" if images else ""
        path = self.folder / str(self.vectors_file)
        remedy = (
            "Embed the images again with `align-keras index --rebuild --index "
            f"{shlex.quote(str(self.folder))}`"
        )
        if self.has_items:
            command = run_index_command(self.folder)
            remedy = "Build the index again with "
            remedy += f"`{command}`" if command else "`Index.from_embeddings`"
        return InputError(
            f"The file {path} is damaged (row {int(row)}{image}, {reason}). {remedy}."
        )

    def _tolerance(self, name: str, vectors: Any) -> float:
        """Returns the largest allowed deviation of a norm from 1.

        The first call for a vectors file also checks all norms if the file is small.
        The arguments are the result of `_named_vectors`.
        """
        checked = self._norms_checked
        if checked is None or checked[:2] != (name, len(vectors)):
            tolerance = vector_checks.norm_tolerance(self._norm_error())
            self._norms_checked = name, len(vectors), tolerance
            if vectors.nbytes <= SMALL_VECTORS_BYTES:
                try:
                    self._check_norms(vectors, np.arange(len(vectors)))
                except InputError:
                    self._norms_checked = None
                    raise
        assert self._norms_checked is not None
        return self._norms_checked[2]

    def _check_norms(
        self,
        vectors: Any,
        rows: Sequence[int] | np.ndarray,
        tolerance: float | None = None,
    ) -> None:
        """Raises InputError if the norm of an embedding is not 1 within the tolerance.

        Args:
            vectors: float32 (n, d), the embeddings.
            rows: row numbers (n,) of the embeddings, for the error message.
            tolerance: float, result of `_tolerance` if it is already known.
        """
        if tolerance is None:
            tolerance = self._tolerance(*self._named_vectors())
        position = vector_checks.first_invalid_norm(vectors, tolerance)
        if position is not None:
            norm = float(np.linalg.norm(vectors[position].astype(float)))
            raise self._damaged_row(rows[position], f"its norm is {norm:.6g}")

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises InputError if a row differs from its stored checksum."""
        vectors = self.vectors()
        for start in range(0, len(rows), VALUES_PER_LIST):
            block = [int(row) for row in rows[start : start + VALUES_PER_LIST]]
            marks = ",".join("?" * len(block))
            stored = dict(
                self._fetch_rows(
                    f"SELECT row, crc FROM checksums WHERE row IN ({marks})", block
                )
            )
            checksums = vector_checks.row_checksums(vectors[block])
            self._compare(block, checksums, stored)

    def _compare(
        self, rows: Sequence[int], checksums: Sequence[int], stored: dict[int, int]
    ) -> None:
        """Raises InputError if a computed checksum differs from the stored checksum."""
        for row, checksum in zip(rows, checksums, strict=True):
            if stored.get(row) != checksum:
                raise self._damaged_row(row, "its checksum differs")

    def check_range(self, start: int, stop: int) -> None:
        """Checks the checksums and norms of the rows in `range(start, stop)`.

        Raises:
            InputError: if a row is damaged.
        """
        vectors = self.vectors()
        for first in range(start, stop, VECTOR_ROWS_PER_BLOCK):
            block = np.array(vectors[first : min(first + VECTOR_ROWS_PER_BLOCK, stop)])
            rows = range(first, first + len(block))
            sql = "SELECT row, crc FROM checksums WHERE row BETWEEN ? AND ?"
            stored = dict(self._fetch_rows(sql, [rows[0], rows[-1]]))
            self._compare(rows, vector_checks.row_checksums(block), stored)
            self._check_norms(block, rows)

    def check(self) -> int:
        with self._use_connection():
            for (problem,) in self._run("PRAGMA integrity_check").fetchall():
                if problem != "ok":
                    raise damage_error(self.folder, problem)
        return self.with_stable_rows(self._check_vectors)

    def _check_vectors(self) -> int:
        """Checks the vectors and the approximate index. Returns the number of rows."""
        rows = self._row_count()
        self.check_range(0, rows)
        if not approximate.is_undamaged(self.folder, self.vectors_file):
            path = approximate_path(self.folder, self.vectors_file)
            raise InputError(
                f"The approximate index must be undamaged. Received: {path}. Remove "
                "this file, and create it again with `align-keras index --index "
                f"{shlex.quote(str(self.folder))}`."
            )
        return rows

    def _images(self, where: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        images = super()._images(where, parameters)
        for image in images:
            for name, kind in _KINDS.items():
                if not isinstance(image.get(name), kind):
                    raise damage_error(
                        self.folder,
                        f"the column {name} of image {image['id']} is invalid",
                    )
        return images

    def vector(self, row: int) -> np.ndarray:
        """Returns the embedding in a row, float32 (d,)."""
        self.check_rows([row])
        return np.array(self.vectors()[row])

    def vectors_of(self, rows: Sequence[int]) -> np.ndarray:
        self.check_rows(rows)
        return np.array(self.vectors()[rows])

    def sample(self) -> np.ndarray:
        """Returns an even sample of the embeddings of the index, float32 (n, d)."""
        vectors = self.vectors()
        step = _sample_step(len(vectors))
        sample = np.array(vectors[::step])
        self._check_norms(sample, range(0, len(vectors), step))
        return sample

    def sample_scores(self, scanned: ScannedRows) -> np.ndarray:
        """Returns the scores of the rows of `sample` among the scores of all rows."""
        return scanned.scores[:: _sample_step(len(scanned.scores))]

    def _map_vectors(self, name: str, rows: int) -> Any:
        """Maps a vectors file into memory."""
        path = vectors_path(self.folder, name)
        if not rows:
            return np.zeros((0, self.dimension), np.float32)
        self.refuse_rebuilt()
        encoding = encoding_of(self.folder, name)
        try:
            return vector_rows.map_rows(path, encoding, rows, self.dimension)
        except (OSError, ValueError) as error:
            raise damage_error(self.folder, f"{name}: {error}") from None

    def refuse_rebuilt(self) -> None:
        """Raises RebuiltIndexError if the database file was replaced after opening."""
        if self._inode != _inode(self.folder / DATABASE):
            raise RebuiltIndexError(
                f"The index {self.folder} was built again after it was opened. Open it "
                "again."
            )

    def rows(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """Returns the sorted rows of the images that fulfill a condition, int64 (n,).

        The rows of the most recent conditions are cached until the index changes.

        Args:
            condition: SQL of the condition.
            parameters: values for the `?` marks in the SQL.
        """
        with self._lock:
            # `repr` distinguishes 1 from 1.0, which are equal as dict keys.
            key = self.version, condition, repr(parameters)
            matching_rows = self._filtered.pop(key, None)
            if matching_rows is None:
                matching_rows = self._query_rows(condition, parameters)
            self._filtered[key] = matching_rows
            for old in list(self._filtered)[:-_CACHED_CONDITIONS]:
                del self._filtered[old]
        return matching_rows

    def _query_rows(self, condition: str, parameters: Sequence[Any]) -> np.ndarray:
        """Returns the sorted rows of the images that fulfill a condition."""
        # SQLite concatenates the rows to one text, because creating a million Python
        # tuples would take as long as the search itself.
        sql = (
            f"SELECT group_concat(row) FROM images WHERE ({condition}) "
            "AND id BETWEEN ? AND ?"
        )
        last = self._fetch_value("SELECT max(id) FROM images") or 0
        parts = []
        for first in range(0, last + 1, CONDITION_IMAGES_PER_BLOCK):
            text = self._fetch_value(
                sql, [*parameters, first, first + CONDITION_IMAGES_PER_BLOCK - 1]
            )
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return np.sort(np.concatenate(parts))

    def _have_images(self, rows: np.ndarray) -> np.ndarray:
        """Returns a bool array (n,), False for the rows of removed images."""
        # SQLite concatenates the rows to one text. For each row of a result, Python
        # would give way to other threads, which takes longer than the statement.
        parts = [np.zeros(0, np.int64)]
        for start in range(0, len(rows), VALUES_PER_LIST):
            block = rows[start : start + VALUES_PER_LIST].tolist()
            marks = ",".join("?" * len(block))
            sql = f"SELECT group_concat(row) FROM images WHERE row IN ({marks})"
            text = self._fetch_value(sql, block)
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return np.isin(rows, np.concatenate(parts))

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        query: Query,
        scanned: ScannedRows | None = None,
    ) -> Iterator[RankedRows]:
        """Yields blocks of rows that have an image, in descending order of the score.

        Args:
            embedding: float32 (d,), embedding of the query.
            condition: SQL of a condition, or "".
            parameters: values for the `?` marks in the SQL.
            query: options of the search.
            scanned: scores of the query from `scan_many`, or None.

        Yields:
            `RankedRows`.
        """
        name, vectors = self._named_vectors()
        rows = self.rows(condition, parameters) if condition else None
        if rows is not None:
            # Another process may have added rows after `vectors` was mapped.
            rows = rows[: np.searchsorted(rows, len(vectors))]
        tolerance = self._tolerance(name, vectors)
        scores_of_all = None
        if scanned is not None and rows is None:
            is_current = scanned.vectors_file == name
            if is_current and len(scanned.scores) == len(vectors):
                scores_of_all = scanned.scores
        # The largest possible score is the product of both norms.
        limit = float(np.linalg.norm(embedding)) * (1.0 + tolerance)
        for best, scores in self._ranked_blocks(
            embedding, vectors, rows, query, limit, scores_of_all
        ):
            embeddings = np.asarray(vectors[best])
            self._check_norms(embeddings, best, tolerance)
            has_image = self._have_images(best)
            yield RankedRows(
                best[has_image],
                scores[has_image].astype(np.float32),
                embeddings[has_image],
            )

    def _ranked_blocks(
        self,
        embedding: np.ndarray,
        vectors: Any,
        rows: np.ndarray | None,
        query: Query,
        limit: float,
        scanned: np.ndarray | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and their exact scores in descending order.

        The first block comes from the approximate index, if it is used. If the caller
        needs more rows, because many of them are near-duplicates or have no image, the
        further blocks come from an exact scan.
        """
        # The additional rows replace near-duplicates and rows without an image.
        size = query.k + 64
        approximate_index = candidates = None
        if rows is None or len(rows) > approximate.LEAST_SHARE * len(vectors):
            approximate_index = self._approximate_index(len(vectors))
        if approximate_index is not None:
            count = 4 * query.k + 64
            candidates = approximate_index.find(embedding, count, vectors, rows)
        yielded = np.zeros(0, np.int64)
        if candidates is not None:
            ranked = self._by_rank(embedding, vectors, candidates, count, limit, None)
            for yielded, scores in itertools.islice(ranked, 1):
                yield yielded, scores
        for best, scores in self._by_rank(
            embedding, vectors, rows, size, limit, scanned
        ):
            is_new = ~np.isin(best, yielded)
            yield best[is_new], scores[is_new]

    def _by_rank(
        self,
        embedding: np.ndarray,
        vectors: Any,
        rows: np.ndarray | None,
        size: int,
        limit: float,
        scanned: np.ndarray | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields row numbers and their exact scores in descending order.

        Args:
            embedding: float32 (d,), embedding of the query.
            vectors: float32 (n, d), all vectors.
            rows: int64 (m,), rows to rank, or None for all rows.
            size: int, minimum number of rows in the first block.
            limit: float, largest possible score.
            scanned: float32 scores (n,) of all vectors, or None to compute them.
        """

        def exact(positions: np.ndarray) -> np.ndarray:
            row_numbers = positions if rows is None else rows[positions]
            return exact_scan.exact_scores(vectors, embedding, row_numbers)

        if scanned is None:
            scanned = exact_scan.scan(vectors, embedding, rows)
        deviation = _scan_deviation(vectors, embedding)
        self._check_scores(scanned, rows, limit + deviation)
        error = exact_scan.scan_error(vectors.shape[1], limit) + deviation
        for positions, scores in exact_scan.by_rank(scanned, size, exact, error):
            yield positions if rows is None else rows[positions], scores

    def scan_many(self, embeddings: np.ndarray) -> list[ScannedRows] | None:
        """Returns the scores of all vectors for several queries, for `ranked`.

        Args:
            embeddings: float32 (q, d), embeddings of the queries.

        Returns:
            list of q `ScannedRows`, or None if searches use the approximate index.
        """
        name, vectors = self._named_vectors()
        if self._approximate_index(len(vectors)) is not None:
            return None
        scores = exact_scan.scan_many(vectors, embeddings)
        return [ScannedRows(name, row) for row in scores]

    def _check_scores(
        self, scores: np.ndarray, rows: np.ndarray | None, limit: float
    ) -> None:
        """Raises InputError if a score is impossible, because its row is damaged.

        Args:
            scores: float32 scores of `rows`.
            rows: int64 row numbers, or None for all rows.
            limit: float, largest possible score.
        """
        position = vector_checks.first_invalid_score(scores, limit)
        if position is not None:
            row = position if rows is None else rows[position]
            raise self._damaged_row(row, f"its score is {scores[position]:.4g}")

    def _approximate_index(self, count: int) -> approximate.Approximate | None:
        """Returns the approximate index, or None if the search scans all vectors."""
        if count < approximate.LEAST_ROWS:
            return None
        file = self.vectors_file
        if self._approximate is None or self._approximate[0] != file:
            opened = approximate.Approximate.open(self.folder, file, self.dimension)
            self._approximate = file, opened
        return self._approximate[1]

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Context whose changes are written all together or not at all."""
        with self._use_connection():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Appends vectors to the vectors file and flushes them to disk.

        The caller is in a transaction.

        Args:
            vectors: float32 (n, d), embeddings.

        Returns:
            Sequence of int, the new row numbers.
        """
        first = self._row_count()
        encoded = vector_rows.encode(vectors, self.encoding)
        path, row_bytes = self._vectors_path()
        with open_to_write(path) as file:
            file.seek(first * row_bytes)
            file.truncate()
            file.write(encoded.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._write_checksums(first, encoded)
        self._update_meta("rows", first + len(vectors))
        return range(first, first + len(vectors))

    def compact(self) -> None:
        """Removes unused rows if there are many, and updates the approximate index."""
        rows, images = self._row_count(), len(self)
        unused = rows - images
        if rows >= VECTOR_ROWS_PER_BLOCK and unused >= _MAX_UNUSED_FRACTION * rows:
            self._rewrite_vectors()
        approximate.build_or_update(self.folder, self.vectors_file, self.vectors())

    def _rewrite_vectors(self) -> None:
        """Writes the rows of all images to a new vectors file.

        One transaction renumbers the rows and switches to the new file.
        """
        old = self.vectors_file
        encoding = self.encoding
        new = next_vectors_name(old, encoding)
        used_rows = self.rows("1")
        vectors = self.vectors()
        blocks = [
            used_rows[start : start + VECTOR_ROWS_PER_BLOCK]
            for start in range(0, len(used_rows), VECTOR_ROWS_PER_BLOCK)
        ]
        with open_to_write(vectors_path(self.folder, new), new=True) as file:
            for block in blocks:
                self.check_rows(block.tolist())
                file.write(vector_rows.encode(vectors[block], encoding).tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.transaction():
            # The column is UNIQUE. The rows first become negative numbers, which differ
            # from all old numbers.
            self._run(
                "UPDATE images SET row = -1 - n FROM (SELECT id AS i, "
                "row_number() OVER (ORDER BY row) - 1 AS n FROM images) WHERE id = i"
            )
            self._run("UPDATE images SET row = -1 - row")
            self._run("DELETE FROM checksums")
            start = 0
            for block in blocks:
                encoded = vector_rows.encode(vectors[block], encoding)
                self._write_checksums(start, encoded)
                start += len(block)
            self._update_meta("vectors", new)
            self._update_meta("rows", len(used_rows))
        vectors_path(self.folder, old).unlink(missing_ok=True)

    def _to_stored(self, name: str, value: Any) -> Any:
        # SQLite stores integers of 64 bits. A longer integer is stored as text, which
        # preserves all digits.
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return str(value)
        return value


def _scan_deviation(vectors: Any, embedding: np.ndarray) -> float:
    """Returns the largest error of a score because a scan ignores parts of rows."""
    if isinstance(vectors, np.ndarray):
        return 0.0
    return vectors.deviation * float(np.linalg.norm(embedding))


def _sample_step(rows: int) -> int:
    """Returns the distance between two rows of the sample.

    It is fixed, because importing a random number generator takes a twentieth of the
    time of a search.
    """
    return max(1, rows // _SAMPLE)


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
    try:
        header = read_json(folder / HEADER)
    except InputError as error:
        raise damage_error(folder, str(error)) from None
    if header.get("format") != _FORMAT:
        raise InputError(
            "An index must be a folder that `align-keras index` wrote. Received: "
            f"{folder}, which "
            + ("has no index.json of one" if folder.is_dir() else "doesn't exist")
            + f". Create the index with `align-keras index FOLDER --index {folder}`."
        )
    if header.get("version") != _VERSION:
        raise InputError(
            f"The index {folder} must have version {_VERSION}. Received: version "
            f"{header.get('version')!r:.80}. {rebuild_remedy(folder)}"
        )
    model = header.get("model")
    if not isinstance(model, dict):
        raise damage_error(folder, f"{HEADER} names no model")
    for key in ("name", "fingerprint"):
        if not isinstance(model.get(key), str) or not model[key]:
            raise damage_error(folder, f"{HEADER} has no {key} of the model")
    dimension = header.get("dimension")
    is_number = isinstance(dimension, int) and not isinstance(dimension, bool)
    if not (is_number and 1 <= header["dimension"] <= _MAX_DIMENSION):
        raise damage_error(folder, f"{HEADER} has the dimension {dimension!r:.60}")
    return header


def _header_text(header: dict[str, Any]) -> str:
    """Returns the part of the header that the database also stores.

    A difference shows that the files belong to different indexes.
    """
    return json.dumps(
        {"model": header["model"], "dimension": header["dimension"]}, sort_keys=True
    )


def _size(path: pathlib.Path) -> int:
    """Returns the size of a file in bytes, or 0 if it does not exist."""
    return _size_and_time(path)[0]


def _inode(path: pathlib.Path) -> int | None:
    """Returns the inode of a file, which shows if the file was replaced, or None."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
