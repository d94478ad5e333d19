"""Base class of the index stores, with the SQL that SQLite and PostgreSQL share.

`folder_store.py` has the store in a folder, and `postgres_store.py` the store in a
PostgreSQL database.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from align_keras.search.index.columns import as_text
from align_keras.search.index.database import Database
from align_keras.search.index.schema import ITEMS_ROOT, StoredFile, UnreadableFile
from align_keras.search.index.table_rows import TableRows
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.search.readers.image_files import ImageFile

T = TypeVar("T")
# Maximum number of values in a list of SQL.
VALUES_PER_LIST = 500
# Number of sampled rows. Their scores show which scores are high for a query.
_SAMPLE = 4096
# Name and fingerprint of the model in an index that was made without a model.
NO_MODEL = "none"


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Identity of the model that computed the embeddings of an index.

    Attributes:
        name: name or absolute path that `align_keras.load_model` accepts.
        fingerprint: digest of the weights and the preprocessing.
        dimension: width of the embeddings.
        runtime: `runtime` argument of `align_keras.load_model`.
        truncated_to: `dimensions` argument of `align_keras.load_model`.

    Example:

    >>> ModelIdentity("align_small_en", "786def33e90f574d", 384).reference()
    {'name': 'align_small_en', 'fingerprint': '786def33e90f574d'}
    """

    name: str
    fingerprint: str
    dimension: int
    runtime: str = "auto"
    truncated_to: int | None = None

    def reference(self) -> dict[str, Any]:
        """Returns name, fingerprint and options in the form of `Embedder.reference`."""
        reference: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
        }
        if self.runtime != "auto":
            reference["runtime"] = self.runtime
        if self.truncated_to is not None:
            reference["dimensions"] = self.truncated_to
        return reference


class RankedRows(NamedTuple):
    """Rows of an index in descending order of the score.

    Attributes:
        rows: int64 (n,), row numbers.
        scores: float (n,), scores of the rows.
        vectors: float32 (n, d), embeddings of the rows.
    """

    rows: np.ndarray
    scores: np.ndarray
    vectors: np.ndarray


class ScannedRows(NamedTuple):
    """Scores of all rows of an index for one query.

    Attributes:
        vectors_file: name of the vectors file of the scores.
        scores: float32 (n,), scores of the rows.
    """

    vectors_file: str
    scores: np.ndarray

    def sample(self) -> np.ndarray:
        """Returns the scores of the rows of `ImageStore.sample`."""
        return self.scores[:: sample_step(len(self.scores))]


def sample_step(rows: int) -> int:
    """Returns the distance between two rows of the sample of a vectors file.

    It is fixed, because importing a random number generator takes a twentieth of the
    time of a search.
    """
    return max(1, rows // _SAMPLE)


class ImageStore(abc.ABC):
    """Images of an index and their embeddings, which are numbered by `row`.

    Attributes:
        database: database of the index.
        tables: rows of the user's tables.
        folder: path of the folder, or address of the database.
        header: dict with the entries `model` and `dimension`.
    """

    def __init__(self, database: Database, header: dict[str, Any]) -> None:
        self.database = database
        self.tables = TableRows(database)
        self.folder = database.location
        self.header = header

    def close(self) -> None:
        """Closes the connection. Arrays that the store returned stay valid."""
        self.database.close()

    @abc.abstractmethod
    def writing(self) -> contextlib.AbstractContextManager["ImageStore"]:
        """Opens the index for writing."""

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return int(self.header["dimension"])

    def __len__(self) -> int:
        return self.database.fetch_value("SELECT count(*) FROM images")

    def condition(self, where: str | None) -> tuple[str, list]:
        """Returns SQL and parameters of a condition, or "" and [] without a condition.

        Args:
            where: condition as the user wrote it, or None.
        """
        if where is None or not where.strip():
            return "", []
        # Importing the parser takes 0.3 s, and most searches have no condition.
        from align_keras.utils.where import read_condition

        columns = self.tables.named_columns()
        condition = read_condition(where, columns, self.database.lowercase_sql)
        sql = condition.sql
        if any(columns[name].is_cell for name in condition.columns):
            sql = self.tables.condition_of_images(sql)
        return sql, condition.parameters

    def roots(self) -> dict[bytes, int]:
        """Returns a dict from the path of each indexed folder or table to its id."""
        return dict(self.database.fetch_rows("SELECT file, id FROM roots ORDER BY id"))

    def sources(self) -> dict[bytes, int]:
        """Returns a dict from path to id, for the sources that can be scanned again."""
        return {file: id for file, id in self.roots().items() if file != ITEMS_ROOT}

    @property
    def has_items(self) -> bool:
        """True if the index was made from embeddings."""
        return ITEMS_ROOT in self.roots()

    def stored_files(self) -> dict[bytes, StoredFile]:
        """Returns a dict from the path of each image to its `StoredFile`."""
        sql = "SELECT file, id, root, size, mtime_ns FROM images"
        return {
            file: StoredFile(*fields) for file, *fields in self.database.fetch_rows(sql)
        }

    def unreadable(self) -> dict[bytes, UnreadableFile]:
        """Returns a dict from the path of each unreadable file to its record."""
        sql = "SELECT file, root, size, mtime_ns, reason, detail FROM unreadable"
        rows = self.database.fetch_rows(sql)
        return {file: UnreadableFile(*fields) for file, *fields in rows}

    def ids_with_content(self, content: bytes) -> list[int]:
        """Returns the ids of the images whose content hash is `content`.

        Images that were added with a precomputed embedding are left out.
        """
        sql = (
            "SELECT id FROM images WHERE content = ? AND root NOT IN "
            "(SELECT id FROM roots WHERE file = ?) ORDER BY id"
        )
        return [id for (id,) in self.database.fetch_rows(sql, [content, ITEMS_ROOT])]

    def latest(
        self, condition: str, parameters: Sequence[Any], count: int
    ) -> list[dict]:
        """Returns the last `count` indexed images that fulfill a condition."""
        where = f"{condition or '1 = 1'} ORDER BY id DESC LIMIT ?"
        return self._images(where, [*parameters, count])

    def images_after(self, id: int, count: int) -> list[dict[str, Any]]:
        """Returns the next `count` images after the one with this id, by their ids."""
        return self._images("id > ? ORDER BY id LIMIT ?", [id, count])

    def image(self, id: int) -> dict:
        """Returns all columns of an image, including `file`, `row` and `content`.

        Raises:
            InputError: if the index has no image with this id.
        """
        if 0 < id < 2**63:  # Ids in SQLite and PostgreSQL have 64 bits.
            for image in self._images("id = ?", [id]):
                return image
        raise InputError(
            f"`id` must be the id of an image in the index. Received: id={id!r}. Use "
            "the id of a hit."
        )

    def images_of_rows(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Returns a dict from row to image columns, without rows that have no image."""
        images = []
        for start in range(0, len(rows), VALUES_PER_LIST):
            block = [int(row) for row in rows[start : start + VALUES_PER_LIST]]
            images += self._images(f"row IN ({','.join('?' * len(block))})", block)
        return {image["row"]: image for image in images}

    def _images(self, where: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        return self.database.fetch_dicts(
            f"SELECT * FROM images WHERE {where}", parameters
        )

    # === Embeddings, which each store has in its own form ===

    @property
    def vectors_file(self) -> str | None:
        """Name of the vectors file. Rows keep their numbers while it does not change.

        It is None in a database, which never renumbers rows.
        """
        return None

    @property
    @abc.abstractmethod
    def encoding(self) -> str:
        """Encoding of the stored embeddings, `"float32"` or `"float16"`."""

    @abc.abstractmethod
    def vectors_of(self, rows: Sequence[int]) -> np.ndarray:
        """Returns the embeddings in these rows, float32 (n, d)."""

    def vector(self, row: int) -> np.ndarray:
        """Returns the embedding in a row, float32 (d,)."""
        return self.vectors_of([row])[0]

    @abc.abstractmethod
    def sample(self) -> np.ndarray:
        """Returns embeddings from all parts of the index, float32 (n, d)."""

    @abc.abstractmethod
    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        k: int,
        scanned: ScannedRows | None = None,
    ) -> Iterator[RankedRows]:
        """Yields blocks of rows that have an image, in descending order of the score.

        Args:
            embedding: float32 (d,), embedding of the query.
            condition: SQL of a condition, or "".
            parameters: values for the `?` marks in the SQL.
            k: number of requested images. The first block has more rows, which replace
                near-duplicates.
            scanned: scores of the query from `scan_many`, or None.
        """

    def with_stable_rows(self, read: Callable[[], T]) -> T:
        """Calls a function, and repeats the call if the rows were renumbered meanwhile.

        Another process renumbers the rows when it rewrites the vectors. An error of
        `read` is raised only if the rows were not renumbered.
        """
        while True:
            file = self.vectors_file
            try:
                result = read()
            except (IndexError, InputError):
                if self.vectors_file == file:
                    raise
                continue
            if self.vectors_file == file:
                return result

    def scan_many(self, embeddings: np.ndarray) -> list[ScannedRows] | None:
        """Returns the scores of all rows for several queries, or None.

        The result is None if the store does not scan all vectors in this process.

        Args:
            embeddings: float32 (q, d), embeddings of the queries.
        """
        return None

    def refuse_rebuilt(self) -> None:
        """Raises RebuiltIndexError if the index was built again after it was opened.

        An index in a database is not built again, because `rebuild` needs a folder.
        """
        return

    def check_complete(self) -> None:
        """Raises InputError if the images of some embeddings are missing."""
        return

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises InputError if an embedding in these rows is damaged."""
        return

    def check(self) -> int:
        """Raises InputError if any part of the index is damaged.

        Returns the number of embeddings that were compared. It is 0 for a database,
        which has page checksums.
        """
        return 0

    # === Work of several processes ===

    def claim(self, files: "Sequence[ImageFile]") -> set[bytes]:
        """Returns the paths of the files that this process should embed.

        The process that writes an index in a folder has a lock and embeds all files.
        """
        return {image_file.file for image_file in files}

    def release(self, files: Iterable[bytes]) -> None:
        """Ends the claims on files after their embeddings are written."""
        return

    # === Writing, within a transaction of the database ===

    @abc.abstractmethod
    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Adds embeddings, float32 (n, d), and returns their rows."""

    @abc.abstractmethod
    def compact(self) -> None:
        """Removes embeddings without an image, and updates the approximate search.

        It must be called outside of a transaction.
        """

    def add_image(self, image: dict) -> None:
        """Adds an image, or replaces the image with the same file."""
        names = ", ".join(f'"{name}"' for name in image)
        marks = ", ".join("?" * len(image))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in image)
        self.database.run(
            f"INSERT INTO images ({names}) VALUES ({marks}) "
            f"ON CONFLICT (file) DO UPDATE SET {changes}",
            [self.database.to_stored(value) for value in image.values()],
        )

    def update_image(self, id: int, changes: dict) -> None:
        """Changes columns of an image."""
        changed = ", ".join(f'"{name}" = ?' for name in changes)
        values = [self.database.to_stored(value) for value in changes.values()]
        self.database.run(f"UPDATE images SET {changed} WHERE id = ?", [*values, id])

    def add_root(self, file: bytes) -> int:
        """Returns the id of a folder or table, and adds it if it is new."""
        self.database.run(
            "INSERT INTO roots (file) VALUES (?) ON CONFLICT DO NOTHING", [file]
        )
        return self.database.fetch_value("SELECT id FROM roots WHERE file = ?", [file])

    def remove_root(self, file: bytes) -> None:
        """Removes a folder or table. Its images must have been removed before."""
        root = self.database.fetch_value("SELECT id FROM roots WHERE file = ?", [file])
        if root is not None:
            self.tables.remove_source(root)
        self.database.run("DELETE FROM roots WHERE file = ?", [file])

    def remove_images(self, ids: Iterable[int]) -> None:
        """Removes images. Their embeddings remain until `compact`."""
        dropped = list(ids)
        self.tables.remove_images(dropped)
        self.database.run_for_each("DELETE FROM images WHERE id = ?", dropped)

    def record_unreadable(self, file: bytes, record: UnreadableFile) -> None:
        """Records that a file cannot be read, and why."""
        self.remove_unreadable([file])
        texts = [as_text(record.reason), as_text(record.detail)]
        self.database.run(
            "INSERT INTO unreadable VALUES (?, ?, ?, ?, ?, ?)",
            [file, record.root, record.size, record.mtime_ns, *texts],
        )

    def remove_unreadable(self, files: Iterable[bytes]) -> None:
        """Removes the records of unreadable files."""
        self.database.run_for_each("DELETE FROM unreadable WHERE file = ?", files)
