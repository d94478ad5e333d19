"""Opening of sources by their specification, and reading of their parts."""

import dataclasses
import itertools
import os
from collections.abc import Iterator

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.opt_out import HONOR_OPT_OUT
from align_keras.corpus.sources.caption_json import CAPTION_JSON, json_kind
from align_keras.corpus.sources.folder_images import FOLDER_IMAGES
from align_keras.corpus.sources.html_pages import HTML_PAGES
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
)
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
from align_keras.corpus.sources.uid_subset import subset_options
from align_keras.corpus.sources.warc_files import WARC_FILES
from align_keras.corpus.sources.wat_files import WAT_FILES
from align_keras.corpus.sources.webdataset import WEBDATASET
from align_keras.utils.errors import InputError
from align_keras.utils.files import is_special
from align_keras.utils.pillow_images import IMAGE_SUFFIXES
from align_keras.utils.remote import absolute_path

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
# Kinds that are recognized by file name suffixes. A JSON file is recognized by its
# content, and a folder of images by its caption files.
_KINDS_BY_SUFFIX = (
    "html",
    "warc",
    "wat",
    "webdataset",
    "parquet",
    "tfrecord",
    "table",
)
_IMAGES_OPTION = "?images="
_SUBSET_OPTION = "?subset="
# Kinds of img2dataset shards. Their captions are unfiltered alt-texts, so captions that
# only name a file are dropped in this module. The readers of web pages drop such
# captions themselves, because they know the addresses of the images.
SHARD_KINDS = ("webdataset", "parquet", "tfrecord")
# Kinds of fetched pages, which can opt out.
_PAGES = ("html", "warc", "wat")
_SHARDS = ("warc", "wat", *SHARD_KINDS)
# Kinds whose parts have many files. Their readers count the unreadable files
# themselves.
_MANY_FILES = ("html", "folder", "tfds")


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of image-caption pairs. `open_source` creates it.

    Attributes:
        name: specification from the user.
        kind: key of `SOURCE_KINDS`.
        path: absolute path or address of a file or a folder.
        options: tuple of (name, value).
    """

    name: str
    kind: str
    path: str
    options: tuple = ()

    def parts(self) -> list[Part]:
        """Divides the source into parts, which depend only on its files.

        Raises:
            InputError: if the source has no files.
            OSError: if the source cannot be read.
        """
        root = self.path if is_folder(self.path) else os.path.dirname(self.path)
        whole = Part(self.kind, root, (), options=self.options)
        kind = SOURCE_KINDS[self.kind]
        parts = kind.list_parts(whole, self._files())
        if not parts:
            raise InputError(
                f"The source {self.name!r} must have files of kind {self.kind} "
                f"({', '.join(kind.suffixes)}). Received: {self.path} without such "
                "files. Check the path, or use another kind."
            )
        return parts

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files' names, sizes and modification times.

        The content of the files is not read.
        """
        words = [self.kind, self.path, *itertools.chain(*self.options)]
        return fingerprint(words, self._files())

    def _files(self) -> list[SourceFile]:
        if is_folder(self.path):
            return list_files(self.path, SOURCE_KINDS[self.kind].suffixes)
        file = one_file(self.path)
        return [] if file is None else [file]


def open_source(spec: str, *, honor_opt_out: bool = True) -> Source:
    """Opens a source of image-caption pairs.

    Args:
        spec: `KIND:PATH`, where KIND is

            - `html`: a folder of web pages, or a single page,
            - `warc`: a web archive,
            - `wat`: metadata of web pages from Common Crawl,
            - `webdataset`, `parquet`, `tfrecord`: shards that img2dataset wrote. Write
              `SHARDS?subset=FILE.npy` to read only the records whose `uid` is in a
              subset file of DataComp,
            - `coco`, `karpathy`: a JSON file of captions. Write `FILE?images=DIR` if
              the images are not near the file,
            - `table`: a CSV, TSV or JSONL file,
            - `folder`: a folder with captions NAME.txt next to images NAME.jpg,
            - `tfds`: `tfds:NAME:SPLIT` or `tfds:NAME/CONFIG:SPLIT`, or
              `tfds:FOLDER:SPLIT` for the folder of a prepared data set.

            Without `KIND:`, the kind of a file is recognized by its suffix, and the
            kind of a JSON file by its content. The kind of a folder is recognized if
            all its files with known suffixes have the same kind. In this check, a file
            `NAME.parquet` next to `NAME.tar`, `NAME.tfrecord` or a folder `NAME` is
            ignored, because img2dataset writes such a file as a log. Images are ignored
            unless an image NAME.jpg has a file NAME.txt.
        honor_opt_out: True to drop pairs of web pages and images that opt out by
            `noai`, `noimageai`, `noindex` or `noimageindex`, in the HTTP header
            `X-Robots-Tag` or in `<meta name="robots">`. The kinds `html`, `warc` and
            `wat` use it.

    Raises:
        InputError: if the kind is unknown or is not recognized, the path does not
            exist, or the subset file is not sorted or has another dtype or shape.
        OSError: if the path or the subset file cannot be read.

    Example:

    >>> import pathlib, tempfile
    >>> from align_keras.corpus.drop_counter import DropCounter
    >>> page = pathlib.Path(tempfile.mkdtemp(), "page.html")
    >>> _ = page.write_text("<img src=https://example.org/a.jpg alt='A cat'>")
    >>> [part] = open_source(f"html:{page}").parts()
    >>> [pair.caption for pair in read_part(part, DropCounter())]
    ['A cat']
    """
    prefix, _, path_text = spec.partition(":")
    kind = prefix if prefix in SOURCE_KINDS and prefix != spec else None
    path_text = path_text if kind else spec
    if kind == "tfds":
        name, colon, split = path_text.rpartition(":")
        if not name or not split:
            raise InputError(
                "A source of TensorFlow Datasets must be tfds:NAME:SPLIT. Received: "
                f"{spec!r}. Write for example tfds:coco_captions:train."
            )
        return Source(spec, kind, data_folder(name), (("split", split),))
    options: tuple = ()
    if _IMAGES_OPTION in path_text and kind in (None, "coco", "karpathy"):
        path_text, _, folder = path_text.partition(_IMAGES_OPTION)
        options = (("images", absolute_path(folder)),)
    path_text, has_subset, subset_path = path_text.partition(_SUBSET_OPTION)
    path = absolute_path(path_text)
    exists = one_file(path) is not None or is_folder(path)
    if not path_text or not exists:
        raise _wrong_source(
            spec, f"but there is no {path_text or 'path'}", "Check the path."
        )
    if is_special(path):
        raise InputError(
            f"A source must be a file or a folder. Received: {spec!r}, which is a pipe "
            "or a device. Copy it to a file."
        )
    kind = kind or _recognize_kind(spec, path)
    if SOURCE_KINDS[kind] is CAPTION_JSON and is_folder(path):
        raise InputError(
            f"A source of kind {kind} must be a JSON file. Received: {spec!r}, which "
            "is a folder. Use the path of the file."
        )
    if has_subset:
        if kind not in SHARD_KINDS:
            raise InputError(
                f"A source with {_SUBSET_OPTION}FILE must be of the kind "
                f"{', '.join(SHARD_KINDS)}. Received: {spec!r} of the kind {kind}. "
                "Leave out the subset."
            )
        options += subset_options(subset_path)
    if kind in _PAGES and honor_opt_out:
        options += (HONOR_OPT_OUT,)
    return Source(spec, kind, path, options)


def evaluation_source(spec: str) -> Source:
    """Opens a source of evaluation images, whose copies are removed from a corpus.

    All images are read, even images without a usable caption. A `karpathy` source has
    the splits `val` and `test`, which `open_source` skips. Web pages cannot opt out,
    because their images do not become a part of the corpus.

    Args:
        spec: as in `open_source`.
    """
    source = open_source(spec, honor_opt_out=False)
    options = (*source.options, EVALUATION)
    return dataclasses.replace(source, options=options)


def _wrong_source(spec: str, problem: str, remedy: str) -> InputError:
    return InputError(
        f"A source must be KIND:PATH with one of the kinds {', '.join(SOURCE_KINDS)}, "
        f"or a path whose kind can be recognized. Received: {spec!r}, {problem}. "
        f"{remedy}"
    )


def _recognize_kind(spec: str, path: str) -> str:
    """Returns the kind of a file or a folder."""
    if is_folder(path):
        kinds = _kinds_in_folder(path)
    else:
        if path.lower().endswith(CAPTION_JSON.suffixes):
            kind = json_kind(path)
        else:
            kind = _kind_by_suffix(os.path.basename(path))
        kinds = set() if kind is None else {kind}
    if len(kinds) != 1:
        problem = f"with files of {' and '.join(sorted(kinds)) or 'no known kind'}"
        raise _wrong_source(spec, problem, "Specify the kind.")
    return kinds.pop()


def _kind_by_suffix(name: str) -> str | None:
    name = name.lower()
    return next(
        (
            kind
            for kind in _KINDS_BY_SUFFIX
            if name.endswith(SOURCE_KINDS[kind].suffixes)
        ),
        None,
    )


def _kinds_in_folder(folder: str) -> set[str]:
    """Returns the kinds of the files in a folder, as `open_source` describes."""
    suffixes = tuple(
        suffix for kind in _KINDS_BY_SUFFIX for suffix in SOURCE_KINDS[kind].suffixes
    )
    names = [file.name for file in list_files(folder, suffixes)]
    shard_stems = {
        os.path.splitext(name)[0]
        for name in names
        if _kind_by_suffix(name) in ("webdataset", "tfrecord")
    }
    kinds: set[str] = set()
    for name in names:
        stem, suffix = os.path.splitext(name)
        is_log = stem in shard_stems or os.path.isdir(os.path.join(folder, stem))
        kind = _kind_by_suffix(name)
        if kind is not None and (suffix.lower() != ".parquet" or not is_log):
            kinds.add(kind)
    images_and_texts = list_files(folder, (*IMAGE_SUFFIXES, ".txt"))
    parts_of_names = [os.path.splitext(file.name) for file in images_and_texts]
    text_stems = {stem for stem, suffix in parts_of_names if suffix.lower() == ".txt"}
    if any(
        stem in text_stems
        for stem, suffix in parts_of_names
        if suffix.lower() != ".txt"
    ):
        kinds.add("folder")
    return kinds


def read_part(
    part: Part, counter: DropCounter, spool: str | os.PathLike | None = None
) -> Iterator[SourcePair]:
    """Reads the pairs of a part of a source.

    Damaged files and records are counted and skipped.

    Args:
        part: `Part`, from `Source.parts`.
        counter: `DropCounter` for records that cannot be read. If its
            `bad["vanished"]` is not 0 after the last pair, a file was removed or has
            changed. List and read the source again in this case.
        spool: folder to which images are copied if they have no position in a file.
            Only the kind `tfds` needs it.

    Yields:
        `SourcePair` with a cleaned caption, in the order of the part. UTF-8 can encode
        its strings. In a source of evaluation images, an image has only one pair with
        the caption "".

    Raises:
        InputError: if a package that the kind needs is not installed.
    """
    is_evaluation = EVALUATION in part.options
    previous_image = None
    for pair in _read(part, counter, spool):
        if is_evaluation:
            # Consecutive pairs have the captions of the same image.
            if pair.image != previous_image:
                previous_image = pair.image
                image = _storable(pair.image)
                page_url = _storable(pair.page_url)
                yield pair._replace(
                    image=image, caption="", language="", page_url=page_url
                )
            continue
        caption = clean_caption(pair.caption)
        url = "" if part.kind in SHARD_KINDS else None
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
        if part.kind in _MANY_FILES:
            raise
        count_os_error(counter, part.path, error)


def _is_empty(path: str) -> bool:
    file = one_file(path)
    return file is not None and not file.size and not is_special(path)


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
