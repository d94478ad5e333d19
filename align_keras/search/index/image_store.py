"""Base class of the index stores, with the SQL that SQLite and PostgreSQL share.

`store.py` has the store in a folder (SQLite), and `postgres.py` the store in a
PostgreSQL database.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from align_keras.search.index.columns import as_text
from align_keras.search.index.items import ITEMS_ROOT
from align_keras.search.index.table_rows import TableRows
from align_keras.search.query.query import ScannedRows
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from align_keras.search.readers.image_files import ImageFile

T = TypeVar("T")
# Maximum number of values in a list of SQL.
VALUES_PER_LIST = 500


class RebuiltIndexError(InputError):
    """Error for an index that another process built again after it was opened."""


@dataclasses.dataclass(slots=True)
class StoredFile:
    """File of an image in the index, as it was when it was embedded.

    Attributes:
        id: int, id of the image.
        root: int, id of the source that contains the file.
        size: int, bytes.
        mtime_ns: int, time of the last change in nanoseconds.
    """

    id: int
    root: int
    size: int
    mtime_ns: int


@dataclasses.dataclass(slots=True)
class UnreadableFile:
    """File without an image in the index, because it cannot be read.

    Attributes:
        root: int, id of the source that contains the file.
        size: int, bytes.
        mtime_ns: int, time of the last change in nanoseconds.
        reason: str, reason for which it cannot be read.
        detail: str, the problem in detail, or "".
    """

    root: int
    size: int
    mtime_ns: int
    reason: str
    detail: str


class ImageStore(TableRows):
    """Store of the images of an index, with the SQL that all databases share.

    Parameters are written as `?` in the SQL.

    Attributes:
        folder: path of the folder, or address of the database without its password.
        header: dict with the entries `model` and `dimension`.
        vectors_file: str, name of the vectors file. Rows keep their numbers while the
            name does not change. None in a database.
    """

    folder: Any
    header: dict
    vectors_file: Any
    _connection: Any

    @abc.abstractmethod
    def _use_connection(self) -> contextlib.AbstractContextManager[Any]:
        """Yields the connection to one thread at a time."""

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return int(self.header["dimension"])

    def __len__(self) -> int:
        return self._fetch_value("SELECT count(*) FROM images")

    def condition(self, where: str | None) -> tuple[str, list]:
        """Returns SQL and parameters of a condition, or "" and [] without a condition.

        Args:
            where: str, condition as the user wrote it, or None.
        """
        if where is None or not where.strip():
            return "", []
        # Importing the parser takes 0.3 s, and most searches have no condition.
        from align_keras.utils.where import read_condition

        columns = self.named_columns()
        condition = read_condition(where, columns, self._lowercase_sql)
        sql = condition.sql
        if any(columns[name].is_cell for name in condition.columns):
            sql = self.rows_condition(sql)
        return sql, condition.parameters

    def roots(self) -> dict[bytes, int]:
        """Returns a dict from the path of each indexed folder or table to its id."""
        return dict(self._fetch_rows("SELECT file, id FROM roots ORDER BY id"))

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
        return {file: StoredFile(*fields) for file, *fields in self._fetch_rows(sql)}

    def unreadable(self) -> dict[bytes, UnreadableFile]:
        """Returns a dict from the path of each unreadable file to its record."""
        sql = "SELECT file, root, size, mtime_ns, reason, detail FROM unreadable"
        rows = self._fetch_rows(sql)
        return {file: UnreadableFile(*fields) for file, *fields in rows}

    def ids_with_content(self, content: bytes) -> list[int]:
        """Returns the ids of the images whose content hash is `content`.

        Images that were added with a precomputed embedding are left out.
        """
        sql = (
            "SELECT id FROM images WHERE content = ? AND root NOT IN "
            "(SELECT id FROM roots WHERE file = ?) ORDER BY id"
        )
        return [id for (id,) in self._fetch_rows(sql, [content, ITEMS_ROOT])]

    def latest(
        self, condition: str, parameters: Sequence[Any], count: int
    ) -> list[dict]:
        """Returns the last `count` indexed images that fulfill a condition."""
        where = f"{condition or '1 = 1'} ORDER BY id DESC LIMIT ?"
        return self._images(where, [*parameters, count])

    def images_after(self, id: int, count: int) -> list[dict[str, Any]]:
        """Returns the next `count` images after the one with this id, by their ids."""
        return self._images("id > ? ORDER BY id LIMIT ?", [id, count])

    @abc.abstractmethod
    def vectors_of(self, rows: Sequence[int]) -> "np.ndarray":
        """Returns the embeddings in these rows, float32 (n, d)."""

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
        return self._fetch_dicts(f"SELECT * FROM images WHERE {where}", parameters)

    def _fetch_dicts(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        with self._use_connection() as connection:
            cursor = connection.execute(self._sql(sql), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _fetch_rows(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        with self._use_connection() as connection:
            return connection.execute(self._sql(sql), parameters).fetchall()

    def _fetch_value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        (row,) = self._fetch_rows(sql, parameters) or [(None,)]
        return row[0]

    def _get_meta(self, key: str) -> Any:
        return self._fetch_value("SELECT value FROM meta WHERE key = ?", [key])

    def with_stable_rows(self, read: Callable[[], T]) -> T:
        """Calls a function, and repeats the call if the rows were renumbered meanwhile.

        Another process renumbers the rows when it rewrites the vectors.

        Args:
            read: function that reads images by their rows. If it raises an error, the
                error is raised only if the rows were not renumbered.

        Returns:
            The result of `read`.
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
        """Returns None, because the store does not scan vectors in this process."""
        return None

    def refuse_rebuilt(self) -> None:
        """Raises RebuiltIndexError if the index was built again after it was opened.

        An index in a database is not built again, because `rebuild` needs a folder.
        """

    def check_complete(self) -> None:
        """Raises InputError if the images of some embeddings are missing."""

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises InputError if an embedding in these rows is damaged."""

    def check(self) -> int:
        """Raises InputError if any part of the index is damaged.

        Returns:
            int, number of embeddings that were compared. It is 0 for a database, which
            has page checksums.
        """
        return 0

    # === Writing. All methods except `claim` and `release` need a transaction. ===

    def claim(self, files: "Sequence[ImageFile]") -> set[bytes]:
        """Returns the paths of the files that this process should embed.

        The process that writes an index in a folder has a lock and embeds all files.
        """
        return {image_file.file for image_file in files}

    def release(self, files: Iterable[bytes]) -> None:
        """Ends the claims on files after their embeddings are written."""

    def add_image(self, image: dict) -> None:
        """Adds an image, or replaces the image with the same file."""
        names = ", ".join(f'"{name}"' for name in image)
        marks = ", ".join("?" * len(image))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in image)
        self._run(
            f"INSERT INTO images ({names}) VALUES ({marks}) "
            f"ON CONFLICT (file) DO UPDATE SET {changes}",
            [self._to_stored(name, value) for name, value in image.items()],
        )

    def update_image(self, id: int, changes: dict) -> None:
        """Changes columns of an image."""
        changed = ", ".join(f'"{name}" = ?' for name in changes)
        values = [self._to_stored(name, value) for name, value in changes.items()]
        self._run(f"UPDATE images SET {changed} WHERE id = ?", [*values, id])

    def add_root(self, file: bytes) -> int:
        """Returns the id of a folder or table, and adds it if it is new."""
        self._run("INSERT INTO roots (file) VALUES (?) ON CONFLICT DO NOTHING", [file])
        return self._fetch_value("SELECT id FROM roots WHERE file = ?", [file])

    def remove_root(self, file: bytes) -> None:
        """Removes a folder or table. Its images must have been removed before."""
        root = self._fetch_value("SELECT id FROM roots WHERE file = ?", [file])
        if root is not None:
            self.remove_table_rows(root)
        self._run("DELETE FROM roots WHERE file = ?", [file])

    def remove_images(self, ids: Iterable[int]) -> None:
        """Removes images. Their embeddings remain until `compact`."""
        dropped = list(ids)
        self.remove_rows(dropped)
        self._run_for_each("DELETE FROM images WHERE id = ?", dropped)

    def record_unreadable(self, file: bytes, record: UnreadableFile) -> None:
        """Records that a file cannot be read, and why."""
        self.remove_unreadable([file])
        texts = [as_text(record.reason), as_text(record.detail)]
        self._run(
            "INSERT INTO unreadable VALUES (?, ?, ?, ?, ?, ?)",
            [file, record.root, record.size, record.mtime_ns, *texts],
        )

    def remove_unreadable(self, files: Iterable[bytes]) -> None:
        """Removes the records of unreadable files."""
        self._run_for_each("DELETE FROM unreadable WHERE file = ?", files)

    def _update_meta(self, key: str, value: Any) -> None:
        self._run("UPDATE meta SET value = ? WHERE key = ?", [value, key])

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(self._sql(sql), parameters)

    def _run_for_each(self, sql: str, values: Iterable[Any]) -> None:
        self._run_many(sql, [(value,) for value in values])

    def _run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._connection.cursor().executemany(self._sql(sql), rows)

    # === SQL of SQLite, which the store in PostgreSQL overrides ===

    def _lock_tables(self) -> None:
        """Does nothing, since a transaction of SQLite locks the whole database."""

    def _sql(self, text: str) -> str:
        return text

    def _to_stored(self, name: str, value: Any) -> Any:
        return value

    def _lowercase_sql(self, sql: str, is_ascii: bool) -> str:
        """Returns SQL for a text in lower case.

        Folding non-ASCII letters is slower, and is only needed if the pattern contains
        such letters.
        """
        return f"lower({sql})" if is_ascii else f"fold_case({sql})"
