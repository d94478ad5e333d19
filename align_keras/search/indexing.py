"""Brings an index up to date: what is new is embedded, what is gone is dropped."""

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
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.image import ImageError
from align_keras.corpus.pair_files import TABLE_SUFFIXES, PairRecord, read_pairs
from align_keras.corpus.sources.source_files import is_folder
from align_keras.embedders import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.search.columns import TableRow
from align_keras.search.corpus_images import is_record, shard_of
from align_keras.search.image_files import (
    CHANGING,
    MISSING,
    UNREACHABLE,
    FoundFile,
    UnreadFile,
    check_some_reached,
    content_hash,
    date_of,
    decode_square,
    find_images,
    read_file,
    stat_file,
)
from align_keras.search.index_files import TASKS
from align_keras.search.reachability import Obstacle, Reachability
from align_keras.search.store import Store
from align_keras.utils.addresses import without_secrets
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.remote import is_url, stat_url
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

# Files that a thread reads and embeds before it returns their embeddings.
FILES_PER_CHUNK = 8
# Files of a task of a cluster.
_TASK_FILES = 256
# Images and seconds of work between two commits. A killed process loses at most these.
IMAGES_PER_COMMIT = 512
_COMMIT_SECONDS = 5.0
# Files of a table at an address that a server is asked for at once.
_REQUESTS = 16
# Why a file was left to another process that writes the index (PostgreSQL alone).
ELSEWHERE = "indexed by another process"
# What a file can't be read for until it changes.
_LASTING = ("empty", "unreadable", "truncated", "oversized", "zero size", "not finite")
# Reasons for which an image leaves the index. For any other it can't be reached.
_DROPPED = (MISSING, *_LASTING)


@dataclasses.dataclass
class Changes:
    """What `Index.add` did, each a number of images.

    Attributes:
        added: new ones that were embedded, or whose content was known.
        changed: whose file has another content.
        renamed: that lie elsewhere now.
        gone: that were dropped.
        unchanged: that were left as they are.
        unreadable: dict, reason → files that couldn't be read.
        examples: dict, reason → the first file.
        left_out: list of (reason, file), the files that couldn't be read.
        kept: list of str, folders that are missing or empty, whose images stay.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    gone: int = 0
    unchanged: int = 0
    unreadable: dict[str, int] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)

    def refuse(self, reason: str, file: bytes) -> None:
        """Counts a file that can't be read."""
        self.unreadable[reason] += 1
        name = printable(os.fsdecode(file))
        self.examples.setdefault(reason, name)
        self.left_out.append((reason, name))


@dataclasses.dataclass
class _File:
    """A file to read, of the image `id` if it has one; then its columns and vector, or
    the reason why not. Without a vector, an image has this content, maybe one whose
    file is gone (`renamed`).
    """

    found: FoundFile
    root: int = 0
    root_file: bytes = b""
    id: int | None = None
    reason: str | None = None
    columns: dict = dataclasses.field(default_factory=dict)
    vector: np.ndarray | None = None
    renamed: bool = False


def update(
    store: Store,
    model: Embedder,
    sources: Sequence[str | os.PathLike],
    engine: str = LOCAL,
) -> Changes:
    """Brings an index up to date with sources, by default all that it has."""
    return _Update(store, model, engine).run(sources)


class _Update:
    def __init__(self, store: Store, model: Embedder, engine: str) -> None:
        self.store, self.model, self.engine = store, model, engine
        self.changes = Changes()
        self.known = store.known()
        self.unreadable = store.unreadable()
        # Id of a table → path of an image → the record that the table has of it.
        self.captioned: dict[int, dict[bytes, PairRecord]] = {}
        # Ids of the sources of this run that are missing.
        self.missing: set[int] = set()

    def run(self, sources: Sequence[str | os.PathLike]) -> Changes:
        self.store.check_part()
        roots = self._roots(sources)
        files: list[_File] = []
        seen: set[bytes] = set()
        walked: set[int] = set()
        for file, root in roots.items():
            self._walk(file, root, files, seen, walked)
        self.gone, self.absent = self._unseen(seen, walked)
        self._embed(files)
        self._finish(seen, walked)
        return self.changes

    def _unseen(
        self, seen: set[bytes], walked: set[int]
    ) -> tuple[dict[int, bytes], dict[int, bool]]:
        """Images that weren't seen: those that are gone, id → path, and those that
        can't be reached, id → whether they count as unchanged. The latter stay, unless
        their content is found elsewhere, as that of a source that was moved.
        """
        gone: dict[int, bytes] = {}
        absent: dict[int, bool] = {}
        problems: collections.Counter[Obstacle] = collections.Counter()
        reachability = Reachability()
        roots = self.store.sources()
        tables = {id for file, id in roots.items() if _is_table(os.fsdecode(file))}
        missing = {
            id
            for file, id in roots.items()
            if not (id in walked or is_url(file) or os.path.lexists(file))
        }
        for file, (id, root, _, _) in self.known.items():
            if root in missing and file not in seen:
                absent[id] = root in self.missing
            if root not in walked or file in seen:
                continue
            obstacle = None
            place = shard_of(file) if is_record(file) else file
            # A table is the list of its images.
            is_listed = root not in tables or file in self.captioned.get(root, {})
            if is_listed and not is_url(place):
                obstacle = reachability.obstacle(place)
                folder = os.path.dirname(place)
                if obstacle is None and root in tables and not os.path.exists(folder):
                    # A disk may take the folder with it, and the table has the image.
                    obstacle = Obstacle(folder, "is missing")
            if obstacle is None:
                gone[id] = file
            else:
                absent[id] = True
                problems[obstacle] += 1
        for (folder, problem), count in problems.items():
            self._report_kept(folder, count, problem)
        return gone, absent

    def _roots(self, sources: Sequence[str | os.PathLike]) -> dict[bytes, int]:
        """Path → id of each source, the new ones added."""
        if not sources:
            roots = self.store.sources()
            if not roots:
                raise InputError(
                    "`sources` must name a folder or a table the first time, received "
                    "none; name one."
                )
            return roots
        files = [_checked_source(source) for source in sources]
        with self.store.transaction():
            return {file: self.store.add_root(file) for file in files}

    def _walk(
        self,
        file: bytes,
        root: int,
        files: list[_File],
        seen: set[bytes],
        walked: set[int],
    ) -> None:
        problems = []
        count = 0
        is_known = any(known[1] == root for known in self.known.values())
        if not _is_there(file):
            self._keep(file, root, "is missing")
            self.missing.add(root)
            return
        try:
            is_table = not is_folder(os.fsdecode(file))
            if is_table:
                images = self._files_of_table(file, root)
            else:
                images = find_images(file)
            for found in images:
                if isinstance(found, UnreadFile):
                    problems.append(found)
                    continue
                count += 1
                if found.file not in seen:
                    seen.add(found.file)
                    self._plan(found, root, file, files)
            if not (count or is_known or problems):
                raise InputError(
                    f"`sources` must hold images, received {os.fsdecode(file)}, which "
                    "holds no JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF file; check it."
                )
        except InputError:
            if not is_known:
                with self.store.transaction():
                    self.store.drop_root(file)
            raise
        for path, reason in problems:
            self.changes.refuse(reason, path)
            if reason == UNREACHABLE:  # It may be there.
                seen.add(path)
            if reason.startswith("folder: "):  # What it holds may be there.
                within = os.path.join(path, b"")
                seen.update(one for one in self.known if one.startswith(within))
            if reason.startswith("shard: "):
                seen.update(
                    one
                    for one in self.known
                    if is_record(one) and shard_of(one) == path
                )
        if not count and is_known:
            self._keep(file, root, "holds no image")
            return
        walked.add(root)

    def _keep(self, file: bytes, root: int, problem: str) -> None:
        """An unmounted disk must not empty the index."""
        count = sum(known[1] == root for known in self.known.values())
        self._report_kept(file, count, problem)

    def _report_kept(self, file: bytes, count: int, problem: str) -> None:
        name = os.fsdecode(file)
        self.changes.kept.append(name)
        self.changes.unchanged += count
        say(
            f"{printable(name)} {problem}; its {count:,} images stay in the index "
            f"until it is dropped (--remove {shlex.quote(printable(name))})"
        )

    def _files_of_table(
        self, file: bytes, root: int
    ) -> Iterator[FoundFile | UnreadFile]:
        """Yields a table's images; what it says of them is kept for `_describe`."""
        path, counter = os.fsdecode(file), DropCounter()
        records = list(read_pairs(path, counter=counter, origin_of=dict))
        names = {name for record in records for row in record.origins for name in row}
        self.store.check_columns(root, names, printable(path))
        captioned = self.captioned.setdefault(root, {})
        remote = is_url(path)
        every = in_order(_find, records, _REQUESTS) if remote else map(_find, records)
        reached = 0
        unreachable = None
        for image, record, found in every:
            captioned[image] = record
            if isinstance(found, FoundFile):
                yield found
                reached += 1
            elif found.errno == errno.EHOSTUNREACH:
                yield UnreadFile(image, UNREACHABLE)
                unreachable = found
            else:
                reached += 1
                yield UnreadFile(image, f"of the table: {found.strerror}")
        if unreachable is not None and not reached:  # The server itself is down.
            raise unreachable
        for reason, count in counter.bad.items():
            self.changes.unreadable[f"row of the table: {reason}"] += count

    def _plan(
        self, found: FoundFile, root: int, root_file: bytes, files: list[_File]
    ) -> None:
        """Tells what a file is in need of."""
        stamp = found.size, found.mtime_ns
        known = self.known.get(found.file)
        if known is not None and known[2:] == stamp:
            self.changes.unchanged += 1
            return
        refused = self.unreadable.get(found.file)
        if refused is not None and refused[1:3] == stamp:
            self.changes.refuse(refused[3], found.file)
            return
        files.append(_File(found, root, root_file, known and known[0]))

    def _embed(self, files: list[_File]) -> None:
        if not files:
            return
        if is_cluster(self.engine):
            self._run_on_cluster(files)
            return
        done = []
        committed = time.monotonic()
        with progress_bar("indexing", "images", len(files)) as bar:
            chunks = _cut(files, FILES_PER_CHUNK)
            try:
                for chunk in in_order(self._read_chunk, chunks, os.cpu_count() or 1):
                    done += chunk
                    bar.advance(len(chunk))
                    late = time.monotonic() - committed > _COMMIT_SECONDS
                    if len(done) >= IMAGES_PER_COMMIT or late:
                        # Taken first, so that what can't be written isn't tried twice.
                        batch, done = done, []
                        self._commit(batch)
                        committed = time.monotonic()
            except BaseException:
                # An interrupt, or a server that can't be reached, loses nothing.
                self._commit(done)
                raise
            self._commit(done)

    def _read_chunk(self, chunk: list[_File]) -> list[_File]:
        """Reads, decodes and embeds some files, in a thread."""
        claimed = self.store.claim([file.found for file in chunk])
        for file in chunk:
            if file.found.file not in claimed:
                file.reason = ELSEWHERE
        left = [file for file in chunk if file.reason is None]
        _embed_files(left, self.model, self.store.with_content)
        return chunk

    def _run_on_cluster(self, files: list[_File]) -> None:
        """Has a cluster embed all files, then commits what it found."""
        folder = self.store.folder.absolute() / TASKS
        about = {"model": self.model.reference()}
        blocks = _cut(files, _TASK_FILES)
        sent: list[dict[str, Any]] = []
        for block in blocks:
            names = [
                (os.fsdecode(found.file), found.size, found.mtime_ns)
                for found in (file.found for file in block)
            ]
            digest = hashlib.blake2b(repr([about, names]).encode(), digest_size=12)
            to = str(folder / f"{digest.hexdigest()}.npy")
            sent.append({**about, "files": names, "to": to})
        say(f"indexing: {len(files):,} images, {len(sent):,} tasks on {self.engine}")
        results = run_tasks(embed_files, sent, folder, engine=self.engine)
        for block, task, result in zip(blocks, sent, results, strict=True):
            self._take(block, result, np.load(task["to"]))
            self._commit(block)
        shutil.rmtree(folder)

    def _take(
        self, block: list[_File], results: Sequence[Sequence[Any]], vectors: np.ndarray
    ) -> None:
        """Fills in what a cluster found of some files."""
        remaining_vectors = iter(vectors)
        for file, fields in zip(block, results, strict=True):
            result = _TaskResult(*fields)
            path = file.found.file
            file.found = FoundFile(path, result.size, result.mtime_ns)
            file.reason = result.reason
            file.vector = None if result.reason else next(remaining_vectors)
            content = bytes.fromhex(result.content)
            file.columns = {**result.columns, "content": content}
            if self.store.with_content(file.columns["content"]):
                file.vector = None

    def _commit(self, files: list[_File]) -> None:
        """Writes vectors, then what names them."""
        if not files:
            return
        with self.store.transaction():
            vectors = [self._vector(file) for file in files]
            new = [vector for vector in vectors if vector is not None]
            rows = iter(self.store.append(np.stack(new)) if new else ())
            for file, vector in zip(files, vectors, strict=True):
                self._write(file, None if vector is None else next(rows))
        self.store.release(file.found.file for file in files)

    def _vector(self, file: _File) -> np.ndarray | None:
        """The row to append for a file, or None if it needs none."""
        if file.reason is not None or file.vector is not None:
            return file.vector
        # Once more, for a file before this one may have been one of them.
        same = self.store.with_content(file.columns["content"])
        if not same:
            file.reason = CHANGING
        if not same or file.id in same:
            return None
        moved = next((id for id in same if id in self.gone), None)
        if moved is None:
            moved = next((id for id in same if id in self.absent), None)
        if moved is not None and file.id is None:
            if self.gone.pop(moved, None) is None:
                self.changes.unchanged -= self.absent.pop(moved)
            file.id, file.renamed = moved, True
            return None
        image = self.store.image(same[0])
        names = ("width", "height", "date", "camera")
        file.columns |= {name: image[name] for name in names}
        return self.store.vector(image["row"])

    def _write(self, file: _File, row: int | None) -> None:
        found = file.found
        if file.reason is not None:
            self._refuse(file, file.reason)
            return
        columns = {
            "root": file.root,
            "file": found.file,
            "size": found.size,
            "mtime_ns": found.mtime_ns,
            **_names(found.file, file.root_file),
            **file.columns,
        }
        if "date" in columns:
            columns["year"] = columns["date"] and int(columns["date"][:4])
        self.store.forget_unreadable([found.file])
        if row is not None:
            columns["row"] = row
        if file.id is None:
            self.changes.added += 1
            self.store.put(columns)
            return
        if row is not None:
            self.changes.changed += 1
        elif file.renamed:
            self.changes.renamed += 1
        else:  # Only its time has changed.
            self.changes.unchanged += 1
        self.store.update(file.id, columns)

    def _refuse(self, file: _File, reason: str) -> None:
        found = file.found
        self.changes.refuse(reason, found.file)
        if reason not in _DROPPED:  # What was known stays.
            return
        if file.id is not None:
            self.store.drop([file.id])
            self.changes.gone += 1
        if reason in _LASTING:
            self.store.note_unreadable(
                found.file, file.root, found.size, found.mtime_ns, reason
            )

    def _finish(self, seen: set[bytes], walked: set[int]) -> None:
        """Drops what is gone, and gives images what tables say of them."""
        forgotten = [
            file
            for file, (root, *_) in self.unreadable.items()
            if root in walked and file not in seen
        ]
        self.changes.gone += len(self.gone)
        if self.gone or forgotten or self.captioned:
            with self.store.transaction():
                self.store.drop(self.gone)
                self.store.forget_unreadable(forgotten)
                self._describe(walked)
        self.store.compact()

    def _describe(self, walked: set[int]) -> None:
        """Writes the captions and the further columns of tables."""
        tables = {root: of for root, of in self.captioned.items() if root in walked}
        if not tables:
            return
        ids = {file: known[0] for file, known in self.store.known().items()}
        for root, records in tables.items():
            rows = {
                ids[file]: _table_rows(record)
                for file, record in records.items()
                if file in ids
            }
            self.store.describe(root, rows)
        for name, called in self.store.renamed_columns().items():
            say(f"column {printable(name)!r} of a table is called {called} in --where")


def _table_rows(record: PairRecord) -> list[TableRow]:
    """The rows of a table that name an image, each with its captions."""
    rows: dict[int, TableRow] = {}
    for caption, origin in zip(record.captions, record.origins, strict=True):
        row = rows.setdefault(id(origin), TableRow([], origin))
        row.captions.append(caption)
    return list(rows.values())


def _find(record: PairRecord) -> tuple[bytes, PairRecord, FoundFile | OSError]:
    """The path of a table's image, its record, and the file or why it isn't there."""
    image = os.fsencode(record.image_path)
    image = image if is_url(image) else os.path.abspath(image)
    try:
        return image, record, stat_file(image)
    except OSError as error:
        return image, record, error


def _is_there(file: bytes) -> bool:
    if not is_url(file):
        try:
            os.stat(file)
        except OSError:  # What it holds can't be looked at.
            return False
        return True
    try:
        stat_url(os.fsdecode(file))
    except FileNotFoundError:
        return False
    return True


class _TaskResult(NamedTuple):
    """Result of a file in a task of a cluster. JSON stores it as a list.

    Attributes:
        size: int, bytes of the file.
        mtime_ns: int, time of its last change.
        reason: str, why it has no embedding, or None.
        columns: dict, the image's columns but for its content.
        content: str, the content's hash in hexadecimal digits.
    """

    size: int
    mtime_ns: int
    reason: str | None
    columns: dict[str, Any]
    content: str


def model_of_task(reference: dict[str, str]) -> Embedder:
    """Returns the model of a task, or raises if this machine has another one."""
    model = worker_model(reference["name"], reference.get("runtime", "auto"))
    check_same(reference["name"], model.fingerprint, reference["fingerprint"])
    return model


def embed_files(task: dict) -> list:
    """Embeds some files, the vectors to a file: a task of `run_tasks`."""
    model = model_of_task(task["model"])
    files = [
        _File(FoundFile(os.fsencode(name), size, mtime_ns))
        for name, size, mtime_ns in task["files"]
    ]
    for chunk in _cut(files, FILES_PER_CHUNK):
        _embed_files(chunk, model)
    vectors = [file.vector for file in files if file.reason is None]
    with atomic_path(task["to"]) as temporary, open(temporary, "wb") as opened:
        np.save(opened, np.array(vectors, np.float32).reshape(-1, model.dimension))
    results = []
    for file in files:
        content = file.columns.pop("content", b"").hex()
        found = file.found
        results.append(
            _TaskResult(found.size, found.mtime_ns, file.reason, file.columns, content)
        )
    return results


def _embed_files(
    files: list[_File],
    model: Embedder,
    is_known: Callable[[bytes], object] = lambda content: False,
) -> None:
    """Fills in what some files hold, unless it is known."""
    read, pixels, errors = [], [], []
    for file in files:
        try:
            content, file.found = read_file(file.found.file)
            file.columns = {"content": content_hash(content)}
            if file.found.captions is not None:
                captions = json.dumps(file.found.captions, ensure_ascii=False)
                file.columns["captions"] = captions
            if is_known(file.columns["content"]):
                continue
            image = decode_square(content, model.resize_to)
        except ImageError as error:
            file.reason = error.reason
            errors.append(error)
            continue
        local = not is_url(file.found.file)
        file.columns |= {
            "width": image.width,
            "height": image.height,
            "date": image.date or (date_of(file.found.mtime_ns) if local else None),
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


def _cut(values: list[_File], size: int) -> list[list[_File]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def in_order(work: Callable, chunks: Iterable, threads: int) -> Iterator:
    """Runs `work` on chunks by threads; yields results in the order of the chunks."""
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


def _checked_source(source: str | os.PathLike) -> bytes:
    if is_url(source):
        # A later run has the password from the address or from ~/.netrc.
        url = without_secrets(os.fsdecode(source)).rstrip("/")
        if not _is_table(url) and (url.startswith("http") or stat_url(url) is not None):
            raise InputError(
                "`sources` at an address must be tables that end in "
                f"{', '.join(TABLE_SUFFIXES)} or, in a store, folders of images, "
                f"received {url}; name one."
            )
        return os.fsencode(url)
    file = os.path.abspath(os.path.expanduser(os.fsencode(source)))
    if not os.path.exists(file):
        raise InputError(
            f"`sources` must be folders or tables, received {os.fsdecode(file)}, which "
            "doesn't exist; check the path."
        )
    if not (_is_table(os.fsdecode(file)) or os.path.isdir(file)):
        raise InputError(
            "`sources` must be folders of images or tables that end in "
            f"{', '.join(TABLE_SUFFIXES)}, received {os.fsdecode(file)}; name its "
            "folder."
        )
    return os.path.realpath(file)


def _is_table(source: str) -> bool:
    return source.lower().endswith(TABLE_SUFFIXES)


def _names(file: bytes, root: bytes) -> dict[str, str]:
    """What people and `where` see of a path; `folder` is below the source."""
    place = shard_of(file) if is_record(file) else file
    is_table = _is_table(os.fsdecode(root))
    if os.path.isdir(root) or (is_url(root) and not is_table):
        folder = os.path.dirname(os.path.relpath(place, os.path.dirname(root)))
    else:
        folder = os.path.dirname(place)
    texts = {"path": file, "folder": folder, "name": os.path.basename(file)}
    # Bytes that aren't UTF-8 as \xff.
    return {
        name: text.decode("utf-8", "backslashreplace") for name, text in texts.items()
    }


def _path_to_remove(
    path: str | os.PathLike, roots: Container[bytes], known: Container[bytes]
) -> bytes:
    """The path that `remove` means, as the index has it."""
    name = os.fsencode(without_secrets(os.fsdecode(path)))
    if name in known or name in roots:
        return name
    if not name or b"\0" in name:
        raise InputError(
            "`remove` must be images, folders or tables of the index, received "
            f"{os.fsdecode(name)!r}; write `.` for the current folder."
        )
    if is_url(path):
        return name.rstrip(b"/")
    # An image may be a link, which has its own name in the index.
    plain = os.path.abspath(os.path.expanduser(name))
    file = plain if plain in known else os.path.realpath(plain)
    if os.path.dirname(file) == file and file not in roots:
        raise InputError(
            "`remove` must be images, folders or tables of the index, received "
            f"{os.fsdecode(file)}, which holds all of them; name each."
        )
    return file


def remove(store: Store, paths: Iterable[str | os.PathLike]) -> int:
    """Drops images by their path or by that of a folder or table above them."""
    roots, known = store.roots(), store.known()
    unreadable, forgotten = store.unreadable(), set[bytes]()
    dropped, dropped_roots = set[int](), set[bytes]()
    matches: list[tuple[bytes, int | None, dict[bytes, int]]] = []
    # Images of a dropped source that another source holds too.
    moved: dict[int, tuple[bytes, bytes]] = {}
    for path in paths:
        file = _path_to_remove(path, roots, known)
        within = os.path.join(file, b"")
        root = roots.get(file)
        found = {
            known_file: image[0]
            for known_file, image in known.items()
            if known_file == file or known_file.startswith(within) or image[1] == root
        }
        if not found and root is None:
            raise InputError(
                "`remove` must be images, folders or tables of the index, received "
                f"{os.fsdecode(file)}; check the path."
            )
        matches.append((file, root, found))
        if root is not None:
            dropped_roots.add(file)
    left = {file: id for file, id in roots.items() if file not in dropped_roots}
    for file, root, found in matches:
        within = os.path.join(file, b"")
        for known_file, id in found.items():
            holder = None
            if root is not None:
                holder = _holder(known_file, known[known_file][1], left)
            if holder is None:
                dropped.add(id)
            else:
                moved[id] = known_file, holder
        forgotten.update(
            name
            for name, note in unreadable.items()
            if name.startswith(within) or note[0] == root
        )
    with store.transaction():
        store.drop(dropped)
        for id, (file, root_file) in moved.items():
            if id not in dropped:
                changes = {"root": left[root_file], **_names(file, root_file)}
                store.update(id, changes)
        store.forget_unreadable(forgotten)
        for file in dropped_roots:
            store.drop_root(file)
    store.compact()
    return len(dropped)


def _holder(file: bytes, root: int, sources: dict[bytes, int]) -> bytes | None:
    """The source that holds an image: its own, or the nearest folder above it."""
    parent = next((source for source, id in sources.items() if id == root), None)
    if parent is not None:
        return parent
    place = shard_of(file) if is_record(file) else file
    above = [
        source for source in sources if place.startswith(os.path.join(source, b""))
    ]
    return max(above, key=len, default=None)
