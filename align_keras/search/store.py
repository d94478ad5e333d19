"""An index on disk: SQLite for what images are, a file of float32 rows beside it.

Rows are appended and flushed before the transaction that names them, and never change:
after a kill at any moment the next run overwrites a tail that none names, and a search
that runs meanwhile finds what it has opened.
"""

import contextlib
import json
import os
import pathlib
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.search import approximate
from align_keras.search.columns import COLUMNS, fold_case
from align_keras.search.image_store import ImageStore
from align_keras.search.query import Query
from align_keras.search.table_rows import FIRST_TABLE
from align_keras.search.towers import Model
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, read_json, refuse_url

_FORMAT = "align_keras_image_index"
_VERSION = 1
_HEADER, _DATABASE, _LOCK = "index.json", "images.sqlite", "index.lock"
# `file` is the path's bytes; `path` is it for people and for `where`.
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE roots (id INTEGER PRIMARY KEY, file BLOB UNIQUE NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES roots,
    file BLOB UNIQUE NOT NULL,
    row INTEGER UNIQUE NOT NULL,
    mtime_ns INTEGER NOT NULL,
    content BLOB NOT NULL,
    {", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())}
);
CREATE INDEX images_content ON images (content);
CREATE TABLE unreadable (
    file BLOB PRIMARY KEY, root INTEGER, size INTEGER, mtime_ns INTEGER, reason TEXT
) WITHOUT ROWID;
{FIRST_TABLE};
"""
# Rows whose scores tell what is high for a query.
_SAMPLE = 4096
# SQLite takes some thousands of parameters a statement.
_IN_BLOCK = 500
# Images that are asked at once for their rows, and conditions whose rows are kept.
_ROWS, _KEPT_CONDITIONS = 1_000_000, 4
# From this part of rows without an image on, the vectors are written anew.
_HOLES = 0.25
_FEW_ROWS = 1024


class Store(ImageStore):
    """The images of an index in a folder, and their embeddings."""

    def __init__(self, folder: str | os.PathLike, writable: bool = False):
        self.folder = pathlib.Path(folder)
        self.header = _read_header(self.folder)
        # Threads share the connection; of equal text it has one statement for all.
        self._lock = threading.RLock()
        self._connection = _connect(self.folder / _DATABASE, writable)
        self._mapped: tuple[str, np.ndarray] | None = None
        self._approximate: tuple[str, approximate.Approximate | None] | None = None
        self._filtered: dict[tuple, np.ndarray] = {}
        with self._reading():
            self._run("PRAGMA synchronous = NORMAL")
            if self._meta("rows") is None:
                raise damaged(self.folder, "no number of rows")
        if not self._has_table_rows():
            self._upgrade(writable)

    def _has_table_rows(self):
        sql = "SELECT count(*) FROM sqlite_master WHERE name = 'table_rows_0'"
        return bool(self._one(sql))

    def _upgrade(self, writable):
        """Brings an index of an older release to the tables of this one."""
        if writable:
            self.upgrade()
            return
        try:
            with Store.locked(self.folder):
                Store(self.folder, writable=True).close()
        except (InputError, OSError) as error:
            raise InputError(
                f"The index {self.folder} must be brought to this release by a process "
                f"that may write it ({error}). Run `align-keras index --to "
                f"{self.folder}` once, as its owner."
            ) from None

    @staticmethod
    def create(folder: str | os.PathLike, model: Model) -> None:
        """Makes an empty index where there is none, complete with its index.json."""
        with Store.locked(folder):
            if not Store.is_there(folder):
                Store.make(pathlib.Path(folder), model)

    @staticmethod
    def make(folder: pathlib.Path, model: Model) -> None:
        """Makes an empty index, within `locked`, whatever else the folder holds."""
        for name in (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(folder / _DATABASE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            first = {"rows": 0, "vectors": "vectors.0.f32"}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
            connection.commit()
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "dimension": model.dimension,
        }
        with atomic_write(folder / _HEADER) as file:
            file.write(json.dumps(header, indent=2) + "\n")

    @staticmethod
    def is_there(folder: str | os.PathLike) -> bool:
        """Whether a folder holds an index; raises if it holds something else."""
        folder = pathlib.Path(folder)
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise InputError(
                f"an index must be a folder, received the file {folder}; name another."
            )
        if (folder / _HEADER).exists():
            _read_header(folder)
            return True
        known = (_DATABASE, _LOCK)
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith(known)]
        if foreign:
            raise InputError(
                f"an index must be a new folder or an index, received {folder}, which "
                f"holds {foreign[0]!r:.80}; name another folder."
            )
        return False

    @staticmethod
    @contextlib.contextmanager
    def locked(folder: str | os.PathLike) -> Iterator[None]:
        """Lets one process write an index; raises in another."""
        refuse_url(folder, "the index's `folder`")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        held = hold(folder / _LOCK)
        if held is None:
            raise InputError(
                f"an index must be written by one process at a time, and another is "
                f"writing {folder}; let it end, or name another index."
            )
        with held:
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator["Store"]:
        """Opens the index for writing, by this process alone; a mistake before it has
        a source leaves nothing of it.
        """
        with Store.locked(self.folder):
            with contextlib.closing(Store(self.folder, writable=True)) as store:
                try:
                    yield store
                except InputError:
                    if not len(store) and not store.roots():
                        self._discard()
                    raise

    def _discard(self):
        for path in self.folder.iterdir():
            if path.name.startswith((_HEADER, _DATABASE, _LOCK, "vectors.")):
                path.unlink()
        with contextlib.suppress(OSError):  # What else is there stays.
            self.folder.rmdir()

    @contextlib.contextmanager
    def _reading(self):
        """The connection; SQLite's errors say what to do."""
        try:
            with self._lock:
                yield self._connection
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                path = str(self.folder / _DATABASE)
                raise OSError(28, "No space left on device", path) from error
            if "locked" in text or "readonly" in text or "unable to open" in text:
                raise InputError(
                    f"the index {self.folder} can't be read or written ({text}); check "
                    "its permissions, and that no other process holds it."
                ) from error
            raise damaged(self.folder, text) from error

    def close(self) -> None:
        """Closes the database; the vectors stay mapped as long as someone has them."""
        self._connection.close()
        self._mapped = None

    # === Reading ===

    @property
    def version(self) -> tuple:
        """Another after each change, by this or another process."""
        return self._one("PRAGMA data_version"), self._connection.total_changes

    @property
    def vectors_file(self) -> str:
        """The file's name; while it is the same, a row stays what it is."""
        return self._meta("vectors")

    def vectors(self) -> np.ndarray:
        """float32 (rows, d), mapped into memory; rows may have no image any more."""
        name, rows = self.vectors_file, int(self._meta("rows"))
        mapped = self._mapped
        if mapped is None or mapped[0] != name or len(mapped[1]) < rows:
            mapped = self._mapped = name, self._map(name, rows)
        return mapped[1][:rows]

    def vector(self, row: int) -> np.ndarray:
        """One image's embedding, float32 (d,)."""
        return np.array(self.vectors()[row])

    def sample(self) -> np.ndarray:
        """float32 (n, d): some thousand embeddings from all over the index."""
        vectors = self.vectors()
        # Not at random, whose import takes a twentieth of a search.
        return np.array(vectors[:: max(1, len(vectors) // _SAMPLE)])

    def _map(self, name, rows):
        if not rows:
            return np.zeros((0, self.dimension), np.float32)
        path = self.folder / os.path.basename(str(name))
        try:
            return np.memmap(path, np.float32, "r", shape=(rows, self.dimension))
        except (OSError, ValueError) as error:
            raise damaged(self.folder, f"{path.name}: {error}") from None

    def rows(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """int64 (n,): rows of the images that a condition in SQL is true of, sorted.

        Of the conditions asked last they are kept, as long as the index is the same.
        """
        with self._lock:
            key = self.version, condition, repr(parameters)  # 1 and 1.0 differ.
            found = self._filtered.pop(key, None)
            if found is None:
                found = self._rows(condition, parameters)
            self._filtered[key] = found
            for old in list(self._filtered)[:-_KEPT_CONDITIONS]:
                del self._filtered[old]
        return found

    def _rows(self, condition, parameters):
        """A text for many, since a million tuples take as long as the search itself."""
        sql = (
            f"SELECT group_concat(row) FROM images WHERE ({condition}) "
            "AND id BETWEEN ? AND ?"
        )
        last = self._one("SELECT max(id) FROM images") or 0
        parts = []
        for first in range(0, last + 1, _ROWS):
            text = self._one(sql, [*parameters, first, first + _ROWS - 1])
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return np.sort(np.concatenate(parts))

    def _of_rows(self, rows):
        """Images by their rows; rows that have none are left out."""
        found = []
        for start in range(0, len(rows), _IN_BLOCK):
            block = rows[start : start + _IN_BLOCK].tolist()
            found += self._images(f"row IN ({','.join('?' * len(block))})", block)
        return {image["row"]: image for image in found}

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        query: Query,
    ) -> Iterator[list[tuple[float, dict, np.ndarray]]]:
        """Yields lists of (score, image, vector), the best first, as long as asked."""
        vectors = self.vectors()
        rows = self.rows(condition, parameters) if condition else None
        if rows is not None:  # Another process may have added some meanwhile.
            rows = rows[: np.searchsorted(rows, len(vectors))]
        for best, scores in self._blocks(embedding, vectors, rows, query):
            images = self._of_rows(best)
            yield [  # Rows without an image are left out.
                (float(score), images[row], vectors[row])
                for row, score in zip(best, scores, strict=True)
                if row in images
            ]

    def _blocks(self, embedding, vectors, rows, query):
        """Yields rows and their scores from the highest on."""
        size = 4 * query.k + 64
        near = chosen = None
        if rows is None or len(rows) > approximate.LEAST_SHARE * len(vectors):
            near = self._approximate_index(query.approximate, len(vectors))
        if near is not None:
            chosen = near.find(embedding, size, vectors, rows)
        seen = np.zeros(0, np.int64)
        if chosen is not None:
            scores = approximate.scan(vectors, embedding, chosen)
            best = np.lexsort((chosen, -scores))[:size]
            seen = chosen[best]
            yield seen, scores[best]
        # Of too many copies, or rows without images, the rest is scanned.
        scores = approximate.scan(vectors, embedding, rows)
        for block in approximate.by_rank(scores, size):
            best = block if rows is None else rows[block]
            new = ~np.isin(best, seen)
            yield best[new], scores[block[new]]

    def _approximate_index(self, wanted, count):
        """The approximate index, or None where the exact scan is as good."""
        if wanted is False or (wanted is None and count < approximate.LEAST_ROWS):
            return None
        file = self.vectors_file
        if self._approximate is None or self._approximate[0] != file:
            found = approximate.Approximate.open(self.folder, file, self.dimension)
            self._approximate = file, found
        found = self._approximate[1]
        if wanted and found is None:
            raise InputError(
                "`approximate` needs an approximate index, which `align-keras index` "
                f"makes of {approximate.LEAST_ROWS:,} images or more, received "
                f"{count:,}; leave it out."
            )
        return found

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is there, or nothing of it."""
        with self._reading():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes rows behind the last, within a transaction; returns them, on disk."""
        first = int(self._meta("rows"))
        path = self.folder / self._meta("vectors")
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(first * self.dimension * 4)
            file.truncate()
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._set("rows", first + len(vectors))
        return range(first, first + len(vectors))

    def compact(self) -> None:
        """Writes the vectors anew where many rows have no image any more, then brings
        the approximate index up to date. New vectors come by one transaction.
        """
        rows, images = int(self._meta("rows")), len(self)
        if rows >= _FEW_ROWS and rows - images >= _HOLES * rows:
            self._write_anew()
        approximate.bring_up_to_date(self.folder, self.vectors_file, self.vectors())

    def _write_anew(self):
        old = self._meta("vectors")
        number = int(re.sub(r"\D", "", old.removesuffix(".f32")) or 0) + 1
        new = f"vectors.{number}.f32"
        kept = self.rows("1")
        vectors = self.vectors()
        with open(self.folder / new, "wb") as file:
            for start in range(0, len(kept), 65_536):
                file.write(vectors[kept[start : start + 65_536]].tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.transaction():
            # By way of negative numbers, for no two rows may be equal in between.
            self._run(
                "UPDATE images SET row = -1 - n FROM (SELECT id AS i, "
                "row_number() OVER (ORDER BY row) - 1 AS n FROM images) WHERE id = i"
            )
            self._run("UPDATE images SET row = -1 - row")
            self._set("vectors", new)
            self._set("rows", len(kept))
        (self.folder / old).unlink(missing_ok=True)


def damaged(folder: pathlib.Path, reason: str) -> InputError:
    """The error of an index that can't be read, with what makes it anew."""
    return InputError(
        f"the index {folder} is damaged ({' '.join(reason.split())[:160]}); remove "
        f"that folder, then build it again by `align-keras index FOLDER --to {folder}`."
    )


def _read_header(folder):
    try:
        header = read_json(folder / _HEADER)
    except InputError as error:
        raise damaged(folder, str(error)) from None
    if header.get("format") != _FORMAT:
        raise InputError(
            f"an index must be a folder that `align-keras index` wrote, received "
            f"{folder}, which "
            + ("holds no index.json of one" if folder.is_dir() else "doesn't exist")
            + f"; make it by `align-keras index FOLDER --to {folder}`."
        )
    if header.get("version") != _VERSION:
        raise InputError(
            f"the index {folder} must have version {_VERSION}, received "
            f"{header.get('version')!r:.80}; remove it and build it again."
        )
    model = header.get("model")
    if not isinstance(model, dict) or not isinstance(header.get("dimension"), int):
        raise damaged(folder, "index.json names no model")
    return header


def _connect(path, writable):
    """Opens the database; a folder that can't be written to is read as it is."""
    if not path.is_file():
        raise damaged(path.parent, f"no {path.name}")
    uri = path.absolute().as_uri()
    mode = "rw" if writable else "ro"
    if not writable and not os.access(path.parent, os.W_OK):
        mode += "&immutable=1"
    connection = sqlite3.connect(
        f"{uri}?mode={mode}",
        uri=True,
        timeout=20,
        check_same_thread=False,
        isolation_level=None,
    )
    connection.create_function("fold_case", 1, fold_case, deterministic=True)
    return connection
