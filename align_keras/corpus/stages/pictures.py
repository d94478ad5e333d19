"""Pictures decoded once: checked, hashed and stored in small.

Everything later, near-duplicate removal and the shards, takes the stored form.
"""

import hashlib
import importlib

import numpy as np
from PIL import Image

from align_keras.corpus.duplicates.hashes import perceptual_hash
from align_keras.corpus.opencv import opencv
from align_keras.corpus.parquet_pairs import arrow, read_rows, table_writer
from align_keras.corpus.picture import PictureError, check_jpeg_size, normalise_picture
from align_keras.corpus.sources import read_location
from align_keras.utils.errors import InputError
from align_keras.utils.image_limits import MAX_PIXELS

_BLOCKS = 8
# Some tens of megabytes of JPEGs.
_PICTURES_PER_GROUP = 500


def stored_schema():
    """Returns the schema of a table of stored pictures, a `pyarrow.Schema`.

    `fault` and `detail` are empty for a good picture; a bad one has no `jpeg`.
    """
    pa = arrow()
    texts = ("image_key", "pixel_key", "fault", "detail", "conversion")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("perceptual_hash", pa.binary()),
            ("jpeg", pa.binary()),
        ]
    )


def store_pictures(task):
    """Decodes the pictures of one piece and writes them in their stored form.

    Args:
        task: dict with `group` (str, a table of `group_piece`), `table` (str, the
            file to write), `shorter_side`, `keep_aspect` and `quality` (as
            `store_picture`), `max_pixels` (int, of what is decoded) and `refuse`
            (str, `"module:function"`, or None).

    Returns:
        dict: `pictures`, how many are good, and `faults`, how many aren't by reason.
    """
    refuse = load_hook(task["refuse"])
    good, faults = 0, {}
    with table_writer(task["table"], stored_schema(), _PICTURES_PER_GROUP) as append:
        for row in read_rows(task["group"]):
            stored = {"image_key": row["image_key"], "fault": "", "detail": ""}
            try:
                content = read_location(row["image"])
                stored |= store_picture(
                    content,
                    task["shorter_side"],
                    task["quality"],
                    keep_aspect=task["keep_aspect"],
                    refuse=refuse,
                    max_pixels=task["max_pixels"],
                )
                good += 1
            except PictureError as error:
                stored |= {"fault": error.reason, "detail": error.detail}
                faults[error.reason] = faults.get(error.reason, 0) + 1
            append([stored])
    return {"pictures": good, "faults": faults}


def load_hook(name):
    """Returns the function that `"module:function"` names; None of None.

    Raises:
        InputError: if there is none.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"pictures.refuse must be module:function that Python can import, received "
            f"{name!r} ({error}); put the module on PYTHONPATH."
        ) from None
    return found


def store_picture(
    content,
    shorter_side,
    quality,
    *,
    keep_aspect=True,
    refuse=None,
    max_pixels=MAX_PIXELS,
):
    """Brings one picture into its stored form.

    Args:
        content: bytes of a file.
        shorter_side: int, in pixels; smaller pictures keep their size.
        quality: int, of the JPEG.
        keep_aspect: bool; false makes a square of what isn't smaller.
        refuse: callable, `PIL.Image.Image` → bool, or None.
        max_pixels: int; pictures with more aren't decoded.

    Returns:
        dict by the columns of `stored_schema`, without those of the faults.

    Raises:
        PictureError: it can't be decoded, or is refused.
    """
    # Pillow keeps so many blocks of 16 MiB for the next picture; getting fresh memory
    # from the system took a third of the time.
    Image.core.set_blocks_max(_BLOCKS)
    image, conversion = normalise_picture(
        content, max_pixels=max_pixels, shorter_side=shorter_side
    )
    if refuse is not None and refuse(image):
        raise PictureError("refused", "by pictures.refuse")
    cv2 = opencv()
    pixels = _reduced(_pixels(image), shorter_side, keep_aspect)
    height, width = pixels.shape[:2]
    check_jpeg_size(width, height)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGBA2GRAY)
    jpeg = _jpeg(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGR), quality)
    return {
        # Equal pixels make equal bytes, of which there are fewer to read.
        "pixel_key": hashlib.blake2b(jpeg, digest_size=16).hexdigest(),
        "conversion": conversion or "",
        "width": width,
        "height": height,
        "perceptual_hash": perceptual_hash(grey),
        "jpeg": jpeg,
    }


def _pixels(image):
    """Returns the picture's uint8 array (height, width, 4), of which three count.

    It shares the memory of Pillow, where its version can and the picture lies in one
    piece of memory; a copy takes as long as the hash.
    """
    if hasattr(image, "__arrow_c_array__"):  # Pillow 11.2
        try:
            values = arrow().array(image).values
        except ValueError:  # Larger than one of Pillow's blocks.
            pass
        else:
            pixels = np.frombuffer(values.buffers()[1], np.uint8)
            return pixels.reshape(image.height, image.width, 4)
    return np.asarray(image.convert("RGBA"))


def _reduced(pixels, side, keep_aspect):
    """Returns the picture with a shorter side of at most `side` pixels.

    Where a side becomes less than half, or less than a third in a square, areas are
    averaged; else bilinear samples are near enough, as in the paper's own resizing.
    """
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


def _jpeg(pixels, quality):
    """Encodes an array in OpenCV's order of colours, subsampled, as Pillow would."""
    cv2 = opencv()
    encoded = cv2.imencode(
        ".jpg",
        pixels,
        [
            *(cv2.IMWRITE_JPEG_QUALITY, quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        ],
    )
    return encoded[1].tobytes()
