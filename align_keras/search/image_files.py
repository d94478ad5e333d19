"""Image files as an index reads them: found in folders, decoded, and described."""

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
from typing import Any

import numpy as np
from PIL import Image

from align_keras.corpus.image import ImageError, normalize_image, open_image, to_rgb
from align_keras.embedders.pixels import as_png
from align_keras.search.corpus_images import (
    corpus_shards,
    find_records,
    is_record,
    read_record,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, MAX_PIXELS, is_special
from align_keras.utils.remote import is_url, list_url, open_url, stat_url

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
HEIF_SUFFIXES = (".heic", ".heif", ".avif")
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES + HEIF_SUFFIXES)
# Photos in formats that aren't decoded. They are reported rather than ignored.
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
# ISO base media files of these brands hold a still image.
_HEIF_BRANDS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
NO_HEIF = "HEIC or AVIF, which needs pillow-heif"
CHANGING = "changes while it is read"
UNREACHABLE = "can't be reached"
SHORT = "can't be read to its end"
CLOSED = "can't be opened"
MISSING = "missing"
# Nanoseconds. What the stores hold is a 64-bit number, up to the year 2262.
_LATEST = 2**63 - 1
_MAKE, _MODEL, _TIME, _EXIF, _TIME_TAKEN = 0x010F, 0x0110, 0x0132, 0x8769, 0x9003
# Of more pixels, one image at a time: decoding it may take a gigabyte.
_LARGE_PIXELS = MAX_PIXELS // 4
_LARGE_LOCK = threading.Lock()


@dataclasses.dataclass
class FoundFile:
    """A file by its absolute path, as bytes, for names needn't be UTF-8, or by its
    address, or a corpus's record, which has captions.
    """

    file: bytes
    size: int
    mtime_ns: int
    captions: list[str] | None = None

    def __post_init__(self):
        self.mtime_ns = max(-_LATEST, min(self.mtime_ns, _LATEST))


@dataclasses.dataclass
class ReadImage:
    """An image's pixels, uint8 (resize_to, resize_to, 3), and what its file says."""

    pixels: np.ndarray
    width: int
    height: int
    date: str | None
    camera: str | None


def find_images(root: bytes, problems: list[tuple[bytes, str]]) -> Iterator[FoundFile]:
    """Yields the image files of a folder, then of its subfolders, in the order of
    names, or a built corpus's records. Hidden ones are left out, links to folders not
    followed; what can't be listed goes to `problems`, (path, reason).
    """
    if is_url(root):
        yield from _find_at_address(os.fsdecode(root), problems)
        return
    shards = corpus_shards(root)
    for shard in shards:
        for record in find_records(shard, problems):
            yield FoundFile(*record)
    folders = [] if shards else [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            problems.append((folder, f"folder: {error.strerror}"))
            continue
        below = []
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif entry.name.lower().endswith(_SUFFIXES):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield FoundFile(entry.path, status.st_size, status.st_mtime_ns)
                    elif not stat.S_ISDIR(status.st_mode):
                        problems.append((entry.path, "no regular file"))
                elif entry.name.lower().endswith(_UNREAD_SUFFIXES):
                    problems.append((entry.path, UNREAD_FORMAT))
            except OSError as error:
                problems.append((entry.path, str(error.strerror)))
        folders.extend(reversed(below))


def found_file(file: bytes) -> FoundFile:
    """Returns a file, or what lies at an address, with its size and time."""
    if is_url(file):
        about = stat_url(os.fsdecode(file))
        if about is None:
            raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fsdecode(file))
        return FoundFile(file, about.size, _version_stamp(about.version))
    status = os.stat(file)
    return FoundFile(file, status.st_size, status.st_mtime_ns)


def _version_stamp(version):
    """What names an object's content, in the place of a time: below any of these."""
    digest = hashlib.blake2b(version.encode(), digest_size=7).digest()
    return -(2**62) - int.from_bytes(digest, "big")


def _find_at_address(url, problems):
    try:
        found = list_url(url, SUFFIXES + HEIF_SUFFIXES + UNREAD_SUFFIXES)
    except OSError as error:
        problems.append((os.fsencode(url), f"folder: {error.strerror}"))
        return
    for name, size, version in found:
        file = os.fsencode(f"{url.rstrip('/')}/{name}")
        if name.lower().endswith(UNREAD_SUFFIXES):
            problems.append((file, UNREAD_FORMAT))
            continue
        yield FoundFile(file, size, _version_stamp(version))


def read_file(file: bytes) -> tuple[bytes, FoundFile]:
    """Reads a file that nobody writes meanwhile, and its size and time."""
    if is_record(file):
        content, captions, size, modified = read_record(file)
        return content, FoundFile(file, size, modified, captions)
    try:
        return _read_at_address(file) if is_url(file) else _read_here(file)
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
    """Raises the last error if all of several files can't be reached.

    One such file among others is reported and left out. If no file can be reached, the
    server or the connection is down, and the caller should stop.

    Args:
        errors: what reading the files raised.
        count: int, number of files.

    Raises:
        OSError: as `open_url`.
    """
    unreachable = [error for error in errors if error.reason == UNREACHABLE]
    if count > 1 and len(unreachable) == count:
        raise unreachable[-1].__cause__ or unreachable[-1]


def _read_at_address(file):
    with open_url(os.fsdecode(file)) as opened:
        about = opened.raw
        _check_size(about.size)
        found = FoundFile(file, about.size, _version_stamp(about.version))
        return opened.read(), found


def _read_here(file):
    if is_special(os.fsdecode(file)):
        raise ImageError(CLOSED, "no regular file")
    for _ in range(3):
        with open(file, "rb") as opened:
            before = os.fstat(opened.fileno())
            _check_size(before.st_size)
            content = opened.read(before.st_size + 1)
            after = os.fstat(opened.fileno())
        size, time = after.st_size, after.st_mtime_ns
        if (before.st_size, before.st_mtime_ns, len(content)) == (size, time, size):
            return content, FoundFile(file, size, time)
    raise ImageError(CHANGING, "another program is writing it")


def _check_size(size):
    if size > MAX_FILE_BYTES:
        raise ImageError("oversized", f"more than {MAX_FILE_BYTES:,} bytes")


def content_hash(content: bytes) -> bytes:
    """Returns the 16 bytes by which an image is known under another name."""
    return hashlib.blake2b(content, digest_size=16).digest()


def read_image(content: bytes, resize_to: int) -> ReadImage:
    """Decodes bytes to a square of `resize_to` pixels, or raises ImageError."""
    opened = _open(content)
    # Of a drawing, or of none, there is no header.
    date, camera = (None, None) if opened is None else _taken(opened)
    with _one_at_a_time(opened):
        image = _decoded(opened, content, 2 * resize_to)
        square = image.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    size = image.size if opened is None else opened.size
    if (image.width > image.height) != (size[0] > size[1]):
        size = size[::-1]  # Turned upright.
    width, height = size
    return ReadImage(np.asarray(square), width, height, date, camera)


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
        return read_image(content, resize_to).pixels
    except ImageError as error:
        name = "the image" if isinstance(image, bytes | np.ndarray) else image
        raise InputError(
            f"image must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None


def read_upright(content: bytes, shorter_side: int | None = None) -> Image.Image:
    """Decodes a file's bytes to RGB; JPEGs are reduced to at least a shorter side."""
    opened = _open(content)
    with _one_at_a_time(opened):
        return _decoded(opened, content, shorter_side)


def _one_at_a_time(opened):
    large = opened is not None and opened.width * opened.height > _LARGE_PIXELS
    return _LARGE_LOCK if large else contextlib.nullcontext()


def _open(content):
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return _open_heif(content)
    try:
        return open_image(content)
    except ImageError:  # Decoding tells the reason, or it is a drawing.
        return None


def _open_heif(content):
    """Opens HEIC by pillow-heif, AVIF by Pillow, where it can, or by that."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    formats = ["AVIF"] if content[8:11] == b"avi" and "AVIF" in Image.OPEN else ["HEIF"]
    if formats[0] not in Image.OPEN:
        raise ImageError(
            NO_HEIF, 'run `pip install "align-keras[heic]"` to have it read'
        )
    try:
        opened = Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # Decoders raise whatever a broken file leads to.
        raise ImageError("unreadable", str(error)) from None
    if opened.width * opened.height > MAX_PIXELS:
        detail = f"{opened.width} × {opened.height} pixels are more than {MAX_PIXELS:,}"
        raise ImageError("oversized", detail)
    return opened


def _decoded(opened, content, shorter_side):
    if opened is None or opened.format not in ("HEIF", "AVIF"):
        return normalize_image(content, shorter_side=shorter_side)[0]
    from PIL import ImageOps

    try:
        return to_rgb(ImageOps.exif_transpose(opened))[0]
    except Exception as error:
        raise ImageError("unreadable", str(error)) from None


def _taken(image):
    """When and by what an image was taken: ISO date or None, camera or None."""
    raw = image.info.get("exif")
    if not raw:
        return None, None
    try:
        # Not by getexif(), which decodes a whole PNG, however large.
        exif = Image.Exif()
        exif.load(raw)
        text = exif.get_ifd(_EXIF).get(_TIME_TAKEN) or exif.get(_TIME)
        parts = [_words(exif.get(tag)) for tag in (_MAKE, _MODEL)]
    except Exception:  # Damaged metadata leave the image as it is.
        return None, None
    if parts[1].startswith(parts[0]):
        parts = parts[1:]
    return _iso_date(text), " ".join(filter(None, parts))[:100] or None


def _words(value):
    text = str(value or "").strip("\0 ")
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _iso_date(text):
    try:
        taken = datetime.datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return taken.isoformat(" ")


def date_of(mtime_ns: int) -> str | None:
    """A file's time as the local date of an image that names none; None for a time
    that is out of range.
    """
    if abs(mtime_ns) >= _LATEST:
        return None
    try:
        return datetime.datetime.fromtimestamp(mtime_ns // 10**9).isoformat(" ")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01 00:00:00"
