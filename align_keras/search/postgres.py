"""An index in PostgreSQL with pgvector, for many users and many machines.

The same tables as in SQLite (`store.py`), in the schema `align_keras`, and a table of
vectors, `halfvec` of 16 bits a number. Several processes may index at once: each claims
the files that it is about to read by advisory locks, which end with its connection, so
that nothing is done twice and nothing stays claimed by a process that was killed.
Search is exact up to `EXACT_UP_TO` images, and by an HNSW graph beyond.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.search.store import COLUMNS, ReadsImages, plain_names
from align_keras.search.towers import Model
from align_keras.utils.errors import InputError, needs

if TYPE_CHECKING:
    from align_keras.search.image_files import FoundFile

# Of more images, a graph finds the nearest.
EXACT_UP_TO = 200_000
# Vectors whose scores tell what is high for a query.
_SAMPLE = 1024
# pgvector's limit of a graph's breadth.
_MAX_BREADTH = 1000
_VERSION = 1
_NUMBER = "double precision"
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
"""


class PostgresStore(ReadsImages):
    """What `Store` is in a folder: the images of an index and their embeddings.

    Attributes:
        folder: str, the database's address without its password.
        header: dict, `model` (`name`, `fingerprint`) and `dimension`.
        dimension: int, width of the embeddings.
    """

    MARK = "%s"

    def __init__(self, address: str):
        self.address = address
        self.folder = re.sub(r"(//[^:/@]*):[^@/]*@", r"\1@", address)
        self._lock = threading.RLock()
        self._connection = _connect(address, self.folder)
        self.header = self._read_header()
        self.dimension = int(self.header["dimension"])
        self._added: dict[str, str] | None = None

    @staticmethod
    def create(address: str, model: Model) -> None:
        """Makes the tables of an empty index where there are none."""
        shown = re.sub(r"(//[^:/@]*):[^@/]*@", r"\1@", address)
        header = {
            "version": _VERSION,
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "dimension": model.dimension,
        }
        with contextlib.closing(_connect(address, shown)) as connection:
            with _told(shown), connection.transaction():
                # Of several that begin at once, one makes them.
                connection.execute("SELECT pg_advisory_xact_lock(0)")
                if _has_index(connection):
                    return
                try:
                    connection.execute(
                        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public"
                    )
                except Exception as error:
                    raise InputError(
                        f"the database {shown} must have pgvector ({_line(error)}); "
                        "install it on the server (Debian: postgresql-17-pgvector), "
                        "and let an administrator run CREATE EXTENSION vector."
                    ) from None
                connection.execute(_SCHEMA.format(dimension=model.dimension))
                connection.execute(
                    "INSERT INTO align_keras.meta VALUES ('header', %s), "
                    "('columns', '{}'), ('changes', '0')",
                    [json.dumps(header)],
                )

    @staticmethod
    def is_there(address: str) -> bool:
        """Whether a database holds an index."""
        shown = re.sub(r"(//[^:/@]*):[^@/]*@", r"\1@", address)
        with contextlib.closing(_connect(address, shown)) as connection, _told(shown):
            return _has_index(connection)

    def _read_header(self):
        with self.told():
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

    def told(self) -> contextlib.AbstractContextManager:
        """Has the database's errors say what to do."""
        return _told(self.folder)

    def close(self) -> None:
        """Ends the connection, and with it this process's claims."""
        self._connection.close()

    # === Reading ===

    def __len__(self) -> int:
        return self._one("SELECT count(*) FROM images")

    @property
    def version(self) -> tuple:
        """Another after each change, by this or another process."""
        return (self._meta("changes"),)

    @property
    def columns(self) -> dict[str, str]:
        """What `where` may name → its type."""
        return COLUMNS | json.loads(self._meta("columns"))

    def vector(self, row: int) -> np.ndarray:
        """One image's embedding, float32 (d,)."""
        return _parsed(
            self._one("SELECT vector::text FROM vectors WHERE row = %s", [row])
        )

    def sample(self) -> np.ndarray:
        """float32 (n, d): embeddings of images at random."""
        count = max(len(self), 1)
        share = min(100.0, 100.0 * 2 * _SAMPLE / count)
        sql = (
            f"SELECT vector::text FROM vectors TABLESAMPLE BERNOULLI ({share}) "
            "REPEATABLE (0) LIMIT %s"
        )
        found = [_parsed(text) for (text,) in self._all(sql, [_SAMPLE])]
        return np.array(found, np.float32).reshape(-1, self.dimension)

    def nearest(
        self, embedding: np.ndarray, condition: str, parameters: Sequence, count: int
    ) -> list[tuple[float, dict, np.ndarray]]:
        """The nearest images that a condition in SQL is true of: score, image, vector.

        `count` of them if there are so many, the best first.
        """
        query = _written(embedding)
        sql = (
            "SELECT -(vector <#> %s::halfvec) AS score, vector::text AS vector, "
            "images.* FROM vectors JOIN images USING (row) "
            f"WHERE {condition} ORDER BY vector <#> %s::halfvec LIMIT %s"
        )
        values = [query, *parameters, query, count]
        with self._reading() as connection:
            breadth = min(_MAX_BREADTH, max(100, 2 * count))
            connection.execute(f"SET LOCAL hnsw.ef_search = {breadth}")
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            found = _dicts(connection.execute(sql, values))
            if len(found) < count:
                # A graph may end before all that fulfill the condition are found.
                connection.execute("SET LOCAL enable_indexscan = off")
                found = _dicts(connection.execute(sql, values))
        found.sort(key=lambda image: (-image["score"], image["id"]))
        return [
            (float(image.pop("score")), image, _parsed(image.pop("vector")))
            for image in found
        ]

    def image(self, id: int) -> dict:
        """Returns one image's columns by its id; raises if there is none."""
        with self._reading() as connection:
            found = _dicts(
                connection.execute("SELECT * FROM images WHERE id = %s", [id])
            )
        if not found:
            raise InputError(
                f"id must be that of an image of the index, received {id!r}."
            )
        return found[0]

    def latest(
        self, condition: str, parameters: Sequence[Any], count: int
    ) -> list[dict]:
        """Returns those images indexed last that a condition is true of."""
        sql = f"SELECT * FROM images WHERE {condition} ORDER BY id DESC LIMIT %s"
        with self._reading() as connection:
            return _dicts(connection.execute(sql, [*parameters, count]))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """A transaction, of one thread at a time; reconnects if need be."""
        with self._lock:
            if self._connection.closed or self._connection.broken:
                self._connection = _connect(self.address, self.folder)
            with self.told(), self._connection.transaction():
                yield self._connection

    def _meta(self, key):
        return self._one("SELECT value FROM meta WHERE key = %s", [key])

    def _one(self, sql, parameters=()):
        (row,) = self._all(sql, parameters) or [(None,)]
        return row[0]

    def _all(self, sql, parameters=()):
        with self._reading() as connection:
            return connection.execute(sql, parameters).fetchall()

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

    def _run(self, sql, parameters=()):
        return self._connection.execute(sql, parameters)

    def claim(self, files: "Sequence[FoundFile]") -> set[bytes]:
        """Returns the paths that no other process is about to embed, or has."""
        keys = {_key(found.file): found for found in files}
        with self._reading() as connection:
            got = connection.execute(
                "SELECT key FROM unnest(%s::bigint[]) AS key "
                "WHERE pg_try_advisory_lock(key)",
                [list(keys)],
            ).fetchall()
            mine = {keys[key].file: keys[key] for (key,) in got}
            # What another has embedded since this process looked.
            done = connection.execute(
                "SELECT file, size, mtime_ns FROM images WHERE file = ANY(%s)",
                [list(mine)],
            ).fetchall()
        done = {
            file
            for file, size, mtime_ns in done
            if (size, mtime_ns) == (mine[file].size, mine[file].mtime_ns)
        }
        self.release(done)
        return set(mine) - done

    def release(self, files: Iterable[bytes]) -> None:
        """Ends claims, when what was embedded is written."""
        keys = [_key(file) for file in files]
        with self._reading() as connection:
            connection.execute(
                "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key "
                "WHERE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
                "AND pid = pg_backend_pid() AND objsubid = 1 "
                "AND (classid::bigint << 32 | objid::bigint) = key)",
                [keys],
            )

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes vectors, within a transaction; returns their rows."""
        found = self._run(
            "INSERT INTO vectors (vector) SELECT v::halfvec FROM "
            "unnest(%s::text[]) WITH ORDINALITY AS given (v, n) ORDER BY n "
            "RETURNING row",
            [[_written(vector) for vector in vectors]],
        )
        return [row for (row,) in found.fetchall()]

    def put(self, image: dict) -> None:
        """Adds an image within a transaction; another of the same file is replaced."""
        names = ", ".join(f'"{name}"' for name in image)
        marks = ", ".join(["%s"] * len(image))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in image)
        self._run(
            f"INSERT INTO images ({names}) VALUES ({marks}) "
            f"ON CONFLICT (file) DO UPDATE SET {changes}",
            [_storable(value) for value in image.values()],
        )

    def update(self, id: int, changes: dict) -> None:
        """Changes columns of an image, within a transaction."""
        changed = ", ".join(f'"{name}" = %s' for name in changes)
        columns = self._columns()
        values = [
            None if value == "" and columns.get(name) == _NUMBER else _storable(value)
            for name, value in changes.items()
        ]
        self._run(f"UPDATE images SET {changed} WHERE id = %s", [*values, id])

    def add_root(self, file: bytes) -> int:
        """Returns the id of a folder or table, which is added if need be."""
        self._run(
            "INSERT INTO roots (file) VALUES (%s) ON CONFLICT (file) DO NOTHING",
            [file],
        )
        return self._run("SELECT id FROM roots WHERE file = %s", [file]).fetchone()[0]

    def drop_root(self, file: bytes) -> None:
        """Forgets a folder or table, whose images must be gone."""
        self._run("DELETE FROM roots WHERE file = %s", [file])

    def drop(self, ids: Iterable[int]) -> None:
        """Removes images."""
        self._run("DELETE FROM images WHERE id = ANY(%s)", [list(ids)])

    def note_unreadable(
        self, file: bytes, root: int, size: int, mtime_ns: int, reason: str
    ) -> None:
        """Keeps why a file couldn't be read, so that it isn't read again."""
        self._run(
            "INSERT INTO unreadable VALUES (%s, %s, %s, %s, %s) ON CONFLICT (file) DO "
            "UPDATE SET root = excluded.root, size = excluded.size, "
            "mtime_ns = excluded.mtime_ns, reason = excluded.reason",
            [file, root, size, mtime_ns, reason],
        )

    def forget_unreadable(self, files: Iterable[bytes]) -> None:
        """Drops those notes."""
        self._run("DELETE FROM unreadable WHERE file = ANY(%s)", [list(files)])

    def add_columns(self, rows: Sequence[dict]) -> dict[str, str]:
        """Makes room for the columns of a table's rows; returns what they're called.

        A column of numbers alone compares as numbers, else all of it as text.
        """
        here = self._columns()
        called = plain_names(rows)
        for name, plain in called.items():
            values = [row.get(name) for row in rows]
            kind = _NUMBER if all(map(_is_number, values)) else "text"
            if plain not in here:
                self._run(f'ALTER TABLE images ADD "{plain}" {kind}')
                here[plain] = kind
            elif kind == "text" != here[plain]:
                self._run(f'ALTER TABLE images ALTER "{plain}" TYPE text')
                here[plain] = kind
        self._added = here
        self._run(
            "UPDATE meta SET value = %s WHERE key = 'columns'", [json.dumps(here)]
        )
        return called

    def _columns(self):
        """Columns of tables → their types, while this process writes."""
        if self._added is None:
            found = self._run("SELECT value FROM meta WHERE key = 'columns'")
            self._added = json.loads(found.fetchone()[0])
        return self._added

    def compact(self) -> bool:
        """Drops vectors without an image; makes the graph once there are many."""
        with self.transaction():
            self._run(
                "DELETE FROM vectors WHERE NOT EXISTS "
                "(SELECT FROM images WHERE images.row = vectors.row)"
            )
        if len(self) > EXACT_UP_TO:
            with self.told():  # Outside of a transaction, so that searches go on.
                self._run(
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS vectors_graph ON vectors "
                    "USING hnsw (vector halfvec_ip_ops)"
                )
        return True


def _connect(address, shown):
    with needs("postgres", "an index in PostgreSQL is reached by psycopg"):
        import psycopg
    with _told(shown):
        return psycopg.connect(
            address,
            autocommit=True,
            connect_timeout=10,
            options="-c search_path=align_keras,public",
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
        raise InputError(
            f"the database {shown} can't be reached ({_line(error)}); see that it "
            "runs, then run the same again: what was written stays."
        ) from None
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


def _line(error):
    return " ".join(str(error).split())[:160]


def _key(file):
    """A path as an advisory lock's number, never 0, which is `create`'s."""
    digest = hashlib.blake2b(file, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) | 1


def _written(vector):
    return "[" + ",".join(f"{number:.6g}" for number in vector.tolist()) + "]"


def _parsed(text):
    return np.array(text.strip("[]").split(","), np.float32)


def _dicts(cursor):
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _storable(value):
    """Text without NUL, which PostgreSQL doesn't take."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _is_number(value):
    if value is None or value == "":
        return True
    try:
        return np.isfinite(float(value))
    except (TypeError, ValueError):
        return False
