"""Pictures decoded once: checked, hashed and stored in small.

Everything later, near-duplicate removal and the shards, takes the stored form.
"""

import importlib
import io

from PIL import Image

from align_keras.corpus.parquet_pairs import arrow, read_rows, table_writer
from align_keras.corpus.perceptual_hash import perceptual_hash
from align_keras.corpus.picture import PictureError, normalise_picture, pixel_key
from align_keras.corpus.sources import read_location
from align_keras.utils.errors import InputError


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
            and `refuse` (str, `"module:function"`, or None).

    Returns:
        dict: `pictures`, how many are good, and `faults`, how many aren't by reason.
    """
    refuse = load_hook(task["refuse"])
    good, faults = 0, {}
    with table_writer(task["table"], stored_schema()) as append:
        for row in read_rows(task["group"]):
            stored = {"image_key": row["image_key"], "fault": "", "detail": ""}
            try:
                stored |= _store(row["image"], task, refuse)
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


def _store(location, task, refuse):
    side = task["shorter_side"]
    image, conversion = normalise_picture(read_location(location), shorter_side=side)
    if refuse is not None and refuse(image):
        raise PictureError("refused", "by pictures.refuse")
    size = image.size
    if min(size) > side:
        scaled = [max(1, round(length * side / min(size))) for length in size]
        image = image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=task["quality"])
    return {
        "pixel_key": pixel_key(image),
        "conversion": conversion or "",
        "width": image.width,
        "height": image.height,
        "perceptual_hash": perceptual_hash(image),
        "jpeg": file.getvalue(),
    }
