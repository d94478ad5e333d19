"""Folder of the shards of a corpus, which is read here without TensorFlow."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.tfrecord_files import feature_values, read_messages
from align_keras.utils.errors import TENSORFLOW_EXTRA, InputError, needs
from align_keras.utils.files import atomic_folder, locked, open_regular, read_json

# Folder of the shards within the folder of a corpus.
SHARDS = "web_pairs/1.0.0"
# File of `align-keras corpus shard` with the names, sizes and checksums of the shards.
INDEX = "index.json"
# Number of records that one call of the ArrayRecord reader returns.
_RECORDS_PER_READ = 64


@dataclasses.dataclass(frozen=True)
class ShardImage:
    """Image of a shard with its captions.

    Attributes:
        image: the encoded image.
        languages: the language that the page of each caption declares, or "".
    """

    id: str
    image: bytes
    captions: list[str]
    languages: list[str]


def shard_counts(folder: str | os.PathLike) -> dict[str, int]:
    """Returns the number of images of each shard in `index.json`, by file name.

    Args:
        folder: folder of the shards.

    Raises:
        InputError: if the folder has no `index.json`.
    """
    shards = read_json(os.path.join(folder, INDEX)).get("shards")
    if not shards:
        raise InputError(
            f"The folder of a corpus must contain shards with their {INDEX}. Received: "
            f"{folder}. Run `align-keras corpus shard` first."
        )
    return {shard["file"]: shard["images"] for shard in shards}


def has_all_shards(folder: str | os.PathLike) -> bool:
    """Returns True if a folder has all shards of `index.json` with their sizes.

    The content of the shards is not read.

    Args:
        folder: path of a folder that `align-keras corpus shard` wrote.
    """
    try:
        shards = read_json(os.path.join(folder, INDEX)).get("shards", [])
        return bool(shards) and all(
            os.path.getsize(os.path.join(folder, shard["file"])) == shard["bytes"]
            for shard in shards
        )
    except FileNotFoundError:
        return False


def index_digest(folder: str | os.PathLike) -> str:
    """Returns the SHA-256 of `index.json`, which has the checksums of all shards."""
    return hashlib.sha256(pathlib.Path(folder, INDEX).read_bytes()).hexdigest()


def read_shard(path: str | os.PathLike, count: int) -> Iterator[ShardImage]:
    """Yields the images of a TFRecord or ArrayRecord shard in the stored order.

    Args:
        path: path of the shard.
        count: number of its images by `index.json`.

    Raises:
        InputError: if the shard is missing or damaged.
    """
    image_count = 0
    try:
        for message in _shard_messages(os.fspath(path)):
            values = feature_values(message)
            texts = {
                name: [
                    message[start : start + size].decode()
                    for start, size in values.get(name, [])
                ]
                for name in ("id", "captions", "languages")
            }
            start, size = values["image"][0]
            yield ShardImage(
                id=texts["id"][0],
                image=message[start : start + size],
                captions=texts["captions"],
                languages=texts["languages"],
            )
            image_count += 1
        if image_count != count:
            raise ValueError(f"{image_count:,} images instead of {count:,}")
    except (OSError, ValueError, LookupError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"A shard must be a file that `align-keras corpus shard` wrote. Received: "
            f"{path} ({' '.join(reason.split())[:200]}). Copy the corpus again, or run "
            "`align-keras corpus shard`."
        ) from None


def _shard_messages(path: str) -> Iterator[bytes]:
    """Yields the serialized examples of a shard."""
    with open_regular(path) as file:
        if ".array_record-" not in os.path.basename(path):
            # A damaged record is not read, so that the caller counts too few images.
            for _, message in read_messages(file, path, DropCounter()):
                yield message
            return
    sentence = "A corpus in array_record needs the package array_record"
    with needs(TENSORFLOW_EXTRA, sentence):
        from array_record.python import array_record_module
    reader = array_record_module.ArrayRecordReader(path)
    # The reader returns 0 for a broken file.
    count = reader.num_records()
    for start in range(0, count, _RECORDS_PER_READ):
        yield from reader.read(start, min(start + _RECORDS_PER_READ, count))


def place_shards(source: pathlib.Path, destination: pathlib.Path) -> None:
    """Copies shards to their final folder, by hard links if possible.

    Does nothing if the final folder already has an equal `index.json` and all files
    with their sizes.
    """
    if _is_placed(source, destination):
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination), atomic_folder(destination) as folder:
        for path in sorted(source.iterdir()):
            try:
                os.link(path, folder / path.name)
            except OSError:  # Hard links need the same disk and file system support.
                shutil.copy2(path, folder / path.name)


def _is_placed(source: pathlib.Path, destination: pathlib.Path) -> bool:
    """Returns True if a folder has an equal index and the files of `source`."""
    try:
        if (destination / INDEX).read_bytes() != (source / INDEX).read_bytes():
            return False
        return all(
            (destination / path.name).stat().st_size == path.stat().st_size
            for path in source.iterdir()
        )
    except FileNotFoundError:
        return False
