"""Kind `warc`: web archives; images are read from the same file, or stay remote."""

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

_PAGES = ("text/html", "application/xhtml+xml")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w-]+)", re.I)
# All that has a meaning in an address; letters beyond ASCII are escaped in archives.
_MEANT = "%/:=&?~#+!$,;'@()*[]"


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of an archive's pages; first all records are indexed."""
    pages, images = _index(part.path, counter)
    for offset in pages:
        yield from _read_page(part.path, offset, images, counter)


def _index(path: str, counter: DropCounter) -> tuple[list[int], dict[str, int]]:
    """Returns the offsets of pages, and those of images by their address."""
    pages: list[int] = []
    images: dict[str, int] = {}
    for offset, record in parsed_records(path, counter):
        kind = _kind(record)
        if kind in _PAGES:
            pages.append(offset)
        elif kind.startswith("image/"):
            images.setdefault(_key(_address(record)), offset)
    return pages, images


def _read_page(
    path: str, offset: int, images: dict[str, int], counter: DropCounter
) -> Iterator[SourcePair]:
    position = f"byte {offset}"
    try:
        record = parse_record(read_warc_record(path, offset).content or b"")
        content = response_body(record)
        match = _CHARSET.search(record.http_headers.get_header("content-type"))
        charset = match[1] if match else None
        pairs = read_page(content, _address(record), counter, charset)
    except (InputError, OSError):
        raise
    except Exception as error:  # Nothing in one page may stop the others.
        counter.drop("malformed page", path, f"{position}: {error}")
        return
    for web_pair in pairs:
        if not is_from_web(web_pair.image_url):
            counter.drop("missing", path, f"{position}: {web_pair.image_url[:200]}")
            continue
        image_offset = images.get(_key(web_pair.image_url))
        pair = SourcePair(*web_pair)
        if image_offset is not None:
            pair = pair._replace(image=member_location("warc", [image_offset], path))
        yield pair


def _kind(record: Any) -> str:
    """The media type of a response that succeeded, "" of any other record."""
    headers = record.http_headers
    if record.rec_type != "response" or headers is None:
        return ""
    if headers.get_statuscode() != "200":
        return ""
    kind = headers.get_header("content-type") or ""
    return kind.partition(";")[0].strip().lower()


def _address(record: Any) -> str:
    # Old versions of wget put it in angle brackets.
    return (record.rec_headers.get_header("WARC-Target-URI") or "").strip("<>")


def _key(url: str) -> str:
    return quote(url, safe=_MEANT)


WARC_FILES = SourceKind(
    suffixes=(".warc", ".warc.gz"),
    list_parts=whole_files,
    read=_read_part,
)
