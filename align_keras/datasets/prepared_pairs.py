"""TFDS builder for a folder of prepared images and a table of their captions."""

import hashlib
import os
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import read_table
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.pair_builder import RawPair
from align_keras.datasets.user_pairs import UserPairs, UserPairsConfig, image_stamp

# Name of the table in a folder of prepared pairs.
TABLE = "pairs.jsonl"


class PreparedPairs(UserPairs, skip_registration=True):
    """Pairs of a folder with `pairs.jsonl` and square images, as PNG.

    Images of at most 320 pixels are stored unchanged. A line of the table is an object
    with the id, the path of the image in the folder, the list `caption`, the category
    and the split of an image. `tools/make_drawings.py` writes such folders.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("saved_models/drawings/clipart")
    isinstance(builder, PreparedPairs)  # True
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    DESCRIPTION = "Prepared images with captions."
    LAYOUT = ImageLayout(size=320)

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        del counter  # The table has no unusable rows.
        yield from _read_table(pathlib.Path(self.builder_config.path))


def is_prepared(folder: str | os.PathLike) -> bool:
    """Returns True if a folder has the table of prepared pairs."""
    return pathlib.Path(folder, TABLE).is_file()


def prepared_pairs_config(folder: str | os.PathLike) -> UserPairsConfig:
    """Returns a configuration whose name is a hash of the table and the images."""
    table = pathlib.Path(folder, TABLE).absolute()
    digest = hashlib.sha256(os.fsencode(table) + table.read_bytes())
    for pair in _read_table(table):
        digest.update(repr(image_stamp(pair.source)).encode())
    return UserPairsConfig(name=digest.hexdigest()[:16], path=str(table))


def _read_table(table: pathlib.Path) -> Iterator[RawPair]:
    _, rows = read_table(table, "utf-8", DropCounter())
    for row, position in rows:
        yield RawPair(
            id=row["id"],
            source=table.parent / row["image"],
            captions=tuple(row["caption"]),
            category=row["category"],
            split=row["split"],
            where=position,
        )
