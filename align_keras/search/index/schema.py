"""Tables of an index: their SQL in both databases, their rows, and names of images.

An index has these tables, in SQLite and in PostgreSQL:

- `meta`: entries of the index by their keys, such as the header.
- `roots`: the sources, which are folders and tables of the user.
- `images`: a row for each image, with the number of its embedding (`row`).
- `unreadable`: files of the sources that have no image, and the reason.
- `table_rows`: rows of the user's tables, each with the id of its image.

SQLite also has the checksums of the embeddings, which are in the vectors file.
PostgreSQL has the embeddings in the table `vectors`.

An image that was indexed with its embedding has an id and no source file. Its file is
stored as `item:NAME:ID`. NAME is the file name of the copy of the image in the folder
of the index, or empty if the index has no copy. Paths of source files are absolute, so
no path looks like `item:NAME:ID`.
"""

import dataclasses
import os
from typing import Any, NamedTuple

# Built-in columns of every image → their types in SQLite.
INDEX_COLUMNS = {
    "path": "TEXT",
    "folder": "TEXT",
    "name": "TEXT",
    "size": "INTEGER",
    "date": "TEXT",
    "year": "INTEGER",
    "width": "INTEGER",
    "height": "INTEGER",
    "camera": "TEXT",
    "captions": "TEXT",
}
SQLITE_TABLES = {"meta", "roots", "images", "checksums", "unreadable", "table_rows"}
# `images.file` is the path as bytes, and `images.path` is the same path as text for
# hits and conditions.
SQLITE_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE roots (id INTEGER PRIMARY KEY, file BLOB UNIQUE NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES roots,
    file BLOB UNIQUE NOT NULL,
    row INTEGER UNIQUE NOT NULL,
    mtime_ns INTEGER NOT NULL,
    content BLOB NOT NULL,
    {", ".join(f"{name} {kind}" for name, kind in INDEX_COLUMNS.items())}
);
CREATE INDEX images_content ON images (content);
CREATE TABLE checksums (row INTEGER PRIMARY KEY, crc INTEGER NOT NULL);
CREATE TABLE unreadable (
    file BLOB PRIMARY KEY,
    root INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE table_rows (
    image INTEGER NOT NULL, root INTEGER NOT NULL, number INTEGER NOT NULL,
    captions TEXT NOT NULL, cells TEXT NOT NULL, PRIMARY KEY (image, root, number)
);
"""
# Type in SQLite → type in PostgreSQL.
_POSTGRES = {"INTEGER": "bigint", "TEXT": "text"}
# The width of the embeddings replaces `{dimension}`.
POSTGRES_SCHEMA = f"""
CREATE SCHEMA IF NOT EXISTS align_keras;
CREATE TABLE align_keras.meta (key text PRIMARY KEY, value text);
CREATE TABLE align_keras.roots (id bigserial PRIMARY KEY, file bytea UNIQUE NOT NULL);
CREATE TABLE align_keras.vectors (
    row bigserial PRIMARY KEY, vector halfvec({{dimension}}) NOT NULL
);
CREATE TABLE align_keras.images (
    id bigserial PRIMARY KEY,
    root bigint NOT NULL REFERENCES align_keras.roots,
    file bytea UNIQUE NOT NULL,
    row bigint UNIQUE NOT NULL REFERENCES align_keras.vectors,
    mtime_ns bigint NOT NULL,
    content bytea NOT NULL,
    {", ".join(f"{name} {_POSTGRES[kind]}" for name, kind in INDEX_COLUMNS.items())}
);
CREATE INDEX ON align_keras.images (content);
CREATE TABLE align_keras.unreadable (
    file bytea PRIMARY KEY, root bigint NOT NULL, size bigint NOT NULL,
    mtime_ns bigint NOT NULL, reason text NOT NULL, detail text NOT NULL
);
CREATE TABLE align_keras.table_rows (
    image bigint NOT NULL, root bigint NOT NULL, number bigint NOT NULL,
    captions text NOT NULL, cells jsonb NOT NULL, PRIMARY KEY (image, root, number)
);
"""
# Entry of the table `roots` to which all images without a source file belong.
ITEMS_ROOT = b"items:"
_ITEM_PREFIX = b"item:"
# Name and fingerprint of the model in an index that was made without a model.
NO_MODEL = "none"


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Identity of the model that computed the embeddings of an index.

    Attributes:
        name: name or absolute path that `align_keras.load_model` accepts.
        fingerprint: digest of the weights and the preprocessing.
        dimension: width of the embeddings.
        runtime: `runtime` argument of `align_keras.load_model`.
        truncated_to: `dimensions` argument of `align_keras.load_model`.

    Example:

    >>> ModelIdentity("align_small_en", "786def33e90f574d", 384).reference()
    {'name': 'align_small_en', 'fingerprint': '786def33e90f574d'}
    """

    name: str
    fingerprint: str
    dimension: int
    runtime: str = "auto"
    truncated_to: int | None = None

    def reference(self) -> dict[str, Any]:
        """Returns name, fingerprint and options in the form of `Embedder.reference`."""
        reference: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
        }
        if self.runtime != "auto":
            reference["runtime"] = self.runtime
        if self.truncated_to is not None:
            reference["dimensions"] = self.truncated_to
        return reference


@dataclasses.dataclass(slots=True)
class StoredFile:
    """File of an image in the index, as it was when it was embedded.

    Attributes:
        id: id of the image.
        root: id of the source that contains the file.
        size: bytes.
        mtime_ns: time of the last change in nanoseconds.
    """

    id: int
    root: int
    size: int
    mtime_ns: int


@dataclasses.dataclass(slots=True)
class UnreadableFile:
    """Row of the table `unreadable`.

    Attributes:
        root: id of the source that contains the file.
        size: bytes.
        mtime_ns: time of the last change in nanoseconds.
        reason: reason for which the file cannot be read.
        detail: the problem in detail, or "".
    """

    root: int
    size: int
    mtime_ns: int
    reason: str
    detail: str


class LeftOutFile(NamedTuple):
    """File of a source without an image in the index.

    Attributes:
        path: path or address.
        reason: reason, which many files can share.
        detail: the problem of this file in detail, or "".
    """

    path: str
    reason: str
    detail: str


class TableRow(NamedTuple):
    """Row of a user table: captions of its image, and values by names in conditions."""

    captions: list[str]
    values: dict[str, Any]


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
