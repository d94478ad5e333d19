"""What an index knows of its images, asked and written by the same SQL in a folder
(`store.py`) and in a database (`postgres.py`).
"""

import abc
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from align_keras.search.items import ITEMS_ROOT
from align_keras.search.table_rows import TableRows
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.search.image_files import FoundFile

T = TypeVar("T")


class ImageStore(TableRows):
    """What both kinds of stores ask and write alike: `?` stands for a parameter.
    `folder` is a path or a database's address, `header` tells `model` and `dimension`.
    """

    folder: Any
    header: dict
    # Name of the file of vectors. A row keeps its number while the name is the same.
    vectors_file: Any
    _connection: Any

    @abc.abstractmethod
    def _reading(self) -> contextlib.AbstractContextManager[Any]:
        """Context that yields the connection, to one thread at a time."""

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return int(self.header["dimension"])

    def __len__(self) -> int:
        return self._one("SELECT count(*) FROM images")

    def condition(self, where: str | None) -> tuple[str, list]:
        """Returns SQL and parameters of a condition as users write it, or of none."""
        if where is None or not where.strip():
            return "", []
        # Only here, for most searches have none.
        from align_keras.search.where import read_condition

        condition = read_condition(where, self.named_columns(), self._folded)
        sql = condition.sql
        if condition.tables:
            holds = condition.holds_without_rows
            sql = self.rows_condition(sql, condition.tables, holds)
        return sql, condition.parameters

    def roots(self) -> dict[bytes, int]:
        """Folders and tables that were indexed → their ids."""
        return dict(self._all("SELECT file, id FROM roots ORDER BY id"))

    def sources(self) -> dict[bytes, int]:
        """Returns the folders and tables that can be looked through again."""
        return {file: id for file, id in self.roots().items() if file != ITEMS_ROOT}

    @property
    def has_items(self) -> bool:
        """True for an index that was made from embeddings."""
        return ITEMS_ROOT in self.roots()

    def known(self) -> dict[bytes, tuple[int, int, int, int]]:
        """Path of every image → (id, root, size, mtime_ns)."""
        sql = "SELECT file, id, root, size, mtime_ns FROM images"
        return {file: tuple(rest) for file, *rest in self._all(sql)}

    def unreadable(self) -> dict[bytes, tuple[int, int, int, str]]:
        """Path of what couldn't be read → (root, size, mtime_ns, reason)."""
        sql = "SELECT file, root, size, mtime_ns, reason FROM unreadable"
        return {file: tuple(rest) for file, *rest in self._all(sql)}

    def with_content(self, content: bytes) -> list[int]:
        """Returns the ids of images whose files have these bytes.

        Images that were added with an embedding of their own are left out.
        """
        sql = (
            "SELECT id FROM images WHERE content = ? AND root NOT IN "
            "(SELECT id FROM roots WHERE file = ?) ORDER BY id"
        )
        return [id for (id,) in self._all(sql, [content, ITEMS_ROOT])]

    def latest(
        self, condition: str, parameters: Sequence[Any], count: int
    ) -> list[dict]:
        """Returns those images indexed last that a condition is true of."""
        where = f"{condition or '1 = 1'} ORDER BY id DESC LIMIT ?"
        return self._images(where, [*parameters, count])

    def image(self, id: int) -> dict:
        """An image's columns, `file`, `row` and `content` among them, or InputError."""
        for image in self._images("id = ?", [id]):
            return image
        raise InputError(
            f"id must be that of an image of the index, received {id!r}; take it from "
            "a hit."
        )

    def _images(self, where: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        return self._dicts(f"SELECT * FROM images WHERE {where}", parameters)

    def _dicts(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        with self._reading() as connection:
            cursor = connection.execute(self._sql(sql), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            return connection.execute(self._sql(sql), parameters).fetchall()

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        (row,) = self._all(sql, parameters) or [(None,)]
        return row[0]

    def _meta(self, key: str) -> Any:
        return self._one("SELECT value FROM meta WHERE key = ?", [key])

    def with_stable_rows(self, read: Callable[[], T]) -> T:
        """Calls a function again if another process renumbered the rows meanwhile.

        Args:
            read: reads images by their rows. An error of it counts only if the rows
                have the same numbers before and after.

        Returns:
            What `read` returned.
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

    def check_whole(self) -> None:
        """Raises if embeddings were written whose images are missing."""

    def check_rows(self, rows: Sequence[int]) -> None:
        """Raises if an embedding isn't the one that was written."""

    def check_part(self) -> None:
        """Raises if one of some embeddings isn't the one that was written."""

    def check(self) -> int:
        """Raises if anything isn't as it was written; returns how many embeddings were
        compared. A database compares its own pages.
        """
        return 0

    # === Writing, all but claims within a transaction ===

    def claim(self, files: "Sequence[FoundFile]") -> set[bytes]:
        """Returns the paths that this process shall embed: all, for it has the lock."""
        return {found.file for found in files}

    def release(self, files: Iterable[bytes]) -> None:
        """Ends claims, when what was embedded is written."""

    def put(self, image: dict) -> None:
        """Adds an image; another of the same file is replaced."""
        names = ", ".join(f'"{name}"' for name in image)
        marks = ", ".join("?" * len(image))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in image)
        self._run(
            f"INSERT INTO images ({names}) VALUES ({marks}) "
            f"ON CONFLICT (file) DO UPDATE SET {changes}",
            [self._stored(name, value) for name, value in image.items()],
        )

    def update(self, id: int, changes: dict) -> None:
        """Changes columns of an image."""
        changed = ", ".join(f'"{name}" = ?' for name in changes)
        values = [self._stored(name, value) for name, value in changes.items()]
        self._run(f"UPDATE images SET {changed} WHERE id = ?", [*values, id])

    def add_root(self, file: bytes) -> int:
        """Returns the id of a folder or table, which is added if need be."""
        self._run("INSERT INTO roots (file) VALUES (?) ON CONFLICT DO NOTHING", [file])
        return self._one("SELECT id FROM roots WHERE file = ?", [file])

    def drop_root(self, file: bytes) -> None:
        """Forgets a folder or table, whose images must be gone."""
        root = self._one("SELECT id FROM roots WHERE file = ?", [file])
        if root is not None:
            self.forget_table(root)
        self._run("DELETE FROM roots WHERE file = ?", [file])

    def drop(self, ids: Iterable[int]) -> None:
        """Removes images; their rows stay until `compact`."""
        dropped = list(ids)
        self.drop_rows(dropped)
        self._each("DELETE FROM images WHERE id = ?", dropped)

    def note_unreadable(
        self, file: bytes, root: int, size: int, mtime_ns: int, reason: str
    ) -> None:
        """Keeps why a file couldn't be read, so that it isn't read again."""
        self.forget_unreadable([file])
        self._run(
            "INSERT INTO unreadable VALUES (?, ?, ?, ?, ?)",
            [file, root, size, mtime_ns, reason],
        )

    def forget_unreadable(self, files: Iterable[bytes]) -> None:
        """Drops those notes."""
        self._each("DELETE FROM unreadable WHERE file = ?", files)

    def _set(self, key: str, value: Any) -> None:
        self._run("UPDATE meta SET value = ? WHERE key = ?", [value, key])

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(self._sql(sql), parameters)

    def _each(self, sql: str, values: Iterable[Any]) -> None:
        self._run_many(sql, [(value,) for value in values])

    def _run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._connection.cursor().executemany(self._sql(sql), rows)

    # === What SQLite does; PostgreSQL has its own ===

    def _lock_tables(self) -> None:
        """Does nothing, since a transaction of SQLite locks the whole database."""

    def _sql(self, text: str) -> str:
        return text

    def _stored(self, name: str, value: Any) -> Any:
        return value

    def _folded(self, sql: str, is_ascii: bool) -> str:
        """Letters beyond ASCII matter only for a pattern that has some."""
        return f"lower({sql})" if is_ascii else f"fold_case({sql})"
