"""PostgreSQL database of an index, with errors that name a remedy."""

import contextlib
import json
import shlex
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from align_keras.search.index.database import Database
from align_keras.search.index.image_store import ModelIdentity
from align_keras.search.index.schema import POSTGRES_SCHEMA
from align_keras.utils.addresses import password_error
from align_keras.utils.errors import InputError, needs

if TYPE_CHECKING:
    from psycopg import Connection

_VERSION = 2
# Keys of advisory locks. They are even, because the keys of files are odd.
_CREATE_LOCK = 0
_TABLES_LOCK = 2


class PostgresDatabase(Database):
    """PostgreSQL database with the schema `align_keras`."""

    location: str

    def __init__(self, address: str) -> None:
        self.location = address
        self.lock = threading.RLock()
        self._connection = _connect(address)

    @staticmethod
    def create(address: str, model: ModelIdentity) -> None:
        """Creates the tables of an empty index unless the database has an index."""
        header = {
            "version": _VERSION,
            "model": model.reference(),
            "dimension": model.dimension,
        }
        with contextlib.closing(_connect(address)) as connection:
            with _explained_errors(address), connection.transaction():
                # If several processes start at once, only one creates the tables.
                connection.execute(f"SELECT pg_advisory_xact_lock({_CREATE_LOCK})")
                if _has_index(connection):
                    return
                try:
                    connection.execute(
                        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public"
                    )
                except Exception as error:
                    raise InputError(
                        f"The database {address} must have pgvector. Received: "
                        f"{_message(error)}. Install it on the server (Debian: "
                        "postgresql-17-pgvector), and let an administrator run "
                        "`CREATE EXTENSION vector` in this database."
                    ) from None
                connection.execute(POSTGRES_SCHEMA.format(dimension=model.dimension))
                connection.execute(
                    "INSERT INTO align_keras.meta VALUES ('header', %s), "
                    "('changes', '0')",
                    [json.dumps(header)],
                )

    @staticmethod
    def exists(address: str) -> bool:
        """Returns True if a database contains an index."""
        with contextlib.closing(_connect(address)) as connection:
            with _explained_errors(address):
                return _has_index(connection)

    def read_header(self) -> dict[str, Any]:
        """Returns the header of the index.

        Raises:
            InputError: if the database has no index, or one of another version.
        """
        with _explained_errors(self.location):
            if not _has_index(self._connection):
                raise InputError(
                    f"The database {self.location} must contain an index. Received: a "
                    "database without one. Create the index with `align-keras index "
                    f"FOLDER --index {self.location}`."
                )
        header: dict[str, Any] = json.loads(self.get_meta("header"))
        if header.get("version") != _VERSION:
            address = shlex.quote(self.location)
            raise InputError(
                f"The index {self.location} must have version {_VERSION}. Received: "
                f"version {header.get('version')!r:.80}. Run `psql {address} -c 'DROP "
                "SCHEMA align_keras CASCADE'`, then build the index again with "
                f"`align-keras index FOLDER --index {address}`."
            )
        return header

    @property
    def version(self) -> str:
        return self.get_meta("changes")

    @contextlib.contextmanager
    def connection(self) -> "Iterator[Connection]":
        """Yields the connection in a transaction. Reconnects if necessary."""
        with self.lock:
            if self._connection.closed or self._connection.broken:
                self._connection = _connect(self.location)
            with _explained_errors(self.location), self._connection.transaction():
                yield self._connection

    @contextlib.contextmanager
    def consistent_read(self) -> Iterator[None]:
        with self.lock:
            is_nested = self._connection.info.transaction_status.name == "INTRANS"
            with self.connection():
                if not is_nested:
                    self.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.connection():
            yield
            self.run(
                "UPDATE meta SET value = (value::bigint + 1)::text "
                "WHERE key = 'changes'"
            )

    def run_outside_transaction(self, *statements: str) -> None:
        """Runs statements that cannot run in a transaction."""
        with _explained_errors(self.location):
            for statement in statements:
                self.run(statement)

    def lock_tables(self) -> None:
        self.run(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")

    # === SQL ===

    def to_stored(self, value: Any) -> Any:
        # PostgreSQL cannot store NUL.
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value

    def cell_sql(self, table: str, column: str) -> str:
        key = column.replace("'", "''")
        return f"({table}.cells ->> '{key}')"

    def number_sql(self, sql: str) -> str:
        return f"NULLIF(btrim({sql}), '')::double precision"

    def text_sql(self, sql: str) -> str:
        # Compares by code points, as SQLite does.
        return f'({sql} COLLATE "C")'

    def lowercase_sql(self, sql: str, is_ascii: bool) -> str:
        if is_ascii:
            return f'lower({sql} COLLATE "C")'
        return f"translate(lower({sql} COLLATE \"und-x-icu\"), 'ς', 'σ')"

    def _sql(self, text: str) -> str:
        return text.replace("%", "%%").replace("?", "%s")


def _connect(address: str) -> "Connection":
    with needs("postgres", "An index in PostgreSQL needs psycopg"):
        import psycopg
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(address)
        if parameters.keys() & {"password", "sslpassword"}:
            name = parameters.get("dbname")
            raise password_error(f"the address of the database {name}")
        return psycopg.connect(
            address,
            autocommit=True,
            connect_timeout=10,
            options="-c search_path=align_keras,public",
        )
    except psycopg.Error as error:
        raise InputError(
            f"Cannot connect to the database {address} ({_message(error)}). Write the "
            "address as postgresql://USER@HOST/DATABASE, check that the server is "
            "running, and set the password in $PGPASSWORD or in ~/.pgpass."
        ) from None


def _has_index(connection: "Connection") -> bool:
    row = connection.execute("SELECT to_regclass('align_keras.meta')").fetchone()
    return row is not None and row[0] is not None


@contextlib.contextmanager
def _explained_errors(address: str) -> Iterator[None]:
    """Replaces errors of psycopg with an InputError."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise InputError(
            f"The database {address} reported an error ({_message(error)}). Check that "
            "it is running and that this user may use it."
        ) from None


def _message(error: Exception) -> str:
    """Returns the message of an error as one short line."""
    return " ".join(str(error).split())[:160]
