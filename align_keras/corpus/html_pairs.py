"""Images and the texts beside them, out of one web page."""

import codecs
import collections
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urljoin, urlsplit

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import needs

_SCHEMES = ("http", "https", "data", "file")
# Attributes that hold the address of images which scripts load late.
_LATE = ("data-src", "data-original", "data-lazy-src", "data-lazy")
_LATE_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
# Classes of elements in a `figcaption` that do not belong to the caption.
_PERMALINK, _BUTTON = "a permalink", "a button"
_FOOTNOTE, _HIDDEN = "a footnote mark", "a text for screen readers"
_HELPERS = {
    **dict.fromkeys(("headerlink", "permalink", "hash-link"), _PERMALINK),
    **dict.fromkeys(("header-anchor", "heading-anchor", "anchor-link"), _PERMALINK),
    **dict.fromkeys(("copybtn", "magnify", "mw-editsection"), _BUTTON),
    **dict.fromkeys(("sr-only", "visually-hidden", "visuallyhidden"), _HIDDEN),
    **dict.fromkeys(("screen-reader-text", "show-for-sr"), _HIDDEN),
}
# Texts of links into the same page that are no words.
_MARKS = re.compile(r"[\s¶#§⚓∞↩↑🔗\u200b\ufe0e\ufe0f]*")
# Elements that MediaWiki, WordPress and others use instead of a `figcaption`.
_CAPTIONS = "div.caption, .thumbcaption, p.wp-caption-text"
_UNSEEN = {"script", "style", "template", "noscript"}
# All other elements part words.
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font"}
_INLINE |= {"i", "ins", "kbd", "mark", "q", "s", "samp", "small", "span", "strong"}
_INLINE |= {"sub", "sup", "time", "tt", "u", "var", "wbr", "-text"}
# Levels of links and `picture` elements around the `img` next to a `noscript`.
_WRAPPERS = 4
# A candidate of a srcset: an address, and what it is for, unless a comma comes before.
_CANDIDATE = re.compile(r"([^\s,]\S*)(?:(?<!,)\s+([^,]*))?")
# Characters. No page needs longer addresses, apart from those with `data:`.
_MAX_ADDRESS = 16_384
_MAX_FIGCAPTION = 100_000
_MAX_CANDIDATES = 100
_META_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""", re.I
)
# Encodings of pages that keep ASCII; others that Python knows take hours for a page.
_CHARSETS = re.compile(
    "utf-8|iso8859-[0-9]+|cp125[0-8]|koi8-[ru]|mac-(roman|cyrillic)|cp866|cp874|tis-620"
    "|gb2312|gbk|gb18030|hz|big5|big5hkscs|cp950|euc_jp|shift_jis|cp932|iso2022_jp"
    "|euc_kr|cp949|johab"
)
# The HTML standard reads Latin-1 as Windows-1252.
_AS_WINDOWS = ("iso8859-1", "ascii")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class WebPair(NamedTuple):
    """An image's absolute address, a cleaned caption, and where that stood."""

    image_url: str
    caption: str
    rule: str
    language: str
    page_url: str


def extract_pairs(
    html: str, base_url: str, counter: DropCounter | None = None
) -> Iterator[WebPair]:
    """Yields the images of a page with their texts, in the page's order.

    An image's texts are the `alt` and the `title` of its `img`, and the `figcaption` of
    the figure around it, or `div.caption`, `.thumbcaption` or `p.wp-caption-text`
    beside the one image; each is a pair, unless it repeats one of the image's. Left out
    are names of files, captions of more than 2,000 characters and addresses of more
    than 16,384; permalinks, buttons, footnote marks and texts for screen readers are
    cut from a `figcaption`. Of the addresses in `srcset`, a `picture`'s `source`
    elements and `src`, or of those that scripts load late, the largest counts. Pages
    with errors are read as a browser reads them, which can take minutes and gigabytes:
    `page_process.read_page` has limits.

    Args:
        html: str, or bytes in the encoding that the page names, else UTF-8, else
            Windows-1252.
        base_url: str, the page's address; relative ones are against it, or against
            the page's own `base`.
        counter: `DropCounter` or None, counts what was left out and cleaned.

    Yields:
        `WebPair`.

    Raises:
        InputError: if selectolax isn't installed.

    References:
        Jia et al. 2021, section 3: alt-texts of images; Sharma et al. 2018,
        "Conceptual Captions", section 3.

    Example:

    >>> page = '<html lang="en"><img src="/cat.jpg" alt="A cat &amp; a mat.">'
    >>> for pair in extract_pairs(page, "https://example.org/pets/"):
    ...     print(pair.rule, pair.caption, pair.image_url, pair.language)
    alt A cat & a mat. https://example.org/cat.jpg en
    """
    with needs("corpus", "web pages are read by selectolax"):
        from selectolax.lexbor import LexborHTMLParser
    text = decode_html(html) if isinstance(html, bytes) else html
    # Halves of surrogate pairs, which no page can hold.
    tree = LexborHTMLParser(text.encode("utf-8", "replace").decode())
    base = tree.css_first("base[href]")
    address = _joined(base_url, base.attributes["href"]) if base else None
    counter = DropCounter() if counter is None else counter
    surroundings: dict = {}
    figures: dict = {}
    seen = set()
    copies = _noscript_copies(tree, surroundings)
    captions = _captions_by_class(tree)
    for image in tree.css("img"):
        image_url = _image_url(image, address or base_url)
        if image_url is None or image.mem_id in copies:
            continue
        around = _surroundings(image, surroundings)
        figure = around.figure or captions.get(image.mem_id)
        for rule, caption, cut in _captions(image, figure, figures):
            if (image_url, caption) in seen:
                continue
            seen.add((image_url, caption))
            if is_usable(caption, counter, base_url, image_url):
                for kind in cut:
                    counter.clean(kind)
                yield WebPair(image_url, caption, rule, around.language, base_url)


def decode_html(content: bytes, charset: str | None = None) -> str:
    """Decodes a page by byte order mark, header (`charset`), `meta`, UTF-8, cp1252."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    meta = _META_CHARSET.search(content[:4096])
    for name in (charset, meta[1].decode() if meta else None):
        codec = _codec(name or "")
        if codec is not None:
            return content.decode(codec, "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _codec(name: str) -> str | None:
    """Python's name of a page's charset, or None. UTF-16 has no readable `meta`."""
    try:
        codec = codecs.lookup(name[:40]).name
    except (LookupError, ValueError):
        return None
    if codec in _AS_WINDOWS:
        return "cp1252"
    return codec if _CHARSETS.fullmatch(codec) else None


class _Surroundings(NamedTuple):
    """Nearest figure, nearest `noscript`, and language of a node."""

    figure: Any = None
    noscript: Any = None
    language: str = ""


def _surroundings(node: Any, cache: dict[int, _Surroundings]) -> _Surroundings:
    """The `_Surroundings` of a node, itself included; `known` is a cache."""
    path = []
    while node is not None and node.mem_id not in cache:
        path.append(node)
        node = node.parent
    around = _Surroundings() if node is None else cache[node.mem_id]
    for node in reversed(path):
        if node.tag in ("figure", "noscript"):
            around = around._replace(**{node.tag: node})
        language = (node.attributes or {}).get("lang")
        if language is not None:
            around = around._replace(language=language.strip().lower()[:64])
        cache[node.mem_id] = around
    return around


def _captions(
    image: Any, figure: Any, figures: dict[int, tuple[str, list[str]]]
) -> list[tuple[str, str, Sequence[str]]]:
    """Returns (rule, caption, what was cut) of an `img`; `figures` is a cache."""
    captions: list[tuple[str, str, Sequence[str]]] = []
    for rule in ("alt", "title"):
        text = image.attributes.get(rule) or ""
        captions.append((rule, clean_caption(text), ()))
    if figure is not None:
        if figure.mem_id not in figures:
            caption = figure
            if figure.tag == "figure":
                caption = figure.css_first("figcaption")
            figures[figure.mem_id] = _seen_text(caption)
        captions.append(("figcaption", *figures[figure.mem_id]))
    return [pair for pair in captions if pair[1]]


def _captions_by_class(tree: Any) -> dict[int, Any]:
    """Returns captions that aren't in a figure, by the image beside each."""
    caption_of_image: dict[int, Any] = {}
    captions = tree.css(_CAPTIONS)
    beside = collections.Counter(node.parent.mem_id for node in captions)
    for caption in captions:
        # The page does not relate captions to images.
        if beside[caption.parent.mem_id] > 1:
            continue
        images = [node.mem_id for node in caption.parent.css("img")]
        within = {node.mem_id for node in caption.css("img")}  # Such as a magnifier.
        images = [node for node in images if node not in within]
        if len(images) == 1:
            caption_of_image.setdefault(images[0], caption)
    return caption_of_image


def _seen_text(node: Any) -> tuple[str, list[str]]:
    """Returns the text of an element that a reader sees, cleaned, and what was cut."""
    words, cut, waiting = [], set(), [] if node is None else [node]
    size = 0
    while waiting and size < _MAX_FIGCAPTION:
        node = waiting.pop()
        if node.is_text_node:
            words.append((node.text_content or "")[:_MAX_FIGCAPTION])
            size += len(words[-1])
            continue
        if node.tag in _UNSEEN or node.is_comment_node:
            continue
        kind = _helper(node)
        if kind:
            cut.add(kind)
            continue
        if node.tag not in _INLINE:
            words.append(" ")
        waiting += reversed(list(node.iter(include_text=True)))
    return clean_caption("".join(words)), sorted(cut)


def _helper(node: Any) -> str | None:
    """Names what an element is, if it isn't part of a caption."""
    attributes = {name: value or "" for name, value in node.attributes.items()}
    role = attributes.get("role", "")
    for name in attributes.get("class", "").split():
        if name in _HELPERS:
            return _HELPERS[name]
    if node.tag == "button" or role == "button":
        return _BUTTON
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return _HIDDEN
    if role == "doc-noteref" or (
        node.tag == "sup" and "reference" in attributes.get("class", "").split()
    ):
        return _FOOTNOTE
    if node.tag == "a" and attributes.get("href", "").startswith("#"):
        return _PERMALINK if _MARKS.fullmatch(node.text()) else None
    return None


def _noscript_copies(tree: Any, surroundings: dict[int, _Surroundings]) -> set[int]:
    """Returns the nodes of images that another `img` shows with or without scripts."""
    copies, last = set(), None
    for copy in tree.css("noscript img"):
        noscript = _surroundings(copy, surroundings).noscript
        if noscript.mem_id == last:  # Only its first image is such a copy.
            continue
        last = noscript.mem_id
        for beside in (_beside(noscript, "prev"), _beside(noscript, "next")):
            alt = None if beside is None else beside.attributes.get("alt")
            if beside is not None and alt == copy.attributes.get("alt"):
                late = any(
                    beside.attributes.get(name) for name in (*_LATE, *_LATE_SETS)
                )
                copies.add((copy if late else beside).mem_id)
                break
    return copies


def _beside(node: Any, direction: str) -> Any:
    """Returns the `img` that is or begins the element before or after another."""
    node = getattr(node, direction)
    while node is not None and not node.is_element_node:
        node = getattr(node, direction)
    for _ in range(_WRAPPERS):
        if node is None or node.tag in ("img", "noscript"):
            break
        node = node.first_child
        while node is not None and (not node.is_element_node or node.tag == "source"):
            node = node.next
    return node if node is not None and node.tag == "img" else None


def _image_url(image: Any, base_url: str) -> str | None:
    """Returns the absolute address of the largest version of an `img`, or None."""
    nodes = [image]
    if image.parent is not None and image.parent.tag == "picture":
        nodes += image.parent.css("source")
    # If the page has another address, `src` is the one of a placeholder.
    for plain, sets in ((_LATE, _LATE_SETS), (("src",), ("srcset",))):
        addresses = [node.attributes.get(name) for node in nodes for name in sets]
        versions = [
            version
            for srcset in addresses
            if srcset
            for version in parse_srcset(srcset)
        ]
        versions = versions[:_MAX_CANDIDATES]
        addresses = [image.attributes.get(name) for name in plain]
        versions += [(address, 1.0) for address in addresses if address]
        # The first of equals: `sorted` is stable.
        for address, _ in sorted(versions, key=lambda version: -version[1]):
            url = _joined(base_url, address)
            if url is not None:
                return url
    return None


def parse_srcset(srcset: str) -> list[tuple[str, float]]:
    """Returns (address, size in pixels or as a density, 1 by default) of a `srcset`."""
    candidates = []
    for match in itertools.islice(_CANDIDATE.finditer(srcset), _MAX_CANDIDATES):
        address, descriptor = match.groups("")
        number = re.match(r"(\d+\.?\d*|\.\d+)[wx]", descriptor)
        candidates.append((address.rstrip(","), float(number[1]) if number else 1.0))
    return candidates


def _joined(base_url: str, address: str | None) -> str | None:
    """Returns an absolute address, or None where there is none to fetch."""
    # Browsers ignore line breaks and tabs inside an address, too.
    address = re.sub(r"[\t\n\r]", "", address or "").strip()
    holds_image = address[:5].lower() == "data:"
    if not address or len(address) > _MAX_ADDRESS and not holds_image:
        return None
    try:
        url = address if holds_image else urljoin(base_url, address)
        if urlsplit(url).scheme.lower() not in _SCHEMES:
            return None
    except ValueError:  # Such as a broken IPv6 host.
        return None
    return urldefrag(url).url.replace(" ", "%20")
