"""Image index in PostgreSQL with pgvector, for many users and many machines.

The schema `align_keras` has the same tables as the SQLite database (`schema.py`), and a
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
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.search.index.image_store import (
    ImageStore,
    ModelIdentity,
    RankedRows,
    ScannedRows,
)
from align_keras.search.index.postgres_database import PostgresDatabase

if TYPE_CHECKING:
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


class PostgresStore(ImageStore):
    """Images and embeddings of an index in a PostgreSQL database."""

    database: PostgresDatabase

    def __init__(self, address: str) -> None:
        database = PostgresDatabase(address)
        super().__init__(database, database.read_header())

    @staticmethod
    def create(address: str, model: ModelIdentity, encoding: str | None = None) -> None:
        """Creates an empty index unless the database has an index.

        `encoding` is ignored, because pgvector stores 16 bits per number.
        """
        PostgresDatabase.create(address, model)

    @staticmethod
    def exists(address: str) -> bool:
        """Returns True if a database contains an index."""
        return PostgresDatabase.exists(address)

    @contextlib.contextmanager
    def writing(self) -> Iterator["PostgresStore"]:
        """Opens the index for writing. Other processes may write concurrently.

        Closing the connection releases the claims of this process.
        """
        with contextlib.closing(PostgresStore(self.folder)) as store:
            yield store

    @property
    def encoding(self) -> str:
        return "float16"

    def vectors_of(self, rows: Sequence[int]) -> np.ndarray:
        sql = "SELECT row, vector::text FROM vectors WHERE row = ANY(?)"
        texts = dict(self.database.fetch_rows(sql, [list(rows)]))
        return np.stack([_parse_vector(texts[row]) for row in rows])

    def sample(self) -> np.ndarray:
        """Returns a random sample of the embeddings of the index, float32 (n, d)."""
        percentage = min(100.0, 100.0 * 2 * _SAMPLE / max(len(self), 1))
        sql = (
            f"SELECT vector::text FROM vectors TABLESAMPLE BERNOULLI ({percentage}) "
            "REPEATABLE (0) LIMIT ?"
        )
        vectors = [
            _parse_vector(text) for (text,) in self.database.fetch_rows(sql, [_SAMPLE])
        ]
        return np.array(vectors, np.float32).reshape(-1, self.dimension)

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        k: int,
        scanned: ScannedRows | None = None,
    ) -> Iterator[RankedRows]:
        """Yields the ranked rows. Each block is longer than the previous one.

        The database computes the scores, so `scanned` is ignored.
        """
        num_yielded = 0
        count = 4 * k + 64
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
        with self.database.connection() as connection:
            connection.execute(f"SET LOCAL ivfflat.probes = {_PROBES}")
            nearest = self.database.fetch_rows(sql, values)
            if len(nearest) < count:
                # The nearest lists contain too few images that fulfill the condition,
                # so all images are scanned.
                connection.execute("SET LOCAL enable_indexscan = off")
                nearest = self.database.fetch_rows(sql, values)
        nearest.sort(key=lambda image: (-image[0], image[1]))
        vectors = [_parse_vector(vector) for _, _, _, vector in nearest]
        return RankedRows(
            np.array([row for _, _, row, _ in nearest], np.int64),
            np.array([score for score, _, _, _ in nearest], np.float64),
            np.array(vectors, np.float32).reshape(-1, self.dimension),
        )

    def claim(self, files: "Sequence[ImageFile]") -> set[bytes]:
        """Returns the paths of the files that this process should embed.

        Files that another process is embedding or has embedded are left out.
        """
        files_by_key = {_key(file.file): file for file in files}
        locked_keys = self.database.fetch_rows(
            "SELECT key FROM unnest(?::bigint[]) AS key "
            "WHERE pg_try_advisory_lock(key)",
            [list(files_by_key)],
        )
        claimed = {files_by_key[key].file: files_by_key[key] for (key,) in locked_keys}
        stored = self.database.fetch_rows(
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
        self.database.fetch_rows(
            "SELECT pg_advisory_unlock(key) FROM unnest(?::bigint[]) AS key "
            "WHERE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
            "AND pid = pg_backend_pid() AND objsubid = 1 "
            "AND (classid::bigint << 32 | objid::bigint) = key)",
            [[_key(file) for file in files]],
        )

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes vectors within a transaction and returns their rows."""
        cursor = self.database.run(
            "INSERT INTO vectors (vector) SELECT v::halfvec FROM "
            "unnest(?::text[]) WITH ORDINALITY AS input (v, n) ORDER BY n "
            "RETURNING row",
            [[_format_vector(vector) for vector in vectors]],
        )
        return [row for (row,) in cursor.fetchall()]

    def compact(self) -> None:
        """Deletes vectors without an image, and builds the lists of a large index."""
        with self.database.transaction():
            self.database.run(
                "DELETE FROM vectors WHERE NOT EXISTS "
                "(SELECT FROM images WHERE images.row = vectors.row)"
            )
        if len(self) > EXACT_UP_TO:
            # CONCURRENTLY does not block searches.
            self.database.run_outside_transaction(
                f"SET maintenance_work_mem = '{_LISTS_MEMORY}'",
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS vectors_lists ON vectors "
                f"USING ivfflat (vector halfvec_ip_ops) WITH (lists = {_LISTS})",
            )


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
