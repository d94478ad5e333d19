"""SQLite database in the folder of an index."""

import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator

from align_keras.search.index.database import Database
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
        tables = set()
        for kind, name, sql in self.fetch_rows(
            "SELECT type, name, sql FROM sqlite_master"
        ):
            if kind == "table" and not str(sql).upper().startswith("CREATE VIRTUAL"):
                tables.add(name)
            elif kind != "index":
                raise damage_error(
                    self.location, f"its database contains the {kind} {name!r:.60}"
                )
        if not tables >= SQLITE_TABLES:
            missing = ", ".join(sorted(SQLITE_TABLES - tables))
            raise damage_error(self.location, f"its database lacks the table {missing}")
        for table in SQLITE_TABLES:
            for column in self.fetch_rows(f"PRAGMA table_xinfo({table})"):
                # The last field is not 0 for hidden and generated columns.
                if column[-1]:
                    raise damage_error(
                        self.location,
                        f"its database contains the generated column {column[1]!r}",
                    )

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
