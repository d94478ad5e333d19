"""Update of an index with the files of its sources.

An update has four steps. It scans the sources and compares their files with the index,
embeds new and changed files, writes them in regular transactions, and finally removes
the images of deleted files.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from align_keras.corpus.drop_counter import printable
from align_keras.corpus.pair_files import PairRecord
from align_keras.embedders.embedder import Embedder
from align_keras.search.index.columns import names_in_conditions, plain_name
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.schema import TableRow, UnreadableFile
from align_keras.search.readers.image_files import CHANGING
from align_keras.search.update.changes import (
    CLAIMED_ELSEWHERE,
    REMOVAL_REASONS,
    Changes,
    FileToEmbed,
)
from align_keras.search.update.file_embedding import (
    blocks_from_cluster,
    embedded_chunks,
)
from align_keras.search.update.source_scan import (
    SourceScan,
    path_columns,
    resolve_source,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.tasks import LOCAL, is_cluster

# Maximum number of images and seconds between two commits. A killed process loses at
# most this work.
IMAGES_PER_COMMIT = 512
_COMMIT_SECONDS = 5.0


def update(
    store: ImageStore,
    model: Embedder,
    sources: Sequence[str | os.PathLike],
    engine: str = LOCAL,
) -> Changes:
    """Updates an index with sources, by default with the sources of the index.

    Args:
        store: store of the index, open for writing.
        model: model of the index.
        sources: folders and tables.
        engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`.
    """
    scan = SourceScan(store)
    scan.run(_add_sources(store, sources))
    writer = _FileWriter(store, scan)
    if scan.files and is_cluster(engine):
        for block in blocks_from_cluster(store, model, scan.files, engine):
            writer.commit(block)
    elif scan.files:
        chunks = embedded_chunks(store, model, scan.files)
        _commit_regularly(chunks, writer, len(scan.files))
    _finish(store, scan)
    return scan.changes


def _add_sources(
    store: ImageStore, sources: Sequence[str | os.PathLike]
) -> dict[bytes, int]:
    """Adds new sources to the index. Returns a dict from source path to id."""
    if not sources:
        roots = store.sources()
        if not roots:
            raise InputError(
                "`sources` must contain a folder or a table for a new index. "
                "Received: no source. Add a folder or a table."
            )
        return roots
    files = [resolve_source(source) for source in sources]
    with store.database.transaction():
        return {file: store.add_root(file) for file in files}


def _commit_regularly(
    chunks: Iterator[list[FileToEmbed]], writer: "_FileWriter", count: int
) -> None:
    """Writes embedded files, `count` in total, and commits regularly."""
    done: list[FileToEmbed] = []
    committed = time.monotonic()
    with progress_bar("indexing", "images", count) as bar:
        try:
            for chunk in chunks:
                done += chunk
                bar.advance(len(chunk))
                is_due = time.monotonic() - committed > _COMMIT_SECONDS
                if len(done) >= IMAGES_PER_COMMIT or is_due:
                    # `done` is emptied before the commit, so that the handler below
                    # does not try to write the same files again if it fails.
                    batch, done = done, []
                    writer.commit(batch)
                    committed = time.monotonic()
        except BaseException:
            # Saves the completed files after an interrupt or a network error.
            writer.commit(done)
            raise
        writer.commit(done)


class _FileWriter:
    """Writer of embedded files, which updates the result of the scan."""

    def __init__(self, store: ImageStore, scan: SourceScan) -> None:
        self._store = store
        self._scan = scan

    def commit(self, files: list[FileToEmbed]) -> None:
        """Writes the vectors and the images of files in one transaction."""
        if not files:
            return
        with self._store.database.transaction():
            vectors = [self._vector_to_append(file) for file in files]
            new = [vector for vector in vectors if vector is not None]
            rows = iter(self._store.append(np.stack(new)) if new else ())
            for file, vector in zip(files, vectors, strict=True):
                self._write_file(file, None if vector is None else next(rows))
        self._store.release(file.image_file.file for file in files)

    def _vector_to_append(self, file: FileToEmbed) -> np.ndarray | None:
        """Returns the vector to append for a file, or None if it needs no vector."""
        # A file without a vector has the same content as an image of the index. It is
        # either a moved file, whose image is updated, or a copy, which gets the vector
        # of that image.
        if file.reason is not None or file.vector is not None:
            return file.vector
        # The search for the content is repeated, because a file earlier in this batch
        # may have changed the image that had it.
        same = self._store.ids_with_content(file.columns["content"])
        if not same:
            file.reason = CHANGING
        if not same or file.id in same:
            return None
        moved = next((id for id in same if id in self._scan.deleted), None)
        if moved is None:
            moved = next((id for id in same if id in self._scan.unreachable), None)
        if moved is not None and file.id is None:
            if self._scan.deleted.pop(moved, None) is None:
                self._scan.changes.unchanged -= self._scan.unreachable.pop(moved)
            file.id, file.renamed = moved, True
            return None
        image = self._store.image(same[0])
        names = ("width", "height", "date", "camera")
        file.columns |= {name: image[name] for name in names}
        return self._store.vector(image["row"])

    def _write_file(self, file: FileToEmbed, row: int | None) -> None:
        """Writes the image of a file, or records why it cannot be embedded."""
        image_file = file.image_file
        if file.reason is not None:
            self._record_unreadable(file, file.reason)
            return
        columns = {
            "root": file.root,
            "file": image_file.file,
            "size": image_file.size,
            "mtime_ns": image_file.mtime_ns,
            **path_columns(image_file.file, file.root_file),
            **file.columns,
        }
        if "date" in columns:
            columns["year"] = columns["date"] and int(columns["date"][:4])
        self._store.remove_unreadable([image_file.file])
        if row is not None:
            columns["row"] = row
        if file.id is None:
            self._scan.changes.added += 1
            self._store.add_image(columns)
            return
        if row is not None:
            self._scan.changes.changed += 1
        elif file.renamed:
            self._scan.changes.renamed += 1
        else:  # The content is unchanged, and only the modification time has changed.
            self._scan.changes.unchanged += 1
        self._store.update_image(file.id, columns)

    def _record_unreadable(self, file: FileToEmbed, reason: str) -> None:
        """Records an unreadable file, and removes its image if necessary."""
        image_file = file.image_file
        size, mtime_ns = image_file.size, image_file.mtime_ns
        record = UnreadableFile(file.root, size, mtime_ns, reason, file.detail)
        self._scan.leave_out(image_file.file, record)
        if reason == CLAIMED_ELSEWHERE:
            return
        self._store.record_unreadable(image_file.file, record)
        if reason in REMOVAL_REASONS and file.id is not None:
            self._store.remove_images([file.id])
            self._scan.changes.removed += 1


def _finish(store: ImageStore, scan: SourceScan) -> None:
    """Removes deleted images, and writes the captions and columns of tables."""
    readable = [
        file
        for file, record in scan.stored_unreadable.items()
        if record.root in scan.scanned_roots and file not in scan.left_out
    ]
    # Folders and files that were not opened have no record yet.
    unopened = {
        file: record
        for file, record in scan.left_out.items()
        if not record.mtime_ns and scan.stored_unreadable.get(file) != record
    }
    scan.changes.removed += len(scan.deleted)
    if scan.deleted or readable or unopened or scan.table_records:
        with store.database.transaction():
            store.remove_images(scan.deleted)
            store.remove_unreadable(readable)
            for file, record in unopened.items():
                store.record_unreadable(file, record)
            _write_table_rows(store, scan)
    store.compact()


def _write_table_rows(store: ImageStore, scan: SourceScan) -> None:
    """Writes the captions and the other columns of tables."""
    tables = {
        root: records
        for root, records in scan.table_records.items()
        if root in scan.scanned_roots
    }
    if not tables:
        return
    ids = {file: stored.id for file, stored in store.stored_files().items()}
    for root, records in tables.items():
        origins = (row for record in records.values() for row in record.origins)
        names = names_in_conditions(
            dict.fromkeys(name for row in origins for name in row)
        )
        rows = {
            ids[file]: _table_rows(record, names)
            for file, record in records.items()
            if file in ids
        }
        store.tables.replace(root, rows)
        for name, condition_name in names.items():
            if condition_name != plain_name(name):
                say(
                    f"column {printable(name)!r} of a table has the name "
                    f"{condition_name} in --where"
                )


def _table_rows(record: PairRecord, names: Mapping[str, str]) -> list[TableRow]:
    """Returns the rows of a table that belong to an image, each with its captions."""
    rows: dict[int, TableRow] = {}
    for caption, origin in zip(record.captions, record.origins, strict=True):
        if id(origin) not in rows:
            values = {names[name]: value for name, value in origin.items()}
            rows[id(origin)] = TableRow([], values)
        row = rows[id(origin)]
        if caption:
            row.captions.append(caption)
    return list(rows.values())
