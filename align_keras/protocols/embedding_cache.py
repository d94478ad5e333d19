"""Cache of embeddings by content, computed in this process or on a cluster."""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.embedders import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.protocols.protocol import first_names
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, locked, read_regular
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

_DIGEST_BYTES = 20
# Bytes of the checksum of a row, a CRC-32 of its digest and its embedding.
_CHECKSUM_BYTES = 4
# Number of rows that are copied at once.
_COPIED_ROWS = 8192
# Number of chunks that a cluster embeds between two writes.
_BLOCKS = 64

# Image of a data set: a path, an encoded image, or pixels.
Image = str | bytes | np.ndarray
# Item that is embedded: a file, a caption, an encoded image or pixels.
Item = pathlib.Path | str | bytes | np.ndarray


def default_cache() -> pathlib.Path:
    """Returns the default folder of embeddings."""
    cache_root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache_root, "align_keras", "embeddings")


def results_folder(path: str | None) -> pathlib.Path:
    """Returns the folder of training results, by default in the user's cache."""
    return pathlib.Path(path or default_cache().parent / "fine_tuned")


class CachedEncoders:
    """Encode functions of a model with a cache of embeddings.

    Args:
        open_model: function that returns the `Embedder`. It is called on the first use.
        directory: folder of the caches.
        engine: engine that computes the embeddings, as in `Request`.
    """

    def __init__(
        self,
        open_model: Callable[[], Embedder],
        directory: str | os.PathLike,
        engine: str = LOCAL,
    ) -> None:
        self._open_model = open_model
        self._directory = pathlib.Path(directory)
        self._engine = engine

    @functools.cached_property
    def model(self) -> Embedder:
        return self._open_model()

    def trainable_model(self) -> Embedder:
        """Returns the model in host memory, so that a copy of it can be trained."""
        import tensorflow as tf

        with tf.device("/cpu:0"):
            model = self.model
        if model.align is None:
            raise InputError(
                "model must be a run folder or a Hugging Face folder for protocols "
                "that train. Received: an export, whose weights are fixed. Use the "
                "folder from which the export was written."
            )
        return model

    @functools.cached_property
    def _images(self) -> "EmbeddingCache":
        return self._cache("image", 256)

    @functools.cached_property
    def _texts(self) -> "EmbeddingCache":
        return self._cache("text", 1024)

    def _cache(self, kind: str, chunk: int) -> "EmbeddingCache":
        """Returns the cache of `"image"` or `"text"` embeddings."""
        encode, fingerprint = _encoder(self.model, kind)
        folder = self._directory / f"{kind}-{fingerprint}"
        if not is_cluster(self._engine):
            return EmbeddingCache(folder, encode, chunk)
        encode_all = encode_on(self._engine, self.model, folder, kind, chunk)
        return EmbeddingCache(folder, encode, chunk * _BLOCKS, encode_all)

    def readable_images(
        self, images: Collection[Image]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds the images that can be decoded.

        Args:
            images: paths, encoded images or uint8 arrays.

        Returns:
            float32 array (readable images, d), and an int64 array of their rows.

        Raises:
            InputError: if no image can be decoded.
        """
        with progress_bar("embedding images", "images", len(images)) as bar:
            items = map(_by_content, images)
            embeddings, rows = self._images.readable(items, bar.advance)
        if len(rows) < len(images):
            readable = set(rows.tolist())
            names = [
                image if isinstance(image, str) else f"image {row}"
                for row, image in enumerate(images)
                if row not in readable
            ]
            say(
                f"{len(names)} of {len(images)} images can't be decoded and are left "
                f"out: {first_names(names)}"
            )
        if not len(rows):
            raise InputError(
                f"At least one image must be decodable. Received: {len(images)} images "
                "that can't be decoded. Use JPEG or PNG files."
            )
        return embeddings, rows

    def images(self, images: Iterable[Image], count: int) -> np.ndarray:
        """Embeds images, all of which must be decodable.

        Args:
            images: paths, encoded images or uint8 arrays. Only a chunk of them is in
                memory.
            count: number of images.

        Returns:
            Memory-mapped float32 array (count, d).

        Raises:
            InputError: if an image can't be decoded.
        """
        with progress_bar("embedding images", "images", count) as bar:
            embeddings, rows = self._images.readable(
                map(_by_content, images), bar.advance
            )
        if len(rows) < count:
            raise InputError(
                f"The model must be able to decode all {count} images. Received: "
                f"{count - len(rows)} images that it can't decode. Remove them."
            )
        return embeddings

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds captions: float32 (n, d)."""
        with progress_bar("embedding texts", "texts", len(texts)) as bar:
            return self._texts(texts, bar.advance)


def image_key(image: Image) -> bytes:
    """Returns a digest of an image. Equal images have equal digests."""
    return content_digest(_by_content(image))


def _by_content(image: Image) -> Item:
    """Converts the path of an image to `pathlib.Path`, because str is a caption."""
    return pathlib.Path(image) if isinstance(image, str) else image


class EmbeddingCache:
    """Folder of embeddings of one encoder, by the content of the items.

    New embeddings are appended first, then their digests. Rows without a digest are
    removed when the folder is opened, so a killed evaluation loses at most one chunk.
    Each row has a checksum, which is checked before the row is used. Damaged rows are
    computed again.

    Args:
        directory: folder.
        encode: function that converts a list of items to a float32 array (items, d), or
            raises `InputError` if an item can't be decoded.
        chunk: number of items between two writes.
        encode_all: function that converts a list of items to their embeddings, with
            rows of NaN for items that `encode` rejects. By default it calls `encode`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        encode: Callable,
        chunk: int = 1024,
        encode_all: Callable | None = None,
    ) -> None:
        self._directory = pathlib.Path(directory)
        self._digests = self._directory / "digests"
        self._embeddings = self._directory / "embeddings"
        self._checksums = self._directory / "checksums"
        self._width_file = self._directory / "width"
        self._encode = encode
        self._chunk = chunk
        self._encode_all = encode_all or functools.partial(encoded, encode)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, int] = {}
        self._width: int | None = None
        self._row_checksums = bytearray()

    def __call__(
        self, items: Iterable[Item], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Returns the embeddings of all items, and computes missing embeddings.

        Args:
            items: items to embed.
            progress: function that is called with the number of finished items.

        Returns:
            Memory-mapped float32 array (n, d). Rows of NaN belong to items that
            `encode` rejected.

        Raises:
            InputError: if `encode` rejects all items, or returns NaN or infinity.
        """
        with self._locked():
            return self._read(self._row_of_each(items, progress))

    def readable(
        self, items: Iterable[Item], progress: Callable[[int], object] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings and positions of the items that `encode` accepts."""
        with self._locked():
            rows = self._row_of_each(items, progress)
            readable = np.flatnonzero(~np.isin(rows, self._refused_rows()))
            return self._read(rows[readable]), readable

    def _row_of_each(
        self, items: Iterable[Item], progress: Callable[[int], object] | None
    ) -> np.ndarray:
        """Returns the stored row of each item, and computes missing rows."""
        self._open()
        digests: list[bytes] = []
        refused: dict[bytes, Item] = {}
        verified: set[bytes] = set()
        remaining = iter(items)
        while chunk := list(itertools.islice(remaining, self._chunk)):
            chunk_digests = [content_digest(item) for item in chunk]
            digests.extend(chunk_digests)
            unverified = [
                digest
                for digest in dict.fromkeys(chunk_digests)
                if digest in self._rows and digest not in verified
            ]
            self._forget_damaged(unverified)
            verified.update(chunk_digests)
            new = {
                digest: item
                for digest, item in zip(chunk_digests, chunk, strict=True)
                if digest not in self._rows and digest not in refused
            }
            if not self._add(new):
                refused |= new
            if progress is not None:
                progress(len(chunk))
        if refused and self._width is None:
            # The model rejects all items, so this call raises the error with the
            # reason.
            self._encode(list(refused.values()))
        self._add(refused)
        return np.array([self._rows[digest] for digest in digests], np.int64)

    def _locked(self) -> contextlib.AbstractContextManager:
        text = "waiting for another process that computes the same embeddings"
        return locked(self._directory / "embeddings", lambda: say(text))

    def _open(self) -> None:
        """Reads the digests, and removes incomplete rows of a killed process."""
        digests = self._digests
        embeddings = self._embeddings
        checksums = self._checksums
        self._rows = {}
        self._width = None
        self._row_checksums = bytearray()
        if not self._width_file.exists():
            return
        digests.touch()
        embeddings.touch()
        checksums.touch()
        self._width = self._read_width()
        if self._width is None:
            say(
                f"The width in {self._directory} is damaged. Its embeddings are "
                "computed again"
            )
            return
        count = min(
            digests.stat().st_size // _DIGEST_BYTES,
            embeddings.stat().st_size // (4 * self._width),
            checksums.stat().st_size // _CHECKSUM_BYTES,
        )
        sizes = {
            embeddings: count * 4 * self._width,
            checksums: count * _CHECKSUM_BYTES,
            digests: count * _DIGEST_BYTES,
        }
        for path, size in sizes.items():
            if path.stat().st_size > size:
                say(f"Removed incomplete rows from {path}. Remaining rows: {count:,}.")
                os.truncate(path, size)
        content = digests.read_bytes()
        row_digests = [
            content[start : start + _DIGEST_BYTES]
            for start in range(0, len(content), _DIGEST_BYTES)
        ]
        # If a digest has several rows, the last row replaces the damaged rows before
        # it.
        self._rows = {digest: row for row, digest in enumerate(row_digests)}
        self._row_checksums = bytearray(checksums.read_bytes())

    def _forget_damaged(self, digests: Iterable[bytes]) -> None:
        """Compares rows with their checksums and removes damaged rows from `_rows`."""
        rows_to_check = {digest: self._rows[digest] for digest in digests}
        if not rows_to_check:
            return
        rows = self._stored()
        checksums = self._row_checksums
        damaged = []
        for digest, row in rows_to_check.items():
            start = row * _CHECKSUM_BYTES
            recorded = checksums[start : start + _CHECKSUM_BYTES]
            if recorded != _checksum(digest, rows[row]):
                damaged.append(digest)
        if damaged:
            say(
                f"{len(damaged):,} of the embeddings in {self._embeddings} are damaged "
                "and are computed again"
            )
        for digest in damaged:
            del self._rows[digest]

    def _read_width(self) -> int | None:
        """Returns the width of a row that `_add` wrote, or None if it is damaged."""
        content = self._width_file.read_bytes()[:99]
        number, _, check = content.partition(b" ")
        return int(number) if check == _check_of(number) else None

    def _add(self, missing: dict[bytes, Item]) -> bool:
        """Appends embeddings. Returns False if the width remains unknown."""
        if not missing:
            return True
        rows = self._encode_all(list(missing.values()))
        if self._width is None:
            if np.isnan(rows).all():
                return False
            # Without a width, the files have no valid rows. They are replaced instead
            # of truncated, because another process may have mapped them.
            self._digests.unlink(missing_ok=True)
            self._embeddings.unlink(missing_ok=True)
            self._checksums.unlink(missing_ok=True)
            self._width = rows.shape[1]
            number = str(self._width).encode()
            with atomic_write(self._width_file, "wb") as file:
                file.write(number + b" " + _check_of(number))
        rows = np.ascontiguousarray(_as_wide(rows, self._width), np.float32)
        checksums = b"".join(map(_checksum, missing, rows))
        count = self._count()
        self._append(self._embeddings, rows.tobytes())
        self._append(self._checksums, checksums)
        self._row_checksums += checksums
        self._append(self._digests, b"".join(missing))
        for row, digest in enumerate(missing, start=count):
            self._rows[digest] = row
        return True

    def _append(self, path: pathlib.Path, content: bytes) -> None:
        with open(path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _count(self) -> int:
        """Returns the number of stored rows, including replaced damaged rows."""
        if not self._digests.exists():
            return 0
        return self._digests.stat().st_size // _DIGEST_BYTES

    def _stored(self) -> np.ndarray:
        """Returns the stored rows."""
        shape = (self._count(), self._width or 0)
        return np.memmap(self._embeddings, np.float32, "r", shape=shape)

    def _refused_rows(self) -> np.ndarray:
        """Returns the stored rows that are NaN."""
        if not self._rows:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.isnan(self._stored()[:, 0]))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Returns stored rows as a memory-mapped array."""
        if not len(rows):
            return np.zeros((0, self._width or 0), np.float32)
        stored = self._stored()
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return stored[rows[0] : rows[0] + len(rows)]
        # The rows are copied in the requested order to an anonymous file, which is
        # deleted with the array. Memory doesn't grow with the number of rows.
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for start in range(0, len(rows), _COPIED_ROWS):
                file.write(stored[rows[start : start + _COPIED_ROWS]].tobytes())
            file.flush()
            shape = (len(rows), self._width or 0)
            return np.memmap(file, np.float32, "r", shape=shape)


def encoded(encode: Callable, items: Sequence[Item]) -> np.ndarray:
    """Embeds items. Items that `encode` rejects have rows of NaN.

    Returns:
        float32 array (n, d). d is 1 if all items are rejected.
    """
    try:
        rows = np.ascontiguousarray(encode(items), np.float32)
    except InputError:
        if len(items) == 1:
            return np.full((1, 1), np.nan, np.float32)
    else:
        if not np.isfinite(rows).all():
            raise InputError(
                "The embeddings of the model must be finite. Received: NaN or infinity "
                f"for {np.count_nonzero(~np.isfinite(rows).all(axis=1))} of "
                f"{len(rows)} items. The training of the model has diverged. Train the "
                "model again with a lower learning rate."
            )
        return rows
    # One bad item makes the whole batch fail, so the batch is divided until the bad
    # item is alone.
    middle = len(items) // 2
    first_half = encoded(encode, items[:middle])
    second_half = encoded(encode, items[middle:])
    return _joined([first_half, second_half])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates arrays of rows. Rejected items may have rows of width 1."""
    width = max(rows.shape[1] for rows in parts)
    return np.concatenate([_as_wide(rows, width) for rows in parts])


def _as_wide(rows: np.ndarray, width: int) -> np.ndarray:
    """Broadcasts rows of width 1, from rejected items, to the width of an embedding."""
    return np.broadcast_to(rows, (len(rows), max(width, rows.shape[1])))


def _checksum(digest: bytes, row: np.ndarray) -> bytes:
    """Returns the checksum of a row and its digest."""
    content = np.ascontiguousarray(row).data
    return zlib.crc32(content, zlib.crc32(digest)).to_bytes(_CHECKSUM_BYTES, "big")


def _check_of(number: bytes) -> bytes:
    """Returns the check value that follows the width in its file."""
    return hashlib.blake2b(number, digest_size=4).hexdigest().encode()


def content_digest(item: Item) -> bytes:
    """Returns a digest of 20 bytes of a file, a caption, an encoded image or pixels."""
    if isinstance(item, pathlib.Path):
        path = item
        try:
            item = read_regular(path)
        except OSError as error:
            raise InputError(
                f"The image {path} can't be read ({error.strerror}). Check the path."
            ) from error
    if isinstance(item, str):
        kind = "text"
        content = item.encode("utf-8", "surrogatepass")
    elif isinstance(item, bytes):
        kind = "bytes"
        content = item
    else:
        item = np.ascontiguousarray(item)
        kind = f"{item.dtype} {item.shape}"
        content = item.tobytes()
    digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=_DIGEST_BYTES)
    digest.update(content)
    return digest.digest()


# === Clusters ===


def encode_on(
    engine: str,
    model: Embedder,
    directory: pathlib.Path,
    kind: str,
    block: int,
) -> Callable[[Sequence[Item]], np.ndarray]:
    """Returns a function like `encoded` that embeds items on a cluster.

    A task has `block` items. Items and embeddings are temporarily stored in
    `directory`, which must be on a shared disk.
    """
    task_arguments = {
        "model": checked_path(model, "engine"),
        "runtime": model.runtime_option,
        "dimensions": model.truncated_to,
        "fingerprint": _encoder(model, kind)[1],
        "kind": kind,
    }
    folder = directory.absolute() / "tasks"

    def encode(items: Sequence[Item]) -> np.ndarray:
        folder.mkdir(exist_ok=True)
        tasks = []
        for at in range(0, len(items), block):
            part = items[at : at + block]
            digest = hashlib.blake2b(digest_size=12)
            for item in part:
                digest.update(content_digest(item))
            block_path = folder / digest.hexdigest()
            arrays: dict[str, Any] = dict(_as_arrays(part))
            with atomic_path(f"{block_path}.npz") as temporary:
                with open(temporary, "wb") as file:
                    np.savez(file, **arrays)
            tasks.append({**task_arguments, "block_path": str(block_path)})
        run_tasks(embed_block, tasks, folder, engine=engine)
        blocks = [np.load(f"{task['block_path']}.npy") for task in tasks]
        shutil.rmtree(folder)
        return _joined(blocks)

    return encode


def embed_block(task: dict) -> None:
    """Embeds the items in a file, as a task of `run_tasks`."""
    model = worker_model(task["model"], task["runtime"], task["dimensions"])
    encode, fingerprint = _encoder(model, task["kind"])
    check_same(task["model"], fingerprint, task["fingerprint"])
    with np.load(f"{task['block_path']}.npz") as stored:
        items = [_as_item(name, stored[name]) for name in stored.files]
    with atomic_path(f"{task['block_path']}.npy") as temporary:
        with open(temporary, "wb") as file:
            np.save(file, encoded(encode, items))


def checked_path(model: Embedder, option: str) -> str:
    """Returns the path of a model for other processes. Raises for a model in memory."""
    if model.in_memory:
        raise InputError(
            f"model must be a path if `{option}` is set, because other processes open "
            "the model again. Received: a model in memory. Save the model, or leave "
            f"`{option}` out."
        )
    return model.name


def _encoder(model: Embedder, kind: str) -> tuple[Callable, str]:
    """Returns the encode function of `"image"` or `"text"`, and its fingerprint."""
    return getattr(model, f"encode_{kind}s"), getattr(model, f"{kind}_fingerprint")


def _as_arrays(items: Iterable[Item]) -> Iterator[tuple[str, np.ndarray]]:
    """Converts items to arrays. Yields (name, array). Names begin with the kind."""
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray):
            yield f"pixels{number}", item
            continue
        if isinstance(item, pathlib.Path):
            kind = "path"
            content = os.fsencode(item.absolute())
        elif isinstance(item, str):
            kind = "text"
            content = item.encode("utf-8", "surrogatepass")
        else:
            kind = "file"
            content = item
        yield f"{kind}{number}", np.frombuffer(content, np.uint8)


def _as_item(name: str, array: np.ndarray) -> Item:
    """Converts an array from `_as_arrays` back to its item."""
    if name.startswith("pixels"):
        return array
    content = array.tobytes()
    if name.startswith("path"):
        return pathlib.Path(os.fsdecode(content))
    if name.startswith("text"):
        return content.decode("utf-8", "surrogatepass")
    return content
