"""Whether what a command writes at its end can be written, asked at its start."""

import pathlib
import tempfile

from align_keras.protocols.cached_encoders import default_cache
from align_keras.utils.errors import InputError
from align_keras.utils.files import replaceable_file


def check_page_path(path):
    """Raises unless the page of `--html` can be written; makes its folder."""
    if pathlib.Path(path).is_dir():
        raise InputError(
            f"--html must be a file, received the folder {path}; write for instance "
            f"{pathlib.Path(path) / 'results.html'}."
        )
    file = replaceable_file(path, "--html")
    _check_writable("--html", path, file.absolute().parent)


def check_cache_folder(path):
    """Returns the folder of embeddings, or raises unless it can be written to."""
    folder = pathlib.Path(path) if path else default_cache()
    _check_writable("--cache", folder, folder)
    return folder


def check_results_folder(path):
    """Raises unless what is trained can be written to the folder of `--results`."""
    folder = pathlib.Path(path) if path else default_cache().parent / "fine_tuned"
    _check_writable("--results", folder, folder)


def _check_writable(option, path, folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{option} must be a place that can be written to, received {path} "
            f"({error.strerror}); choose another."
        ) from None
