"""Sources of an index: folders and tables, and the columns of their images."""

import os

from align_keras.corpus.text_tables import TABLE_SUFFIXES
from align_keras.search.readers.corpus_images import is_record, shard_of
from align_keras.utils.addresses import without_query
from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url, stat_url


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
    if not os.path.exists(file):
        raise InputError(
            f"`sources` must be folders or tables. Received: {os.fsdecode(file)}, "
            "which doesn't exist. Check the path."
        )
    if not (is_table(os.fsdecode(file)) or os.path.isdir(file)):
        raise InputError(
            "`sources` must be folders of images or tables that end in "
            f"{', '.join(TABLE_SUFFIXES)}. Received: {os.fsdecode(file)}. Name its "
            "folder."
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
