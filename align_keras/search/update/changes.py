"""Files of an update: those to embed, and the counts of all changes."""

import collections
import dataclasses
import os

import numpy as np

from align_keras.corpus.drop_counter import printable
from align_keras.search.index.schema import LeftOutFile
from align_keras.search.readers.image_files import MISSING, TOO_MANY_BYTES, ImageFile
from align_keras.search.readers.raw_preview import NO_PREVIEW

# Reason for a file that another process embeds. It occurs only with PostgreSQL.
CLAIMED_ELSEWHERE = "indexed by another process"
# Reasons that stay true until the file changes. Such files are not read again.
PERMANENT_REASONS = (
    "empty",
    "unreadable",
    "truncated",
    TOO_MANY_BYTES,
    "oversized",
    NO_PREVIEW,
    "zero size",
    "not finite",
)
# Reasons for which an image is removed from the index. With any other reason, the file
# may only be temporarily unreachable, and the image stays in the index.
REMOVAL_REASONS = (MISSING, *PERMANENT_REASONS)


@dataclasses.dataclass
class Changes:
    """Result of `Index.add`.

    Attributes:
        added: number of new images.
        changed: number of images whose file has new content.
        renamed: number of images whose file was renamed or moved.
        removed: number of images that were removed from the index.
        unchanged: number of images that did not change.
        unreadable: reason → number of files that cannot be read.
        examples: reason → name of the first such file.
        left_out: the files that cannot be read.
        unavailable: folders and tables that are missing, empty or
            unreachable. Their images stay in the index.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    unreadable: dict[str, int] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[LeftOutFile] = dataclasses.field(default_factory=list)
    unavailable: list[str] = dataclasses.field(default_factory=list)

    def add_unreadable(self, file: bytes, reason: str, detail: str = "") -> None:
        """Records a file that cannot be read."""
        self.unreadable[reason] += 1
        name = printable(os.fsdecode(file))
        self.examples.setdefault(reason, name)
        self.left_out.append(LeftOutFile(name, reason, printable(detail)))


@dataclasses.dataclass
class FileToEmbed:
    """File to read and embed, and the result.

    Attributes:
        image_file: size and time of the file.
        root: id of the folder or table that contains it.
        root_file: path of that folder or table.
        id: id of the image if the index has one for this file, or None.
        reason: reason for which the file cannot be embedded, or None.
        detail: the problem in detail, or "".
        columns: columns of the image.
        vector: float32 (d,), embedding, or None if the index already has an image with
            the same content.
        renamed: True if the file is a renamed or moved file of the index.
    """

    image_file: ImageFile
    root: int = 0
    root_file: bytes = b""
    id: int | None = None
    reason: str | None = None
    detail: str = ""
    columns: dict = dataclasses.field(default_factory=dict)
    vector: np.ndarray | None = None
    renamed: bool = False
