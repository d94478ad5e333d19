"""Cleaning of captions, and detection of unusable captions."""

import re
import unicodedata
from urllib.parse import unquote, urlsplit

from align_keras.corpus.drop_counter import DropCounter

# Characters.
MAX_CAPTION_LENGTH = 2000
# Drop reason of a caption for which `names_file` returns True.
FILE_NAME = "caption is a file name or an address"

# Characters. The longest file name that most file systems allow.
_MAX_FILE_NAME = 255
_IMAGE_SUFFIX = re.compile(
    r"\.(?:apng|avif|bmp|eps|gif|heic|heif|ico|jfif|jpe?g|jxl|pdf|png|psd|svgz?|tiff?"
    r"|webp|xcf)(?:[?#]\S*)?$",
    re.I,
)
# Start of a caption without white space that is an address or a path.
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://|www\.|data:[a-z]+/|[a-z]:\\|\.{1,2}/|~?/{1,2}\w", re.I
)
# Prefix of a file name in MediaWiki. These names can contain spaces.
_WIKI_FILE = re.compile(r"(?:file|image):", re.I)
# File name from a camera or a program, such as "IMG_0001". It is not a word.
_MACHINE_NAME = re.compile(r"(?=[\w.-]*$)\w*?(?:_|\d{4})")
# Prefixes and suffixes that MediaWiki, WordPress, Hugo and webpack add to the file
# names of reduced or fingerprinted copies.
_COPY_MARKS = re.compile(
    r"^\d+px-|-\d+x\d+$|-scaled$|_hu[0-9a-f_]{8,}.*$|[-._][0-9a-f]{8,64}$"
)

# Unicode categories of control characters and of surrogates. UTF-8 cannot encode a
# surrogate.
_UNPRINTABLE = {"Cc", "Cs"}


def clean_caption(text: str) -> str:
    """Replaces control characters and runs of white space with single spaces."""
    if not text.isprintable():
        text = "".join(
            " " if unicodedata.category(letter) in _UNPRINTABLE else letter
            for letter in text
        )
    return " ".join(text.split())


def is_usable(
    caption: str, counter: DropCounter, position: str, image_url: str | None = None
) -> bool:
    """Returns True if a cleaned caption can be used. Otherwise counts the reason.

    Args:
        caption: result of `clean_caption`.
        counter: counts the drop reason.
        position: position of the caption for the example of the drop reason.
        image_url: address of the image, or None to accept captions that only name a
            file.
    """
    if not caption:
        counter.drop("empty caption", position)
    elif len(caption) > MAX_CAPTION_LENGTH:
        counter.drop("long caption", position, f"{len(caption):,} characters")
    elif image_url is not None and names_file(caption, image_url):
        counter.filter(FILE_NAME, position, caption[:200])
    else:
        return True
    return False


def names_file(caption: str, image_url: str = "") -> bool:
    """Returns True if a caption only names a file.

    Page generators write such captions. The following captions name a file:

    - an address, a path or the file name of any image, without white space,
    - a MediaWiki file name such as "File:A cat.jpg",
    - the file name of the image at `image_url`, which may have white space,
    - that file name without its suffix, if it has an underscore or four digits, as in
      the names that cameras write.
    """
    suffix = _IMAGE_SUFFIX.search(caption)
    if " " not in caption:
        if suffix or _ADDRESS.match(caption):
            return True
        if not _MACHINE_NAME.match(caption):
            return False
    elif not suffix:
        return False
    elif _WIKI_FILE.match(caption):
        return True
    stem = caption[: suffix.start()] if suffix else caption
    return _normalize_name(stem) in _file_stems(image_url)


def _file_stems(image_url: str) -> set[str]:
    """Returns the normalized stem of a file name, with and without copy marks."""
    # The stems of "IMG_0001-300x200.jpg" are "img_0001_300x200" and "img_0001".
    if image_url[:5].lower() == "data:":
        return set()
    try:
        path = urlsplit(image_url).path
    except ValueError:  # The address is invalid, for example because of its IPv6 host.
        return set()
    name = unquote(path.rpartition("/")[2])[:_MAX_FILE_NAME]
    stem = _IMAGE_SUFFIX.sub("", name)
    return {_normalize_name(stem), _normalize_name(_COPY_MARKS.sub("", stem))}


def _normalize_name(name: str) -> str:
    return re.sub(r"[\s_+-]+", "_", name.casefold())
