"""A model's embeddings: computed once, here or by a cluster, and kept by content."""

import functools
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from align_keras.embedders import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.protocols.protocol import some
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, locked, read_regular
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

_DIGEST_BYTES = 20
# Bytes of a row's checksum, a CRC-32 of its digest and its embedding.
_CHECKSUM_BYTES = 4
# Rows that are copied at a time.
_COPIED_ROWS = 8192
# Chunks that a cluster embeds between two writes.
_BLOCKS = 64

# As data sets hold it: a path, encoded, or pixels.
Image = str | bytes | np.ndarray
# What is embedded: a file, a caption, an encoded image or pixels.
Item = pathlib.Path | str | bytes | np.ndarray


def default_cache() -> pathlib.Path:
    """Returns the folder of embeddings where none is named."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home, "align_keras", "embeddings")


def results_folder(path: str | None) -> pathlib.Path:
    """Returns the folder of what was trained, the user's cache where none is named."""
    return pathlib.Path(path or default_cache().parent / "fine_tuned")


class CachedEncoders:
    """A model's encode functions, answered from the cache where they can be.

    Args:
        open_it: function without arguments that returns the `Embedder`. It is called
            when the model is first needed.
        directory: folder of the cache.
        engine: where embeddings are computed, one of
            `align_keras.utils.tasks.ENGINES`.
    """

    def __init__(
        self,
        open_it: Callable[[], Embedder],
        directory: str | os.PathLike,
        engine: str = LOCAL,
    ):
        self._open_model = open_it
        self._directory = pathlib.Path(directory)
        self._engine = engine

    @functools.cached_property
    def model(self) -> Embedder:
        return self._open_model()

    def trainable_model(self) -> Embedder:
        """Returns the model in the host's memory. A copy of its encoder is trained."""
        import tensorflow as tf

        with tf.device("/cpu:0"):
            model = self.model
        if model.align is None:
            raise InputError(
                "model must be a run folder or a Hugging Face folder to be trained, "
                "received an export, whose weights are fixed; name the folder it came "
                "from."
            )
        return model

    @functools.cached_property
    def _images(self):
        return self._cache("image", 256)

    @functools.cached_property
    def _texts(self):
        return self._cache("text", 1024)

    def _cache(self, kind, chunk):
        encode, fingerprint = _encoder(self.model, kind)
        folder = self._directory / f"{kind}-{fingerprint}"
        if not is_cluster(self._engine):
            return EmbeddingCache(folder, encode, chunk)
        encode_all = encode_on(self._engine, self.model, folder, kind, chunk)
        return EmbeddingCache(folder, encode, chunk * _BLOCKS, encode_all)

    def readable_images(
        self, images: Collection[Image]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds those images that can be decoded: float32 (readable, d), and int64
        rows of `images`, which are paths, encoded or uint8 arrays. Raises if none can
        be read.
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
                f"out: {some(names)}"
            )
        if not len(rows):
            raise InputError(
                f"none of the {len(images)} images can be decoded; check that they "
                "are JPEG, PNG, GIF, BMP or WebP files."
            )
        return embeddings, rows

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds captions: float32 (n, d)."""
        with progress_bar("embedding texts", "texts", len(texts)) as bar:
            return self._texts(texts, bar.advance)


def image_key(image: Image) -> bytes:
    """Returns what equal images, as `CachedEncoders` takes them, have in common."""
    return content_digest(_by_content(image))


def _by_content(image):
    return pathlib.Path(image) if isinstance(image, str) else image


class EmbeddingCache:
    """A folder of embeddings of one encoder, found by the content of what they embed.

    Rows are appended, embeddings before digests, and rows without a digest are cut
    off when the folder is opened: a killed evaluation loses at most a chunk. Each row
    has a checksum, which is compared before the row is used. Damaged rows are computed
    again.
    """

    def __init__(self, directory, encode, chunk=1024, encode_all=None):
        self._directory = pathlib.Path(directory)
        self._digests = self._directory / "digests"
        self._embeddings = self._directory / "embeddings"
        self._checksums = self._directory / "checksums"
        self._width_file = self._directory / "width"
        self._encode, self._chunk = encode, chunk
        self._encode_all = encode_all or functools.partial(encoded, encode)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._rows, self._width = {}, None
        self._row_checksums = bytearray()

    def __call__(self, items, progress=None):
        """Returns the embeddings of all items, float32 (n, d), memory-mapped, computing
        those that are missing. A row of NaN is an item that `encode` refused with
        `InputError`; raises that where all are refused, and for NaN or infinity, which
        aren't stored.
        """
        with self._locked():
            return self._read(self._found(items, progress))

    def readable(
        self, items: Iterable[Item], progress: Callable[[int], object] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `__call__`, without the items that `encode` refused; and their places."""
        with self._locked():
            rows = self._found(items, progress)
            kept = np.flatnonzero(~np.isin(rows, self._refused_rows()))
            return self._read(rows[kept]), kept

    def _found(self, items, progress):
        """The stored rows of all items, after computing those that are missing."""
        self._open()
        digests, refused = [], {}
        verified: set[bytes] = set()
        remaining = iter(items)
        while chunk := list(itertools.islice(remaining, self._chunk)):
            of_chunk = [content_digest(item) for item in chunk]
            digests.extend(of_chunk)
            unverified = [
                digest
                for digest in dict.fromkeys(of_chunk)
                if digest in self._rows and digest not in verified
            ]
            self._forget_damaged(unverified)
            verified.update(of_chunk)
            new = {
                digest: item
                for digest, item in zip(of_chunk, chunk, strict=True)
                if digest not in self._rows and digest not in refused
            }
            if not self._add(new):
                refused |= new
            if progress is not None:
                progress(len(chunk))
        if refused and self._width is None:
            self._encode(list(refused.values()))  # Raises what is wrong with all.
        self._add(refused)
        return np.array([self._rows[digest] for digest in digests], np.int64)

    def _locked(self):
        text = "waiting for another process that computes the same embeddings"
        return locked(self._directory / "embeddings", lambda: say(text))

    def _open(self):
        """Reads the digests, and cuts off what a killed writer left half-done."""
        digests, embeddings = self._digests, self._embeddings
        checksums = self._checksums
        self._rows, self._width = {}, None
        self._row_checksums = bytearray()
        if not self._width_file.exists():
            return
        digests.touch()
        embeddings.touch()
        self._width = self._read_width()
        if self._width is None:
            say(f"{self._directory} is damaged (width); computing its embeddings anew")
            return
        count = min(
            digests.stat().st_size // _DIGEST_BYTES,
            embeddings.stat().st_size // (4 * self._width),
        )
        sizes = {embeddings: count * 4 * self._width, digests: count * _DIGEST_BYTES}
        for path, size in sizes.items():
            if path.stat().st_size > size:
                say(f"cutting off half-written {path}; {count:,} embeddings stay")
                os.truncate(path, size)
        content = digests.read_bytes()
        of_rows = [
            content[start : start + _DIGEST_BYTES]
            for start in range(0, len(content), _DIGEST_BYTES)
        ]
        # The last row of a digest counts: it replaces a damaged one.
        self._rows = {digest: row for row, digest in enumerate(of_rows)}
        checksums.touch()
        known = checksums.stat().st_size // _CHECKSUM_BYTES
        os.truncate(checksums, min(known, count) * _CHECKSUM_BYTES)
        if known < count:
            # An earlier version of the package, which wrote none, wrote these rows.
            rows = self._stored(count)
            self._append(
                checksums,
                b"".join(
                    _checksum(of_rows[row], rows[row]) for row in range(known, count)
                ),
            )
        self._row_checksums = bytearray(checksums.read_bytes())

    def _forget_damaged(self, digests: Iterable[bytes]) -> None:
        """Compares rows with their checksums and forgets those that differ."""
        chosen = {digest: self._rows[digest] for digest in digests}
        if not chosen:
            return
        rows, checksums = self._stored(), self._row_checksums
        damaged = []
        for digest, row in chosen.items():
            at = row * _CHECKSUM_BYTES
            if checksums[at : at + _CHECKSUM_BYTES] != _checksum(digest, rows[row]):
                damaged.append(digest)
        if damaged:
            say(
                f"{len(damaged):,} of the embeddings in {self._embeddings} are damaged "
                "and are computed again"
            )
        for digest in damaged:
            del self._rows[digest]

    def _read_width(self):
        """The width as `_add` wrote it, or None if it's damaged: it would cut rows
        apart.
        """
        content = self._width_file.read_bytes()[:99]
        number, _, check = content.partition(b" ")
        width = int(number) if re.fullmatch(rb"[1-9]\d{0,5}", number) else None
        if width is None or check == _check_of(number):
            return width
        # Until 0.1 there was no check, but the sizes of whole files agree.
        count = self._digests.stat().st_size // _DIGEST_BYTES
        fits = self._embeddings.stat().st_size == count * 4 * width
        return width if fits and not check else None

    def _add(self, missing):
        """Appends the embeddings of new items; returns False, and stores nothing, where
        all are refused before any item has told the embeddings' width.
        """
        if not missing:
            return True
        rows = self._encode_all(list(missing.values()))
        if self._width is None:
            if np.isnan(rows).all():
                return False
            # Rows that were written before their width was known are none. Others may
            # have these files mapped, so they aren't cut.
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
        """The number of stored rows, damaged ones that were replaced included."""
        if not self._digests.exists():
            return 0
        return self._digests.stat().st_size // _DIGEST_BYTES

    def _stored(self, count: int | None = None) -> np.ndarray:
        count = self._count() if count is None else count
        return np.memmap(self._embeddings, np.float32, "r", shape=(count, self._width))

    def _refused_rows(self):
        """The rows of NaN among those that are stored."""
        if not self._rows:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.isnan(self._stored()[:, 0]))

    def _read(self, rows):
        if not len(rows):
            return np.zeros((0, self._width or 0), np.float32)
        stored = self._stored()
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return stored[rows[0] : rows[0] + len(rows)]
        # In the order that is asked for, in a file without a name, which is gone
        # with the array: memory stays flat whatever the number of rows.
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for start in range(0, len(rows), _COPIED_ROWS):
                file.write(stored[rows[start : start + _COPIED_ROWS]].tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(len(rows), self._width))


def encoded(encode: Callable, items: Sequence[Item]) -> np.ndarray:
    """Embeddings of items, float32 (n, d), NaN for those that `encode` refuses, 1 wide
    where all are refused.
    """
    try:
        rows = np.ascontiguousarray(encode(items), np.float32)
    except InputError:
        if len(items) == 1:
            return np.full((1, 1), np.nan, np.float32)
    else:
        if not np.isfinite(rows).all():
            raise InputError(
                "the model must give finite embeddings, received NaN or infinity "
                f"for {np.count_nonzero(~np.isfinite(rows).all(axis=1))} of "
                f"{len(rows)} items; it has diverged: train it again with a lower "
                "learning rate."
            )
        return rows
    # One bad item fails its batch: halve until it stands alone.
    middle = len(items) // 2
    return _joined([encoded(encode, part) for part in (items[:middle], items[middle:])])


def _joined(parts):
    width = max(rows.shape[1] for rows in parts)
    return np.concatenate([_as_wide(rows, width) for rows in parts])


def _as_wide(rows, width):
    """Brings rows that were refused, which are 1 wide, to the width of others."""
    return np.broadcast_to(rows, (len(rows), max(width, rows.shape[1])))


def _checksum(digest: bytes, row: np.ndarray) -> bytes:
    content = np.ascontiguousarray(row).data
    return zlib.crc32(content, zlib.crc32(digest)).to_bytes(_CHECKSUM_BYTES, "big")


def _check_of(number):
    return hashlib.blake2b(number, digest_size=4).hexdigest().encode()


def content_digest(item: Item) -> bytes:
    """Returns 20 bytes of what an item holds: a file's bytes, a caption, or pixels."""
    if isinstance(item, pathlib.Path):
        path = item
        try:
            item = read_regular(path)
        except OSError as error:
            raise InputError(
                f"no readable image: {path} ({error.strerror}); check the path."
            ) from error
    if isinstance(item, str):
        kind, content = "text", item.encode("utf-8", "surrogatepass")
    elif isinstance(item, bytes):
        kind, content = "bytes", item
    else:
        item = np.ascontiguousarray(item)
        kind, content = f"{item.dtype} {item.shape}", item.tobytes()
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
    """Returns a function that embeds items on a cluster, `block` a task, as `encoded`
    does here; items and embeddings lie in `directory` meanwhile, on a shared disk.
    """
    about = {
        "model": checked_path(model, "engine"),
        "runtime": model.runtime_option,
        "fingerprint": _encoder(model, kind)[1],
        "kind": kind,
    }
    folder = directory.absolute() / "tasks"

    def encode(items):
        folder.mkdir(exist_ok=True)
        tasks = []
        for at in range(0, len(items), block):
            part = items[at : at + block]
            digest = hashlib.blake2b(digest_size=12)
            for item in part:
                digest.update(content_digest(item))
            place = folder / digest.hexdigest()
            with atomic_path(f"{place}.npz") as temporary:
                with open(temporary, "wb") as file:
                    np.savez(file, **dict(_as_arrays(part)))
            tasks.append({**about, "place": str(place)})
        run_tasks(embed_block, tasks, folder, engine=engine)
        blocks = [np.load(f"{task['place']}.npy") for task in tasks]
        shutil.rmtree(folder)
        return _joined(blocks)

    return encode


def embed_block(task: dict) -> None:
    """Embeds the items in a file: a task of `run_tasks`."""
    model = worker_model(task["model"], task["runtime"])
    encode, fingerprint = _encoder(model, task["kind"])
    check_same(task["model"], fingerprint, task["fingerprint"])
    with np.load(f"{task['place']}.npz") as stored:
        items = [_as_item(name, stored[name]) for name in stored.files]
    with atomic_path(f"{task['place']}.npy") as temporary:
        with open(temporary, "wb") as file:
            np.save(file, encoded(encode, items))


def checked_path(model: Embedder, option: str) -> str:
    """Returns the name by which other processes open a model, or raises."""
    if model.in_memory:
        raise InputError(
            f"model must be a path with `{option}`, whose processes open it again. "
            f"Received: a model in memory. Save the model, or leave `{option}` out."
        )
    return model.name


def absolute(path: str) -> str:
    """Returns a path as workers elsewhere open it; a name stays as it is."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _encoder(model, kind):
    """A model's encode function of `"image"` or `"text"`, and its fingerprint."""
    return getattr(model, f"encode_{kind}s"), getattr(model, f"{kind}_fingerprint")


def _as_arrays(items):
    """Yields a name, which tells the item's kind, and an array of each."""
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray):
            yield f"pixels{number}", item
            continue
        if isinstance(item, pathlib.Path):
            kind, content = "path", os.fsencode(item.absolute())
        elif isinstance(item, str):
            kind, content = "text", item.encode("utf-8", "surrogatepass")
        else:
            kind, content = "file", item
        yield f"{kind}{number}", np.frombuffer(content, np.uint8)


def _as_item(name, array):
    if name.startswith("pixels"):
        return array
    content = array.tobytes()
    if name.startswith("path"):
        return pathlib.Path(os.fsdecode(content))
    if name.startswith("text"):
        return content.decode("utf-8", "surrogatepass")
    return content
