"""Drawings and texts of the Open Clip Art Library.

The Debian packages openclipart-png and openclipart-svg have the drawings.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.pillow_images import decode_rgb
from tools.drawings.drawing import Drawing

# Kind of text → extraction rule in a corpus. Keywords and descriptions count as
# captions.
_RULES = {"title": "title", "description": "caption", "keywords": "caption"}


def drawings(root: pathlib.Path, counter: DropCounter) -> Iterator[Drawing]:
    """Yields the drawings with cleaned captions."""
    names = _list_names(root)
    captions = without_shared_captions(
        [clipart_captions(_read_metadata(root, name), name.stem) for name in names]
    )
    for name, texts in zip(names, captions, strict=True):
        path = root / "png" / name
        if texts:
            category = name.parts[0]
            identifier = name.with_suffix("").as_posix()
            yield Drawing(identifier, path, tuple(texts), category, _load)
        else:
            counter.filter("only captions that too many images share", str(name))


def text_rows(root: pathlib.Path) -> Iterator[dict[str, str]]:
    """Yields a row for each title, description and line of keywords.

    The texts are as noisy as alt-texts, so that a table of them shows the effect of the
    corpus filters.
    """
    for name in _list_names(root):
        metadata = _read_metadata(root, name)
        texts = {
            "title": metadata.title,
            "description": metadata.description,
            "keywords": ", ".join(metadata.keywords),
        }
        for kind, text in texts.items():
            if text:
                yield {
                    "image": str((root / "png" / name).absolute()),
                    "caption": text,
                    "rule": _RULES[kind],
                    "page_url": f"openclipart/{name.with_suffix('.svg').as_posix()}",
                }


def _list_names(root: pathlib.Path) -> list[pathlib.Path]:
    images = sorted((root / "png").glob("**/*.png"))
    if not images or not (root / "svg").is_dir():
        raise InputError(
            f"`clipart` must contain png/ and svg/. Received: {root}. Run apt-get "
            "install openclipart-png openclipart-svg."
        )
    return [path.relative_to(root / "png") for path in images]


def _load(path: pathlib.Path) -> Any:
    image, _ = decode_rgb(path)
    if image.convert("L").getextrema() == (255, 255):
        raise ImageError("white on white", "all pixels are white")
    return image


def _read_metadata(root: pathlib.Path, name: pathlib.Path) -> "SvgMetadata":
    try:
        return read_svg_metadata(root / "svg" / name.with_suffix(".svg"))
    except OSError:
        return SvgMetadata()


_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@dataclasses.dataclass(frozen=True)
class SvgMetadata:
    """Dublin Core metadata of a drawing. Missing fields are empty."""

    title: str = ""
    description: str = ""
    keywords: tuple = ()
    authors: tuple = ()


def read_svg_metadata(path: str | os.PathLike) -> SvgMetadata:
    """Reads the first RDF work description of an SVG file.

    The file may be damaged after the description.
    """
    with open(path, "rb") as file, contextlib.suppress(ElementTree.ParseError):
        for _, element in ElementTree.iterparse(file):
            name = str(element.tag).rpartition("}")[2]
            if name in ("Work", "metadata"):
                return _from_element(element)
    return SvgMetadata()


def _from_element(element: ElementTree.Element) -> SvgMetadata:
    def texts(pattern: str) -> tuple[str, ...]:
        contents = (child.text for child in element.iterfind(pattern))
        return tuple(" ".join(text.split()) for text in contents if text)

    return SvgMetadata(
        title=next(iter(texts(f"{_DUBLIN_CORE}title")), ""),
        description=next(iter(texts(f"{_DUBLIN_CORE}description")), ""),
        keywords=texts(f"{_DUBLIN_CORE}subject//{_RDF}li"),
        authors=texts(f"{_DUBLIN_CORE}creator//{_DUBLIN_CORE}title"),
    )


# Largest number of images that may share a caption, by the kind of caption. Titles and
# descriptions are comparable to alt-texts and have the paper's limit (Jia et al. 2021,
# section 3). File names and keywords name a kind of object ("book", "insect") that many
# images show. The limit for these kinds only excludes series such as 1,375 stars.
SHARING_LIMITS = {"title": 10, "description": 10, "file_name": 60, "keywords": 60}
# Characters. Longer descriptions are reduced to their first sentence.
MAX_DESCRIPTION = 200

# Keywords and words of file names that don't describe the drawing.
_NOISE = frozenset(
    (
        "unsorted|unknown|clip art|clipart|cliparts|hash|icons|icon|theme|magick|"
        "special|public domain|lemon theme icon|appicon|mimetypes|mime types|"
        "united nations member|svg|various|externalsource|untitled|none|misc"
    ).split("|")
)
# Names of prolific authors at the end of their file names.
_HANDLES = frozenset({"ganson", "rejon", "nicubunu"})
_SPELLED_OUT = {
    "mapsym": "map symbol",
    "networksym": "network symbol",
    "roadsign": "road sign",
    "signalflag": "signal flag",
    "unitedstates": "united states",
    "stickmen": "stick men",
    "icecream": "ice cream",
    "bw": "black and white",
}
_CREDIT = re.compile(r"^(clip ?art|drawing|image|icon)s? by [^-]{2,40} - ", re.I)
_PREFIX = re.compile(r"^(gnome-(mime|fs|dev)-|gnome-|stock_|aiga_)")
_LINK = re.compile(r"\S+@\S+\.\S+|\b(https?://|www\.)\S+", re.I)
_BLACK_AND_WHITE = re.compile(r"\(?\bB(?:&| and )W\b\)?")
_HEXADECIMAL = re.compile(r"\b(hash\()?0x[0-9a-f]+\)?", re.I)


def clipart_captions(metadata: SvgMetadata, stem: str) -> dict[str, str]:
    """Returns the captions of a drawing by kind, the best kind first.

    Args:
        metadata: `SvgMetadata` of the drawing.
        stem: str, name of the file without its suffix.

    Returns:
        dict from "title", "description", "file_name" or "keywords" to a caption. Kinds
        without at least two letters are left out.
    """
    authors = {_slug(author) for author in metadata.authors} - {""}
    candidates = {
        "title": _clean_title(metadata.title, authors),
        "description": _clean_description(metadata.description),
        "file_name": clean_file_name(stem, authors),
        "keywords": _clean_keywords(metadata.keywords, authors),
    }
    return {
        kind: caption
        for kind, caption in candidates.items()
        if sum(letter.isalpha() for letter in caption) > 1
    }


def without_shared_captions(captions: Sequence[dict[str, str]]) -> list[list[str]]:
    """Drops captions that too many images share, and repeated captions of an image.

    Keywords are kept only for images without another caption, because a list of
    keywords isn't how people describe an image. Without them, recall@10 on the stamps
    after a warm start was 2 to 3 points higher.

    Args:
        captions: sequence of dicts from `clipart_captions`, one for each image.

    Returns:
        list of the captions of each image.
    """
    images = collections.Counter(
        folded for texts in captions for folded in {_folded(c) for c in texts.values()}
    )
    return [
        _without_repeats(
            {
                kind: caption
                for kind, caption in texts.items()
                if images[_folded(caption)] <= SHARING_LIMITS[kind]
            }
        )
        for texts in captions
    ]


def _without_repeats(captions: dict[str, str]) -> list[str]:
    """Returns distinct captions, without file names that are a truncated title."""
    distinct = {}
    for kind, caption in captions.items():
        folded = _folded(caption)
        title = _folded(captions.get("title", "")) if kind == "file_name" else ""
        if folded not in distinct and not (title and title.startswith(folded)):
            distinct[folded] = kind, caption
    names = [caption for kind, caption in distinct.values() if kind != "keywords"]
    return names or [caption for _, caption in distinct.values()]


def clean_file_name(stem: str, authors: Collection[str] = ()) -> str:
    """Returns the words of a file name, without numbers and authors.

    Args:
        stem: str, name of the file without its suffix.
        authors: slugs of the names of the authors.
    """
    words = re.split(r"[_\-\s.,]+", _PREFIX.sub("", stem.lower()))
    words = [word for word in words if word]
    while len(words) > 1 and re.fullmatch(r"\d+[a-z]?", words[-1]):
        words.pop()
    words = _without_author(words, authors)
    clean_words = []
    for word in words:
        word = re.sub(r"^\d+(?=[a-z]{3})|(?<=[a-z]{3})\d+$", "", word)
        if re.search(r"\d.*[a-z].*\d", word) or _HEXADECIMAL.match(word):
            continue
        clean_words.append(_SPELLED_OUT.get(word, word))
    while clean_words and (clean_words[-1].isdigit() or clean_words[-1] in _NOISE):
        clean_words.pop()
    return " ".join(clean_words)


def _without_author(words: list[str], authors: Collection[str]) -> list[str]:
    # File names are truncated at a fixed length, so the author's name may be
    # incomplete. Any ending that is the beginning of an author's name is removed.
    for start in range(1, len(words)):
        ending = "_".join(words[start:])
        is_name = any(
            author.startswith(ending) or f"{ending}_".startswith(f"{author}_")
            for author in authors
        )
        if is_name or words[start].rstrip("0123456789") in _HANDLES:
            return words[:start]
    return words


def _clean_title(title: str, authors: Collection[str]) -> str:
    title = _BLACK_AND_WHITE.sub("black and white", _CREDIT.sub("", title))
    title = title.removesuffix(".svg")
    title = _HEXADECIMAL.sub("", _LINK.sub("", title))
    if "_" in title or (title.islower() and re.search(r"\d", title)):
        return clean_file_name(title, authors)
    title = re.sub(r"[\s_]*#?\d+$", "", re.sub(r"[()\[\]]", " ", title))
    title = " ".join(title.split()).strip(" -.,:;")
    words = title.split()
    for start in range(1, len(words)):
        if _slug(" ".join(words[start:])) in authors:
            title = " ".join(words[:start])
            break
    slug = _slug(title)
    noise = slug in authors or slug.replace("_", " ") in _NOISE
    return "" if noise else title


def _clean_description(description: str) -> str:
    description = _LINK.sub("", description)
    description = _BLACK_AND_WHITE.sub("black and white", description)
    description = " ".join(description.split()).strip(" -,:;")
    if len(description) > MAX_DESCRIPTION:
        description = re.split(r"(?<=[.!?])\s", description, maxsplit=1)[0]
    return description if len(description) <= MAX_DESCRIPTION else ""


def _clean_keywords(keywords: Iterable[str], authors: Collection[str]) -> str:
    clean_keywords: dict[str, None] = {}
    for keyword in keywords:
        words = " ".join(re.split(r"[_\-\s]+", keyword.lower())).strip(" .,;")
        words = _SPELLED_OUT.get(words, words)
        slug = _slug(words)
        if len(words) < 2 or words in _NOISE or slug in authors or slug in _HANDLES:
            continue
        if not re.search(r"[^\W\d]{2}", words) or _HEXADECIMAL.search(words):
            continue
        clean_keywords.setdefault(words, None)
    return ", ".join(clean_keywords)


def _slug(text: str) -> str:
    """Returns a text in lower-case ASCII with underscores between the words."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


def _folded(caption: str) -> str:
    """Returns a caption in the form that is used to compare captions."""
    return " ".join(caption.casefold().split()).strip(" .")
