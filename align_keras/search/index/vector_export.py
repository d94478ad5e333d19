"""Export of an index to files that vector databases and data frames read."""

import csv
import json
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.corpus.parquet_tables import arrow
from align_keras.search.index.schema import INDEX_COLUMNS
from align_keras.utils.arguments import check_choice
from align_keras.utils.condition_columns import NUMBER
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, refuse_url
from align_keras.utils.progress import progress_bar

if TYPE_CHECKING:
    from align_keras.search.index.image_store import ImageStore

EXPORT_SUFFIXES = (".parquet", ".npy")
# Column of the vectors, as in the output of `align-keras embed`. If the index has a
# column of this name, it gets an underscore.
_VECTOR_COLUMN = "embedding"
# Key of the metadata in the schema of a Parquet file.
METADATA_KEY = "align_keras"
# Key of the version in the metadata. It identifies the file `FILE.json` of an export.
_VERSION_KEY = "align_keras_vectors"
_VERSION = 1
# Rows that are read from the index at once, and rows of a row group.
_BLOCK = 4096
_INTEGERS = tuple(name for name, kind in INDEX_COLUMNS.items() if kind == "INTEGER")


def export_vectors(store: "ImageStore", to: str | os.PathLike) -> list[pathlib.Path]:
    """Writes the ids, the columns and the vectors of an index to files.

    Args:
        store: store of the index.
        to: path of a new file `FILE.parquet` or `FILE.npy`. Next to an NPY file,
            `FILE.csv` has the columns and `FILE.json` the metadata.

    Returns:
        The files.

    Raises:
        InputError: if the path has another suffix, pyarrow is not installed for
            Parquet, the index is damaged, or a file next to an NPY file has other data.
    """
    refuse_url(to, "the file of an export")
    path = pathlib.Path(to)
    suffix = path.suffix.lower()
    check_choice("The suffix of an export", suffix, EXPORT_SUFFIXES)
    write = _write_parquet if suffix == ".parquet" else _write_npy
    with store.database.consistent_read():
        return write(store, path)


def _write_parquet(store: "ImageStore", path: pathlib.Path) -> list[pathlib.Path]:
    pa = arrow(", or write a .npy file")
    kinds = _kinds(store)
    fields = {name: getattr(pa, kind)() for name, kind in kinds.items()}
    fields["captions"] = pa.list_(pa.string())
    columns = pa.schema(fields)
    name = _VECTOR_COLUMN
    while name in fields:
        name += "_"
    field = pa.field(name, pa.list_(pa.float32(), store.dimension))
    metadata = {METADATA_KEY: json.dumps(_metadata(store))}
    schema = columns.append(field).with_metadata(metadata)
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for rows, vectors in _blocks(store, kinds):
            table = pa.Table.from_pylist(rows, columns)
            flat = pa.array(vectors.ravel(), pa.float32())
            vector_column = pa.FixedSizeListArray.from_arrays(flat, store.dimension)
            table = table.append_column(field, vector_column)
            writer.write_table(table.replace_schema_metadata(metadata))
    return [path]


def _write_npy(store: "ImageStore", path: pathlib.Path) -> list[pathlib.Path]:
    kinds = _kinds(store)
    table_path = path.with_suffix(".csv")
    metadata_path = path.with_suffix(".json")
    vectors_path = path.with_suffix(".npy")
    _check_neighbours(table_path, metadata_path)
    shape = len(store), store.dimension
    with (
        atomic_path(vectors_path) as temporary,
        atomic_write(table_path) as text,
        atomic_write(metadata_path) as metadata,
    ):
        table = csv.DictWriter(text, list(kinds), lineterminator="\n")
        table.writeheader()
        with open(temporary, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for rows, vectors in _blocks(store, kinds):
                file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
                for row in rows:
                    captions = json.dumps(row["captions"], ensure_ascii=False)
                    table.writerow({**row, "captions": captions})
        metadata.write(json.dumps(_metadata(store), indent=2) + "\n")
    return [vectors_path, table_path, metadata_path]


def _check_neighbours(table_path: pathlib.Path, metadata_path: pathlib.Path) -> None:
    """Raises InputError if an export would replace a file of the user."""
    # The user names only the NPY file. The table next to it may be a source of the
    # index.
    if _is_export(metadata_path):
        return
    for path in (table_path, metadata_path):
        if os.path.lexists(path):
            raise InputError(
                "The files next to an export must be new or those of an earlier "
                f"export. Received: {path}, which contains other data. Choose another "
                "name."
            )


def _is_export(metadata_path: pathlib.Path) -> bool:
    """Returns True if a file has the metadata of an export."""
    try:
        metadata = json.loads(metadata_path.read_bytes())
    # `UnicodeDecodeError` and `JSONDecodeError` are a ValueError.
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(metadata, dict) and _VERSION_KEY in metadata


def _kinds(store: "ImageStore") -> dict[str, str]:
    """Returns a dict from the name of each column to the name of its Arrow type."""
    kinds = {"id": "int64"}
    for name, kind in store.tables.columns.items():
        if name in _INTEGERS:
            kinds[name] = "int64"
        else:
            kinds[name] = "float64" if kind == NUMBER else "string"
    return kinds


def _metadata(store: "ImageStore") -> dict[str, Any]:
    """Returns the metadata of an export. They identify the model of the vectors."""
    return {
        _VERSION_KEY: _VERSION,
        "model": store.header["model"],
        "dimension": store.dimension,
        "rows": len(store),
    }


def _blocks(
    store: "ImageStore", kinds: dict[str, str]
) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Yields the columns of some images, and their vectors, float32 (n, d)."""
    last_id = 0
    with progress_bar("exporting", "images", len(store)) as bar:
        while images := store.images_after(last_id, _BLOCK):
            ids = [image["id"] for image in images]
            last_id = ids[-1]
            rows_of_images = store.tables.rows_of(ids)
            rows = [
                _row(image, rows_of_images.get(image["id"], []), kinds)
                for image in images
            ]
            yield rows, store.vectors_of([image["row"] for image in images])
            bar.advance(len(rows))


def _row(
    image: dict[str, Any], table_rows: list[dict[str, Any]], kinds: dict[str, str]
) -> dict[str, Any]:
    """Returns the exported columns of an image."""
    row = {name: image[name] for name in ("id", *INDEX_COLUMNS)}
    row["captions"] = json.loads(image["captions"] or "[]")
    # The order is reversed so that the values of the first row take precedence.
    for values in reversed(table_rows):
        row |= values
    return {name: _cell(row.get(name), kind) for name, kind in kinds.items()}


def _cell(value: Any, kind: str) -> Any:
    """Converts a value to the type of its column."""
    if value is None:
        return None
    if kind == "string":
        return value if isinstance(value, list) else str(value)
    return float(value) if kind == "float64" else value
