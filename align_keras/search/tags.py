"""Zero-shot tags of the images of an index."""

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from align_keras.embedders.label_thresholds import (
    LabelThresholds,
    calibrate_thresholds,
    check_labels,
)
from align_keras.search.index.folder_files import path_of_image, stored_image_of
from align_keras.search.index.schema import TableRow
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path, atomic_write, read_regular, refuse_url
from align_keras.utils.progress import progress_bar

if TYPE_CHECKING:
    from align_keras.embedders.embedder import Embedder
    from align_keras.search.image_index import Index
    from align_keras.search.index.image_store import ImageStore

# Column of the tags in an index and in a table.
TAGS_COLUMN = "tags"
# Text between the tags of an image in a cell.
SEPARATOR = "; "
_TABLE_COLUMNS = ("image", TAGS_COLUMN, "scores", "best_label", "best_score")
TAG_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# Source of the rows with tags in the database of an index. The ids of folders and
# tables start at 1.
_TAGS_ROOT = 0
# Columns of a calibration table that can contain the labels.
_LABEL_COLUMNS = ("labels", "label", TAGS_COLUMN)
# Images that are read from the index at once.
_BLOCK = 4096
_MAX_LABEL_BYTES = 10_000_000


@dataclasses.dataclass(frozen=True)
class TaggedImage:
    """Image of an index with its tags.

    Attributes:
        id: id of the image in the index.
        path: path of the image, or of its copy in the index.
        tags: labels in descending order of the score. It is empty if no label
            reaches its threshold.
        scores: cosine similarities of the tags.
        best_label: the label with the highest score, even if it is not a tag.
        best_score: its cosine similarity.
    """

    id: int
    path: str
    tags: list[str]
    scores: list[float]
    best_label: str
    best_score: float


def tag_images(
    index: "Index",
    labels: Sequence[str],
    thresholds: LabelThresholds | float | None = None,
) -> list[TaggedImage]:
    """Chooses the tags of all images of an index from their stored embeddings.

    Args:
        index: `Index`.
        labels: texts of the labels.
        thresholds: as in `Embedder.classify`.

    Returns:
        list of `TaggedImage`, in the order in which the images were indexed.

    Raises:
        InputError: if the labels or the thresholds cannot be used.
    """
    names = _check_names(labels)
    chosen = index.model.label_thresholds(thresholds)
    texts = index.model.encode_texts(names)
    positions = {name: position for position, name in enumerate(names)}
    images = []
    with index.store.database.consistent_read():
        for block in _blocks(index.store):
            vectors = index.store.vectors_of([image["row"] for image in block])
            scores = vectors @ texts.T
            all_tags = chosen.choose(scores, names)
            for image, row, tags in zip(block, scores, all_tags, strict=True):
                tag_scores = [round(float(row[positions[tag]]), 6) for tag in tags]
                path = str(stored_image_of(image, index.folder) or path_of_image(image))
                best = int(np.argmax(row))
                images.append(
                    TaggedImage(
                        image["id"],
                        path,
                        tags,
                        tag_scores,
                        best_label=names[best],
                        best_score=round(float(row[best]), 6),
                    )
                )
    return images


def _blocks(store: "ImageStore") -> Iterator[list[dict]]:
    """Yields the columns of the images of an index in blocks."""
    last_id = 0
    with progress_bar("tagging", "images", len(store)) as bar:
        while images := store.images_after(last_id, _BLOCK):
            last_id = images[-1]["id"]
            yield images
            bar.advance(len(images))


def write_tags_column(index: "Index", images: Iterable[TaggedImage]) -> None:
    """Writes tags to the column `tags` of an index. They replace all earlier tags.

    An image without tags gets an empty text.

    Args:
        index: `Index`.
        images: iterable of `TaggedImage`.

    Raises:
        InputError: if another process is writing the index, or has built it again
            since `index` was opened.
    """
    rows = {
        image.id: [TableRow([], {TAGS_COLUMN: SEPARATOR.join(image.tags)})]
        for image in images
    }
    with index.store.writing() as store:
        # A new index has the same ids for other images.
        index.store.refuse_rebuilt()
        with store.database.transaction():
            store.tables.replace(_TAGS_ROOT, rows)


def check_table_name(path: str | os.PathLike) -> None:
    """Raises InputError if a table of tags cannot have this name.

    The error also occurs if the table is a Parquet file and pyarrow is not installed.
    """
    refuse_url(path, "the table of tags")
    suffix = pathlib.Path(path).suffix.lower()
    check_choice("The suffix of a table of tags", suffix, TAG_TABLE_SUFFIXES)
    if suffix == ".parquet":
        from align_keras.corpus.parquet_tables import arrow

        arrow(", or write a .csv file")


def write_tags_table(images: Sequence[TaggedImage], path: str | os.PathLike) -> None:
    """Writes a table of the images with their tags and their best labels.

    In CSV and TSV files, the tags of an image are joined by `SEPARATOR`. JSONL and
    Parquet files contain lists.

    Args:
        images: sequence of `TaggedImage`.
        path: path of the table, which ends in one of `TAG_TABLE_SUFFIXES`.
    """
    check_table_name(path)
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".parquet":
        _write_parquet(images, path)
        return
    with atomic_write(path) as file:
        if suffix == ".jsonl":
            for image in images:
                row = {
                    "image": _as_utf8(image.path),
                    TAGS_COLUMN: image.tags,
                    "scores": image.scores,
                    "best_label": image.best_label,
                    "best_score": image.best_score,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        delimiter = "\t" if suffix == ".tsv" else ","
        table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        table.writerow(_TABLE_COLUMNS)
        for image in images:
            scores = SEPARATOR.join(f"{score:g}" for score in image.scores)
            tags = SEPARATOR.join(image.tags)
            best_score = f"{image.best_score:g}"
            path_text = _as_utf8(image.path)
            table.writerow([path_text, tags, scores, image.best_label, best_score])


def _write_parquet(images: Sequence[TaggedImage], path: str | os.PathLike) -> None:
    from align_keras.corpus.parquet_tables import arrow

    pa = arrow()
    schema = pa.schema(
        {
            "image": pa.string(),
            TAGS_COLUMN: pa.list_(pa.string()),
            "scores": pa.list_(pa.float64()),
            "best_label": pa.string(),
            "best_score": pa.float64(),
        }
    )
    columns = [
        [_as_utf8(image.path) for image in images],
        [image.tags for image in images],
        [image.scores for image in images],
        [image.best_label for image in images],
        [image.best_score for image in images],
    ]
    arrays = [
        pa.array(values, field.type)
        for values, field in zip(columns, schema, strict=True)
    ]
    with atomic_path(path) as temporary:
        pa.parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary)


def _as_utf8(path: str) -> str:
    """Returns a path as UTF-8 text. Bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def read_labels(path: str | os.PathLike) -> list[str]:
    """Reads labels from a text file with one label per line.

    Blank lines are ignored.

    Raises:
        OSError: if the file cannot be read.
        InputError: if it has no labels or is not in UTF-8.
    """
    from align_keras.corpus.text_tables import decode

    text = decode(path, read_regular(path, _MAX_LABEL_BYTES), "utf-8")
    lines = [line.strip() for line in text.splitlines()]
    return _check_names([line for line in lines if line])


def _check_names(labels: Sequence[str]) -> list[str]:
    names = check_labels(labels)
    separator = SEPARATOR.strip()
    for name in names:
        if separator in name:
            raise InputError(
                f"`labels` must not contain {separator!r}, which separates the tags of "
                f"an image. Received: {name!r:.80}. Rename the label."
            )
    return names


def calibrate(
    model: "Embedder", table: str | os.PathLike, labels: Sequence[str]
) -> LabelThresholds:
    """Chooses thresholds on a table of images with their labels.

    Args:
        model: `Embedder`.
        table: path of a CSV, TSV or JSONL file with the column `image`, paths relative
            to the table, and a column `labels`, `label` or `tags`. A cell has several
            labels joined by `;`, or is empty if none of the labels fits. A JSONL file
            may have lists.
        labels: texts of the labels.

    Returns:
        `LabelThresholds` of the model, as `calibrate_thresholds` chooses them.

    Raises:
        InputError: if the table or an image cannot be read, or the table has an unknown
            label.
    """
    from align_keras.search.readers.photos import read_query_image

    names = _check_names(labels)
    paths, image_labels = _read_calibration_table(pathlib.Path(table), names)
    rows = []
    with progress_bar("calibrating", "images", len(paths)) as bar:
        for path in paths:
            pixels = read_query_image(path, model.image_transform)
            rows.append(model.encode_resized([pixels])[0])
            bar.advance(1)
    scores = np.stack(rows) @ model.encode_texts(names).T
    return calibrate_thresholds(scores, names, image_labels, model.fingerprint)


def _read_calibration_table(
    table: pathlib.Path, labels: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Returns the paths and the correct labels of the images of a table."""
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.text_tables import read_table

    columns, rows = read_table(table, "utf-8", DropCounter())
    label_column = next((name for name in _LABEL_COLUMNS if name in columns), None)
    if "image" not in columns or label_column is None or not rows:
        raise InputError(
            "The calibration table must have rows with the columns image and "
            f"{', '.join(_LABEL_COLUMNS[:-1])} or {_LABEL_COLUMNS[-1]}. Received: "
            f"{table} with {len(rows)} rows and the columns "
            f"{', '.join(map(str, columns))[:200]}. Add the columns."
        )
    known = set(labels)
    paths = []
    image_labels = []
    for row, position in rows:
        value = row.get(label_column) or ""
        cells = value if isinstance(value, list) else str(value).split(";")
        names = [str(cell).strip() for cell in cells if str(cell).strip()]
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise InputError(
                "The calibration table must have labels of `labels`. Received: "
                f"{unknown!r:.80} in {position}. Correct the table."
            )
        paths.append(os.path.join(table.parent, str(row["image"])))
        image_labels.append(names)
    return paths, image_labels
