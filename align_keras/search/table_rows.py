"""Rows of user tables in a store, with the same SQL for SQLite and PostgreSQL.

A user table is a CSV, TSV or JSONL file with images, captions and other columns. Its
cells are stored as text in the columns `c0`, `c1`, … of the database tables
`table_rows_0`, `table_rows_1`, …. The entry `table_columns` of the database table
`meta` maps the names in the user tables to these numbers, so the SQL contains no name
from a user table. Each row belongs to an image and to a source (`root`), the user
table. Removing the source also removes its rows.
"""

import abc
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from align_keras.search.columns import (
    INDEX_COLUMNS,
    MAX_COLUMNS,
    TableRow,
    as_text,
    combined_kind,
    kind_of,
    name_in_conditions,
    value_of_cell,
)
from align_keras.utils.errors import InputError
from align_keras.utils.where import NUMBER, TEXT, Column

# Number of columns `c…` per database table. A row of PostgreSQL must fit into a page of
# 8 KB, in which a long text takes 18 bytes.
_PER_TABLE = 200
# Images per statement. Both databases accept at least 999 parameters.
_BLOCK = 500
_KEY = "table_columns"
# Maximum number of columns `c…`, for a check of the stored entry. It is larger than
# `MAX_COLUMNS`, because columns that are no longer used stay in the database.
_MAX_NUMBER = 1_000_000
FIRST_TABLE = """
CREATE TABLE table_rows_0 (
    image bigint NOT NULL, root bigint NOT NULL, number bigint NOT NULL,
    captions text NOT NULL, PRIMARY KEY (image, root, number)
)
"""
_FURTHER_TABLE = """
CREATE TABLE IF NOT EXISTS table_rows_{} (
    image bigint NOT NULL, root bigint NOT NULL, number bigint NOT NULL,
    PRIMARY KEY (image, root, number)
)
"""


class UserColumn(NamedTuple):
    """Column of user tables. `table_columns` stores the fields in this order.

    Attributes:
        name: str, name of the column in the user tables.
        condition_name: str, name of the column in conditions.
        number: int, number N of the database column `cN` that stores the values.
        kinds: dict, id of a user table's source → kind of the column in this table.
    """

    name: str
    condition_name: str
    number: int
    kinds: dict[str, str | None]

    @property
    def table(self) -> int:
        """Number N of the database table `table_rows_N` that stores the column."""
        return self.number // _PER_TABLE

    @property
    def kind(self) -> str:
        return combined_kind(self.kinds.values())


class _RowKey(NamedTuple):
    """Key of a row of a user table: ids of the image and the source, and row number."""

    image: int
    root: int
    number: int


class TableRows(abc.ABC):
    """Part of a store that manages the rows of user tables.

    Subclasses run the SQL. Parameters are written as `?`.
    """

    # === Statements, which the subclasses run ===

    @abc.abstractmethod
    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Runs a statement and returns its cursor."""

    @abc.abstractmethod
    def _run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row of parameters."""

    @abc.abstractmethod
    def _run_for_each(self, sql: str, values: Iterable[Any]) -> None:
        """Runs a statement with one parameter once for each value."""

    @abc.abstractmethod
    def _fetch_rows(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Returns all rows of a query."""

    @abc.abstractmethod
    def _fetch_value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Returns the first column of the first row of a query, or None."""

    @abc.abstractmethod
    def _get_meta(self, key: str) -> Any:
        """Returns an entry of the table `meta`, or None."""

    @abc.abstractmethod
    def consistent_read(self) -> contextlib.AbstractContextManager[None]:
        """Context in which all statements read the same state of the database."""

    @abc.abstractmethod
    def _lock_tables(self) -> None:
        """Prevents other processes from changing tables until the transaction ends."""

    @abc.abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Context whose changes are written all together or not at all."""

    @abc.abstractmethod
    def roots(self) -> dict[bytes, int]:
        """Returns a dict from the path of each indexed folder or table to its id."""

    @abc.abstractmethod
    def remove_images(self, ids: Iterable[int]) -> None:
        """Removes images."""

    # === Names ===

    @property
    def columns(self) -> dict[str, str]:
        """Dict from the name of each column in conditions to "number" or "text"."""
        return {name: column.kind for name, column in self.named_columns().items()}

    def named_columns(self) -> dict[str, Column]:
        """Returns a dict from the name of each column in conditions to its SQL."""
        named = {}
        for name, kind in INDEX_COLUMNS.items():
            sql = f'images."{name}"'
            if kind == "INTEGER":
                named[name] = Column(sql, NUMBER, f"CAST({sql} AS TEXT)")
            else:
                named[name] = Column(self._text_sql(sql), TEXT, sql)
        columns, _ = self.user_columns()
        roots = {root for column in columns for root in column.kinds}
        for column in columns:
            sql = f"t{column.table}.c{column.number}"
            if set(column.kinds) != roots:
                # Some user tables lack this column. For rows of these tables, the
                # condition uses the value of the first other row of the image that has
                # a value.
                sql = (
                    f"COALESCE({sql}, (SELECT o.c{column.number} "
                    f"FROM table_rows_{column.table} o WHERE o.image = images.id "
                    f"AND o.root <> t0.root AND o.c{column.number} IS NOT NULL "
                    "ORDER BY o.root, o.number LIMIT 1))"
                )
            if column.kind == TEXT:
                compared = self._text_sql(sql)
                kind = TEXT
            else:
                compared = self._number_sql(sql)
                kind = NUMBER
            named[column.condition_name] = Column(compared, kind, sql, column.table)
        return named

    def rows_condition(
        self, sql: str, tables: Iterable[int], holds_without_rows: bool
    ) -> str:
        """Returns a condition that holds for images with a row that fulfills `sql`.

        An image without rows is treated like an image with a row of empty cells.

        Args:
            sql: condition on the columns of images and of rows.
            tables: numbers of the database tables that the condition uses.
            holds_without_rows: False if the condition cannot hold for an image without
                rows. In this case the query does not need to read all images.
        """
        image = "t0.image"
        source = "table_rows_0 t0"
        if holds_without_rows:
            image = "images.id"
            source = "images LEFT JOIN table_rows_0 t0 ON t0.image = images.id"
        elif "images." in sql:
            source += " JOIN images ON images.id = t0.image"
        for table in sorted(set(tables) - {0}):
            source += (
                f" LEFT JOIN table_rows_{table} t{table} ON t{table}.image = t0.image "
                f"AND t{table}.root = t0.root AND t{table}.number = t0.number"
            )
        return f"images.id IN (SELECT {image} FROM {source} WHERE {sql})"

    def check_columns(self, root: int, names: Iterable[str], table: str) -> None:
        """Raises InputError if all user tables together have too many columns.

        Args:
            root: id of the table that is read.
            names: names of its columns.
            table: name of the table for the error message.
        """
        columns, _ = self.user_columns()
        used = {column.name for column in columns if set(column.kinds) - {str(root)}}
        count = len(used.union(names))
        if count > MAX_COLUMNS:
            raise InputError(
                f"The tables of an index must have at most {MAX_COLUMNS:,} different "
                f"columns. Received: {count:,} columns, including the columns of "
                f"{table}. Remove columns that no search needs from this table."
            )

    def renamed_columns(self) -> dict[str, str]:
        """Returns a dict from renamed columns to their names in conditions.

        Such a name is a reserved word or collides with the name of another column.
        """
        columns, _ = self.user_columns()
        return {
            column.name: column.condition_name
            for column in columns
            if column.condition_name != name_in_conditions(column.name, ())
            or column.condition_name.endswith("_")
        }

    def user_columns(self) -> tuple[list[UserColumn], int]:
        """Returns the columns of user tables, and the number of database columns."""
        text = self._get_meta(_KEY)
        if text is None:
            return [], 0
        stored = json.loads(text)
        columns = [UserColumn(*fields) for fields in stored["columns"]]
        for column in columns:
            names = (column.name, column.condition_name)
            is_text = all(isinstance(name, str) for name in names)
            # The number becomes part of SQL, so its type is checked.
            is_number = type(column.number) is int and column.number >= 0
            if not (is_text and is_number and isinstance(column.kinds, dict)):
                raise ValueError(
                    f"{_KEY} must contain valid columns. Received: {column}."
                )
        count = stored["count"]
        if type(count) is not int or not 0 <= count <= _MAX_NUMBER:
            raise ValueError(
                f"{_KEY} must have a valid number of columns. Received: {count}."
            )
        return columns, count

    def _store_columns(self, columns: Sequence[UserColumn], count: int) -> None:
        stored = json.dumps({"columns": columns, "count": count})
        self._run("DELETE FROM meta WHERE key = ?", [_KEY])
        self._run("INSERT INTO meta VALUES (?, ?)", [_KEY, stored])

    # === Reading ===

    def rows_of(self, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """Returns a dict from image id to the rows of the image, as dicts of values."""
        # Between two statements, another process may assign the number of a column to
        # another name.
        with self.consistent_read():
            return self._rows_of(ids)

    def tables_of_images(self) -> dict[int, set[int]]:
        """Returns a dict from image id to the ids of the sources with rows of it."""
        tables: dict[int, set[int]] = {}
        sql = "SELECT DISTINCT image, root FROM table_rows_0"
        for image, root in self._fetch_rows(sql):
            tables.setdefault(image, set()).add(root)
        return tables

    def count_cells(self, column: str, limit: int) -> dict[str, int]:
        """Returns the number of images for each different text in a column.

        Args:
            column: str, name of a text column in conditions.
            limit: int, maximum number of different texts. The result is empty if the
                column has more of them.
        """
        with self.consistent_read():
            table = "images"
            cell = f'"{column}"'
            count = "count(*)"
            if column not in INDEX_COLUMNS:
                columns, _ = self.user_columns()
                by_name = {entry.condition_name: entry for entry in columns}
                if column not in by_name:
                    return {}
                table = f"table_rows_{by_name[column].table}"
                cell = f"c{by_name[column].number}"
                count = "count(DISTINCT image)"
            # Grouping a large column takes a second, so a sample is counted first.
            sample = f"SELECT {cell} AS cell FROM {table} LIMIT {10 * limit}"
            sql = f"SELECT count(DISTINCT cell) FROM ({sample}) AS sample"
            if self._fetch_value(sql) > limit:
                return {}
            sql = (
                f"SELECT {cell}, {count} FROM {table} WHERE {cell} IS NOT NULL "
                f"GROUP BY {cell} LIMIT {limit + 1}"
            )
            counts = {str(text): count for text, count in self._fetch_rows(sql)}
            return counts if len(counts) <= limit else {}

    def _rows_of(self, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        columns, _ = self.user_columns()
        if not columns:
            return {}
        values_of_rows: dict[_RowKey, dict[str, Any]] = {}
        for table in _tables(columns):
            table_columns = [column for column in columns if column.table == table]
            names = ", ".join(f"c{column.number}" for column in table_columns)
            for start in range(0, len(ids), _BLOCK):
                block = list(ids[start : start + _BLOCK])
                sql = (
                    f"SELECT image, root, number, {names} FROM table_rows_{table} "
                    f"WHERE image IN ({', '.join('?' * len(block))})"
                )
                for image, root, number, *cells in self._fetch_rows(sql, block):
                    key = _RowKey(image, root, number)
                    values = values_of_rows.setdefault(key, {})
                    for column, cell in zip(table_columns, cells, strict=True):
                        value = value_of_cell(cell, column.kind)
                        if value is not None:
                            values[column.condition_name] = value
        rows: dict[int, list[dict[str, Any]]] = {}
        for key in sorted(values_of_rows):
            rows.setdefault(key.image, []).append(values_of_rows[key])
        return rows

    # === Writing, within a transaction ===

    def replace_table_rows(self, root: int, rows: dict[int, list[TableRow]]) -> None:
        """Replaces all rows of a user table.

        Args:
            root: id of the table's source.
            rows: dict, id of an image → its rows.
        """
        self._lock_tables()
        # In most runs the table has not changed and still has the stored digest.
        digest = _digest(rows)
        if self._get_meta(f"table {root}") == digest:
            return
        affected = self._delete_table_rows(root) | set(rows)
        self._run("INSERT INTO meta VALUES (?, ?)", [f"table {root}", digest])
        columns = self._add_names(root, rows)
        for table in [0, *_tables(columns)[1:]]:
            self._insert(root, rows, table, columns)
        self._write_captions(affected)

    def remove_table_rows(self, root: int) -> None:
        """Removes all rows of a user table."""
        self._lock_tables()
        self._write_captions(self._delete_table_rows(root))

    def remove_rows(self, ids: Iterable[int]) -> None:
        """Removes all rows of images."""
        dropped = list(ids)
        _, count = self.user_columns()
        for table in range(max(1, -(-count // _PER_TABLE))):
            self._run_for_each(
                f"DELETE FROM table_rows_{table} WHERE image = ?", dropped
            )

    def _delete_table_rows(self, root: int) -> set[int]:
        """Deletes the rows of a user table and returns the images that had rows."""
        columns, count = self.user_columns()
        self._run("DELETE FROM meta WHERE key = ?", [f"table {root}"])
        sql = "SELECT DISTINCT image FROM table_rows_0 WHERE root = ?"
        images = {image for (image,) in self._fetch_rows(sql, [root])}
        for table in range(max(1, -(-count // _PER_TABLE))):
            self._run(f"DELETE FROM table_rows_{table} WHERE root = ?", [root])
        for column in columns:
            column.kinds.pop(str(root), None)
        self._store_columns([column for column in columns if column.kinds], count)
        return images

    def _add_names(
        self, root: int, rows: Mapping[int, list[TableRow]]
    ) -> list[UserColumn]:
        """Adds the new columns of a user table and returns all of its columns."""
        columns, count = self.user_columns()
        all_cells: dict[str, list[Any]] = {}
        for image_rows in rows.values():
            for row in image_rows:
                for name, value in row.values.items():
                    all_cells.setdefault(name, []).append(value)
        cells = {
            name: values
            for name, values in all_cells.items()
            if any(as_text(value) is not None for value in values)
        }
        self.check_columns(root, cells, "a table")
        by_name = {column.name: column for column in columns}
        used_numbers = {column.number for column in columns}
        free_numbers = iter(sorted(set(range(MAX_COLUMNS)) - used_numbers))
        for name, values in cells.items():
            if name not in by_name:
                taken = {column.condition_name for column in by_name.values()}
                condition_name = name_in_conditions(name, taken)
                number = next(free_numbers)
                by_name[name] = UserColumn(name, condition_name, number, {})
            by_name[name].kinds[str(root)] = kind_of(values)
        last_number = max((column.number for column in by_name.values()), default=-1)
        new_count = max(count, last_number + 1)
        for number in range(count, new_count):
            self._run(_FURTHER_TABLE.format(number // _PER_TABLE))
            table = f"table_rows_{number // _PER_TABLE}"
            self._run(f"ALTER TABLE {table} ADD COLUMN c{number} text")
        self._store_columns(list(by_name.values()), new_count)
        return [by_name[name] for name in cells]

    def _insert(
        self,
        root: int,
        rows: Mapping[int, list[TableRow]],
        table: int,
        columns: Sequence[UserColumn],
    ) -> None:
        """Writes the cells of rows to one of the database tables.

        Args:
            root: id of the user table's source.
            rows: id of an image → its rows.
            table: number N of the database table `table_rows_N`.
            columns: columns of the user table.
        """
        table_columns = [column for column in columns if column.table == table]
        names = ["image", "root", "number"]
        names += [f"c{column.number}" for column in table_columns]
        if table == 0:
            names.append("captions")
        parameters = []
        for image, image_rows in rows.items():
            for number, row in enumerate(image_rows):
                cells = [
                    as_text(row.values.get(column.name)) for column in table_columns
                ]
                if table == 0:
                    cells.append(_captions_json(row.captions))
                if any(cell is not None for cell in cells):
                    parameters.append((image, root, number, *cells))
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO table_rows_{table} ({', '.join(names)}) VALUES ({marks})"
        self._run_many(sql, parameters)

    def _write_captions(self, images: set[int]) -> None:
        """Updates the column `captions` of images with the captions of all tables.

        A caption that occurs in several rows is written once.
        """
        captions: dict[int, list[str]] = {image: [] for image in images}
        if images:
            sql = "SELECT image, captions FROM table_rows_0 ORDER BY root, number"
            for image, text in self._fetch_rows(sql):
                if image in captions:
                    captions[image].append(text)
        changes = [(_merge_captions(texts), image) for image, texts in captions.items()]
        self._run_many("UPDATE images SET captions = ? WHERE id = ?", changes)

    # === Indexes of older releases ===

    def upgrade(self) -> None:
        """Moves the columns of user tables from the table `images` to `table_rows_…`.

        Earlier releases did not store the user table of a value. The values of an image
        become a row of the image's source if it is a table, and otherwise of the first
        table of the index. The next update reads the tables again and corrects this.
        """
        with self.transaction():
            old = json.loads(self._get_meta("columns") or "{}")
            self._run(FIRST_TABLE)
            self._store_columns([], 0)
            if old:
                self._move_columns(list(old))
            self._run("DELETE FROM meta WHERE key = 'columns'")

    def _move_columns(self, names: Sequence[str]) -> None:
        """Moves columns from the table `images` to the rows of user tables."""
        # This import is not at the top, because a search does not need the reader of
        # tables.
        from align_keras.corpus.pair_files import TABLE_SUFFIXES

        quoted = [_quote(name) for name in names]
        tables = [
            id
            for file, id in self.roots().items()
            if os.fsdecode(file).lower().endswith(TABLE_SUFFIXES)
        ]
        rows: dict[int, dict[int, list[TableRow]]] = {id: {} for id in tables}
        sql = f"SELECT id, root, captions, {', '.join(quoted)} FROM images ORDER BY id"
        for image, root, captions, *cells in self._fetch_rows(sql):
            values = {
                name: _as_integer(cell)
                for name, cell in zip(names, cells, strict=True)
                if cell is not None
            }
            if values and tables:
                row = TableRow(json.loads(captions or "[]"), values)
                rows[root if root in rows else tables[0]][image] = [row]
        for root, rows_of_images in rows.items():
            self.replace_table_rows(root, rows_of_images)
        for name in quoted:
            self._run(f"ALTER TABLE images DROP COLUMN {name}")

    # === SQL of SQLite, which the store in PostgreSQL overrides ===

    def _number_sql(self, sql: str) -> str:
        return f"CAST(NULLIF(trim({sql}), '') AS NUMERIC)"

    def _text_sql(self, sql: str) -> str:
        return sql


def _tables(columns: Iterable[UserColumn]) -> list[int]:
    """Returns the numbers of the database tables that store columns, including 0."""
    return sorted({0, *(column.table for column in columns)})


def _captions_json(captions: Iterable[str]) -> str:
    cleaned = [as_text(caption) for caption in captions]
    return json.dumps(cleaned, ensure_ascii=False)


def _merge_captions(texts: Sequence[str]) -> str | None:
    """Returns the captions of several rows as one JSON list, or None without rows."""
    if len(texts) < 2:
        return texts[0] if texts else None
    captions = (caption for text in texts for caption in json.loads(text))
    return _captions_json(list(dict.fromkeys(captions)))


def _digest(rows: Mapping[int, list[TableRow]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for image, image_rows in rows.items():
        line = f"{image} {[tuple(row) for row in image_rows]}\n"
        digest.update(line.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _as_integer(value: Any) -> Any:
    """Converts a whole float to int. Earlier releases stored integers as floats."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value
