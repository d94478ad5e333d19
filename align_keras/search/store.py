"""An index on disk: SQLite for what images are, a file of float32 rows beside it.

SQLite is the truth. Rows of vectors are appended and flushed before the transaction
that names them, and never change afterwards, so that a kill at any moment leaves what
the last transaction said: a tail of rows that none names is overwritten by the next
run, and a search that runs meanwhile finds what it has opened.
"""

import contextlib
import json
import os
import pathlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, read_json, refuse_url

if TYPE_CHECKING:
    from align_keras.search.image_files import FoundFile

_FORMAT = "align_keras_image_index"
_VERSION = 1
_HEADER, _DATABASE, _LOCK = "index.json", "images.sqlite", "index.lock"
# What `where` may name of every image, and what SQLite makes of it.
COLUMNS = {
    "path": "TEXT",
    "folder": "TEXT",
    "name": "TEXT",
    "size": "INTEGER",
    "date": "TEXT",
    "year": "INTEGER",
    "width": "INTEGER",
    "height": "INTEGER",
    "camera": "TEXT",
    "captions": "TEXT",
}
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
"""
# SQLite takes some thousands of parameters a statement.
_IN_BLOCK = 500
# From this part of rows without an image on, the vectors are written anew.
_HOLES = 0.25
_FEW_ROWS = 1024


class ReadsImages:
    """What both kinds of stores answer by the same SQL, through their `_all`."""

    # Where a parameter goes.
    MARK = "?"
    _all: Callable[..., list]

    def roots(self) -> dict[bytes, int]:
        """Folders and tables that were indexed → their ids."""
        return dict(self._all("SELECT file, id FROM roots ORDER BY id"))

    def known(self) -> dict[bytes, tuple[int, int, int, int]]:
        """Path of every image → (id, root, size, mtime_ns)."""
        sql = "SELECT file, id, root, size, mtime_ns FROM images"
        return {file: tuple(rest) for file, *rest in self._all(sql)}

    def unreadable(self) -> dict[bytes, tuple[int, int, int, str]]:
        """Path of what couldn't be read → (root, size, mtime_ns, reason)."""
        sql = "SELECT file, root, size, mtime_ns, reason FROM unreadable"
        return {file: tuple(rest) for file, *rest in self._all(sql)}

    def with_content(self, content: bytes) -> list[int]:
        """Returns the ids of images whose files have these bytes."""
        sql = f"SELECT id FROM images WHERE content = {self.MARK} ORDER BY id"
        return [id for (id,) in self._all(sql, [content])]


class Store(ReadsImages):
    """The images of an index and their embeddings.

    Attributes:
        folder: `pathlib.Path`.
        header: dict of index.json: `model` (`name`, `fingerprint`) and `dimension`.
        dimension: int, width of the embeddings.
    """

    def __init__(self, folder: str | os.PathLike, writable: bool = False):
        self.folder = pathlib.Path(folder)
        self.header = _read_header(self.folder)
        self.dimension = int(self.header["dimension"])
        # Threads share the connection; of equal text it has one statement for all.
        self._lock = threading.RLock()
        self._connection = _connect(self.folder / _DATABASE, writable)
        self._mapped: tuple[str, np.ndarray] | None = None
        with self.told():
            self._connection.execute("PRAGMA synchronous = NORMAL")
            if self._meta("rows") is None:
                raise damaged(self.folder, "no number of rows")

    @staticmethod
    def create(
        folder: str | os.PathLike, model_name: str, fingerprint: str, dimension: int
    ) -> None:
        """Makes an empty index, complete when index.json is there."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(folder / _DATABASE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            first = {"rows": 0, "vectors": "vectors.0.f32", "columns": "{}"}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
            connection.commit()
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": {"name": model_name, "fingerprint": fingerprint},
            "dimension": dimension,
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
            raise InputError(f"an index must be a folder, received the file {folder}.")
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
    def told(self) -> Iterator[None]:
        """Has SQLite's errors say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                raise OSError(28, "No space left on device", self._path()) from error
            if "locked" in text or "readonly" in text or "unable to open" in text:
                raise InputError(
                    f"the index {self.folder} can't be read or written ({text}); check "
                    "its permissions, and that no other process holds it."
                ) from error
            raise damaged(self.folder, text) from error

    def _path(self):
        return str(self.folder / _DATABASE)

    def close(self) -> None:
        """Closes the database; the vectors stay mapped as long as someone has them."""
        self._connection.close()
        self._mapped = None

    # === Reading ===

    def __len__(self) -> int:
        return self._one("SELECT count(*) FROM images")

    @property
    def version(self) -> tuple:
        """Another after each change, by this or another process."""
        return self._one("PRAGMA data_version"), self._connection.total_changes

    @property
    def columns(self) -> dict[str, str]:
        """What `where` may name → SQLite's type; columns of tables are among them."""
        return COLUMNS | json.loads(self._meta("columns"))

    @property
    def vectors_file(self) -> str:
        """The file's name; while it is the same, a row stays what it is."""
        return self._meta("vectors")

    def vectors(self) -> np.ndarray:
        """float32 (rows, d), mapped into memory; rows may have no image any more."""
        name, rows = self.vectors_file, int(self._meta("rows"))
        if (
            self._mapped is None
            or self._mapped[0] != name
            or len(self._mapped[1]) < rows
        ):
            self._mapped = name, self._map(name, rows)
        return self._mapped[1][:rows]

    def vector(self, row: int) -> np.ndarray:
        """One image's embedding, float32 (d,)."""
        return np.array(self.vectors()[row])

    def _map(self, name, rows):
        if not rows:
            return np.zeros((0, self.dimension), np.float32)
        path = self.folder / os.path.basename(str(name))
        try:
            return np.memmap(path, np.float32, "r", shape=(rows, self.dimension))
        except (OSError, ValueError) as error:
            raise damaged(self.folder, f"{path.name}: {error}") from None

    def rows(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """int64 (n,): rows of the images that a condition in SQL is true of, sorted."""
        sql = f"SELECT row FROM images WHERE {condition} ORDER BY row"
        found = self._all(sql, parameters)
        return np.fromiter((row for (row,) in found), np.int64, len(found))

    def latest(
        self, condition: str, parameters: Sequence[Any], count: int
    ) -> list[dict]:
        """Returns those images indexed last that a condition is true of."""
        clauses = f"{condition} ORDER BY id DESC LIMIT ?"
        return list(self._images_where(clauses, [*parameters, count]))

    def of_rows(self, rows: Iterable[int]) -> dict[int, dict]:
        """Returns images by their rows; rows that have none are left out."""
        return {image["row"]: image for image in self._images("row", rows)}

    def image(self, id: int) -> dict:
        """Returns one image's columns by its id, with `file`, `row` and `content`.

        Raises:
            InputError: if there is no such image.
        """
        for image in self._images("id", [id]):
            return image
        raise InputError(f"id must be that of an image of the index, received {id!r}.")

    def _images(self, key, values):
        values = [int(value) for value in values]
        for start in range(0, len(values), _IN_BLOCK):
            block = values[start : start + _IN_BLOCK]
            marks = ",".join("?" * len(block))
            yield from self._images_where(f"{key} IN ({marks})", block)

    def _images_where(self, clauses, parameters):
        with self._lock, self.told():
            cursor = self._connection.execute(
                f"SELECT * FROM images WHERE {clauses}", parameters
            )
            names = [column[0] for column in cursor.description]
            found = cursor.fetchall()
        return (dict(zip(names, values, strict=True)) for values in found)

    def _meta(self, key):
        return self._one("SELECT value FROM meta WHERE key = ?", [key])

    def _one(self, sql, parameters=()):
        (row,) = self._all(sql, parameters) or [(None,)]
        return row[0]

    def _all(self, sql, parameters=()):
        with self._lock, self.told():
            return self._connection.execute(sql, parameters).fetchall()

    # === Writing ===

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is there, or nothing of it."""
        with self._lock, self.told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def claim(self, files: "Sequence[FoundFile]") -> set[bytes]:
        """Returns the paths that this process shall embed: all, for it has the lock."""
        return {found.file for found in files}

    def release(self, files: Iterable[bytes]) -> None:
        """Ends claims, when what was embedded is written."""

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        """Writes rows behind the last, within a transaction; returns them.

        They are on disk when this returns, and named when the transaction ends.
        """
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

    def put(self, image: dict) -> None:
        """Adds an image, or replaces that of the same `id`, within a transaction."""
        names = ", ".join(f'"{name}"' for name in image)
        marks = ", ".join("?" * len(image))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in image)
        self._connection.execute(
            f"INSERT INTO images ({names}) VALUES ({marks}) "
            f"ON CONFLICT (id) DO UPDATE SET {changes}",
            list(image.values()),
        )

    def update(self, id: int, changes: dict) -> None:
        """Changes columns of an image, within a transaction."""
        changed = ", ".join(f'"{name}" = ?' for name in changes)
        self._connection.execute(
            f"UPDATE images SET {changed} WHERE id = ?", [*changes.values(), id]
        )

    def add_root(self, file: bytes) -> int:
        """Returns the id of a folder or table, which is added if need be."""
        self._connection.execute(
            "INSERT OR IGNORE INTO roots (file) VALUES (?)", [file]
        )
        return self._one("SELECT id FROM roots WHERE file = ?", [file])

    def drop_root(self, file: bytes) -> None:
        """Forgets a folder or table, whose images must be gone."""
        self._connection.execute("DELETE FROM roots WHERE file = ?", [file])

    def drop(self, ids: Iterable[int]) -> None:
        """Removes images; their rows stay until `compact`."""
        self._connection.executemany(
            "DELETE FROM images WHERE id = ?", [(id,) for id in ids]
        )

    def note_unreadable(
        self, file: bytes, root: int, size: int, mtime_ns: int, reason: str
    ) -> None:
        """Keeps why a file couldn't be read, so that it isn't read again."""
        self._connection.execute(
            "INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?, ?, ?)",
            [file, root, size, mtime_ns, reason],
        )

    def forget_unreadable(self, files: Iterable[bytes]) -> None:
        """Drops those notes."""
        self._connection.executemany(
            "DELETE FROM unreadable WHERE file = ?", [(file,) for file in files]
        )

    def add_columns(self, rows: Sequence[dict]) -> dict[str, str]:
        """Makes room for the columns of a table; returns what each is called here.

        Names become lower case, and other characters than letters, digits and "_" that;
        a name that images have anyway gets a "_" behind it.
        """
        here = json.loads(self._meta("columns"))
        called = plain_names(rows)
        for plain in called.values():
            if plain not in here:
                self._connection.execute(f'ALTER TABLE images ADD "{plain}" NUMERIC')
                here[plain] = "NUMERIC"
        self._set("columns", json.dumps(here))
        return called

    def _set(self, key, value):
        self._connection.execute(
            "UPDATE meta SET value = ? WHERE key = ?", [value, key]
        )

    def compact(self) -> bool:
        """Writes the vectors anew where many rows have no image any more.

        The new file takes the old one's place in one transaction.
        """
        rows, images = int(self._meta("rows")), len(self)
        if rows < _FEW_ROWS or rows - images < _HOLES * rows:
            return False
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
            self._connection.execute(
                "UPDATE images SET row = -1 - n FROM (SELECT id AS i, "
                "row_number() OVER (ORDER BY row) - 1 AS n FROM images) WHERE id = i"
            )
            self._connection.execute("UPDATE images SET row = -1 - row")
            self._set("vectors", new)
            self._set("rows", len(kept))
        (self.folder / old).unlink(missing_ok=True)
        return True


def plain_names(rows: Iterable[dict]) -> dict[str, str]:
    """The names of a table's columns → what they are called in the index."""
    called = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        plain = re.sub(r"\W+", "_", name.lower()).strip("_") or "column"
        if plain in COLUMNS or plain in ("id", "root", "file", "row", "content"):
            plain += "_"
        called[name] = plain
    return called


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
    return sqlite3.connect(
        f"{uri}?mode={mode}",
        uri=True,
        timeout=20,
        check_same_thread=False,
        isolation_level=None,
    )
