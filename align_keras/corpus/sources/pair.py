"""Pairs of all sources, and the parts in which workers read them."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from align_keras.corpus.drop_counter import DropCounter

CAPTION_RULES = ("alt", "title", "figcaption", "caption")
# Names of columns in upper and lower case alike, the first that is there counts.
# img2dataset writes the caption twice, as `caption` and as `txt`.
_COLUMNS = {
    "caption": ("caption", "txt", "text", "alt_text", "alt", "title", "description"),
    "rule": ("rule",),
    "language": ("language", "lang"),
    "page_url": ("page_url",),
    "url": ("url", "image_url"),
    "original_width": ("original_width",),
    "original_height": ("original_height",),
}
# Pixels a side. No image format has more, and tables store the sizes as int32.
_MAX_SIDE = 2**31 - 1


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A few small files, one file, or a range of a big one, to travel to workers.

    `files` lie in the absolute `root`. `start` is the first record of the range (of
    Parquet: row group), `stop` the one behind the last, 0 for all of the file; `total`
    is how many it had when it was listed, by which a change shows. Parts compare in the
    source's order.
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
        """The first file, often the only one."""
        return os.path.join(self.root, self.files[0])

    def __str__(self) -> str:
        names = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        span = f"[{self.start}:{self.stop}]" if self.stop else ""
        return f"{self.kind}:{self.root}/{names}{span}"


class SourcePair(NamedTuple):
    """An image and one text about it.

    Attributes:
        image: str, location of the image, as `location` describes it.
        caption: str.
        rule: str, one of `CAPTION_RULES`, the part of the page that held the caption.
        language: str in lower case, such as `"en-us"`, or "".
        page_url: str, page or record that the pair comes from, or "".
        original_size: tuple of width and height that the downloader recorded before it
            resized the image. (0, 0) means that it did not resize the image, and None
            that the source records no sizes.
    """

    image: str
    caption: str
    rule: str = "caption"
    language: str = ""
    page_url: str = ""
    original_size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """Reader of one kind of source.

    Attributes:
        suffixes: tuple of str, ends of the names of files that belong to the kind.
        list_parts: callable that divides a source into parts. It takes a part of the
            whole source and the files, and returns the parts in the source's order.
        read: callable that yields the pairs of a part, and counts the dropped ones.
        needs_spool: bool, True if `read` takes the folder for the images that it writes
            as its third argument.
    """

    suffixes: tuple[str, ...]
    list_parts: Callable[[Part, list[Any]], list[Part]]
    read: Callable[..., Iterable[SourcePair]]
    needs_spool: bool = False


def columns_of(names: Iterable[str]) -> dict[str, str]:
    """Finds a table's columns for the parts of a pair, capitals alike."""
    by_lower = {name.lower(): name for name in reversed(list(names))}
    columns = {}
    for part, guesses in _COLUMNS.items():
        name = next((by_lower[guess] for guess in guesses if guess in by_lower), None)
        if name is not None:
            columns[part] = name
    return columns


def pair_from_columns(
    image: str, row: dict, columns: dict[str, str] | None = None
) -> SourcePair:
    """Makes a pair of img2dataset's record, or one like it, by `columns_of`."""
    columns = columns_of(row) if columns is None else columns
    values = {part: row.get(name) for part, name in columns.items()}
    texts = {part: text for part, text in values.items() if isinstance(text, str)}
    rule = texts.get("rule")
    return SourcePair(
        image=image,
        caption=texts.get("caption", ""),
        rule=rule if rule in CAPTION_RULES else "caption",
        language=texts.get("language", ""),
        page_url=texts.get("page_url") or texts.get("url", ""),
        original_size=_original_size(values),
    )


def _original_size(values: dict[str, Any]) -> tuple[int, int] | None:
    """Returns `SourcePair.original_size` of a record's values by part of the pair."""
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
    place: str,
    row: dict,
    image: str | None,
    names: Iterable[str],
    columns: dict[str, str] | None = None,
) -> SourcePair | None:
    """Returns a pair as `pair_from_columns`, or counts why the record makes none."""
    if row.get("status") not in (None, "success"):
        counter.filter("not downloaded", place, str(row.get("error_message", "")))
    elif image is None:
        counter.drop("missing", place, f"no image among {', '.join(sorted(names))}")
    else:
        return pair_from_columns(image, row, columns)
    return None
