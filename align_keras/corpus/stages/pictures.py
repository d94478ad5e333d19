"""Pictures decoded once: checked, hashed and stored in small.

Everything later, near-duplicate removal and the shards, takes the stored form.
"""

import hashlib
import importlib
import io

import numpy as np
from PIL import Image

from align_keras.corpus.parquet_pairs import arrow, read_rows, table_writer
from align_keras.corpus.perceptual_hash import perceptual_hash
from align_keras.corpus.picture import MAX_PIXELS, PictureError, normalise_picture
from align_keras.corpus.sources import read_location
from align_keras.utils.errors import InputError

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
            file to write), `shorter_side` and `quality` (int, of the stored JPEG),
            `max_pixels` (int, of what is decoded) and `refuse` (str,
            `"module:function"`, or None).

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
                    refuse,
                    task["max_pixels"],
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


def store_picture(content, shorter_side, quality, refuse=None, max_pixels=MAX_PIXELS):
    """Brings one picture into its stored form.

    Args:
        content: bytes of a file.
        shorter_side: int, in pixels; smaller pictures keep their size.
        quality: int, of the JPEG.
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
    image = _reduced(image, shorter_side)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    jpeg = file.getvalue()
    return {
        # Equal pixels make equal bytes, of which there are fewer to read.
        "pixel_key": hashlib.blake2b(jpeg, digest_size=16).hexdigest(),
        "conversion": conversion or "",
        "width": image.width,
        "height": image.height,
        "perceptual_hash": perceptual_hash(image),
        "jpeg": jpeg,
    }


def _reduced(image, side):
    """Returns the picture with a shorter side of at most `side` pixels.

    By OpenCV, which takes a tenth of Pillow's time. Below a half, areas are averaged;
    above, bilinear samples are near enough, as in the paper's own resizing.
    """
    shorter = min(image.size)
    if shorter <= side:
        return image
    try:
        import cv2
    except ImportError:
        raise InputError(
            "pictures are reduced by OpenCV, which isn't installed; run "
            '`pip install "align-keras[corpus]"`.'
        ) from None
    cv2.setNumThreads(1)  # Beam's workers take all cores.
    scaled = [max(1, round(length * side / shorter)) for length in image.size]
    method = cv2.INTER_LINEAR if shorter < 2 * side else cv2.INTER_AREA
    pixels = cv2.resize(np.asarray(image), scaled, interpolation=method)
    return Image.fromarray(pixels)
