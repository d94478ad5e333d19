"""Location of an index: a folder, or the address of a PostgreSQL database."""

import os
import pathlib
import re
from typing import Any

from align_keras.search.index.folder_files import ENCODINGS
from align_keras.search.index.folder_store import FolderStore
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# Matches connection strings of libpq such as `host=db password=…`, which would
# otherwise be treated as paths of folders.
_KEY_AND_VALUE = re.compile(r"(^|\s)(host|hostaddr|dbname|user|password)\s*=")


def is_database(location: str | os.PathLike) -> bool:
    """Returns True for the address of a PostgreSQL database, and False for a path.

    Raises:
        InputError: if the location is a connection string with `host=` or the like.
    """
    if not isinstance(location, str):
        return False
    if _KEY_AND_VALUE.search(location):
        raise InputError(
            "An index in a database must be named by its address. Received: "
            f"{location!r}. Write it as postgresql://USER@HOST/DATABASE."
        )
    return location.startswith(("postgresql:", "postgres:"))


def default_index() -> str | pathlib.Path:
    """Returns the path or address of the default index.

    It is `$ALIGN_KERAS_INDEX`, or the folder `align_keras/index` in `$XDG_DATA_HOME`
    (by default `~/.local/share`).
    """
    location = os.environ.get("ALIGN_KERAS_INDEX")
    if location:
        return location if is_database(location) else pathlib.Path(location)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "index")


def index_exists(location: str | os.PathLike) -> bool:
    """Returns True if a folder or a database contains an index."""
    return store_class(location).exists(location)


def store_class(location: str | os.PathLike) -> Any:
    """Returns the store class for the path of a folder or the address of a database."""
    if not is_database(location):
        return FolderStore
    from align_keras.search.index.postgres_store import PostgresStore

    return PostgresStore


def check_encoding(location: str | os.PathLike, vectors: str | None) -> None:
    """Checks the requested encoding of the embeddings of an index."""
    if vectors is None:
        return
    check_choice("`vectors`", vectors, ENCODINGS)
    if is_database(location):
        raise InputError(
            "`vectors` must be used with an index in a folder. Received: a database, "
            "which stores 16 bits per number. Leave `vectors` out."
        )
