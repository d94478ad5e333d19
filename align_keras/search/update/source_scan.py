"""Sources of an index: folders and tables, and the scan of their files."""

import collections
import errno
import os
import shlex
import stat
from collections.abc import Iterator
from typing import NamedTuple

from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.pair_files import PairRecord, read_pairs
from align_keras.corpus.sources.source_files import is_folder
from align_keras.corpus.text_tables import TABLE_SUFFIXES
from align_keras.search.index.image_store import ImageStore
from align_keras.search.index.schema import UnreadableFile
from align_keras.search.readers.corpus_images import is_record, shard_of
from align_keras.search.readers.image_files import (
    UNREACHABLE,
    ImageFile,
    SkippedFile,
    encode_path,
    find_images,
    stat_file,
)
from align_keras.search.update.changes import PERMANENT_REASONS, Changes, FileToEmbed
from align_keras.search.update.file_embedding import map_in_order
from align_keras.utils.addresses import is_url, without_query
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.remote import absolute_path, stat_url

# Number of concurrent requests to a server for the files of a table.
_REQUESTS = 16
# Errors for a path if a part of it is missing, or is a file instead of a folder.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def resolve_source(source: str | os.PathLike) -> bytes:
    """Converts the path or address of a source to the form that the index stores.

    Raises:
        InputError: if it is not an existing folder or table.
    """
    if is_url(source):
        url = without_query(os.fsdecode(source)).rstrip("/")
        if not is_table(url) and (url.startswith("http") or stat_url(url) is not None):
            raise InputError(
                "`sources` at an address must be tables that end in "
                f"{', '.join(TABLE_SUFFIXES)}, or folders of images in an object "
                f"store. Received: {url}. Use the address of a table or folder."
            )
        return os.fsencode(url)
    file = os.path.abspath(os.path.expanduser(os.fsencode(source)))
    is_existing_table = is_table(os.fsdecode(file)) and os.path.exists(file)
    if not (is_existing_table or os.path.isdir(file)):
        raise InputError(
            "`sources` must be existing folders of images or tables that end in "
            f"{', '.join(TABLE_SUFFIXES)}. Received: {os.fsdecode(file)}. Check the "
            "path, or name the folder of an image."
        )
    return os.path.realpath(file)


def is_table(source: str) -> bool:
    """Returns True for the path or address of a table, and False for a folder."""
    return source.lower().endswith(TABLE_SUFFIXES)


def path_columns(file: bytes, root: bytes) -> dict[str, str]:
    """Returns the columns `path`, `folder` and `name` of an image.

    For an image in a folder source, `folder` begins with the name of the source.
    """
    path = shard_of(file) if is_record(file) else file
    is_folder_at_url = is_url(root) and not is_table(os.fsdecode(root))
    if os.path.isdir(root) or is_folder_at_url:
        folder = os.path.dirname(os.path.relpath(path, os.path.dirname(root)))
    else:
        folder = os.path.dirname(path)
    texts = {"path": file, "folder": folder, "name": os.path.basename(file)}
    # Bytes that are not UTF-8 are written as \xff.
    return {
        name: text.decode("utf-8", "backslashreplace") for name, text in texts.items()
    }


def source_exists(file: bytes) -> bool:
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


class SourceScan:
    """Scan of the sources of an index, which compares their files with the index.

    Attributes:
        changes: counts of the update.
        files: new and changed files to embed.
        deleted: id → path of the images whose files were deleted.
        unreachable: id of the images whose files are unreachable → True if the image
            counts as unchanged. These images stay in the index, unless the scan has a
            file with the same content, for example because a source was moved.
        table_records: id of a table → path of an image → its record in the table.
        scanned_roots: ids of the sources that were scanned completely.
        left_out: path → record of each file that was left out.
        stored_unreadable: path → record of each file that an earlier update left out.
    """

    def __init__(self, store: ImageStore) -> None:
        self.changes = Changes()
        self.files: list[FileToEmbed] = []
        self.deleted: dict[int, bytes] = {}
        self.unreachable: dict[int, bool] = {}
        self.table_records: dict[int, dict[bytes, PairRecord]] = {}
        self.scanned_roots: set[int] = set()
        self.left_out: dict[bytes, UnreadableFile] = {}
        self.stored_unreadable = store.unreadable()
        self._store = store
        self._stored = store.stored_files()
        # Paths of all files of the scanned sources.
        self._seen: set[bytes] = set()
        # Ids of the requested sources that do not exist.
        self._missing: set[int] = set()

    def run(self, roots: dict[bytes, int]) -> None:
        """Scans sources, a dict from path to id."""
        for file, root in roots.items():
            self._scan_source(file, root)
        self._find_unseen_images()

    def _scan_source(self, file: bytes, root: int) -> None:
        """Scans a source and adds its new and changed files to `files`."""
        problems: list[SkippedFile] = []
        count = 0
        has_images = any(stored.root == root for stored in self._stored.values())
        if not source_exists(file):
            self._keep_images(file, root, "is missing")
            self._missing.add(root)
            return
        try:
            if is_folder(os.fsdecode(file)):
                images = find_images(file)
            else:
                images = self._read_table(file, root)
            for image in images:
                if isinstance(image, SkippedFile):
                    problems.append(image)
                    continue
                count += 1
                if image.file not in self._seen:
                    self._seen.add(image.file)
                    self._plan_file(image, root, file)
            if not (count or has_images or problems):
                raise InputError(
                    "`sources` must contain image files, such as JPEG, PNG, WebP, "
                    f"TIFF, HEIC or RAW. Received: {os.fsdecode(file)}, which contains "
                    "none. Check the path."
                )
        except InputError:
            if not has_images:
                with self._store.database.transaction():
                    self._store.remove_root(file)
            raise
        for problem in problems:
            self._add_problem(problem, root)
        if not count and has_images:
            self._keep_images(file, root, "contains no image")
            return
        self.scanned_roots.add(root)

    def _add_problem(self, problem: SkippedFile, root: int) -> None:
        """Leaves out a file, folder or shard that the scan could not read."""
        # Files that cannot be reached or listed may still exist. They count as seen, so
        # that they stay in the index.
        path, reason, detail = problem
        self.leave_out(path, UnreadableFile(root, 0, 0, reason, detail))
        if reason == UNREACHABLE:
            self._seen.add(path)
        if reason.startswith("folder: "):
            prefix = os.path.join(path, b"")
            self._seen.update(
                stored for stored in self._stored if stored.startswith(prefix)
            )
        if reason.startswith("shard: "):
            self._seen.update(
                stored
                for stored in self._stored
                if is_record(stored) and shard_of(stored) == path
            )

    def _read_table(self, file: bytes, root: int) -> Iterator[ImageFile | SkippedFile]:
        """Yields the images of a table, and stores their records."""
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

    def _plan_file(self, image_file: ImageFile, root: int, root_file: bytes) -> None:
        """Adds a file to `files` if it is new or has changed."""
        stamp = image_file.size, image_file.mtime_ns
        stored = self._stored.get(image_file.file)
        if stored is not None and (stored.size, stored.mtime_ns) == stamp:
            self.changes.unchanged += 1
            return
        record = self.stored_unreadable.get(image_file.file)
        if record is not None and (record.size, record.mtime_ns) == stamp:
            if record.reason in PERMANENT_REASONS:
                self.leave_out(image_file.file, record)
                return
        id = None if stored is None else stored.id
        self.files.append(FileToEmbed(image_file, root, root_file, id))

    def leave_out(self, file: bytes, record: UnreadableFile) -> None:
        """Counts a file that cannot be read."""
        self.changes.add_unreadable(file, record.reason, record.detail)
        self.left_out[file] = record

    def _find_unseen_images(self) -> None:
        """Finds the images of the index whose files the scan has not seen."""
        problems: collections.Counter[_Obstacle] = collections.Counter()
        reachability = _Reachability()
        roots = self._store.sources()
        tables = {id for file, id in roots.items() if is_table(os.fsdecode(file))}
        missing = {
            id
            for file, id in roots.items()
            if not (id in self.scanned_roots or is_url(file) or os.path.lexists(file))
        }
        for file, stored in self._stored.items():
            id, root = stored.id, stored.root
            if root in missing and file not in self._seen:
                self.unreachable[id] = root in self._missing
            if root not in self.scanned_roots or file in self._seen:
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
                    obstacle = _Obstacle(folder, "is missing")
            if obstacle is None:
                self.deleted[id] = file
            else:
                self.unreachable[id] = True
                problems[obstacle] += 1
        for (folder, problem), count in problems.items():
            self._report_unavailable(folder, count, problem)

    def _keep_images(self, file: bytes, root: int, problem: str) -> None:
        """Keeps the images of a missing or empty source."""
        # The source may be on a disk that is not mounted, and the index must not lose
        # its images then.
        count = sum(stored.root == root for stored in self._stored.values())
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


def _stat_image(record: PairRecord) -> tuple[bytes, PairRecord, ImageFile | OSError]:
    """Returns the path of an image, its record, and the `ImageFile` or an error."""
    image = absolute_path(encode_path(record.image_path))
    try:
        return image, record, stat_file(image)
    except OSError as error:
        return image, record, error


class _Obstacle(NamedTuple):
    """Problem of a folder that prevents the check whether a file still exists.

    Attributes:
        folder: path of the folder.
        problem: description such as "is empty", for use after the path.
    """

    folder: bytes
    problem: str


class _Reachability:
    """Check whether files were deleted. It caches its results for folders.

    A disk that is not mounted, a network that is down or a folder without read
    permission must not empty an index. A file therefore counts as deleted only if its
    folder exists, can be listed and does not contain the file.
    """

    def __init__(self) -> None:
        self._folders: dict[bytes, _Obstacle | None] = {}

    def obstacle(self, file: bytes) -> _Obstacle | None:
        """Returns why a file cannot be checked, or None if the file was deleted.

        Args:
            file: absolute path of a file of the index that a scan of its source
                did not list.
        """
        try:
            is_link = stat.S_ISLNK(os.lstat(file).st_mode)
        except OSError as error:
            return self._obstacle_of_error(file, error)
        except ValueError:  # A path that contains NUL cannot exist.
            return None
        if not is_link:
            return None
        target = os.path.realpath(file)
        try:
            os.stat(target)
        except OSError as error:
            return self._obstacle_of_error(target, error)
        return None

    def _obstacle_of_error(self, file: bytes, error: OSError) -> _Obstacle | None:
        """Returns the obstacle for a file whose status cannot be read."""
        folder = os.path.dirname(file)
        if error.errno not in _ABSENT:
            return _Obstacle(folder, f"can't be reached ({error.strerror})")
        return self._folder_obstacle(folder)

    def _folder_obstacle(self, folder: bytes) -> _Obstacle | None:
        """Returns the obstacle of a folder, or of its nearest existing parent."""
        if folder in self._folders:
            return self._folders[folder]
        obstacle: _Obstacle | None = None
        try:
            with os.scandir(folder) as entries:
                if next(entries, None) is None:
                    obstacle = _Obstacle(folder, "is empty")
        except OSError as error:
            parent = os.path.dirname(folder)
            if error.errno not in _ABSENT:
                obstacle = _Obstacle(folder, f"can't be listed ({error.strerror})")
            elif parent != folder:
                obstacle = self._folder_obstacle(parent)
        self._folders[folder] = obstacle
        return obstacle
