"""A flat, exact search index that is opened without reading it whole."""

import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import (
    atomic_folder,
    is_special,
    open_regular,
    read_json,
    read_regular,
)

_FORMAT = "align_keras_search_index"
_VERSION = 1
_EMBEDDINGS = "embeddings.npy"
_ENTRIES = "entries.jsonl"
# Bytes that are read at a time for a checksum.
_BLOCK_BYTES = 2**20

# What reading a damaged index comes to.
_DAMAGE = (
    ArithmeticError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
_THUMBNAIL = re.compile(r"thumbnails/\w[\w-]*\.\w+")
_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
}


class SearchIndex:
    """Embeddings with their entries, ranked by exact inner product.

    A flat index, because a quantized one that serves image queries well can serve text
    queries badly, whose scores are lower and closer together. The folder holds
    `index.json` (format, rows, dimension), `embeddings.npy`, `entries.jsonl` (one line
    a row) and, where given, `thumbnails/`.

    Attributes:
        embeddings: float32 array (n, d), memory-mapped after `load`.
        entries: list of n dicts with `id` (str), `captions` (list of str) and,
            where given, `path` (str, the image's file) and `thumbnail` (str,
            a file inside the index folder).
        directory: `pathlib.Path` that it was loaded from, or None.

    Example:

    >>> index = SearchIndex.build(np.eye(3), ids=["a", "b", "c"])
    >>> rows, scores = index.query(np.array([[0.0, 0.8, 0.6]]), k=2)
    >>> [index.entries[row]["id"] for row in rows[0]]
    ['b', 'c']
    """

    def __init__(self, embeddings, entries, directory=None, thumbnails=None):
        self.embeddings = embeddings
        self.entries = entries
        self.directory = None if directory is None else pathlib.Path(directory)
        self._thumbnails = thumbnails

    def __len__(self):
        return len(self.embeddings)

    @property
    def dimension(self) -> int:
        return self.embeddings.shape[1]

    @classmethod
    def build(
        cls,
        embeddings: np.ndarray,
        ids: Sequence[str],
        captions: Sequence | None = None,
        *,
        paths: Sequence[str | os.PathLike] | None = None,
        thumbnails: Sequence[bytes] | None = None,
    ) -> "SearchIndex":
        """Makes an index in memory.

        Args:
            embeddings: real array (n, d), finite, unit length.
            ids: sequence of n different str.
            captions: optional sequence of n, each a str or a sequence of str.
            paths: optional sequence of n paths of the images.
            thumbnails: optional sequence of n bytes, small PNG, JPEG, GIF,
                BMP or WebP files that are stored with the index.

        Raises:
            InputError: for lengths that don't fit, duplicate ids, embeddings
                that aren't finite, and thumbnails of another format.
        """
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        if embeddings.ndim != 2 or 0 in embeddings.shape:
            raise InputError(
                "`embeddings` must be a matrix (rows, dimension) with at least one "
                f"row, received shape {embeddings.shape}; give one row an image."
            )
        wrong = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(wrong):
            raise InputError(
                "`embeddings` must be finite, received NaN or infinity in "
                f"{len(wrong)} rows, the first of them {wrong[0]}; leave those images "
                "out."
            )
        columns = {"ids": ids, "captions": captions, "paths": paths}
        columns["thumbnails"] = thumbnails
        for name, column in columns.items():
            if column is not None and len(column) != len(embeddings):
                raise InputError(
                    f"`{name}` must have one entry a row, received {len(column)} for "
                    f"{len(embeddings)} embeddings; give those of the same images."
                )
        entries: list[dict[str, Any]] = []
        seen: dict[str, int] = {}
        for row, id in enumerate(map(str, ids)):
            first = seen.setdefault(id, row)
            if first != row:
                raise InputError(
                    f"`ids` must be different, received {id!r} in rows {first} and "
                    f"{row}; rename one."
                )
            entry: dict[str, Any] = {"id": id, "captions": []}
            entries.append(entry)
            if captions is not None:
                given = captions[row]
                entry["captions"] = [given] if isinstance(given, str) else list(given)
            if paths is not None:
                entry["path"] = str(paths[row])
            if thumbnails is not None:
                name = f"{row:06d}{_suffix(thumbnails[row], row)}"
                entry["thumbnail"] = f"thumbnails/{name}"
        return cls(embeddings, entries, thumbnails=thumbnails)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the index as a folder, in place of any other, when it is complete."""
        with atomic_folder(directory) as folder:
            np.save(folder / _EMBEDDINGS, np.asarray(self.embeddings))
            with open(folder / _ENTRIES, "w", encoding="utf-8") as file:
                for row, entry in enumerate(self.entries):
                    file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    if "thumbnail" in entry:
                        target = folder / entry["thumbnail"]
                        target.parent.mkdir(exist_ok=True)
                        target.write_bytes(self.thumbnail(row))
            names = (_EMBEDDINGS, _ENTRIES)
            header = {
                "format": _FORMAT,
                "version": _VERSION,
                "rows": len(self),
                "dimension": self.dimension,
                "crc32": {name: _file_checksum(folder / name) for name in names},
            }
            (folder / "index.json").write_text(json.dumps(header) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "SearchIndex":
        """Opens what `save` wrote; the embeddings stay on disk until they are read.

        Raises:
            InputError: when it isn't an index, or an incomplete or damaged one.
        """
        directory = pathlib.Path(directory)
        try:
            header = read_json(directory / "index.json")
        except (OSError, InputError):
            header = {}
        if header.get("format") != _FORMAT:
            raise InputError(
                f"The index folder {directory} must hold an index.json of a search "
                "index, but has none; give the folder `index` of a finished run."
            )
        if header.get("version") != _VERSION:
            raise InputError(
                f"The index {directory} must have version {_VERSION}, received "
                f"{header.get('version')!r:.80}; build it again with this release."
            )
        try:
            shape = (int(header["rows"]), int(header["dimension"]))
            embeddings = _mapped(directory / _EMBEDDINGS)
            with open_regular(directory / _ENTRIES) as file:
                entries = [json.loads(line) for line in file]
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"The index {directory} is damaged ({reason}); build it again."
            ) from error
        if embeddings.shape != shape or len(entries) != shape[0]:
            raise InputError(
                f"The index {directory} must have {shape[0]} rows of dimension "
                f"{shape[1]}, received embeddings {embeddings.shape} and "
                f"{len(entries)} entries; build it again."
            )
        for row, entry in enumerate(entries):
            _check_entry(entry, row, directory)
        _check_files(header, directory)
        return cls(embeddings, entries, directory)

    def thumbnail(self, row: int) -> bytes | None:
        """Bytes of the small image of a row, or None where none was given."""
        if self._thumbnails is not None:
            return self._thumbnails[row]
        if self.directory is None or "thumbnail" not in self.entries[row]:
            return None
        path = self.directory / self.entries[row]["thumbnail"]
        if path.is_symlink() or path.parent.is_symlink():
            raise InputError(
                f"The index {self.directory} must hold its thumbnails itself, received "
                f"a link, {path.name}; build it again."
            )
        try:
            return read_regular(path)
        except OSError as error:
            raise InputError(
                f"The index {self.directory} is damaged ({error}); build it again."
            ) from None

    def query(self, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k rows of greatest inner product for each query.

        Args:
            embeddings: real array (queries, d), finite; unit length makes the
                scores cosines.
            k: int >= 1; beyond the size of the index it means all rows.

        Returns:
            int64 array (queries, min(k, n)) of rows, the best first, and
            float32 array of the same shape of their scores. Equal scores come
            in the order of the rows.

        Raises:
            InputError: for another dimension, queries that aren't finite, and k < 1.
        """
        # Only here, for it brings SciPy along.
        from align_keras.evaluation.nearest_neighbors import nearest_neighbors

        queries = np.ascontiguousarray(embeddings, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(
                f"`embeddings` must have shape (queries, {self.dimension}) for this "
                f"index, received {queries.shape}; index and model must come from the "
                "same run."
            )
        if not np.isfinite(queries).all():
            raise InputError(
                "`embeddings` must be finite, received NaN or infinity; embed the "
                "queries again."
            )
        check_number("`k`", k, 1, math.inf, whole=True, remedy="say how many hits")
        k = min(int(k), len(self))
        rows, scores = nearest_neighbors(queries, self.embeddings, k)
        return rows, scores.astype(np.float32)


def _check_files(header: dict[str, Any], directory: pathlib.Path) -> None:
    """Raises if a file isn't the one that `save` wrote, by its checksum."""
    if "crc32" not in header:  # An index of an earlier release.
        return
    checksums = header["crc32"]
    for name in (_EMBEDDINGS, _ENTRIES):
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        if _file_checksum(directory / name) != expected:
            raise InputError(
                f"The index {directory} is damaged (the checksum of {name} differs); "
                "build it again."
            )


def _file_checksum(path: pathlib.Path) -> int:
    """Returns the CRC-32 of a file's bytes."""
    checksum = 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _mapped(path):
    """The matrix of a .npy file, read as it is needed."""
    if is_special(path):
        raise ValueError(f"{path.name} is no regular file")
    try:
        matrix = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # A broken header leads to whatever it says.
        raise ValueError(f"{path.name}: {error}") from None
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous:
        raise ValueError(f"{path.name} holds {matrix.dtype} of shape {matrix.shape}")
    return matrix


def _check_entry(entry, row, directory):
    """Refuses what `save` didn't write, such as a thumbnail outside of the folder."""
    about = entry if isinstance(entry, dict) else {}
    captions, name = about.get("captions"), about.get("thumbnail", "thumbnails/0.png")
    problem = None
    if not isinstance(about.get("id"), str):
        problem = "no id"
    elif not (
        isinstance(captions, list) and all(isinstance(one, str) for one in captions)
    ):
        problem = "no list of captions"
    elif not isinstance(about.get("path", ""), str):
        problem = "a path that is no text"
    elif not isinstance(name, str) or not _THUMBNAIL.fullmatch(name):
        problem = f"the thumbnail {name!r:.80}, which isn't one of its thumbnails"
    if problem is not None:
        raise InputError(
            f"The index {directory} is damaged (row {row} has {problem}); build it "
            "again."
        )


def _suffix(content, row):
    for magic, suffix in _SUFFIXES.items():
        if content.startswith(magic):
            return suffix
    raise InputError(
        "`thumbnails` must be PNG, JPEG, GIF, BMP or WebP files, received bytes that "
        f"begin {content[:4]!r} in row {row}; encode them so."
    )
