"""Sources of the kind `wat`: metadata of web pages from Common Crawl.

The metadata has the addresses and texts of the images of a page.
"""

import html
import json
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.sources.location import is_from_web
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.source_files import MAX_WAT_BYTES, whole_files
from align_keras.corpus.sources.warc_records import parsed_records
from align_keras.utils.errors import InputError

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
    for offset, record in parsed_records(part.path, counter, MAX_WAT_BYTES):
        try:
            yield from _pairs(record, counter)
        except InputError:
            raise
        except _STRUCTURE_ERRORS as error:
            detail = f"byte {offset}: {type(error).__name__} {error}"
            counter.drop("broken record", part.path, detail)


def _pairs(record: Any, counter: DropCounter) -> list[SourcePair]:
    if record.rec_type != "metadata":
        return []
    envelope = json.loads(record.raw_stream.read())["Envelope"]
    page = _nested_value(envelope, "Payload-Metadata", "HTTP-Response-Metadata")
    page = _nested_value(page, "HTML-Metadata")
    address = envelope["WARC-Header-Metadata"].get("WARC-Target-URI", "")
    images = [
        link for link in page.get("Links") or () if link.get("path") == "IMG@/src"
    ]
    if not images:
        return []
    # The metadata is converted to a page, so that `extract_pairs` applies its rules.
    base = _nested_value(page, "Head").get("Base")
    lines = [f'<base href="{html.escape(base)}">'] if base else []
    lines += [f"<img{_attributes(image)}>" for image in images]
    pairs = extract_pairs("\n".join(lines), address, counter)
    return [SourcePair(*pair) for pair in pairs if is_from_web(pair.image_url)]


def _nested_value(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns `content[names[0]][names[1]]…`, or {} if a key is missing."""
    for name in names:
        content = content.get(name) or {}
    return content


def _attributes(image: dict[str, Any]) -> str:
    """Returns the HTML attributes of an `img` element."""
    attributes = [("src", image.get("url"))]
    attributes += [(name, image.get(name)) for name in ("alt", "title")]
    return "".join(
        f' {name}="{html.escape(text)}"'
        for name, text in attributes
        if text is not None
    )


WAT_FILES = SourceKind(
    suffixes=(".wat", ".wat.gz"),
    list_parts=whole_files,
    read=_read_part,
)
