"""Tables of images with all their captions, built from tables of pairs.

A map step divides each table of pairs into pieces by image key. A reduce step collects
the pairs of each image in a piece. The result depends neither on the order of the
sources nor on the number of workers.
"""

import collections
import contextlib
import hashlib
import importlib
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from align_keras.corpus.duplicates.hashes import opencv, perceptual_hash
from align_keras.corpus.duplicates.near_duplicates import DUPLICATE
from align_keras.corpus.filters.filter_rules import primary_language
from align_keras.corpus.parquet_tables import (
    TEXTS,
    arrow,
    pair_schema,
    read_rows,
    table_writer,
)
from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import MAX_PIXELS
from align_keras.utils.pillow_images import decode_rgb

# Drop reason of an image that the function `images.refuse` drops.
REFUSED = "refused"
# Number of files that a task writes at once. By default, macOS allows a process 256
# open files, and Linux 1,024.
MAX_OPEN_PIECES = 200
# Pixels. Largest width and height of a JPEG that libjpeg writes.
_MAX_JPEG_SIDE = 65_500
# Number of blocks of 16 MiB that Pillow reuses for the next image.
_MAX_BLOCKS = 8
# Number of images per row group, which has tens of megabytes of JPEGs.
_IMAGES_PER_GROUP = 500


def image_schema() -> Any:
    """Returns the schema of a table of images with all their captions."""
    pa = arrow()
    text = pa.struct([(name, pa.string()) for name in TEXTS])
    kinds = {"image_key": pa.string(), "image": pa.string(), "width": pa.int32()}
    return pa.schema(kinds | {"height": pa.int32(), "captions": pa.list_(text)})


def cut_table(task: dict) -> dict:
    """Divides a table of pairs into pieces by the keys of the images.

    The table is read once for each `MAX_OPEN_PIECES` pieces.

    Args:
        task: dict with `table` (path), `folder` (of the pieces) and `pieces` (their
            number).

    Returns:
        dict with `remote`, the number of pairs with remote images, which are left out.
    """
    name = pathlib.Path(task["table"]).stem
    remote_count = 0
    for first in range(0, task["pieces"], MAX_OPEN_PIECES):
        numbers = range(first, min(first + MAX_OPEN_PIECES, task["pieces"]))
        with contextlib.ExitStack() as stack:
            append_functions = {
                number: stack.enter_context(
                    table_writer(
                        piece_path(task["folder"], name, number), pair_schema()
                    )
                )
                for number in numbers
            }
            for row in read_rows(task["table"]):
                if is_remote(row["image"]):
                    # The table is read again for each group of pieces.
                    remote_count += first == 0
                    continue
                number = zlib.crc32(row["image_key"].encode()) % task["pieces"]
                if number in append_functions:
                    append_functions[number]([row])
    return {"remote": remote_count}


def group_piece(task: dict) -> dict:
    """Collects the pairs of each image of a piece into one row.

    Equal captions of an image are merged.

    Args:
        task: dict with `names` (of the divided tables), `folder` (of the pieces),
            `piece` (number) and `table` (path of the result).

    Returns:
        dict with `images` and `pairs`, their numbers.
    """
    rows_of_images: dict[str, list] = {}
    for name in task["names"]:
        for row in read_rows(piece_path(task["folder"], name, task["piece"])):
            rows_of_images.setdefault(row["image_key"], []).append(row)
    pair_count = 0
    with table_writer(task["table"], image_schema()) as append:
        for key, rows in sorted(rows_of_images.items()):
            first_row = min(rows, key=lambda row: row["image"])
            image = {name: first_row[name] for name in ("image", "width", "height")}
            captions = _unique_captions(rows)
            append([{"image_key": key, **image, "captions": captions}])
            pair_count += len(captions)
    return {"images": len(rows_of_images), "pairs": pair_count}


def _unique_captions(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the `TEXTS` of each different caption, sorted."""
    # If rows have the same caption, the first one in the sorted order is used.
    first_texts: dict[str, tuple] = {}
    for texts in sorted(tuple(row[name] for name in TEXTS) for row in rows):
        first_texts.setdefault(texts[0], texts)
    return [dict(zip(TEXTS, texts, strict=True)) for texts in first_texts.values()]


def piece_path(folder: str | os.PathLike, name: str, number: int) -> pathlib.Path:
    """Returns the path of a piece of the table `name`."""
    return pathlib.Path(folder, f"{name}-{number:05d}.parquet")


def stored_schema() -> Any:
    """Returns the schema of a table of decoded images.

    The row of an image that cannot be used has a `fault`, its drop reason, and no
    `jpeg`.
    """
    pa = arrow()
    texts = ("image_key", "pixel_key", "fault", "detail", "conversion")
    kinds = dict.fromkeys(texts, pa.string())
    kinds |= dict.fromkeys(("width", "height"), pa.int32())
    return pa.schema(kinds | dict.fromkeys(("perceptual_hash", "jpeg"), pa.binary()))


def store_images(task: dict) -> dict:
    """Decodes the images of a piece and writes them as reduced JPEGs.

    Args:
        task: dict with `group` (path of the table of images), `table` (path of the
            result), `refuse` (name of a function, or None) and the other options of
            `store_image`.

    Returns:
        dict with `faults`, drop reason → number of images.
    """
    refuse = load_hook(task["refuse"])
    names = ("shorter_side", "quality", "keep_aspect", "max_pixels")
    options = {name: task[name] for name in names}
    drop_reasons: collections.Counter[str] = collections.Counter()
    with table_writer(task["table"], stored_schema(), _IMAGES_PER_GROUP) as append:
        for row in read_rows(task["group"]):
            stored_row = {"image_key": row["image_key"], "fault": "", "detail": ""}
            try:
                content = read_location(row["image"])
                stored_row |= store_image(content, **options, refuse=refuse)
            except ImageError as error:
                stored_row |= {"fault": error.reason, "detail": error.detail}
                drop_reasons[error.reason] += 1
            append([stored_row])
    return {"faults": drop_reasons}


def load_hook(name: str | None, option: str = "images.refuse") -> Callable | None:
    """Imports the function with the name "module:function", or returns None for None.

    Args:
        name: value of the option, or None.
        option: name of the option for messages.

    Raises:
        InputError: if the function cannot be imported.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{option} must be module:function that Python can import. "
            f"Received: {name!r} ({error}). Put the module on PYTHONPATH."
        ) from None


def store_image(
    content: bytes,
    shorter_side: int,
    quality: int,
    *,
    keep_aspect: bool = True,
    refuse: Callable | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict:
    """Decodes an image, reduces it and encodes it as a JPEG.

    Args:
        content: bytes of an image file.
        shorter_side: pixels of the shorter side. Smaller images keep their size.
        quality: int from 1 to 100, quality of the JPEG.
        keep_aspect: False to resize both sides to `shorter_side`.
        refuse: callable that takes a `PIL.Image.Image` and returns True to drop it, or
            None.
        max_pixels: largest allowed number of pixels before the reduction.

    Returns:
        dict with columns of `stored_schema`, apart from `image_key`, `fault` and
        `detail`.

    Raises:
        ImageError: if the image cannot be decoded, is too large or is refused.
    """
    # Allocating new memory would take a third of the time per image.
    Image.core.set_blocks_max(_MAX_BLOCKS)
    image, conversion = decode_rgb(
        content, max_pixels=max_pixels, shorter_side=shorter_side
    )
    if refuse is not None and refuse(image):
        raise ImageError(REFUSED, "by images.refuse")
    cv2 = opencv()
    pixels = _reduce(rgba_pixels(image), shorter_side, keep_aspect)
    height, width = pixels.shape[:2]
    check_jpeg_size(width, height)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGBA2GRAY)
    jpeg = _encode_jpeg(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGR), quality)
    return {
        # Equal pixels have equal JPEGs, and a JPEG has fewer bytes to hash.
        "pixel_key": hashlib.blake2b(jpeg, digest_size=16).hexdigest(),
        "conversion": conversion or "",
        "width": width,
        "height": height,
        "perceptual_hash": perceptual_hash(gray),
        "jpeg": jpeg,
    }


def check_jpeg_size(width: int, height: int) -> None:
    """Raises `ImageError` if a side is too long for libjpeg."""
    if max(width, height) > _MAX_JPEG_SIDE:
        size = f"{width} × {height} pixels of the stored image"
        raise ImageError("oversized", f"{size} are more than {_MAX_JPEG_SIDE:,} a side")


def rgba_pixels(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an image, without a copy if possible.

    Args:
        image: `PIL.Image.Image` in mode RGB.

    Returns:
        uint8 array (height, width, 4). The last channel has no meaning.
    """
    if hasattr(image, "__arrow_c_array__"):  # Pillow 11.2
        # The memory of an image that is larger than a block of Pillow cannot be shared.
        with contextlib.suppress(ValueError):
            values = arrow().array(image).values
            pixels = np.frombuffer(values.buffers()[1], np.uint8)
            return pixels.reshape(image.height, image.width, 4)
    return np.asarray(image.convert("RGBA"))


def _reduce(pixels: np.ndarray, side: int, keep_aspect: bool) -> np.ndarray:
    """Resizes an image so that its shorter side has at most `side` pixels."""
    shape = pixels.shape[:2]
    if min(shape) < side:
        return pixels
    scale = side / min(shape)
    new_shape = [round(length * scale) if keep_aspect else side for length in shape]
    if list(shape) == new_shape:
        return pixels
    cv2 = opencv()
    reduction = max(old / new for old, new in zip(shape, new_shape, strict=True))
    linear_limit = 2 if keep_aspect else 3
    method = cv2.INTER_LINEAR if reduction < linear_limit else cv2.INTER_AREA
    return cv2.resize(pixels, new_shape[::-1], interpolation=method)


def _encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes BGR pixels with 4:2:0 chroma subsampling, which Pillow also uses."""
    cv2 = opencv()
    subsampled = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *subsampled]
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


def kept_images(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[dict]:
    """Yields the images of the corpus with their captions.

    Args:
        groups: paths of the tables of images with captions.
        stored: paths of the tables of decoded images, in the same order.
        dropped: sequence of tuples (image key, reason, key of the kept image) for the
            images that are not part of the corpus. The kept image gets the captions of
            its duplicates.

    Yields:
        dict with the JPEG, its size and a list for each of `TEXTS`.
    """
    for row, image in _kept_rows(groups, stored, dropped, ["pixel_key", "jpeg"]):
        captions = row["captions"]
        lists = {f"{name}s": [caption[name] for caption in captions] for name in TEXTS}
        yield {
            "id": row["image_key"],
            "image": image["jpeg"],
            "image_key": image["pixel_key"],
            "width": row["width"],
            "height": row["height"],
            "location": row["image"],
            **lists,
        }


def kept_captions(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[tuple[str, str]]:
    """Yields (caption, primary language) of the images of the corpus.

    The JPEGs are not read. The arguments are those of `kept_images`.
    """
    for row in kept_texts(groups, stored, dropped):
        for caption in row["captions"]:
            yield caption["caption"], primary_language(caption["language"])


def kept_texts(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[dict]:
    """Yields the rows of `groups` that are in the corpus, with captions of duplicates.

    The arguments are those of `kept_images`.
    """
    return (row for row, _ in _kept_rows(groups, stored, dropped))


def _kept_rows(
    groups: list[str], stored: list[str], dropped: Sequence, columns: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields (row in `groups`, `columns` of the row in `stored`) for kept images."""
    dropped_keys = {image[0] for image in dropped}
    duplicate_captions = _duplicate_captions(groups, dropped)
    columns = ["image_key", "fault", *columns]
    for group, images in zip(groups, stored, strict=True):
        rows = zip(read_rows(group), read_rows(images, columns), strict=True)
        for row, image in rows:
            if not image["fault"] and image["image_key"] not in dropped_keys:
                if other_captions := duplicate_captions.get(row["image_key"]):
                    row["captions"] = _unique_captions(
                        [*row["captions"], *other_captions]
                    )
                yield row, image


def _duplicate_captions(
    groups: list[str], dropped: Sequence
) -> dict[str, list[dict[str, Any]]]:
    """Collects the captions of dropped duplicates by the key of the kept image."""
    kept_keys = {image[0]: image[2] for image in dropped if image[1] == DUPLICATE}
    captions: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for group in groups if kept_keys else ():
        for row in read_rows(group, ["image_key", "captions"]):
            if kept_key := kept_keys.get(row["image_key"]):
                captions[kept_key] += row["captions"]
    return captions
