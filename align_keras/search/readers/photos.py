"""Decoding of image files for models and for pages, and metadata of photos."""

import contextlib
import dataclasses
import datetime
import os
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from align_keras.embedders.image_transforms import ImageTransform
from align_keras.embedders.pixels import as_png
from align_keras.search.readers.image_files import read_file
from align_keras.search.readers.raw_preview import (
    RawPreview,
    is_raw_photo,
    read_preview,
)
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import MAX_PIXELS
from align_keras.utils.pillow_images import decode_rgb, open_image

# EXIF tags.
_MAKE = 0x010F
_MODEL = 0x0110
_TIME = 0x0132
_EXIF = 0x8769
_TIME_TAKEN = 0x9003
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
# Images with more pixels than this are decoded one at a time, because each may take a
# gigabyte of memory.
_LARGE_PIXELS = MAX_PIXELS // 4
_LARGE_LOCK = threading.Lock()


@dataclasses.dataclass
class DecodedImage:
    """Decoded image and its metadata.

    Attributes:
        pixels: uint8 array (height, width, 3) for the image tower.
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
        date: ISO date at which the photo was taken, or None.
        camera: make and model of the camera, or None.
    """

    pixels: np.ndarray
    width: int
    height: int
    date: str | None
    camera: str | None


class PhotoMetadata(NamedTuple):
    """Metadata of a photo.

    Attributes:
        date: ISO date at which it was taken, or None.
        camera: make and model of the camera, or None.
    """

    date: str | None
    camera: str | None


def decode_photo(content: bytes, transform: ImageTransform) -> DecodedImage:
    """Decodes an image for an image tower, and reads its metadata.

    Args:
        content: bytes of an image file.
        transform: `image_transform` of the model.

    Raises:
        ImageError: if the image cannot be decoded.
    """
    photo = _open(content)
    metadata = _read_metadata(photo)
    with _memory_lock(photo.opened):
        image = _decode(photo, transform.shorter_side)
        pixels = transform(image)
    width, height = image.size
    if photo.preview is not None:
        width, height = photo.preview.width, photo.preview.height
    elif photo.opened is not None:
        width, height = photo.opened.size
        # The header has the size before the rotation that makes the image upright. A
        # nearly square JPEG can have a square draft, which does not show the rotation.
        if (image.width - image.height) * (width - height) < 0:
            width, height = height, width
    return DecodedImage(pixels, width, height, metadata.date, metadata.camera)


def read_query_image(image: Any, transform: ImageTransform) -> np.ndarray:
    """Reads the image of a query.

    Args:
        image: path or address, content of an image file as bytes, or uint8 array
            (height, width, 3).
        transform: `image_transform` of the model.

    Returns:
        uint8 array (height, width, 3) for the image tower.

    Raises:
        InputError: if the image cannot be read.
    """
    content = as_png(image) if isinstance(image, np.ndarray) else image
    try:
        if not isinstance(content, bytes):
            content, _ = read_file(os.fsencode(content))
        return decode_photo(content, transform).pixels
    except ImageError as error:
        name = "the image" if isinstance(image, bytes | np.ndarray) else image
        raise InputError(
            f"`image` must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None


def read_upright(content: bytes, shorter_side: int | None = None) -> Image.Image:
    """Decodes an image file to an upright RGB image.

    Args:
        content: bytes of the file.
        shorter_side: required length of the shorter side in pixels, or None. A
            larger JPEG is decoded at a reduced size, which is faster.
    """
    photo = _open(content)
    with _memory_lock(photo.opened):
        return _decode(photo, shorter_side)


def _memory_lock(
    opened: Image.Image | None,
) -> contextlib.AbstractContextManager[object]:
    """Returns the lock for a large image, or an empty context for other images."""
    if opened is not None and opened.width * opened.height > _LARGE_PIXELS:
        return _LARGE_LOCK
    return contextlib.nullcontext()


class _Photo(NamedTuple):
    """Image file whose pixels are not decoded yet.

    Attributes:
        content: bytes of the file, or of the preview in a RAW file.
        opened: `PIL.Image.Image`, or None for a vector drawing or a broken image.
        file: bytes of the file.
        preview: `RawPreview` of a RAW file, or None.
    """

    content: bytes
    opened: Image.Image | None
    file: bytes
    preview: RawPreview | None = None


def _open(content: bytes) -> _Photo:
    """Opens an image without decoding its pixels."""
    preview = read_preview(content) if is_raw_photo(content) else None
    photo = _Photo(content, None, content)
    if preview is not None:
        photo = _Photo(preview.content, None, content, preview)
    # `_decode` raises the error of an image that cannot be opened.
    with contextlib.suppress(ImageError):
        return photo._replace(opened=open_image(photo.content))
    return photo


def _decode(photo: _Photo, shorter_side: int | None) -> Image.Image:
    """Decodes an image to an upright RGB image on white."""
    return decode_rgb(photo.content, shorter_side=shorter_side)[0]


def _read_metadata(photo: _Photo) -> PhotoMetadata:
    """Reads the metadata of a photo without decoding its pixels."""
    metadata = PhotoMetadata(None, None)
    # Pillow cannot open vector drawings, which have no metadata.
    if photo.opened is not None:
        metadata = read_photo_metadata(photo.opened)
    if photo.file.startswith(_TIFF_SIGNATURES):
        # The metadata of most RAW files are in the directories of a TIFF file.
        in_file = _read_exif(photo.file)
        return PhotoMetadata(
            in_file.date or metadata.date, in_file.camera or metadata.camera
        )
    return metadata


def read_photo_metadata(image: Image.Image) -> PhotoMetadata:
    """Reads the date and the camera of a photo without decoding its pixels."""
    # `Image.getexif` would decode all pixels of a PNG.
    raw = image.info.get("exif")
    return _read_exif(raw) if raw else PhotoMetadata(None, None)


def _read_exif(raw: bytes) -> PhotoMetadata:
    """Reads metadata in the EXIF format, or in the directories of a TIFF file."""
    try:
        exif = Image.Exif()
        exif.load(raw)
        time_taken = exif.get_ifd(_EXIF).get(_TIME_TAKEN) or exif.get(_TIME)
        make = _one_line(exif.get(_MAKE))
        model = _one_line(exif.get(_MODEL))
    except Exception:  # An image with damaged metadata can still be decoded.
        return PhotoMetadata(None, None)
    camera = model
    if not model.startswith(make):
        camera = f"{make} {model}".strip()
    return PhotoMetadata(_iso_date(time_taken), camera[:100] or None)


def _one_line(value: object) -> str:
    text = str(value or "").strip("\0 ")
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _iso_date(time_taken: object) -> str | None:
    """Returns an EXIF time as an ISO date, or None if it is not valid."""
    try:
        text = str(time_taken)[:19]
        return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat(" ")
    except ValueError:
        return None
