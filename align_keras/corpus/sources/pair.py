"""Data classes of sources: image-caption pairs, parts and kinds of sources."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from align_keras.corpus.drop_counter import DropCounter

# Parts of a page that can hold a caption. Sources without pages use "caption".
CAPTION_RULES = ("alt", "title", "figcaption", "caption")
# Part of a pair → names of columns that are recognized, in order of priority. Case is
# ignored. img2dataset writes the caption twice, as `caption` and as `txt`.
_COLUMNS = {
    "caption": ("caption", "txt", "text", "alt_text", "alt", "title", "description"),
    "rule": ("rule",),
    "language": ("language", "lang"),
    "page_url": ("page_url",),
    "url": ("url", "image_url"),
    "original_width": ("original_width",),
    "original_height": ("original_height",),
}
# Option (name, value) of a source of evaluation images. Their copies are removed from a
# corpus, so an image is read even if it has no usable caption.
EVALUATION = ("use", "evaluation")
# Name of the option of a shard with the names of the sources of captions.
CAPTION_SOURCES = "caption_sources"
# Column or JSON key with the uid of a record in the shards of DataComp.
UID_COLUMN = "uid"
# Pixels. No image format has a larger side, and tables store the sizes as int32.
_MAX_SIDE = 2**31 - 1


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """Part of a source that a worker reads.

    A part has a few small files, one file, or a range of a large file. The sorted order
    of parts is the order of the source.

    Attributes:
        kind: kind of the source.
        root: absolute path or address of the folder of the files.
        files: names of the files relative to `root`.
        start: first record of the range. In Parquet files, row groups are counted
            instead of records.
        stop: record after the range, or 0 for the whole file.
        total: number of records of the file when the source was listed. If the number
            differs when the part is read, the file has changed.
        options: tuple of (name, value), options of the source.
    """

    kind: str
    root: str
    files: tuple
    start: int = 0
    stop: int = 0
    total: int = 0
    options: tuple = ()

    @property
    def path(self) -> str:
        """Path or address of the first file. Most parts have only one file."""
        return os.path.join(self.root, self.files[0])

    def __str__(self) -> str:
        names = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        span = f"[{self.start}:{self.stop}]" if self.stop else ""
        return f"{self.kind}:{self.root}/{names}{span}"


class SourcePair(NamedTuple):
    """Image with a caption.

    Attributes:
        image: location of the image. The module `location` describes its forms.
        rule: one of `CAPTION_RULES`, the part of the page that had the caption.
        language: str in lower case, such as `"en-us"`, or "".
        page_url: page or record that the pair comes from, or "".
        original_size: tuple of int (width, height), size before the downloader resized
            the image. It is (0, 0) if the image was not resized, and None if the source
            records no sizes.
        uid: uid of the record in a shard of DataComp, or "".
        source: source of the caption if the part has the option `CAPTION_SOURCES`, or
            "".
    """

    image: str
    caption: str
    rule: str = "caption"
    language: str = ""
    page_url: str = ""
    original_size: tuple[int, int] | None = None
    uid: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """Reader of one kind of source.

    Attributes:
        suffixes: file name suffixes of the kind in lower case.
        list_parts: callable that divides a source into parts. It takes a `Part` for the
            whole source and the list of files, and returns the parts in the order of
            the source.
        read: callable that takes a `Part` and a `DropCounter`, yields the pairs and
            counts dropped pairs.
        needs_spool: True if `read` takes a third argument, the folder to which it
            writes images.
    """

    suffixes: tuple[str, ...]
    list_parts: Callable[[Part, list[Any]], list[Part]]
    read: Callable[..., Iterable[SourcePair]]
    needs_spool: bool = False


def columns_of(names: Iterable[str]) -> dict[str, str]:
    """Finds the columns of a table with the parts of a pair. Case is ignored.

    Args:
        names: the columns of the table.

    Returns:
        Part of a pair such as "caption" or "url" → name of its column.
    """
    by_lower = {name.lower(): name for name in reversed(list(names))}
    columns = {}
    for part, candidates in _COLUMNS.items():
        name = next((by_lower[name] for name in candidates if name in by_lower), None)
        if name is not None:
            columns[part] = name
    return columns


def pair_from_columns(
    image: str, row: dict, columns: dict[str, str] | None = None
) -> SourcePair:
    """Converts a row of a table or a record of img2dataset to a pair.

    Args:
        image: location of the image.
        row: column → value.
        columns: result of `columns_of` for the columns of the row, or None to compute
            it.
    """
    columns = columns_of(row) if columns is None else columns
    values = {part: row.get(name) for part, name in columns.items()}
    texts = {part: text for part, text in values.items() if isinstance(text, str)}
    rule = texts.get("rule")
    uid = row.get(UID_COLUMN)
    return SourcePair(
        image=image,
        caption=texts.get("caption", ""),
        rule=rule if rule in CAPTION_RULES else "caption",
        language=texts.get("language", ""),
        page_url=texts.get("page_url") or texts.get("url", ""),
        original_size=_original_size(values),
        uid=uid if isinstance(uid, str) else "",
    )


def _original_size(values: dict[str, Any]) -> tuple[int, int] | None:
    """Returns `SourcePair.original_size`."""
    names = ("original_width", "original_height")
    if any(name not in values for name in names):
        return None
    sides = [values[name] for name in names]
    if all(side is None or side in ("", b"") or side != side for side in sides):
        return 0, 0
    try:
        width, height = (int(side) for side in sides)
    except (TypeError, ValueError, OverflowError):
        return None
    is_size = 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE
    return (width, height) if is_size else None


def pair_of_shard(
    counter: DropCounter,
    position: str,
    row: dict,
    image: str | None,
    names: Iterable[str],
    columns: dict[str, str] | None = None,
) -> SourcePair | None:
    """Converts a record of a shard to a pair, or counts the reason why it has no pair.

    Args:
        counter: `DropCounter` for a record without an image.
        position: position of the record.
        row: column → value.
        image: location of the image, or None if the record has no image.
        names: columns or members of the record, for the example of a drop reason.
        columns: result of `columns_of`, or None to compute it.

    Returns:
        `SourcePair`, or None.
    """
    if row.get("status") not in (None, "success"):
        counter.filter("not downloaded", position, str(row.get("error_message", "")))
    elif image is None:
        counter.drop("missing", position, f"no image among {', '.join(sorted(names))}")
    else:
        return pair_from_columns(image, row, columns)
    return None


def pairs_of_sources(
    pair: SourcePair | None, row: dict, part: Part
) -> list[SourcePair]:
    """Returns a pair for each of the sources of captions in a record of a shard.

    Args:
        pair: result of `pair_of_shard`.
        row: column → value.
        part: `Part`. Its option `CAPTION_SOURCES` is a tuple of the columns or keys
            that have a caption or a list of captions. A part without the option has one
            caption per record.

    Returns:
        list of `SourcePair`. It has a single pair with the caption "" if the record has
        none of the captions, and is empty if `pair` is None.
    """
    if pair is None:
        return []
    sources = dict(part.options).get(CAPTION_SOURCES)
    if sources is None:
        return [pair]
    pairs = []
    for source in sources:
        value = row.get(source)
        captions = value if isinstance(value, list) else [value]
        pairs += [
            pair._replace(caption=caption, source=source)
            for caption in captions
            if isinstance(caption, str) and caption.strip()
        ]
    return pairs or [pair._replace(caption="")]
