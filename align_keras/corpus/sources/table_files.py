"""Kind `table`: CSV, TSV and JSONL files, by `align_keras.corpus.pair_files`, read as a
whole by each process once. Columns `rule`, `language` and `page_url` count as well.
"""

import functools
import os
from collections.abc import Iterator

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import TABLE_SUFFIXES, PairRecord, read_pairs
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
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

# Most rows of a table have the same columns.
_columns = functools.lru_cache(maxsize=64)(columns_of)


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the images of each table out, 10,000 a part."""
    parts = []
    for file in files:
        records, _ = _records(os.path.join(whole.root, file.name), file.modified)
        parts += record_ranges(whole, file.name, len(records))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of a table's images, in their order."""
    for record in read_range(part, counter, _records):
        image = path_location(str(record.image_path))
        for caption, origin in zip(record.captions, record.origins, strict=True):
            yield origin._replace(image=image, caption=caption)


# One: a process reads the parts of a table one after another.
@functools.lru_cache(maxsize=1)
def _records(path: str, modified: int | str) -> tuple[list[PairRecord], DropCounter]:
    """A table's records and what was dropped; `modified` tells it from an older one."""
    counter = DropCounter()
    records = read_pairs(path, origin_of=_origin, counter=counter)
    return list(records), counter


def _origin(row: dict[str, object]) -> SourcePair:
    """Returns the other columns of a row, as a `SourcePair` without a caption."""
    return pair_from_columns("", row, _columns(tuple(row)))._replace(caption="")


TABLE_FILES = SourceKind(
    suffixes=TABLE_SUFFIXES,
    list_parts=_list_parts,
    read=_read_part,
)
