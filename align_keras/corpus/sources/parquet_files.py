"""Sources of the kind `parquet`: tables of images or of their addresses.

img2dataset reads and writes such tables. The images are in a column `jpg`, `jpeg`,
`png`, `webp` or `image`, as bytes or in the form `{bytes, path}` of Hugging Face.
Without such a column, the images are remote, and the column `url` has their addresses.
`pair.columns_of` finds the other columns.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import arrow_errors_as_os_errors, open_parquet
from align_keras.corpus.sources.location import is_from_web, member_location
from align_keras.corpus.sources.pair import (
    UID_COLUMN,
    Part,
    SourceKind,
    SourcePair,
    columns_of,
    pair_of_shard,
)
from align_keras.corpus.sources.source_files import SourceFile
from align_keras.corpus.sources.uid_subset import UidFilter
from align_keras.utils.errors import InputError

_IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")
_ROWS_PER_PART = 100_000
_ROWS_PER_BATCH = 4096


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Divides the files into parts of up to 100,000 rows."""
    # A part has at least one row group, which can have more rows.
    parts = []
    for file in files:
        try:
            with open_parquet(os.path.join(whole.root, file.name)) as table:
                counts = [
                    table.metadata.row_group(group).num_rows
                    for group in range(table.num_row_groups)
                ]
        except InputError:
            raise
        except Exception:  # `_read_part` counts the damaged file.
            counts = []
        file_part = dataclasses.replace(whole, files=(file.name,), total=len(counts))
        for start, stop in _group_ranges(counts) or [(0, 0)]:
            parts.append(dataclasses.replace(file_part, start=start, stop=stop))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of row groups without reading the images."""
    try:
        with open_parquet(part.path) as table, arrow_errors_as_os_errors():
            if table.num_row_groups != part.total:
                counter.drop("vanished", part.path, "the file has changed")
            else:
                yield from _read_groups(table, part, counter)
    except OSError as error:
        # An error with an `errno` is from the operating system. An error of pyarrow has
        # none, and means that the file is damaged.
        if error.errno is not None:
            raise
        counter.drop("truncated shard", part.path, str(error))


def _group_ranges(counts: list[int]) -> list[tuple[int, int]]:
    """Divides row groups into ranges (start, stop) of up to 100,000 rows."""
    ranges, start, rows = [], 0, 0
    for group, count in enumerate(counts):
        if rows and rows + count > _ROWS_PER_PART:
            ranges.append((start, group))
            start, rows = group, 0
        rows += count
    return [*ranges, (start, len(counts))] if counts else []


def _read_groups(table: Any, part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    path, names = part.path, table.schema_arrow.names
    image_column = image_column_of(table.schema_arrow)
    columns_of_parts = columns_of(names)
    if image_column is None and "url" not in columns_of_parts:
        detail = f"no image and no url among the columns {', '.join(names)}"
        counter.drop("unreadable", path, detail)
        return
    uid_filter = UidFilter(part, counter)
    columns = [
        *columns_of_parts.values(),
        *{"status", "error_message", UID_COLUMN}.intersection(names),
    ]
    for group in range(part.start, part.stop):
        number = -1
        try:
            for number, row in enumerate(_rows(table, group, columns)):
                position = f"{path} row group {group} row {number}"
                if not uid_filter.keeps(row, position):
                    continue
                image = row.get(columns_of_parts.get("url", "")) or ""
                if image_column is not None:
                    cell = (group, number, image_column)
                    image = member_location("parquet", cell, path)
                is_downloaded = row.get("status") in (None, "success")
                if is_downloaded and image_column is None and not is_from_web(image):
                    counter.drop(
                        "missing", position, f"no web address: {image[:200]!r}"
                    )
                elif pair := pair_of_shard(
                    counter, position, row, image, names, columns_of_parts
                ):
                    yield pair
        except OSError as error:
            unread_rows = table.metadata.row_group(group).num_rows - number - 1
            position = f"{path} row group {group}"
            counter.drop("broken record", position, str(error), count=unread_rows)
    uid_filter.finish()


def _rows(table: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    with arrow_errors_as_os_errors():
        for batch in table.iter_batches(
            _ROWS_PER_BATCH, row_groups=[group], columns=columns
        ):
            yield from batch.to_pylist()


def image_column_of(schema: Any) -> str | None:
    """Returns the name of the column with the bytes of images, or None.

    Args:
        schema: `pyarrow.Schema`.
    """
    import pyarrow.types as types

    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if field.name.lower() in _IMAGE_COLUMNS and (
            types.is_binary(kind) or types.is_large_binary(kind)
        ):
            return field.name
    return None


PARQUET_FILES = SourceKind(
    suffixes=(".parquet",),
    list_parts=_list_parts,
    read=_read_part,
)
