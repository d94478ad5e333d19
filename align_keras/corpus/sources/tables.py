"""Kind `table`: CSV, TSV and JSONL files, by `align_keras.corpus.pair_files`, read as a
whole by each process once. Columns `rule`, `language` and `page_url` count as well.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import TABLE_SUFFIXES, read_pairs
from align_keras.corpus.sources.files import SourceFile, read_range, record_ranges
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
    Part,
    SourcePair,
    columns_of,
    pair_from_columns,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import is_url, join_url

SUFFIXES = TABLE_SUFFIXES
# Most rows of a table have the same columns.
_columns = functools.lru_cache(maxsize=64)(columns_of)


def list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the images of each table out, 10,000 a part."""
    parts = []
    for file in files:
        records, _ = _records(os.path.join(whole.root, file.name), file.modified)
        parts += record_ranges(whole, file.name, len(records))
    return parts


def read(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of a table's images, in their order."""
    for record in read_range(part, counter, _records):
        image = path_location(str(record.image_path))
        for caption, origin in zip(record.captions, record.origins, strict=True):
            yield origin._replace(image=image, caption=caption)


# One: a process reads the parts of a table one after another.
@functools.lru_cache(maxsize=1)
def _records(path, modified):
    """A table's records and what was dropped; `modified` tells it from an older one."""
    counter = DropCounter()
    if not is_url(path):
        records = read_pairs(pathlib.Path(path), origin_of=_origin, counter=counter)
        return list(records), counter
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, os.path.basename(path))
        copy.write_bytes(read_regular(path))
        try:
            records = read_pairs(copy, origin_of=_origin, counter=counter)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), path)) from None
        return [_moved(record, folder, path) for record in records], counter


def _moved(record, folder, path):
    """A record of a copy, whose image lies where its table does."""
    name = os.path.relpath(record.image_path, folder)
    image = join_url(os.path.dirname(path), name)
    return dataclasses.replace(record, image_path=image)


def _origin(row):
    """What a row says of its captions, as `SourcePair` without these."""
    return pair_from_columns("", row, _columns(tuple(row)))._replace(caption="")
