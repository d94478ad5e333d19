"""Atomic writes of files and folders, checked reads, and file locks."""

import contextlib
import errno
import glob
import io
import json
import os
import pathlib
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any

from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError

# Bytes. Larger files are not read as images.
MAX_FILE_BYTES = 512_000_000
# Bytes of a decoded image with four bytes per pixel. 192 MiB is 8192 × 6144 pixels, the
# size of a 50-megapixel camera sensor. The limit protects against decompression bombs,
# which are files of a few kilobytes that fill the memory. Decoding and blending take up
# to seven times this memory.
MAX_DECODED_BYTES = 192 * 2**20
MAX_PIXELS = MAX_DECODED_BYTES // 4


def _temporary_sibling(path: pathlib.Path, suffix: str = "tmp") -> pathlib.Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.{suffix}")


def _fsync_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file next to `path` and renames it when the block ends.

    After a kill or an error, `path` is unchanged. Missing parent folders are created.
    For a symbolic link, the target of the link is replaced.

    Args:
        path: file to write.
        mode: "w" for UTF-8 text or "wb" for bytes.

    Raises:
        InputError: if `path` exists but is not a regular file.
    """
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary:
        with open(temporary, mode, encoding=encoding) as file:
            yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path and renames it to `path` when the block ends.

    It is the form of `atomic_write` for libraries that open files themselves.
    """
    path = replaceable_file(path, "the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_special(path: str | os.PathLike) -> bool:
    """Returns True for a pipe, a device or a socket, which may block a reader."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # `os.stat` raises ValueError for a NUL in a name.
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a regular file, local or at a URL, for reading bytes.

    Raises:
        OSError: as `open` does. The errno is EINVAL if the path is not a regular file
            or is no valid file name.
    """
    if is_url(path):
        # Local files do not need this import.
        from align_keras.utils.remote import open_url

        return open_url(os.fspath(path))
    if is_special(path):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    try:
        return open(path, "rb")
    except ValueError:
        raise OSError(errno.EINVAL, "not a name of a file", os.fspath(path)) from None


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a local copy of a file.

    A file at a URL is downloaded to a temporary folder. An `InputError` of the block
    names the URL instead of the copy. A local path is yielded as it is.

    Args:
        path: local path or URL.

    Raises:
        OSError: as `open_regular`.
    """
    if not is_url(path):
        yield pathlib.Path(path)
        return
    import tempfile

    url = os.fspath(path)
    with tempfile.TemporaryDirectory() as folder, open_regular(url) as source:
        copy = pathlib.Path(folder, os.path.basename(url))
        with open(copy, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), url)) from None


def size_of(file: IO[bytes]) -> int:
    """Returns the size of an open file in bytes without moving its position."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def read_regular(path: str | os.PathLike, limit: int = MAX_FILE_BYTES) -> bytes:
    """Reads a regular file, local or at a URL.

    Args:
        path: local path or URL.
        limit: maximum size in bytes.

    Raises:
        OSError: as `open_regular`. The errno is EFBIG if the file exceeds `limit`.
    """
    with open_regular(path) as file:
        if size_of(file) > limit:
            raise OSError(errno.EFBIG, f"more than {limit:,} bytes", os.fspath(path))
        return file.read()


def read_json(path: str | pathlib.Path) -> dict:
    """Reads a JSON object from a file of at most 512 MB.

    Returns:
        Empty if the file doesn't exist.

    Raises:
        InputError: if the file doesn't contain a JSON object.
        OSError: if the file can't be read.
    """
    try:
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{path} must contain a JSON object. Download or write the file again."
        )
    return content


def refuse_url(path: str | os.PathLike, argument: str) -> None:
    """Raises `InputError` if the path of an output is a URL.

    `pathlib` writes a URL with one slash after the colon, which is refused as well.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fsdecode(path)):
        raise InputError(
            f"{argument} must be a local path. Received: {path}. Write to an object "
            "store with `with align_keras.utils.mirror.mirrored(URL) as path:`."
        )


def replaceable_file(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the path of a file that `atomic_write` can create or replace.

    Args:
        path: path of the output. A symbolic link is replaced by its target.
        argument: name of the argument for the message.

    Raises:
        InputError: if the path is a URL, or exists and is not a regular file.
    """
    refuse_url(path, argument)
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise InputError(
            f"{argument} must be a new or a regular file. Received: {path}, which is a "
            "folder, a pipe or a device. Choose another path."
        )
    return path.resolve() if path.is_symlink() else path


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary folder and renames it to `path` when the block ends.

    An existing folder is replaced as a whole. Temporary files of a killed process are
    removed first.

    Raises:
        InputError: if another process is writing the same folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    lock = _file_lock(temporary.with_suffix(".lock"))
    try:
        with lock:  # Other processes see from the lock that this writer is alive.
            _recover_interrupted_writes(path, lock)
            temporary.mkdir()
            yield temporary
            replace_folder(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        pathlib.Path(lock.lock_file).unlink(missing_ok=True)


def _recover_interrupted_writes(path: pathlib.Path, lock: Any) -> None:
    """Restores the folder of a killed writer and removes its temporary files."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"
    for file in path.parent.glob(f"{pattern}.lock"):
        if file == pathlib.Path(lock.lock_file):
            continue
        abandoned_lock = hold(file)
        if abandoned_lock is None:
            raise InputError(
                f"{path} must be written by one process at a time, and another process "
                "is writing it. Wait until it has finished, or choose another folder."
            )
        abandoned_lock.lock.release()
        file.unlink(missing_ok=True)
    from align_keras.utils.progress import say  # Importing rich takes 0.1 s.

    for old in path.parent.glob(f"{pattern}.old"):
        if path.exists():
            os.replace(old, old.with_suffix(".tmp"))
        else:  # The writer was killed before it renamed the new folder.
            os.replace(old, path)
            say(f"restored {path} after its replacement was interrupted")
    for temporary in path.parent.glob(f"{pattern}.tmp"):
        say(f"removing temporary files of an interrupted write of {path}")
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(path: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a new folder to `path` and removes the previous folder.

    After an interruption, at least one of the two folders is complete.
    """
    if path.exists():
        old = _temporary_sibling(path, "old")
        os.replace(path, old)
        os.replace(new, path)
        # A folder with the suffix ".old" is restored after a kill. A partially deleted
        # folder must not be restored, so it is renamed before the deletion.
        old = old.replace(old.with_suffix(".tmp"))
        shutil.rmtree(old)
    else:
        os.replace(new, path)
    _fsync_folder(path.parent)


def placeable_folder(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the path of a folder that `atomic_folder` can create or replace.

    Args:
        path: path of the output.
        argument: name of the argument for the message.

    Returns:
        Absolute `pathlib.Path` without symbolic links.

    Raises:
        InputError: if the path is a URL or can't be replaced by a folder.
    """
    refuse_url(path, argument)
    folder = pathlib.Path(path).resolve()
    problem = _obstacle(folder)
    if problem is not None:
        raise InputError(
            f"{argument} must be a new folder or one that can be replaced. Received: "
            f"{str(path)!r}, {problem}. Choose another folder."
        )
    return folder


def new_folder(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the path of a folder that is new or empty.

    The arguments and errors are those of `placeable_folder`.
    """
    folder = placeable_folder(path, argument)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{argument} must be a new or an empty folder. Received: {path}, which "
            "contains files. Choose another folder, or remove this one first."
        )
    return folder


def _obstacle(folder: pathlib.Path) -> str | None:
    """Returns the reason why a folder can't be renamed to this path, or None."""
    current = pathlib.Path.cwd()
    if folder in (current, *current.parents):
        return "which is or contains the current folder"
    if folder.exists():
        if not folder.is_dir():
            return "which is a file"
        if os.path.ismount(folder):
            return "where a disk is mounted"
    parent = next(parent for parent in folder.parents if parent.exists())
    if not parent.is_dir():
        return f"where {parent} is a file"
    if not os.access(parent, os.W_OK):
        return f"where {parent} can't be written to"
    return None


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Waits for the lock of a path and holds it until the block ends.

    The lock is a hidden file next to `path`. The operating system releases it when the
    process ends.

    Args:
        path: file or folder that the block changes.
        on_wait: callable without arguments. It is called once if another process holds
            the lock.
    """
    path = pathlib.Path(path)
    file = path.with_name(f".{path.name}.lock")
    lock = hold(file)
    if lock is None:
        if on_wait is not None:
            on_wait()
        lock = _file_lock(file).acquire()
    with lock:
        yield


def hold(file: str | os.PathLike) -> Any:
    """Acquires the lock of a file without waiting.

    Returns:
        Context manager that releases the lock, or None if another process or thread
        holds it. The operating system releases the lock when the process ends.
    """
    try:
        return _file_lock(file).acquire(blocking=False)
    except TimeoutError:
        return None


def _file_lock(file: str | os.PathLike) -> Any:
    # The import is local, because it doubles the time to print a help page.
    import filelock

    return filelock.FileLock(file)
