"""Files and folders that appear under their final name only when complete."""

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
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url, open_url

# Nothing that claims to be larger is an image.
MAX_FILE_BYTES = 512_000_000
# Bytes of a table at an address.
MAX_COPY_BYTES = 2_000_000_000
# 192 MiB, four bytes a pixel: 8192 × 6144, as the sensors of 50 megapixels. A file
# of more may be a bomb, a few kilobytes that fill the memory. Decoding and blending
# take up to seven times as much.
MAX_DECODED_BYTES = 192 * 2**20
MAX_PIXELS = MAX_DECODED_BYTES // 4


def _temporary_sibling(path: pathlib.Path, suffix: str = "tmp") -> pathlib.Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{suffix}")


def _fsync_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary sibling of `path` and renames it when the block ends.

    A kill or an error leaves the old file, or none. Its folder is created; of a link,
    what it points to is written. Raises if that is there and no regular file.
    """
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary:
        with open(temporary, mode, encoding=encoding) as file:
            yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path, for libraries that open files themselves."""
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
    """Returns True for a pipe, a device or a socket, whose reading may not end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # The latter of a name with NUL.
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a regular file, or one at an address, to read bytes, or raises as `open`:
    with EINVAL if something else is there, or if no file can have the name.
    """
    if is_url(path):
        return open_url(os.fspath(path))
    if is_special(path):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    try:
        return open(path, "rb")
    except ValueError:
        raise OSError(errno.EINVAL, "not a name of a file", os.fspath(path)) from None


@contextlib.contextmanager
def local_copy(
    path: str | os.PathLike, limit: int = MAX_COPY_BYTES
) -> Iterator[pathlib.Path]:
    """Yields a copy of a file at an address, whose place errors name; else the path.

    Raises `OSError` as `open_regular`; its errno is EFBIG above `limit` bytes.
    """
    if not is_url(path):
        yield pathlib.Path(path)
        return
    url = os.fspath(path)
    with tempfile.TemporaryDirectory() as folder, open_regular(url) as source:
        if size_of(source) > limit:
            raise OSError(errno.EFBIG, f"more than {limit:,} bytes", url)
        copy = pathlib.Path(folder, os.path.basename(url))
        with open(copy, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), url)) from None


def size_of(file: IO[bytes]) -> int:
    """The bytes of an open file, local or remote, whose place stays."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def read_regular(path: str | os.PathLike, limit: int = MAX_FILE_BYTES) -> bytes:
    """Reads a regular file as `open_regular`; errno is EFBIG above `limit`."""
    with open_regular(path) as file:
        if size_of(file) > limit:
            raise OSError(errno.EFBIG, f"more than {limit:,} bytes", os.fspath(path))
        return file.read()


def read_json(path: str | pathlib.Path) -> dict:
    """Reads a JSON object of at most 512 MB; an absent file gives an empty dict."""
    try:
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(
            f"{path} must be readable, but can't be read ({error.strerror}); check it."
        ) from None
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise InputError(f"{path} isn't JSON ({reason}); get it again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object; get it again.")
    return content


def refuse_keras_file(path: str | os.PathLike, argument: str) -> None:
    """Raises if a model is given as a `.keras` file where a folder is needed.

    Args:
        path: what the user gave.
        argument: what the user gave it for.

    Raises:
        InputError: names `save_to_preset` as the remedy.
    """
    if os.fspath(path).endswith(".keras"):
        raise InputError(
            f"{argument} must be a folder. Received the file {path}. Save it as a "
            f'folder by align_keras.ALIGN.from_preset("{path}").save_to_preset("DIR"), '
            "and name that folder."
        )


def refuse_url(path: str | os.PathLike, argument: str) -> None:
    """Raises if what is to be written has an address, also as `pathlib` writes it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fsdecode(path)):
        raise InputError(
            f"{argument} must be a local path, received {path}; write to a store by "
            "`with align_keras.utils.mirror.mirrored(ADDRESS) as path:`."
        )


def replaceable_file(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the file that a name means, of a link what it points to; raises if
    something is there that `atomic_write` can't replace. `argument` is what the user
    gave it for.
    """
    refuse_url(path, argument)
    path = pathlib.Path(path)
    try:
        is_other = not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # Nothing is there, or nothing can be, as its writer will say.
        is_other = False
    except ValueError:  # A name with NUL.
        is_other = True
    if is_other:
        raise InputError(
            f"{argument} must be a new or a regular file, received {path}, which is a "
            "folder, a pipe, a device or no name of a file; name another."
        )
    return path.resolve() if path.is_symlink() else path


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling folder and renames it to `path` at the end.

    A folder of that name is replaced as a whole; what a killed writer left beside it is
    removed first. Raises if another process is writing this folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    lock = _file_lock(temporary.with_suffix(".lock"))
    try:
        with lock:  # The lock shows other processes that this writer is alive.
            _settle_leftovers(path, lock)
            temporary.mkdir()
            yield temporary
            replace_folder(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        pathlib.Path(lock.lock_file).unlink(missing_ok=True)


def _settle_leftovers(path: pathlib.Path, lock: Any) -> None:
    """Raises if a process without `lock` writes `path`; clears up what others left."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"
    for file in path.parent.glob(f"{pattern}.lock"):
        if file == pathlib.Path(lock.lock_file):
            continue
        other = hold(file)
        if other is None:
            raise InputError(
                f"{path} must be written by one process at a time, and another is "
                "writing it; let it end, or name another folder."
            )
        other.lock.release()
        file.unlink(missing_ok=True)
    from align_keras.utils.progress import say  # Its rich takes a tenth of a second.

    for old in path.parent.glob(f"{pattern}.old"):
        if path.exists():
            os.replace(old, old.with_suffix(".tmp"))
        else:  # Killed before the new folder had taken the name.
            os.replace(old, path)
            say(f"put back {path}, whose replacement was interrupted")
    for temporary in path.parent.glob(f"{pattern}.tmp"):
        say(f"removing what an interrupted writing of {path} has left")
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(path: pathlib.Path, new: pathlib.Path) -> None:
    """Gives a folder's name to a new one; an interruption leaves one of both there."""
    if path.exists():
        old = _temporary_sibling(path, "old")
        os.replace(path, old)
        os.replace(new, path)
        # No longer one to put back, from the first file that it lacks.
        old = old.replace(old.with_suffix(".tmp"))
        shutil.rmtree(old)
    else:
        os.replace(new, path)
    _fsync_folder(path.parent)


def placeable_folder(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the folder that a name means, absolute and without links; raises if
    `atomic_folder` can't put one there. `argument` is what the user gave it for.
    """
    refuse_url(path, argument)
    try:
        folder = pathlib.Path(path).resolve()
        if folder.is_symlink():  # Python 3.13 returns a link for links in a circle.
            raise OSError("links in a circle")
        problem = _obstacle(folder)
    # Older Pythons' for the circle, and that of a name with NUL.
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"which can't be followed ({error})"
    if problem is not None:
        raise InputError(
            f"{argument} must be a new folder or one that can be replaced, received "
            f"{str(path)!r}, {problem}; name another."
        )
    return folder


def new_folder(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """Returns the folder as `placeable_folder`. Raises unless it is new or empty."""
    folder = placeable_folder(path, argument)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{argument} must be a new or an empty folder, received {path}, which "
            "holds something; name another, or remove it first."
        )
    return folder


def _obstacle(folder: pathlib.Path) -> str | None:
    """Returns the reason why no folder can be renamed to this one, or None."""
    current = pathlib.Path.cwd()
    if folder in (current, *current.parents):
        return "which is or holds the current folder"
    if folder.exists():
        if not folder.is_dir():
            return "which is a file"
        if os.path.ismount(folder):
            return "where a disk is mounted"
    around = next(parent for parent in folder.parents if parent.exists())
    if not around.is_dir():
        return f"where {around} is a file"
    if not os.access(around, os.W_OK):
        return f"where {around} can't be written to"
    return None


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Waits until no other process is in a block for the same path, then enters it;
    calls `on_wait` once if there is another. The lock, a hidden file beside what the
    block changes, ends with the process.
    """
    path = pathlib.Path(path)
    file = path.with_name(f".{path.name}.lock")
    held = hold(file)
    if held is None:
        if on_wait is not None:
            on_wait()
        held = _file_lock(file).acquire()
    with held:
        yield


def hold(file: str | os.PathLike) -> Any:
    """Takes the lock of a file; None if another process, or thread, has it. The end of
    the context manager frees it, as that of the process does.
    """
    try:
        return _file_lock(file).acquire(blocking=False)
    except TimeoutError:
        return None


def _file_lock(file: str | os.PathLike) -> Any:
    import filelock  # Only here: it takes as long as the rest of a help page.

    return filelock.FileLock(file)
