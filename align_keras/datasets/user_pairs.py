"""The user's own pairs as a TFDS builder."""

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
from align_keras.datasets.pair_builder import ImageLayout, PairBuilder, RawPair
from align_keras.utils.remote import is_url, stat_url

# Pixels. The paper's recipe crops 289 pixels from this side.
SHORTER_SIDE = 346
# Images at an address that their server is asked for at once.
_REQUESTS = 16


@dataclasses.dataclass(eq=False)
class UserPairsConfig(tfds.core.BuilderConfig):
    """Path and columns of a user's pairs. `user_pairs_config` makes it."""

    path: str = ""
    reading: dict = dataclasses.field(default_factory=dict)
    shorter_side: int = SHORTER_SIDE


def user_pairs_config(
    path: str | os.PathLike, *, shorter_side: int = SHORTER_SIDE, **reading: Any
) -> UserPairsConfig:
    """Names a configuration by its content and options: any change builds anew."""
    path = path if is_url(path) else pathlib.Path(path).absolute()
    defaults = {"image_column": None, "caption_column": None, "encoding": "utf-8"}
    reading = defaults | reading
    digest = hashlib.sha256(repr((os.fsencode(path), reading)).encode())
    counter = DropCounter()
    records = list(read_pairs(path, **reading, counter=counter))
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        stamps = list(pool.map(_stamp, (record.image_path for record in records)))
        unreachable = [stamp for stamp in stamps if isinstance(stamp, OSError)]
        if unreachable and len(unreachable) == len(stamps):  # The server is down.
            raise unreachable[0]
        for record, stamp in zip(records, stamps, strict=True):
            stamp = "unreachable" if isinstance(stamp, OSError) else stamp
            digest.update(repr((record, stamp)).encode())
    digest.update(repr((counter.as_metadata(), shorter_side)).encode())
    name = digest.hexdigest()[:16]
    return UserPairsConfig(
        name=name, path=str(path), reading=reading, shorter_side=shorter_side
    )


def _stamp(path: Any) -> Any:
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
    """Pairs from a table or a folder of the user's, by a config of `user_pairs_config`;
    images keep their aspect. A tenth, from one to 1,000, make the `test` split.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "As large as training needs: a limit of the shorter side.",
        "1.0.0": "First release.",
    }
    DESCRIPTION = "Image-text pairs of the user's own."
    TEST_FRACTION = 0.1
    MOST_TEST_IMAGES = 1000

    @property
    def LAYOUT(self) -> ImageLayout:
        """Layout with the size of the config."""
        size = self.builder_config.shorter_side
        return ImageLayout(size=size, square=False, encoding="jpeg")

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        config = self.builder_config
        for record in read_pairs(config.path, **config.reading, counter=counter):
            yield RawPair(
                id=record.id,
                source=record.image_path,
                captions=tuple(record.captions),
                where=record.position,
                pairs=len(record.captions),
            )

    def _notes(self) -> dict[str, Any]:
        return {"path": self.builder_config.path}
