"""Reader of image-caption pairs in a table (CSV, TSV, JSONL) or a folder."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.text_tables import (
    TABLE_SUFFIXES,
    decode,
    find_column,
    read_table,
    text_lines,
)
from align_keras.utils.addresses import is_url, without_query
from align_keras.utils.errors import InputError
from align_keras.utils.files import local_copy, read_regular
from align_keras.utils.pillow_images import IMAGE_SUFFIXES
from align_keras.utils.remote import join_url

# Names of columns that are recognized, in order of priority. Case is ignored.
IMAGE_COLUMNS: tuple[str, ...] = ("image", "image_path", "path", "file", "filename")
IMAGE_COLUMNS += ("file_name", "filepath", "file_path", "picture")
CAPTION_COLUMNS: tuple[str, ...] = ("caption", "captions", "text", "alt_text", "alt")
CAPTION_COLUMNS += ("title", "description")
# Names of the column with the source of a caption, such as "alt" or "synthetic".
SOURCE_COLUMNS = ("source", "caption_source")


@dataclasses.dataclass
class PairRecord:
    """Image with its captions.

    Attributes:
        id: unique id of the image.
        image_path: path or address of the image.
        position: position of the first caption, such as "pairs.csv line 7".
        origins: list with the result of `origin_of` or the source of each caption, or
            an empty list without `origin_of` and `caption_sources`.
    """

    id: str
    image_path: pathlib.Path | str
    captions: list
    position: str
    origins: list = dataclasses.field(default_factory=list)


def read_pairs(
    path: str | os.PathLike,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
    origin_of: Callable | None = None,
    caption_sources: Sequence[str] | None = None,
    caption_counter: DropCounter | None = None,
    counter: DropCounter,
) -> Iterator[PairRecord]:
    """Reads image-caption pairs from a table or a folder.

    A table has a column of captions and a column of image paths, which are relative to
    the table. In JSONL, a caption may be a list of captions. A column `id` is optional.
    Rows of the same image are merged. A folder has files `NAME.txt` with a caption per
    line next to the images `NAME.jpg`. Captions are cleaned.

    Args:
        path: path of a table (`.csv`, `.tsv`, `.jsonl`, `.ndjson`) or a folder, or
            address of a table.
        image_column: name of the column of images, or None to recognize it.
        caption_column: name of the column of captions, or None to recognize it.
        encoding: encoding of the table or of the caption files.
        origin_of: callable that takes a row (dict) and returns the origin of its
            captions, or None. Equal captions of an image are kept if their origins
            differ.
        caption_sources: names of the sources of captions, or None. Each name is a
            column of captions, or a value of the column `source`. Captions of other
            sources are left out. The sources are the origins of the captions.
        caption_counter: `DropCounter` for unusable captions of a table, or None to
            count them in `counter`. With it, an image without a usable caption gets the
            caption "" instead of being dropped.
        counter: `DropCounter` for unusable rows and captions.

    Returns:
        Iterator of `PairRecord` in the order of the rows or of the file names.

    Raises:
        InputError: if the path, a column or the encoding is wrong.
        OSError: if the table cannot be read.
    """
    if is_url(path):
        options: dict[str, Any] = {"encoding": encoding, "origin_of": origin_of}
        options |= {"image_column": image_column, "caption_column": caption_column}
        options |= {"caption_sources": caption_sources, "counter": counter}
        options |= {"caption_counter": caption_counter}
        return iter(_read_remote_table(os.fspath(path), **options))
    path = pathlib.Path(path)
    if path.is_dir():
        if image_column or caption_column or caption_sources:
            raise InputError(
                "`image_column`, `caption_column` and `caption_sources` are options of "
                f"tables. Received: {path}, a folder. Leave them out."
            )
        return iter(_read_folder(path, encoding, counter))
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(
            f"`pairs` must be an existing folder or end in {', '.join(TABLE_SUFFIXES)}."
            f" Received: {path}. Check the path, or convert the file."
        )
    columns, rows = read_table(path, encoding, counter)
    # Indexes and corpora use origins and have no options for the names of the columns.
    table = path, columns, origin_of is None
    image_column = _column(*table, image_column, IMAGE_COLUMNS, "image")
    id_column = find_column(columns, ["id"])
    captions_of: _CaptionReader
    if caption_sources is None or not set(caption_sources) <= set(columns):
        caption_column = _column(*table, caption_column, CAPTION_COLUMNS, "caption")
        captions_of = _CaptionColumn(caption_column, origin_of)
    if caption_sources is not None:
        captions_of = _source_reader(path, columns, caption_column, caption_sources)
    return iter(
        _merge_rows(
            path.parent,
            rows,
            image_column,
            id_column,
            captions_of,
            counter,
            caption_counter=caption_counter,
        )
    )


def count_images(
    path: str | os.PathLike, *, max_bad_fraction: float, **options: Any
) -> int:
    """Counts the images of `read_pairs` whose files exist.

    Args:
        path: path of a table or a folder.
        max_bad_fraction: largest allowed fraction of bad pairs. A pair with a missing
            image is bad.
        **options: keywords of `read_pairs`.

    Raises:
        InputError: if too many pairs are bad, or `read_pairs` raises it.
    """
    counter, count = DropCounter(), 0
    for record in read_pairs(path, **options, counter=counter):
        if os.path.exists(record.image_path):
            counter.keep(len(record.captions))
            count += 1
        else:
            problem = f"no file {record.image_path}"
            counter.drop("missing", record.position, problem, len(record.captions))
    counter.check(max_bad_fraction)
    return count


def _read_remote_table(url: str, **options: Any) -> list[PairRecord]:
    """Reads the pairs of a remote table. Image paths are relative to its address."""
    url = without_query(url)
    with local_copy(url) as copy:
        records = list(read_pairs(copy, **options))
    for record in records:
        name = os.path.relpath(record.image_path, copy.parent)
        record.image_path = join_url(os.path.dirname(url), name)
    return records


def _column(
    path: pathlib.Path,
    columns: list[str],
    has_column_options: bool,
    requested_column: str | None,
    candidates: Iterable[str],
    kind: str,
) -> str:
    """Returns the name of the column of images or captions in a table."""
    if requested_column is None:
        column = find_column(columns, candidates)
    else:
        column = requested_column
    if column is not None and column in columns:
        return column
    description = (
        f"for the {kind}s" if requested_column is None else repr(requested_column)
    )
    column_list = ", ".join(repr(name[:60]) for name in columns[:20]) or "none"
    alternative = f", or set `{kind}_column`" if has_column_options else ""
    raise InputError(
        f"{path} must have a column {description}. Received: the columns "
        f"{column_list}. Rename one to {kind!r}{alternative}."
    )


# Function of a row that returns lists of captions with their common origin, which is a
# tuple of one value, or None.
_CaptionReader = Callable[[dict], "list[tuple[list[str], tuple[Any] | None]]"]


@dataclasses.dataclass(frozen=True)
class _CaptionColumn:
    """Reader of one column of captions."""

    column: str
    origin_of: Callable | None

    def __call__(self, row: dict) -> list[tuple[list[str], tuple[Any] | None]]:
        origin = None if self.origin_of is None else (self.origin_of(row),)
        return [(_texts(row.get(self.column)), origin)]


@dataclasses.dataclass(frozen=True)
class _ColumnsOfSources:
    """Reader of a column of captions for each source. Empty cells are ignored."""

    sources: tuple[str, ...]

    def __call__(self, row: dict) -> list[tuple[list[str], tuple[Any] | None]]:
        captions = [(_texts(row.get(source)), (source,)) for source in self.sources]
        used = [item for item in captions if any(text.strip() for text in item[0])]
        # A row without captions has an empty caption, which is counted.
        return list(used or captions[:1])


@dataclasses.dataclass(frozen=True)
class _ColumnWithSources:
    """Reader of a column of captions and a column of their sources."""

    column: str
    source_column: str
    sources: tuple[str, ...]

    def __call__(self, row: dict) -> list[tuple[list[str], tuple[Any] | None]]:
        source = str(row.get(self.source_column)).strip()
        if source not in self.sources:
            return []
        return [(_texts(row.get(self.column)), (source,))]


def _source_reader(
    path: pathlib.Path,
    columns: list[str],
    caption_column: str | None,
    caption_sources: Sequence[str],
) -> _CaptionReader:
    """Returns the reader of captions from several sources."""
    sources = tuple(caption_sources)
    has_columns = set(sources) <= set(columns)
    source_column = find_column(columns, SOURCE_COLUMNS)
    if has_columns:
        return _ColumnsOfSources(sources)
    if source_column is None or caption_column is None:
        raise InputError(
            f"{path} must have a column for each caption source "
            f"({', '.join(sources)}), or a column 'source'. Received: the columns "
            f"{', '.join(columns[:20])}. Correct `caption_sources`, or add the column."
        )
    return _ColumnWithSources(caption_column, source_column, sources)


def _merge_rows(
    folder: pathlib.Path,
    rows: Iterable[tuple[dict, str]],
    image_column: str,
    id_column: str | None,
    captions_of: _CaptionReader,
    counter: DropCounter,
    *,
    caption_counter: DropCounter | None,
) -> Iterable[PairRecord]:
    """Returns a record per image from the (row, position) of a table."""
    records: dict[str, PairRecord] = {}
    ids = set()
    needs_caption = caption_counter is None
    caption_counter = counter if caption_counter is None else caption_counter
    for row, position in rows:
        image = row.get(image_column)
        if not isinstance(image, str) or not image.strip():
            counter.drop("missing", position, "no image path")
            continue
        image = image.strip()
        key = os.path.normpath(os.path.join(folder, image))
        record = records.get(key)
        if record is None:
            identifier = _identifier(row.get(id_column), image)
            # For example the id of a product with several photographs.
            if identifier in ids:
                identifier = _identifier(None, image)
            record = PairRecord(identifier, pathlib.Path(key), [], position)
        captions = captions_of(row)
        if not captions:
            counter.filter("other caption source", position)
        for texts, origin in captions:
            _add_captions(record, texts, position, caption_counter, origin)
        if not (needs_caption or record.captions):
            record.captions.append("")
            record.origins.extend(captions[0][1] or () if captions else ())
        # A row without a usable caption does not reserve its id.
        if record.captions:
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
    position: str,
    counter: DropCounter,
    origin: tuple[Any] | None = None,
) -> None:
    """Adds the usable captions of a row to a record."""
    for text in texts:
        caption = clean_caption(text)
        if not is_usable(caption, counter, position):
            continue
        if _is_repeated(record, caption, origin):
            counter.filter("repeated pair", position, f"{caption[:60]!r} again")
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
    """Returns the paths of the images in a folder and its subfolders, sorted.

    Raises:
        InputError: if the folder has no images.
    """
    images, _ = _find_images_and_texts(path)
    if not images:
        raise InputError(
            f"{path} must contain images ({', '.join(IMAGE_SUFFIXES)}). Received: a "
            "folder without images. Use another folder."
        )
    return sorted(images)


def _find_images_and_texts(
    path: pathlib.Path,
) -> tuple[list[pathlib.Path], dict[pathlib.Path, pathlib.Path]]:
    """Returns the images of a folder, and its text files by path without suffix."""
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
    images, texts = _find_images_and_texts(path)
    records = [
        _read_image(path, file, texts, encoding, counter) for file in sorted(images)
    ]
    image_stems = {file.with_suffix("") for file in images}
    for stem in sorted(set(texts) - image_stems):
        position = str(texts[stem].relative_to(path))
        counter.filter("caption file without an image", position)
    return [record for record in records if record.captions]


def _read_image(
    path: pathlib.Path,
    file: pathlib.Path,
    texts: dict[pathlib.Path, pathlib.Path],
    encoding: str,
    counter: DropCounter,
) -> PairRecord:
    """Reads the captions of an image in a folder."""
    name = str(file.relative_to(path))
    record = PairRecord(_identifier(None, name), file, [], printable(name))
    text_file = texts.get(file.with_suffix(""))
    if text_file is None:
        counter.drop("no caption file", record.position)
        return record
    position = printable(str(text_file.relative_to(path)))
    try:
        text = decode(position, read_regular(text_file), encoding)
    except InputError as error:
        counter.drop("wrong encoding", record.position, str(error))
        return record
    except OSError as error:
        counter.drop("unreadable", position, str(error.strerror))
        return record
    # Blank lines between captions are ignored. A file with nothing but blank lines
    # counts as an empty caption.
    lines = [line for line in text_lines(text) if line.strip()] or [""]
    _add_captions(record, lines, position, counter)
    return record
