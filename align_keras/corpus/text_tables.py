"""Reader of tables in CSV, TSV and JSONL."""

import csv
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import InputError
from align_keras.utils.files import open_regular
from align_keras.utils.pillow_images import IMAGE_SUFFIXES

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_MALFORMED = "malformed line"
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_IMAGE_NAME = re.compile(
    rf"^[^\n]*\.(?:{'|'.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})\b[^\n]*$",
    re.IGNORECASE,
)

# Names of the columns, and each row as a dict with its position, such as
# "pairs.csv line 7".
Table = tuple[list[str], list[tuple[dict, str]]]


def read_table(path: pathlib.Path, encoding: str, counter: DropCounter) -> Table:
    """Reads a file with a suffix of `TABLE_SUFFIXES`.

    Malformed lines are counted in `counter` and left out.

    Raises:
        InputError: if the file cannot be decoded.
        OSError: if the file cannot be read.
    """
    with open_regular(path) as file:
        text = decode(path, file.read(), encoding)
    return parse_table(text, path.name, path.suffix.lower(), counter)


def parse_table(text: str, name: str, suffix: str, counter: DropCounter) -> Table:
    """Parses the text of a table.

    Args:
        text: content of the table.
        name: name of the table for the positions of rows.
        suffix: one of `TABLE_SUFFIXES`.
        counter: `DropCounter` for malformed lines, which are left out.
    """
    if suffix in (".jsonl", ".ndjson"):
        return _parse_json_lines(text, name, counter)
    return _parse_delimited(text, name, suffix, counter)


def find_column(columns: list[str], candidates: Iterable[str]) -> str | None:
    """Returns the column with the first matching name, or None. Case is ignored."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next((by_lower[name] for name in candidates if name in by_lower), None)


def decode(path: str | os.PathLike, content: bytes, encoding: str) -> str:
    """Decodes the content of a file and removes a byte order mark.

    Raises:
        InputError: if the encoding is unknown, or the content is not valid in it.
    """
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise InputError(
            f"`encoding` must be an encoding of Python. Received: {encoding!r}. Try "
            "utf-8, cp1252 or utf-16."
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} must be encoded as {encoding}. Received: other bytes in line "
            f"{line} (byte {error.start}, {error.reason}). Save the file as UTF-8, or "
            "set the option `encoding` if there is one, for example to cp1252."
        ) from None


def text_lines(text: str) -> list[str]:
    r"""Divides a text into lines at `\n`, `\r\n` and `\r`.

    `str.splitlines` would also divide a caption at separators of paragraphs and pages.

    Example:

    >>> text_lines("a cat\r\na dog,\x0ba bird\n")
    ['a cat', 'a dog,\x0ba bird']
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _parse_json_lines(text: str, name: str, counter: DropCounter) -> Table:
    columns, rows = {}, []
    # `splitlines` would also split at separators that JSON allows in strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        position = f"{name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            counter.drop(_MALFORMED, position, f"not JSON, {error}")
            continue
        if not isinstance(row, dict):
            counter.drop(_MALFORMED, position, "not a JSON object")
            continue
        columns.update(dict.fromkeys(row))
        rows.append((row, position))
    return list(columns), rows


def _parse_delimited(text: str, name: str, suffix: str, counter: DropCounter) -> Table:
    columns, rows = None, []
    for number, cells, error in delimited_lines(text, suffix):
        position = f"{name} line {number}"
        if error:
            counter.drop(_MALFORMED, position, error)
        elif not any(cell.strip() for cell in cells):
            continue
        elif columns is None:
            columns = [cell.strip() for cell in cells]
        elif len(cells) != len(columns):
            problem = f"{len(cells)} cells but {len(columns)} columns"
            counter.drop(_MALFORMED, position, problem)
        else:
            rows.append((dict(zip(columns, cells, strict=True)), position))
    return columns or [], rows


def delimited_lines(
    text: str, suffix: str
) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields (line number, cells, error or None) of each row of a CSV or TSV text.

    Commas separate the cells of CSV, or semicolons if the first line has no comma.
    """
    if suffix == ".tsv":
        # A caption in a TSV file can begin with a quotation mark that is never closed.
        for number, line in enumerate(text_lines(text), start=1):
            yield number, [_unquoted(cell) for cell in line.split("\t")], None
        return
    # `io.StringIO` would take four bytes for each character.
    lines, next_line = _LINE.findall(text), 0
    header = next((line for line in lines if line.strip()), "")
    delimiter = ";" if "," not in header and ";" in header else ","
    while next_line < len(lines):
        # The map starts at any line in constant time, unlike a slice or `islice`.
        remaining_lines = map(lines.__getitem__, range(next_line, len(lines)))
        reader = csv.reader(remaining_lines, delimiter=delimiter, strict=True)
        start = next_line
        try:
            for cells in reader:
                end = start + reader.line_num
                if end > next_line + 1:
                    _check_inner_lines(lines[next_line + 1 : end], cells, delimiter)
                yield next_line + 1, cells, None
                next_line = end
        except csv.Error as error:
            # A cell with an unclosed quotation mark would include all lines after it.
            # Only its first line is counted as malformed, and the next line is read as
            # a new row.
            yield next_line + 1, [], str(error)
            next_line += 1


def _check_inner_lines(lines: list[str], cells: list[str], delimiter: str) -> None:
    """Raises `csv.Error` if the lines within a cell look like rows with images."""
    columns = [n for n, cell in enumerate(cells) if _IMAGE_NAME.search(cell)]
    rows = [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
    if all(
        len(row) == len(cells) and any(_IMAGE_NAME.search(row[n]) for n in columns)
        for row in rows
    ):
        raise csv.Error(
            "a cell contains whole rows because its quotation mark is not closed"
        )


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell
