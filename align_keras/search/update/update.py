"""Update of an index: embedding of changed images and removal of deleted images."""

import collections
import concurrent.futures
import dataclasses
import errno
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.pair_files import PairRecord, read_pairs
from align_keras.corpus.sources.source_files import is_folder
from align_keras.corpus.text_tables import TABLE_SUFFIXES
from align_keras.embedders import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.search.index.columns import names_in_conditions, plain_name
from align_keras.search.index.folder_files import TASKS
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.schema import LeftOutFile, TableRow, UnreadableFile
from align_keras.search.readers.corpus_images import is_record, shard_of
from align_keras.search.readers.image_files import (
    CHANGING,
    MISSING,
    TOO_MANY_BYTES,
    TOO_MANY_PIXELS,
    UNREACHABLE,
    ImageFile,
    SkippedFile,
    check_some_reached,
    content_hash,
    date_of,
    decode_square,
    encode_path,
    find_images,
    read_file,
    stat_file,
)
from align_keras.search.readers.raw_preview import NO_PREVIEW
from align_keras.search.update.reachability import Obstacle, Reachability
from align_keras.utils.addresses import without_query
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.remote import absolute_path, is_url, stat_url
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

# Number of files that a thread reads and embeds at a time.
FILES_PER_CHUNK = 8
# Number of files per task on a cluster.
_TASK_FILES = 256
# Maximum number of images and seconds between two commits. A killed process loses at
# most this work.
IMAGES_PER_COMMIT = 512
_COMMIT_SECONDS = 5.0
# Number of concurrent requests to a server for the files of a table.
_REQUESTS = 16
# Reason for a file that another process embeds. It occurs only with PostgreSQL.
CLAIMED_ELSEWHERE = "indexed by another process"
# Reasons that stay true until the file changes. Such files are not read again.
_PERMANENT_REASONS = (
    "empty",
    "unreadable",
    "truncated",
    TOO_MANY_BYTES,
    TOO_MANY_PIXELS,
    NO_PREVIEW,
    "zero size",
    "not finite",
)
# Reasons for which an image is removed from the index. With any other reason, the file
# may only be temporarily unreachable, and the image stays in the index.
_REMOVAL_REASONS = (MISSING, "oversized", *_PERMANENT_REASONS)


@dataclasses.dataclass
class Changes:
    """Result of `Index.add`.

    Attributes:
        added: int, number of new images.
        changed: int, number of images whose file has new content.
        renamed: int, number of images whose file was renamed or moved.
        removed: int, number of images that were removed from the index.
        unchanged: int, number of images that did not change.
        unreadable: dict, reason → number of files that cannot be read.
        examples: dict, reason → name of the first such file.
        left_out: list of `LeftOutFile`, the files that cannot be read.
        unavailable: list of str, folders and tables that are missing, empty or
            unreachable. Their images stay in the index.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: dict[str, int] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[LeftOutFile] = dataclasses.field(default_factory=list)
    unavailable: list[str] = dataclasses.field(default_factory=list)

    def add_unreadable(self, file: bytes, reason: str, detail: str = "") -> None:
        """Records a file that cannot be read."""
        self.unreadable[reason] += 1
        name = printable(os.fsdecode(file))
        self.examples.setdefault(reason, name)
        self.left_out.append(LeftOutFile(name, reason, printable(detail)))


@dataclasses.dataclass
class _File:
    """File to read and embed, and the result.

    Attributes:
        image_file: `ImageFile`, path, size and time of the file.
        root: int, id of the folder or table that contains it.
        root_file: bytes, path of that folder or table.
        id: int, id of the image if the index has one for this file, or None.
        reason: str, reason for which the file cannot be embedded, or None.
        detail: str, the problem in detail, or "".
        columns: dict, columns of the image.
        vector: float32 (d,), embedding, or None if the index already has an image with
            the same content.
        renamed: bool, True if the file is a renamed or moved file of the index.
    """

    image_file: ImageFile
    root: int = 0
    root_file: bytes = b""
    id: int | None = None
    reason: str | None = None
    detail: str = ""
    columns: dict = dataclasses.field(default_factory=dict)
    vector: np.ndarray | None = None
    renamed: bool = False


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
        sources: sequence of folders and tables.
        engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`.

    Returns:
        `Changes`.
    """
    return _Update(store, model, engine).run(sources)


class _Update:
    """Run that updates an index with its sources.

    The update first scans all sources and compares their files with the stored files.
    It then embeds new and changed files, and finally removes deleted images.
    """

    def __init__(self, store: ImageStore, model: Embedder, engine: str) -> None:
        self.store, self.model, self.engine = store, model, engine
        self.changes = Changes()
        self.stored = store.stored_files()
        self.unreadable = store.unreadable()
        # Path → record of each file that this run has left out.
        self.left_out: dict[bytes, UnreadableFile] = {}
        # Id of a table → path of an image → record of the image in the table.
        self.table_records: dict[int, dict[bytes, PairRecord]] = {}
        # Ids of the requested sources that do not exist.
        self.missing: set[int] = set()

    def run(self, sources: Sequence[str | os.PathLike]) -> Changes:
        """Runs the update. Without sources, the sources of the index are scanned."""
        roots = self._add_sources(sources)
        files: list[_File] = []
        seen: set[bytes] = set()
        scanned_roots: set[int] = set()
        for file, root in roots.items():
            self._scan_source(file, root, files, seen, scanned_roots)
        self.deleted, self.unreachable = self._find_unseen_images(seen, scanned_roots)
        self._embed(files)
        self._finish(seen, scanned_roots)
        return self.changes

    def _find_unseen_images(
        self, seen: set[bytes], scanned_roots: set[int]
    ) -> tuple[dict[int, bytes], dict[int, bool]]:
        """Finds the images of the index whose files were not seen in this run.

        Returns:
            dict, id → path of the images whose files were deleted, and dict, id → bool
            of the images whose files are unreachable. The value is True if the image
            counts as unchanged. Unreachable images stay in the index, unless this run
            has seen a file with the same content, for example because a source was
            moved.
        """
        deleted: dict[int, bytes] = {}
        unreachable: dict[int, bool] = {}
        problems: collections.Counter[Obstacle] = collections.Counter()
        reachability = Reachability()
        roots = self.store.sources()
        tables = {id for file, id in roots.items() if _is_table(os.fsdecode(file))}
        missing = {
            id
            for file, id in roots.items()
            if not (id in scanned_roots or is_url(file) or os.path.lexists(file))
        }
        for file, stored in self.stored.items():
            id, root = stored.id, stored.root
            if root in missing and file not in seen:
                unreachable[id] = root in self.missing
            if root not in scanned_roots or file in seen:
                continue
            obstacle = None
            path = shard_of(file) if is_record(file) else file
            # An image that its table no longer lists is removed even if its file
            # exists.
            is_listed = root not in tables or file in self.table_records.get(root, {})
            if is_listed and not is_url(path):
                obstacle = reachability.obstacle(path)
                folder = os.path.dirname(path)
                if obstacle is None and root in tables and not os.path.exists(folder):
                    # The table still lists the image, so its folder may be on a disk
                    # that is not mounted.
                    obstacle = Obstacle(folder, "is missing")
            if obstacle is None:
                deleted[id] = file
            else:
                unreachable[id] = True
                problems[obstacle] += 1
        for (folder, problem), count in problems.items():
            self._report_unavailable(folder, count, problem)
        return deleted, unreachable

    def _add_sources(self, sources: Sequence[str | os.PathLike]) -> dict[bytes, int]:
        """Adds new sources to the index. Returns a dict from source path to id."""
        if not sources:
            roots = self.store.sources()
            if not roots:
                raise InputError(
                    "`sources` must contain a folder or a table for a new index. "
                    "Received: no source. Add a folder or a table."
                )
            return roots
        files = [resolve_source(source) for source in sources]
        with self.store.database.transaction():
            return {file: self.store.add_root(file) for file in files}

    def _scan_source(
        self,
        file: bytes,
        root: int,
        files: list[_File],
        seen: set[bytes],
        scanned_roots: set[int],
    ) -> None:
        """Scans a source and plans the work for its files.

        Args:
            file: path or address of the source.
            root: id of the source.
            files: list that gets the files to embed.
            seen: set that gets the paths of all files of the source.
            scanned_roots: set that gets `root` if the source was scanned completely.
        """
        problems: list[SkippedFile] = []
        count = 0
        has_images = any(stored.root == root for stored in self.stored.values())
        if not _exists(file):
            self._keep_images(file, root, "is missing")
            self.missing.add(root)
            return
        try:
            is_table = not is_folder(os.fsdecode(file))
            if is_table:
                images = self._read_table(file, root)
            else:
                images = find_images(file)
            for image in images:
                if isinstance(image, SkippedFile):
                    problems.append(image)
                    continue
                count += 1
                if image.file not in seen:
                    seen.add(image.file)
                    self._plan_file(image, root, file, files)
            if not (count or has_images or problems):
                raise InputError(
                    "`sources` must contain image files, such as JPEG, PNG, WebP, "
                    f"TIFF, HEIC or RAW. Received: {os.fsdecode(file)}, which contains "
                    "none. Check the path."
                )
        except InputError:
            if not has_images:
                with self.store.database.transaction():
                    self.store.remove_root(file)
            raise
        for path, reason, detail in problems:
            self._leave_out(path, UnreadableFile(root, 0, 0, reason, detail))
            # Files that cannot be reached or listed may still exist. They count as
            # seen, so that they stay in the index.
            if reason == UNREACHABLE:
                seen.add(path)
            if reason.startswith("folder: "):
                prefix = os.path.join(path, b"")
                seen.update(
                    stored for stored in self.stored if stored.startswith(prefix)
                )
            if reason.startswith("shard: "):
                seen.update(
                    stored
                    for stored in self.stored
                    if is_record(stored) and shard_of(stored) == path
                )
        if not count and has_images:
            self._keep_images(file, root, "contains no image")
            return
        scanned_roots.add(root)

    def _keep_images(self, file: bytes, root: int, problem: str) -> None:
        """Keeps the images of a missing or empty source.

        The source may be on a disk that is not mounted, and the index must not lose its
        images then.
        """
        count = sum(stored.root == root for stored in self.stored.values())
        self._report_unavailable(file, count, problem)

    def _report_unavailable(self, file: bytes, count: int, problem: str) -> None:
        name = os.fsdecode(file)
        self.changes.unavailable.append(name)
        self.changes.unchanged += count
        images, pronoun = "images stay", "them"
        if count == 1:
            images, pronoun = "image stays", "it"
        say(
            f"{printable(name)} {problem}. Its {count:,} {images} in the index. To "
            f"remove {pronoun}, use --remove {shlex.quote(printable(name))}"
        )

    def _read_table(self, file: bytes, root: int) -> Iterator[ImageFile | SkippedFile]:
        """Yields the images of a table, and stores their records for `_finish`."""
        path, counter, captions = os.fsdecode(file), DropCounter(), DropCounter()
        records = list(
            read_pairs(path, counter=counter, caption_counter=captions, origin_of=dict)
        )
        table_records = self.table_records.setdefault(root, {})
        remote = is_url(path)
        if remote:
            images = map_in_order(_stat_image, records, _REQUESTS)
        else:
            images = map(_stat_image, records)
        reached = 0
        unreachable = None
        for image, record, result in images:
            table_records[image] = record
            if isinstance(result, ImageFile):
                yield result
                reached += 1
            elif result.errno == errno.EHOSTUNREACH:
                yield SkippedFile(image, UNREACHABLE)
                unreachable = result
            else:
                reached += 1
                yield SkippedFile(image, f"of the table: {result.strerror}")
        # If no image could be reached, the server or the connection is down, so the run
        # stops.
        if unreachable is not None and not reached:
            raise unreachable
        for reason, count in counter.bad.items():
            self.changes.unreadable[f"row of the table: {reason}"] += count
        # An image needs no caption.
        del captions.bad["empty caption"]
        for reason, count in captions.bad.items():
            self.changes.unreadable[f"caption of the table: {reason}"] += count

    def _plan_file(
        self, image_file: ImageFile, root: int, root_file: bytes, files: list[_File]
    ) -> None:
        """Adds a file to `files` if it is new or has changed."""
        stamp = image_file.size, image_file.mtime_ns
        stored = self.stored.get(image_file.file)
        if stored is not None and (stored.size, stored.mtime_ns) == stamp:
            self.changes.unchanged += 1
            return
        record = self.unreadable.get(image_file.file)
        if record is not None and (record.size, record.mtime_ns) == stamp:
            if record.reason in _PERMANENT_REASONS:
                self._leave_out(image_file.file, record)
                return
        id = None if stored is None else stored.id
        files.append(_File(image_file, root, root_file, id))

    def _leave_out(self, file: bytes, record: UnreadableFile) -> None:
        """Counts a file that cannot be read."""
        self.changes.add_unreadable(file, record.reason, record.detail)
        self.left_out[file] = record

    def _embed(self, files: list[_File]) -> None:
        """Embeds files, writes the results to the index, and commits regularly."""
        if not files:
            return
        if is_cluster(self.engine):
            self._run_on_cluster(files)
            return
        done = []
        committed = time.monotonic()
        with progress_bar("indexing", "images", len(files)) as bar:
            chunks = _split(files, FILES_PER_CHUNK)
            try:
                for chunk in map_in_order(
                    self._read_chunk, chunks, os.cpu_count() or 1
                ):
                    done += chunk
                    bar.advance(len(chunk))
                    is_due = time.monotonic() - committed > _COMMIT_SECONDS
                    if len(done) >= IMAGES_PER_COMMIT or is_due:
                        # `done` is emptied before the commit, so that the handler below
                        # does not try to write the same files again if it fails.
                        batch, done = done, []
                        self._commit(batch)
                        committed = time.monotonic()
            except BaseException:
                # Saves the completed files after an interrupt or a network error.
                self._commit(done)
                raise
            self._commit(done)

    def _read_chunk(self, chunk: list[_File]) -> list[_File]:
        """Reads, decodes and embeds some files, in a thread."""
        claimed = self.store.claim([file.image_file for file in chunk])
        for file in chunk:
            if file.image_file.file not in claimed:
                file.reason = CLAIMED_ELSEWHERE
        claimed_files = [file for file in chunk if file.reason is None]
        _embed_files(claimed_files, self.model, self.store.ids_with_content)
        return chunk

    def _run_on_cluster(self, files: list[_File]) -> None:
        """Embeds files on a cluster and commits the results."""
        folder = self.store.folder.absolute() / TASKS
        model = {"model": self.model.reference()}
        blocks = _split(files, _TASK_FILES)
        tasks: list[dict[str, Any]] = []
        for block in blocks:
            names = [
                (os.fsdecode(image_file.file), image_file.size, image_file.mtime_ns)
                for image_file in (file.image_file for file in block)
            ]
            # The name of the result depends on the model and the files, so that a
            # resumed run reuses only the results of the same task.
            digest = hashlib.blake2b(repr([model, names]).encode(), digest_size=12)
            to = str(folder / f"{digest.hexdigest()}.npy")
            tasks.append({**model, "files": names, "to": to})
        say(f"indexing: {len(files):,} images, {len(tasks):,} tasks on {self.engine}")
        results = run_tasks(embed_files, tasks, folder, engine=self.engine)
        for block, task, result in zip(blocks, tasks, results, strict=True):
            self._apply_results(block, result, np.load(task["to"]))
            self._commit(block)
        shutil.rmtree(folder)

    def _apply_results(
        self, block: list[_File], results: Sequence[Sequence[Any]], vectors: np.ndarray
    ) -> None:
        """Copies the results of a cluster task to its files.

        Args:
            block: files of the task.
            results: fields of a `_TaskResult` for each file.
            vectors: float32 (n, d), embeddings of the files without a reason.
        """
        remaining_vectors = iter(vectors)
        for file, fields in zip(block, results, strict=True):
            result = _TaskResult(*fields)
            path = file.image_file.file
            file.image_file = ImageFile(path, result.size, result.mtime_ns)
            file.reason = result.reason
            file.detail = result.detail
            file.vector = None if result.reason else next(remaining_vectors)
            content = bytes.fromhex(result.content)
            file.columns = {**result.columns, "content": content}
            if self.store.ids_with_content(file.columns["content"]):
                file.vector = None

    def _commit(self, files: list[_File]) -> None:
        """Writes the vectors and the images of files in one transaction."""
        if not files:
            return
        with self.store.database.transaction():
            vectors = [self._vector_to_append(file) for file in files]
            new = [vector for vector in vectors if vector is not None]
            rows = iter(self.store.append(np.stack(new)) if new else ())
            for file, vector in zip(files, vectors, strict=True):
                self._write_file(file, None if vector is None else next(rows))
        self.store.release(file.image_file.file for file in files)

    def _vector_to_append(self, file: _File) -> np.ndarray | None:
        """Returns the vector to append for a file, or None if it needs no vector.

        A file without a vector has the same content as an image of the index. It is
        either a moved file, whose image is updated, or a copy, which gets the vector of
        that image.
        """
        if file.reason is not None or file.vector is not None:
            return file.vector
        # The search for the content is repeated, because a file earlier in this batch
        # may have changed the image that had it.
        same = self.store.ids_with_content(file.columns["content"])
        if not same:
            file.reason = CHANGING
        if not same or file.id in same:
            return None
        moved = next((id for id in same if id in self.deleted), None)
        if moved is None:
            moved = next((id for id in same if id in self.unreachable), None)
        if moved is not None and file.id is None:
            if self.deleted.pop(moved, None) is None:
                self.changes.unchanged -= self.unreachable.pop(moved)
            file.id, file.renamed = moved, True
            return None
        image = self.store.image(same[0])
        names = ("width", "height", "date", "camera")
        file.columns |= {name: image[name] for name in names}
        return self.store.vector(image["row"])

    def _write_file(self, file: _File, row: int | None) -> None:
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
            **_path_columns(image_file.file, file.root_file),
            **file.columns,
        }
        if "date" in columns:
            columns["year"] = columns["date"] and int(columns["date"][:4])
        self.store.remove_unreadable([image_file.file])
        if row is not None:
            columns["row"] = row
        if file.id is None:
            self.changes.added += 1
            self.store.add_image(columns)
            return
        if row is not None:
            self.changes.changed += 1
        elif file.renamed:
            self.changes.renamed += 1
        else:  # The content is unchanged, and only the modification time has changed.
            self.changes.unchanged += 1
        self.store.update_image(file.id, columns)

    def _record_unreadable(self, file: _File, reason: str) -> None:
        """Records an unreadable file, and removes its image if necessary."""
        image_file = file.image_file
        size, mtime_ns = image_file.size, image_file.mtime_ns
        record = UnreadableFile(file.root, size, mtime_ns, reason, file.detail)
        self._leave_out(image_file.file, record)
        if reason == CLAIMED_ELSEWHERE:
            return
        self.store.record_unreadable(image_file.file, record)
        if reason in _REMOVAL_REASONS and file.id is not None:
            self.store.remove_images([file.id])
            self.changes.removed += 1

    def _finish(self, seen: set[bytes], scanned_roots: set[int]) -> None:
        """Removes deleted images, and writes the captions and columns of tables."""
        readable = [
            file
            for file, record in self.unreadable.items()
            if record.root in scanned_roots and file not in self.left_out
        ]
        # Folders and files that were not opened have no record yet.
        unopened = {
            file: record
            for file, record in self.left_out.items()
            if not record.mtime_ns and self.unreadable.get(file) != record
        }
        self.changes.removed += len(self.deleted)
        if self.deleted or readable or unopened or self.table_records:
            with self.store.database.transaction():
                self.store.remove_images(self.deleted)
                self.store.remove_unreadable(readable)
                for file, record in unopened.items():
                    self.store.record_unreadable(file, record)
                self._write_table_rows(scanned_roots)
        self.store.compact()

    def _write_table_rows(self, scanned_roots: set[int]) -> None:
        """Writes the captions and the other columns of tables."""
        tables = {
            root: records
            for root, records in self.table_records.items()
            if root in scanned_roots
        }
        if not tables:
            return
        ids = {file: stored.id for file, stored in self.store.stored_files().items()}
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
            self.store.tables.replace(root, rows)
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


def _stat_image(record: PairRecord) -> tuple[bytes, PairRecord, ImageFile | OSError]:
    """Returns the path of an image, its record, and the `ImageFile` or an error."""
    image = absolute_path(encode_path(record.image_path))
    try:
        return image, record, stat_file(image)
    except OSError as error:
        return image, record, error


def _exists(file: bytes) -> bool:
    """Returns True if a folder or table exists and can be accessed."""
    if not is_url(file):
        try:
            os.stat(file)
        except OSError:
            return False
        return True
    try:
        stat_url(os.fsdecode(file))
    except FileNotFoundError:
        return False
    return True


class _TaskResult(NamedTuple):
    """Result for a file in a task of a cluster. It is stored as a JSON list.

    Attributes:
        size: int, size of the file in bytes.
        mtime_ns: int, time of its last change in nanoseconds.
        reason: str, reason for which it has no embedding, or None.
        columns: dict, columns of the image without the hash of the content.
        content: str, hash of the content in hexadecimal digits.
        detail: str, the problem in detail, or "".
    """

    size: int
    mtime_ns: int
    reason: str | None
    columns: dict[str, Any]
    content: str
    detail: str = ""


def model_of_task(reference: dict[str, Any]) -> Embedder:
    """Loads the model of a task.

    Raises:
        InputError: if the model on this machine has another fingerprint.
    """
    model = worker_model(
        reference["name"],
        reference.get("runtime", "auto"),
        reference.get("dimensions"),
    )
    check_same(reference["name"], model.fingerprint, reference["fingerprint"])
    return model


def embed_files(task: dict) -> list:
    """Embeds the files of a task of `run_tasks`.

    Args:
        task: dict with `model`, the `Embedder.reference`, `files`, a list of (name,
            size, mtime_ns), and `to`, the path of the NPY file for the vectors.

    Returns:
        list of `_TaskResult`, one for each file.
    """
    model = model_of_task(task["model"])
    files = [
        _File(ImageFile(os.fsencode(name), size, mtime_ns))
        for name, size, mtime_ns in task["files"]
    ]
    for chunk in _split(files, FILES_PER_CHUNK):
        _embed_files(chunk, model)
    vectors = [file.vector for file in files if file.reason is None]
    with atomic_path(task["to"]) as temporary, open(temporary, "wb") as opened:
        np.save(opened, np.array(vectors, np.float32).reshape(-1, model.dimension))
    results = []
    for file in files:
        content = file.columns.pop("content", b"").hex()
        results.append(
            _TaskResult(
                file.image_file.size,
                file.image_file.mtime_ns,
                file.reason,
                file.columns,
                content,
                file.detail,
            )
        )
    return results


def _embed_files(
    files: list[_File],
    model: Embedder,
    is_stored: Callable[[bytes], object] = lambda content: False,
) -> None:
    """Reads and embeds files, and writes the results to the fields of `files`.

    Args:
        files: files to embed.
        model: model of the index.
        is_stored: function that returns a true value if the index already has an image
            with a content hash. Such files are read and not embedded.
    """
    read, pixels, errors = [], [], []
    for file in files:
        try:
            content, file.image_file = read_file(file.image_file.file)
            file.columns = {"content": content_hash(content)}
            if file.image_file.captions is not None:
                captions = json.dumps(file.image_file.captions, ensure_ascii=False)
                file.columns["captions"] = captions
            if is_stored(file.columns["content"]):
                continue
            image = decode_square(content, model.resize_to)
        except ImageError as error:
            file.reason = error.reason
            file.detail = error.detail
            errors.append(error)
            continue
        date = image.date
        if not date and not is_url(file.image_file.file):
            date = date_of(file.image_file.mtime_ns)
        file.columns |= {
            "width": image.width,
            "height": image.height,
            "date": date,
            "camera": image.camera,
        }
        read.append(file)
        pixels.append(image.pixels)
    check_some_reached(errors, len(files))
    if pixels:
        for file, vector in zip(read, model.encode_resized(pixels), strict=True):
            if np.isfinite(vector).all():
                file.vector = vector
            else:
                file.reason = "not finite"
                file.detail = "the embedding contains NaN or infinity"


def _split(values: list[_File], size: int) -> list[list[_File]]:
    """Splits a list into blocks of at most `size` files."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def map_in_order(work: Callable, chunks: Iterable, threads: int) -> Iterator:
    """Yields the results of `work` for chunks, in the order of the chunks.

    Args:
        work: function of a chunk.
        chunks: iterable of the chunks. At most about `2 * threads` chunks are read
            before their results are yielded.
        threads: int, number of threads.
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def resolve_source(source: str | os.PathLike) -> bytes:
    """Converts the path or address of a source to the form that the index stores.

    Raises:
        InputError: if it is not an existing folder or table.
    """
    if is_url(source):
        url = without_query(os.fsdecode(source)).rstrip("/")
        if not _is_table(url) and (url.startswith("http") or stat_url(url) is not None):
            raise InputError(
                "`sources` at an address must be tables that end in "
                f"{', '.join(TABLE_SUFFIXES)}, or folders of images in an object "
                f"store. Received: {url}. Use the address of a table or folder."
            )
        return os.fsencode(url)
    file = os.path.abspath(os.path.expanduser(os.fsencode(source)))
    if not os.path.exists(file):
        raise InputError(
            f"`sources` must be folders or tables. Received: {os.fsdecode(file)}, "
            "which doesn't exist. Check the path."
        )
    if not (_is_table(os.fsdecode(file)) or os.path.isdir(file)):
        raise InputError(
            "`sources` must be folders of images or tables that end in "
            f"{', '.join(TABLE_SUFFIXES)}. Received: {os.fsdecode(file)}. Name its "
            "folder."
        )
    return os.path.realpath(file)


def _is_table(source: str) -> bool:
    return source.lower().endswith(TABLE_SUFFIXES)


def _path_columns(file: bytes, root: bytes) -> dict[str, str]:
    """Returns the columns `path`, `folder` and `name` of an image.

    For an image in a folder source, `folder` begins with the name of the source.
    """
    path = shard_of(file) if is_record(file) else file
    is_table = _is_table(os.fsdecode(root))
    if os.path.isdir(root) or (is_url(root) and not is_table):
        folder = os.path.dirname(os.path.relpath(path, os.path.dirname(root)))
    else:
        folder = os.path.dirname(path)
    texts = {"path": file, "folder": folder, "name": os.path.basename(file)}
    # Bytes that are not UTF-8 are written as \xff.
    return {
        name: text.decode("utf-8", "backslashreplace") for name, text in texts.items()
    }


def _path_to_remove(
    path: str | os.PathLike, roots: Container[bytes], stored: Container[bytes]
) -> bytes:
    """Converts the path of an image or a source to the form that the index stores."""
    name = os.fsencode(without_query(os.fsdecode(path)))
    if name in stored or name in roots:
        return name
    if not name or b"\0" in name:
        raise InputError(
            "`remove` must be images, folders or tables of the index. Received: "
            f"{os.fsdecode(name)!r}. Write `.` for the current folder."
        )
    if is_url(path):
        return name.rstrip(b"/")
    # An image may be a symbolic link. The index stores the path of the link.
    plain = os.path.abspath(os.path.expanduser(name))
    file = plain if plain in stored else os.path.realpath(plain)
    if os.path.dirname(file) == file and file not in roots:
        raise InputError(
            "`remove` must be images, folders or tables of the index. Received: "
            f"{os.fsdecode(file)}, which contains all sources. Name each source."
        )
    return file


@dataclasses.dataclass
class _Removal:
    """Path to remove, and the images of the index that it matches.

    Attributes:
        file: bytes, path of an image, a folder or a table.
        root: int, id of the source with this path, or None.
        images: dict, path → id of the images.
    """

    file: bytes
    root: int | None
    images: dict[bytes, int]


def remove(store: ImageStore, paths: Iterable[str | os.PathLike]) -> int:
    """Removes images from an index.

    If a source is removed whose images also belong to another source, these images are
    moved to that source.

    Args:
        store: store of the index, open for writing.
        paths: paths of images, or of folders or tables that contain them.

    Returns:
        int, number of removed images.

    Raises:
        InputError: if a path matches nothing in the index.
    """
    roots, stored = store.roots(), store.stored_files()
    tables = store.tables.tables_of_images()
    unreadable, dropped_unreadable = store.unreadable(), set[bytes]()
    dropped, dropped_roots = set[int](), set[bytes]()
    removals: list[_Removal] = []
    # Id of an image → its path and the path of its new source.
    moved: dict[int, tuple[bytes, bytes]] = {}
    for path in paths:
        file = _path_to_remove(path, roots, stored)
        prefix = os.path.join(file, b"")
        root = roots.get(file)
        images = {
            image_file: image.id
            for image_file, image in stored.items()
            if image_file == file or image_file.startswith(prefix) or image.root == root
        }
        if not images and root is None:
            raise InputError(
                "`remove` must be images, folders or tables of the index. Received: "
                f"{os.fsdecode(file)}. Check the path."
            )
        removals.append(_Removal(file, root, images))
        if root is not None:
            dropped_roots.add(file)
    remaining_roots = {
        file: id for file, id in roots.items() if file not in dropped_roots
    }
    for removal in removals:
        prefix = os.path.join(removal.file, b"")
        for image_file, id in removal.images.items():
            holder = None
            if removal.root is not None:
                root = stored[image_file].root
                holder = _remaining_source(
                    image_file, root, remaining_roots, tables.get(id, set())
                )
            if holder is None:
                dropped.add(id)
            else:
                moved[id] = image_file, holder
        dropped_unreadable.update(
            name
            for name, record in unreadable.items()
            if name.startswith(prefix) or record.root == removal.root
        )
    with store.database.transaction():
        store.remove_images(dropped)
        for id, (file, root_file) in moved.items():
            if id not in dropped:
                root = remaining_roots[root_file]
                store.update_image(id, {"root": root, **_path_columns(file, root_file)})
        store.remove_unreadable(dropped_unreadable)
        for file in dropped_roots:
            store.remove_root(file)
    store.compact()
    return len(dropped)


def _remaining_source(
    file: bytes, root: int, sources: dict[bytes, int], tables: set[int]
) -> bytes | None:
    """Returns the source of an image after some sources were removed.

    Args:
        file: path of the image.
        root: id of its source before the removal.
        sources: path → id of the remaining sources.
        tables: ids of the tables with rows of the image.

    Returns:
        bytes, path of the same source, of the nearest folder that contains the image,
        or of a table that lists the image, or None.
    """
    parent = next((source for source, id in sources.items() if id == root), None)
    if parent is not None:
        return parent
    path = shard_of(file) if is_record(file) else file
    folders = [
        source for source in sources if path.startswith(os.path.join(source, b""))
    ]
    if folders:
        return max(folders, key=len)
    return next((source for source, id in sources.items() if id in tables), None)
