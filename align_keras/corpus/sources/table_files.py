"""Sources of the kind `table`: CSV, TSV and JSONL files.

`align_keras.corpus.pair_files` reads the tables. Each process reads a whole table, and
reads it only once. The columns `rule`, `language` and `page_url` become fields of the
pairs.
"""

import functools
import os
from collections.abc import Iterator

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import PairRecord, read_pairs
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
    columns_of,
    pair_from_columns,
)
from align_keras.corpus.sources.source_files import (
    SourceFile,
    read_range,
    record_ranges,
)
from align_keras.corpus.text_tables import TABLE_SUFFIXES

# A cache saves time, since most rows of a table have the same columns.
_cached_columns_of = functools.lru_cache(maxsize=64)(columns_of)


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Divides the images of each table into parts of 10,000."""
    parts = []
    is_evaluation = EVALUATION in whole.options
    for file in files:
        path = os.path.join(whole.root, file.name)
        records, _ = _records(path, file.modified, is_evaluation)
        parts += record_ranges(whole, file.name, len(records))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of images, in the order of the table."""
    is_evaluation = EVALUATION in part.options
    load = functools.partial(_records, is_evaluation=is_evaluation)
    for record in read_range(part, counter, load):
        image = path_location(str(record.image_path))
        for caption, origin in zip(record.captions, record.origins, strict=True):
            yield origin._replace(image=image, caption=caption)


# The cache has one entry, since a process reads the parts of a table one after another.
@functools.lru_cache(maxsize=1)
def _records(
    path: str, modified: int | str, is_evaluation: bool = False
) -> tuple[list[PairRecord], DropCounter]:
    """Reads the records of a table, and counts the dropped rows."""
    # `modified` is part of the cache key.
    counter = DropCounter()
    # The captions of evaluation images are not used.
    caption_counter = DropCounter() if is_evaluation else None
    records = read_pairs(
        path, origin_of=_origin, caption_counter=caption_counter, counter=counter
    )
    return list(records), counter


def _origin(row: dict[str, object]) -> SourcePair:
    """Returns a `SourcePair` of the row without its image and caption."""
    columns = _cached_columns_of(tuple(row))
    return pair_from_columns("", row, columns)._replace(caption="")


TABLE_FILES = SourceKind(
    suffixes=TABLE_SUFFIXES,
    list_parts=_list_parts,
    read=_read_part,
)
