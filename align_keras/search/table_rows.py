"""Rows of users' tables in a store, by the same SQL in SQLite and in PostgreSQL.

No name of a user's column occurs in SQL. The cells of all tables lie in the tables
`table_rows_0`, `table_rows_1`, …, in columns `c0`, `c1`, …, as text, and the entry
`table_columns` of the table `meta` maps the users' names to their numbers. Each row
belongs to an image and to the source that names it (`root`), with which it goes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from align_keras.search.columns import (
    COLUMNS,
    MAX_COLUMNS,
    NUMBER,
    TEXT,
    Column,
    TableRow,
    as_text,
    combined_kind,
    kind_of,
    name_in_conditions,
    shown_value,
)
from align_keras.utils.addresses import without_secrets
from align_keras.utils.errors import InputError

# Columns of one of our tables: a row of PostgreSQL must fit into a page of 8 KB, where
# a long text takes 18 bytes.
_PER_TABLE = 200
# Both databases take at least 999 parameters a statement.
_BLOCK = 500
_KEY = "table_columns"
# Numbers of columns are not given twice, so they may exceed `MAX_COLUMNS`.
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


class _UserColumn(NamedTuple):
    """A user's column: its own name, the name in conditions, the number of the column
    that stores it, and its kind in each table by the id of the table's source.
    """

    name: str
    called: str
    number: int
    kinds: dict[str, str | None]

    @property
    def table(self) -> int:
        return self.number // _PER_TABLE

    @property
    def kind(self) -> str:
        return combined_kind(self.kinds.values())


class TableRows:
    """The part of a store that keeps the rows of users' tables."""

    _run: Callable
    _each: Callable
    _all: Callable
    _one: Callable
    _meta: Callable
    roots: Callable
    drop: Callable
    transaction: Callable
    # Context manager within which all statements read the same state of the database.
    _one_state: Callable

    # === Names ===

    @property
    def columns(self) -> dict[str, str]:
        """Name in conditions → "number" or "text"."""
        return {name: column.kind for name, column in self.named_columns().items()}

    def named_columns(self) -> dict[str, Column]:
        """Returns every column that a condition may name."""
        named = {}
        for name, kind in COLUMNS.items():
            sql = f'images."{name}"'
            if kind == "INTEGER":
                named[name] = Column(sql, NUMBER, f"CAST({sql} AS TEXT)")
            else:
                named[name] = Column(self._text_sql(sql), TEXT, sql)
        columns, _ = self._user_columns()
        roots = {root for column in columns for root in column.kinds}
        for column in columns:
            sql = f"t{column.table}.c{column.number}"
            if set(column.kinds) != roots:
                # A row of another table has the value of the image's first row here.
                sql = (
                    f"COALESCE({sql}, (SELECT o.c{column.number} "
                    f"FROM table_rows_{column.table} o WHERE o.image = images.id "
                    f"AND o.root <> t0.root AND o.c{column.number} IS NOT NULL "
                    "ORDER BY o.root, o.number LIMIT 1))"
                )
            if column.kind == TEXT:
                compared, kind = self._text_sql(sql), TEXT
            else:
                compared, kind = self._number_sql(sql), NUMBER
            named[column.called] = Column(compared, kind, sql, column.table)
        return named

    def rows_condition(
        self, sql: str, tables: Iterable[int], holds_without_rows: bool
    ) -> str:
        """Returns a condition on images: it holds if `sql` holds for a row of theirs.

        An image without rows counts as one of empty cells. Only a condition that may
        hold for such an image has to read the images with the rows.
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
        """Raises InputError if a table has more columns than there is room for."""
        columns, _ = self._user_columns()
        used = {column.name for column in columns if set(column.kinds) - {str(root)}}
        count = len(used.union(names))
        if count > MAX_COLUMNS:
            raise InputError(
                f"The tables of an index must have at most {MAX_COLUMNS:,} different "
                f"columns. Received: {count:,} with those of {table}. Remove columns "
                "from the table that no search needs."
            )

    def renamed_columns(self) -> dict[str, str]:
        """Returns users' names that conditions call otherwise than one would guess."""
        columns, _ = self._user_columns()
        return {
            column.name: column.called
            for column in columns
            if column.called != name_in_conditions(column.name, ())
            or column.called.endswith("_")
        }

    def _user_columns(self) -> tuple[list[_UserColumn], int]:
        """Returns the users' columns, and how many columns our tables have."""
        text = self._meta(_KEY)
        if text is None:
            return [], 0
        stored = json.loads(text)
        columns = [_UserColumn(*fields) for fields in stored["columns"]]
        for column in columns:
            is_text = isinstance(column.name, str) and isinstance(column.called, str)
            is_number = type(column.number) is int and column.number >= 0
            # The number becomes a part of SQL.
            if not (is_text and is_number and isinstance(column.kinds, dict)):
                raise ValueError(f"{_KEY} must name columns. Received: {column}.")
        count = stored["count"]
        if type(count) is not int or not 0 <= count <= _MAX_NUMBER:
            raise ValueError(f"{_KEY} must count columns. Received: {count}.")
        return columns, count

    def _keep_columns(self, columns, count):
        stored = json.dumps({"columns": columns, "count": count})
        self._run("DELETE FROM meta WHERE key = ?", [_KEY])
        self._run("INSERT INTO meta VALUES (?, ?)", [_KEY, stored])

    # === Reading ===

    def rows_of(self, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """Image → the values of its tables' rows, by the names of conditions."""
        # Another process may give the number of a column to another name meanwhile.
        with self._one_state():
            return self._rows_of(ids)

    def _rows_of(self, ids):
        columns, _ = self._user_columns()
        if not columns:
            return {}
        found: dict[tuple[int, int, int], dict[str, Any]] = {}
        for table in _tables(columns):
            within = [column for column in columns if column.table == table]
            names = ", ".join(f"c{column.number}" for column in within)
            for start in range(0, len(ids), _BLOCK):
                block = list(ids[start : start + _BLOCK])
                sql = (
                    f"SELECT image, root, number, {names} FROM table_rows_{table} "
                    f"WHERE image IN ({', '.join('?' * len(block))})"
                )
                for image, root, number, *cells in self._all(sql, block):
                    row = found.setdefault((image, root, number), {})
                    for column, cell in zip(within, cells, strict=True):
                        value = shown_value(cell, column.kind)
                        if value is not None:
                            row[column.called] = value
        rows: dict[int, list[dict[str, Any]]] = {}
        for image, root, number in sorted(found):
            rows.setdefault(image, []).append(found[image, root, number])
        return rows

    # === Writing, within a transaction ===

    def describe(self, root: int, rows: dict[int, list[TableRow]]) -> None:
        """Replaces everything that a table says of images.

        Args:
            root: id of the table's source.
            rows: dict, id of an image → its rows.
        """
        self._lock_tables()
        # Most runs find the tables as they were.
        digest = _digest(rows)
        if self._meta(f"table {root}") == digest:
            return
        affected = self._forget(root) | set(rows)
        self._run("INSERT INTO meta VALUES (?, ?)", [f"table {root}", digest])
        columns = self._add_names(root, rows)
        for table in [0, *_tables(columns)[1:]]:
            self._insert(root, rows, table, columns)
        self._write_captions(affected)

    def forget_table(self, root: int) -> None:
        """Drops everything that a table says of images."""
        self._lock_tables()
        self._write_captions(self._forget(root))

    def drop_rows(self, ids: Iterable[int]) -> None:
        """Drops the rows of images that are dropped."""
        dropped = list(ids)
        _, count = self._user_columns()
        for table in range(max(1, -(-count // _PER_TABLE))):
            self._each(f"DELETE FROM table_rows_{table} WHERE image = ?", dropped)

    def _forget(self, root):
        """Deletes the rows of a table; returns the images that had some."""
        columns, count = self._user_columns()
        self._run("DELETE FROM meta WHERE key = ?", [f"table {root}"])
        sql = "SELECT DISTINCT image FROM table_rows_0 WHERE root = ?"
        images = {image for (image,) in self._all(sql, [root])}
        for table in range(max(1, -(-count // _PER_TABLE))):
            self._run(f"DELETE FROM table_rows_{table} WHERE root = ?", [root])
        for column in columns:
            column.kinds.pop(str(root), None)
        self._keep_columns([column for column in columns if column.kinds], count)
        return images

    def _add_names(self, root, rows):
        """Finds or adds a column for each name of a table; returns the table's."""
        columns, count = self._user_columns()
        cells: dict[str, list] = {}
        for of_image in rows.values():
            for row in of_image:
                for name, value in row.values.items():
                    cells.setdefault(name, []).append(value)
        cells = {
            name: values
            for name, values in cells.items()
            if any(as_text(value) is not None for value in values)
        }
        self.check_columns(root, cells, "a table")
        by_name = {column.name: column for column in columns}
        free = iter(sorted(set(range(MAX_COLUMNS)) - {one.number for one in columns}))
        for name, values in cells.items():
            if name not in by_name:
                taken = {column.called for column in by_name.values()}
                called = name_in_conditions(name, taken)
                by_name[name] = _UserColumn(name, called, next(free), {})
            by_name[name].kinds[str(root)] = kind_of(values)
        new_count = max([count, *(one.number + 1 for one in by_name.values())])
        for number in range(count, new_count):
            self._run(_FURTHER_TABLE.format(number // _PER_TABLE))
            table = f"table_rows_{number // _PER_TABLE}"
            self._run(f"ALTER TABLE {table} ADD COLUMN c{number} text")
        self._keep_columns(list(by_name.values()), new_count)
        return [by_name[name] for name in cells]

    def _insert(self, root, rows, table, columns):
        within = [column for column in columns if column.table == table]
        names = ["image", "root", "number", *(f"c{one.number}" for one in within)]
        values = []
        for image, of_image in rows.items():
            for number, row in enumerate(of_image):
                cells = [as_text(row.values.get(one.name)) for one in within]
                if table == 0:
                    values.append((image, root, number, *cells, _json(row.captions)))
                elif any(cell is not None for cell in cells):
                    values.append((image, root, number, *cells))
        if table == 0:
            names.append("captions")
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO table_rows_{table} ({', '.join(names)}) VALUES ({marks})"
        self._run_many(sql, values)

    def _write_captions(self, images):
        """Gives images the captions of all their tables, in order and once each."""
        captions: dict[int, list[str]] = {image: [] for image in images}
        if images:
            sql = "SELECT image, captions FROM table_rows_0 ORDER BY root, number"
            for image, text in self._all(sql):
                if image in captions:
                    captions[image].append(text)
        changes = [(_joined(texts), image) for image, texts in captions.items()]
        self._run_many("UPDATE images SET captions = ? WHERE id = ?", changes)

    # === Indexes that have the columns of tables among those of images ===

    def upgrade(self) -> None:
        """Moves columns of tables out of the table of images, where they once were.

        The rows go to the image's table, or to the first table of the index, until that
        is read again.
        """
        with self.transaction():
            old = json.loads(self._meta("columns") or "{}")
            self._run(FIRST_TABLE)
            self._keep_columns([], 0)
            # The rows below are then written for the merged sources and images.
            self._hide_root_passwords()
            self._hide_image_passwords()
            if old:
                self._move(list(old))
            self._run("DELETE FROM meta WHERE key = 'columns'")

    def _hide_root_passwords(self):
        """Removes the passwords from the addresses of sources.

        Sources whose addresses are equal afterwards become one.
        """
        for id, file in self._all("SELECT id, file FROM roots ORDER BY id"):
            clean = os.fsencode(without_secrets(os.fsdecode(file)))
            if clean == file:
                continue
            twin = self._one("SELECT id FROM roots WHERE file = ?", [clean])
            if twin is None:
                self._run("UPDATE roots SET file = ? WHERE id = ?", [clean, id])
                continue
            for table in ("images", "unreadable"):
                self._run(f"UPDATE {table} SET root = ? WHERE root = ?", [twin, id])
            self.forget_table(id)
            self._run("DELETE FROM roots WHERE id = ?", [id])

    def _hide_image_passwords(self):
        """Removes the passwords from the addresses of images.

        One image is kept where several addresses are equal afterwards.
        """
        for id, file in self._all("SELECT id, file FROM images ORDER BY id"):
            clean = os.fsencode(without_secrets(os.fsdecode(file)))
            if clean == file:
                continue
            twin = self._one("SELECT id FROM images WHERE file = ?", [clean])
            if twin is None:
                path = clean.decode("utf-8", "backslashreplace")
                sql = "UPDATE images SET file = ?, path = ? WHERE id = ?"
                self._run(sql, [clean, path, id])
            else:
                self.drop([id])

    def _move(self, names):
        # Only here, for a search needs no reader of tables.
        from align_keras.corpus.pair_files import TABLE_SUFFIXES

        quoted = [_quoted(name) for name in names]
        tables = [
            id
            for file, id in self.roots().items()
            if os.fsdecode(file).lower().endswith(TABLE_SUFFIXES)
        ]
        rows: dict[int, dict[int, list[TableRow]]] = {id: {} for id in tables}
        sql = f"SELECT id, root, captions, {', '.join(quoted)} FROM images ORDER BY id"
        for image, root, captions, *cells in self._all(sql):
            values = {
                name: _whole(cell)
                for name, cell in zip(names, cells, strict=True)
                if cell is not None
            }
            if values and tables:
                row = TableRow(json.loads(captions or "[]"), values)
                rows[root if root in rows else tables[0]][image] = [row]
        for root, of_root in rows.items():
            self.describe(root, of_root)
        for name in quoted:
            self._run(f"ALTER TABLE images DROP COLUMN {name}")

    # === What SQLite does; PostgreSQL has its own ===

    def _run_many(self, sql: str, rows: Sequence[tuple]) -> None:
        raise NotImplementedError

    def _number_sql(self, sql: str) -> str:
        return f"CAST(NULLIF(trim({sql}), '') AS NUMERIC)"

    def _text_sql(self, sql: str) -> str:
        return sql

    def _lock_tables(self) -> None:
        """Keeps other processes from changing tables until the transaction ends."""


def _tables(columns):
    """The numbers of our tables that hold some columns; 0 is always among them."""
    return sorted({0, *(column.table for column in columns)})


def _json(captions):
    cleaned = [as_text(caption) for caption in captions]
    return json.dumps(cleaned, ensure_ascii=False)


def _joined(texts):
    """The captions of several rows as one list, or None if there are no rows."""
    if len(texts) < 2:
        return texts[0] if texts else None
    captions = (caption for text in texts for caption in json.loads(text))
    return _json(list(dict.fromkeys(captions)))


def _digest(rows):
    digest = hashlib.blake2b(digest_size=16)
    for image, of_image in rows.items():
        line = f"{image} {[tuple(row) for row in of_image]}\n"
        digest.update(line.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def _whole(value):
    """A number that an older release has kept as a float, as it was in the table."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value
