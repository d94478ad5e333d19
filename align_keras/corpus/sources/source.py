"""A source of pairs: opened by a line of text, read by workers part by part."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import ImageError, image_size
from align_keras.corpus.pair_files import IMAGE_SUFFIXES
from align_keras.corpus.parquet_tables import pair_schema, table_writer
from align_keras.corpus.sources.caption_json import (
    CAPTION_JSON,
    EVALUATION,
    json_kind,
)
from align_keras.corpus.sources.folder_images import FOLDER_IMAGES
from align_keras.corpus.sources.html_pages import HTML_PAGES
from align_keras.corpus.sources.location import is_remote, read_location
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.parquet_files import PARQUET_FILES
from align_keras.corpus.sources.source_files import (
    SourceFile,
    count_os_error,
    fingerprint,
    is_folder,
    list_files,
    one_file,
)
from align_keras.corpus.sources.table_files import TABLE_FILES
from align_keras.corpus.sources.tfds_builders import TFDS_BUILDERS, data_folder
from align_keras.corpus.sources.tfrecord_files import TFRECORD_FILES
from align_keras.corpus.sources.warc_files import WARC_FILES
from align_keras.corpus.sources.wat_files import WAT_FILES
from align_keras.corpus.sources.webdataset import WEBDATASET
from align_keras.utils.errors import InputError
from align_keras.utils.files import is_special
from align_keras.utils.remote import is_url

SOURCE_KINDS: dict[str, SourceKind] = {
    "html": HTML_PAGES,
    "warc": WARC_FILES,
    "wat": WAT_FILES,
    "webdataset": WEBDATASET,
    "parquet": PARQUET_FILES,
    "tfrecord": TFRECORD_FILES,
    "coco": CAPTION_JSON,
    "karpathy": CAPTION_JSON,
    "table": TABLE_FILES,
    "folder": FOLDER_IMAGES,
    "tfds": TFDS_BUILDERS,
}
# Told by the names of files; JSON is by its content, and a folder of images by the
# texts beside them.
_GUESSED = ("html", "warc", "wat", "webdataset", "parquet", "tfrecord", "table")
_IMAGES = "?images="
# Shards of img2dataset: alt-texts as crawls found them. The readers of pages look for
# such captions themselves, as they know the images' addresses.
_CRAWLED = ("webdataset", "parquet", "tfrecord")
_SHARDS = ("warc", "wat", *_CRAWLED)
# These count by themselves which files can't be read.
_OF_MANY_FILES = ("html", "folder", "tfds")
# Pairs whose image isn't the image on the web any more, in the funnel and the report.
PADDED = (
    "pairs whose image the downloader padded or cropped (fetch it again with "
    "img2dataset --resize_mode no)"
)
# Why `caption_rules` leaves a pair out.
OTHER_RULE = "text of another place than caption_rules"
# Images that a page shows again and again, such as its logo.
_KNOWN_IMAGES = 4096


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of pairs, as `open_source` opens it.

    Attributes:
        name: str, as the user wrote it.
        kind: str, key of `SOURCE_KINDS`.
        path: str, absolute path or address of a file or a folder.
        options: tuple of (name, value).
    """

    name: str
    kind: str
    path: str
    options: tuple = ()

    def parts(self) -> list[Part]:
        """Shares the source out, always in the same way; raises if it's empty."""
        root = self.path if is_folder(self.path) else os.path.dirname(self.path)
        whole = Part(self.kind, root, (), options=self.options)
        kind = SOURCE_KINDS[self.kind]
        parts = kind.list_parts(whole, self._files())
        if not parts:
            raise InputError(
                f"source {self.name!r} must have files of kind {self.kind} "
                f"({', '.join(kind.suffixes)}), but {self.path} has none; check the "
                "path, or name another kind."
            )
        return parts

    def fingerprint(self) -> str:
        """Names what the source holds, by the names, sizes and times of its files."""
        words = [self.kind, self.path, *itertools.chain(*self.options)]
        return fingerprint(words, self._files())

    def _files(self) -> list[SourceFile]:
        with _readable(self.name):
            if is_folder(self.path):
                return list_files(self.path, SOURCE_KINDS[self.kind].suffixes)
            file = one_file(self.path)
        if file is None:
            raise InputError(
                f"source {self.name!r} must be there, but there is no {self.path}; "
                "check the path."
            )
        return [file]


def open_source(spec: str) -> Source:
    """Opens a source of pairs.

    Args:
        spec: str, `KIND:PATH`, where KIND is

            - `html`: a folder of web pages, or one page;
            - `warc`, `wat`: web archives, Common Crawl's metadata;
            - `webdataset`, `parquet`, `tfrecord`: shards that img2dataset wrote;
            - `coco`, `karpathy`: a JSON file of captions, `FILE?images=DIR` where the
              images lie elsewhere than beside it;
            - `table`: CSV, TSV or JSONL;
            - `folder`: NAME.jpg beside NAME.txt;
            - `tfds`: `tfds:NAME:SPLIT`, `tfds:NAME/CONFIG:SPLIT` or, of a prepared
              data set, `tfds:FOLDER:SPLIT`.

            Without `KIND:` a file's kind is told by the end of its name, of JSON by
            its content; a folder's by its files, if all that have the name of a kind
            are of the same. A `NAME.parquet` beside `NAME.tar`, `NAME.tfrecord` or a
            folder `NAME` is img2dataset's log, and images count where one has its
            text beside it.

    Returns:
        `Source`.

    Raises:
        InputError: an unknown kind, no such path, or a path whose kind can't be told.

    Example:

    >>> import pathlib, tempfile
    >>> from align_keras.corpus.drop_counter import DropCounter
    >>> page = pathlib.Path(tempfile.mkdtemp(), "page.html")
    >>> _ = page.write_text("<img src=https://example.org/a.jpg alt='A cat'>")
    >>> [part] = open_source(f"html:{page}").parts()
    >>> [pair.caption for pair in read_part(part, DropCounter())]
    ['A cat']
    """
    named, _, path_text = spec.partition(":")
    kind = named if named in SOURCE_KINDS and named != spec else None
    path_text = path_text if kind else spec
    if kind == "tfds":
        name, colon, split = path_text.rpartition(":")
        if not name or not split:
            raise InputError(
                f"source must be tfds:NAME:SPLIT, received {spec!r}; write it as in "
                "tfds:coco_captions:train."
            )
        if is_url(name):
            raise _no_source(spec, "but tfds reads local folders; copy it to one")
        folder = data_folder(name)
        return Source(spec, kind, folder, (("split", split),))
    options: tuple = ()
    if _IMAGES in path_text and kind in (None, "coco", "karpathy"):
        path_text, _, folder = path_text.partition(_IMAGES)
        folder = folder if is_url(folder) else os.path.abspath(folder)
        options = (("images", folder),)
    path = path_text.rstrip("/") if is_url(path_text) else os.path.abspath(path_text)
    with _readable(spec):
        is_there = one_file(path) is not None or is_folder(path)
    if not path_text or not is_there:
        raise _no_source(spec, f"but there is no {path_text or 'path'}")
    if is_special(path):
        raise InputError(
            f"source must be a file or a folder, received {spec!r}, a pipe or a "
            "device; make a file of it."
        )
    kind = kind or _guess_kind(spec, path)
    if SOURCE_KINDS[kind] is CAPTION_JSON and is_folder(path):
        raise InputError(
            f"source {spec!r} must be a JSON file, received a folder; name the file."
        )
    return Source(spec, kind, path, options)


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"source {name!r} must be readable, but it isn't: {error.strerror}: "
            f"{error.filename}."
        ) from None


def evaluation_source(spec: str) -> Source:
    """Opens a source of evaluation images, whose copies leave a corpus.

    Of Karpathy's splits it has `val` and `test`, which `open_source` leaves out.
    """
    source = open_source(spec)
    if source.kind != "karpathy":
        return source
    options = (*source.options, EVALUATION)
    return dataclasses.replace(source, options=options)


def _no_source(spec: str, problem: str) -> InputError:
    return InputError(
        f"source must be KIND:PATH with one of the kinds {', '.join(SOURCE_KINDS)}, "
        f"or a path that tells its kind, received {spec!r}, {problem}."
    )


def _guess_kind(spec: str, path: str) -> str:
    if is_folder(path):
        with _readable(spec):
            kinds = _kinds_in(path)
    else:
        if path.lower().endswith(CAPTION_JSON.suffixes):
            kind = json_kind(path)
        else:
            kind = _kind_of_name(os.path.basename(path))
        kinds = set() if kind is None else {kind}
    if len(kinds) != 1:
        names = "and ".join(f"{kind} " for kind in sorted(kinds)) or "no kind "
        raise _no_source(spec, f"in which {names}can be made out; name the kind")
    return kinds.pop()


def _kind_of_name(name: str) -> str | None:
    name = name.lower()
    return next(
        (kind for kind in _GUESSED if name.endswith(SOURCE_KINDS[kind].suffixes)), None
    )


def _kinds_in(folder: str) -> set[str]:
    """Returns the kinds of which a folder has files."""
    suffixes = tuple(end for kind in _GUESSED for end in SOURCE_KINDS[kind].suffixes)
    names = [file.name for file in list_files(folder, suffixes)]
    shards = {
        os.path.splitext(name)[0]
        for name in names
        if _kind_of_name(name) in ("webdataset", "tfrecord")
    }
    kinds: set[str] = set()
    for name in names:
        stem, suffix = os.path.splitext(name)
        is_log = stem in shards or os.path.isdir(os.path.join(folder, stem))
        kind = _kind_of_name(name)
        if kind is not None and (suffix.lower() != ".parquet" or not is_log):
            kinds.add(kind)
    images = list_files(folder, (*IMAGE_SUFFIXES, ".txt"))
    stems = [os.path.splitext(file.name) for file in images]
    texts = {stem for stem, suffix in stems if suffix.lower() == ".txt"}
    if any(stem in texts for stem, suffix in stems if suffix.lower() != ".txt"):
        kinds.add("folder")
    return kinds


def read_part(
    part: Part, counter: DropCounter, spool: str | os.PathLike | None = None
) -> Iterator[SourcePair]:
    """Reads the pairs of a part, past whatever is broken in it; see `open_source`.

    Args:
        part: `Part`.
        counter: `DropCounter`, in which what can't be read is dropped with an example.
            As long as `counter.bad["vanished"]` isn't 0, a file has gone or changed,
            and the part must be listed and read again.
        spool: str or path, a folder for images without files, of the kind `tfds`.

    Yields:
        `SourcePair` in the part's order, cleaned, and nothing that UTF-8 can't hold.

    Raises:
        InputError: if a package that the kind needs isn't installed.
    """
    for pair in _read(part, counter, spool):
        caption = clean_caption(pair.caption)
        url = "" if part.kind in _CRAWLED else None
        if is_usable(caption, counter, pair.page_url or pair.image, url):
            yield pair._replace(
                image=_storable(pair.image),
                caption=caption,
                language=_storable(pair.language.strip().lower()),
                page_url=_storable(pair.page_url),
            )


def _read(
    part: Part, counter: DropCounter, spool: str | os.PathLike | None
) -> Iterator[SourcePair]:
    kind = SOURCE_KINDS[part.kind]
    try:
        if part.kind in _SHARDS and _is_empty(part.path):
            counter.drop("empty shard", part.path, "0 bytes")
        elif kind.needs_spool:
            yield from kind.read(part, counter, spool)
        else:
            yield from kind.read(part, counter)
    except OSError as error:
        if part.kind in _OF_MANY_FILES:
            raise
        count_os_error(counter, part.path, error)


def _is_empty(path: str) -> bool:
    file = one_file(path)
    return file is not None and not file.size and not is_special(path)


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def extract_part(task: dict) -> dict:
    """Writes the pairs of one part, with the sizes and keys of their images."""
    part, counter = Part(**task["part"]), DropCounter()
    pairs = read_part(part, counter, spool=task["spool"])
    if task.get("caption_rules"):
        pairs = _with_rules(pairs, task["caption_rules"], counter)
    rows = _sized_rows(pairs, counter)
    if part.kind in _CRAWLED:
        rows = _with_resized(rows)
    with table_writer(task["table"], pair_schema()) as append:
        for row in rows:
            append([{**row, "source": task["source"]}])
        if counter.bad["vanished"]:
            raise InputError(
                f"source {task['source']} must stay as it is while it is read, but "
                f"{counter.bad['vanished']} of its files vanished or changed "
                f"({counter.examples['vanished']}); put them back or leave the source "
                "out, and run again: what was read of the others is kept."
            )
    return counter.as_metadata()


def _with_rules(
    pairs: Iterable[SourcePair], caption_rules: Sequence[str], counter: DropCounter
) -> Iterator[SourcePair]:
    """Yields the pairs whose caption stood in one of these places of its page."""
    for pair in pairs:
        if pair.rule in caption_rules:
            yield pair
        else:
            where = pair.page_url or pair.image[:200]
            counter.filter(OTHER_RULE, where, f"{pair.rule}: {pair.caption[:200]}")


def _sized_rows(
    pairs: Iterable[SourcePair], counter: DropCounter
) -> Iterator[dict[str, Any]]:
    """Yields the columns of the pairs' table, with the images' sizes and keys."""
    probe = functools.lru_cache(_KNOWN_IMAGES)(_probe)
    for pair in pairs:
        key, width, height, fault = probe(pair.image)
        if fault is not None:
            counter.drop(fault.reason, pair.image[:200], fault.detail)
            continue
        counter.keep()
        if pair.original_size and all(pair.original_size):
            if width and _has_other_aspect((width, height), pair.original_size):
                counter.note(PADDED)
            width, height = pair.original_size
        yield {
            **pair._asdict(),
            "image_key": key,
            "width": width,
            "height": height,
            "is_resized": False,
        }


def _has_other_aspect(size: tuple[int, int], original_size: tuple[int, int]) -> bool:
    """Returns True if a size isn't the original one scaled and rounded."""
    width, height = size
    original_width, original_height = original_size
    difference = abs(width * original_height - height * original_width)
    # Each side is rounded by less than a pixel.
    return difference > original_width + original_height


def _with_resized(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Sets `is_resized` of the rows of a shard that records no sizes if its images are
    squares of one size, which img2dataset makes of all images by default.
    """
    squares: list[dict] = []
    can_be_resized = True
    for row in rows:
        is_local = row["width"] > 0
        if not can_be_resized or not is_local or row["original_size"] is not None:
            yield row
            continue
        squares.append(row)
        side = squares[0]["width"]
        if (row["width"], row["height"]) != (side, side):
            can_be_resized = False
            yield from squares
            squares.clear()
    # One image alone has no other to be compared with.
    is_resized = len({row["image_key"] for row in squares}) > 1
    for row in squares:
        yield {**row, "is_resized": is_resized}


def merged_counts(counts: list[dict]) -> dict:
    """Adds up what `extract_part` returned; of several examples the first counts."""
    total = DropCounter()
    for part in counts:
        total.add(DropCounter.from_metadata(part))
    return total.as_metadata()


def _probe(location: str) -> tuple[str, int, int, ImageError | None]:
    """Returns (key, width, height, None), or the `ImageError` as the last."""
    if is_remote(location):
        return location, 0, 0, None
    try:
        content = read_location(location)
        size = image_size(content)
    except ImageError as error:
        return "", 0, 0, error
    return hashlib.blake2b(content, digest_size=16).hexdigest(), *size, None
