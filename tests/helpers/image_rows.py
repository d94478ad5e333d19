"""Tables of images with captions, in two parts, with duplicates and near duplicates."""

from align_keras.corpus.duplicates.near_duplicates import DUPLICATE, NEAR_DUPLICATE
from align_keras.corpus.image_tables import image_schema, stored_schema
from align_keras.corpus.parquet_tables import table_writer


def text(caption, language="en-us", rule="alt"):
    return {
        "caption": caption,
        "rule": rule,
        "language": language,
        "page_url": f"p {caption}",
        "source": "s",
    }


IMAGES = [
    # Each row has the key, width, height, fault and captions of an image.
    ("a", 300, 210, "", [text("b two", "de"), text("d four")]),
    ("b", 201, 201, "", [text("a one", ""), text("b two", "de")]),
    ("c", 900, 400, "", [text("near a")]),
    ("d", 400, 400, "truncated", [text("cut short")]),
    ("e", 2600, 2001, "", [text("one two three four", rule="title")]),
    ("f", 300, 210, "", [text("c three")]),
]
# The images `a` and `f` have the same pixels as `b`, and `c` is a near duplicate of it.
DROPPED = [
    ["a", DUPLICATE, "b", ""],
    ["c", NEAR_DUPLICATE, "b", ""],
    ["f", DUPLICATE, "b", ""],
]


def write_pieces(folder):
    """Writes the tables of the corpus stage that reads images.

    Returns:
        Tuple of two lists of paths: tables of images with captions, and tables of
        stored image files.
    """
    groups, stored = [], []
    for number, rows in enumerate((IMAGES[:4], IMAGES[4:])):
        groups.append(str(folder / f"group-{number}.parquet"))
        stored.append(str(folder / f"part-{number}.parquet"))
        with table_writer(groups[-1], image_schema()) as append:
            for key, width, height, _, captions in rows:
                row = {"image_key": key, "image": f"/{key}.png", "captions": captions}
                append([{**row, "width": width, "height": height}])
        with table_writer(stored[-1], stored_schema()) as append:
            for key, _, _, fault, _ in rows:
                row = {"image_key": key, "pixel_key": f"pixels {key}", "fault": fault}
                append([{**row, "jpeg": None if fault else f"jpeg {key}".encode()}])
    return groups, stored
