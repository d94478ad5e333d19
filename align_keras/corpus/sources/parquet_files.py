"""Kind `parquet`: tables of images or of addresses, as img2dataset reads and writes.
Images are in a column `jpg`, `png`, `webp` or `image`, also as Hugging Face's `{bytes,
path}`; without one `url` makes remote images. Others are those of `pair.columns_of`.
"""

import os
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import faults_of_arrow, open_parquet
from align_keras.corpus.sources.location import is_from_web, member_location
from align_keras.corpus.sources.pair import (
    Part,
    SourceKind,
    SourcePair,
    columns_of,
    pair_of_shard,
)
from align_keras.corpus.sources.source_files import SourceFile
from align_keras.utils.errors import InputError

_IMAGES = ("jpg", "jpeg", "png", "webp", "image")
_ROWS_A_PART = 100_000
_ROWS_A_BATCH = 4096


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the row groups out, up to 100,000 rows a part unless one has more."""
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
        except Exception:  # Reading the part will count it.
            counts = []
        name, total = (file.name,), len(counts)
        for start, stop in _ranges(counts) or [(0, 0)]:
            parts.append(Part(whole.kind, whole.root, name, start, stop, total))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of row groups, in their order; images aren't read."""
    try:
        with open_parquet(part.path) as table, faults_of_arrow():
            if table.num_row_groups != part.total:
                counter.drop("vanished", part.path, "the file has changed")
            else:
                yield from _read_groups(table, part, counter)
    except OSError as error:
        # pyarrow's own errors, which aren't the system's, have no number.
        if error.errno is not None:
            raise
        counter.drop("truncated shard", part.path, str(error))


def _ranges(counts: list[int]) -> list[tuple[int, int]]:
    """Returns (start, stop) of row groups, of so many rows together."""
    ranges, start, rows = [], 0, 0
    for group, count in enumerate(counts):
        if rows and rows + count > _ROWS_A_PART:
            ranges.append((start, group))
            start, rows = group, 0
        rows += count
    return [*ranges, (start, len(counts))] if counts else []


def _read_groups(table: Any, part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    path, names = part.path, table.schema_arrow.names
    stored_in = image_column_of(table.schema_arrow)
    columns_of_parts = columns_of(names)
    if stored_in is None and "url" not in columns_of_parts:
        detail = f"no image and no url among the columns {', '.join(names)}"
        counter.drop("unreadable", path, detail)
        return
    columns = [
        *columns_of_parts.values(),
        *{"status", "error_message"}.intersection(names),
    ]
    for group in range(part.start, part.stop):
        number = -1
        try:
            for number, row in enumerate(_rows(table, group, columns)):
                position = f"{path} row group {group} row {number}"
                image = row.get(columns_of_parts.get("url", "")) or ""
                if stored_in is not None:
                    image = member_location("parquet", (group, number, stored_in), path)
                downloaded = row.get("status") in (None, "success")
                if downloaded and stored_in is None and not is_from_web(image):
                    counter.drop(
                        "missing", position, f"no web address: {image[:200]!r}"
                    )
                elif pair := pair_of_shard(
                    counter, position, row, image, names, columns_of_parts
                ):
                    yield pair
        except OSError as error:
            rows = table.metadata.row_group(group).num_rows - number - 1
            position = f"{path} row group {group}"
            counter.drop("broken record", position, str(error), count=rows)


def _rows(table: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    with faults_of_arrow():
        for batch in table.iter_batches(
            _ROWS_A_BATCH, row_groups=[group], columns=columns
        ):
            yield from batch.to_pylist()


def image_column_of(schema: Any) -> str | None:
    """Names the column of an Arrow schema that holds images' bytes."""
    import pyarrow.types as types

    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if field.name.lower() in _IMAGES and (
            types.is_binary(kind) or types.is_large_binary(kind)
        ):
            return field.name
    return None


PARQUET_FILES = SourceKind(
    suffixes=(".parquet",),
    list_parts=_list_parts,
    read=_read_part,
)
