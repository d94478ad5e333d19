"""Sources of the kind `wat`: metadata of web pages from Common Crawl.

The metadata has the addresses and texts of the images of a page. It also has the HTTP
headers and `meta` elements, in which a page can opt out.
"""

import html
import json
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.opt_out import HONOR_OPT_OUT, OPTED_OUT, header_opts_out
from align_keras.corpus.sources.location import is_from_web
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.source_files import MAX_WAT_BYTES, whole_files
from align_keras.corpus.sources.warc_records import parsed_records
from align_keras.utils.errors import InputError

_IMAGE_ATTRIBUTES = ("src", "alt", "title")
# Errors that JSON of an unexpected structure raises.
_STRUCTURE_ERRORS = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    RecursionError,
)


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of the pages in a file. The images are remote."""
    honor_opt_out = HONOR_OPT_OUT in part.options
    for offset, record in parsed_records(part.path, counter, MAX_WAT_BYTES):
        try:
            yield from _pairs(record, counter, honor_opt_out)
        except InputError:
            raise
        except _STRUCTURE_ERRORS as error:
            detail = f"byte {offset}: {type(error).__name__} {error}"
            counter.drop("broken record", part.path, detail)


def _pairs(record: Any, counter: DropCounter, honor_opt_out: bool) -> list[SourcePair]:
    if record.rec_type != "metadata":
        return []
    envelope = json.loads(record.raw_stream.read())["Envelope"]
    response = _nested_value(envelope, "Payload-Metadata", "HTTP-Response-Metadata")
    page = _nested_value(response, "HTML-Metadata")
    address = envelope["WARC-Header-Metadata"].get("WARC-Target-URI", "")
    images = [
        link for link in page.get("Links") or () if link.get("path") == "IMG@/src"
    ]
    if not images:
        return []
    # The metadata is converted to a page, so that `extract_pairs` applies its rules.
    head = _nested_value(page, "Head")
    base = head.get("Base")
    lines = [f'<base href="{html.escape(base)}">'] if base else []
    lines += [
        f"<meta{_attributes(meta, ('name', 'content'))}>"
        for meta in head.get("Metas") or ()
    ]
    lines += [
        f"<img{_attributes({**image, 'src': image.get('url')}, _IMAGE_ATTRIBUTES)}>"
        for image in images
    ]
    web_pairs = extract_pairs(
        "\n".join(lines), address, counter, honor_opt_out=honor_opt_out
    )
    pairs = [SourcePair(*pair) for pair in web_pairs if is_from_web(pair.image_url)]
    if honor_opt_out and _opts_out(_nested_value(response, "Headers")):
        for pair in pairs:
            counter.filter(OPTED_OUT, address, pair.image[:200])
        return []
    return pairs


def _opts_out(headers: dict[str, Any]) -> bool:
    """Returns True if a header `X-Robots-Tag` opts out. A header may have a list."""
    for name, value in headers.items():
        if name.lower() == "x-robots-tag":
            values = value if isinstance(value, list) else [value]
            if any(header_opts_out(value) for value in values):
                return True
    return False


def _nested_value(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns `content[names[0]][names[1]]…`, or {} if a key is missing."""
    for name in names:
        content = content.get(name) or {}
    return content


def _attributes(values: dict[str, str | None], names: tuple[str, ...]) -> str:
    """Returns HTML attributes with the values that are not missing."""
    return "".join(
        f' {name}="{html.escape(text)}"'
        for name in names
        if (text := values.get(name)) is not None
    )


WAT_FILES = SourceKind(
    suffixes=(".wat", ".wat.gz"),
    list_parts=whole_files,
    read=_read_part,
)
