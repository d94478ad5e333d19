"""Local copies of files and folders on object stores.

A numbered pointer such as `.align_keras/00000042.json` lists the files of a folder and
their objects. The newest pointer is valid. A writer uploads changed files as new
objects and creates the next pointer last, so that a reader sees all changes of an
upload or none.

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
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, hold, read_json
from align_keras.utils.progress import say
from align_keras.utils.remote import list_url
from align_keras.utils.remote_requests import WRITABLE, file_system, send

_VERSION = 1
_FOLDER = ".align_keras"
# Number of a pointer, or of the upload that wrote an object.
_NUMBERED = re.compile(rf"{_FOLDER}/(\d{{8}})(?:\.json$|-)")
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
    and may be deleted.

    Args:
        url: URL that starts with `s3://` or `gs://`. A read-only URL may also start
            with `hf://`.
        argument: name of the argument for messages.
        writes: False for a read-only copy.
        pushes: False to upload only when the block ends. Use it for files that are
            modified in place, such as a database.

    Yields:
        Local folder or file.

    Raises:
        OSError: if the store can't be reached, or if there is nothing to read.
        InputError: if the folder to write contains files of another program, or if
            another process writes it.

    Example:

    ```python
    with mirrored("memory://bucket/folder") as folder:  # or s3://, gs://
        (folder / "notes.txt").write_text("uploaded when the block ends")
    with mirrored("memory://bucket/folder", writes=False) as folder:
        (folder / "notes.txt").read_text()  # 'uploaded when the block ends'
    ```
    """
    if writes and url.partition("://")[0].lower() not in WRITABLE:
        raise InputError(
            f"{argument} must be a local path, s3:// or gs://. Received: {url}. Other "
            "addresses are read-only."
        )
    url = url.rstrip("/")
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
    # A writer and the readers of an address use different copies.
    name = f"{digest}{'' if writes else '-read'}"
    local = pathlib.Path(home, "align_keras/storage", name, url.rpartition("/")[2])
    copy_type = _File if url.lower().endswith(_FILE_SUFFIXES) else _Folder
    copy = copy_type(url, argument, local)
    local.parent.mkdir(parents=True, exist_ok=True)
    while (lock := hold(local.parent / ".lock")) is None:
        if writes:
            raise copy.busy_error("Another process on this machine is writing it.")
        time.sleep(0.2)  # Another reader is downloading the copy.
    if not writes:
        with lock:
            copy.pull(writes=False)
        yield local
        return
    with lock, copy.open_for_writing(pushes):
        yield local


class _Copy:
    """Local copy of a remote file or folder."""

    def __init__(self, url: str, argument: str, local: pathlib.Path) -> None:
        self.url, self.argument, self.local = url, argument, local
        self.fs, self.path = file_system(url)

    def busy_error(self, reason: str) -> InputError:
        return InputError(
            f"{self.argument} must be written by one process at a time. Received: "
            f"{self.url}. {reason}"
        )

    def call_store(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the store's file system."""
        call = getattr(self.fs, method)
        return send(lambda: call(*arguments, **options), self.url)

    def download(self, path: str, file: pathlib.Path) -> None:
        with atomic_path(file) as temporary:
            self.call_store("get_file", path, str(temporary))


class _File(_Copy):
    """Local copy of a single object."""

    def pull(self, writes: bool) -> None:
        try:
            self.download(self.path, self.local)
        except FileNotFoundError:
            if not writes:
                raise
            self.local.unlink(missing_ok=True)

    @contextlib.contextmanager
    def open_for_writing(self, pushes: bool) -> Iterator[None]:
        self.pull(writes=True)
        downloaded_stamp = _read_stamp(self.local)
        yield
        if _read_stamp(self.local) not in (None, downloaded_stamp):
            self.call_store("put_file", str(self.local), self.path)
            say(f"uploaded {self.url}")


class _Folder(_Copy):
    """Local copy of a folder with pointers."""

    def __init__(self, url: str, argument: str, local: pathlib.Path) -> None:
        super().__init__(url, argument, local)
        # Number and entries of the newest pointer.
        self.number = 0
        self.files: dict[str, _Entry] = {}
        # Digests of local files by name: size in bytes, modification time in ns, and
        # SHA-256.
        self.digests: dict[str, list] = {}
        # Id of the pointers that this call creates.
        self.id = uuid.uuid4().hex

    @contextlib.contextmanager
    def open_for_writing(self, pushes: bool) -> Iterator[None]:
        self.pull(writes=True)
        say(f"{self.url}: using the local copy {self.local}")
        done = threading.Event()
        thread = threading.Thread(target=self._push_periodically, args=(done,))
        if pushes:
            thread.start()
        try:
            yield
        except BaseException:
            _stop(thread, done)
            try:
                self._push()
            except OSError as error:
                say(f"{self.url} isn't up to date. {self.local} is. {error}")
            raise
        _stop(thread, done)
        self._push()
        say(f"uploaded {len(self.files):,} files to {self.url}")

    # --- Download ---

    def pull(self, writes: bool) -> None:
        """Downloads the files of the newest pointer that the local copy lacks.

        If that pointer is the one of the last call, a writer keeps local changes, which
        a killed call has not uploaded.
        """
        state = read_json(self._state_file) if self.local.exists() else {}
        self.digests = state.get("files", {})
        for tries_left in (2, 1, 0):
            try:
                pointer = self._read_pointer(writes)
                if writes and pointer.get("id", "") == state.get("id"):
                    return
                self._download_files()
                break
            except OSError as error:
                if not tries_left or error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                time.sleep(1)  # A writer replaced the pointer during the download.
        if not self.files and not writes:
            problem = "the folder is empty or doesn't exist"
            raise FileNotFoundError(errno.ENOENT, problem, self.url)
        self._save_state(pointer.get("id"))

    def _read_pointer(self, writes: bool) -> dict[str, Any]:
        """Reads the newest pointer, or lists the objects of a folder without one."""
        self.number = _newest_number(self._find_objects())
        if not self.number:
            files = list_url(self.url)
            if writes and files:
                raise InputError(
                    f"{self.argument} must be a new folder or one that align-keras "
                    f"wrote. Received: {self.url}, which contains {files[0].name}. "
                    "Choose another folder."
                )
            self.files = {file.name: [file.name, *file[1:]] for file in files}
            return {}
        pointer_path = self._object_path(_pointer_name(self.number))
        pointer = json.loads(self.call_store("cat_file", pointer_path))
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
        self.files = pointer["files"]
        return pointer

    def _download_files(self) -> None:
        stamps = self._scan_local_copy()
        for name in set(stamps) - set(self.files):
            (self.local / name).unlink()
        missing_files = {
            name: entry
            for name, entry in self.files.items()
            if self.digests.get(name) != [*stamps.get(name, []), entry[2]]
        }
        if missing_files:
            total = sum(size for _, size, _ in missing_files.values())
            say(
                f"downloading {len(missing_files):,} files, {total:,} bytes, from "
                f"{self.url}"
            )
        self.local.mkdir(exist_ok=True)
        _in_threads(lambda item: self._download_file(*item), missing_files.items())

    def _download_file(self, name: str, entry: _Entry) -> None:
        """Downloads a file and checks its size and digest."""
        key, size, digest = entry
        file = self.local / name
        self.download(self._object_path(key), file)
        received_digest = _compute_digest(file) if self.number else digest
        if file.stat().st_size != size or received_digest != digest:
            file.unlink()
            problem = "the object differs from its pointer"
            raise OSError(errno.ESTALE, problem, f"{self.url}/{key}")
        self.digests[name] = [*(_read_stamp(file) or ()), digest]

    # --- Upload ---

    def _push_periodically(self, done: threading.Event) -> None:
        """Uploads changes every two minutes until the event `done` is set."""
        while not done.wait(SECONDS_BETWEEN_PUSHES):
            try:
                self._push()
            except InputError:
                # The upload at the end of the block raises the error again.
                _thread.interrupt_main()
                return
            except OSError as error:
                say(f"uploading to {self.url} failed ({error.strerror}). Trying again")

    def _push(self) -> None:
        """Uploads the changes of the local copy."""
        if _newest_number(self._find_objects()) != self.number:
            raise self._second_writer_error()
        stamps = self._scan_local_copy()
        entries = _in_threads(lambda item: self._upload_file(*item), stamps.items())
        files = {
            name: entry
            for name, entry in zip(stamps, entries, strict=True)
            if entry is not None
        }
        if files != self.files:
            self._create_pointer(files)
            self._save_state(self.id)

    def _upload_file(self, name: str, stamp: list[int]) -> _Entry | None:
        """Uploads a file if it has changed, and returns its entry."""
        # If the file changes during its upload, the result is its previous entry or
        # None, and the next call uploads the file.
        file = self.local / name
        previous_entry = self.files.get(name)
        try:
            if self.digests.get(name, [])[:2] != stamp:
                self.digests[name] = [*stamp, _compute_digest(file)]
            digest = self.digests[name][2]
            if previous_entry and previous_entry[2] == digest:
                return previous_entry
            key = self._put_new_object(file, name)
        except FileNotFoundError:  # The file was deleted.
            return previous_entry
        if _read_stamp(file) != stamp:
            return previous_entry
        return [key, stamp[0], digest]

    def _put_new_object(self, file: pathlib.Path, name: str) -> str:
        """Uploads a file as an object that no pointer lists, and returns its name."""
        # Other tools can open the object by the name of its file if the file is new.
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

    def _create_pointer(self, files: dict[str, _Entry]) -> None:
        """Creates the next pointer and removes objects that it does not list."""
        number = self.number + 1
        path = self._object_path(_pointer_name(number))
        pointer = {"version": _VERSION, "id": self.id, "files": files}
        content = json.dumps(pointer).encode()
        stored_content = content
        try:
            self.call_store("pipe_file", path, content, mode="create")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ESTALE):
                raise
            # The response to a successful request may have been lost.
            stored_content = self.call_store("cat_file", path)
        objects = self._find_objects()
        # Another writer may have removed its pointer of this number.
        if stored_content != content or _newest_number(objects) != number:
            raise self._second_writer_error()
        self._remove_objects(objects, files, number)
        self.number, self.files = number, files

    def _second_writer_error(self) -> InputError:
        return self.busy_error(
            f"Another process has written it. Your changes are in {self.local} until "
            "the next command."
        )

    def _remove_objects(
        self, objects: dict[str, int], files: dict[str, _Entry], number: int
    ) -> None:
        """Removes what only earlier pointers list, and these pointers."""
        # A file that has changed may still have an object with its name.
        paths = {self._object_path(name) for name in files}
        paths |= {self._object_path(key) for key, _, _ in self.files.values()}
        # The number of another writer's current upload is higher.
        paths |= {
            path for path, object_number in objects.items() if object_number <= number
        }
        paths -= {self._object_path(key) for key, _, _ in files.values()}
        paths.discard(self._object_path(_pointer_name(number)))
        _in_threads(self._remove_object, paths)

    def _remove_object(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.call_store("rm_file", path)

    # --- Names ---

    def _object_path(self, key: str) -> str:
        return f"{self.path}/{key}".strip("/")

    def _find_objects(self) -> dict[str, int]:
        """Returns the numbers of pointers and of objects of changed files by path."""
        try:
            paths = self.call_store("find", self._object_path(_FOLDER))
        except FileNotFoundError:
            return {}
        matches = {path.strip("/"): _NUMBERED.search(path) for path in paths}
        return {path: int(match[1]) for path, match in matches.items() if match}

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

    @property
    def _state_file(self) -> pathlib.Path:
        return self.local.parent / "state.json"

    def _save_state(self, pointer_id: str | None) -> None:
        with atomic_write(self._state_file) as file:
            json.dump({"id": pointer_id, "files": self.digests}, file)


def _pointer_name(number: int) -> str:
    return f"{_FOLDER}/{number:08}.json"


def _newest_number(objects: dict[str, int]) -> int:
    """Returns the number of the newest pointer, or 0."""
    pointers = [
        number
        for path, number in objects.items()
        if path.endswith(_pointer_name(number))
    ]
    return max(pointers, default=0)


def _stop(thread: threading.Thread, done: threading.Event) -> None:
    done.set()
    if thread.ident is not None:
        thread.join()


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


def _in_threads(function: Callable, items: Iterable) -> list:
    """Calls a function with each item in parallel and raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(function, items))
