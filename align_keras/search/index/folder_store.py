"""Store of an index in a folder: an SQLite database and a file of embeddings."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.search.index.database import SqliteDatabase
from align_keras.search.index.folder_files import (
    DATABASE,
    HEADER,
    LOCK,
    STORED_IMAGES,
    damage_error,
    is_index_file,
    rebuild_remedy,
    refuse_links,
    vectors_name,
)
from align_keras.search.index.image_store import (
    VALUES_PER_LIST,
    ImageStore,
    ModelIdentity,
    RankedRows,
    ScannedRows,
)
from align_keras.search.index.ranking import contains, ranked_blocks, scan_many
from align_keras.search.index.vectors_file import VectorsFile
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, hold, read_json, refuse_url

_FORMAT = "align_keras_image_index"
_VERSION = 2
# Number of images that one statement tests for a condition. It limits the length of the
# result.
CONDITION_IMAGES_PER_BLOCK = 1_000_000
# Number of recent conditions whose matching rows are cached for the next query.
_CACHED_CONDITIONS = 4


class FolderStore(ImageStore):
    """Images and embeddings of an index in a folder."""

    database: SqliteDatabase

    def __init__(self, folder: str | os.PathLike, writable: bool = False) -> None:
        folder = pathlib.Path(folder)
        refuse_links(folder)
        header = _read_header(folder)
        super().__init__(SqliteDatabase(folder, writable), header)
        if self.database.get_meta("header") != _header_text(header):
            raise damage_error(
                folder, f"{HEADER} and {DATABASE} belong to different indexes"
            )
        self.vectors = VectorsFile(self.database, self.dimension)
        self._filtered: dict[tuple, np.ndarray] = {}
        # Maps the vectors, so that this object can still search them after another
        # process has replaced the folder.
        self.vectors.rows()

    # === Folder ===

    @staticmethod
    def create(
        folder: str | os.PathLike, model: ModelIdentity, encoding: str | None = None
    ) -> None:
        """Creates an empty index in the folder unless it already holds an index."""
        with FolderStore.locked(folder):
            if not FolderStore.exists(folder):
                FolderStore.initialize(pathlib.Path(folder), model, encoding)

    @staticmethod
    def initialize(
        folder: pathlib.Path, model: ModelIdentity, encoding: str | None = None
    ) -> None:
        """Writes an empty index to the folder, and replaces an existing index.

        The caller holds the lock of the folder (`locked`).
        """
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": model.reference(),
            "dimension": model.dimension,
        }
        first_values = {
            "rows": 0,
            "vectors": vectors_name(0, encoding or "float32"),
            "header": _header_text(header),
            "norm_error": 0.0,
            "runs": 0,
        }
        SqliteDatabase.create(folder, first_values)
        with atomic_write(folder / HEADER) as file:
            file.write(json.dumps(header, indent=2) + "\n")

    @staticmethod
    def exists(folder: str | os.PathLike) -> bool:
        """Returns True if a folder holds an index.

        Raises:
            OSError: if the folder is a file.
        InputError: if the folder contains other files.
        """
        folder = pathlib.Path(folder)
        if not folder.exists():
            return False
        if (folder / HEADER).exists():
            _read_header(folder)
            return True
        prefixes = (DATABASE, LOCK)
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith(prefixes)]
        if foreign:
            raise InputError(
                "The folder of an index must be new or contain an index. Received: "
                f"{folder}, which contains {foreign[0]!r:.80}. Choose another folder."
            )
        return False

    @staticmethod
    @contextlib.contextmanager
    def locked(folder: str | os.PathLike) -> Iterator[None]:
        """Holds the lock that lets only this process write the index.

        Raises:
            InputError: if another process holds the lock.
        """
        refuse_url(folder, "the index's `folder`")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Taking the lock truncates its file, which must not be a link to another file.
        refuse_links(folder)
        lock = hold(folder / LOCK)
        if lock is None:
            raise InputError(
                "An index must be written by one process at a time. Received: "
                f"{folder}, which another process is writing. Wait until that process "
                "has finished, or choose another index."
            )
        with lock:
            yield

    def writing(self) -> contextlib.AbstractContextManager["FolderStore"]:
        """Opens this index for writing, as `writer` does."""
        return FolderStore.writer(self.folder)

    @staticmethod
    @contextlib.contextmanager
    def writer(folder: str | os.PathLike) -> Iterator["FolderStore"]:
        """Locks an index and opens it for writing.

        If an InputError occurs while the index is still empty and has no source, the
        index is deleted.
        """
        with FolderStore.locked(folder):
            with contextlib.closing(FolderStore(folder, writable=True)) as store:
                try:
                    store.database.begin_run()
                    yield store
                except InputError:
                    if not len(store) and not store.roots():
                        store._delete()
                        raise
                    store._end_run()
                    raise
                except BaseException:
                    store._end_run()
                    raise
                store._end_run()

    def _end_run(self) -> None:
        with contextlib.suppress(OSError, InputError):
            self.vectors.truncate()
        with contextlib.suppress(OSError, InputError):
            self.database.end_run()

    def _delete(self) -> None:
        for path in self.folder.iterdir():
            if is_index_file(path.name) and not path.is_dir():
                path.unlink()
        shutil.rmtree(self.folder / STORED_IMAGES, ignore_errors=True)
        # The folder remains if it contains other files.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        super().close()
        self.vectors.close()

    # === Checks ===

    def check_complete(self) -> None:
        self.vectors.check_complete()

    def check_rows(self, rows: Sequence[int]) -> None:
        self.vectors.check_rows(rows)

    def check(self) -> int:
        self.database.check()
        return self.with_stable_rows(self.vectors.check)

    def refuse_rebuilt(self) -> None:
        self.database.refuse_rebuilt()

    # === Reading ===

    @property
    def vectors_file(self) -> str:
        return self.vectors.name

    @property
    def encoding(self) -> str:
        return self.vectors.encoding

    def vectors_of(self, rows: Sequence[int]) -> np.ndarray:
        return self.vectors.checked_rows(rows)

    def sample(self) -> np.ndarray:
        return self.vectors.sample()

    def scan_many(self, embeddings: np.ndarray) -> list[ScannedRows] | None:
        name, vectors = self.vectors.named_rows()
        if self.vectors.approximate_index(len(vectors)) is not None:
            return None
        scores = scan_many(vectors, embeddings)
        return [ScannedRows(name, row) for row in scores]

    def ranked(
        self,
        embedding: np.ndarray,
        condition: str,
        parameters: Sequence[Any],
        k: int,
        scanned: ScannedRows | None = None,
    ) -> Iterator[RankedRows]:
        name, vectors = self.vectors.named_rows()
        rows = self.rows(condition, parameters) if condition else None
        if rows is not None:
            # Another process may have added rows after `vectors` was mapped.
            rows = rows[: np.searchsorted(rows, len(vectors))]
        tolerance = self.vectors.tolerance(name, vectors)
        scores_of_all = None
        if scanned is not None and rows is None:
            is_current = scanned.vectors_file == name
            if is_current and len(scanned.scores) == len(vectors):
                scores_of_all = scanned.scores
        for best, scores in ranked_blocks(
            self.vectors, vectors, tolerance, embedding, rows, k, scores_of_all
        ):
            embeddings = np.asarray(vectors[best])
            self.vectors.check_norms(embeddings, best, tolerance)
            has_image = self._have_images(best)
            yield RankedRows(
                best[has_image],
                scores[has_image].astype(np.float32),
                embeddings[has_image],
            )

    def rows(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """Returns the sorted rows of the images that fulfill a condition, int64 (n,).

        The rows of the most recent conditions are cached until the index changes.

        Args:
            condition: SQL of the condition.
            parameters: values for the `?` marks in the SQL.
        """
        with self.database.lock:
            # `repr` distinguishes 1 from 1.0, which are equal as dict keys.
            key = self.database.version, condition, repr(parameters)
            matching_rows = self._filtered.pop(key, None)
            if matching_rows is None:
                matching_rows = self._query_rows(condition, parameters)
            self._filtered[key] = matching_rows
            for old in list(self._filtered)[:-_CACHED_CONDITIONS]:
                del self._filtered[old]
        return matching_rows

    def _query_rows(self, condition: str, parameters: Sequence[Any]) -> np.ndarray:
        """Returns the sorted rows of the images that fulfill a condition."""
        # SQLite concatenates the rows to one text, because creating a million Python
        # tuples would take as long as the search itself.
        sql = (
            f"SELECT group_concat(row) FROM images WHERE ({condition}) "
            "AND id BETWEEN ? AND ?"
        )
        last = self.database.fetch_value("SELECT max(id) FROM images") or 0
        parts = []
        for first in range(0, last + 1, CONDITION_IMAGES_PER_BLOCK):
            text = self.database.fetch_value(
                sql, [*parameters, first, first + CONDITION_IMAGES_PER_BLOCK - 1]
            )
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return np.sort(np.concatenate(parts))

    def _have_images(self, rows: np.ndarray) -> np.ndarray:
        """Returns a bool array (n,), False for the rows of removed images."""
        # SQLite concatenates the rows to one text. For each row of a result, Python
        # would give way to other threads, which takes longer than the statement.
        parts = [np.zeros(0, np.int64)]
        for start in range(0, len(rows), VALUES_PER_LIST):
            block = rows[start : start + VALUES_PER_LIST].tolist()
            marks = ",".join("?" * len(block))
            sql = f"SELECT group_concat(row) FROM images WHERE row IN ({marks})"
            text = self.database.fetch_value(sql, block)
            parts.append(np.fromstring(text or "", np.int64, sep=","))
        return contains(np.concatenate(parts), rows)

    # === Writing ===

    def append(self, vectors: np.ndarray) -> Sequence[int]:
        return self.vectors.append(vectors)

    def compact(self) -> None:
        if self.vectors.is_sparse(len(self)):
            self.vectors.rewrite(self.rows("1"))
        self.vectors.update_approximate_index()


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / HEADER
    header = read_json(path) if path.exists() else {}
    if header.get("format") != _FORMAT:
        raise InputError(
            "An index must be a folder that `align-keras index` wrote. Received: "
            f"{folder}, which "
            + ("has no index.json of one" if folder.is_dir() else "doesn't exist")
            + f". Create the index with `align-keras index FOLDER --index {folder}`."
        )
    if header.get("version") != _VERSION:
        raise InputError(
            f"The index {folder} must have version {_VERSION}. Received: version "
            f"{header.get('version')!r:.80}. {rebuild_remedy(folder)}"
        )
    return header


def _header_text(header: dict[str, Any]) -> str:
    """Returns the part of the header that the database also stores."""
    # A difference shows that the files belong to different indexes.
    return json.dumps(
        {"model": header.get("model"), "dimension": header.get("dimension")},
        sort_keys=True,
    )
