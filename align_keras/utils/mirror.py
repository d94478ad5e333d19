"""A folder on a store, worked in as a copy on this machine: whole or as it was.

Objects have the names of the files, so that other tools open them where they lie. What
the folder holds is said by the newest of its manifests, `.align_keras/00000042.json`,
made one after another and never changed: files go up first, the manifest last. A file
that has changed goes up under a fresh name, and takes its place after the manifest. The
store lets one process alone make the manifest of a number (If-None-Match on S3,
ifGenerationMatch on GCS), and by its last one a writer is known to others.
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
    retrying,
)

_ABOUT, _FRESH = ".align_keras", ".align_keras/new"
# Seconds: the work that a killed machine loses at most, and the silence after which a
# writer counts as dead.
SECONDS_BETWEEN_PUSHES, SILENT_SECONDS = 120.0, 900.0
_THREADS = 8
# An address that ends so is a file, of which nothing but itself is written.
_FILES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".html", ".onnx", ".tflite")
# Object in the store, size in bytes, and SHA-256 of a file in a manifest.
_Entry = list[Any]


@contextlib.contextmanager
def mirrored(
    url: str, argument: str = "url", *, writes: bool = True, pushes: bool = True
) -> Iterator[pathlib.Path]:
    """Has a remote folder, or file, on this machine until the block ends.

    What has changed goes up at the end, also by an error, and every two minutes until
    then. Copies lie in `align_keras/storage` of `$XDG_CACHE_HOME` (`~/.cache`) and can
    be removed; after a kill they hold what wasn't uploaded, with which the next call
    goes on.

    Args:
        url: str, `s3://` or `gs://`; to read, `hf://` as well.
        argument: str, what the user gave it for.
        writes: bool, false for a copy to read.
        pushes: bool, false where files change in their places, as a database does: then
            nothing is uploaded before the end.

    Yields:
        `pathlib.Path`, the folder or the file.

    Raises:
        InputError: if the store can't be reached, nothing is there to be read,
            something else is where to write, or another process writes it.

    Example:

    ```python
    with mirrored("s3://bucket/corpus") as folder:
        build_corpus(folder, config)
    ```
    """
    scheme = url.partition("://")[0].lower()
    if writes and scheme not in WRITABLE:
        raise InputError(
            f"{argument} must be a local path, s3:// or gs://, received {url}; "
            "others are only read."
        )
    url = url.rstrip("/")
    kind = _File if url.lower().endswith(_FILES) else _Folder
    try:
        with kind(url, argument, writes).opened(pushes) as path:
            yield path
    except OSError as error:
        if not str(error.filename).startswith(url):
            raise
        action = "written" if writes else "read"
        raise InputError(
            f"{argument} must be a place that can be {action}, received {url}: "
            f"{error.strerror} ({error.filename}); check the address and the rights."
        ) from error


class _Place:
    """Local copy of an address. The writer and the readers have different copies."""

    def __init__(self, url: str, argument: str, writes: bool) -> None:
        self.url, self.argument, self.writes = url, argument, writes
        self.fs, self.path = file_system(url)
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
        name = f"{digest}{'' if writes else '-read'}"
        self.place = pathlib.Path(home, "align_keras/storage", name)
        self.local = self.place / url.rpartition("/")[2]
        self.place.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        while (lock := hold(self.place / ".lock")) is None and not self.writes:
            time.sleep(0.2)  # Another reader downloads it.
        if lock is None:
            raise self.busy("another process on this machine")
        with lock:
            yield

    def busy(self, who: str) -> InputError:
        return InputError(
            f"{self.argument} must be written by one process at a time, and {self.url} "
            f"is being written by {who}; let it end, or name another."
        )

    def upload(
        self, file: pathlib.Path, name: str = "", mode: str = "overwrite"
    ) -> None:
        target, size = f"{self.path}/{name}".rstrip("/"), file.stat().st_size
        self.ask("put_file", str(file), target, mode=mode)
        uploaded_size = self.ask("info", target)["size"]
        if uploaded_size != size:
            raise OSError(
                errno.EIO, f"{uploaded_size:,} of {size:,} bytes arrived", self.url
            )

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Has the store do something, again while it fails for a while."""
        call = getattr(self.fs, method)
        return retrying(lambda: call(*arguments, **options), self.url)


class _File(_Place):
    """One object, which is there whole or not."""

    @contextlib.contextmanager
    def opened(self, pushes: bool) -> Iterator[pathlib.Path]:
        with self.held():
            try:
                _download(self.url, self.local)
                before = _stamp(self.local)
            except FileNotFoundError:
                before = None  # Files that a killed call left here are uploaded.
                if not self.writes:
                    raise
            yield self.local
            if self.writes and _stamp(self.local) not in (None, before):
                self.upload(self.local)
                say(f"uploaded {self.url}")


class _Folder(_Place):
    """A folder that a manifest describes."""

    def __init__(self, url: str, argument: str, writes: bool) -> None:
        super().__init__(url, argument, writes)
        # The newest manifest's number and files: name → [object, bytes, digest].
        self.number = 0
        self.files: dict[str, _Entry] = {}
        # Files of the copy that are as in a manifest: [bytes, time, digest].
        self.marks: dict[str, list] = {}
        self.writer = uuid.uuid4().hex
        self.problem: InputError | None = None
        self.heard = 0.0
        self.beating = threading.Lock()

    @contextlib.contextmanager
    def opened(self, pushes: bool) -> Iterator[pathlib.Path]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.held())
            manifest = self._pull()
            if not self.writes:
                stack.close()
                yield self.local
                return
            self._refuse_another(manifest)
            self._remember()  # Stores the id of the writer of the next manifest.
            self._commit(self.files)
            say(f"{self.url}: working in {self.local}")
            done = threading.Event()
            thread = threading.Thread(target=self._keep_up, args=(done, pushes))
            thread.start()
            try:
                yield self.local
            except BaseException:
                self._finish(done, thread, quietly=True)
                raise
            self._finish(done, thread)
            say(f"uploaded {len(self.files):,} files to {self.url}")

    def _finish(
        self, done: threading.Event, thread: threading.Thread, quietly: bool = False
    ) -> None:
        done.set()
        thread.join()
        if self.problem is not None:
            raise self.problem
        try:
            self._push(is_open=False)
            if not self.files:  # Nothing came of it.
                self._remove(self._path(self.number))
        except (OSError, InputError) as error:
            if not quietly:
                raise
            say(f"{self.url} isn't up to date ({error}); {self.local} is")

    # --- Down ---

    def _numbers(self) -> list[int]:
        try:
            paths = self.ask("find", f"{self.path}/{_ABOUT}")
        except FileNotFoundError:
            return []
        names = (re.fullmatch(r"(\d{8})\.json", os.path.basename(one)) for one in paths)
        return sorted(int(match[1]) for match in names if match)

    def _path(self, number: int) -> str:
        return f"{self.path}/{_ABOUT}/{number:08}.json"

    def _manifest(self) -> tuple[int, dict[str, Any]]:
        """The newest manifest and its number; of a folder without, its files."""
        numbers = self._numbers()
        if not numbers:
            files = list_url(self.url)
            if self.writes and files:
                raise InputError(
                    f"{self.argument} must be a new folder or one that align-keras "
                    f"wrote, received {self.url}, which holds {files[0].name}; name "
                    "another."
                )
            return 0, {"files": {one.name: [one.name, *one[1:]] for one in files}}
        return numbers[-1], json.loads(self.ask("cat_file", self._path(numbers[-1])))

    def _pull(self) -> dict[str, Any]:
        """Makes the copy what the newest manifest says; returns this."""
        for tries_left in (2, 1, 0):
            self.number, manifest = self._manifest()
            self.files = manifest["files"]
            if not self.files and not self.writes:
                raise FileNotFoundError(errno.ENOENT, "nothing is there", self.url)
            try:
                self._bring(manifest.get("id"))
                return manifest
            except OSError as error:
                if not tries_left or error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                time.sleep(1)  # Its writer has gone on meanwhile.
        raise AssertionError

    def _bring(self, writer: str | None) -> None:
        state = read_json(self.place / "state.json")
        known_marks, stamps = state.get("files", {}), self._scan()
        changed = {
            name for name in stamps if stamps[name] != known_marks.get(name, [])[:2]
        }
        # Nobody but this copy's last writer has made manifests since.
        goes_on = state.get("number") == self.number or state.get("writer") == writer
        if self.writes and changed and not goes_on:
            aside = self.local.with_name(f"{self.local.name}.left-{int(time.time())}")
            self.local.rename(aside)
            say(f"{self.url} was written elsewhere since; this machine's is in {aside}")
            known_marks, stamps = {}, {}
        if not (self.writes and goes_on):
            changed = set()
            for name in set(stamps) - set(self.files):
                (self.local / name).unlink()
        self.marks, wanted = {}, {}
        for name, entry in self.files.items():
            if not re.fullmatch(r"(?!/)(?!(.*/)?\.\.?(/|$))[^\0]+", name):
                raise InputError(
                    f"{self.url} has no name of a file: {name!r}; write it anew."
                )
            mark = known_marks.get(name, [0, 0, 0])
            if name in stamps and (
                name in changed or mark == [*stamps[name], entry[2]]
            ):
                self.marks[name] = mark
            else:
                wanted[name] = entry
        if wanted:
            total = sum(size for _, size, _ in wanted.values())
            say(f"downloading {len(wanted):,} files, {total:,} bytes, of {self.url}")
        self.local.mkdir(exist_ok=True)
        try:
            _in_threads(lambda item: self._fetch(*item), wanted.items())
        finally:
            self._remember()

    def _fetch(self, name: str, entry: _Entry) -> None:
        key, size, digest = entry
        file = self.local / name
        _download(f"{self.url}/{key}", file)
        received_digest = _digest(file) if self.number else digest
        if file.stat().st_size != size or received_digest != digest:
            file.unlink()
            raise OSError(
                errno.ESTALE, "it isn't what was uploaded", f"{self.url}/{key}"
            )
        self.marks[name] = [*(_stamp(file) or ()), digest]

    # --- Up ---

    def _refuse_another(self, manifest: dict[str, Any]) -> None:
        if not manifest.get("writer"):
            return
        pid, age = manifest["pid"], time.time() - manifest["time"]
        ours = manifest["host"] == socket.gethostname()
        if age > SILENT_SECONDS or (ours and not _runs(pid)):
            say(f"{self.url}: going on after process {pid}, which has ended")
            return
        raise self.busy(
            f"process {pid} on {manifest['host']}, heard of {age:,.0f} s ago (after "
            f"{SILENT_SECONDS:,.0f} s of silence it counts as dead)"
        )

    def _check_latest(self) -> None:
        if (self._numbers() or [0])[-1] != self.number:
            raise self.busy("another process, which has gone on meanwhile")

    def _commit(self, files: dict[str, _Entry], is_open: bool = True) -> None:
        """Makes the next manifest, unless another process has made one."""
        manifest = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }
        manifest.update(
            files=files, id=self.writer, writer=self.writer if is_open else ""
        )
        content = json.dumps(manifest).encode()
        self._check_latest()
        path = self._path(self.number + 1)
        try:
            self.ask("pipe_file", path, content, mode="create")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ESTALE):
                raise
        # Checks the content, since the store may have taken two manifests, or the
        # answer to the first request was lost.
        if self.ask("cat_file", path) != content:
            raise self.busy("another process, which began at the same time")
        self.number, self.files, self.heard = self.number + 1, files, time.monotonic()
        self._remember()

    def _push(self, is_open: bool = True) -> bool:
        """Uploads what has changed; returns whether a manifest was made."""
        stamps, marks, files, wanted = self._scan(), {}, {}, {}
        for name, stamp in stamps.items():
            mark = self.marks.get(name, [])
            digest = mark[2] if mark[:2] == stamp else _digest(self.local / name)
            marks[name] = [*stamp, digest]
            if name in self.files and self.files[name][2] == digest:
                files[name] = self.files[name]
            elif digest is not None:  # Else it went.
                files[name] = wanted[name] = [name, stamp[0], digest]
        if wanted:
            self._check_latest()
        _in_threads(self._send_and_beat, wanted.items())
        for name in wanted:
            if _stamp(self.local / name) != stamps[name]:  # It goes on changing.
                del files[name], marks[name]
                if name in self.files:
                    files[name] = self.files[name]
        self.marks = marks
        fresh = any(key != name for name, (key, _, _) in files.items())
        changed = fresh or files != self.files
        if changed or not is_open:
            self._commit(files, is_open or fresh)
        if fresh:
            self._settle(is_open)
        if changed or not is_open:
            self._clear()
        return changed

    def _send_and_beat(self, item: tuple[str, _Entry]) -> None:
        self._send(*item)
        self._beat()

    def _send(self, name: str, entry: _Entry) -> None:
        """Uploads a file, under a fresh name where an object has its."""
        file, fresh = self.local / name, f"{_FRESH}/{entry[2][:12]}/{name}"
        with contextlib.suppress(FileNotFoundError):  # It went; so does its entry.
            if name not in self.files:
                try:
                    self.upload(file, name, mode="create")
                    return
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ESTALE):
                        raise
            entry[0] = fresh
            self.upload(file, fresh)

    def _beat(self) -> None:
        """Tells others that this one lives, if the last word of it is old."""
        with self.beating:
            if time.monotonic() - self.heard > SECONDS_BETWEEN_PUSHES:
                self._commit(self.files)

    def _settle(self, is_open: bool) -> None:
        """Gives new objects their names, and removes what no manifest names."""
        for name, (key, _, _) in self.files.items():
            if key != name:
                self.ask("cp_file", f"{self.path}/{key}", f"{self.path}/{name}")
        settled = {name: [name, *entry[1:]] for name, entry in self.files.items()}
        self._commit(settled, is_open)

    def _clear(self) -> None:
        """Removes old manifests, and before them what they alone name."""
        paths = self.ask("find", f"{self.path}/{_ABOUT}")
        old = {one.strip("/") for one in paths if f"/{_FRESH}/" in one}
        numbers = [number for number in self._numbers() if number < self.number]
        manifests = [self._path(number) for number in numbers]
        for path in manifests:
            old |= self._objects(json.loads(self.ask("cat_file", path))["files"])
        _in_threads(self._remove, old - self._objects(self.files))
        _in_threads(self._remove, manifests)

    def _objects(self, files: dict[str, _Entry]) -> set[str]:
        return {f"{self.path}/{key}".strip("/") for key, _, _ in files.values()}

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.ask("rm_file", path)

    def _keep_up(self, done: threading.Event, pushes: bool) -> None:
        """Uploads now and then, in a thread; by it others see that this one lives."""
        while not done.wait(SECONDS_BETWEEN_PUSHES):
            try:
                if not (pushes and self._push()):
                    self._commit(self.files)
                    self._clear()
            except InputError as error:
                self.problem = error
                _thread.interrupt_main()
                return
            except OSError as error:
                say(f"{self.url} isn't kept up ({error.strerror}); it is tried again")

    # --- Here ---

    def _scan(self) -> dict[str, list[int]]:
        """Name → [bytes, time of change] of the copy's files."""
        stamps = {}
        for folder, subfolders, names in os.walk(self.local):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and not name.endswith((".lock", "-shm")):
                    path = pathlib.Path(folder, name)
                    stamp = _stamp(path)
                    if stamp is not None:
                        stamps[path.relative_to(self.local).as_posix()] = stamp
        return stamps

    def _remember(self) -> None:
        state = {"url": self.url, "number": self.number, "writer": self.writer}
        with atomic_write(self.place / "state.json") as file:
            json.dump({**state, "files": self.marks}, file)


def _runs(pid: int) -> bool:
    """Returns True if another process of this machine has the number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stamp(path: pathlib.Path) -> list[int] | None:
    """[bytes, time of change] of a regular file, or None."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns] if path.is_file() else None


def _digest(path: pathlib.Path) -> str | None:
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
    """Calls a function once an item, several at once; raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(function, items))
