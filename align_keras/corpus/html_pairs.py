"""Pictures and the texts beside them, out of one web page."""

import codecs
import dataclasses
import re
from urllib.parse import urldefrag, urljoin, urlsplit

from align_keras.corpus.captions import clean_caption
from align_keras.utils.extras import needs

RULES = ("alt", "title", "figcaption")
_SCHEMES = ("http", "https", "data", "file")
# Where scripts that load pictures late keep the address.
_LATE = ("data-src", "data-original", "data-lazy-src")
_LATE_SETS = ("data-srcset", "data-lazy-srcset")
# A candidate of a srcset: an address, which may hold commas but doesn't end in one,
# and what it is for.
_CANDIDATE = re.compile(r"[\s,]*(\S*[^\s,])(?:\s+([^,]*))?(?:,|$)")
_META_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""", re.I
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclasses.dataclass(frozen=True)
class WebPair:
    """A picture's address and one text about it.

    Attributes:
        image_url: str, absolute; `data:` addresses hold the picture itself.
        caption: str, cleaned as `clean_caption`, not empty.
        rule: str, one of `RULES`: where the caption stood.
        language: str, the nearest `lang` in lower case, such as `"en-us"`; "" where
            the page has none.
        page_url: str, the page.
    """

    image_url: str
    caption: str
    rule: str
    language: str
    page_url: str


def extract_pairs(html, base_url):
    """Yields the pictures of a page with their texts, in the page's order.

    A picture's texts are the `alt` and the `title` of its `img`, and the
    `figcaption` of the figure around it; each is a pair of its own, unless it repeats
    one of the picture's. Of the addresses in `src`, `srcset` and the `source`
    elements of a `picture`, the largest counts. Pages with errors are read as a
    browser reads them.

    Args:
        html: str, or bytes in the encoding that the page names, else UTF-8, else
            Windows-1252.
        base_url: str, the page's address; relative ones are against it, or against
            the page's own `base`.

    Yields:
        `WebPair`.

    Raises:
        InputError: if selectolax isn't installed.

    References:
        Jia et al. 2021, section 3: alt-texts of pictures; Sharma et al. 2018,
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
    seen = set()
    for image in tree.css("img"):
        image_url = _picture_url(image, address or base_url)
        if image_url is None:
            continue
        for rule, caption in _captions(image):
            if (image_url, caption) not in seen:
                seen.add((image_url, caption))
                yield WebPair(image_url, caption, rule, _language(image), base_url)


def decode_html(content, charset=None):
    """Decodes a page.

    Args:
        content: bytes.
        charset: str or None, as the HTTP header names it.

    Returns:
        str. The order is the HTML standard's: a byte order mark, the header, the
        page's own `meta`; else UTF-8, or Windows-1252 where it isn't valid UTF-8.

    Example:

    >>> decode_html(b'<meta charset="iso-8859-2"><p>\\xe8')[-1]
    'č'
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace")
    meta = _META_CHARSET.search(content[:4096])
    for name in (charset, meta[1].decode() if meta else None):
        try:
            codec = codecs.lookup(name) if name else None
        except LookupError:
            continue
        # A page whose `meta` could be read isn't in UTF-16, whatever it says; as the
        # standard has it, Latin-1 means Windows-1252.
        if codec is not None and not codec.name.startswith("utf-16"):
            known = {"iso8859-1": "cp1252", "ascii": "cp1252"}
            return content.decode(known.get(codec.name, codec.name), "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _captions(image):
    """Yields (rule, caption) of an `img`, those that say something."""
    found = [("alt", image.attributes.get("alt"))]
    found.append(("title", image.attributes.get("title")))
    figure = _ancestor(image, "figure")
    if figure is not None:
        caption = figure.css_first("figcaption")
        if caption is not None:
            found.append(("figcaption", caption.text(separator=" ")))
    for rule, text in found:
        caption = clean_caption(text or "")
        if caption:
            yield rule, caption


def _picture_url(image, base_url):
    """Returns the absolute address of the largest version of an `img`, or None."""
    attributes = image.attributes
    sets = [attributes.get(name) for name in ("srcset", *_LATE_SETS)]
    picture = image.parent
    if picture is not None and picture.tag == "picture":
        sources = picture.css("source")
        sets += [own.attributes.get("srcset") for own in sources]
        sets += [own.attributes.get("data-srcset") for own in sources]
    versions = [version for own in sets if own for version in parse_srcset(own)]
    plain = [attributes.get(name) for name in ("src", *_LATE)]
    # What stands in `src` is a placeholder where the page has another address.
    plain.sort(key=lambda own: (own or "data:").strip().startswith("data:"))
    versions += [(own, 1.0) for own in plain if own]
    # The first of equals: `sorted` is stable.
    for address, _ in sorted(versions, key=lambda own: -own[1]):
        url = _joined(base_url, address)
        if url is not None:
            return url
    return None


def parse_srcset(srcset):
    """Returns the candidates of a `srcset`, a list of (address, size).

    Sizes are widths in pixels or densities, whichever the page gives, and 1 where it
    gives none.

    Example:

    >>> parse_srcset("a.jpg 320w, b.jpg 640w")
    [('a.jpg', 320.0), ('b.jpg', 640.0)]
    >>> parse_srcset("a.jpg, data:image/gif;base64,AA== 2x")
    [('a.jpg', 1.0), ('data:image/gif;base64,AA==', 2.0)]
    """
    found = []
    for address, size in _CANDIDATE.findall(srcset):
        number = re.match(r"\s*([\d.]+)[wx]", size)
        try:
            found.append((address, float(number[1]) if number else 1.0))
        except ValueError:
            found.append((address, 1.0))
    return found


def _joined(base_url, address):
    """Returns an absolute address, or None where there is none to fetch."""
    # As browsers do: line breaks and tabs inside mean nothing.
    address = re.sub(r"[\t\n\r]", "", address or "").strip()
    if not address:
        return None
    try:
        url = address if address[:5].lower() == "data:" else urljoin(base_url, address)
        if urlsplit(url).scheme.lower() not in _SCHEMES:
            return None
    except ValueError:  # Such as a broken IPv6 host.
        return None
    return urldefrag(url).url.replace(" ", "%20")


def _language(node):
    while node is not None:
        language = (node.attributes or {}).get("lang")
        if language is not None:
            return language.strip().lower()
        node = node.parent
    return ""


def _ancestor(node, tag):
    node = node.parent
    while node is not None and node.tag != tag:
        node = node.parent
    return node
