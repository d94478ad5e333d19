"""Files that are read as a whole: their records are listed once, then shared out."""

import os

from align_keras.corpus.sources.part import Part
from align_keras.corpus.sources.source_files import count_os_error, where
from align_keras.utils.errors import InputError

RECORDS_A_PART = 10_000


def record_ranges(kind, root, name, total, options=()):
    """Shares the records of a file out.

    Args:
        kind: str.
        root: str, the file's folder.
        name: str, the file.
        total: int, its number of records.
        options: tuple of `(name, value)`.

    Returns:
        list of `Part` of at most 10,000 records, at least one: what was dropped
        while listing is counted by the first.

    Example:

    >>> parts = record_ranges("table", "/data", "a.csv", 25_000)
    >>> [(part.start, part.stop) for part in parts]
    [(0, 10000), (10000, 20000), (20000, 25000)]
    """
    starts = range(0, max(total, 1), RECORDS_A_PART)
    return [
        Part(kind, root, (name,), own, min(own + RECORDS_A_PART, total), total, options)
        for own in starts
    ]


def read_range(part, counter, load):
    """Yields the records of a part of a file, and counts what the file's list dropped.

    Args:
        part: `Part`, as `record_ranges` makes it.
        counter: `DropCounter`; a file that has gone or changed is `"vanished"`.
        load: callable, (path, time of change) → (list of records, `DropCounter`).
    """
    path = os.path.join(part.root, part.files[0])
    try:
        records, dropped = load(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        count_os_error(counter, path, error)
        return
    except InputError as error:
        counter.drop("vanished", where(path), f"the file has changed: {error}")
        return
    if len(records) != part.total:
        counter.drop("vanished", where(path), "the file has changed")
        return
    if part.start == 0:
        counter.add(dropped)
    yield from records[part.start : part.stop]
