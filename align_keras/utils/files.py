"""Files and folders that appear under their final name only when complete."""

import contextlib
import glob
import os
import pathlib
import shutil
import uuid

from align_keras.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: simultaneous writers aren't kept apart.
    fcntl = None


def _temporary_sibling(path):
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _fsync_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path):
    """Removes the temporary siblings that a killed writer of `path` left."""
    path = pathlib.Path(path)
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"
    for leftover in path.parent.glob(pattern):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path, mode="w", encoding=None):
    """Opens a temporary sibling of `path` and renames it when the block ends.

    A kill or an error (a full disk) inside the block leaves the old file, or
    none, under `path`, never a half-written one.

    Args:
        path: str or `pathlib.Path`, the final name. Its folder is created.
        mode: `"w"` (UTF-8 text) or `"wb"`.
        encoding: str, for text modes; UTF-8 by default.

    Yields:
        The open file.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.txt")
    >>> with atomic_write(path) as file:
    ...     _ = file.write("whole")
    >>> path.read_text()
    'whole'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        encoding = encoding or "utf-8"
    temporary = _temporary_sibling(path)
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path):
    """As `atomic_write`, for libraries that open their files themselves.

    Args:
        path: str or `pathlib.Path`, the final name. Its folder is created.

    Yields:
        `pathlib.Path` of the temporary sibling to write.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.txt")
    >>> with atomic_path(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text()
    'whole'
    """
    path = pathlib.Path(path)
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


@contextlib.contextmanager
def atomic_folder(path):
    """Yields a temporary sibling folder and renames it to `path` at the end.

    An existing folder of that name is replaced as a whole; what a killed
    earlier writer left beside it is removed first.

    Args:
        path: str or `pathlib.Path`, the final name.

    Yields:
        `pathlib.Path` of the folder to fill.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = _temporary_sibling(path)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def placeable_folder(path, argument):
    """Returns the folder that a name means, if `atomic_folder` can put one there.

    Args:
        path: str or `pathlib.Path`, as the user gave it.
        argument: str, what the user gave it for, for the error.

    Returns:
        `pathlib.Path`, absolute and without links: a link to a folder means what it
        points to.

    Raises:
        InputError: if that is a file or a mounted disk, is or holds the current
            folder, or can't be made where it is.

    Example:

    >>> placeable_folder("/tmp/new/../export", "--to").as_posix()
    '/tmp/export'
    """
    try:
        folder = pathlib.Path(path).resolve()
        if folder.is_symlink():  # As Python 3.13 gives it.
            raise OSError("links in a circle")
        problem = _obstacle(folder)
    except (OSError, RuntimeError) as error:  # Older Pythons' for the circle.
        problem = f"which can't be followed ({error})"
    if problem is not None:
        raise InputError(
            f"{argument} must be a new folder or one that can be replaced, received "
            f"{str(path)!r}, {problem}; name another."
        )
    return folder


def _obstacle(folder):
    """What keeps a folder from being renamed to this one, or None."""
    current = pathlib.Path.cwd()
    if folder in (current, *current.parents):
        return "which is or holds the current folder"
    if folder.exists():
        if not folder.is_dir():
            return "which is a file"
        if os.path.ismount(folder):
            return "where a disk is mounted"
    around = next(own for own in folder.parents if own.exists())
    if not around.is_dir():
        return f"where {around} is a file"
    if not os.access(around, os.W_OK):
        return f"where {around} can't be written to"
    return None


@contextlib.contextmanager
def locked(path, on_wait=None):
    """Waits until no other process is in a block for the same path, then enters it.

    Args:
        path: str or `pathlib.Path`, what the block changes. The lock is a hidden
            file beside it, in a folder that must exist.
        on_wait: callable without arguments, called once if there is another, before
            waiting.
    """
    path = pathlib.Path(path)
    with open(path.with_name(f".{path.name}.lock"), "wb") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield  # The lock ends with the file, also when the process is killed.
