"""An index in PostgreSQL with pgvector, for many users and many machines.

The same tables as in SQLite (`store.py`), in the schema `align_keras`, and a table of
vectors, `halfvec` of 16 bits a number. Several processes may index at once: each claims
the files that it is about to read by advisory locks, which end with its connection, so
that nothing is done twice and nothing stays claimed by a process that was killed.
Search is exact up to `EXACT_UP_TO` images; of more, the nearest fifth of a thousand
lists is searched (IVFFlat). A graph (HNSW) was left: of 100,000 rows it found 81% of
the best ten, and 89% at its broadest, lists 99% (`tools/benchmarks/bench_search.py
postgres`).
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.search.columns import COLUMNS
from align_keras.search.image_store import ImageStore
from align_keras.search.items import ModelIdentity
from align_keras.search.query import Query
from align_keras.search.table_rows import FIRST_TABLE
from align_keras.utils.addresses import redacted, with_secrets, without_secrets
from align_keras.utils.errors import InputError, needs

if TYPE_CHECKING:
    from align_keras.search.image_files import FoundFile

# Of more images, the nearest lists are searched. To learn a thousand takes 0.3 GB.
EXACT_UP_TO = 200_000
_LISTS, _PROBES, _LISTS_MEMORY = 1000, 200, "512MB"
# Vectors whose scores tell what is high for a query.
_SAMPLE = 1024
_VERSION = 1
# Keys of advisory locks that are even, unlike those of files.
_CREATE_LOCK, _TABLES_LOCK = 0, 2
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
    {", ".join(f"{name} {_TYPES[kind]}" for name, kind in COLUMNS.items())}
);
CREATE INDEX ON align_keras.images (content);
CREATE TABLE align_keras.unreadable (
    file bytea PRIMARY KEY, root bigint, size bigint, mtime_ns bigint, reason text
);
{FIRST_TABLE};
"""


class PostgresStore(ImageStore):
    """The images of an index in a database, and their embeddings."""

    # A row stays what it is.
    vectors_file = None

    def __init__(self, address: str):
        self.address, self.folder = address, without_secrets(address)
        self._lock = threading.RLock()
        self._connection = _connect(address)
        self.header = self._read_header()
        if self._one("SELECT to_regclass('table_rows_0')") is None:
            self.upgrade()

    @staticmethod
    def create(address: str, model: ModelIdentity) -> None:
        """Makes the tables of an empty index where there are none."""
        shown = without_secrets(address)
        header = {
            "version": _VERSION,
            "model": model.reference(),
            "dimension": model.dimension,
        }
        with contextlib.closing(_connect(address)) as connection:
            with _told(shown), connection.transaction():
                # Of several that begin at once, one makes them.
                connection.execute(f"SELECT pg_advisory_xact_lock({_CREATE_LOCK})")
                if _has_index(connection):
                    return
                try:
                    connection.execute(
                        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public"
                    )
                except Exception as error:
                    raise InputError(
                        f"The database {shown} must have pgvector ({_line(error)}). "
                        "Install it on the server (Debian: postgresql-17-pgvector), "
                        "and let an administrator run `CREATE EXTENSION vector` in "
                        "this database."
                    ) from None
                connection.execute(_SCHEMA.format(dimension=model.dimension))
                connection.execute(
                    "INSERT INTO align_keras.meta VALUES ('header', %s), "
                    "('changes', '0')",
                    [json.dumps(header)],
                )

    @staticmethod
    def is_there(address: str) -> bool:
        """Whether a database holds an index."""
        with contextlib.closing(_connect(address)) as connection:
            with _told(without_secrets(address)):
                return _has_index(connection)

    def _read_header(self):
        with _told(self.folder):
            if not _has_index(self._connection):
                raise InputError(
                    f"the database {self.folder} must hold an index, and has none; "
                    f"make it by `align-keras index FOLDER --to {self.folder}`."
                )
        header = json.loads(self._meta("header"))
        if header.get("version") != _VERSION:
            raise InputError(
                f"the index {self.folder} must have version {_VERSION}, received "
                f"{header.get('version')!r:.80}; drop its schema align_keras, and "
                "build it again."
            )
        return header

    @contextlib.contextmanager
    def writing(self) -> Iterator["PostgresStore"]:
        """Opens the index for writing, beside other processes."""
        with contextlib.closing(PostgresStore(self.address)) as store:
            yield store

    def close(self) -> None:
        """Ends the connection, and with it this process's claims."""
        self._connection.close()

    @contextlib.contextmanager
    def _reading(self):
        """The connection, in a transaction; reconnects if need be."""
        with self._lock:
            if self._connection.closed or self._connection.broken:
                self._connection = _connect(self.address)
            with _told(self.folder), self._connection.transaction():
                yield self._connection

    @contextlib.contextmanager
    def _one_state(self):
        """A transaction in which statements read the same state of the database."""
        with self._lock:
            is_nested = self._connection.info.transaction_status.name == "INTRANS"
            with self._reading():
                if not is_nested:
                    self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield

    def _sql(self, text):
        return text.replace("%", "%%").replace("?", "%s")

    # === Reading ===

    @property
    def version(self) -> str:
        """Another after each change, by this or another process."""
        return self._meta("changes")

    def vector(self, row: int) -> np.ndarray:
        """One image's embedding, float32 (d,)."""
        sql = "SELECT vector::text FROM vectors WHERE row = ?"
        return _parsed(self._one(sql, [row]))

    def sample(self) -> np.ndarray:
        """float32 (n, d): some thousand embeddings of images at random."""
        share = min(100.0, 100.0 * 2 * _SAMPLE / max(len(self), 1))
        sql = (
            f"SELECT vector::text FROM vectors TABLESAMPLE BERNOULLI ({share}) "
            "REPEATABLE (0) LIMIT ?"
        )
        found = [_parsed(text) for (text,) in self._all(sql, [_SAMPLE])]
        return np.array(found, np.float32).reshape(-1, self.dimension)

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        query: Query,
    ) -> Iterator[list[tuple[float, dict, np.ndarray]]]:
        """Yields lists of (score, image, vector), first few, then ever more."""
        done, count = 0, 4 * query.k + 64
        while True:
            found = self._nearest(embedding, condition, parameters, count)
            yield found[done:]
            if len(found) < count:
                return
            done, count = len(found), 4 * count

    def _nearest(self, embedding, condition, parameters, count):
        """The `count` nearest images, if so many fulfill the condition."""
        query = _written(embedding)
        sql = (
            "SELECT -(vector <#> ?::halfvec) AS score, vector::text AS vector, "
            "images.* FROM vectors JOIN images USING (row) "
            f"WHERE {condition or '1 = 1'} ORDER BY vector <#> ?::halfvec LIMIT ?"
        )
        values = [query, *parameters, query, count]
        with self._reading() as connection:
            connection.execute(f"SET LOCAL ivfflat.probes = {_PROBES}")
            found = self._dicts(sql, values)
            if len(found) < count:
                # Of the nearest lists, too few may fulfill the condition.
                connection.execute("SET LOCAL enable_indexscan = off")
                found = self._dicts(sql, values)
        found.sort(key=lambda image: (-image["score"], image["id"]))
        return [
            (float(image.pop("score")), image, _parsed(image.pop("vector")))
            for image in found
        ]

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is there, or nothing of it."""
        with self._reading():
            yield
            self._run(
                "UPDATE meta SET value = (value::bigint + 1)::text "
                "WHERE key = 'changes'"
            )

    def claim(self, files: "Sequence[FoundFile]") -> set[bytes]:
        """Returns the paths that no other process is about to embed, or has."""
        keys = {_key(found.file): found for found in files}
        got = self._all(
            "SELECT key FROM unnest(?::bigint[]) AS key "
            "WHERE pg_try_advisory_lock(key)",
            [list(keys)],
        )
        mine = {keys[key].file: keys[key] for (key,) in got}
        # What another has embedded since this process looked.
        done = {
            file
            for file, size, mtime_ns in self._all(
                "SELECT file, size, mtime_ns FROM images WHERE file = ANY(?)",
                [list(mine)],
            )
            if (size, mtime_ns) == (mine[file].size, mine[file].mtime_ns)
        }
        self.release(done)
        return set(mine) - done

    def release(self, files: Iterable[bytes]) -> None:
        self._all(
            "SELECT pg_advisory_unlock(key) FROM unnest(?::bigint[]) AS key "
            "WHERE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
            "AND pid = pg_backend_pid() AND objsubid = 1 "
            "AND (classid::bigint << 32 | objid::bigint) = key)",
            [[_key(file) for file in files]],
        )

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes vectors, within a transaction; returns their rows."""
        found = self._run(
            "INSERT INTO vectors (vector) SELECT v::halfvec FROM "
            "unnest(?::text[]) WITH ORDINALITY AS given (v, n) ORDER BY n "
            "RETURNING row",
            [[_written(vector) for vector in vectors]],
        )
        return [row for (row,) in found.fetchall()]

    def _stored(self, name, value):
        # PostgreSQL takes no NUL.
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value

    def _number_sql(self, sql):
        return f"NULLIF(btrim({sql}), '')::double precision"

    def _text_sql(self, sql):
        # By code points, as in a folder.
        return f'({sql} COLLATE "C")'

    def _folded(self, sql, is_ascii):
        if is_ascii:
            return f'lower({sql} COLLATE "C")'
        if not self._knows_unicode():
            raise InputError(
                "where must use `like` with ASCII letters alone in this database, "
                "since its encoding isn't UTF8 or its server has no ICU. Make the "
                "database with `createdb --encoding UTF8`."
            )
        return f"translate(lower({sql} COLLATE \"und-x-icu\"), 'ς', 'σ')"

    def _knows_unicode(self):
        sql = (
            "SELECT getdatabaseencoding() = 'UTF8' AND EXISTS "
            "(SELECT FROM pg_collation WHERE collname = 'und-x-icu')"
        )
        return self._one(sql)

    def _lock_tables(self):
        self._run(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")

    def upgrade(self) -> None:
        """Brings an index of an older release to the tables of this one, once."""
        with self.transaction():
            self._lock_tables()
            if self._one("SELECT to_regclass('table_rows_0')") is None:
                super().upgrade()

    def compact(self) -> None:
        """Drops vectors without an image; makes the lists once there are many."""
        with self.transaction():
            self._run(
                "DELETE FROM vectors WHERE NOT EXISTS "
                "(SELECT FROM images WHERE images.row = vectors.row)"
            )
        if len(self) > EXACT_UP_TO:
            # Outside of a transaction, so that searches go on.
            with _told(self.folder):
                self._run(f"SET maintenance_work_mem = '{_LISTS_MEMORY}'")
                self._run(
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS vectors_lists ON vectors "
                    f"USING ivfflat (vector halfvec_ip_ops) WITH (lists = {_LISTS})"
                )


def _connect(address):
    with needs("postgres", "an index in PostgreSQL is reached by psycopg"):
        import psycopg
    shown, whole = without_secrets(address), with_secrets(address)
    try:
        return psycopg.connect(
            whole,
            autocommit=True,
            connect_timeout=10,
            options="-c search_path=align_keras,public",
        )
    except psycopg.OperationalError as error:
        # A server that is away for the last try alone is found here.
        raise _connection_error(shown, whole, error) from None
    except psycopg.Error as error:
        raise InputError(
            "An index in a database must be named as "
            "postgresql://USER:PASSWORD@HOST/DATABASE. Received: "
            f"{shown} ({_line(error, whole)}). Correct the address."
        ) from None


def _connection_error(shown, whole, error):
    """Returns the error of a connection that failed, by what the server answers."""
    import psycopg

    line = _line(error, whole)
    if psycopg.pq.PGconn.ping(whole.encode()) != psycopg.pq.Ping.OK:
        return _unreachable(shown, line)
    database = psycopg.conninfo.conninfo_to_dict(whole).get("dbname", "")
    attempt = error.pgconn
    if attempt is not None and attempt.needs_password:
        return InputError(
            f"The database {shown} asks for a password, and none was given ({line}). "
            "Name it in the address, in $PGPASSWORD or in ~/.pgpass."
        )
    if _lacks_database(whole, database):
        return InputError(
            f"The server must have the database {database!r}, which it lacks. "
            f"Received: {shown}. Make it there with `createdb --encoding UTF8 "
            f"{database}`, and pgvector in it with `psql {database} -c 'CREATE "
            "EXTENSION vector'`."
        )
    if attempt is not None and attempt.used_password:
        return InputError(
            f"The database {shown} refuses this user or password ({line}). Correct "
            "them in the address, in $PGPASSWORD or in ~/.pgpass."
        )
    return InputError(
        f"The database {shown} refuses the connection ({line}). Check its user and "
        "its name, or ask its administrator."
    )


def _lacks_database(whole, database):
    """Returns True if the server is known to have no database of this name."""
    import psycopg

    try:
        connection = psycopg.connect(whole, dbname="postgres", connect_timeout=10)
        with contextlib.closing(connection):
            sql = "SELECT 1 FROM pg_database WHERE datname = %s"
            return connection.execute(sql, [database]).fetchone() is None
    except psycopg.Error:
        return False


def _unreachable(shown, line):
    return InputError(
        f"the database {shown} can't be reached ({line}); see that it runs, then run "
        "the same again: what was written stays."
    )


def _has_index(connection):
    found = connection.execute("SELECT to_regclass('align_keras.meta')").fetchone()
    return found[0] is not None


@contextlib.contextmanager
def _told(shown):
    """Has psycopg's errors say what to do; those of a condition name `where`."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise _unreachable(shown, _line(error)) from None
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.DatatypeMismatch,
        psycopg.errors.InvalidTextRepresentation,
        psycopg.errors.NumericValueOutOfRange,
    ) as error:
        raise InputError(
            "`where` must compare numbers with numbers and text with text "
            f"({_line(error)}); write a text in quotes, and a number without."
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise InputError(
            f"the database {shown} must allow it ({_line(error)}); ask its "
            "administrator, or give another user."
        ) from None


def _line(error, address=""):
    return redacted(" ".join(str(error).split()), address)[:160]


def _key(file):
    """A path as an advisory lock's number, never 0, which is `create`'s."""
    digest = hashlib.blake2b(file, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) | 1


def _written(vector):
    return "[" + ",".join(f"{number:.6g}" for number in vector.tolist()) + "]"


def _parsed(text):
    return np.array(text.strip("[]").split(","), np.float32)
