"""Folder of embeddings of one encoder, by the content of the items."""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, locked, read_regular
from align_keras.utils.progress import say

_DIGEST_BYTES = 20
# Bytes of the checksum of a row, a CRC-32 of its digest and its embedding.
_CHECKSUM_BYTES = 4
# Number of rows that are copied at once.
_COPIED_ROWS = 8192

# Image of a data set: a path, an encoded image, or pixels.
Image = str | bytes | np.ndarray
# Item that is embedded: a file, a caption, an encoded image or pixels.
Item = pathlib.Path | str | bytes | np.ndarray


def image_key(image: Image) -> bytes:
    """Returns a digest of an image. Equal images have equal digests."""
    return content_digest(by_content(image))


def by_content(image: Image) -> Item:
    """Converts the path of an image to `pathlib.Path`, because str is a caption."""
    return pathlib.Path(image) if isinstance(image, str) else image


class EmbeddingCache:
    """Folder of embeddings of one encoder, by the content of the items.

    New embeddings are appended first, then their digests. Rows without a digest are
    removed when the folder is opened, so a killed evaluation loses at most one chunk.
    Each row has a checksum, which is checked before the row is used. Damaged rows are
    computed again.

    Args:
        directory: folder.
        encode: function that converts a list of items to a float32 array (items, d), or
            raises `InputError` if an item can't be decoded.
        chunk: number of items between two writes.
        encode_all: function that converts a list of items to their embeddings, with
            rows of NaN for items that `encode` rejects. By default it calls `encode`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        encode: Callable,
        chunk: int = 1024,
        encode_all: Callable | None = None,
    ) -> None:
        self._directory = pathlib.Path(directory)
        self._digests = self._directory / "digests"
        self._embeddings = self._directory / "embeddings"
        self._checksums = self._directory / "checksums"
        self._width_file = self._directory / "width"
        self._encode = encode
        self._chunk = chunk
        self._encode_all = encode_all or functools.partial(encoded, encode)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, int] = {}
        self._width: int | None = None
        self._row_checksums = bytearray()

    def __call__(
        self, items: Iterable[Item], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Returns the embeddings of all items, and computes missing embeddings.

        Args:
            items: items to embed.
            progress: function that is called with the number of finished items.

        Returns:
            Memory-mapped float32 array (n, d). Rows of NaN belong to items that
            `encode` rejected.

        Raises:
            InputError: if `encode` rejects all items, or returns NaN or infinity.
        """
        with self._locked():
            return self._read(self._row_of_each(items, progress))

    def readable(
        self, items: Iterable[Item], progress: Callable[[int], object] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings and positions of the items that `encode` accepts."""
        with self._locked():
            rows = self._row_of_each(items, progress)
            readable = np.flatnonzero(~np.isin(rows, self._refused_rows()))
            return self._read(rows[readable]), readable

    def _row_of_each(
        self, items: Iterable[Item], progress: Callable[[int], object] | None
    ) -> np.ndarray:
        """Returns the stored row of each item, and computes missing rows."""
        self._open()
        digests: list[bytes] = []
        refused: dict[bytes, Item] = {}
        verified: set[bytes] = set()
        remaining = iter(items)
        while chunk := list(itertools.islice(remaining, self._chunk)):
            chunk_digests = [content_digest(item) for item in chunk]
            digests.extend(chunk_digests)
            unverified = [
                digest
                for digest in dict.fromkeys(chunk_digests)
                if digest in self._rows and digest not in verified
            ]
            self._forget_damaged(unverified)
            verified.update(chunk_digests)
            new = {
                digest: item
                for digest, item in zip(chunk_digests, chunk, strict=True)
                if digest not in self._rows and digest not in refused
            }
            if not self._add(new):
                refused |= new
            if progress is not None:
                progress(len(chunk))
        if refused and self._width is None:
            # The model rejects all items, so this call raises the error with the
            # reason.
            self._encode(list(refused.values()))
        self._add(refused)
        return np.array([self._rows[digest] for digest in digests], np.int64)

    def _locked(self) -> contextlib.AbstractContextManager:
        text = "waiting for another process that computes the same embeddings"
        return locked(self._directory / "embeddings", lambda: say(text))

    def _open(self) -> None:
        """Reads the digests, and removes incomplete rows of a killed process."""
        digests = self._digests
        embeddings = self._embeddings
        checksums = self._checksums
        self._rows = {}
        self._width = None
        self._row_checksums = bytearray()
        if not self._width_file.exists():
            return
        digests.touch()
        embeddings.touch()
        checksums.touch()
        self._width = self._read_width()
        if self._width is None:
            say(
                f"The width in {self._directory} is damaged. Its embeddings are "
                "computed again"
            )
            return
        count = min(
            digests.stat().st_size // _DIGEST_BYTES,
            embeddings.stat().st_size // (4 * self._width),
            checksums.stat().st_size // _CHECKSUM_BYTES,
        )
        sizes = {
            embeddings: count * 4 * self._width,
            checksums: count * _CHECKSUM_BYTES,
            digests: count * _DIGEST_BYTES,
        }
        for path, size in sizes.items():
            if path.stat().st_size > size:
                say(f"Removed incomplete rows from {path}. Remaining rows: {count:,}.")
                os.truncate(path, size)
        content = digests.read_bytes()
        row_digests = [
            content[start : start + _DIGEST_BYTES]
            for start in range(0, len(content), _DIGEST_BYTES)
        ]
        # If a digest has several rows, the last row replaces the damaged rows before
        # it.
        self._rows = {digest: row for row, digest in enumerate(row_digests)}
        self._row_checksums = bytearray(checksums.read_bytes())

    def _forget_damaged(self, digests: Iterable[bytes]) -> None:
        """Compares rows with their checksums and removes damaged rows from `_rows`."""
        rows_to_check = {digest: self._rows[digest] for digest in digests}
        if not rows_to_check:
            return
        rows = self._stored()
        checksums = self._row_checksums
        damaged = []
        for digest, row in rows_to_check.items():
            start = row * _CHECKSUM_BYTES
            recorded = checksums[start : start + _CHECKSUM_BYTES]
            if recorded != _checksum(digest, rows[row]):
                damaged.append(digest)
        if damaged:
            say(
                f"{len(damaged):,} of the embeddings in {self._embeddings} are damaged "
                "and are computed again"
            )
        for digest in damaged:
            del self._rows[digest]

    def _read_width(self) -> int | None:
        """Returns the width of a row that `_add` wrote, or None if it is damaged."""
        content = self._width_file.read_bytes()[:99]
        number, _, check = content.partition(b" ")
        return int(number) if check == _check_of(number) else None

    def _add(self, missing: dict[bytes, Item]) -> bool:
        """Appends embeddings. Returns False if the width remains unknown."""
        if not missing:
            return True
        rows = self._encode_all(list(missing.values()))
        if self._width is None:
            if np.isnan(rows).all():
                return False
            # Without a width, the files have no valid rows. They are replaced instead
            # of truncated, because another process may have mapped them.
            self._digests.unlink(missing_ok=True)
            self._embeddings.unlink(missing_ok=True)
            self._checksums.unlink(missing_ok=True)
            self._width = rows.shape[1]
            number = str(self._width).encode()
            with atomic_write(self._width_file, "wb") as file:
                file.write(number + b" " + _check_of(number))
        rows = np.ascontiguousarray(_as_wide(rows, self._width), np.float32)
        checksums = b"".join(map(_checksum, missing, rows))
        count = self._count()
        self._append(self._embeddings, rows.tobytes())
        self._append(self._checksums, checksums)
        self._row_checksums += checksums
        self._append(self._digests, b"".join(missing))
        for row, digest in enumerate(missing, start=count):
            self._rows[digest] = row
        return True

    def _append(self, path: pathlib.Path, content: bytes) -> None:
        with open(path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _count(self) -> int:
        """Returns the number of stored rows, including replaced damaged rows."""
        if not self._digests.exists():
            return 0
        return self._digests.stat().st_size // _DIGEST_BYTES

    def _stored(self) -> np.ndarray:
        """Returns the stored rows."""
        shape = (self._count(), self._width or 0)
        return np.memmap(self._embeddings, np.float32, "r", shape=shape)

    def _refused_rows(self) -> np.ndarray:
        """Returns the stored rows that are NaN."""
        if not self._rows:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.isnan(self._stored()[:, 0]))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Returns stored rows as a memory-mapped array."""
        if not len(rows):
            return np.zeros((0, self._width or 0), np.float32)
        stored = self._stored()
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return stored[rows[0] : rows[0] + len(rows)]
        # The rows are copied in the requested order to an anonymous file, which is
        # deleted with the array. Memory doesn't grow with the number of rows.
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for start in range(0, len(rows), _COPIED_ROWS):
                file.write(stored[rows[start : start + _COPIED_ROWS]].tobytes())
            file.flush()
            shape = (len(rows), self._width or 0)
            return np.memmap(file, np.float32, "r", shape=shape)


def encoded(encode: Callable, items: Sequence[Item]) -> np.ndarray:
    """Embeds items. Items that `encode` rejects have rows of NaN.

    Returns:
        float32 array (n, d). d is 1 if all items are rejected.
    """
    try:
        rows = np.ascontiguousarray(encode(items), np.float32)
    except InputError:
        if len(items) == 1:
            return np.full((1, 1), np.nan, np.float32)
    else:
        if not np.isfinite(rows).all():
            raise InputError(
                "The embeddings of the model must be finite. Received: NaN or infinity "
                f"for {np.count_nonzero(~np.isfinite(rows).all(axis=1))} of "
                f"{len(rows)} items, because the training of the model has diverged."
            )
        return rows
    # One bad item makes the whole batch fail, so the batch is divided until the bad
    # item is alone.
    middle = len(items) // 2
    first_half = encoded(encode, items[:middle])
    second_half = encoded(encode, items[middle:])
    return joined_rows([first_half, second_half])


def joined_rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates arrays of rows. Rejected items may have rows of width 1."""
    width = max(rows.shape[1] for rows in parts)
    return np.concatenate([_as_wide(rows, width) for rows in parts])


def _as_wide(rows: np.ndarray, width: int) -> np.ndarray:
    """Broadcasts rows of width 1, from rejected items, to the width of an embedding."""
    return np.broadcast_to(rows, (len(rows), max(width, rows.shape[1])))


def _checksum(digest: bytes, row: np.ndarray) -> bytes:
    """Returns the checksum of a row and its digest."""
    content = np.ascontiguousarray(row).data
    return zlib.crc32(content, zlib.crc32(digest)).to_bytes(_CHECKSUM_BYTES, "big")


def _check_of(number: bytes) -> bytes:
    """Returns the check value that follows the width in its file."""
    return hashlib.blake2b(number, digest_size=4).hexdigest().encode()


def content_digest(item: Item) -> bytes:
    """Returns a digest of 20 bytes of a file, a caption, an encoded image or pixels."""
    if isinstance(item, pathlib.Path):
        item = read_regular(item)
    if isinstance(item, str):
        kind = "text"
        content = item.encode("utf-8", "surrogatepass")
    elif isinstance(item, bytes):
        kind = "bytes"
        content = item
    else:
        item = np.ascontiguousarray(item)
        kind = f"{item.dtype} {item.shape}"
        content = item.tobytes()
    digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=_DIGEST_BYTES)
    digest.update(content)
    return digest.digest()
