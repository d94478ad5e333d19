"""Rows of user tables in a store, with the same SQL for SQLite and PostgreSQL.

A user table is a CSV, TSV or JSONL file with images, captions and other columns. The
database table `table_rows` has a row for each row of a user table. The column `cells`
has the texts of its cells as a JSON object. Each row belongs to an image and to a
source (`root`), the user table. Removing the source also removes its rows.

The entry `columns` of the database table `meta` has the kind of each column of each
user table.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from align_keras.search.index.columns import (
    as_text,
    combined_kind,
    kind_of,
    value_of_cell,
)
from align_keras.search.index.database import Database
from align_keras.search.index.schema import INDEX_COLUMNS, TableRow
from align_keras.utils.condition_columns import NUMBER, TEXT, Column

# Images per statement. Both databases accept at least 999 parameters.
_BLOCK = 500
_KEY = "columns"


class TableRows:
    """Rows of user tables in the database of an index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # === Columns ===

    @property
    def columns(self) -> dict[str, str]:
        """Dict from the name of each column to "number" or "text"."""
        return {name: column.kind for name, column in self.named_columns().items()}

    def named_columns(self) -> dict[str, Column]:
        """Returns a dict from the name of each column to its SQL."""
        named = {}
        for name, kind in INDEX_COLUMNS.items():
            sql = f'images."{name}"'
            if kind == "INTEGER":
                named[name] = Column(sql, NUMBER, f"CAST({sql} AS TEXT)")
            else:
                named[name] = Column(self._database.text_sql(sql), TEXT, sql)
        tables = self.user_columns()
        for name, kind in _combined_kinds(tables).items():
            sql = self._database.cell_sql("t", name)
            if any(name not in kinds for kinds in tables.values()):
                # Some user tables lack this column. For rows of these tables, the
                # condition uses the value of the first other row of the image that has
                # a value.
                cell = self._database.cell_sql("o", name)
                sql = (
                    f"COALESCE({sql}, (SELECT {cell} FROM table_rows o "
                    f"WHERE o.image = images.id AND o.root <> t.root "
                    f"AND {cell} IS NOT NULL ORDER BY o.root, o.number LIMIT 1))"
                )
            if kind == TEXT:
                named[name] = Column(
                    self._database.text_sql(sql), TEXT, sql, is_cell=True
                )
            else:
                named[name] = Column(
                    self._database.number_sql(sql), NUMBER, sql, is_cell=True
                )
        return named

    def condition_of_images(self, sql: str) -> str:
        """Returns a condition that holds for images with a row that fulfills `sql`.

        An image without rows is treated like an image with a row of empty cells.
        Therefore all images are read, which takes 0.15 s in an index of a million
        images.
        """
        return (
            "images.id IN (SELECT images.id FROM images "
            f"LEFT JOIN table_rows t ON t.image = images.id WHERE {sql})"
        )

    def user_columns(self) -> dict[str, dict[str, str | None]]:
        """Returns the kinds of the columns of each user table, by its id."""
        columns: dict[str, dict[str, str | None]]
        columns = json.loads(self._database.get_meta(_KEY) or "{}")
        return columns

    # === Reading ===

    def rows_of(self, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """Returns a dict from image id to the rows of the image, as dicts of values."""
        # Between two statements, another process may change the kind of a column.
        with self._database.consistent_read():
            kinds = _combined_kinds(self.user_columns())
            if not kinds:
                return {}
            rows: dict[int, list[dict[str, Any]]] = {}
            for start in range(0, len(ids), _BLOCK):
                block = list(ids[start : start + _BLOCK])
                sql = (
                    "SELECT image, CAST(cells AS TEXT) FROM table_rows "
                    f"WHERE image IN ({', '.join('?' * len(block))}) "
                    "ORDER BY image, root, number"
                )
                for image, text in self._database.fetch_rows(sql, block):
                    cells = json.loads(text)
                    rows.setdefault(image, []).append(_values_of(cells, kinds))
            return rows

    def tables_of_images(self) -> dict[int, set[int]]:
        """Returns a dict from image id to the ids of the sources with rows of it."""
        tables: dict[int, set[int]] = {}
        sql = "SELECT DISTINCT image, root FROM table_rows"
        for image, root in self._database.fetch_rows(sql):
            tables.setdefault(image, set()).add(root)
        return tables

    def count_cells(self, column: str, limit: int) -> dict[str, int]:
        """Returns the number of images for each different text in a column.

        Args:
            column: name of a text column.
            limit: maximum number of different texts. The result is empty if the
                column has more of them.
        """
        if column in INDEX_COLUMNS:
            table, cell, count = "images", f'"{column}"', "count(*)"
        else:
            table, count = "table_rows t", "count(DISTINCT image)"
            cell = self._database.cell_sql("t", column)
        with self._database.consistent_read():
            # Grouping a large column takes a second, so a sample is counted first.
            sample = f"SELECT {cell} AS cell FROM {table} LIMIT {10 * limit}"
            sql = f"SELECT count(DISTINCT cell) FROM ({sample}) AS sample"
            if self._database.fetch_value(sql) > limit:
                return {}
            sql = (
                f"SELECT {cell} AS cell, {count} FROM {table} WHERE {cell} IS NOT NULL "
                f"GROUP BY 1 LIMIT {limit + 1}"
            )
            counts = {
                str(text): count for text, count in self._database.fetch_rows(sql)
            }
            return counts if len(counts) <= limit else {}

    # === Writing, within a transaction ===

    def replace(self, root: int, rows: dict[int, list[TableRow]]) -> None:
        """Replaces all rows of a user table.

        Args:
            root: id of the table's source.
            rows: id of an image → its rows.
        """
        self._database.lock_tables()
        # In most runs the table has not changed and still has the stored digest.
        digest = _digest(rows)
        if self._database.get_meta(f"table {root}") == digest:
            return
        affected = self._delete_source(root) | set(rows)
        self._database.run("INSERT INTO meta VALUES (?, ?)", [f"table {root}", digest])
        values_of_columns: dict[str, list[Any]] = {}
        parameters = []
        for image, image_rows in rows.items():
            for number, row in enumerate(image_rows):
                cells = {}
                for name, value in row.values.items():
                    text = as_text(value)
                    if text is not None:
                        cells[name] = text
                        values_of_columns.setdefault(name, []).append(value)
                captions = _as_json([as_text(caption) for caption in row.captions])
                parameters.append((image, root, number, captions, _as_json(cells)))
        self._database.run_many(
            "INSERT INTO table_rows VALUES (?, ?, ?, ?, ?)", parameters
        )
        kinds = {name: kind_of(values) for name, values in values_of_columns.items()}
        self._store_columns({**self.user_columns(), str(root): kinds})
        self._write_captions(affected)

    def remove_source(self, root: int) -> None:
        """Removes all rows of a user table."""
        self._database.lock_tables()
        self._write_captions(self._delete_source(root))

    def remove_images(self, ids: Iterable[int]) -> None:
        """Removes all rows of images."""
        self._database.run_for_each("DELETE FROM table_rows WHERE image = ?", ids)

    def _delete_source(self, root: int) -> set[int]:
        """Deletes the rows of a user table and returns the images that had rows."""
        self._database.run("DELETE FROM meta WHERE key = ?", [f"table {root}"])
        sql = "SELECT DISTINCT image FROM table_rows WHERE root = ?"
        images = {image for (image,) in self._database.fetch_rows(sql, [root])}
        self._database.run("DELETE FROM table_rows WHERE root = ?", [root])
        columns = self.user_columns()
        columns.pop(str(root), None)
        self._store_columns(columns)
        return images

    def _store_columns(self, columns: Mapping[str, Mapping[str, str | None]]) -> None:
        self._database.run("DELETE FROM meta WHERE key = ?", [_KEY])
        self._database.run("INSERT INTO meta VALUES (?, ?)", [_KEY, _as_json(columns)])

    def _write_captions(self, images: set[int]) -> None:
        """Updates the column `captions` of images with the captions of all tables."""
        # A caption that occurs in several rows is written once.
        captions: dict[int, list[str]] = {image: [] for image in images}
        if images:
            sql = "SELECT image, captions FROM table_rows ORDER BY root, number"
            for image, text in self._database.fetch_rows(sql):
                if image in captions:
                    captions[image].append(text)
        changes = [(_merge_captions(texts), image) for image, texts in captions.items()]
        self._database.run_many("UPDATE images SET captions = ? WHERE id = ?", changes)


def _combined_kinds(
    tables: Mapping[str, Mapping[str, str | None]],
) -> dict[str, str]:
    """Returns a dict from the names of all columns to their kinds."""
    kinds: dict[str, list[str | None]] = {}
    for columns in tables.values():
        for name, kind in columns.items():
            kinds.setdefault(name, []).append(kind)
    return {name: combined_kind(kinds[name]) for name in kinds}


def _values_of(
    cells: Mapping[str, str], kinds: Mapping[str, str]
) -> dict[str, str | int | float]:
    """Returns the values of a row by column, without blank cells."""
    values = {}
    for name, kind in kinds.items():
        value = value_of_cell(cells.get(name), kind)
        if value is not None:
            values[name] = value
    return values


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _merge_captions(texts: Sequence[str]) -> str | None:
    """Returns the captions of several rows as one JSON list, or None without rows."""
    if len(texts) < 2:
        return texts[0] if texts else None
    captions = (caption for text in texts for caption in json.loads(text))
    return _as_json(list(dict.fromkeys(captions)))


def _digest(rows: Mapping[int, list[TableRow]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for image, image_rows in rows.items():
        line = f"{image} {[tuple(row) for row in image_rows]}\n"
        digest.update(line.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
