"""One caption's text, cleaned or refused."""

import re
import unicodedata
from urllib.parse import unquote, urlsplit

from align_keras.corpus.drop_counter import DropCounter

MAX_CAPTION_LENGTH = 2000
# Reason that counts a caption for which `names_file` is true.
FILE_NAME = "caption is a file name or an address"

# Characters. Most file systems allow no longer names.
_MAX_FILE_NAME = 255
_IMAGE_SUFFIX = re.compile(
    r"\.(?:apng|avif|bmp|eps|gif|heic|heif|ico|jfif|jpe?g|jxl|pdf|png|psd|svgz?|tiff?"
    r"|webp|xcf)(?:[?#]\S*)?$",
    re.I,
)
# Matches the start of a caption without white space that is an address or a path.
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://|www\.|data:[a-z]+/|[a-z]:\\|\.{1,2}/|~?/{1,2}\w", re.I
)
# MediaWiki's, whose names of files have spaces.
_WIKI_FILE = re.compile(r"(?:file|image):", re.I)
# Matches file names that cameras and programs write, which are no words.
_MACHINE_NAME = re.compile(r"(?=[\w.-]*$)\w*?(?:_|\d{4})")
# Matches the marks that MediaWiki, WordPress, Hugo and webpack add to the file names of
# reduced or fingerprinted copies.
_COPY_MARKS = re.compile(
    r"^\d+px-|-\d+x\d+$|-scaled$|_hu[0-9a-f_]{8,}.*$|[-._][0-9a-f]{8,64}$"
)

# Control characters and halves of surrogate pairs, which no UTF-8 file holds.
_UNPRINTABLE = {"Cc", "Cs"}


def clean_caption(text: str) -> str:
    """Collapses control characters and runs of white space to one space."""
    if not text.isprintable():
        text = "".join(
            " " if unicodedata.category(letter) in _UNPRINTABLE else letter
            for letter in text
        )
    return " ".join(text.split())


def is_usable(
    caption: str, counter: DropCounter, where: str, image_url: str | None = None
) -> bool:
    """Tells whether a cleaned caption can be used, or counts why not."""
    if not caption:
        counter.drop("empty caption", where)
    elif len(caption) > MAX_CAPTION_LENGTH:
        counter.drop("long caption", where, f"{len(caption):,} characters")
    elif image_url is not None and names_file(caption, image_url):
        counter.filter(FILE_NAME, where, caption[:200])
    else:
        return True
    return False


def names_file(caption: str, image_url: str = "") -> bool:
    """Tells whether a caption only names a file, as page generators write.

    A caption is a name if it is an address, a path, or an image's file name in one
    word; if it is the image's file name, of several words too; or that without its
    ending, where it has an underscore or four digits, as cameras write.
    """
    ending = _IMAGE_SUFFIX.search(caption)
    if " " not in caption:
        if ending or _ADDRESS.match(caption):
            return True
        if not _MACHINE_NAME.match(caption):
            return False
    elif not ending:
        return False
    elif _WIKI_FILE.match(caption):
        return True
    stem = caption[: ending.start()] if ending else caption
    return _folded(stem) in _file_stems(image_url)


def _file_stems(image_url: str) -> set[str]:
    """Returns a file name as it can be meant: whole, and as the original's."""
    if image_url[:5].lower() == "data:":
        return set()
    try:
        path = urlsplit(image_url).path
    except ValueError:  # Such as a broken IPv6 host.
        return set()
    name = unquote(path.rpartition("/")[2])[:_MAX_FILE_NAME]
    stem = _IMAGE_SUFFIX.sub("", name)
    return {_folded(stem), _folded(_COPY_MARKS.sub("", stem))}


def _folded(name: str) -> str:
    return re.sub(r"[\s_+-]+", "_", name.casefold())
