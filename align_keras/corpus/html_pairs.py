"""Extraction of image-caption pairs from a web page."""

import codecs
import collections
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urljoin, urlsplit

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.opt_out import OPTED_OUT, has_opt_out
from align_keras.utils.errors import needs

_SCHEMES = ("http", "https", "data", "file")
# Attributes with the address of an image that a script loads lazily.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")
_LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
# Parts of a `figcaption` that do not belong to the caption. `DropCounter.cleaned`
# counts the captions by these names.
_PERMALINK, _BUTTON = "a permalink", "a button"
_FOOTNOTE, _HIDDEN = "a footnote mark", "a text for screen readers"
# CSS class → name of the part that elements of this class contain.
_CLASSES_OF_PARTS = {
    **dict.fromkeys(("headerlink", "permalink", "hash-link"), _PERMALINK),
    **dict.fromkeys(("header-anchor", "heading-anchor", "anchor-link"), _PERMALINK),
    **dict.fromkeys(("copybtn", "magnify", "mw-editsection"), _BUTTON),
    **dict.fromkeys(("sr-only", "visually-hidden", "visuallyhidden"), _HIDDEN),
    **dict.fromkeys(("screen-reader-text", "show-for-sr"), _HIDDEN),
}
# Text of a permalink, which consists of symbols.
_PERMALINK_TEXT = re.compile(r"[\s¶#§⚓∞↩↑🔗\u200b\ufe0e\ufe0f]*")
# Elements that MediaWiki, WordPress and other systems use instead of a `figcaption`.
_CAPTIONS = "div.caption, .thumbcaption, p.wp-caption-text"
_INVISIBLE = {"script", "style", "template", "noscript"}
# Elements inside a line. The start of any other element separates words.
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font"}
_INLINE |= {"i", "ins", "kbd", "mark", "q", "s", "samp", "small", "span", "strong"}
_INLINE |= {"sub", "sup", "time", "tt", "u", "var", "wbr", "-text"}
# Levels of links and `picture` elements around the `img` next to a `noscript`.
_MAX_WRAPPERS = 4
# Matches a candidate of a `srcset`: an address, and a descriptor unless the address
# ends with a comma.
_CANDIDATE = re.compile(r"([^\s,]\S*)(?:(?<!,)\s+([^,]*))?")
# Characters. Only `data:` addresses need to be longer.
_MAX_ADDRESS = 16_384
# Characters.
_MAX_FIGCAPTION = 100_000
_MAX_CANDIDATES = 100
_META_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""", re.I
)
# Allowed encodings, which all encode the ASCII characters in the same way. Some other
# encodings of Python take hours for a page.
_CHARSETS = re.compile(
    "utf-8|iso8859-[0-9]+|cp125[0-8]|koi8-[ru]|mac-(roman|cyrillic)|cp866|cp874|tis-620"
    "|gb2312|gbk|gb18030|hz|big5|big5hkscs|cp950|euc_jp|shift_jis|cp932|iso2022_jp"
    "|euc_kr|cp949|johab"
)
# The HTML standard decodes these encodings as Windows-1252.
_WINDOWS_1252 = ("iso8859-1", "ascii")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class WebPair(NamedTuple):
    """Image and caption of a web page.

    Attributes:
        image_url: absolute address of the image.
        caption: cleaned caption.
        rule: part of the page with the caption: "alt", "title" or "figcaption".
        language: value of the nearest `lang` attribute in lower case, or "".
        page_url: address of the page.
    """

    image_url: str
    caption: str
    rule: str
    language: str
    page_url: str


def extract_pairs(
    html: str,
    base_url: str,
    counter: DropCounter | None = None,
    *,
    honor_opt_out: bool = True,
    any_caption: bool = False,
) -> Iterator[WebPair]:
    """Yields the image-caption pairs of a page, in the order of the page.

    An image has up to three captions:

    - the `alt` attribute of its `img`,
    - the `title` attribute of its `img`,
    - the `figcaption` of the `figure` around it. Without a `figure`, this is an element
      `div.caption`, `.thumbcaption` or `p.wp-caption-text` whose parent has no other
      image.

    Each caption makes a pair, unless the image has the same caption already.
    Permalinks, buttons, footnote marks and texts for screen readers are cut from a
    `figcaption`. Captions that only name a file or have more than 2,000 characters are
    dropped. Addresses of more than 16,384 characters are ignored.

    The address of an image is the address of its largest version in `srcset`, `src` and
    the `source` elements of a `picture`. If the image has addresses for lazy loading,
    they are used instead.

    A page with `<meta name="robots" content="noai">` has no pairs. The directives
    `noimageai`, `noindex` and `noimageindex` have the same effect. The counter counts
    the pairs as "opted out".

    Pages with errors are parsed as in a browser, which can take minutes and gigabytes.
    `page_process.read_page` limits both.

    Args:
        html: page. Bytes are decoded by `decode_html`.
        base_url: address of the page. Relative addresses refer to it, or to the `base`
            element of the page.
        counter: `DropCounter` for dropped and cleaned captions, or None.
        honor_opt_out: False to yield the pairs of pages that opt out as well.
        any_caption: True to yield each image once with the caption "", even if it has
            no usable caption.

    Raises:
        InputError: if selectolax is not installed.

    References:
        Jia et al. 2021, section 3, uses the alt-texts of images. Sharma et al. 2018,
        "Conceptual Captions", section 3, describes the extraction.

    Example:

    >>> page = '<html lang="en"><img src="/cat.jpg" alt="A cat &amp; a mat.">'
    >>> for pair in extract_pairs(page, "https://example.org/pets/"):
    ...     print(pair.rule, pair.caption, pair.image_url, pair.language)
    alt A cat & a mat. https://example.org/cat.jpg en
    """
    with needs("corpus", "Reading web pages needs selectolax"):
        from selectolax.lexbor import LexborHTMLParser
    text = decode_html(html) if isinstance(html, bytes) else html
    # The parser rejects unpaired surrogates.
    tree = LexborHTMLParser(text.encode("utf-8", "replace").decode())
    base = tree.css_first("base[href]")
    address = _absolute_url(base_url, base.attributes["href"]) if base else None
    counter = DropCounter() if counter is None else counter
    context_cache: dict = {}
    figure_cache: dict = {}
    is_opted_out = honor_opt_out and _page_opts_out(tree)
    seen_pairs = set()
    copies = _noscript_copies(tree, context_cache)
    captions = _captions_by_class(tree)
    for image in tree.css("img"):
        image_url = _image_url(image, address or base_url)
        if image_url is None or image.mem_id in copies:
            continue
        context = _node_context(image, context_cache)
        if any_caption:
            if (image_url, "") not in seen_pairs:
                seen_pairs.add((image_url, ""))
                yield WebPair(image_url, "", "alt", context.language, base_url)
            continue
        figure = context.figure or captions.get(image.mem_id)
        for rule, caption, removed_parts in _captions(image, figure, figure_cache):
            if (image_url, caption) in seen_pairs:
                continue
            seen_pairs.add((image_url, caption))
            if not is_usable(caption, counter, base_url, image_url):
                continue
            if is_opted_out:
                counter.filter(OPTED_OUT, base_url, image_url[:200])
                continue
            for part in removed_parts:
                counter.clean(part)
            yield WebPair(image_url, caption, rule, context.language, base_url)


def _page_opts_out(tree: Any) -> bool:
    """Returns True if a `<meta name="robots">` of a page opts out."""
    for meta in tree.css("meta[name][content]"):
        name = meta.attributes["name"] or ""
        directives = meta.attributes["content"] or ""
        if name.strip().lower() == "robots" and has_opt_out(directives):
            return True
    return False


def decode_html(content: bytes, charset: str | None = None) -> str:
    """Decodes a page.

    The encoding comes from the first of these sources that has one: the byte order
    mark, `charset`, and the `meta` element. Otherwise it is UTF-8 if the page is valid
    UTF-8, or else Windows-1252.

    Args:
        content: bytes of the page.
        charset: encoding in the HTTP header, or None.
    """
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
    """Returns Python's name of an encoding, or None if it is not allowed."""
    # UTF-16 is not allowed, since a page in UTF-16 has no `meta` that can be read as
    # ASCII.
    try:
        codec = codecs.lookup(name[:40]).name
    except (LookupError, ValueError):
        return None
    if codec in _WINDOWS_1252:
        return "cp1252"
    return codec if _CHARSETS.fullmatch(codec) else None


class _NodeContext(NamedTuple):
    """Nearest `figure`, nearest `noscript` and language of a node."""

    figure: Any = None
    noscript: Any = None
    language: str = ""


def _node_context(node: Any, cache: dict[int, _NodeContext]) -> _NodeContext:
    """Returns the context of a node from the node and its ancestors."""
    path = []
    while node is not None and node.mem_id not in cache:
        path.append(node)
        node = node.parent
    context = _NodeContext() if node is None else cache[node.mem_id]
    for node in reversed(path):
        if node.tag in ("figure", "noscript"):
            context = context._replace(**{node.tag: node})
        language = (node.attributes or {}).get("lang")
        if language is not None:
            context = context._replace(language=language.strip().lower()[:64])
        cache[node.mem_id] = context
    return context


def _captions(
    image: Any, figure: Any, figure_cache: dict[int, tuple[str, list[str]]]
) -> list[tuple[str, str, Sequence[str]]]:
    """Returns tuples (rule, caption, removed parts) for an `img`."""
    captions: list[tuple[str, str, Sequence[str]]] = []
    for rule in ("alt", "title"):
        text = image.attributes.get(rule) or ""
        captions.append((rule, clean_caption(text), ()))
    if figure is not None:
        if figure.mem_id not in figure_cache:
            caption = figure
            if figure.tag == "figure":
                caption = figure.css_first("figcaption")
            figure_cache[figure.mem_id] = _visible_text(caption)
        captions.append(("figcaption", *figure_cache[figure.mem_id]))
    return [pair for pair in captions if pair[1]]


def _captions_by_class(tree: Any) -> dict[int, Any]:
    """Maps the ids of images outside of figures to the nodes of their captions."""
    caption_of_image: dict[int, Any] = {}
    captions = tree.css(_CAPTIONS)
    caption_counts = collections.Counter(node.parent.mem_id for node in captions)
    for caption in captions:
        # If a parent has several captions, the caption of each image is unknown.
        if caption_counts[caption.parent.mem_id] > 1:
            continue
        images = [node.mem_id for node in caption.parent.css("img")]
        # Images within a caption are icons, such as a magnifier.
        icons = {node.mem_id for node in caption.css("img")}
        images = [node for node in images if node not in icons]
        if len(images) == 1:
            caption_of_image.setdefault(images[0], caption)
    return caption_of_image


def _visible_text(node: Any) -> tuple[str, list[str]]:
    """Returns the visible text of an element and the names of its removed parts."""
    words, removed_parts, stack = [], set(), [] if node is None else [node]
    size = 0
    while stack and size < _MAX_FIGCAPTION:
        node = stack.pop()
        if node.is_text_node:
            words.append((node.text_content or "")[:_MAX_FIGCAPTION])
            size += len(words[-1])
            continue
        if node.tag in _INVISIBLE or node.is_comment_node:
            continue
        part = _foreign_part(node)
        if part:
            removed_parts.add(part)
            continue
        if node.tag not in _INLINE:
            words.append(" ")
        stack += reversed(list(node.iter(include_text=True)))
    return clean_caption("".join(words)), sorted(removed_parts)


def _foreign_part(node: Any) -> str | None:
    """Returns the kind of an element that does not belong to a caption, or None."""
    attributes = {name: value or "" for name, value in node.attributes.items()}
    role = attributes.get("role", "")
    for name in attributes.get("class", "").split():
        if name in _CLASSES_OF_PARTS:
            return _CLASSES_OF_PARTS[name]
    if node.tag == "button" or role == "button":
        return _BUTTON
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return _HIDDEN
    if role == "doc-noteref" or (
        node.tag == "sup" and "reference" in attributes.get("class", "").split()
    ):
        return _FOOTNOTE
    if node.tag == "a" and attributes.get("href", "").startswith("#"):
        return _PERMALINK if _PERMALINK_TEXT.fullmatch(node.text()) else None
    return None


def _noscript_copies(tree: Any, context_cache: dict[int, _NodeContext]) -> set[int]:
    """Returns the ids of the redundant images in or next to `noscript` elements."""
    # Pages with lazy loading repeat an image in a `noscript` for browsers without
    # scripts. If the image next to the `noscript` has an address for lazy loading, the
    # image in the `noscript` is redundant. Otherwise the image next to it is a
    # redundant placeholder.
    copies, last_id = set(), None
    for copy in tree.css("noscript img"):
        noscript = _node_context(copy, context_cache).noscript
        if (
            noscript.mem_id == last_id
        ):  # Only the first image of a `noscript` can be a copy.
            continue
        last_id = noscript.mem_id
        neighbors = (
            _neighbor_image(noscript, "prev"),
            _neighbor_image(noscript, "next"),
        )
        for neighbor in neighbors:
            alt = None if neighbor is None else neighbor.attributes.get("alt")
            if neighbor is not None and alt == copy.attributes.get("alt"):
                is_lazy = any(
                    neighbor.attributes.get(name) for name in (*_LAZY, *_LAZY_SETS)
                )
                copies.add((copy if is_lazy else neighbor).mem_id)
                break
    return copies


def _neighbor_image(node: Any, direction: str) -> Any:
    """Returns the `img` that is or begins the previous or next element, or None."""
    node = getattr(node, direction)
    while node is not None and not node.is_element_node:
        node = getattr(node, direction)
    for _ in range(_MAX_WRAPPERS):
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
    # If the image has an address for lazy loading, `src` is the address of a
    # placeholder.
    attributes_by_priority = ((_LAZY, _LAZY_SETS), (("src",), ("srcset",)))
    for plain_attributes, set_attributes in attributes_by_priority:
        addresses = [
            node.attributes.get(name) for node in nodes for name in set_attributes
        ]
        versions = [
            version
            for srcset in addresses
            if srcset
            for version in parse_srcset(srcset)
        ]
        versions = versions[:_MAX_CANDIDATES]
        addresses = [image.attributes.get(name) for name in plain_attributes]
        versions += [(address, 1.0) for address in addresses if address]
        # `sorted` is stable, so the first of several largest versions is used.
        for address, _ in sorted(versions, key=lambda version: -version[1]):
            url = _absolute_url(base_url, address)
            if url is not None:
                return url
    return None


def parse_srcset(srcset: str) -> list[tuple[str, float]]:
    """Parses a `srcset` attribute.

    Returns:
        list of tuples (address, size). The size is a width in pixels or a density, and
        1.0 by default.
    """
    candidates = []
    for match in itertools.islice(_CANDIDATE.finditer(srcset), _MAX_CANDIDATES):
        address, descriptor = match.groups("")
        number = re.match(r"(\d+\.?\d*|\.\d+)[wx]", descriptor)
        candidates.append((address.rstrip(","), float(number[1]) if number else 1.0))
    return candidates


def _absolute_url(base_url: str, address: str | None) -> str | None:
    """Returns an absolute address, or None if the address cannot be read."""
    # Browsers also ignore line breaks and tabs inside an address.
    address = re.sub(r"[\t\n\r]", "", address or "").strip()
    is_data = address[:5].lower() == "data:"
    if not address or len(address) > _MAX_ADDRESS and not is_data:
        return None
    try:
        url = address if is_data else urljoin(base_url, address)
        if urlsplit(url).scheme.lower() not in _SCHEMES:
            return None
    except ValueError:  # The address is invalid, for example because of its IPv6 host.
        return None
    return urldefrag(url).url.replace(" ", "%20")
