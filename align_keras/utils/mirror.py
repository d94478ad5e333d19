"""Local copies of folders on object stores, with atomic uploads.

An object has the name of its file, so that other tools can open it directly. A numbered
manifest such as `.align_keras/00000042.json` lists the files of the folder. The newest
manifest is valid. A manifest is never changed after it was written.

A writer uploads the files first and the manifest last. It uploads a changed file under
a temporary name and renames the object after the manifest was written. A reader thus
sees either all changes of an upload or none.

The store allows only one process to create the manifest of a number (If-None-Match on
S3, ifGenerationMatch on GCS). The manifest names its writer, so that a second writer
can be refused.
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
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, hold, read_json
from align_keras.utils.progress import say
from align_keras.utils.remote import (
    WRITABLE,
    file_system,
    list_url,
    open_url,
    send,
)

_MANIFEST_FOLDER = ".align_keras"
# Folder of changed files until they are renamed.
_UPLOAD_FOLDER = ".align_keras/new"
# Seconds between two uploads. A killed machine loses at most this much work.
SECONDS_BETWEEN_PUSHES = 120.0
# Seconds. A writer without a new manifest for this time counts as dead.
SILENT_SECONDS = 900.0
_NUM_THREADS = 8
# An address with one of these suffixes is a single file without manifests.
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
# Entry of a file in a manifest: object in the store, size in bytes, and SHA-256.
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
            folder to write contains files of another program, or if another process is
            writing it.

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
    kind = (
        _RemoteFileCopy if url.lower().endswith(_FILE_SUFFIXES) else _RemoteFolderCopy
    )
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


class _RemoteCopy:
    """Local copy of a remote file or folder.

    The writer and the readers of an address use different copies.

    Args:
        url: str, remote address.
        argument: str, name of the argument for messages.
        writes: bool, False for a read-only copy.
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
        """Holds the lock of the copy, for which a reader waits.

        Raises:
            InputError: if another process of this machine writes the address.
        """
        while (lock := hold(self.cache_folder / ".lock")) is None and not self.writes:
            time.sleep(0.2)  # Another reader is downloading the copy.
        if lock is None:
            raise self.busy_error("another process on this machine")
        with lock:
            yield

    def busy_error(self, writer: str) -> InputError:
        """Returns the error for an address that another process writes."""
        return InputError(
            f"{self.argument} must be written by one process at a time, and {self.url} "
            f"is being written by {writer}. Wait until it has finished, or choose "
            "another address."
        )

    def upload(
        self, file: pathlib.Path, name: str = "", mode: str = "overwrite"
    ) -> None:
        """Uploads a file and checks the size of the object.

        Args:
            file: `pathlib.Path` of the file.
            name: str, object in the remote folder, or "" if the address is a file.
            mode: str, "overwrite", or "create" to refuse an existing object.

        Raises:
            OSError: if the upload fails. The errno is EEXIST or ESTALE if the object
                exists and `mode` is "create".
        """
        target, size = f"{self.path}/{name}".rstrip("/"), file.stat().st_size
        self.call_store("put_file", str(file), target, mode=mode)
        uploaded_size = self.call_store("info", target)["size"]
        if uploaded_size != size:
            raise OSError(
                errno.EIO, f"{uploaded_size:,} of {size:,} bytes arrived", self.url
            )

    def call_store(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the store's file system and retries temporary errors."""
        call = getattr(self.fs, method)
        return send(lambda: call(*arguments, **options), self.url)


class _RemoteFileCopy(_RemoteCopy):
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
                self.upload(self.local)
                say(f"uploaded {self.url}")


class _RemoteFolderCopy(_RemoteCopy):
    """Local copy of a folder with manifests."""

    def __init__(self, url: str, argument: str, writes: bool) -> None:
        super().__init__(url, argument, writes)
        # Number and entries of the newest manifest.
        self.number = 0
        self.files: dict[str, _Entry] = {}
        # Local files that were downloaded or uploaded, by name: size in bytes,
        # modification time in nanoseconds, and SHA-256.
        self.synced_files: dict[str, list] = {}
        self.writer = uuid.uuid4().hex
        # Error of the thread that uploads in the background.
        self.thread_error: InputError | None = None
        # Seconds of `time.monotonic`.
        self.last_commit = 0.0
        self.heartbeat_lock = threading.Lock()

    @contextlib.contextmanager
    def open_copy(self, pushes: bool) -> Iterator[pathlib.Path]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hold_lock())
            manifest = self._pull()
            if not self.writes:
                stack.close()
                yield self.local
                return
            self._check_no_other_writer(manifest)
            # The state names the writer of the next manifest, so that the next call
            # recognizes the manifests of this one after a kill.
            self._save_state()
            self._commit(self.files)
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

        Args:
            done: event that stops the thread.
            thread: background thread.
            after_error: bool, True if the block raised an error. A failed upload is
                then printed instead of raised.
        """
        done.set()
        thread.join()
        if self.thread_error is not None:
            raise self.thread_error
        try:
            self._push(is_open=False)
            if not self.files:  # A folder without files needs no manifest.
                self._remove_object(self._manifest_path(self.number))
        except (OSError, InputError) as error:
            if not after_error:
                raise
            say(f"{self.url} isn't up to date. {self.local} has all changes. {error}")

    # --- Download ---

    def _list_manifests(self) -> list[int]:
        """Returns the numbers of the manifests in ascending order."""
        try:
            paths = self.call_store("find", f"{self.path}/{_MANIFEST_FOLDER}")
        except FileNotFoundError:
            return []
        matches = (
            re.fullmatch(r"(\d{8})\.json", os.path.basename(path)) for path in paths
        )
        return sorted(int(match[1]) for match in matches if match)

    def _manifest_path(self, number: int) -> str:
        return f"{self.path}/{_MANIFEST_FOLDER}/{number:08}.json"

    def _read_manifest(self) -> tuple[int, dict[str, Any]]:
        """Returns the number of the newest manifest and the manifest.

        For a folder without a manifest, the number is 0 and the manifest lists all
        objects of the folder.

        Raises:
            InputError: if the folder to write contains files but no manifest.
        """
        numbers = self._list_manifests()
        if not numbers:
            files = list_url(self.url)
            if self.writes and files:
                raise InputError(
                    f"{self.argument} must be a new folder or one that align-keras "
                    f"wrote. Received: {self.url}, which contains {files[0].name}. "
                    "Choose another folder."
                )
            return 0, {"files": {file.name: [file.name, *file[1:]] for file in files}}
        content = self.call_store("cat_file", self._manifest_path(numbers[-1]))
        return numbers[-1], json.loads(content)

    def _pull(self) -> dict[str, Any]:
        """Updates the local copy to the newest manifest and returns the manifest."""
        for tries_left in (2, 1, 0):
            self.number, manifest = self._read_manifest()
            self.files = manifest["files"]
            if not self.files and not self.writes:
                raise FileNotFoundError(
                    errno.ENOENT, "the folder is empty or doesn't exist", self.url
                )
            try:
                self._sync_local_copy(manifest.get("id"))
                return manifest
            except OSError as error:
                if not tries_left or error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                time.sleep(1)  # The writer replaced the manifest during the download.
        raise AssertionError

    def _sync_local_copy(self, writer: str | None) -> None:
        """Downloads the files of the manifest that the local copy lacks.

        A writer keeps the local changes of a killed call if no other process has
        written the folder since. Otherwise, it moves the changes to a separate folder.

        Args:
            writer: str, id of the process that wrote the manifest.
        """
        state = read_json(self.cache_folder / "state.json")
        previous_files, stamps = state.get("files", {}), self._scan_local_copy()
        changed = {
            name for name in stamps if stamps[name] != previous_files.get(name, [])[:2]
        }
        no_other_writer = (
            state.get("number") == self.number or state.get("writer") == writer
        )
        if self.writes and changed and not no_other_writer:
            backup = self.local.with_name(
                f"{self.local.name}.unsynced-{int(time.time())}"
            )
            self.local.rename(backup)
            say(
                f"another machine has written {self.url}. Local changes that were not "
                f"uploaded are in {backup}"
            )
            previous_files, stamps = {}, {}
        if not (self.writes and no_other_writer):
            changed = set()
            for name in set(stamps) - set(self.files):
                (self.local / name).unlink()
        self.synced_files, missing_files = {}, {}
        for name, entry in self.files.items():
            if not re.fullmatch(r"(?!/)(?!(.*/)?\.\.?(/|$))[^\0]+", name):
                raise InputError(
                    f"The manifest of {self.url} must contain relative file names. "
                    f"Received: {name!r}. Write the folder again."
                )
            synced_file = previous_files.get(name, [0, 0, 0])
            if name in stamps and (
                name in changed or synced_file == [*stamps[name], entry[2]]
            ):
                self.synced_files[name] = synced_file
            else:
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
        """Downloads a file and checks its size and digest.

        Raises:
            OSError: with the errno ESTALE if the object differs from the entry.
        """
        key, size, digest = entry
        file = self.local / name
        _download(f"{self.url}/{key}", file)
        received_digest = _compute_digest(file) if self.number else digest
        if file.stat().st_size != size or received_digest != digest:
            file.unlink()
            raise OSError(
                errno.ESTALE,
                "the object differs from its manifest",
                f"{self.url}/{key}",
            )
        self.synced_files[name] = [*(_read_stamp(file) or ()), digest]

    # --- Upload ---

    def _check_no_other_writer(self, manifest: dict[str, Any]) -> None:
        """Raises `InputError` if the writer of the manifest is still running."""
        if not manifest.get("writer"):
            return
        pid, age = manifest["pid"], time.time() - manifest["time"]
        is_local = manifest["host"] == socket.gethostname()
        if age > SILENT_SECONDS or (is_local and not _is_process_alive(pid)):
            say(f"{self.url}: continuing after process {pid}, which has ended")
            return
        raise self.busy_error(
            f"process {pid} on {manifest['host']}, which last wrote {age:,.0f} s ago "
            f"(it counts as dead after {SILENT_SECONDS:,.0f} s)"
        )

    def _check_newest_manifest(self) -> None:
        """Raises `InputError` if another process has written a newer manifest."""
        if (self._list_manifests() or [0])[-1] != self.number:
            raise self.busy_error("another process, which has written a newer manifest")

    def _commit(self, files: dict[str, _Entry], is_open: bool = True) -> None:
        """Writes the next manifest.

        Args:
            files: dict from file name to entry.
            is_open: bool, False for the last manifest of this writer.

        Raises:
            InputError: if another process has written a manifest.
        """
        manifest = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }
        manifest.update(
            files=files, id=self.writer, writer=self.writer if is_open else ""
        )
        content = json.dumps(manifest).encode()
        self._check_newest_manifest()
        path = self._manifest_path(self.number + 1)
        try:
            self.call_store("pipe_file", path, content, mode="create")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ESTALE):
                raise
        # The content is compared, because the store may have accepted two manifests,
        # or the response to a successful first request may have been lost.
        if self.call_store("cat_file", path) != content:
            raise self.busy_error("another process, which started at the same time")
        self.number, self.files = self.number + 1, files
        self.last_commit = time.monotonic()
        self._save_state()

    def _push(self, is_open: bool = True) -> bool:
        """Uploads the changes of the local copy.

        Args:
            is_open: bool, False for the last upload of this writer.

        Returns:
            True if the files have changed.
        """
        stamps, synced_files, files, new_files = self._scan_local_copy(), {}, {}, {}
        for name, stamp in stamps.items():
            synced_file = self.synced_files.get(name, [])
            digest = (
                synced_file[2]
                if synced_file[:2] == stamp
                else _compute_digest(self.local / name)
            )
            synced_files[name] = [*stamp, digest]
            if name in self.files and self.files[name][2] == digest:
                files[name] = self.files[name]
            elif digest is not None:  # The file was not deleted after the scan.
                files[name] = new_files[name] = [name, stamp[0], digest]
        if new_files:
            self._check_newest_manifest()
        _in_threads(self._upload_with_heartbeat, new_files.items())
        for name in new_files:
            # A file that changed during its upload is uploaded the next time.
            if _read_stamp(self.local / name) != stamps[name]:
                del files[name], synced_files[name]
                if name in self.files:
                    files[name] = self.files[name]
        self.synced_files = synced_files
        has_temporary_names = any(key != name for name, (key, _, _) in files.items())
        changed = has_temporary_names or files != self.files
        if changed or not is_open:
            self._commit(files, is_open or has_temporary_names)
        if has_temporary_names:
            self._rename_new_objects(is_open)
        if changed or not is_open:
            self._remove_old_objects()
        return changed

    def _upload_with_heartbeat(self, item: tuple[str, _Entry]) -> None:
        self._upload_file(*item)
        self._send_heartbeat()

    def _upload_file(self, name: str, entry: _Entry) -> None:
        """Uploads a file, under a temporary name if an object has its name.

        The temporary name is written into `entry`.
        """
        file = self.local / name
        temporary_name = f"{_UPLOAD_FOLDER}/{entry[2][:12]}/{name}"
        # `_push` removes the entry of a file that was deleted before its upload.
        with contextlib.suppress(FileNotFoundError):
            if name not in self.files:
                try:
                    self.upload(file, name, mode="create")
                    return
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ESTALE):
                        raise
            entry[0] = temporary_name
            self.upload(file, temporary_name)

    def _send_heartbeat(self) -> None:
        """Writes a manifest if the last one of this writer is two minutes old."""
        with self.heartbeat_lock:
            if time.monotonic() - self.last_commit > SECONDS_BETWEEN_PUSHES:
                self._commit(self.files)

    def _rename_new_objects(self, is_open: bool) -> None:
        """Copies objects with temporary names to their final names."""
        for name, (key, _, _) in self.files.items():
            if key != name:
                self.call_store("cp_file", f"{self.path}/{key}", f"{self.path}/{name}")
        final_files = {name: [name, *entry[1:]] for name, entry in self.files.items()}
        self._commit(final_files, is_open)

    def _remove_old_objects(self) -> None:
        """Removes old manifests and the objects that only they list.

        The objects are removed first. An interrupted removal is thus repeated.
        """
        paths = self.call_store("find", f"{self.path}/{_MANIFEST_FOLDER}")
        old_objects = {
            path.strip("/") for path in paths if f"/{_UPLOAD_FOLDER}/" in path
        }
        numbers = [number for number in self._list_manifests() if number < self.number]
        manifests = [self._manifest_path(number) for number in numbers]
        for path in manifests:
            manifest = json.loads(self.call_store("cat_file", path))
            old_objects |= self._object_paths(manifest["files"])
        _in_threads(self._remove_object, old_objects - self._object_paths(self.files))
        _in_threads(self._remove_object, manifests)

    def _object_paths(self, files: dict[str, _Entry]) -> set[str]:
        return {f"{self.path}/{key}".strip("/") for key, _, _ in files.values()}

    def _remove_object(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.call_store("rm_file", path)

    def _push_periodically(self, done: threading.Event, pushes: bool) -> None:
        """Uploads changes every two minutes until the event `done` is set.

        It runs in a thread. A manifest is written even if there are no changes, so that
        other processes see that this writer is alive.
        """
        while not done.wait(SECONDS_BETWEEN_PUSHES):
            try:
                if not (pushes and self._push()):
                    self._commit(self.files)
                    self._remove_old_objects()
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

    def _save_state(self) -> None:
        state = {"url": self.url, "number": self.number, "writer": self.writer}
        with atomic_write(self.cache_folder / "state.json") as file:
            json.dump({**state, "files": self.synced_files}, file)


def _is_process_alive(pid: int) -> bool:
    """Returns True if another process of this machine has the process id."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read_stamp(path: pathlib.Path) -> list[int] | None:
    """Returns size in bytes and modification time in ns of a regular file, or None."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns] if path.is_file() else None


def _compute_digest(path: pathlib.Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _download(url: str, path: pathlib.Path) -> None:
    with atomic_path(path) as temporary, open_url(url) as source:
        with open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _in_threads(function: Callable, items: Iterable) -> None:
    """Calls a function with each item in parallel and raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(function, items))
