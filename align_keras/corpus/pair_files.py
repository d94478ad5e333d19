"""A user's pairs: a table (CSV, TSV, JSONL), or a folder of images beside captions."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.utils.addresses import without_secrets
from align_keras.utils.errors import InputError
from align_keras.utils.files import local_copy, read_regular
from align_keras.utils.remote import is_url, join_url

# Guessed in this order, upper and lower case alike.
IMAGE_COLUMNS: tuple[str, ...] = ("image", "image_path", "path", "file", "filename")
IMAGE_COLUMNS += ("file_name", "filepath", "file_path", "picture")
CAPTION_COLUMNS: tuple[str, ...] = ("caption", "captions", "text", "alt_text", "alt")
CAPTION_COLUMNS += ("title", "description")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_MALFORMED = "malformed line"
# A table is read as a whole.
_MAX_BYTES = 2_000_000_000
_IMAGE_NAME = re.compile(r"^[^\n]*\.(jpe?g|png|webp|gif|bmp)\b[^\n]*$", re.IGNORECASE)


@dataclasses.dataclass
class PairRecord:
    """An image, by path or address, and its captions; `where` is of the first."""

    id: str
    image_path: pathlib.Path | str
    captions: list
    where: str
    origins: list = dataclasses.field(default_factory=list)


def read_pairs(
    path: str | os.PathLike,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
    origin_of: Callable | None = None,
    counter: DropCounter,
) -> Iterator[PairRecord]:
    """Reads image-text pairs from a table or a folder, in the order of rows or names.

    A table (`.csv`, `.tsv`, `.jsonl`) has a column of image paths, relative to the
    table, of captions (in JSONL also lists of them) and, optionally, `id`; rows of one
    image are merged. A folder has images `NAME.jpg` and the like beside `NAME.txt` with
    one caption a line. Captions are cleaned; what is unusable is dropped and counted.
    `origin_of` takes a row to what else it says of its captions, which then tells
    repeated pairs apart.
    """
    if is_url(path):
        reading: dict[str, Any] = {"encoding": encoding, "origin_of": origin_of}
        reading |= {"image_column": image_column, "caption_column": caption_column}
        return iter(_read_at_address(os.fspath(path), counter=counter, **reading))
    path = pathlib.Path(path)
    decode(path, b"", encoding)  # An unknown encoding is told first.
    if path.is_dir():
        if image_column or caption_column:
            raise InputError(
                f"image_column and caption_column are for tables, but {path} is a "
                "folder; leave them out"
            )
        return iter(_read_folder(path, encoding, counter))
    if not path.exists():
        raise InputError(
            f"pairs must be a table or a folder, but there is no {path}; check the path"
        )
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(
            f"pairs must be a folder or end in {', '.join(TABLE_SUFFIXES)}, "
            f"received {path}; rename or convert it"
        )
    columns, rows = read_table(path, encoding, counter)
    # An index and a corpus, which ask for origins, take no columns' names.
    table = path, columns, origin_of is None
    image_column = _column(*table, image_column, IMAGE_COLUMNS, "image")
    caption_column = _column(*table, caption_column, CAPTION_COLUMNS, "caption")
    id_column = find_column(columns, ["id"])
    chosen = (image_column, caption_column, id_column)
    return iter(_merge(path.parent, rows, chosen, origin_of, counter))


def count_images(
    path: str | os.PathLike, *, max_bad_fraction: float, **reading: Any
) -> int:
    """Counts images of `read_pairs` that are there; raises where too many aren't."""
    counter, count = DropCounter(), 0
    for record in read_pairs(path, **reading, counter=counter):
        if os.path.exists(record.image_path):
            counter.keep(len(record.captions))
            count += 1
        else:
            problem = f"no file {record.image_path}"
            counter.drop("missing", record.where, problem, len(record.captions))
    counter.check(max_bad_fraction)
    return count


def _read_at_address(url: str, **reading: Any) -> list[PairRecord]:
    """The pairs of a copy of a table; its images lie where the table does."""
    url = without_secrets(url)
    if not url.lower().endswith(TABLE_SUFFIXES):
        raise InputError(
            f"pairs at an address must be a table, {', '.join(TABLE_SUFFIXES)}, "
            f"received {url}; name one, or copy the folder to this machine"
        )
    with local_copy(url) as copy:
        records = list(read_pairs(copy, **reading))
    for record in records:
        name = os.path.relpath(record.image_path, copy.parent)
        record.image_path = join_url(os.path.dirname(url), name)
    return records


def _column(
    path: pathlib.Path,
    columns: list[str],
    can_be_named: bool,
    named_column: str | None,
    guesses: Iterable[str],
    kind: str,
) -> str:
    column = find_column(columns, guesses) if named_column is None else named_column
    if column is not None and column in columns:
        return column
    description = (
        f"that looks like the {kind}s'" if named_column is None else repr(named_column)
    )
    listed = ", ".join(repr(name[:60]) for name in columns[:20]) or "none"
    otherwise = f", or name the right one by `{kind}_column`" if can_be_named else ""
    raise InputError(
        f"{path} has no column {description}; it has {listed}; rename one to "
        f"{kind!r}{otherwise}."
    )


def find_column(columns: list[str], guesses: Iterable[str]) -> str | None:
    """Returns the first guess among a table's columns, capitals alike."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next((by_lower[guess] for guess in guesses if guess in by_lower), None)


def _merge(
    folder: pathlib.Path,
    rows: Iterable[tuple[dict, str]],
    columns: tuple[str, str, str | None],
    origin_of: Callable | None,
    counter: DropCounter,
) -> Iterable[PairRecord]:
    image_column, caption_column, id_column = columns
    records: dict[str, PairRecord] = {}
    ids = set()
    for row, where in rows:
        image = row.get(image_column)
        if not isinstance(image, str) or not image.strip():
            counter.drop("missing", where, "no image path")
            continue
        image = image.strip()
        key = os.path.normpath(os.path.join(folder, image))
        record = records.get(key)
        if record is None:
            identifier = _identifier(row.get(id_column), image)
            if identifier in ids:
                counter.drop("duplicate id", where, f"id {identifier}")
                continue
            record = PairRecord(identifier, pathlib.Path(key), [], where)
        texts = _texts(row.get(caption_column))
        origin = None if origin_of is None else (origin_of(row),)
        _add_captions(record, texts, where, counter, origin)
        if record.captions:  # A row without a good caption claims no id.
            records[key] = record
            ids.add(record.id)
    return records.values()


def _identifier(value: object, image: str) -> str:
    text = "" if value is None else str(value).strip()
    return printable(text or image)


def _texts(value: object) -> list[str]:
    if isinstance(value, list):
        return [text if isinstance(text, str) else "" for text in value] or [""]
    return [value if isinstance(value, str) else ""]


def _add_captions(
    record: PairRecord,
    texts: Iterable[str],
    where: str,
    counter: DropCounter,
    origin: tuple[Any] | None = None,
) -> None:
    """Adds good captions; `origin` is a tuple of the one origin that they have."""
    for text in texts:
        caption = clean_caption(text)
        if not is_usable(caption, counter, where):
            continue
        if _is_repeated(record, caption, origin):
            counter.filter("repeated pair", where, f"{caption[:60]!r} again")
        else:
            record.captions.append(caption)
            record.origins.extend(origin or ())


def _is_repeated(record: PairRecord, caption: str, origin: tuple[Any] | None) -> bool:
    if caption not in record.captions:
        return False
    return origin is None or (caption, *origin) in zip(
        record.captions, record.origins, strict=True
    )


def folder_images(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images of a folder and its subfolders, sorted.

    Raises:
        InputError: if there is none.
    """
    images, _ = _images_and_texts(path)
    if not images:
        raise InputError(
            f"{path} must hold images ({', '.join(IMAGE_SUFFIXES)}). Received a folder "
            "without any. Name another folder."
        )
    return sorted(images)


def _images_and_texts(
    path: pathlib.Path,
) -> tuple[list[pathlib.Path], dict[pathlib.Path, pathlib.Path]]:
    """Returns a list of images, and the text files by their path without suffix."""
    images, texts = [], {}
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in sorted(names):
            file = pathlib.Path(folder, name)
            if name.startswith("."):
                continue
            if file.suffix.lower() in IMAGE_SUFFIXES:
                images.append(file)
            elif file.suffix.lower() == ".txt":
                texts[file.with_suffix("")] = file
    return images, texts


def _read_folder(
    path: pathlib.Path, encoding: str, counter: DropCounter
) -> list[PairRecord]:
    images, texts = _images_and_texts(path)
    if not images:
        raise InputError(
            f"pairs folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)}); "
            "put NAME.jpg beside NAME.txt"
        )
    records = [
        _read_image(path, file, texts, encoding, counter) for file in sorted(images)
    ]
    with_image = {file.with_suffix("") for file in images}
    for stem in sorted(set(texts) - with_image):
        where = str(texts[stem].relative_to(path))
        counter.filter("caption file without an image", where)
    return [record for record in records if record.captions]


def _read_image(
    path: pathlib.Path,
    file: pathlib.Path,
    texts: dict[pathlib.Path, pathlib.Path],
    encoding: str,
    counter: DropCounter,
) -> PairRecord:
    name = str(file.relative_to(path))
    record = PairRecord(_identifier(None, name), file, [], printable(name))
    text_file = texts.get(file.with_suffix(""))
    if text_file is None:
        counter.drop("no caption file", record.where)
        return record
    where = printable(str(text_file.relative_to(path)))
    try:
        lines = decode(where, read_regular(text_file), encoding).splitlines()
    except InputError as error:
        counter.drop("wrong encoding", record.where, str(error))
        return record
    except OSError as error:
        counter.drop("unreadable", where, str(error.strerror))
        return record
    # Blank lines between captions are layout, a file of nothing else is bad.
    lines = [line for line in lines if line.strip()] or [""]
    _add_captions(record, lines, where, counter)
    return record


def read_table(
    path: pathlib.Path, encoding: str, counter: DropCounter
) -> tuple[list[str], list[tuple[dict, str]]]:
    """Reads a table's columns and rows, (dict, where); counts broken lines."""
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


def decode(path: str | os.PathLike, content: bytes, encoding: str) -> str:
    """Decodes a file's bytes, tolerating a byte order mark."""
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise InputError(
            f"encoding must be one that Python knows, received {encoding!r}; try "
            "utf-8, cp1252 or utf-16."
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line} (byte {error.start}) isn't {encoding}: "
            f"{error.reason}; save it as UTF-8, or name its `encoding` where one can "
            "be given, e.g. cp1252."
        ) from None


def _read_json_lines(
    path: pathlib.Path, text: str, counter: DropCounter
) -> tuple[list[str], list[tuple[dict, str]]]:
    columns, rows = {}, []
    # `splitlines` would also split at separators that JSON allows in texts.
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


def _read_delimited(
    path: pathlib.Path, text: str, suffix: str, counter: DropCounter
) -> tuple[list[str], list[tuple[dict, str]]]:
    columns, rows = None, []
    for number, cells, error in _csv_lines(text, suffix):
        where = f"{path.name} line {number}"
        if error:
            counter.drop(_MALFORMED, where, error)
        elif not any(cell.strip() for cell in cells):
            continue
        elif columns is None:
            columns = [cell.strip() for cell in cells]
        elif len(cells) != len(columns):
            problem = f"{len(cells)} cells under {len(columns)} columns"
            counter.drop(_MALFORMED, where, problem)
        else:
            rows.append((dict(zip(columns, cells, strict=True)), where))
    return columns or [], rows


def _csv_lines(text: str, suffix: str) -> Iterator[tuple[int, list[str], str | None]]:
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
        # A slice, or `islice`, would take as long as the lines before it.
        remaining_lines = map(lines.__getitem__, range(done, len(lines)))
        reader = csv.reader(remaining_lines, delimiter=delimiter, strict=True)
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


def _check_inner_lines(lines: list[str], cells: list[str], delimiter: str) -> None:
    """Raises where the lines within a cell are rows of images too."""
    columns = [n for n, cell in enumerate(cells) if _IMAGE_NAME.search(cell)]
    rows = [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
    if rows and all(
        len(row) == len(cells) and any(_IMAGE_NAME.search(row[n]) for n in columns)
        for row in rows
    ):
        raise csv.Error("a cell holds whole rows; close its quotation mark")


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell
