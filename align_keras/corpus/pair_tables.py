"""The rows of CSV, TSV and JSONL files, with the line where each stands."""

import csv
import io
import json
import re

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

_MALFORMED = "malformed line"
# A table is read as a whole.
_MAX_BYTES = 2_000_000_000
_IMAGE_NAME = re.compile(r"^[^\n]*\.(jpe?g|png|webp|gif|bmp)\b[^\n]*$", re.IGNORECASE)


def read_table(path, encoding, counter):
    """Reads a table's column names and rows; malformed lines are counted.

    Args:
        path: `pathlib.Path` of a file with one of `TABLE_SUFFIXES`.
        encoding: str.
        counter: `align_keras.corpus.drop_counter.DropCounter`.

    Returns:
        `(columns, rows)`: list of str, and a list of `(row, where)` with a
        dict by column and a str such as `"pairs.csv line 7"`. Of JSONL the
        columns are the keys of all objects.

    Raises:
        InputError: the file is empty, not of this encoding, no regular file, or of more
            than 2 GB.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise InputError(
            f"pairs file must be a file that can be read as a whole, received {path} "
            f"({error.strerror}); make a file of it, or tables of fewer rows"
        ) from None
    text = decode(path, content, encoding)
    if not text.strip():
        raise InputError(
            f"pairs file {path} is empty; it needs a header line, then one line a pair"
        )
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, text, counter)
    return _read_delimited(path, text, suffix, counter)


def decode(path, content, encoding):
    """Decodes a file's bytes, tolerating a byte order mark.

    Args:
        path: path, for the message.
        content: bytes.
        encoding: str.

    Returns:
        str.

    Raises:
        InputError: unknown encoding, or the bytes aren't of that encoding.
    """
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise InputError(
            f"encoding must be one that Python knows, received {encoding!r}; try "
            "--encoding utf-8, cp1252 or utf-16"
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line} (byte {error.start}) isn't {encoding}: "
            f"{error.reason}; pass the file's own --encoding, e.g. cp1252"
        ) from None


def _read_json_lines(path, text, counter):
    columns, rows = {}, []
    # Not splitlines(), which also splits at separators that JSON allows.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            counter.drop(_MALFORMED, where, f"not JSON, {error}")
            continue
        if not isinstance(row, dict):
            counter.drop(_MALFORMED, where, "not a JSON object")
            continue
        columns.update(dict.fromkeys(row))
        rows.append((row, where))
    return list(columns), rows


def _read_delimited(path, text, suffix, counter):
    lines = _csv_lines(text, suffix)
    columns, rows = None, []
    for number, cells, error in lines:
        where = f"{path.name} line {number}"
        if error:
            counter.drop(_MALFORMED, where, error)
        elif not any(cell.strip() for cell in cells):
            continue
        elif columns is None:
            columns = [cell.strip() for cell in cells]
        elif len(cells) != len(columns):
            counter.drop(
                _MALFORMED, where, f"{len(cells)} cells under {len(columns)} columns"
            )
        else:
            rows.append((dict(zip(columns, cells, strict=True)), where))
    return columns or [], rows


def _csv_lines(text, suffix):
    """Yields `(line number, cells, error)`."""
    if suffix == ".tsv":
        # Captions in TSV files begin with quotation marks that never close.
        for number, line in enumerate(text.splitlines(), start=1):
            yield number, [_unquoted(cell) for cell in line.split("\t")], None
        return
    header = text.lstrip().split("\n", 1)[0]
    delimiter = ";" if "," not in header and ";" in header else ","
    lines, done = list(io.StringIO(text, newline="")), 0
    while done < len(lines):
        # Not a slice or islice, which take as long as what is done.
        rest = map(lines.__getitem__, range(done, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        start = done
        try:
            for cells in reader:
                end = start + reader.line_num
                _check_inner_lines(lines[done + 1 : end], cells, delimiter)
                yield done + 1, cells, None
                done = end
        except csv.Error as error:
            # A quotation mark that isn't closed would take the lines behind it along:
            # its own line alone is malformed, and reading goes on with the next.
            yield done + 1, [], str(error)
            done += 1


def _check_inner_lines(lines, cells, delimiter):
    """Raises where the lines within a cell are rows of images too."""
    columns = [n for n, cell in enumerate(cells) if _IMAGE_NAME.search(cell)]
    rows = [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
    if rows and all(
        len(row) == len(cells) and any(_IMAGE_NAME.search(row[n]) for n in columns)
        for row in rows
    ):
        raise csv.Error("a cell holds whole rows; close its quotation mark")


def _unquoted(cell):
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell
