"""Image index in PostgreSQL with pgvector, for many users and many machines.

The schema `align_keras` has the same tables as the SQLite database (`store.py`), and a
table of vectors (`halfvec`, 16 bits per number). Several processes can index at the
same time. Each claims the next files with advisory locks, which end with its database
connection. Therefore no image is embedded twice, and the claims of a killed process are
released.

Search is exact up to `EXACT_UP_TO` images. With more images, an IVFFlat index divides
them into a thousand lists, and a search scans the nearest fifth of the lists. A graph
index (HNSW) is not used. With 100,000 rows it returned 81% of the true top 10, and at
most 89% with its largest search width, compared with 99% for the lists
(`tools/benchmarks/bench_search.py postgres`).
"""

import contextlib
import hashlib
import json
import shlex
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.search.index.columns import INDEX_COLUMNS
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.items import ModelIdentity
from align_keras.search.query.query import Query, RankedRows, ScannedRows
from align_keras.utils.addresses import password_error
from align_keras.utils.errors import InputError, needs

if TYPE_CHECKING:
    from psycopg import Connection, OperationalError

    from align_keras.search.readers.image_files import ImageFile

# Number of images. A search in a larger index scans only the nearest lists.
EXACT_UP_TO = 200_000
# Number of lists of the IVFFlat index, and number of lists that a search scans.
_LISTS = 1000
_PROBES = 200
# Memory for building the lists, which takes 0.3 GB.
_LISTS_MEMORY = "512MB"
# Number of sampled vectors. Their scores show which scores are high for a query.
_SAMPLE = 1024
_VERSION = 2
# Keys of advisory locks. They are even, because the keys of files are odd (`_key`).
_CREATE_LOCK = 0
_TABLES_LOCK = 2
_TYPES = {"INTEGER": "bigint", "TEXT": "text"}
_SCHEMA = f"""
CREATE SCHEMA IF NOT EXISTS align_keras;
CREATE TABLE align_keras.meta (key text PRIMARY KEY, value text);
CREATE TABLE align_keras.roots (id bigserial PRIMARY KEY, file bytea UNIQUE NOT NULL);
CREATE TABLE align_keras.vectors (
    row bigserial PRIMARY KEY, vector halfvec({{dimension}}) NOT NULL
);
CREATE TABLE align_keras.images (
    id bigserial PRIMARY KEY,
    root bigint NOT NULL REFERENCES align_keras.roots,
    file bytea UNIQUE NOT NULL,
    row bigint UNIQUE NOT NULL REFERENCES align_keras.vectors,
    mtime_ns bigint NOT NULL,
    content bytea NOT NULL,
    {", ".join(f"{name} {_TYPES[kind]}" for name, kind in INDEX_COLUMNS.items())}
);
CREATE INDEX ON align_keras.images (content);
CREATE TABLE align_keras.unreadable (
    file bytea PRIMARY KEY, root bigint NOT NULL, size bigint NOT NULL,
    mtime_ns bigint NOT NULL, reason text NOT NULL, detail text NOT NULL
);
CREATE TABLE align_keras.table_rows (
    image bigint NOT NULL, root bigint NOT NULL, number bigint NOT NULL,
    captions text NOT NULL, cells jsonb NOT NULL, PRIMARY KEY (image, root, number)
);
"""


class PostgresStore(ImageStore):
    """Store of the images and embeddings of an index in a PostgreSQL database."""

    # Rows are never renumbered in a database, so there is no vectors file.
    vectors_file = None

    def __init__(self, address: str) -> None:
        self.folder = address
        self._lock = threading.RLock()
        self._connection = _connect(address)
        self.header = self._read_header()

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
                connection.execute(_SCHEMA.format(dimension=model.dimension))
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

    def _read_header(self) -> dict[str, Any]:
        with _explained_errors(self.folder):
            if not _has_index(self._connection):
                raise InputError(
                    f"The database {self.folder} must contain an index. Received: a "
                    "database without one. Create the index with `align-keras index "
                    f"FOLDER --index {self.folder}`."
                )
        header = json.loads(self._get_meta("header"))
        if header.get("version") != _VERSION:
            address = shlex.quote(self.folder)
            raise InputError(
                f"The index {self.folder} must have version {_VERSION}. Received: "
                f"version {header.get('version')!r:.80}. Run `psql {address} -c 'DROP "
                "SCHEMA align_keras CASCADE'`, then build the index again with "
                f"`align-keras index FOLDER --index {address}`."
            )
        return header

    @contextlib.contextmanager
    def writing(self) -> Iterator["PostgresStore"]:
        """Opens the index for writing. Other processes may write concurrently."""
        with contextlib.closing(PostgresStore(self.folder)) as store:
            yield store

    def close(self) -> None:
        """Closes the connection, which also releases the claims of this process."""
        self._connection.close()

    @contextlib.contextmanager
    def _use_connection(self) -> "Iterator[Connection]":
        """Yields the connection in a transaction. Reconnects if necessary."""
        with self._lock:
            if self._connection.closed or self._connection.broken:
                self._connection = _connect(self.folder)
            with _explained_errors(self.folder), self._connection.transaction():
                yield self._connection

    @contextlib.contextmanager
    def consistent_read(self) -> Iterator[None]:
        """Opens a transaction in which all statements read the same database state."""
        with self._lock:
            is_nested = self._connection.info.transaction_status.name == "INTRANS"
            with self._use_connection():
                if not is_nested:
                    self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield

    def _sql(self, text: str) -> str:
        return text.replace("%", "%%").replace("?", "%s")

    # === Reading ===

    @property
    def version(self) -> str:
        """Number that increases with each change by any process."""
        return self._get_meta("changes")

    def vector(self, row: int) -> np.ndarray:
        """Returns the embedding in a row, float32 (d,)."""
        sql = "SELECT vector::text FROM vectors WHERE row = ?"
        return _parse_vector(self._fetch_value(sql, [row]))

    def vectors_of(self, rows: Sequence[int]) -> np.ndarray:
        sql = "SELECT row, vector::text FROM vectors WHERE row = ANY(?)"
        texts = dict(self._fetch_rows(sql, [list(rows)]))
        return np.stack([_parse_vector(texts[row]) for row in rows])

    def sample(self) -> np.ndarray:
        """Returns a random sample of the embeddings of the index, float32 (n, d)."""
        percentage = min(100.0, 100.0 * 2 * _SAMPLE / max(len(self), 1))
        sql = (
            f"SELECT vector::text FROM vectors TABLESAMPLE BERNOULLI ({percentage}) "
            "REPEATABLE (0) LIMIT ?"
        )
        vectors = [_parse_vector(text) for (text,) in self._fetch_rows(sql, [_SAMPLE])]
        return np.array(vectors, np.float32).reshape(-1, self.dimension)

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        query: Query,
        scanned: ScannedRows | None = None,
    ) -> Iterator[RankedRows]:
        """Yields blocks of rows in descending order of the score.

        Each block is longer than the previous one. The arguments are those of
        `Store.ranked`. The database computes the scores, so `scanned` is ignored.
        """
        num_yielded = 0
        count = 4 * query.k + 64
        while True:
            nearest = self._find_nearest(embedding, condition, parameters, count)
            yield RankedRows(*(values[num_yielded:] for values in nearest))
            if len(nearest.rows) < count:
                return
            num_yielded = len(nearest.rows)
            count *= 4

    def _find_nearest(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        count: int,
    ) -> RankedRows:
        """Returns the `count` nearest images, or all that fulfill the condition."""
        query = _format_vector(embedding)
        sql = (
            "SELECT -(vector <#> ?::halfvec) AS score, images.id, row, "
            "vector::text AS vector FROM vectors JOIN images USING (row) "
            f"WHERE {condition or '1 = 1'} ORDER BY vector <#> ?::halfvec LIMIT ?"
        )
        values = [query, *parameters, query, count]
        with self._use_connection() as connection:
            connection.execute(f"SET LOCAL ivfflat.probes = {_PROBES}")
            nearest = self._fetch_rows(sql, values)
            if len(nearest) < count:
                # The nearest lists contain too few images that fulfill the condition,
                # so all images are scanned.
                connection.execute("SET LOCAL enable_indexscan = off")
                nearest = self._fetch_rows(sql, values)
        nearest.sort(key=lambda image: (-image[0], image[1]))
        vectors = [_parse_vector(vector) for _, _, _, vector in nearest]
        return RankedRows(
            np.array([row for _, _, row, _ in nearest], np.int64),
            np.array([score for score, _, _, _ in nearest], np.float64),
            np.array(vectors, np.float32).reshape(-1, self.dimension),
        )

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Context whose changes are written all together or not at all."""
        with self._use_connection():
            yield
            self._run(
                "UPDATE meta SET value = (value::bigint + 1)::text "
                "WHERE key = 'changes'"
            )

    def claim(self, files: "Sequence[ImageFile]") -> set[bytes]:
        """Returns the paths of the files that this process should embed.

        Files that another process is embedding or has embedded are left out.
        """
        files_by_key = {_key(file.file): file for file in files}
        locked_keys = self._fetch_rows(
            "SELECT key FROM unnest(?::bigint[]) AS key "
            "WHERE pg_try_advisory_lock(key)",
            [list(files_by_key)],
        )
        claimed = {files_by_key[key].file: files_by_key[key] for (key,) in locked_keys}
        stored = self._fetch_rows(
            "SELECT file, size, mtime_ns FROM images WHERE file = ANY(?)",
            [list(claimed)],
        )
        # Another process may have embedded some files since this process listed the
        # files.
        embedded = {
            path
            for path, size, mtime_ns in stored
            if (size, mtime_ns) == (claimed[path].size, claimed[path].mtime_ns)
        }
        self.release(embedded)
        return set(claimed) - embedded

    def release(self, files: Iterable[bytes]) -> None:
        """Releases claims of this process."""
        self._fetch_rows(
            "SELECT pg_advisory_unlock(key) FROM unnest(?::bigint[]) AS key "
            "WHERE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
            "AND pid = pg_backend_pid() AND objsubid = 1 "
            "AND (classid::bigint << 32 | objid::bigint) = key)",
            [[_key(file) for file in files]],
        )

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes vectors within a transaction and returns their rows."""
        cursor = self._run(
            "INSERT INTO vectors (vector) SELECT v::halfvec FROM "
            "unnest(?::text[]) WITH ORDINALITY AS input (v, n) ORDER BY n "
            "RETURNING row",
            [[_format_vector(vector) for vector in vectors]],
        )
        return [row for (row,) in cursor.fetchall()]

    def _to_stored(self, name: str, value: Any) -> Any:
        # PostgreSQL cannot store NUL.
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value

    def _cell_sql(self, table: str, column: str) -> str:
        key = column.replace("'", "''")
        return f"({table}.cells ->> '{key}')"

    def _number_sql(self, sql: str) -> str:
        return f"NULLIF(btrim({sql}), '')::double precision"

    def _text_sql(self, sql: str) -> str:
        # Compares by code points, as SQLite does.
        return f'({sql} COLLATE "C")'

    def _lowercase_sql(self, sql: str, is_ascii: bool) -> str:
        if is_ascii:
            return f'lower({sql} COLLATE "C")'
        if not self._supports_unicode():
            raise InputError(
                "`where` must use only ASCII letters with `like` in this database, "
                "because its encoding isn't UTF8 or its server has no ICU. Create the "
                "database with `createdb --encoding UTF8`."
            )
        return f"translate(lower({sql} COLLATE \"und-x-icu\"), 'ς', 'σ')"

    def _supports_unicode(self) -> bool:
        sql = (
            "SELECT getdatabaseencoding() = 'UTF8' AND EXISTS "
            "(SELECT FROM pg_collation WHERE collname = 'und-x-icu')"
        )
        return self._fetch_value(sql)

    def _lock_tables(self) -> None:
        self._run(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")

    def compact(self) -> None:
        """Deletes vectors without an image, and builds the lists of a large index."""
        with self.transaction():
            self._run(
                "DELETE FROM vectors WHERE NOT EXISTS "
                "(SELECT FROM images WHERE images.row = vectors.row)"
            )
        if len(self) > EXACT_UP_TO:
            # CONCURRENTLY does not block searches. It cannot run in a transaction.
            with _explained_errors(self.folder):
                self._run(f"SET maintenance_work_mem = '{_LISTS_MEMORY}'")
                self._run(
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS vectors_lists ON vectors "
                    f"USING ivfflat (vector halfvec_ip_ops) WITH (lists = {_LISTS})"
                )


def _connect(address: str) -> "Connection":
    with needs("postgres", "An index in PostgreSQL needs psycopg"):
        import psycopg
    _check_no_password(address)
    try:
        return psycopg.connect(
            address,
            autocommit=True,
            connect_timeout=10,
            options="-c search_path=align_keras,public",
        )
    except psycopg.OperationalError as error:
        raise _connection_error(address, error) from None


def _check_no_password(address: str) -> None:
    import psycopg

    try:
        parameters = psycopg.conninfo.conninfo_to_dict(address)
    except psycopg.Error as error:
        raise InputError(
            "An index in a database must be named as postgresql://USER@HOST/DATABASE. "
            f"Received: {address} ({_message(error)}). Correct the address."
        ) from None
    if parameters.keys() & {"password", "sslpassword"}:
        raise password_error(f"the address of the database {parameters.get('dbname')}")


def _connection_error(address: str, error: "OperationalError") -> InputError:
    """Returns the InputError for a connection that failed, with the server's reason."""
    import psycopg

    line = _message(error)
    # The ping distinguishes an unreachable server from one that refuses the connection.
    if psycopg.pq.PGconn.ping(address.encode()) != psycopg.pq.Ping.OK:
        return _unreachable_error(address, line)
    parameters = psycopg.conninfo.conninfo_to_dict(address)
    database = str(parameters.get("dbname", ""))
    attempt = error.pgconn
    if attempt is not None and attempt.needs_password:
        return InputError(
            f"The database {address} requires a password. Received: none "
            f"({line}). Set it in $PGPASSWORD or in ~/.pgpass."
        )
    if _lacks_database(address, database):
        return InputError(
            f"The database {database!r} must exist on the server. Received: "
            f"{address}. Create it there with `createdb --encoding UTF8 "
            f"{database}`, and install pgvector in it with `psql {database} -c 'CREATE "
            "EXTENSION vector'`."
        )
    if attempt is not None and attempt.used_password:
        return InputError(
            f"The database {address} rejected the user or the password "
            f"({line}). Correct the user in the address, or the password in "
            "$PGPASSWORD or in ~/.pgpass."
        )
    return InputError(
        f"The database {address} rejected the connection ({line}). Check the "
        "user and the name of the database, or ask its administrator."
    )


def _lacks_database(address: str, database: str) -> bool:
    """Returns True if the server is reachable and has no database of this name."""
    import psycopg

    try:
        connection = psycopg.connect(address, dbname="postgres", connect_timeout=10)
        with contextlib.closing(connection):
            sql = "SELECT 1 FROM pg_database WHERE datname = %s"
            return connection.execute(sql, [database]).fetchone() is None
    except psycopg.Error:
        return False


def _unreachable_error(address: str, line: str) -> InputError:
    return InputError(
        f"The database {address} can't be reached ({line}). Check that it is "
        "running, then run the same command again. Images that were already written "
        "are kept."
    )


def _has_index(connection: "Connection") -> bool:
    row = connection.execute("SELECT to_regclass('align_keras.meta')").fetchone()
    return row is not None and row[0] is not None


@contextlib.contextmanager
def _explained_errors(address: str) -> Iterator[None]:
    """Replaces common errors of psycopg with an InputError that has a remedy."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise _unreachable_error(address, _message(error)) from None
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.DatatypeMismatch,
        psycopg.errors.InvalidTextRepresentation,
        psycopg.errors.NumericValueOutOfRange,
    ) as error:
        raise InputError(
            "`where` must compare numbers with numbers and text with text. Received: "
            f"{_message(error)}. Write text in quotes, and numbers without quotes."
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise InputError(
            f"The database {address} must allow this user to write. Received: "
            f"{_message(error)}. Ask its administrator, or name another user."
        ) from None


def _message(error: Exception) -> str:
    """Returns the message of an error as one short line."""
    return " ".join(str(error).split())[:160]


def _key(file: bytes) -> int:
    """Returns the key of the advisory lock for a path, an odd integer of 64 bits."""
    digest = hashlib.blake2b(file, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) | 1


def _format_vector(vector: np.ndarray) -> str:
    """Returns a vector in the text format of pgvector."""
    return "[" + ",".join(f"{number:.6g}" for number in vector.tolist()) + "]"


def _parse_vector(text: str) -> np.ndarray:
    """Parses a vector in the text format of pgvector, and returns float32 (d,)."""
    return np.array(text.strip("[]").split(","), np.float32)
