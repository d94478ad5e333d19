"""Kind `warc`: web archives; images are read from the same file, or stay remote."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.page_process import read_page
from align_keras.corpus.sources.files import whole_files
from align_keras.corpus.sources.location import is_from_web, member_location
from align_keras.corpus.sources.pair import Part, SourcePair
from align_keras.corpus.sources.warc_records import (
    parse_record,
    parsed_records,
    read_record,
    response_body,
)
from align_keras.utils.errors import InputError

SUFFIXES = (".warc", ".warc.gz")
list_parts = whole_files
_PAGES = ("text/html", "application/xhtml+xml")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w-]+)", re.I)
# All that has a meaning in an address; letters beyond ASCII are escaped in archives.
_MEANT = "%/:=&?~#+!$,;'@()*[]"


def read(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of an archive's pages; first all records are indexed."""
    pages, images = _index(part.path, counter)
    for offset in pages:
        yield from _read_page(part.path, offset, images, counter)


def _index(path, counter):
    """Returns the offsets of pages, and those of images by their address."""
    pages, images = [], {}
    for offset, record in parsed_records(path, counter):
        kind = _kind(record)
        if kind in _PAGES:
            pages.append(offset)
        elif kind.startswith("image/"):
            images.setdefault(_key(_address(record)), offset)
    return pages, images


def _read_page(path, offset, images, counter):
    place = f"byte {offset}"
    try:
        record = parse_record(read_record(path, offset).content)
        content = response_body(record)
        charset = _CHARSET.search(record.http_headers.get_header("content-type"))
        charset = charset[1] if charset else None
        pairs = read_page(content, _address(record), counter, charset)
    except (InputError, OSError):
        raise
    except Exception as error:  # Nothing in one page may stop the others.
        counter.drop("malformed page", path, f"{place}: {error}")
        return
    for pair in pairs:
        if not is_from_web(pair.image_url):
            counter.drop("missing", path, f"{place}: {pair.image_url[:200]}")
            continue
        found = images.get(_key(pair.image_url))
        pair = SourcePair(*pair)
        if found is not None:
            pair = pair._replace(image=member_location("warc", [found], path))
        yield pair


def _kind(record):
    """The media type of a response that succeeded, "" of any other record."""
    headers = record.http_headers
    if record.rec_type != "response" or headers is None:
        return ""
    if headers.get_statuscode() != "200":
        return ""
    kind = headers.get_header("content-type") or ""
    return kind.partition(";")[0].strip().lower()


def _address(record):
    # Old versions of wget put it in angle brackets.
    return (record.rec_headers.get_header("WARC-Target-URI") or "").strip("<>")


def _key(url):
    return quote(url, safe=_MEANT)
