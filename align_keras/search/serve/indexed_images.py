"""Images of an index as a browser displays them.

A file is read only if its content is the indexed content.
"""

import contextlib
import io
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from align_keras.search.image_index import Index
from align_keras.search.index.folder_files import is_item, split_item, stored_image_of
from align_keras.search.readers.image_files import content_hash, read_file
from align_keras.search.readers.photos import read_upright
from align_keras.search.serve.local_server import RequestError
from align_keras.utils.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

# Longer side of a thumbnail in pixels.
THUMBNAIL_SIDE = 320
# Image formats that browsers display: pattern of the first bytes, and media type.
_BROWSER_FORMATS = (
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF.{4}WEBP", "image/webp"),
    (rb"BM", "image/bmp"),
    (rb".{4}ftypavi[fs]", "image/avif"),
)


def as_browser_format(index: Index, image: dict[str, Any]) -> tuple[bytes, str]:
    """Returns content and media type of an image in a format that browsers display.

    Images in other formats are converted to JPEG.
    """
    content = _read_indexed(index, image)
    for pattern, media_type in _BROWSER_FORMATS:
        if re.match(pattern, content, re.DOTALL):
            return content, media_type
    return _encode_jpeg(read_upright(content), 90), "image/jpeg"


def make_thumbnail(index: Index, image: dict[str, Any]) -> bytes:
    """Returns a small copy of an image as JPEG."""
    content = _read_indexed(index, image)
    thumbnail = read_upright(content, shorter_side=THUMBNAIL_SIDE)
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return _encode_jpeg(thumbnail, 82)


def _read_indexed(index: Index, image: dict[str, Any]) -> bytes:
    """Reads the file of an image."""
    file = image["file"]
    if is_item(file):
        stored = stored_image_of(image, index.folder)
        if stored is None:
            id, _ = split_item(file)
            raise RequestError(404, f"The index has no copy of the image {id!r:.160}.")
        file = os.fsencode(stored)
    path = os.fsdecode(file)
    content = None
    with contextlib.suppress(ImageError):
        content, _ = read_file(file)
    if content is None or content_hash(content) != image["content"]:
        raise RequestError(
            410,
            f"The image {path} has changed or was removed since it was indexed. Run "
            "`align-keras index` again.",
        )
    return content


def is_cached(request: Request, image: Mapping[str, Any]) -> bool:
    """Returns True if the browser already has the image in its cache."""
    return cache_headers(image)["ETag"] in request.headers.get("if-none-match", "")


def cache_headers(image: Mapping[str, Any]) -> dict[str, str]:
    """Returns the headers with which a browser caches an image."""
    tag = f'"{image["content"].hex()}"'
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


def _encode_jpeg(image: "Image.Image", quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return file.getvalue()
