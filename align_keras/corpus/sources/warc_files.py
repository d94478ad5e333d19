"""Sources of the kind `warc`: the web pages of web archives.

If the archive also has the image of a page, it is read from the archive. All other
images are remote. Pages and images can opt out in their HTTP headers.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.opt_out import (
    HONOR_OPT_OUT,
    OPTED_OUT,
    header_opts_out,
)
from align_keras.corpus.page_process import read_page
from align_keras.corpus.sources.location import is_from_web, member_location
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
)
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


@dataclasses.dataclass(frozen=True)
class _Index:
    """Positions of the pages and images of an archive.

    Attributes:
        page_offsets: offsets of the pages.
        image_offsets: escaped address of an image → offset of its record.
        opted_out_images: escaped addresses of the images with a record that opts out.
    """

    page_offsets: list[int]
    image_offsets: dict[str, int]
    opted_out_images: set[str]


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of the pages of an archive."""
    honor_opt_out = HONOR_OPT_OUT in part.options
    # The whole archive is indexed first, since an image may follow its page.
    index = _read_index(part.path, counter, honor_opt_out)
    for offset in index.page_offsets:
        yield from _read_page(
            part.path,
            offset,
            index,
            counter,
            honor_opt_out,
            any_caption=EVALUATION in part.options,
        )


def _read_index(path: str, counter: DropCounter, honor_opt_out: bool) -> _Index:
    index = _Index([], {}, set())
    for offset, record in parsed_records(path, counter):
        media_type = _media_type(record)
        if media_type in _PAGE_TYPES:
            index.page_offsets.append(offset)
        elif media_type.startswith("image/"):
            address = _escape(_address(record))
            index.image_offsets.setdefault(address, offset)
            if honor_opt_out and _opts_out(record):
                index.opted_out_images.add(address)
    return index


def _read_page(
    path: str,
    offset: int,
    index: _Index,
    counter: DropCounter,
    honor_opt_out: bool,
    *,
    any_caption: bool,
) -> Iterator[SourcePair]:
    """Yields the pairs of the page whose record begins at `offset`."""
    position = f"byte {offset}"
    try:
        record = parse_record(read_warc_record(path, offset).content or b"")
        content = response_body(record)
        match = _CHARSET.search(record.http_headers.get_header("content-type"))
        charset = match[1] if match else None
        page_opts_out = honor_opt_out and _opts_out(record)
        pairs = read_page(
            content,
            _address(record),
            counter,
            charset,
            honor_opt_out=honor_opt_out,
            any_caption=any_caption,
        )
    except (InputError, OSError):
        raise
    except Exception as error:  # An error in one page must not stop the build.
        counter.drop("malformed page", path, f"{position}: {error}")
        return
    for web_pair in pairs:
        image_address = _escape(web_pair.image_url)
        if page_opts_out or image_address in index.opted_out_images:
            counter.filter(OPTED_OUT, path, f"{position}: {web_pair.image_url[:200]}")
            continue
        if not is_from_web(web_pair.image_url):
            counter.drop("missing", path, f"{position}: {web_pair.image_url[:200]}")
            continue
        image_offset = index.image_offsets.get(image_address)
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


def _opts_out(record: Any) -> bool:
    """Returns True if an HTTP header `X-Robots-Tag` of a response opts out."""
    return any(
        header_opts_out(value)
        for name, value in record.http_headers.headers
        if name.lower() == "x-robots-tag"
    )


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
