"""Names of the files in the folder of an image index, and checks before opening them.

An index folder may come from an untrusted source, and its database contains file names.
This module checks that each stored name has a fixed form, which keeps the path inside
the folder, and that the file is not a symbolic link.

An image that was indexed with its embedding has an id and no source file. Its file is
stored as `item:NAME:ID`. NAME is the file name of the copy of the image in the folder
of the index, or empty if the index has no copy. Paths of source files are absolute, so
no path looks like `item:NAME:ID`.
"""

import os
import pathlib
import re
import shlex
from typing import IO, Any

from align_keras.utils.errors import InputError

HEADER = "index.json"
DATABASE = "images.sqlite"
LOCK = "index.lock"
WAL = f"{DATABASE}-wal"
SHARED_MEMORY = f"{DATABASE}-shm"
JOURNAL = f"{DATABASE}-journal"
# Folder of the results of cluster tasks while an index is built.
TASKS = ".tasks"
# Folder of the image copies in an index that was made from embeddings.
STORED_IMAGES = "images"
# Encoding → suffix of the vectors file.
_SUFFIXES = {"float32": "f32", "float16": "f16"}
ENCODINGS = tuple(_SUFFIXES)
_VECTORS = re.compile(r"vectors\.([0-9]{1,15})\.(f32|f16)")
_APPROXIMATE = re.compile(r"vectors\.[0-9]{1,15}\.pq")
_STORED_IMAGE = re.compile(r"[0-9]{6,15}\.(png|jpg|gif|bmp|webp)")
_ITEM_PREFIX = b"item:"
_FIXED_NAMES = (HEADER, DATABASE, WAL, SHARED_MEMORY, JOURNAL, LOCK, TASKS)


def damage_error(folder: pathlib.Path, reason: str) -> InputError:
    """Returns the error for a damaged index, with the command that rebuilds it."""
    return InputError(
        f"The index {folder} is damaged ({' '.join(reason.split())[:160]}). "
        f"{rebuild_remedy(folder)}"
    )


def rebuild_remedy(folder: pathlib.Path) -> str:
    """Returns a sentence with the command that writes an unusable index again."""
    command = run_index_command(folder) or (
        f"align-keras index FOLDER --index {shlex.quote(str(folder))}"
    )
    return f"Remove that folder, then build the index again with `{command}`."


def run_index_command(folder: pathlib.Path) -> str | None:
    """Returns the command that writes the index of a training run.

    Returns None if the folder is not the `index` folder of a run.
    """
    run = folder.parent
    if folder.name != "index" or not (run / "params.yaml").is_file():
        return None
    name = shlex.quote(str(run))
    return (
        f"align-keras train --config_file {name}/params.yaml --model_dir {name} "
        "--mode index"
    )


def is_index_file(name: str) -> bool:
    """Returns True if the package writes a file of this name to an index folder."""
    return (
        name in _FIXED_NAMES
        or _VECTORS.fullmatch(name) is not None
        or _APPROXIMATE.fullmatch(name) is not None
    )


def refuse_links(folder: pathlib.Path) -> None:
    """Raises InputError if a file of an index is a symbolic link.

    A link could make the package read or overwrite a file outside of the folder.
    """
    for name in _FIXED_NAMES:
        _refuse_link(folder / name)
    for path in (folder / TASKS).rglob("*"):
        _refuse_link(path)


def vectors_name(number: int, encoding: str) -> str:
    """Returns the name of the vectors file with this number."""
    return f"vectors.{number}.{_SUFFIXES[encoding]}"


def encoding_of(folder: pathlib.Path, name: object) -> str:
    """Returns the encoding of the vectors file whose name the database stores.

    Raises:
        InputError: if the name does not have the form `vectors.NUMBER.SUFFIX`.
    """
    match = _VECTORS.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise damage_error(folder, f"its vectors file has the name {name!r:.60}")
    return next(
        encoding for encoding, suffix in _SUFFIXES.items() if suffix == match[2]
    )


def vectors_path(folder: pathlib.Path, name: object) -> pathlib.Path:
    """Returns the path of the vectors file whose name the database stores.

    Raises:
        InputError: if the name has another form, or the file is a link.
    """
    encoding_of(folder, name)
    path = folder / str(name)
    _refuse_link(path)
    return path


def next_vectors_name(name: str, encoding: str) -> str:
    """Returns the name of the vectors file that replaces `name`."""
    match = _VECTORS.fullmatch(name)
    return vectors_name(int(match[1]) + 1 if match else 0, encoding)


def approximate_path(folder: pathlib.Path, vectors_file: object) -> pathlib.Path:
    """Returns the path of the approximate index that belongs to a vectors file."""
    path = vectors_path(folder, vectors_file).with_suffix(".pq")
    _refuse_link(path)
    return path


def stored_image_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of an image copy inside the folder of the index.

    Args:
        folder: folder of the index.
        name: stored name, which must have the form `NUMBER.SUFFIX`.

    Raises:
        InputError: if the name has another form, or the file or its folder is a link.
    """
    if not _STORED_IMAGE.fullmatch(name):
        raise damage_error(folder, f"an image copy has the name {name!r:.60}")
    path = folder / STORED_IMAGES / name
    _refuse_link(path.parent)
    _refuse_link(path)
    return path


def stored_image_of(image: dict[str, Any], folder: Any) -> pathlib.Path | None:
    """Returns the path of the copy of an image in the index, or None.

    Args:
        image: columns of the image from the store.
        folder: folder of the index, or address of the database.
    """
    if not is_item(image["file"]):
        return None
    _, name = split_item(image["file"])
    return stored_image_path(folder, name) if name else None


def path_of_image(image: dict[str, Any]) -> str:
    """Returns the path of an image's file, or its id."""
    file = image["file"]
    return split_item(file)[0] if is_item(file) else os.fsdecode(file)


def item_file(id: str, image_name: str = "") -> bytes:
    """Returns the stored name of an image that has an id and no source file.

    >>> item_file("star", "000001.png")
    b'item:000001.png:star'
    """
    return b"%b%b:%b" % (
        _ITEM_PREFIX,
        image_name.encode(),
        id.encode("utf-8", "surrogatepass"),
    )


def is_item(file: bytes) -> bool:
    """Returns True for a name that `item_file` made, and False for a path."""
    return file.startswith(_ITEM_PREFIX)


def split_item(file: bytes) -> tuple[str, str]:
    """Returns the id of an image and the file name of its copy in the index, or "".

    >>> split_item(b"item::a:b")
    ('a:b', '')
    """
    image_name, _, id = file.removeprefix(_ITEM_PREFIX).partition(b":")
    return id.decode("utf-8", "replace"), image_name.decode("utf-8", "replace")


def open_to_write(path: pathlib.Path, new: bool = False) -> IO[bytes]:
    """Opens a file of an index for writing, without following a symbolic link.

    Args:
        path: path that `vectors_path` returned.
        new: True to remove an existing file first.
    """
    flags = os.O_RDWR | os.O_CREAT
    # Only POSIX has O_NOFOLLOW, and only Windows has O_BINARY.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if new:
        path.unlink(missing_ok=True)
        flags |= os.O_EXCL
    return open(os.open(path, flags, 0o666), "r+b")


def _refuse_link(path: pathlib.Path) -> None:
    if path.is_symlink():
        raise InputError(
            f"The index {path.parent} must not contain symbolic links. Received: the "
            f"link {path.name}. Replace the link with the file that it points to."
        )
