"""Tables of an index: their SQL in both databases, and their rows.

An index has these tables, in SQLite and in PostgreSQL:

- `meta`: entries of the index by their keys, such as the header.
- `roots`: the sources, which are folders and tables of the user.
- `images`: a row for each image, with the number of its embedding (`row`).
- `unreadable`: files of the sources that have no image, and the reason.
- `table_rows`: rows of the user's tables, each with the id of its image.

SQLite also has the checksums of the embeddings, which are in the vectors file.
PostgreSQL has the embeddings in the table `vectors`.
"""

import dataclasses
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
