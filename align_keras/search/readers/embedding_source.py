"""Rows of the source of a bulk embedding."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.pair_files import CAPTION_COLUMNS, IMAGE_COLUMNS
from align_keras.corpus.parquet_tables import arrow_errors_as_os_errors, open_parquet
from align_keras.corpus.sources.source_files import is_folder
from align_keras.corpus.text_tables import TABLE_SUFFIXES, decode, read_table
from align_keras.search.readers.image_files import SkippedFile, encode_path, find_images
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.files import local_copy, read_regular
from align_keras.utils.progress import say
from align_keras.utils.remote import join_url

EMBEDDING_INPUTS = ("images", "captions")
# Columns that the output adds to those of the source.
OUTPUT_COLUMNS = ("embedding", "problem")


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """Rows of a source.

    Attributes:
        kind: one of `EMBEDDING_INPUTS`.
        columns: dict from the name of a column to its values, a list or an Arrow
            column.
        inputs: path or the text to embed of each row. A row without a
            value is None. Bytes of paths that are not UTF-8 are surrogates, as in
            `os.fsdecode`.
    """

    kind: str
    columns: Mapping[str, Any]
    inputs: list[str | None]


def read_source(source: str, inputs: str | None, column: str | None) -> SourceRows:
    """Reads all rows of a source. The arguments are those of `embed`."""
    if is_folder(source):
        if inputs == "captions" or column:
            raise InputError(
                "`source` must be a table or text file for `inputs` captions or "
                f"`column`. Received: the folder {source}. Leave `inputs` and `column` "
                "out."
            )
        return _read_folder(source)
    with local_copy(source) as copy:
        return _read_file(copy, os.path.dirname(source), inputs, column)


def _read_file(
    source: pathlib.Path, folder: str, input_kind: str | None, column: str | None
) -> SourceRows:
    """Reads the rows of a file. Paths of images are relative to `folder`."""
    readers: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
        ".txt": _read_text_file,
        ".parquet": _read_parquet,
        **dict.fromkeys(TABLE_SUFFIXES, _read_text_table),
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise InputError(
            "`source` must be an existing folder or a file that ends in "
            f"{', '.join(sorted(readers))}. Received: {source}. Check the path."
        )
    columns = reader(source)
    for name in OUTPUT_COLUMNS:
        if name in columns:
            raise InputError(
                f"`source` must not have the column {name!r}, which `embed` adds. "
                f"Received: {source}. Rename the column."
            )
    name, kind = _select_column(source, list(columns), input_kind, column)
    return SourceRows(kind, columns, _inputs(columns[name], name, kind, folder))


def _select_column(
    source: pathlib.Path,
    names: Sequence[str],
    input_kind: str | None,
    column: str | None,
) -> tuple[str, str]:
    """Returns the column to embed, and "images" or "captions"."""
    if column is not None and column in names:
        detected = "images" if column.lower() in IMAGE_COLUMNS else "captions"
        return column, input_kind or detected
    if column is None:
        by_lower = {name.lower(): name for name in reversed(names)}
        default_columns = {"images": IMAGE_COLUMNS, "captions": CAPTION_COLUMNS}
        for kind in EMBEDDING_INPUTS if input_kind is None else (input_kind,):
            for name in default_columns[kind]:
                if name in by_lower:
                    return by_lower[name], kind
    raise InputError(
        f"`column` must be a column of {source.name}, which has "
        f"{', '.join(map(repr, names[:20]))}. Received: column={column!r}. Choose one "
        "of these columns."
    )


def _inputs(column: Any, name: str, input_kind: str, folder: str) -> list[str | None]:
    """Returns the paths or texts to embed."""
    texts = column if isinstance(column, list) else column.to_pylist()
    for text in texts:
        if not isinstance(text, str | None):
            raise InputError(
                f"`column` must contain text. Received: column={name!r} with "
                f"{text!r:.80}. Choose another column."
            )
    if input_kind == "captions":
        return texts
    join = join_url if is_url(folder) else os.path.join
    # An empty path stays empty. Its row gets the problem "missing".
    return [
        os.fsdecode(encode_path(join(folder, text.strip()))) if text else text
        for text in texts
    ]


def _read_folder(folder: str) -> SourceRows:
    files: list[str | None] = []
    for image in find_images(os.fsencode(folder)):
        if isinstance(image, SkippedFile):
            say(f"{printable(os.fsdecode(image.file))}: {image.reason}")
        else:
            files.append(os.fsdecode(image.file))
    paths = [printable(file) for file in files if file is not None]
    prefix = printable(os.path.join(folder, ""))
    ids = [path.replace(prefix, "", 1) for path in paths]
    return SourceRows("images", {"id": ids, "path": paths}, files)


def _read_text_file(source: pathlib.Path) -> dict[str, Any]:
    text = decode(source, read_regular(source), "utf-8")
    # `str.splitlines` would also split at other characters, which captions may contain.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    captions = [line.removesuffix("\r") for line in lines]
    ids = list(range(1, len(captions) + 1))
    return {"id": ids, "caption": captions}


def _read_parquet(source: pathlib.Path) -> dict[str, Any]:
    with open_parquet(os.fspath(source)) as file, arrow_errors_as_os_errors():
        table = file.read()
    return dict(zip(table.column_names, table.columns, strict=True))


def _read_text_table(source: pathlib.Path) -> dict[str, Any]:
    """Reads a CSV, TSV or JSONL file, and reports its broken rows."""
    counter = DropCounter("rows")
    names, rows = read_table(source, "utf-8", counter)
    for reason, count in counter.bad.items():
        example = counter.examples.get(reason)
        say(f"{count:,} rows skipped: {reason} (for example {example})")
    return {name: [_printable(row.get(name)) for row, _ in rows] for name in names}


def _printable(value: Any) -> Any:
    """Escapes the parts of a text that UTF-8 cannot encode. Returns other values."""
    return printable(value) if isinstance(value, str) else value
