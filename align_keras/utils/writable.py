"""Whether what is written at the end can be written, asked at the start."""

import pathlib
import tempfile

from align_keras.utils.errors import InputError
from align_keras.utils.files import replaceable_file


def check_file(name: str, path: str | pathlib.Path) -> None:
    """Raises unless a file can be written; makes its folder.

    Args:
        name: the argument's name, for the error.
        path: the file's.
    """
    if pathlib.Path(path).is_dir():
        raise InputError(
            f"{name} must be a file, received the folder {path}; write for instance "
            f"{pathlib.Path(path) / 'results.html'}."
        )
    _check(name, path, replaceable_file(path, name).absolute().parent)


def check_folder(name: str, path: str | pathlib.Path) -> None:
    """Raises unless files can be written to a folder; makes it.

    Args:
        name: the argument's name, for the error.
        path: the folder's.
    """
    _check(name, path, pathlib.Path(path))


def _check(name, path, folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name} must be a place that can be written to, received {path} "
            f"({error.strerror}); choose another."
        ) from None
