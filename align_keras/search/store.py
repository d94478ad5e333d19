"""An index on disk: SQLite for what images are, a file of float32 rows beside it.

Rows are appended and flushed before the transaction that names them, and never change:
after a kill at any moment the next run overwrites a tail that none names, and a search
that runs meanwhile finds what it has opened.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.search import approximate, exact_scan, vector_checks
from align_keras.search.columns import INDEX_COLUMNS, fold_case
from align_keras.search.image_store import ImageStore
from align_keras.search.index_files import (
    DATABASE,
    FIRST_VECTORS,
    HEADER,
    JOURNAL,
    LOCK,
    SHARED_MEMORY,
    STORED_IMAGES,
    WAL,
    approximate_path,
    damaged,
    is_index_file,
    next_vectors_name,
    open_to_write,
    refuse_links,
    run_index_command,
    vectors_path,
)
from align_keras.search.items import ModelIdentity
from align_keras.search.query import Query
from align_keras.search.table_rows import FIRST_TABLE
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, read_json, refuse_url

_FORMAT = "align_keras_image_index"
# Format of the indexes that runs wrote before they wrote this one.
_FLAT_FORMAT = "align_keras_search_index"
_VERSION = 1
# Numbers of an embedding. No model has more, and a damaged header may say anything.
_MAX_DIMENSION = 2**16
_TABLES = {"meta", "roots", "images", "unreadable"}
# What SQLite keeps of an image whatever its columns' types are.
_KINDS = {"id": int, "root": int, "file": bytes, "row": int, "content": bytes}
# `file` is the path's bytes; `path` is it for people and for `where`.
_CHECKSUMS = """
CREATE TABLE IF NOT EXISTS checksums (row INTEGER PRIMARY KEY, crc INTEGER NOT NULL);
"""
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
{_CHECKSUMS}
CREATE TABLE unreadable (
    file BLOB PRIMARY KEY, root INTEGER, size INTEGER, mtime_ns INTEGER, reason TEXT
) WITHOUT ROWID;
{FIRST_TABLE};
"""
# Parts of SQLite's messages on a statement that exceeds one of its limits.
_EXPRESSION_LIMITS = ("too large", "stack overflow", "too many")
# Rows whose scores tell what is high for a query.
_SAMPLE = 4096
# SQLite takes some thousands of parameters a statement.
_IN_BLOCK = 500
# Images that one statement tests for a condition, which limits the length of its
# result.
CONDITION_IMAGES_PER_BLOCK = 1_000_000
# Conditions whose rows stay in memory for the next query.
_KEPT_CONDITIONS = 4
# Bytes. The norms of a file of at most this size are all checked when it is opened, in
# 2 ms.
SMALL_VECTORS_BYTES = 32 * 2**20
# Rows whose checksums each run of `index` compares, in 0.3 s. The next run compares the
# next rows.
CHECKED_ROWS_PER_RUN = 100_000
# The vectors are written again when this fraction of their rows has no image.
_HOLES = 0.25
# Rows of vectors that are read or written together, which limits memory. The vectors
# are not written again while they have fewer rows.
VECTOR_ROWS_PER_BLOCK = 1024
# Seconds that a reader waits for another process that upgrades the index.
UPGRADE_TIMEOUT = 10.0


class _LockedError(InputError):
    """Error of an index that another process is writing."""


class Store(ImageStore):
    """The images of an index in a folder, and their embeddings."""

    _has_checksums: bool
    _has_table_rows: bool

    def __init__(self, folder: str | os.PathLike, writable: bool = False) -> None:
        self.folder = pathlib.Path(folder)
        refuse_links(self.folder)
        self.header = _read_header(self.folder)
        self._writable = writable
        # Threads share the connection; of equal text it has one statement for all.
        self._lock = threading.RLock()
        # Files of the database when a connection was opened that would not see them
        # change, else None.
        self._snapshot: tuple | None = None
        self._connections = 0
        self._connect()
        self._mapped: tuple[str, np.ndarray] | None = None
        self._approximate: tuple[str, approximate.Approximate | None] | None = None
        self._filtered: dict[tuple, np.ndarray] = {}
        # File and number of rows whose norms were compared, and their tolerance.
        self._norms_checked: tuple[str, int, float] | None = None
        self._check_agreement()
        if not self._has_table_rows:
            self._upgrade()

    def _upgrade(self) -> None:
        """Brings an index of an older release to the tables of this one."""
        if self._writable:
            try:
                self.upgrade()
            except InputError:
                raise
            except (AttributeError, KeyError, TypeError, ValueError):
                raise damaged(self.folder, "the names of the tables' columns") from None
            self._has_table_rows = True
            return
        deadline = time.monotonic() + UPGRADE_TIMEOUT
        while not self._is_upgraded():
            try:
                with Store.locked(self.folder):
                    with contextlib.closing(Store(self.folder, writable=True)) as store:
                        store.complete_database_file()
            except (InputError, OSError) as error:
                # Another process may be upgrading it.
                if isinstance(error, _LockedError) and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                if self._is_upgraded():
                    break
                raise InputError(
                    f"The index {self.folder} must be brought to this release by a "
                    f"process that may write it ({error}). Run `align-keras index --to "
                    f"{self.folder}` once, as its owner."
                ) from None
        self._has_table_rows = True

    def _is_upgraded(self) -> bool:
        """Returns True once the tables of this release are in the database."""
        sql = "SELECT count(*) FROM sqlite_master WHERE name = 'table_rows_0'"
        return self._one(sql) > 0

    @staticmethod
    def create(folder: str | os.PathLike, model: ModelIdentity) -> None:
        """Makes an empty index where there is none, complete with its index.json."""
        with Store.locked(folder):
            if not Store.is_there(folder):
                Store.make(pathlib.Path(folder), model)

    @staticmethod
    def make(folder: pathlib.Path, model: ModelIdentity) -> None:
        """Makes an empty index, within `locked`, whatever else the folder holds."""
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
                "vectors": FIRST_VECTORS,
                "header": _header_text(header),
            }
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)", first_values.items()
            )
            connection.commit()
        with atomic_write(folder / HEADER) as file:
            file.write(json.dumps(header, indent=2) + "\n")

    @staticmethod
    def is_there(folder: str | os.PathLike) -> bool:
        """Whether a folder holds an index; raises if it holds something else."""
        folder = pathlib.Path(folder)
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise InputError(
                f"an index must be a folder, received the file {folder}; name another."
            )
        if (folder / HEADER).exists():
            _read_header(folder)
            return True
        known = (DATABASE, LOCK)
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith(known)]
        if foreign:
            raise InputError(
                f"an index must be a new folder or an index, received {folder}, which "
                f"holds {foreign[0]!r:.80}; name another folder."
            )
        return False

    @staticmethod
    @contextlib.contextmanager
    def locked(folder: str | os.PathLike) -> Iterator[None]:
        """Lets one process write an index; raises in another."""
        refuse_url(folder, "the index's `folder`")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Taking the lock empties its file.
        refuse_links(folder)
        held = hold(folder / LOCK)
        if held is None:
            raise _LockedError(
                f"an index must be written by one process at a time, and another is "
                f"writing {folder}; let it end, or name another index."
            )
        with held:
            yield

    def writing(self) -> contextlib.AbstractContextManager["Store"]:
        """Opens the index for writing, by this process alone; see `writer`."""
        return Store.writer(self.folder)

    @staticmethod
    @contextlib.contextmanager
    def writer(folder: str | os.PathLike) -> Iterator["Store"]:
        """Opens an index for writing, by this process alone.

        An error before the index has a source removes the index.
        """
        with Store.locked(folder):
            with contextlib.closing(Store(folder, writable=True)) as store:
                try:
                    store._prepare()
                    yield store
                except InputError:
                    if not len(store) and not store.roots():
                        store._discard()
                        raise
                    store.complete_database_file()
                    raise
                except BaseException:
                    store.complete_database_file()
                    raise
                store.complete_database_file()

    def _prepare(self) -> None:
        """Adds what an index of an earlier version lacks, and counts the run.

        The write-ahead log then has content until `complete_database_file`, also after
        a kill.
        """
        with self._reading():
            self._run("PRAGMA journal_mode = WAL")
        with self.transaction():
            self._note("header", _header_text(self.header))
            runs = self._meta("runs")
            self._note("runs", runs + 1 if isinstance(runs, int) else 1)
            if not self._has_checksums:
                self._run(_CHECKSUMS)
                self._has_checksums = True
                self._add_checksums()

    def _add_checksums(self) -> None:
        """Computes the checksums of an index that has none, if its norms are right."""
        vectors = self.vectors()
        self._check_norms(vectors, np.arange(len(vectors)))
        for start in range(0, len(vectors), VECTOR_ROWS_PER_BLOCK):
            block = np.array(vectors[start : start + VECTOR_ROWS_PER_BLOCK])
            self._write_checksums(start, block)

    def _write_checksums(self, first: int, vectors: np.ndarray) -> None:
        """Writes the checksums of rows from `first` on, and their deviation from 1."""
        checksums = vector_checks.row_checksums(vectors)
        self._connection.executemany(
            "INSERT OR REPLACE INTO checksums VALUES (?, ?)",
            list(enumerate(checksums, first)),
        )
        error = vector_checks.norm_error(vectors)
        if error > (self._norm_error() or 0.0) or self._norm_error() is None:
            self._note("norm_error", error)

    def complete_database_file(self) -> None:
        """Makes the database file complete without its write-ahead log.

        Cuts off vectors that no transaction names, which a full disk leaves. Otherwise
        `check_whole` reports them as rows whose transaction is missing.
        """
        with contextlib.suppress(OSError, InputError):
            path = vectors_path(self.folder, self.vectors_file)
            end = self._row_count() * self.dimension * 4
            if path.exists() and path.stat().st_size > end:
                with open_to_write(path) as file:
                    file.truncate(end)
        with contextlib.suppress(OSError, InputError), self._reading():
            # Readers keep their connections open, so closing alone doesn't do it.
            self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _discard(self) -> None:
        for path in self.folder.iterdir():
            if is_index_file(path.name) and not path.is_dir():
                path.unlink()
        shutil.rmtree(self.folder / STORED_IMAGES, ignore_errors=True)
        with contextlib.suppress(OSError):  # What else is there stays.
            self.folder.rmdir()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection; SQLite's errors say what to do."""
        try:
            with self._lock:
                if self._snapshot is not None and self._snapshot != self._stamp():
                    # The header and the vectors in memory are those of the old one.
                    self._refuse_rebuilt()
                    self._connection.close()
                    self._connect()
                yield self._connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # A message of SQLite repeats damaged text, which Python can't decode.
            text = str(error)
            if "full" in text:
                path = str(self.folder / DATABASE)
                raise OSError(28, "No space left on device", path) from error
            if any(limit in text for limit in _EXPRESSION_LIMITS):
                raise InputError(
                    "`where` must be a condition that SQLite can run. Received: one "
                    f"that is too long or nested too deeply ({text}). Write a simpler "
                    "condition, with `in (…)` for many values of one column."
                ) from error
            if "unable to open" in text and _size(self.folder / WAL):
                raise InputError(
                    f"the index {self.folder} has changes in {WAL}, which can't be "
                    f"read there without {SHARED_MEMORY} or the permission to write; "
                    f"copy the folder to where it can be written, or run `align-keras "
                    f"index --to {self.folder}` as its owner."
                ) from error
            if "locked" in text or "readonly" in text or "unable to open" in text:
                raise InputError(
                    f"the index {self.folder} can't be read or written ({text}); check "
                    "its permissions, and that no other process holds it."
                ) from error
            raise damaged(self.folder, text) from error

    @contextlib.contextmanager
    def _one_state(self) -> Iterator[None]:
        """A transaction in which statements read the same state of the database."""
        with self._reading():
            if self._connection.in_transaction:
                yield
                return
            self._run("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def _connect(self) -> None:
        """Opens the database; a folder that can't be written to is read as it is."""
        path = self.folder / DATABASE
        if not path.is_file():
            raise damaged(self.folder, f"no {DATABASE}")
        if (self.folder / JOURNAL).exists():
            raise damaged(self.folder, f"{JOURNAL}, which no index has")
        mode = "rw" if self._writable else "ro"
        self._snapshot = None
        # SQLite reads a write-ahead log only by a file that it shares with writers.
        # Where it can't make that file, it must be said that there is no log.
        is_fixed = not self._writable and not os.access(self.folder, os.W_OK)
        if is_fixed and not _size(self.folder / WAL):
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
        with self._reading():
            self._run("PRAGMA trusted_schema = OFF")
            self._run("PRAGMA synchronous = NORMAL")
            self._check_schema()

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """Size and time of the database's files."""
        return tuple(map(_size_and_time, (self.folder / DATABASE, self.folder / WAL)))

    def _check_schema(self) -> None:
        """Refuses a database with views, triggers or computed columns, which run SQL
        of whoever made it.
        """
        tables = set()
        for kind, name, sql in self._all("SELECT type, name, sql FROM sqlite_master"):
            if kind == "table" and not str(sql).upper().startswith("CREATE VIRTUAL"):
                tables.add(name)
            elif kind != "index":
                raise damaged(self.folder, f"its database has the {kind} {name!r:.60}")
        self._has_checksums = "checksums" in tables
        self._has_table_rows = "table_rows_0" in tables
        if not tables >= _TABLES:
            missing = ", ".join(sorted(_TABLES - tables))
            raise damaged(self.folder, f"its database lacks the table {missing}")
        for table in filter(_is_index_table, tables):
            for column in self._all(f"PRAGMA table_xinfo({table})"):
                if column[-1]:  # Hidden: computed.
                    raise damaged(
                        self.folder, f"its database computes the column {column[1]!r}"
                    )

    def _check_agreement(self) -> None:
        """Refuses a database, vectors and a header that don't belong together."""
        stored = self._meta("header")
        if stored not in (None, _header_text(self.header)):
            raise damaged(
                self.folder, f"{HEADER} and {DATABASE} are of different indexes"
            )
        self.vectors()
        lowest = self._one("SELECT min(row) FROM images")
        highest = self._one("SELECT max(row) FROM images")
        if lowest is not None:
            is_number = isinstance(lowest, int) and isinstance(highest, int)
            if not is_number or lowest < 0 or highest >= self._row_count():
                raise damaged(
                    self.folder, f"{DATABASE} names rows that it doesn't count"
                )

    def check_whole(self) -> None:
        """Raises if the vectors file has rows whose transaction is missing, as in a
        copy without the write-ahead log of an unfinished run.
        """
        if _size(self.folder / WAL):
            return  # A run is writing, or was killed, and its log is there.
        # In this order, since a writer adds to the file first.
        name = self.vectors_file
        size = _size(vectors_path(self.folder, name))
        rows = self._row_count()
        if size > rows * self.dimension * 4 and self.vectors_file == name:
            raise InputError(
                f"the index {self.folder} is incomplete: {name} holds "
                f"{size // (4 * self.dimension):,} embeddings, and {DATABASE} names "
                f"{rows:,}, as in a copy without {WAL}; copy the whole folder, or "
                f"run `align-keras index --to {self.folder}`, which embeds what is "
                "missing."
            )

    def close(self) -> None:
        """Closes the database; the vectors stay mapped as long as someone has them."""
        self._connection.close()
        self._mapped = None

    # === Reading ===

    @property
    def version(self) -> tuple:
        """Another after each change, by this or another process."""
        data_version = self._one("PRAGMA data_version")
        return self._connections, data_version, self._connection.total_changes

    @property
    def vectors_file(self) -> str:
        """The file's name; while it is the same, a row stays what it is."""
        return self._meta("vectors")

    def _row_count(self) -> int:
        """Number of rows that the database counts."""
        rows = self._meta("rows")
        if not isinstance(rows, int) or rows < 0:
            raise damaged(self.folder, f"the number of rows is {rows!r:.60}")
        return rows

    def vectors(self) -> np.ndarray:
        """float32 (rows, d), mapped into memory; rows may have no image any more."""
        while True:
            name, rows = self.vectors_file, self._row_count()
            mapped = self._mapped
            if mapped is not None and mapped[0] == name and len(mapped[1]) >= rows:
                return mapped[1][:rows]
            try:
                self._mapped = name, self._map(name, rows)
            except InputError:
                # Unless another process has written the vectors anew.
                if self.vectors_file == name:
                    raise

    # === Checks of the vectors ===

    def _norm_error(self) -> float | None:
        """Largest deviation of a norm from 1 when rows were written, or None."""
        error = self._meta("norm_error")
        is_number = isinstance(error, int | float) and 0.0 <= error < np.inf
        if error is not None and not is_number:
            raise damaged(self.folder, f"the deviation of norms is {error!r:.60}")
        return error

    def _damaged_row(self, row: int, reason: str) -> InputError:
        """The error of a row that isn't what was written."""
        images = self._all("SELECT path FROM images WHERE row = ?", [int(row)])
        image = f", {images[0][0]!r:.160}" if images else ""
        path = self.folder / str(self.vectors_file)
        remedy = (
            "embed the images again by `align-keras index --rebuild --to "
            f"{shlex.quote(str(self.folder))}`"
        )
        if self.has_items:
            command = run_index_command(self.folder)
            remedy = "make it again by "
            remedy += f"`{command}`" if command else "`Index.from_embeddings`"
        return InputError(
            f"the file {path} is damaged (row {int(row)}{image}, {reason}); {remedy}."
        )

    def _tolerance(self) -> float:
        """How far norms may be from 1; small files are compared with it as a whole."""
        name, vectors = self.vectors_file, self.vectors()
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
        self, vectors: np.ndarray, rows: Sequence[int] | np.ndarray
    ) -> None:
        """Raises if an embedding, of the row at the same position, has another norm."""
        wrong = vector_checks.first_wrong_norm(vectors, self._tolerance())
        if wrong is not None:
            norm = float(np.linalg.norm(vectors[wrong].astype(float)))
            raise self._damaged_row(rows[wrong], f"whose norm is {norm:.6g}")

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises if an embedding isn't the one that was written, by its checksum."""
        if not self._has_checksums:
            return
        vectors = self.vectors()
        for start in range(0, len(rows), _IN_BLOCK):
            block = [int(row) for row in rows[start : start + _IN_BLOCK]]
            marks = ",".join("?" * len(block))
            stored = dict(
                self._all(
                    f"SELECT row, crc FROM checksums WHERE row IN ({marks})", block
                )
            )
            checksums = vector_checks.row_checksums(vectors[block])
            self._compare(block, checksums, stored)

    def _compare(
        self, rows: Sequence[int], checksums: Sequence[int], stored: dict[int, int]
    ) -> None:
        for row, checksum in zip(rows, checksums, strict=True):
            if stored.get(row, checksum) != checksum:
                raise self._damaged_row(row, "whose checksum differs")

    def check_range(self, start: int, stop: int) -> None:
        """Checks the checksums and norms of the rows from `start` to `stop`.

        Raises:
            InputError: if an embedding is not the one that was written.
        """
        vectors = self.vectors()
        for first in range(start, stop, VECTOR_ROWS_PER_BLOCK):
            block = np.array(vectors[first : min(first + VECTOR_ROWS_PER_BLOCK, stop)])
            rows = range(first, first + len(block))
            stored = {}
            if self._has_checksums:
                sql = "SELECT row, crc FROM checksums WHERE row BETWEEN ? AND ?"
                stored = dict(self._all(sql, [rows[0], rows[-1]]))
            self._compare(rows, vector_checks.row_checksums(block), stored)
            self._check_norms(block, rows)

    def check_part(self) -> None:
        """Compares the checksums of some rows, other ones at each call."""
        rows = self._row_count()
        start = self._meta("checked")
        if not isinstance(start, int) or not 0 <= start < rows:
            start = 0
        stop = min(start + CHECKED_ROWS_PER_RUN, rows)
        self.check_range(start, stop)
        with self.transaction():
            self._note("checked", stop)

    def check(self) -> int:
        with self._reading():
            for (problem,) in self._run("PRAGMA integrity_check").fetchall():
                if problem != "ok":
                    raise damaged(self.folder, problem)
        return self.with_stable_rows(self._check_vectors)

    def _check_vectors(self) -> int:
        rows = self._row_count()
        self.check_range(0, rows)
        if not approximate.is_whole(self.folder, self.vectors_file):
            path = approximate_path(self.folder, self.vectors_file)
            raise InputError(
                f"the file {path} is damaged; remove it, and make it again by "
                f"`align-keras index --to {shlex.quote(str(self.folder))}`."
            )
        return rows

    def user_columns(self) -> tuple[list[Any], int]:
        try:
            return super().user_columns()
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise damaged(self.folder, "the names of the tables' columns") from None

    def _images(self, where: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        images = super()._images(where, parameters)
        for image in images:
            for name, kind in _KINDS.items():
                if not isinstance(image.get(name), kind):
                    raise damaged(self.folder, f"the {name} of image {image['id']}")
        return images

    def vector(self, row: int) -> np.ndarray:
        """One image's embedding, float32 (d,)."""
        self.check_rows([row])
        return np.array(self.vectors()[row])

    def sample(self) -> np.ndarray:
        """float32 (n, d): some thousand embeddings from all over the index."""
        vectors = self.vectors()
        # Not at random, whose import takes a twentieth of a search.
        step = max(1, len(vectors) // _SAMPLE)
        sample = np.array(vectors[::step])
        self._check_norms(sample, range(0, len(vectors), step))
        return sample

    def _map(self, name: str, rows: int) -> np.ndarray:
        if not rows:
            return np.zeros((0, self.dimension), np.float32)
        path = vectors_path(self.folder, name)
        self._refuse_rebuilt()
        try:
            return np.memmap(path, np.float32, "r", shape=(rows, self.dimension))
        except (OSError, ValueError) as error:
            raise damaged(self.folder, f"{path.name}: {error}") from None

    def _refuse_rebuilt(self) -> None:
        """Raises if another database has taken the place of the one that is open."""
        if self._inode != _inode(self.folder / DATABASE):
            raise InputError(
                f"the index {self.folder} was built again after it was opened; open it "
                "again."
            )

    def rows(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """int64 (n,): rows of the images that a condition in SQL is true of, sorted.

        Of the conditions asked last they are kept, as long as the index is the same.
        """
        with self._lock:
            key = self.version, condition, repr(parameters)  # 1 and 1.0 differ.
            found = self._filtered.pop(key, None)
            if found is None:
                found = self._rows(condition, parameters)
            self._filtered[key] = found
            for old in list(self._filtered)[:-_KEPT_CONDITIONS]:
                del self._filtered[old]
        return found

    def _rows(self, condition: str, parameters: Sequence[Any]) -> np.ndarray:
        """A text for many, since a million tuples take as long as the search itself."""
        sql = (
            f"SELECT group_concat(row) FROM images WHERE ({condition}) "
            "AND id BETWEEN ? AND ?"
        )
        last = self._one("SELECT max(id) FROM images") or 0
        parts = []
        for first in range(0, last + 1, CONDITION_IMAGES_PER_BLOCK):
            text = self._one(
                sql, [*parameters, first, first + CONDITION_IMAGES_PER_BLOCK - 1]
            )
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return np.sort(np.concatenate(parts))

    def _of_rows(self, rows: np.ndarray) -> dict[int, dict[str, Any]]:
        """Images by their rows; rows that have none are left out."""
        found = []
        for start in range(0, len(rows), _IN_BLOCK):
            block = rows[start : start + _IN_BLOCK].tolist()
            found += self._images(f"row IN ({','.join('?' * len(block))})", block)
        return {image["row"]: image for image in found}

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        query: Query,
    ) -> Iterator[list[tuple[float, dict, np.ndarray]]]:
        """Yields lists of (score, image, vector), the best first, as long as asked."""
        vectors = self.vectors()
        rows = self.rows(condition, parameters) if condition else None
        if rows is not None:  # Another process may have added some meanwhile.
            rows = rows[: np.searchsorted(rows, len(vectors))]
        for best, scores in self._blocks(embedding, vectors, rows, query):
            self._check_norms(vectors[best], best)
            images = self._of_rows(best)
            yield [  # Rows without an image are left out.
                (float(np.float32(score)), images[row], vectors[row])
                for row, score in zip(best, scores, strict=True)
                if row in images
            ]

    def _blocks(
        self,
        embedding: np.ndarray,
        vectors: np.ndarray,
        rows: np.ndarray | None,
        query: Query,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and their exact scores from the highest on."""
        size = 4 * query.k + 64
        # Scores are no larger than the product of both norms.
        limit = float(np.linalg.norm(embedding)) * (1.0 + self._tolerance())
        near = chosen = None
        if rows is None or len(rows) > approximate.LEAST_SHARE * len(vectors):
            near = self._approximate_index(query.approximate, len(vectors))
        if near is not None:
            chosen = near.find(embedding, size, vectors, rows)
        seen = np.zeros(0, np.int64)
        if chosen is not None:
            ranked = self._by_rank(embedding, vectors, chosen, size, limit)
            for seen, scores in itertools.islice(ranked, 1):
                yield seen, scores
        # Of too many copies, or rows without images, the rest is scanned.
        for best, scores in self._by_rank(embedding, vectors, rows, size, limit):
            new = ~np.isin(best, seen)
            yield best[new], scores[new]

    def _by_rank(
        self,
        embedding: np.ndarray,
        vectors: np.ndarray,
        rows: np.ndarray | None,
        size: int,
        limit: float,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows, all or some, and their exact scores from the highest on."""

        def exact(positions: np.ndarray) -> np.ndarray:
            chosen = positions if rows is None else rows[positions]
            return exact_scan.exact_scores(vectors, embedding, chosen)

        scanned = self._scanned(vectors, embedding, rows, limit)
        error = exact_scan.scan_error(vectors.shape[1], limit)
        for positions, scores in exact_scan.by_rank(scanned, size, exact, error):
            yield positions if rows is None else rows[positions], scores

    def _scanned(
        self,
        vectors: np.ndarray,
        embedding: np.ndarray,
        rows: np.ndarray | None,
        limit: float,
    ) -> np.ndarray:
        scores = exact_scan.scan(vectors, embedding, rows)
        wrong = vector_checks.first_wrong_score(scores, limit)
        if wrong is not None:
            row = wrong if rows is None else rows[wrong]
            raise self._damaged_row(row, f"which scores {scores[wrong]:.4g}")
        return scores

    def _approximate_index(
        self, wanted: bool | None, count: int
    ) -> approximate.Approximate | None:
        """The approximate index, or None where the exact scan is as good."""
        if wanted is False or (wanted is None and count < approximate.LEAST_ROWS):
            return None
        file = self.vectors_file
        if self._approximate is None or self._approximate[0] != file:
            found = approximate.Approximate.open(self.folder, file, self.dimension)
            self._approximate = file, found
        found = self._approximate[1]
        if wanted and found is None:
            raise InputError(
                "`approximate` needs an approximate index, which `align-keras index` "
                f"makes of {approximate.LEAST_ROWS:,} images or more, received "
                f"{count:,}; leave it out."
            )
        return found

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is there, or nothing of it."""
        with self._reading():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes rows behind the last, within a transaction; returns them, on disk."""
        first = self._row_count()
        with open_to_write(vectors_path(self.folder, self.vectors_file)) as file:
            file.seek(first * self.dimension * 4)
            file.truncate()
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._write_checksums(first, vectors)
        self._set("rows", first + len(vectors))
        return range(first, first + len(vectors))

    def compact(self) -> None:
        """Writes the vectors anew where many rows have no image any more, then brings
        the approximate index up to date. New vectors come by one transaction.
        """
        rows, images = self._row_count(), len(self)
        if rows >= VECTOR_ROWS_PER_BLOCK and rows - images >= _HOLES * rows:
            self._write_anew()
        approximate.bring_up_to_date(self.folder, self.vectors_file, self.vectors())

    def _write_anew(self) -> None:
        old = self.vectors_file
        new = next_vectors_name(old)
        kept = self.rows("1")
        vectors = self.vectors()
        with open_to_write(vectors_path(self.folder, new), new=True) as file:
            for start in range(0, len(kept), VECTOR_ROWS_PER_BLOCK):
                block = kept[start : start + VECTOR_ROWS_PER_BLOCK]
                self.check_rows(block.tolist())
                file.write(vectors[block].tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.transaction():
            # By way of negative numbers, for no two rows may be equal in between.
            self._run(
                "UPDATE images SET row = -1 - n FROM (SELECT id AS i, "
                "row_number() OVER (ORDER BY row) - 1 AS n FROM images) WHERE id = i"
            )
            self._run("UPDATE images SET row = -1 - row")
            self._run("DELETE FROM checksums")
            for start in range(0, len(kept), VECTOR_ROWS_PER_BLOCK):
                block = kept[start : start + VECTOR_ROWS_PER_BLOCK]
                self._write_checksums(start, vectors[block])
            self._set("vectors", new)
            self._set("rows", len(kept))
        vectors_path(self.folder, old).unlink(missing_ok=True)

    def _stored(self, name: str, value: Any) -> Any:
        # SQLite has 64 bits; a longer number keeps its digits as text.
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return str(value)
        return value

    def _note(self, key: str, value: Any) -> None:
        """Writes a value of `meta`, which may be new."""
        self._run(
            "INSERT INTO meta VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [key, value],
        )


def is_flat_index(folder: pathlib.Path) -> bool:
    """Returns True for an index in the format that runs wrote before this one."""
    try:
        return read_json(folder / HEADER).get("format") == _FLAT_FORMAT
    except (OSError, InputError):
        return False


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
    try:
        header = read_json(folder / HEADER)
    except InputError as error:
        raise damaged(folder, str(error)) from None
    if header.get("format") == _FLAT_FORMAT:
        command = run_index_command(folder)
        remedy = f"Build it again by `{command}`."
        if command is None:
            remedy = (
                "Build it again by `align-keras train --config_file RUN/params.yaml "
                "--model_dir RUN --mode index`, where RUN is the folder of its run."
            )
        raise InputError(
            "An index must have the format of this release. Received: "
            f"{folder}, in the format that runs wrote before. {remedy}"
        )
    if header.get("format") != _FORMAT:
        raise InputError(
            f"an index must be a folder that `align-keras index` wrote, received "
            f"{folder}, which "
            + ("holds no index.json of one" if folder.is_dir() else "doesn't exist")
            + f"; make it by `align-keras index FOLDER --to {folder}`."
        )
    if header.get("version") != _VERSION:
        raise InputError(
            f"the index {folder} must have version {_VERSION}, received "
            f"{header.get('version')!r:.80}; remove it and build it again."
        )
    model = header.get("model")
    if not isinstance(model, dict):
        raise damaged(folder, f"{HEADER} names no model")
    for key in ("name", "fingerprint"):
        if not isinstance(model.get(key), str) or not model[key]:
            raise damaged(folder, f"{HEADER} has no {key} of the model")
    dimension = header.get("dimension")
    is_number = isinstance(dimension, int) and not isinstance(dimension, bool)
    if not (is_number and 1 <= header["dimension"] <= _MAX_DIMENSION):
        raise damaged(folder, f"{HEADER} has the dimension {dimension!r:.60}")
    return header


def _is_index_table(name: str) -> bool:
    """Returns True for the tables that this module and `table_rows` create."""
    is_of_rows = re.fullmatch(r"table_rows_\d+", name) is not None
    return is_of_rows or name in {*_TABLES, "checksums"}


def _header_text(header: dict[str, Any]) -> str:
    """What the database repeats of the header, so that both can be compared."""
    return json.dumps(
        {"model": header["model"], "dimension": header["dimension"]}, sort_keys=True
    )


def _size(path: pathlib.Path) -> int:
    """Bytes of a file, 0 of none."""
    return _size_and_time(path)[0]


def _inode(path: pathlib.Path) -> int | None:
    """Number of a file, by which one that has replaced it is known, or None."""
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
