"""Databases of an index: what both run, and SQLite in the folder of an index.

SQL is written for SQLite, with `?` for each parameter. The expressions that differ in
PostgreSQL have a method each.
"""

import abc
import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from align_keras.search.index.folder_files import (
    DATABASE,
    JOURNAL,
    SHARED_MEMORY,
    WAL,
    damage_error,
)
from align_keras.search.index.schema import SQLITE_SCHEMA, SQLITE_TABLES
from align_keras.utils.condition_columns import fold_case
from align_keras.utils.errors import InputError

# Parts of SQLite's messages about a statement that exceeds one of its limits.
_EXPRESSION_LIMITS = ("too large", "stack overflow", "too many")


class RebuiltIndexError(InputError):
    """Error for an index that another process built again after it was opened."""


class Database(abc.ABC):
    """Database of an index, which several threads share.

    Attributes:
        location: path of the folder, or address of the database.
        lock: lock of the connection. All threads share one connection.
    """

    location: Any
    lock: Any
    _connection: Any

    @property
    @abc.abstractmethod
    def version(self) -> Any:
        """Value that differs after each change by any process."""

    @abc.abstractmethod
    def connection(self) -> contextlib.AbstractContextManager[Any]:
        """Yields the connection to one thread at a time."""

    @abc.abstractmethod
    def consistent_read(self) -> contextlib.AbstractContextManager[None]:
        """Context in which all statements read the same state of the database."""

    @abc.abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Context whose changes are written all together or not at all."""

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    # === Reading ===

    def fetch_rows(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Returns all rows of a query."""
        with self.connection() as connection:
            return connection.execute(self._sql(sql), parameters).fetchall()

    def fetch_dicts(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """Returns all rows of a query, each as a dict from column to value."""
        with self.connection() as connection:
            cursor = connection.execute(self._sql(sql), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def fetch_value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Returns the first column of the first row of a query, or None."""
        (row,) = self.fetch_rows(sql, parameters) or [(None,)]
        return row[0]

    def get_meta(self, key: str) -> Any:
        """Returns an entry of the table `meta`, or None."""
        return self.fetch_value("SELECT value FROM meta WHERE key = ?", [key])

    # === Writing, within a transaction ===

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Runs a statement and returns its cursor."""
        return self._connection.execute(self._sql(sql), parameters)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row of parameters."""
        if rows:
            self._connection.cursor().executemany(self._sql(sql), rows)

    def run_for_each(self, sql: str, values: Iterable[Any]) -> None:
        """Runs a statement with one parameter once for each value."""
        self.run_many(sql, [(value,) for value in values])

    def update_meta(self, key: str, value: Any) -> None:
        """Changes an entry of the table `meta`."""
        self.run("UPDATE meta SET value = ? WHERE key = ?", [value, key])

    # === SQL of SQLite, which PostgreSQL overrides ===

    def lock_tables(self) -> None:
        """Prevents other processes from changing tables until the transaction ends.

        A transaction of SQLite locks the whole database.
        """
        return

    def to_stored(self, value: Any) -> Any:
        """Returns a value as the database can store it."""
        # SQLite stores integers of 64 bits. A longer integer is stored as text, which
        # preserves all digits.
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return str(value)
        return value

    def cell_sql(self, table: str, column: str) -> str:
        """Returns SQL for the text of a cell of `table_rows`."""
        path = column.replace("'", "''")
        return f"json_extract({table}.cells, '$.\"{path}\"')"

    def number_sql(self, sql: str) -> str:
        """Returns SQL for the number in a text."""
        return f"CAST(NULLIF(trim({sql}), '') AS NUMERIC)"

    def text_sql(self, sql: str) -> str:
        """Returns SQL for a text that is compared by code points."""
        return sql

    def lowercase_sql(self, sql: str, is_ascii: bool) -> str:
        """Returns SQL for a text in lower case.

        Folding non-ASCII letters is slower, and is only needed if the pattern contains
        such letters.
        """
        return f"lower({sql})" if is_ascii else f"fold_case({sql})"

    def _sql(self, text: str) -> str:
        return text


class SqliteDatabase(Database):
    """Database of an index in a folder.

    All threads share one connection. It caches prepared statements by their SQL, so two
    threads must not run the same statement at once.
    """

    location: pathlib.Path

    def __init__(self, folder: pathlib.Path, writable: bool = False) -> None:
        self.location = folder
        self.lock = threading.RLock()
        self._writable = writable
        # For an immutable connection, which cannot see later changes: sizes and times
        # of the database files when it was opened. Otherwise None.
        self._snapshot: tuple | None = None
        self._connections = 0
        self._connect()

    @staticmethod
    def create(folder: pathlib.Path, meta: dict[str, object]) -> None:
        """Writes an empty database with some entries of the table `meta`."""
        for name in (DATABASE, WAL, SHARED_MEMORY, JOURNAL):
            (folder / name).unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SQLITE_SCHEMA)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.commit()

    @property
    def version(self) -> tuple:
        data_version = self.fetch_value("PRAGMA data_version")
        return self._connections, data_version, self._connection.total_changes

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection to one thread at a time.

        Errors of SQLite become an InputError with a remedy.
        """
        try:
            with self.lock:
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
            raise self._explained(str(error)) from error

    @contextlib.contextmanager
    def consistent_read(self) -> Iterator[None]:
        with self.connection():
            if self._connection.in_transaction:
                yield
                return
            self.run("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.connection():
            self.run("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def begin_run(self) -> None:
        """Writes a transaction, so that the write-ahead log is not empty.

        If the process is killed before `end_run`, the remaining log shows that the run
        was not completed.
        """
        with self.connection():
            self.run("PRAGMA journal_mode = WAL")
        with self.transaction():
            self.run("UPDATE meta SET value = value + 1 WHERE key = 'runs'")

    def end_run(self) -> None:
        """Moves the content of the write-ahead log into the database file."""
        # Closing this connection does not move the log while readers have open
        # connections.
        with self.connection():
            self.run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def has_unfinished_run(self) -> bool:
        """True if a run is writing the index or was killed."""
        return _size(self.location / WAL) > 0

    def refuse_rebuilt(self) -> None:
        """Raises RebuiltIndexError if the database file was replaced after opening."""
        if self._inode != _inode(self.location / DATABASE):
            raise RebuiltIndexError(
                f"The index {self.location} was built again after it was opened. Open "
                "it again."
            )

    def check(self) -> None:
        """Raises InputError if the database file is damaged."""
        with self.connection():
            for (problem,) in self.run("PRAGMA integrity_check").fetchall():
                if problem != "ok":
                    raise damage_error(self.location, problem)

    def _connect(self) -> None:
        """Opens the database. A folder without write permission is opened read-only."""
        path = self.location / DATABASE
        if not path.is_file():
            raise damage_error(self.location, f"{DATABASE} is missing")
        # Rolling a journal back could delete a file outside of the folder.
        if (self.location / JOURNAL).exists():
            reason = f"it contains {JOURNAL}, which no index has"
            raise damage_error(self.location, reason)
        mode = "rw" if self._writable else "ro"
        self._snapshot = None
        # SQLite creates a shared-memory file to read a database with a write-ahead log.
        # In a folder without write permission this fails, so the database is opened as
        # immutable if its log is empty.
        is_read_only = not self._writable and not os.access(self.location, os.W_OK)
        if is_read_only and not self.has_unfinished_run:
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
        with self.connection():
            self.run("PRAGMA trusted_schema = OFF")
            self.run("PRAGMA synchronous = NORMAL")
            self._check_schema()

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """Returns size and time of the database file and its write-ahead log."""
        files = (self.location / DATABASE, self.location / WAL)
        return tuple(_size_and_time(file) for file in files)

    def _check_schema(self) -> None:
        """Raises InputError for views, triggers and generated columns."""
        # They contain SQL, which would run when an index from an untrusted source is
        # opened.
        foreign = [
            f"the {kind} {name!r:.60}"
            for kind, name, sql in self.fetch_rows(
                "SELECT type, name, sql FROM sqlite_master"
            )
            if kind not in ("table", "index")
            or str(sql).upper().startswith("CREATE VIRTUAL")
        ]
        for table in SQLITE_TABLES:
            columns = self.fetch_rows(f"PRAGMA table_xinfo({table})")
            # The last field is not 0 for hidden and generated columns.
            foreign += [
                f"the generated column {row[1]!r}" for row in columns if row[-1]
            ]
        if foreign:
            raise damage_error(self.location, f"its database contains {foreign[0]}")

    def _explained(self, text: str) -> Exception:
        """Returns the error for a message of SQLite, with a remedy."""
        if "full" in text:
            path = str(self.location / DATABASE)
            return OSError(28, "No space left on device", path)
        if any(limit in text for limit in _EXPRESSION_LIMITS):
            return InputError(
                "`where` must be a condition that SQLite can run. Received: a "
                f"condition that is too long or nested too deeply ({text}). Write "
                "a simpler condition, with `in (…)` for many values of one column."
            )
        if "unable to open" in text and self.has_unfinished_run:
            return InputError(
                f"The index {self.location} must be writable, because its changes in "
                f"{WAL} cannot be read without {SHARED_MEMORY} or the permission "
                "to write. Copy the folder to a disk where you can write, or run "
                f"`align-keras index --index {self.location}` as the owner of the "
                "folder."
            )
        if "locked" in text or "readonly" in text or "unable to open" in text:
            return InputError(
                f"The index {self.location} can't be read or written ({text}). Check "
                "its permissions, and that no other process has locked it."
            )
        return damage_error(self.location, text)


def _size(path: pathlib.Path) -> int:
    return _size_and_time(path)[0]


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
    """Returns size and time of a file, or zeros if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _inode(path: pathlib.Path) -> int | None:
    """Returns the inode of a file, which shows if the file was replaced, or None."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
