"""From kept pairs to pictures with all their captions.

A map and a reduce over files: each table is cut by its pictures' keys, then each
piece of all tables is sorted, so that what comes out depends neither on the order of
the sources nor on the number of workers.
"""

import contextlib
import pathlib
import zlib

from align_keras.corpus.parquet_pairs import arrow, pair_schema, read_rows, table_writer
from align_keras.corpus.sources import is_remote

TEXTS = ("caption", "rule", "language", "page_url", "source")


def picture_schema():
    """Returns the schema of a table of pictures, a `pyarrow.Schema`."""
    pa = arrow()
    text = pa.struct([(name, pa.string()) for name in TEXTS])
    return pa.schema(
        [
            ("image_key", pa.string()),
            ("image", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("captions", pa.list_(text)),
        ]
    )


def cut_table(task):
    """Cuts one table of pairs into pieces by the keys of the pictures.

    Args:
        task: dict with `table` (str, the file), `folder` (str) and `pieces` (int).

    Returns:
        dict: `local` and `remote`, how many pairs have their picture here and not.
    """
    name = pathlib.Path(task["table"]).stem
    counts = {"local": 0, "remote": 0}
    with contextlib.ExitStack() as stack:
        appends = [
            stack.enter_context(
                table_writer(piece_path(task["folder"], name, number), pair_schema())
            )
            for number in range(task["pieces"])
        ]
        for row in read_rows(task["table"]):
            if is_remote(row["image"]):
                counts["remote"] += 1
                continue
            counts["local"] += 1
            key = row["image_key"].encode()
            appends[zlib.crc32(key) % len(appends)]([row])
    return counts


def group_piece(task):
    """Gathers the pairs of each picture of one piece.

    Equal captions of a picture count once, with the smallest of their origins.

    Args:
        task: dict with `folder` (str), `names` (list of str, the tables that were
            cut), `piece` (int) and `table` (str, the file to write).

    Returns:
        dict: `pictures` and `pairs`.
    """
    found = {}
    for name in task["names"]:
        for row in read_rows(piece_path(task["folder"], name, task["piece"])):
            found.setdefault(row["image_key"], []).append(row)
    pairs = 0
    with table_writer(task["table"], picture_schema()) as append:
        for key, rows in sorted(found.items()):
            first = min(rows, key=lambda row: row["image"])
            picture = {name: first[name] for name in ("image", "width", "height")}
            captions = _captions(rows)
            append([{"image_key": key, **picture, "captions": captions}])
            pairs += len(captions)
    return {"pictures": len(found), "pairs": pairs}


def _captions(rows):
    origins = sorted(tuple(row[name] for name in TEXTS) for row in rows)
    first = {}
    for origin in origins:
        first.setdefault(origin[0], origin)
    return [dict(zip(TEXTS, origin, strict=True)) for origin in first.values()]


def piece_path(folder, name, number):
    """Where the piece of a table lies."""
    return pathlib.Path(folder, f"{name}-{number:05d}.parquet")
