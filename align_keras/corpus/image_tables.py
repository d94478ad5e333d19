"""Stored images with all their captions, by a map and a reduce over files of pairs.
The result depends neither on the order of the sources nor on the workers.
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

from align_keras.corpus.duplicates.hashes import perceptual_hash
from align_keras.corpus.duplicates.near_duplicates import DUPLICATE
from align_keras.corpus.filters.filter_rules import primary_language
from align_keras.corpus.image import (
    ImageError,
    check_jpeg_size,
    normalize_image,
    opencv,
)
from align_keras.corpus.parquet_tables import (
    TEXTS,
    arrow,
    pair_schema,
    read_rows,
    table_writer,
)
from align_keras.corpus.sources import is_remote, read_location
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS

_BLOCKS = 8
# Some tens of megabytes of JPEGs.
_IMAGES_PER_GROUP = 500


def image_schema() -> Any:
    """Returns the schema of a table of images with all their captions."""
    pa = arrow()
    text = pa.struct([(name, pa.string()) for name in TEXTS])
    kinds = {"image_key": pa.string(), "image": pa.string(), "width": pa.int32()}
    return pa.schema(kinds | {"height": pa.int32(), "captions": pa.list_(text)})


def cut_table(task: dict) -> dict:
    """Cuts one table of pairs into pieces by the keys of the images."""
    name = pathlib.Path(task["table"]).stem
    remote = 0
    with contextlib.ExitStack() as stack:
        appends = [
            stack.enter_context(
                table_writer(piece_path(task["folder"], name, number), pair_schema())
            )
            for number in range(task["pieces"])
        ]
        for row in read_rows(task["table"]):
            if is_remote(row["image"]):
                remote += 1
            else:
                key = row["image_key"].encode()
                appends[zlib.crc32(key) % len(appends)]([row])
    return {"remote": remote}


def group_piece(task: dict) -> dict:
    """Gathers the pairs of each image of one piece; equal captions count once."""
    rows_of_images: dict[str, list] = {}
    for name in task["names"]:
        for row in read_rows(piece_path(task["folder"], name, task["piece"])):
            rows_of_images.setdefault(row["image_key"], []).append(row)
    pairs = 0
    with table_writer(task["table"], image_schema()) as append:
        for key, rows in sorted(rows_of_images.items()):
            first = min(rows, key=lambda row: row["image"])
            image = {name: first[name] for name in ("image", "width", "height")}
            captions = _each_once(rows)
            append([{"image_key": key, **image, "captions": captions}])
            pairs += len(captions)
    return {"pictures": len(rows_of_images), "pairs": pairs}


def _each_once(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, tuple] = {}
    for text in sorted(tuple(row[name] for name in TEXTS) for row in rows):
        first.setdefault(text[0], text)
    return [dict(zip(TEXTS, text, strict=True)) for text in first.values()]


def piece_path(folder: str | os.PathLike, name: str, number: int) -> pathlib.Path:
    """Returns the path of a piece of a table."""
    return pathlib.Path(folder, f"{name}-{number:05d}.parquet")


def stored_schema() -> Any:
    """Returns the schema of stored images. Bad images have a `fault` and no `jpeg`."""
    pa = arrow()
    texts = ("image_key", "pixel_key", "fault", "detail", "conversion")
    kinds = dict.fromkeys(texts, pa.string())
    kinds |= dict.fromkeys(("width", "height"), pa.int32())
    return pa.schema(kinds | dict.fromkeys(("perceptual_hash", "jpeg"), pa.binary()))


def store_images(task: dict) -> dict:
    """Decodes the images of one piece and writes them in their stored form."""
    refuse = load_hook(task["refuse"])
    names = ("shorter_side", "quality", "keep_aspect", "max_pixels")
    form = {name: task[name] for name in names}
    faults: collections.Counter[str] = collections.Counter()
    with table_writer(task["table"], stored_schema(), _IMAGES_PER_GROUP) as append:
        for row in read_rows(task["group"]):
            stored = {"image_key": row["image_key"], "fault": "", "detail": ""}
            try:
                content = read_location(row["image"])
                stored |= store_image(content, **form, refuse=refuse)
            except ImageError as error:
                stored |= {"fault": error.reason, "detail": error.detail}
                faults[error.reason] += 1
            append([stored])
    return {"faults": faults}


def load_hook(name: str | None) -> Callable | None:
    """Returns the function that `"module:function"` names; None of None."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"images.refuse must be module:function that Python can import, received "
            f"{name!r} ({error}); put the module on PYTHONPATH."
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
    """Returns an image by the columns of `stored_schema` but those of faults."""
    # Pillow keeps these blocks of 16 MiB for the next image. Fresh memory takes a third
    # of the time of an image.
    Image.core.set_blocks_max(_BLOCKS)
    image, conversion = normalize_image(
        content, max_pixels=max_pixels, shorter_side=shorter_side
    )
    if refuse is not None and refuse(image):
        raise ImageError("refused", "by images.refuse")
    cv2 = opencv()
    pixels = _reduced(rgba_pixels(image), shorter_side, keep_aspect)
    height, width = pixels.shape[:2]
    check_jpeg_size(width, height)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGBA2GRAY)
    jpeg = _jpeg(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGR), quality)
    return {
        # Equal pixels make equal bytes, of which there are fewer to read.
        "pixel_key": hashlib.blake2b(jpeg, digest_size=16).hexdigest(),
        "conversion": conversion or "",
        "width": width,
        "height": height,
        "perceptual_hash": perceptual_hash(gray),
        "jpeg": jpeg,
    }


def rgba_pixels(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an image, in Pillow's memory where possible.

    Returns:
        uint8 (height, width, 4). The last channel has no meaning.
    """
    if hasattr(image, "__arrow_c_array__"):  # Pillow 11.2
        with contextlib.suppress(ValueError):  # Larger than one of Pillow's blocks.
            values = arrow().array(image).values
            pixels = np.frombuffer(values.buffers()[1], np.uint8)
            return pixels.reshape(image.height, image.width, 4)
    return np.asarray(image.convert("RGBA"))


def _reduced(pixels: np.ndarray, side: int, keep_aspect: bool) -> np.ndarray:
    """Returns the image with a shorter side of at most `side` pixels."""
    shape = pixels.shape[:2]
    if min(shape) < side:
        return pixels
    scale = side / min(shape)
    target = [round(length * scale) if keep_aspect else side for length in shape]
    if list(shape) == target:
        return pixels
    cv2 = opencv()
    largest = max(old / new for old, new in zip(shape, target, strict=True))
    limit = 2 if keep_aspect else 3
    method = cv2.INTER_LINEAR if largest < limit else cv2.INTER_AREA
    return cv2.resize(pixels, target[::-1], interpolation=method)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes an array in OpenCV's order of colors, subsampled, as Pillow would."""
    cv2 = opencv()
    subsampled = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *subsampled]
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


def kept_images(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[dict]:
    """Yields what stays, with the captions of equal images that left."""
    for texts, image in _staying(groups, stored, dropped, ["pixel_key", "jpeg"]):
        captions = texts["captions"]
        lists = {f"{name}s": [text[name] for text in captions] for name in TEXTS}
        yield {
            "id": texts["image_key"],
            "image": image["jpeg"],
            "image_key": image["pixel_key"],
            "width": texts["width"],
            "height": texts["height"],
            "location": texts["image"],
            **lists,
        }


def kept_captions(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[tuple[str, str]]:
    """Yields (caption, primary language) of what stays, without reading the images."""
    for texts in kept_texts(groups, stored, dropped):
        for text in texts["captions"]:
            yield text["caption"], primary_language(text["language"])


def kept_texts(
    groups: list[str], stored: list[str], dropped: Sequence
) -> Iterator[dict]:
    """Yields the rows of `groups` that stay, with all captions that are theirs."""
    return (texts for texts, _ in _staying(groups, stored, dropped))


def _staying(
    groups: list[str], stored: list[str], dropped: Sequence, columns: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    dropped_keys = {image[0] for image in dropped}
    inherited = _inherited(groups, dropped)
    columns = ["image_key", "fault", *columns]
    for group, images in zip(groups, stored, strict=True):
        rows = zip(read_rows(group), read_rows(images, columns), strict=True)
        for texts, image in rows:
            if not image["fault"] and image["image_key"] not in dropped_keys:
                if captions_of_equals := inherited.get(texts["image_key"]):
                    texts["captions"] = _each_once(
                        [*texts["captions"], *captions_of_equals]
                    )
                yield texts, image


def _inherited(groups: list[str], dropped: Sequence) -> dict[str, list[dict[str, Any]]]:
    """Collects the captions that images with equal pixels leave behind."""
    heirs = {image[0]: image[2] for image in dropped if image[1] == DUPLICATE}
    inherited: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for group in groups if heirs else ():
        for texts in read_rows(group, ["image_key", "captions"]):
            if heir := heirs.get(texts["image_key"]):
                inherited[heir] += texts["captions"]
    return inherited
