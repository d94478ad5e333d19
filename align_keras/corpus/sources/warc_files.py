"""Sources of the kind `warc`: the web pages of web archives.

If the archive also has the image of a page, it is read from the archive. All other
images are remote.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.page_process import read_page
from align_keras.corpus.sources.location import is_from_web, member_location
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.source_files import whole_files
from align_keras.corpus.sources.warc_records import (
    parse_record,
    parsed_records,
    read_warc_record,
    response_body,
)
from align_keras.utils.errors import InputError

_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w-]+)", re.I)
# Characters with a special meaning in an address, which are not escaped. Archives
# escape characters beyond ASCII.
_SPECIAL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of the pages of an archive."""
    # The whole archive is indexed first, since an image may follow its page.
    page_offsets, image_offsets = _index(part.path, counter)
    for offset in page_offsets:
        yield from _read_page(part.path, offset, image_offsets, counter)


def _index(path: str, counter: DropCounter) -> tuple[list[int], dict[str, int]]:
    """Returns the offsets of the pages, and a dict from image address to offset."""
    page_offsets: list[int] = []
    image_offsets: dict[str, int] = {}
    for offset, record in parsed_records(path, counter):
        media_type = _media_type(record)
        if media_type in _PAGE_TYPES:
            page_offsets.append(offset)
        elif media_type.startswith("image/"):
            image_offsets.setdefault(_escape(_address(record)), offset)
    return page_offsets, image_offsets


def _read_page(
    path: str, offset: int, image_offsets: dict[str, int], counter: DropCounter
) -> Iterator[SourcePair]:
    """Yields the pairs of the page whose record begins at `offset`."""
    position = f"byte {offset}"
    try:
        record = parse_record(read_warc_record(path, offset).content or b"")
        content = response_body(record)
        match = _CHARSET.search(record.http_headers.get_header("content-type"))
        charset = match[1] if match else None
        pairs = read_page(content, _address(record), counter, charset)
    except (InputError, OSError):
        raise
    except Exception as error:  # An error in one page must not stop the build.
        counter.drop("malformed page", path, f"{position}: {error}")
        return
    for web_pair in pairs:
        if not is_from_web(web_pair.image_url):
            counter.drop("missing", path, f"{position}: {web_pair.image_url[:200]}")
            continue
        image_offset = image_offsets.get(_escape(web_pair.image_url))
        pair = SourcePair(*web_pair)
        if image_offset is not None:
            pair = pair._replace(image=member_location("warc", [image_offset], path))
        yield pair


def _media_type(record: Any) -> str:
    """Returns the media type of a successful response, or "" for other records."""
    headers = record.http_headers
    if record.rec_type != "response" or headers is None:
        return ""
    if headers.get_statuscode() != "200":
        return ""
    content_type = headers.get_header("content-type") or ""
    return content_type.partition(";")[0].strip().lower()


def _address(record: Any) -> str:
    # Old versions of wget write angle brackets around the address.
    return (record.rec_headers.get_header("WARC-Target-URI") or "").strip("<>")


def _escape(url: str) -> str:
    return quote(url, safe=_SPECIAL_CHARACTERS)


WARC_FILES = SourceKind(
    suffixes=(".warc", ".warc.gz"),
    list_parts=whole_files,
    read=_read_part,
)
