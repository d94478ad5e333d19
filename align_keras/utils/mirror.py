"""Local copies of folders on object stores, with atomic uploads.

A numbered pointer such as `.align_keras/00000042.json` lists the files of the folder
and their objects. The newest pointer is valid. A writer uploads changed files as new
objects and creates the next pointer last, so that a reader sees all changes of an
upload or none. Listed objects never change.

A store creates the pointer of a number only once (If-None-Match on S3,
ifGenerationMatch on GCS), so that a second writer is refused.
"""

import _thread
import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, hold, read_json
from align_keras.utils.progress import say
from align_keras.utils.remote import WRITABLE, file_system, list_url, open_url, send

_VERSION = 1
_FOLDER = ".align_keras"
# Seconds between two uploads. A killed machine loses at most this much work.
SECONDS_BETWEEN_PUSHES = 120.0
_NUM_THREADS = 8
# An address with one of these suffixes is a single file without pointers.
_FILE_SUFFIXES = (
    ".parquet",
    ".csv",
    ".tsv",
    ".jsonl",
    ".json",
    ".html",
    ".onnx",
    ".tflite",
)
# Entry of a file in a pointer: object in the store, size in bytes, and SHA-256.
_Entry = list[Any]


@contextlib.contextmanager
def mirrored(
    url: str, argument: str = "url", *, writes: bool = True, pushes: bool = True
) -> Iterator[pathlib.Path]:
    """Downloads a remote folder or file and uploads the changes of the block.

    Changes of a folder are uploaded every two minutes and when the block ends, even if
    it raises an error. A file is uploaded when the block ends without an error. The
    local copy is in `align_keras/storage` of `$XDG_CACHE_HOME` (by default `~/.cache`)
    and may be deleted. After a kill, the copy still contains the changes that were not
    uploaded, and the next call continues with them.

    Args:
        url: str, URL that starts with `s3://` or `gs://`. A read-only URL may also
            start with `hf://`.
        argument: str, name of the argument for messages.
        writes: bool, False for a read-only copy.
        pushes: bool, False to upload only when the block ends. Use it for files that
            are modified in place, such as a database.

    Yields:
        `pathlib.Path` of the local folder or file.

    Raises:
        InputError: if the store can't be reached, if there is nothing to read, if the
            folder to write contains files of another program, or if another process
            writes it.

    Example:

    ```python
    with mirrored("memory://bucket/folder") as folder:  # or s3://, gs://
        (folder / "notes.txt").write_text("uploaded when the block ends")
    with mirrored("memory://bucket/folder", writes=False) as folder:
        (folder / "notes.txt").read_text()  # 'uploaded when the block ends'
    ```
    """
    scheme = url.partition("://")[0].lower()
    if writes and scheme not in WRITABLE:
        raise InputError(
            f"{argument} must be a local path, s3:// or gs://. Received: {url}. Other "
            "addresses are read-only."
        )
    url = url.rstrip("/")
    kind = _FileCopy if url.lower().endswith(_FILE_SUFFIXES) else _FolderCopy
    try:
        with kind(url, argument, writes).open_copy(pushes) as path:
            yield path
    except OSError as error:
        if not str(error.filename).startswith(url):
            raise
        adjective = "writable" if writes else "readable"
        raise InputError(
            f"{argument} must be a {adjective} address. Received: {url}. The store "
            f"reported: {error.strerror} ({error.filename}). Check the address and "
            "your permissions."
        ) from error


class _Copy:
    """Local copy of a remote file or folder.

    The writer and the readers of an address use different copies.
    """

    def __init__(self, url: str, argument: str, writes: bool) -> None:
        self.url, self.argument, self.writes = url, argument, writes
        self.fs, self.path = file_system(url)
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
        name = f"{digest}{'' if writes else '-read'}"
        self.cache_folder = pathlib.Path(home, "align_keras/storage", name)
        self.local = self.cache_folder / url.rpartition("/")[2]
        self.cache_folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def hold_lock(self) -> Iterator[None]:
        """Holds the lock of the copy, for which a reader waits."""
        while (lock := hold(self.cache_folder / ".lock")) is None and not self.writes:
            time.sleep(0.2)  # Another reader is downloading the copy.
        if lock is None:
            raise self.busy_error("Another process on this machine is writing it.")
        with lock:
            yield

    def busy_error(self, reason: str) -> InputError:
        return InputError(
            f"{self.argument} must be written by one process at a time. Received: "
            f"{self.url}. {reason} Wait until it has finished, or choose another "
            "address."
        )

    def call_store(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the store's file system."""
        call = getattr(self.fs, method)
        return send(lambda: call(*arguments, **options), self.url)


class _FileCopy(_Copy):
    """Local copy of a single object."""

    @contextlib.contextmanager
    def open_copy(self, pushes: bool) -> Iterator[pathlib.Path]:
        with self.hold_lock():
            try:
                _download(self.url, self.local)
                downloaded_stamp = _read_stamp(self.local)
            except FileNotFoundError:
                # The local file of a killed call is uploaded at the end.
                downloaded_stamp = None
                if not self.writes:
                    raise
            yield self.local
            if self.writes and _read_stamp(self.local) not in (None, downloaded_stamp):
                self.call_store("put_file", str(self.local), self.path)
                say(f"uploaded {self.url}")


class _FolderCopy(_Copy):
    """Local copy of a folder with pointers."""

    def __init__(self, url: str, argument: str, writes: bool) -> None:
        super().__init__(url, argument, writes)
        # Number and entries of the newest pointer.
        self.number = 0
        self.files: dict[str, _Entry] = {}
        # Local files that were downloaded or uploaded, by name: size in bytes,
        # modification time in nanoseconds, and SHA-256.
        self.synced_files: dict[str, list] = {}
        # Id of this copy. After a kill, the next call thus recognizes a pointer that
        # its state does not know yet.
        self.id = uuid.uuid4().hex
        # Number of the pointer in the state of the last call.
        self.last_number: int | None = None
        # Error of the thread that uploads in the background.
        self.thread_error: InputError | None = None

    @contextlib.contextmanager
    def open_copy(self, pushes: bool) -> Iterator[pathlib.Path]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hold_lock())
            self._load_state()
            self._pull()
            if not self.writes:
                stack.close()
                yield self.local
                return
            if self.number:
                self._remove_old_objects()  # The last call may have been killed.
            else:
                self._create_pointer({})
            say(f"{self.url}: using the local copy {self.local}")
            done = threading.Event()
            thread = threading.Thread(
                target=self._push_periodically, args=(done, pushes)
            )
            thread.start()
            try:
                yield self.local
            except BaseException:
                self._stop(done, thread, after_error=True)
                raise
            self._stop(done, thread)
            say(f"uploaded {len(self.files):,} files to {self.url}")

    def _stop(
        self, done: threading.Event, thread: threading.Thread, after_error: bool = False
    ) -> None:
        """Stops the background thread and uploads the last changes.

        If the block raised an error, a failed upload is printed instead of raised.
        """
        done.set()
        thread.join()
        if self.thread_error is not None:
            raise self.thread_error
        try:
            self._push()
            if not self.files:  # A folder without files needs no pointer.
                self._remove_object(self._pointer_path(self.number))
        except (OSError, InputError) as error:
            if not after_error:
                raise
            say(f"{self.url} isn't up to date. {self.local} has all changes. {error}")

    # --- Pointers ---

    def _pointer_path(self, number: int) -> str:
        return f"{self.path}/{_FOLDER}/{number:08}.json"

    def _find_objects(self) -> dict[str, int]:
        """Returns the numbers of pointers and of objects of changed files by path."""
        folder = self._object_path(_FOLDER)
        try:
            paths = [path.strip("/") for path in self.call_store("find", folder)]
        except FileNotFoundError:
            return {}
        names = {path: path[len(folder) + 1 :] for path in paths}
        return {
            path: int(name[:8]) for path, name in names.items() if name[:8].isdecimal()
        }

    def _newest_number(self) -> int:
        """Returns the number of the newest pointer, or 0."""
        objects = self._find_objects().items()
        return max((number for path, number in objects if _is_pointer(path)), default=0)

    def _read_pointer(self) -> dict[str, Any]:
        """Reads the newest pointer, or lists the objects of a folder without one."""
        self.number = self._newest_number()
        if not self.number:
            files = list_url(self.url)
            if self.writes and files:
                raise InputError(
                    f"{self.argument} must be a new folder or one that align-keras "
                    f"wrote. Received: {self.url}, which contains {files[0].name}. "
                    "Choose another folder."
                )
            return {"files": {file.name: [file.name, *file[1:]] for file in files}}
        pointer = json.loads(
            self.call_store("cat_file", self._pointer_path(self.number))
        )
        version = pointer.get("version")
        if version != _VERSION:
            raise InputError(
                f"{self.argument} must be a folder of format {_VERSION}. Received: "
                f"{self.url} of format {version}. Delete it and run the command that "
                "wrote it again."
            )
        for name in pointer["files"]:
            path = pathlib.PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(
                    f"The pointer of {self.url} must list relative file names. "
                    f"Received: {name!r}. Write the folder again."
                )
        return pointer

    def _create_pointer(self, files: dict[str, _Entry]) -> None:
        """Creates the next pointer and removes what only older pointers list."""
        pointer = {"version": _VERSION, "id": self.id, "files": files}
        content = json.dumps(pointer).encode()
        path = self._pointer_path(self.number + 1)
        try:
            self.call_store("pipe_file", path, content, mode="create")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ESTALE):
                raise
            # The response to a successful request may have been lost.
            if self.call_store("cat_file", path) != content:
                raise self._second_writer_error() from None
        self._check_newest(self.number + 1)
        self.number, self.files = self.number + 1, files
        self._save_state()
        self._remove_old_objects()

    def _check_newest(self, number: int) -> None:
        if self._newest_number() != number:
            raise self._second_writer_error()

    def _second_writer_error(self) -> InputError:
        return self.busy_error(
            f"Another process has written it. {self.local} keeps your changes."
        )

    def _remove_old_objects(self) -> None:
        """Removes old pointers and the objects that the newest pointer does not list.

        The pointers are removed last, so that an interrupted removal is repeated.
        """
        # A file that has changed may still have an object with its name.
        old_objects = {self._object_path(name) for name in self.files}
        old_pointers = set()
        for path, number in self._find_objects().items():
            if number <= self.number and not _is_pointer(path):
                old_objects.add(path)
            elif number < self.number:
                old_pointers.add(path)
                files = json.loads(self.call_store("cat_file", path))["files"]
                old_objects |= {self._object_path(key) for key, _, _ in files.values()}
        old_objects -= {self._object_path(key) for key, _, _ in self.files.values()}
        _in_threads(self._remove_object, old_objects)
        _in_threads(self._remove_object, old_pointers)

    def _object_path(self, key: str) -> str:
        return f"{self.path}/{key}".strip("/")

    def _remove_object(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.call_store("rm_file", path)

    # --- Download ---

    def _pull(self) -> None:
        """Updates the local copy to the newest pointer."""
        for tries_left in (2, 1, 0):
            pointer = self._read_pointer()
            self.files = pointer["files"]
            if not self.files and not self.writes:
                raise FileNotFoundError(
                    errno.ENOENT, "the folder is empty or doesn't exist", self.url
                )
            try:
                self._sync_local_copy(pointer.get("id"))
                return
            except OSError as error:
                if not tries_left or error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                time.sleep(1)  # A writer replaced the pointer during the download.

    def _sync_local_copy(self, pointer_id: str | None) -> None:
        """Downloads the files of the pointer that the local copy lacks.

        A writer keeps the local changes of a killed call if no other process has
        written the folder since. Otherwise, it moves the changes to a separate folder.
        """
        stamps = self._scan_local_copy()
        changed = {
            name
            for name, stamp in stamps.items()
            if self.synced_files.get(name, [])[:2] != stamp
        }
        keeps_changes = self.writes and (
            self.last_number == self.number or pointer_id == self.id
        )
        if self.writes and changed and not keeps_changes:
            backup = self.local.with_name(
                f"{self.local.name}.unsynced-{int(time.time())}"
            )
            self.local.rename(backup)
            say(
                f"another machine has written {self.url}. Local changes that were not "
                f"uploaded are in {backup}"
            )
            stamps = {}
        if not keeps_changes:
            changed = set()
            for name in set(stamps) - set(self.files):
                (self.local / name).unlink()
        missing_files = {}
        for name, entry in self.files.items():
            stamp = stamps.get(name, [])
            synced = self.synced_files.get(name) == [*stamp, entry[2]]
            if name not in changed and not synced:
                self.synced_files.pop(name, None)
                missing_files[name] = entry
        if missing_files:
            total = sum(size for _, size, _ in missing_files.values())
            say(
                f"downloading {len(missing_files):,} files, {total:,} bytes, from "
                f"{self.url}"
            )
        self.local.mkdir(exist_ok=True)
        try:
            _in_threads(lambda item: self._download_file(*item), missing_files.items())
        finally:
            self._save_state()

    def _download_file(self, name: str, entry: _Entry) -> None:
        """Downloads a file and checks its size and digest."""
        key, size, digest = entry
        file = self.local / name
        _download(f"{self.url}/{key}", file)
        received_digest = _compute_digest(file) if self.number else digest
        if file.stat().st_size != size or received_digest != digest:
            file.unlink()
            problem = "the object differs from its pointer"
            raise OSError(errno.ESTALE, problem, f"{self.url}/{key}")
        self.synced_files[name] = [*(_read_stamp(file) or ()), digest]

    # --- Upload ---

    def _push(self) -> None:
        """Uploads the changes of the local copy."""
        self._check_newest(self.number)
        stamps = self._scan_local_copy()
        entries = _in_threads(lambda item: self._upload_file(*item), stamps.items())
        files = {
            name: entry
            for name, entry in zip(stamps, entries, strict=True)
            if entry is not None
        }
        self.synced_files = {
            name: [*stamps[name], digest]
            for name, (_, _, digest) in files.items()
            if stamps[name] == _read_stamp(self.local / name)
        }
        if files != self.files:
            self._create_pointer(files)

    def _upload_file(self, name: str, stamp: list[int]) -> _Entry | None:
        """Uploads a file if it has changed, and returns its entry.

        If the file changes during its upload, the result is its previous entry or None,
        and the next call uploads the file.
        """
        file = self.local / name
        previous_entry = self.files.get(name)
        synced_file = self.synced_files.get(name, [])
        try:
            digest = synced_file[2] if synced_file[:2] == stamp else None
            digest = digest or _compute_digest(file)
            if previous_entry and previous_entry[2] == digest:
                return previous_entry
            key = self._put_new_object(file, name)
        except FileNotFoundError:  # The file was deleted.
            return previous_entry
        if _read_stamp(file) != stamp:
            return previous_entry
        return [key, stamp[0], digest]

    def _put_new_object(self, file: pathlib.Path, name: str) -> str:
        """Uploads a file as an object that no pointer lists, and returns its name.

        Other tools can open the object by the name of its file if the file is new.
        """
        if name not in self.files:
            try:
                path = self._object_path(name)
                self.call_store("put_file", str(file), path, mode="create")
                return name
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ESTALE):
                    raise
        key = f"{_FOLDER}/{self.number + 1:08}-{self.id}/{name}"
        self.call_store("put_file", str(file), self._object_path(key))
        return key

    def _push_periodically(self, done: threading.Event, pushes: bool) -> None:
        """Uploads changes every two minutes until the event `done` is set."""
        while not done.wait(SECONDS_BETWEEN_PUSHES):
            try:
                if pushes:
                    self._push()
                else:
                    self._check_newest(self.number)
            except InputError as error:
                self.thread_error = error
                _thread.interrupt_main()
                return
            except OSError as error:
                say(f"uploading to {self.url} failed ({error.strerror}). Trying again")

    # --- Local copy ---

    def _scan_local_copy(self) -> dict[str, list[int]]:
        """Returns sizes and modification times by file name, as `_read_stamp`."""
        stamps = {}
        for folder, subfolders, names in os.walk(self.local):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and not name.endswith((".lock", "-shm")):
                    path = pathlib.Path(folder, name)
                    stamp = _read_stamp(path)
                    if stamp is not None:
                        stamps[path.relative_to(self.local).as_posix()] = stamp
        return stamps

    def _load_state(self) -> None:
        state = read_json(self.cache_folder / "state.json")
        self.synced_files = state.get("files", {})
        self.last_number = state.get("number")
        self.id = state.get("id", self.id)

    def _save_state(self) -> None:
        state = {"number": self.number, "id": self.id, "files": self.synced_files}
        with atomic_write(self.cache_folder / "state.json") as file:
            json.dump({**state, "url": self.url}, file)


def _is_pointer(path: str) -> bool:
    return re.search(rf"/{_FOLDER}/\d{{8}}\.json$", path) is not None


def _read_stamp(path: pathlib.Path) -> list[int] | None:
    """Returns size in bytes and modification time in ns of a regular file, or None."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns] if path.is_file() else None


def _compute_digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: pathlib.Path) -> None:
    with atomic_path(path) as temporary, open_url(url) as source:
        with open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _in_threads(function: Callable, items: Iterable) -> list:
    """Calls a function with each item in parallel and raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(function, items))
