"""Subsets of shards by the uids of their records, as in DataComp.

A subset file is a sorted NumPy array of 128-bit uids. DataComp's `resharder.py` reads
the same files (Gadre et al. 2023, "DataComp: In search of the next generation of
multimodal datasets").
"""

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.pair import UID_COLUMN, Part
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.remote import absolute_path

# A uid as two unsigned numbers. The first has the upper 64 bits.
UID_TYPE = np.dtype("u8,u8")
# Reason under which records are counted that a subset leaves out.
NOT_IN_SUBSET = "not in the subset"
NO_UID = "no uid"
_UID = re.compile("[0-9a-fA-F]{1,32}")
# Names of the options of a source with the path and the digest of its subset file.
_PATH_OPTION = "subset"
_DIGEST_OPTION = "subset_digest"
# Rows that are checked at once, 16 MB.
ROWS_PER_CHUNK = 1_000_000


class UidSubset:
    """Set of uids in a file, which is mapped into memory and searched there.

    Args:
        path: str or path of a `.npy` file with a sorted array (n,) of `UID_TYPE`.

    Raises:
        InputError: if the file has another type or shape.
        OSError: if the file cannot be read.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "subset.npy")
    >>> write_uid_subset(path, ["00f1", "a" * 32])
    2
    >>> subset = UidSubset(path)
    >>> "f1" in subset, "f2" in subset, len(subset)
    (True, False, 2)
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.fspath(path)
        try:
            rows = np.lib.format.open_memmap(self.path, mode="r")
        except ValueError:  # The file is damaged, or the array is one of objects.
            raise self._wrong("not a complete array") from None
        if rows.dtype != UID_TYPE or rows.ndim != 1:
            raise self._wrong(f"dtype {rows.dtype} and shape {rows.shape}")
        self._rows = rows

    def _wrong(self, problem: str) -> InputError:
        return InputError(
            "A subset must be a local .npy file of sorted uids with the dtype 'u8,u8' "
            f"and the shape (n,). Received: {self.path} ({problem}). Write the file "
            "with align_keras.corpus.write_uid_subset."
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, uid: str) -> bool:
        """Returns True if the subset has a uid of up to 32 hexadecimal digits."""
        row = np.array(_halves(uid), UID_TYPE)
        position = int(np.searchsorted(self._rows, row))
        return position < len(self._rows) and bool(self._rows[position] == row)

    def check(self) -> str:
        """Reads the whole file once. Returns a digest of its content.

        Raises:
            InputError: if the uids are not sorted.
        """
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self._rows), ROWS_PER_CHUNK):
            # Chunks share a row, so that all neighbors are compared.
            chunk = self._rows[start : start + ROWS_PER_CHUNK + 1]
            upper, lower = np.ascontiguousarray(chunk["f0"]), chunk["f1"]
            is_sorted = (upper[:-1] < upper[1:]) | (
                (upper[:-1] == upper[1:]) & (lower[:-1] <= lower[1:])
            )
            if not is_sorted.all():
                row = start + int(np.argmin(is_sorted)) + 1
                raise self._wrong(f"row {row:,} is smaller than the row before it")
            digest.update(np.ascontiguousarray(chunk[:ROWS_PER_CHUNK]).data)
        return digest.hexdigest()


def _halves(uid: str) -> tuple[int, int]:
    """Returns the upper and the lower 64 bits of a uid."""
    return divmod(int(uid, 16), 2**64)


def write_uid_subset(path: str | os.PathLike, uids: Iterable[str]) -> int:
    """Writes a subset file, such as for the source `webdataset:SHARDS?subset=FILE.npy`.

    Args:
        path: str or path of the `.npy` file.
        uids: up to 32 hexadecimal digits each, in any order. Repeated uids are written
            once.

    Returns:
        Number of written uids.

    Raises:
        ValueError: if a uid is not hexadecimal.
        OverflowError: if a uid has more than 32 digits.

    References:
        Gadre et al. 2023 (DataComp), arXiv:2304.14108.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "subset.npy")
    >>> write_uid_subset(path, ["b" * 32, "a" * 32, "b" * 32])
    2
    """
    rows = np.unique(np.fromiter(map(_halves, uids), UID_TYPE))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, rows)
    return len(rows)


def subset_options(path: str) -> tuple[tuple[str, str], ...]:
    """Returns the options of a source for a subset file, after a check of the file.

    The digest of the file is an option, so that the fingerprint of the source depends
    on the content of the file.
    """
    path = absolute_path(path)
    return (_PATH_OPTION, path), (_DIGEST_OPTION, UidSubset(path).check())


class UidFilter:
    """Filter of the records of a part by the subset of its source.

    Args:
        part: `Part`. Without a subset, all records are kept.
        counter: `DropCounter` for the other records.
    """

    def __init__(self, part: Part, counter: DropCounter) -> None:
        path = dict(part.options).get(_PATH_OPTION)
        self.subset = None if path is None else UidSubset(path)
        self._counter = counter
        self._uid_count = 0
        self._first_without_uid: str | None = None

    def keeps(self, row: dict[str, Any], position: str) -> bool:
        """Returns True if a record is in the subset. Counts other records.

        Args:
            row: column → value.
            position: position of the record.
        """
        if self.subset is None:
            return True
        uid = row.get(UID_COLUMN)
        if not isinstance(uid, str) or not _UID.fullmatch(uid):
            detail = "" if uid is None else f"{uid!r:.80}"
            self._counter.drop(NO_UID, position, detail)
            self._first_without_uid = self._first_without_uid or position
            return False
        self._uid_count += 1
        if uid in self.subset:
            return True
        self._counter.filter(NOT_IN_SUBSET, position, uid)
        return False

    def finish(self) -> None:
        """Raises InputError if the part has records but no uid."""
        if self._first_without_uid is not None and not self._uid_count:
            raise InputError(
                "The records of a source with ?subset=FILE must have uids of up to 32 "
                f"hexadecimal digits in {UID_COLUMN!r}. Received: "
                f"{self._first_without_uid} without a uid."
            )
