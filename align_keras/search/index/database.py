"""Base class of the databases of an index, which run the SQL of the stores.

SQL is written for SQLite, with `?` for each parameter. The expressions that differ in
PostgreSQL have a method each.
"""

import abc
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any


class Database(abc.ABC):
    """Database of an index, which several threads share.

    Attributes:
        location: path of the folder, or address of the database.
        lock: lock of the connection. All threads share one connection.
    """

    location: Any
    lock: Any
    _connection: Any

    @property
    @abc.abstractmethod
    def version(self) -> Any:
        """Value that differs after each change by any process."""

    @abc.abstractmethod
    def connection(self) -> contextlib.AbstractContextManager[Any]:
        """Yields the connection to one thread at a time."""

    @abc.abstractmethod
    def consistent_read(self) -> contextlib.AbstractContextManager[None]:
        """Context in which all statements read the same state of the database."""

    @abc.abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Context whose changes are written all together or not at all."""

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    # === Reading ===

    def fetch_rows(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Returns all rows of a query."""
        with self.connection() as connection:
            return connection.execute(self._sql(sql), parameters).fetchall()

    def fetch_dicts(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """Returns all rows of a query, each as a dict from column to value."""
        with self.connection() as connection:
            cursor = connection.execute(self._sql(sql), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def fetch_value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Returns the first column of the first row of a query, or None."""
        (row,) = self.fetch_rows(sql, parameters) or [(None,)]
        return row[0]

    def get_meta(self, key: str) -> Any:
        """Returns an entry of the table `meta`, or None."""
        return self.fetch_value("SELECT value FROM meta WHERE key = ?", [key])

    # === Writing, within a transaction ===

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Runs a statement and returns its cursor."""
        return self._connection.execute(self._sql(sql), parameters)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row of parameters."""
        if rows:
            self._connection.cursor().executemany(self._sql(sql), rows)

    def run_for_each(self, sql: str, values: Iterable[Any]) -> None:
        """Runs a statement with one parameter once for each value."""
        self.run_many(sql, [(value,) for value in values])

    def update_meta(self, key: str, value: Any) -> None:
        """Changes an entry of the table `meta`."""
        self.run("UPDATE meta SET value = ? WHERE key = ?", [value, key])

    # === SQL of SQLite, which PostgreSQL overrides ===

    def lock_tables(self) -> None:
        """Prevents other processes from changing tables until the transaction ends.

        A transaction of SQLite locks the whole database.
        """
        return

    def to_stored(self, value: Any) -> Any:
        """Returns a value as the database can store it."""
        # SQLite stores integers of 64 bits. A longer integer is stored as text, which
        # preserves all digits.
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return str(value)
        return value

    def cell_sql(self, table: str, column: str) -> str:
        """Returns SQL for the text of a cell of `table_rows`."""
        path = column.replace("'", "''")
        return f"json_extract({table}.cells, '$.\"{path}\"')"

    def number_sql(self, sql: str) -> str:
        """Returns SQL for the number in a text."""
        return f"CAST(NULLIF(trim({sql}), '') AS NUMERIC)"

    def text_sql(self, sql: str) -> str:
        """Returns SQL for a text that is compared by code points."""
        return sql

    def lowercase_sql(self, sql: str, is_ascii: bool) -> str:
        """Returns SQL for a text in lower case.

        Folding non-ASCII letters is slower, and is only needed if the pattern contains
        such letters.
        """
        return f"lower({sql})" if is_ascii else f"fold_case({sql})"

    def _sql(self, text: str) -> str:
        return text
