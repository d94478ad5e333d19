"""TFDS builder for a user's table or folder of image–caption pairs."""

import concurrent.futures
import dataclasses
import errno
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.pair_builder import PairBuilder, RawPair
from align_keras.utils.addresses import is_url
from align_keras.utils.remote import stat_url

# Pixels of the shorter side. Training crops 289 pixels from it, as in the paper.
SHORTER_SIDE = 346
# Number of concurrent requests to the server of remote images.
_REQUESTS = 16


@dataclasses.dataclass(eq=False)
class UserPairsConfig(tfds.core.BuilderConfig):
    """Configuration of `UserPairs`, created by `user_pairs_config`.

    Attributes:
        path: table or folder.
        reading: dict of options for `align_keras.corpus.pair_files.read_pairs`.
        shorter_side: largest shorter side of the stored images, in pixels.
    """

    path: str = ""
    reading: dict = dataclasses.field(default_factory=dict)
    shorter_side: int = SHORTER_SIDE


def user_pairs_config(
    path: str | os.PathLike, *, shorter_side: int = SHORTER_SIDE, **reading: Any
) -> UserPairsConfig:
    """Returns a configuration whose name is a hash of the data and the options.

    Any change of the table, the images or the options changes the name, so that TFDS
    builds the data set again.

    Args:
        path: table or folder of pairs.
        shorter_side: largest shorter side of the stored images, in pixels.
        **reading: options for `align_keras.corpus.pair_files.read_pairs`.

    Returns:
        `UserPairsConfig`.
    """
    path = path if is_url(path) else pathlib.Path(path).absolute()
    defaults = {"image_column": None, "caption_column": None, "encoding": "utf-8"}
    reading = defaults | reading
    digest = hashlib.sha256(repr((os.fsencode(path), reading)).encode())
    counter = DropCounter()
    records = list(read_pairs(path, **reading, counter=counter))
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        stamps = list(pool.map(image_stamp, (record.image_path for record in records)))
        unreachable = [stamp for stamp in stamps if isinstance(stamp, OSError)]
        # If no image can be reached, the server is down.
        if unreachable and len(unreachable) == len(stamps):
            raise unreachable[0]
        for record, stamp in zip(records, stamps, strict=True):
            stamp = "unreachable" if isinstance(stamp, OSError) else stamp
            digest.update(repr((record, stamp)).encode())
    digest.update(repr((counter.as_metadata(), shorter_side)).encode())
    name = digest.hexdigest()[:16]
    return UserPairsConfig(
        name=name, path=str(path), reading=reading, shorter_side=shorter_side
    )


def image_stamp(path: Any) -> Any:
    """Returns the size and the time of an image.

    Returns None if the image is missing, or the error if its host is unreachable.
    """
    try:
        if is_url(path):
            return stat_url(path)
        status = path.stat()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EHOSTUNREACH:
            return error
        return None
    return status.st_size, status.st_mtime_ns


class UserPairs(PairBuilder, skip_registration=True):
    """Pairs from a user's table or folder.

    The configuration is created by `user_pairs_config`. Images keep their aspect. A
    tenth of the images form the `test` split, at least one and at most 1,000. With
    `caption_sources`, the examples also have the feature `caption_sources`.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    isinstance(builder, UserPairs)  # True
    ```
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "The shorter side of the images is limited to the size that training "
        "needs.",
        "1.0.0": "First release.",
    }
    DESCRIPTION = "Image-text pairs from a table or folder of the user."
    TEST_FRACTION = 0.1
    MOST_TEST_IMAGES = 1000

    @property
    def LAYOUT(self) -> ImageLayout:
        """Layout of the stored images, with the size of the configuration."""
        size = self.builder_config.shorter_side
        return ImageLayout(size=size, square=False, encoding="jpeg")

    @property
    def has_caption_sources(self) -> bool:
        return "caption_sources" in self.builder_config.reading

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        config = self.builder_config
        for record in read_pairs(config.path, **config.reading, counter=counter):
            yield RawPair(
                id=record.id,
                source=record.image_path,
                captions=tuple(record.captions),
                where=record.position,
                pairs=len(record.captions),
                caption_sources=tuple(record.origins),
            )

    def _notes(self) -> dict[str, Any]:
        return {"path": self.builder_config.path}
