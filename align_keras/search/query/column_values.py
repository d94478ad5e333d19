"""Values of text columns with few different values, from which a user can choose."""

from collections.abc import Mapping
from typing import Any

from align_keras.search.index.table_rows import TableRows
from align_keras.utils.condition_columns import TEXT

# Maximum number of columns, and of values per column. A longer menu is hard to read.
_MAX_COLUMNS = 20
MAX_VALUES = 100
# Maximum number of different cells of a column. A cell can have several values.
_MAX_CELLS = 1_000
# Maximum number of characters of a value.
_MAX_LENGTH = 80
# Built-in columns whose values describe single images.
_COLUMNS_OF_IMAGES = ("path", "name", "date", "captions")
# Separators of the values in a cell of a user table. A column uses the first separator
# that occurs in one of its cells.
_SEPARATORS = ("; ", ";", " | ", "|", ", ", ",")


def count_values(tables: TableRows) -> dict[str, list[dict[str, Any]]]:
    """Returns the values of each text column that has few different values.

    Returns:
        Dict from the name of a column in conditions to its values in alphabetical
        order. Each value is a dict of `value`, `count`, the number of images, and
        `where`, the condition that selects these images.
    """
    columns: dict[str, list[dict[str, Any]]] = {}
    for name, column in tables.named_columns().items():
        if len(columns) == _MAX_COLUMNS:
            break
        if column.kind != TEXT or name in _COLUMNS_OF_IMAGES:
            continue
        cells = tables.count_cells(name, _MAX_CELLS)
        separator = _separator_of(cells) if column.is_cell else None
        counts = _count_parts(cells, separator)
        is_short = all(len(value) <= _MAX_LENGTH for value in counts)
        # Values that are all different describe single images.
        has_groups = any(count > 1 for count in counts.values())
        if has_groups and len(counts) <= MAX_VALUES and is_short:
            columns[name] = [
                {
                    "value": value,
                    "count": counts[value],
                    "where": condition_of_value(name, value, separator),
                }
                for value in sorted(counts, key=str.casefold)
            ]
    return columns


def _separator_of(cells: Mapping[str, int]) -> str | None:
    for separator in _SEPARATORS:
        if any(separator in cell for cell in cells):
            return separator
    return None


def _count_parts(cells: Mapping[str, int], separator: str | None) -> dict[str, int]:
    """Returns the number of images for each value in the cells of a column."""
    counts: dict[str, int] = {}
    for cell, count in cells.items():
        for value in {cell} if separator is None else set(cell.split(separator)):
            if value.strip():
                counts[value] = counts.get(value, 0) + count
    return counts


def condition_of_value(column: str, value: str, separator: str | None) -> str:
    """Returns the condition for cells that have a value, alone or among others.

    Args:
        column: name of the column in conditions.
        value: value.
        separator: separator of the values in a cell, or None if each cell has one
            value.

    >>> condition_of_value("folder", "Italy", None)
    '"folder" = \\'Italy\\''
    >>> print(condition_of_value("tag", "cat", ";"))
    "tag" = 'cat' or "tag" like 'cat;%' or "tag" like '%;cat' or "tag" like '%;cat;%'
    """
    quoted_value = value.replace("'", "''")
    conditions = [f"\"{column}\" = '{quoted_value}'"]
    if separator is not None:
        pattern = quoted_value.replace("\\", r"\\")
        pattern = pattern.replace("%", r"\%").replace("_", r"\_")
        conditions += [
            f"\"{column}\" like '{pattern}{separator}%'",
            f"\"{column}\" like '%{separator}{pattern}'",
            f"\"{column}\" like '%{separator}{pattern}{separator}%'",
        ]
    return " or ".join(conditions)
