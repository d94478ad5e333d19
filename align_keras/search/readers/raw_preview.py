"""Preview images in the RAW files of cameras.

A RAW file contains a finished preview, usually a JPEG of the full size. LibRaw extracts
it in a few milliseconds. The sensor data are not developed.
"""

import contextlib
import functools
import importlib.util
import io
import struct
from typing import Any, NamedTuple

import numpy as np

from align_keras.embedders.pixels import as_png
from align_keras.utils.errors import ImageError

RAW_SUFFIXES = (
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
    ".fff",
    ".iiq",
    ".mef",
    ".mos",
    ".mrw",
    ".erf",
    ".dcr",
    ".kdc",
    ".x3f",
)
NO_RAW = "RAW, which needs rawpy"
NO_PREVIEW = "RAW without a preview"
# Bytes at a position by which a RAW file differs from all other formats.
_SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW"),
    (0, b"IIRO"),
    (0, b"IIRS"),
    (0, b"MMOR"),
    (0, b"IIU\0"),
    (0, b"\0MRM"),
    (0, b"FOVb"),
    (4, b"ftypcrx "),
    (6, b"HEAPCCDR"),
    (8, b"CR\2"),
)
# TIFF tags.
_SUBFILE_TYPE = 254
_PHOTOMETRIC = 262
_SUB_DIRECTORIES = 330
_DNG_VERSION = 50706
# Values of `_PHOTOMETRIC` for the data of a sensor: a color filter array, linear RAW.
_SENSOR_DATA = (32803, 34892)
# Entries in a directory. Larger directories are not searched.
_MAX_ENTRIES = 1000
# LibRaw's codes of rotations → quarter turns, counterclockwise.
_QUARTER_TURNS = {0: 0, 3: 2, 5: 1, 6: 3}


class RawPreview(NamedTuple):
    """Preview image in a RAW file.

    Attributes:
        content: bytes of an image file, the preview. A JPEG has the orientation of the
            photo in its EXIF metadata.
        width: width of the upright photo in pixels.
        height: height of the upright photo in pixels.
    """

    content: bytes
    width: int
    height: int


@functools.cache
def has_raw_reader() -> bool:
    """Returns True if rawpy is installed."""
    return importlib.util.find_spec("rawpy") is not None


def no_raw_error() -> ImageError:
    """Returns the error for a RAW file if rawpy is not installed."""
    return ImageError(NO_RAW, 'run `pip install "align-keras[raw]"` to read it')


def is_raw_photo(content: bytes) -> bool:
    """Returns True for the content of a camera's RAW file.

    Most RAW files are TIFF files. Their first directory describes a thumbnail with
    further directories below it, or the data of a sensor.
    """
    if any(content.startswith(text, start) for start, text in _SIGNATURES):
        return True
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return False
    tags = _first_directory(content)
    is_thumbnail = bool(tags.get(_SUBFILE_TYPE, 0) & 1)
    return (
        _DNG_VERSION in tags
        or (is_thumbnail and _SUB_DIRECTORIES in tags)
        or tags.get(_PHOTOMETRIC) in _SENSOR_DATA
    )


def _first_directory(content: bytes) -> dict[int, int]:
    """Returns the tags of the first directory of a TIFF file with their first value."""
    order = "<" if content[:2] == b"II" else ">"
    tags: dict[int, int] = {}
    with contextlib.suppress(struct.error):  # The file is truncated.
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        for number in range(min(count, _MAX_ENTRIES)):
            position = start + 2 + 12 * number
            tag, kind = struct.unpack_from(f"{order}HH", content, position)
            # Type 3 is an integer of 16 bits. Other values are read as 32 bits.
            letter = "H" if kind == 3 else "I"
            (value,) = struct.unpack_from(f"{order}{letter}", content, position + 8)
            tags[tag] = value
    return tags


def read_preview(content: bytes) -> RawPreview:
    """Extracts the preview from the content of a RAW file.

    Raises:
        ImageError: if rawpy is not installed, or the file has no readable preview.
    """
    if not has_raw_reader():
        raise no_raw_error()
    import rawpy

    no_preview_errors = (
        rawpy.LibRawNoThumbnailError,
        rawpy.LibRawUnsupportedThumbnailError,
    )
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            sizes = raw.sizes
            preview = raw.extract_thumb()
        quarter_turns = _QUARTER_TURNS.get(sizes.flip, 0)
        # LibRaw adds the orientation to a JPEG. Other previews are arrays of pixels.
        image: Any = preview.data
        if not isinstance(image, bytes):
            image = as_png(np.rot90(image, quarter_turns))
    except Exception as error:  # Damaged files cause many kinds of errors in LibRaw.
        is_without = isinstance(error, no_preview_errors)
        reason = NO_PREVIEW if is_without else "unreadable"
        raise ImageError(reason, f"RAW: {_message(error)}") from None
    width, height = sizes.width, sizes.height
    if quarter_turns % 2:
        width, height = height, width
    return RawPreview(image, width, height)


def _message(error: Exception) -> str:
    """Returns the message of LibRaw, which rawpy passes as bytes."""
    message: Any = error.args[0] if error.args else ""
    if isinstance(message, bytes):
        message = message.decode("utf-8", "replace")
    return " ".join(str(message).split()) or type(error).__name__
