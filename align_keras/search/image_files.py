"""Image files of an index: finding them in folders, decoding them, their metadata."""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from align_keras.corpus.image import ImageError, normalize_image, open_image, to_rgb
from align_keras.embedders.pixels import as_png
from align_keras.search.corpus_images import (
    ShardError,
    corpus_shards,
    find_records,
    is_record,
    read_shard_record,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, MAX_PIXELS, is_special
from align_keras.utils.remote import is_url, list_url, open_url, stat_url

DECODED_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
HEIF_SUFFIXES = (".heic", ".heif", ".avif")
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in DECODED_SUFFIXES + HEIF_SUFFIXES)
# Photos in formats that aren't decoded. An index reports them.
UNREAD_SUFFIXES = (
    ".tif",
    ".tiff",
    ".dng",
    ".cr2",
    ".cr3",
    ".crw",
    ".nef",
    ".nrw",
    ".arw",
    ".sr2",
    ".srf",
    ".orf",
    ".rw2",
    ".raf",
    ".pef",
    ".srw",
    ".rwl",
    ".3fr",
    ".iiq",
    ".x3f",
)
_UNREAD_SUFFIXES = tuple(os.fsencode(suffix) for suffix in UNREAD_SUFFIXES)
UNREAD_FORMAT = "TIFF or a camera's RAW format"
# Brands of ISO base media files with a still image.
_HEIF_BRANDS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
NO_HEIF = "HEIC or AVIF, which needs pillow-heif"
CHANGING = "changes while it is read"
UNREACHABLE = "can't be reached"
SHORT = "can't be read to its end"
CLOSED = "can't be opened"
MISSING = "missing"
# Nanoseconds. The stores have numbers of 64 bits, up to the year 2262.
_LATEST = 2**63 - 1
# Tags of EXIF.
_MAKE = 0x010F
_MODEL = 0x0110
_TIME = 0x0132
_EXIF = 0x8769
_TIME_TAKEN = 0x9003
# Images with more pixels are decoded one at a time, which may take a gigabyte.
_LARGE_PIXELS = MAX_PIXELS // 4
_LARGE_LOCK = threading.Lock()


@dataclasses.dataclass
class FoundFile:
    """An image file, or a record of a corpus.

    Attributes:
        file: bytes, absolute path, address or name of a record. A path needn't be
            UTF-8.
        size: int, bytes.
        mtime_ns: int, time of the last change. For an address, a number below all
            times, which differs for each version of the content.
        captions: list of str, captions of a record, or None for a file.
    """

    file: bytes
    size: int
    mtime_ns: int
    captions: list[str] | None = None

    def __post_init__(self) -> None:
        self.mtime_ns = max(-_LATEST, min(self.mtime_ns, _LATEST))


class UnreadFile(NamedTuple):
    """A file that isn't read, or a folder or shard that can't be listed.

    Attributes:
        file: bytes, path or address.
        reason: str, which begins with "folder: " or "shard: " for one of these.
    """

    file: bytes
    reason: str


@dataclasses.dataclass
class ReadImage:
    """An image's pixels and metadata.

    Attributes:
        pixels: uint8 array (resize_to, resize_to, 3).
        width: int, width of the upright image in pixels.
        height: int, height of the upright image in pixels.
        date: str, ISO date of the photo, or None.
        camera: str, or None.
    """

    pixels: np.ndarray
    width: int
    height: int
    date: str | None
    camera: str | None


class PhotoMetadata(NamedTuple):
    """Metadata of a photo.

    Attributes:
        date: str, ISO date at which it was taken, or None.
        camera: str, make and model of the camera, or None.
    """

    date: str | None
    camera: str | None


def find_images(root: bytes) -> Iterator[FoundFile | UnreadFile]:
    """Yields the image files of a folder, then those of its subfolders.

    The order is that of the names. A built corpus has its records first. Hidden files
    are left out, and links to folders are not followed.
    """
    if is_url(root):
        yield from _find_at_address(os.fsdecode(root))
        return
    shards = corpus_shards(root)
    for shard in shards:
        try:
            for record in find_records(shard):
                yield FoundFile(record.file, record.size, record.mtime_ns)
        except ShardError as error:
            yield UnreadFile(shard, f"shard: {error}")
    folders = [] if shards else [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield UnreadFile(folder, f"folder: {error.strerror}")
            continue
        subfolders = []
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(entry.path)
                    continue
                image = _find_entry(entry)
            except OSError as error:
                image = UnreadFile(entry.path, str(error.strerror))
            if image is not None:
                yield image
        folders.extend(reversed(subfolders))


def _find_entry(entry: os.DirEntry[bytes]) -> FoundFile | UnreadFile | None:
    """Returns the file of an entry that is no folder, or None if it is no image."""
    name = entry.name.lower()
    if name.endswith(_UNREAD_SUFFIXES):
        return UnreadFile(entry.path, UNREAD_FORMAT)
    if not name.endswith(_SUFFIXES):
        return None
    status = entry.stat()
    if stat.S_ISREG(status.st_mode):
        return FoundFile(entry.path, status.st_size, status.st_mtime_ns)
    # A link to a folder is not followed.
    if stat.S_ISDIR(status.st_mode):
        return None
    return UnreadFile(entry.path, "no regular file")


def stat_file(file: bytes) -> FoundFile:
    """Returns size and time of a file or of the content of an address.

    Raises:
        OSError: if it is missing, can't be reached or is a folder.
    """
    if is_url(file):
        status = stat_url(os.fsdecode(file))
        if status is None:
            raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fsdecode(file))
        return FoundFile(file, status.size, _version_stamp(status.version))
    file_status = os.stat(file)
    return FoundFile(file, file_status.st_size, file_status.st_mtime_ns)


def _version_stamp(version: str) -> int:
    """Returns a number for a version of an object's content, below all times."""
    digest = hashlib.blake2b(version.encode(), digest_size=7).digest()
    return -(2**62) - int.from_bytes(digest, "big")


def _find_at_address(url: str) -> Iterator[FoundFile | UnreadFile]:
    try:
        objects = list_url(url, DECODED_SUFFIXES + HEIF_SUFFIXES + UNREAD_SUFFIXES)
    except OSError as error:
        yield UnreadFile(os.fsencode(url), f"folder: {error.strerror}")
        return
    for name, size, version in objects:
        file = os.fsencode(f"{url.rstrip('/')}/{name}")
        if name.lower().endswith(UNREAD_SUFFIXES):
            yield UnreadFile(file, UNREAD_FORMAT)
        else:
            yield FoundFile(file, size, _version_stamp(version))


def read_file(file: bytes) -> tuple[bytes, FoundFile]:
    """Reads a file, and its size and time.

    Raises:
        ImageError: if it can't be read, or another program writes it.
    """
    if is_record(file):
        record = read_shard_record(file)
        source = FoundFile(file, record.size, record.mtime_ns, record.captions)
        return record.image, source
    try:
        return _read_at_address(file) if is_url(file) else _read_local(file)
    except FileNotFoundError:
        raise ImageError(MISSING, "no such file") from None
    except OSError as error:
        reasons = {
            errno.ESTALE: CHANGING,
            errno.EHOSTUNREACH: UNREACHABLE,
            errno.EIO: SHORT,
        }
        reason = reasons.get(error.errno or 0, CLOSED)
        raise ImageError(reason, str(error.strerror)) from error


def check_some_reached(errors: list[ImageError], count: int) -> None:
    """Raises the last error if none of several files can be reached.

    One such file among others is reported and left out. If no file can be reached, the
    server or the connection is down, and the caller should stop.

    Args:
        errors: list of the errors of reading the files.
        count: int, number of files.

    Raises:
        OSError: as `open_url`.
    """
    unreachable = [error for error in errors if error.reason == UNREACHABLE]
    if count > 1 and len(unreachable) == count:
        raise unreachable[-1].__cause__ or unreachable[-1]


def _read_at_address(file: bytes) -> tuple[bytes, FoundFile]:
    with open_url(os.fsdecode(file)) as opened:
        # The stream of `open_url` has the size and the version of the object.
        status: Any = opened.raw
        _check_size(status.size)
        source = FoundFile(file, status.size, _version_stamp(status.version))
        return opened.read(), source


def _read_local(file: bytes) -> tuple[bytes, FoundFile]:
    if is_special(os.fsdecode(file)):
        raise ImageError(CLOSED, "no regular file")
    for _ in range(3):
        with open(file, "rb") as opened:
            before = os.fstat(opened.fileno())
            _check_size(before.st_size)
            content = opened.read(before.st_size + 1)
            after = os.fstat(opened.fileno())
        size = after.st_size
        mtime_ns = after.st_mtime_ns
        is_unchanged = (before.st_size, before.st_mtime_ns) == (size, mtime_ns)
        if is_unchanged and len(content) == size:
            return content, FoundFile(file, size, mtime_ns)
    raise ImageError(CHANGING, "another program is writing it")


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError("oversized", f"more than {MAX_FILE_BYTES:,} bytes")


def content_hash(content: bytes) -> bytes:
    """Returns the 16 bytes by which an image is known under another name."""
    return hashlib.blake2b(content, digest_size=16).digest()


def decode_square(content: bytes, resize_to: int) -> ReadImage:
    """Decodes bytes to a square of `resize_to` pixels, or raises ImageError."""
    opened = _open(content)
    metadata = PhotoMetadata(None, None)
    # Drawings have no header.
    if opened is not None:
        metadata = read_photo_metadata(opened)
    with _memory_lock(opened):
        image = _decode(opened, content, 2 * resize_to)
        square = image.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    width, height = image.size if opened is None else opened.size
    # The decoded image is upright, and the header has the size before the rotation.
    if (image.width > image.height) != (width > height):
        width, height = height, width
    return ReadImage(np.asarray(square), width, height, metadata.date, metadata.camera)


def read_query_image(image: Any, resize_to: int) -> np.ndarray:
    """Reads an image to search by.

    Args:
        image: path or address, file content as bytes, or uint8 array
            (height, width, 3).
        resize_to: int, side in pixels to which the image is resized.

    Returns:
        uint8 array (resize_to, resize_to, 3).

    Raises:
        InputError: if the image cannot be read.
    """
    content = as_png(image) if isinstance(image, np.ndarray) else image
    try:
        if not isinstance(content, bytes):
            content, _ = read_file(os.fsencode(content))
        return decode_square(content, resize_to).pixels
    except ImageError as error:
        name = "the image" if isinstance(image, bytes | np.ndarray) else image
        raise InputError(
            f"image must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None


def read_upright(content: bytes, shorter_side: int | None = None) -> Image.Image:
    """Decodes a file's bytes to an upright image in RGB.

    Args:
        content: bytes of the file.
        shorter_side: int, pixels that the shorter side needs. Larger JPEGs are
            decoded in a smaller size.
    """
    opened = _open(content)
    with _memory_lock(opened):
        return _decode(opened, content, shorter_side)


def _memory_lock(
    opened: Image.Image | None,
) -> contextlib.AbstractContextManager[object]:
    """Returns the lock of large images, or a context that locks nothing."""
    if opened is not None and opened.width * opened.height > _LARGE_PIXELS:
        return _LARGE_LOCK
    return contextlib.nullcontext()


def _open(content: bytes) -> Image.Image | None:
    """Opens an image, or returns None for a drawing or a broken image."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return _open_heif(content)
    try:
        return open_image(content)
    except ImageError:  # `_decode` raises the reason.
        return None


def _open_heif(content: bytes) -> Image.Image:
    """Opens HEIC with pillow-heif, and AVIF with Pillow if it can, else with both."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    is_avif = content[8:11] == b"avi"
    file_format = "AVIF" if is_avif and "AVIF" in Image.OPEN else "HEIF"
    if file_format not in Image.OPEN:
        raise ImageError(
            NO_HEIF, 'run `pip install "align-keras[heic]"` to have it read'
        )
    try:
        opened = Image.open(io.BytesIO(content), formats=[file_format])
    except Exception as error:  # Decoders raise various errors for broken files.
        raise ImageError("unreadable", str(error)) from None
    if opened.width * opened.height > MAX_PIXELS:
        detail = f"{opened.width} × {opened.height} pixels are more than {MAX_PIXELS:,}"
        raise ImageError("oversized", detail)
    return opened


def _decode(
    opened: Image.Image | None, content: bytes, shorter_side: int | None
) -> Image.Image:
    if opened is None or opened.format not in ("HEIF", "AVIF"):
        return normalize_image(content, shorter_side=shorter_side)[0]
    from PIL import ImageOps

    try:
        return to_rgb(ImageOps.exif_transpose(opened))[0]
    except Exception as error:
        raise ImageError("unreadable", str(error)) from None


def read_photo_metadata(image: Image.Image) -> PhotoMetadata:
    """Reads date and camera of a photo. Decodes no pixels."""
    raw = image.info.get("exif")
    if not raw:
        return PhotoMetadata(None, None)
    try:
        # getexif() would decode a whole PNG of any size.
        exif = Image.Exif()
        exif.load(raw)
        time_taken = exif.get_ifd(_EXIF).get(_TIME_TAKEN) or exif.get(_TIME)
        make = _one_line(exif.get(_MAKE))
        model = _one_line(exif.get(_MODEL))
    except Exception:  # Decoding the image doesn't depend on damaged metadata.
        return PhotoMetadata(None, None)
    camera = model
    if not model.startswith(make):
        camera = f"{make} {model}".strip()
    return PhotoMetadata(_iso_date(time_taken), camera[:100] or None)


def _one_line(value: object) -> str:
    text = str(value or "").strip("\0 ")
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _iso_date(time_taken: object) -> str | None:
    """Returns a time of EXIF as ISO date, or None if it has another form."""
    try:
        text = str(time_taken)[:19]
        return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat(" ")
    except ValueError:
        return None


def date_of(mtime_ns: int) -> str | None:
    """Returns a file's time as local ISO date, or None if it is out of range.

    It is the date of an image without metadata.
    """
    if abs(mtime_ns) >= _LATEST:
        return None
    try:
        return datetime.datetime.fromtimestamp(mtime_ns // 10**9).isoformat(" ")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01 00:00:00"
