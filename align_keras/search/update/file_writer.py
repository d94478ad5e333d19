"""Writer of embedded files to an index."""

import numpy as np

from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.schema import UnreadableFile
from align_keras.search.readers.image_files import CHANGING
from align_keras.search.update.changes import (
    CLAIMED_ELSEWHERE,
    REMOVAL_REASONS,
    FileToEmbed,
)
from align_keras.search.update.index_sources import path_columns
from align_keras.search.update.source_scan import SourceScan


class FileWriter:
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
        """Returns the vector to append for a file, or None if it needs no vector.

        A file without a vector has the same content as an image of the index. It is
        either a moved file, whose image is updated, or a copy, which gets the vector of
        that image.
        """
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
